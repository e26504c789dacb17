//! Holds the benches of this workspace; there is no library code.
