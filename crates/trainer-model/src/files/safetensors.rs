//! One safetensors file: tensors are read one at a time and written one at a
//! time, in pieces, so that beside the tensor itself nothing of its size is held.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::header::{Entry, Header};
use crate::error::{ModelError, Result};

/// Bytes that are converted at a time.
const PIECE: usize = 1 << 20;

/// An open safetensors file.
pub(crate) struct WeightFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    tensors: HashMap<String, Entry>,
}

impl WeightFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(ModelError::io(path))?;
        let length = file.metadata().map_err(ModelError::io(path))?.len();
        let header = Header::read(&mut file, length).map_err(|message| ModelError::Damaged {
            path: path.to_path_buf(),
            message,
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            data_start: header.data_start,
            tensors: header.tensors,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Values of a tensor as `f32`.
    pub(crate) fn read_f32(&mut self, name: &str) -> Result<Vec<f32>> {
        let damaged = |message: String| ModelError::Damaged {
            path: self.path.clone(),
            message,
        };
        let Some(entry) = self.tensors.get(name) else {
            return Err(damaged(format!("no tensor named {name}")));
        };
        let convert: fn(&[u8], &mut Vec<f32>) = match entry.dtype {
            Dtype::F32 => |bytes, out| {
                let numbers = bytes.as_chunks::<4>().0;
                out.extend(numbers.iter().map(|&b| f32::from_le_bytes(b)));
            },
            Dtype::BF16 => |bytes, out| {
                let numbers = bytes.as_chunks::<2>().0;
                out.extend(
                    numbers
                        .iter()
                        .map(|&b| half::bf16::from_le_bytes(b).to_f32()),
                );
            },
            Dtype::F16 => |bytes, out| {
                let numbers = bytes.as_chunks::<2>().0;
                out.extend(
                    numbers
                        .iter()
                        .map(|&b| half::f16::from_le_bytes(b).to_f32()),
                );
            },
            Dtype::F64 => |bytes, out| {
                let numbers = bytes.as_chunks::<8>().0;
                out.extend(numbers.iter().map(|&b| f64::from_le_bytes(b) as f32));
            },
            other => {
                return Err(damaged(format!(
                    "tensor {name} is stored as {other:?}; supported: F32, BF16, F16, F64. Weights \
                     that were quantized for inference cannot be trained: use the model they were \
                     made of"
                )));
            }
        };
        let elements = entry.elements();
        let mut values = Vec::with_capacity(elements);
        let mut left = elements * entry.dtype.bitsize() / 8;
        let mut piece = vec![0; left.min(PIECE)];
        let start = SeekFrom::Start(self.data_start + entry.start());
        self.file.seek(start).map_err(ModelError::io(&self.path))?;
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE)];
            self.file
                .read_exact(piece)
                .map_err(ModelError::io(&self.path))?;
            convert(piece, &mut values);
            left -= piece.len();
        }
        Ok(values)
    }
}

/// Number format of saved weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveDtype {
    /// As trained.
    F32,
    /// Half the size; rounded to nearest even.
    Bf16,
}

impl SaveDtype {
    /// As `config.json` names it.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn header_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    /// Bytes of a number.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Writes a safetensors file of tensors that come one after the other.
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    dtype: SaveDtype,
}

impl Writer {
    /// Begins a file of these tensors (name and shape), in this order.
    pub(super) fn create(
        path: &Path,
        tensors: &[(&str, &[usize])],
        dtype: SaveDtype,
    ) -> Result<Self> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut start = 0;
        for (name, shape) in tensors {
            let end = start + shape.iter().product::<usize>() * dtype.width();
            header.insert(
                (*name).to_owned(),
                json!({"dtype": dtype.header_name(), "shape": shape, "data_offsets": [start, end]}),
            );
            start = end;
        }
        let mut header = Value::Object(header).to_string();
        // Tensors begin at a multiple of 8 bytes, so that they can be mapped.
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let file = File::create(path).map_err(ModelError::io(path))?;
        let mut writer = Self {
            file: BufWriter::new(file),
            path: path.to_path_buf(),
            dtype,
        };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(header.as_bytes())?;
        Ok(writer)
    }

    /// The next tensor, or a piece of it.
    pub(super) fn append(&mut self, values: &[f32]) -> Result<()> {
        let mut bytes = Vec::new();
        for piece in values.chunks(PIECE / 4) {
            bytes.clear();
            match self.dtype {
                SaveDtype::F32 => bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes())),
                SaveDtype::Bf16 => bytes.extend(
                    piece
                        .iter()
                        .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()),
                ),
            }
            self.write(&bytes)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(ModelError::io(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(ModelError::io(&self.path))
    }
}
