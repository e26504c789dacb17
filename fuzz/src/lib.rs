//! Holds the fuzz targets of this workspace, in `tests/fuzz.rs`; there is no
//! library code.
