//! The header of a safetensors file: parsed, and checked against the length of
//! the file before anything is allocated by a number in it.
//!
//! Layout: the length of the header (8 bytes, little-endian), the header (JSON:
//! name to `dtype`, `shape`, `data_offsets`), the tensors without gaps.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// Longest header that is read, in bytes (the limit of the reference
/// implementation).
const MAX_HEADER: u64 = 100_000_000;

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// First byte and one past the last, behind the header.
    data_offsets: (u64, u64),
}

impl Entry {
    /// First byte behind the header.
    pub(super) fn start(&self) -> u64 {
        self.data_offsets.0
    }

    /// Elements; the header's check has found that they fit.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes by shape and type; nothing where the product overflows.
    fn bytes(&self) -> Option<u64> {
        let elements = self
            .shape
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul(*size))?;
        let bits = (elements as u64).checked_mul(self.dtype.bitsize() as u64)?;
        Some(bits.div_ceil(8))
    }
}

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: HashMap<String, Entry>,
    /// Where the tensors begin in the file.
    pub(super) data_start: u64,
}

impl Header {
    /// Reads the header of a file of `length` bytes; the error is a message.
    pub(super) fn read(file: &mut impl Read, length: u64) -> Result<Self, String> {
        let mut start = [0; 8];
        if length < 8 {
            return Err(format!("not a safetensors file: {length} bytes"));
        }
        let io = |error: std::io::Error| format!("cannot be read: {error}");
        file.read_exact(&mut start).map_err(io)?;
        let header_length = u64::from_le_bytes(start);
        if header_length > MAX_HEADER || header_length > length - 8 {
            return Err(foreign(&start).unwrap_or_else(|| format!(
                "not a safetensors file, or cut off: the header claims {header_length} bytes of {length}"
            )));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(io)?;
        let Tensors(tensors) = serde_json::from_slice(&header).map_err(|error| {
            foreign(&start).unwrap_or_else(|| format!("the safetensors header is damaged: {error}"))
        })?;
        let data_start = 8 + header_length;
        check(&tensors, data_start, length)?;
        Ok(Self {
            tensors,
            data_start,
        })
    }
}

/// What a file is by its beginning, if it is none of safetensors. The length of a
/// header may look like another format's beginning.
fn foreign(start: &[u8; 8]) -> Option<String> {
    let pickle = "this is a PyTorch file, a Python pickle that can run programs when it is read, and \
                  not safetensors; pickles are never read. Load it in transformers and save it with \
                  save_pretrained, which writes safetensors";
    let message = match start {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => pickle,
        [b'G', b'G', b'U', b'F', ..] => "this is a GGUF file under another name",
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' '] => {
            "this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`, or \
             download it again"
        }
        _ => return None,
    };
    Some(message.to_owned())
}

/// Tensors lie one behind the other, without gaps, to the end of the file.
fn check(tensors: &HashMap<String, Entry>, data_start: u64, length: u64) -> Result<(), String> {
    let mut order: Vec<(&String, &Entry)> = tensors.iter().collect();
    order.sort_by_key(|(name, entry)| (entry.data_offsets, *name));
    let (mut end, mut before) = (0, "");
    for (name, entry) in order {
        let (from, to) = entry.data_offsets;
        let shape = &entry.shape;
        let Some(bytes) = entry.bytes() else {
            return Err(format!(
                "tensor {name}: the sizes of shape {shape:?} overflow"
            ));
        };
        if to < from || to - from != bytes {
            return Err(format!(
                "tensor {name}: {:?} of shape {shape:?} is {bytes} bytes, but its offsets are {from} \
                 to {to}",
                entry.dtype
            ));
        }
        if from < end {
            return Err(format!(
                "tensor {name} begins at byte {from}, inside of tensor {before}, which ends at {end}"
            ));
        }
        if from > end {
            return Err(format!(
                "tensor {name} begins at byte {from}, but the one before it ends at {end}"
            ));
        }
        (end, before) = (to, name);
    }
    let described = data_start.saturating_add(end);
    if described != length {
        return Err(format!(
            "the file has {length} bytes, its header describes {described}; it was not written or \
             copied to its end"
        ));
    }
    Ok(())
}

/// The header's object, in which no name may occur twice.
struct Tensors(HashMap<String, Entry>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Tensors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
                let mut tensors = HashMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let entry = map.next_value::<Entry>()?;
                    if tensors.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!(
                            "tensor {name} is described twice"
                        )));
                    }
                    tensors.insert(name, entry);
                }
                Ok(Tensors(tensors))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
