//! GGUF, the files of llama.cpp: models of this crate are exported to them, and
//! they are imported as Hugging Face folders.
//!
//! Reference: the format's description in ggml (docs/gguf.md), version 3. Sizes of
//! tensors stand in the reverse of our order: the innermost first.

mod blocks;
mod export;
mod families;
mod import;
mod read;
mod write;

pub use blocks::GgufType;
pub use export::{GgufExport, export_gguf};
pub use import::{GgufImport, open_gguf};

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// A whole number of 32 bits, not negative.
    U32(u32),
    /// A whole number of 32 bits.
    I32(i32),
    /// A number.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Whole numbers.
    I32s(Vec<i32>),
    /// Numbers.
    F32s(Vec<f32>),
}

impl GgufValue {
    /// The text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, where it is whole and not negative.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::U32(n) => usize::try_from(*n).ok(),
            Self::I32(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The number, where it is one.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::U32(n) => Some(f64::from(*n)),
            Self::I32(n) => Some(f64::from(*n)),
            Self::F32(n) => Some(f64::from(*n)),
            _ => None,
        }
    }
}

/// First bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";

/// Tensors begin at multiples of this many bytes unless `general.alignment` says
/// otherwise.
const ALIGNMENT: u64 = 32;

/// Numbers of the types of metadata.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}
