//! Reads a GGUF file: metadata and descriptions of tensors, all checked against
//! the length of the file before anything is allocated by a number in it; tensors
//! one at a time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{ALIGNMENT, GgufType, GgufValue, MAGIC, kind};
use crate::error::{ModelError, Result};

/// Bytes that are decoded at a time, about.
const PIECE: usize = 1 << 20;

/// Most sizes of a tensor.
const MAX_DIMENSIONS: u32 = 4;

/// Longest name of a key or tensor.
const MAX_NAME: u64 = 1 << 16;

/// A tensor of the file.
#[derive(Debug, Clone)]
pub(super) struct Described {
    /// In our order, the outermost first.
    pub(super) shape: Vec<usize>,
    format: Result<GgufType, u32>,
    /// From the beginning of the tensors.
    offset: u64,
    bytes: u64,
}

/// An open GGUF file.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    pub(super) metadata: HashMap<String, GgufValue>,
    /// In the order of their names.
    pub(super) tensors: BTreeMap<String, Described>,
    data_start: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let length = file.metadata().map_err(ModelError::io(path))?.len();
        let mut parser = Parser {
            file: BufReader::new(file),
            left: length,
        };
        let parsed = parser.file(length);
        let (metadata, tensors, data_start) = parsed.map_err(|message| ModelError::Damaged {
            path: path.to_path_buf(),
            message,
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            file: parser.file,
            metadata,
            tensors,
            data_start,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn damaged(&self, message: String) -> ModelError {
        ModelError::Damaged {
            path: self.path.clone(),
            message,
        }
    }

    /// The numbers of a tensor.
    pub(super) fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(self.damaged(format!("there is no tensor {name}")));
        };
        let format = match tensor.format {
            Ok(format) => format,
            Err(code) => {
                return Err(self.damaged(format!(
                    "tensor {name} has number format {code} of ggml; supported: F32, F16, BF16, Q8_0, \
                     Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"
                )));
            }
        };
        let io = ModelError::io;
        let start = SeekFrom::Start(self.data_start + tensor.offset);
        self.file.seek(start).map_err(io(&self.path))?;
        let size = format.block().1;
        let mut piece = vec![0; (PIECE / size * size).min(tensor.bytes as usize)];
        let mut left = tensor.bytes as usize;
        let mut values = Vec::with_capacity(tensor.shape.iter().product());
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE / size * size)];
            self.file.read_exact(piece).map_err(io(&self.path))?;
            format.decode(piece, &mut values);
            left -= piece.len();
        }
        Ok(values)
    }
}

type Contents = (HashMap<String, GgufValue>, BTreeMap<String, Described>, u64);

/// Takes a file apart; errors are messages.
struct Parser {
    file: BufReader<File>,
    /// Bytes that are not read yet: nothing is allocated for more.
    left: u64,
}

impl Parser {
    fn file(&mut self, length: u64) -> Result<Contents, String> {
        if self.bytes::<4>()? != *MAGIC {
            return Err("not a GGUF file: it does not begin with the letters GGUF".to_owned());
        }
        let version = u32::from_le_bytes(self.bytes()?);
        if !(2..=3).contains(&version) {
            return Err(format!(
                "GGUF version {version} is not supported, only 2 and 3"
            ));
        }
        let tensor_count = u64::from_le_bytes(self.bytes()?);
        let key_count = u64::from_le_bytes(self.bytes()?);
        let mut metadata = HashMap::new();
        for _ in 0..key_count {
            let key = self.name("key")?;
            let kind = u32::from_le_bytes(self.bytes()?);
            let value = self
                .value(kind)
                .map_err(|what| format!("key {key}: {what}"))?;
            if metadata.contains_key(&key) {
                return Err(format!("key {key} is there twice"));
            }
            // Values of kinds that nothing here needs are passed over.
            if let Some(value) = value {
                metadata.insert(key, value);
            }
        }
        let alignment = match metadata.get("general.alignment").map(GgufValue::size) {
            None => ALIGNMENT,
            Some(Some(n)) if n.is_power_of_two() && (8..=1 << 16).contains(&n) => n as u64,
            Some(_) => return Err("general.alignment is no usable number".to_owned()),
        };
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = self.name("tensor")?;
            let tensor = self
                .tensor()
                .map_err(|what| format!("tensor {name}: {what}"))?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(format!("tensor {name} is described twice"));
            }
        }
        let data_start = (length - self.left).next_multiple_of(alignment);
        check(&tensors, length.saturating_sub(data_start), alignment)?;
        Ok((metadata, tensors, data_start))
    }

    fn tensor(&mut self) -> Result<Described, String> {
        let dimensions = u32::from_le_bytes(self.bytes()?);
        if dimensions > MAX_DIMENSIONS {
            return Err(format!(
                "{dimensions} dimensions, at most {MAX_DIMENSIONS} are possible"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = u64::from_le_bytes(self.bytes()?);
            shape.push(usize::try_from(size).map_err(|_| format!("a size of {size}"))?);
        }
        shape.reverse();
        let code = u32::from_le_bytes(self.bytes()?);
        let offset = u64::from_le_bytes(self.bytes()?);
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul(*size))
            .ok_or_else(|| format!("the sizes of shape {shape:?} overflow"))?;
        let format = GgufType::from_code(code).ok_or(code);
        let bytes = match format {
            // Of an unknown size: an error once it is read.
            Err(_) => 0,
            Ok(format) => {
                let (numbers, bytes) = format.block();
                let inner = shape.last().copied().unwrap_or(1);
                if inner % numbers != 0 {
                    return Err(format!(
                        "rows of {inner} numbers are no whole blocks of {format:?}, {numbers} each"
                    ));
                }
                let blocks = (elements / numbers) as u64;
                blocks
                    .checked_mul(bytes as u64)
                    .ok_or_else(|| format!("the sizes of shape {shape:?} overflow"))?
            }
        };
        Ok(Described {
            shape,
            format,
            offset,
            bytes,
        })
    }

    /// A value; nothing for lists of kinds that no metadata we read has.
    fn value(&mut self, kind: u32) -> Result<Option<GgufValue>, String> {
        let small = |n: i64| match (u32::try_from(n), i32::try_from(n)) {
            (Ok(n), _) => Some(GgufValue::U32(n)),
            (_, Ok(n)) => Some(GgufValue::I32(n)),
            _ => None,
        };
        Ok(match kind {
            kind::TEXT => Some(GgufValue::Text(self.text()?)),
            kind::ARRAY => self.list()?,
            kind::BOOL => match self.bytes()? {
                [0] => Some(GgufValue::Bool(false)),
                [1] => Some(GgufValue::Bool(true)),
                [other] => return Err(format!("{other} is neither true nor false")),
            },
            kind::F32 => Some(GgufValue::F32(f32::from_le_bytes(self.bytes()?))),
            kind::F64 => Some(GgufValue::F32(f64::from_le_bytes(self.bytes()?) as f32)),
            kind::U8 => small(i64::from(self.bytes::<1>()?[0])),
            kind::I8 => small(i64::from(i8::from_le_bytes(self.bytes()?))),
            kind::U16 => small(i64::from(u16::from_le_bytes(self.bytes()?))),
            kind::I16 => small(i64::from(i16::from_le_bytes(self.bytes()?))),
            kind::U32 => Some(GgufValue::U32(u32::from_le_bytes(self.bytes()?))),
            kind::I32 => Some(GgufValue::I32(i32::from_le_bytes(self.bytes()?))),
            kind::U64 => i64::try_from(u64::from_le_bytes(self.bytes()?))
                .ok()
                .and_then(small),
            kind::I64 => small(i64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("{other} is no type of GGUF")),
        })
    }

    fn list(&mut self) -> Result<Option<GgufValue>, String> {
        let kind = u32::from_le_bytes(self.bytes()?);
        let length = u64::from_le_bytes(self.bytes()?);
        let smallest = match kind {
            kind::U8 | kind::I8 | kind::BOOL => 1,
            kind::U16 | kind::I16 => 2,
            kind::U32 | kind::I32 | kind::F32 => 4,
            kind::U64 | kind::I64 | kind::F64 | kind::TEXT => 8,
            kind::ARRAY => return Err("lists of lists are not supported".to_owned()),
            other => return Err(format!("{other} is no type of GGUF")),
        };
        if length > self.left / smallest {
            return Err(format!(
                "a list of {length} in a file that has {} bytes left",
                self.left
            ));
        }
        Ok(match kind {
            kind::TEXT => {
                let texts = (0..length).map(|_| self.text());
                Some(GgufValue::Texts(texts.collect::<Result<_, _>>()?))
            }
            kind::I32 | kind::U32 => {
                let numbers = (0..length).map(|_| Ok(i32::from_le_bytes(self.bytes()?)));
                Some(GgufValue::I32s(numbers.collect::<Result<_, String>>()?))
            }
            kind::F32 => {
                let numbers = (0..length).map(|_| Ok(f32::from_le_bytes(self.bytes()?)));
                Some(GgufValue::F32s(numbers.collect::<Result<_, String>>()?))
            }
            _ => {
                self.skip(length * smallest)?;
                None
            }
        })
    }

    fn name(&mut self, what: &str) -> Result<String, String> {
        let length = u64::from_le_bytes(self.bytes()?);
        if length > MAX_NAME {
            return Err(format!("the name of a {what} claims {length} bytes"));
        }
        self.text_of(length)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = u64::from_le_bytes(self.bytes()?);
        self.text_of(length)
    }

    fn text_of(&mut self, length: u64) -> Result<String, String> {
        if length > self.left {
            return Err(format!(
                "a text claims {length} bytes in a file that has {} left",
                self.left
            ));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(unreadable)?;
        self.left -= length;
        String::from_utf8(bytes).map_err(|_| "a text is not UTF-8".to_owned())
    }

    fn skip(&mut self, length: u64) -> Result<(), String> {
        let mut rest = (&mut self.file).take(length);
        let passed = std::io::copy(&mut rest, &mut std::io::sink()).map_err(unreadable)?;
        self.left -= passed;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        if self.left < N as u64 {
            return Err("the file ends in its metadata; it was cut off".to_owned());
        }
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(unreadable)?;
        self.left -= N as u64;
        Ok(bytes)
    }
}

fn unreadable(error: std::io::Error) -> String {
    format!("cannot be read: {error}")
}

/// Tensors lie within the file, aligned and apart.
fn check(tensors: &BTreeMap<String, Described>, data: u64, alignment: u64) -> Result<(), String> {
    let mut order: Vec<(&String, &Described)> = tensors.iter().collect();
    order.sort_by_key(|(name, tensor)| (tensor.offset, *name));
    let (mut end, mut before) = (0, "");
    for (name, tensor) in order {
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor {name} begins at byte {}, which is no multiple of {alignment}",
                tensor.offset
            ));
        }
        if tensor.offset < end {
            return Err(format!(
                "tensor {name} begins at byte {}, inside of tensor {before}, which ends at {end}",
                tensor.offset
            ));
        }
        let to = tensor.offset.checked_add(tensor.bytes);
        end = match to {
            Some(to) if to <= data => to,
            _ => {
                return Err(format!(
                    "tensor {name} of {} bytes begins at byte {} of {data}; the file was not written \
                     or copied to its end",
                    tensor.bytes, tensor.offset
                ));
            }
        };
        before = name;
    }
    Ok(())
}
