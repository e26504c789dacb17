//! One safetensors file: tensors are read one at a time and written one at a
//! time, in pieces, so that beside the tensor itself nothing of its size is held.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::atomic::write_atomically;
use super::digest::{Digest, WrittenFile};
use super::header::{Entry, Header};
use super::large::LargeFile;
use crate::error::{ModelError, Result};
use crate::finite::not_finite;

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
    ///
    /// # Errors
    /// When the file cannot be read, or a number is not finite: nothing that is computed
    /// with it would be one.
    pub(crate) fn read_f32(&mut self, name: &str) -> Result<Vec<f32>> {
        let elements = self.tensors.get(name).map_or(0, Entry::elements);
        let mut values: Vec<f32> = Vec::with_capacity(elements);
        self.pieces(name, |piece| {
            values.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        match not_finite(&values) {
            Some(message) => Err(ModelError::Damaged {
                path: self.path.clone(),
                message: format!("tensor {name} {message}"),
            }),
            None => Ok(values),
        }
    }

    /// Gives the values of a tensor to `f` as `f32`, a piece at a time, until it has seen
    /// enough.
    pub(crate) fn pieces(
        &mut self,
        name: &str,
        mut f: impl FnMut(&[f32]) -> ControlFlow<()>,
    ) -> Result<()> {
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
        let mut left = entry.elements() * entry.dtype.bitsize() / 8;
        let mut piece = vec![0; left.min(PIECE)];
        let mut values = Vec::new();
        let start = SeekFrom::Start(self.data_start + entry.start());
        self.file.seek(start).map_err(ModelError::io(&self.path))?;
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE)];
            self.file
                .read_exact(piece)
                .map_err(ModelError::io(&self.path))?;
            values.clear();
            convert(piece, &mut values);
            left -= piece.len();
            if f(&values).is_break() {
                break;
            }
        }
        Ok(())
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

/// Metadata that transformers and PEFT ask of a file of weights.
pub(crate) const PYTORCH: (&str, &str) = ("format", "pt");

impl SaveDtype {
    /// As `config.json` names it.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    pub(super) fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
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

/// Writes a safetensors file of tensors in `f32` or `u8`; it is durable before it gets
/// its name. Wider numbers come first, so that all of them can be mapped; apart from
/// that the order is that of `tensors`.
///
/// # Errors
/// When a tensor has another number format; what the file system reports.
pub fn write_tensors(
    path: &Path,
    metadata: &[(&str, &str)],
    mut tensors: Vec<(String, &TensorData)>,
) -> Result<WrittenFile> {
    let dtype = |data: &TensorData| match data.dtype() {
        DType::F32 => Ok(Dtype::F32),
        DType::U8 => Ok(Dtype::U8),
        other => Err(ModelError::Io {
            path: path.to_path_buf(),
            source: std::io::Error::other(format!("{other:?} is not a format of saved tensors")),
        }),
    };
    tensors.sort_by_key(|(_, data)| Reverse(data.dtype().size()));
    let mut described = Vec::with_capacity(tensors.len());
    for (name, data) in &tensors {
        described.push((name.as_str(), dtype(data)?, &data.shape()[..]));
    }
    let digest = write_atomically(path, |temporary| {
        let mut writer = Writer::create(temporary, metadata, &described)?;
        for (_, data) in &tensors {
            match data.as_slice::<f32>() {
                Ok(values) => writer.append(values, SaveDtype::F32)?,
                Err(_) => writer.write(data.as_bytes())?,
            }
        }
        writer.finish()
    })?;
    Ok(WrittenFile::new(path, digest))
}

/// Writes a safetensors file of tensors that come one after the other.
pub(super) struct Writer {
    file: LargeFile,
    path: PathBuf,
}

impl Writer {
    /// Begins a file of these tensors (name, format and shape), in this order.
    pub(super) fn create(
        path: &Path,
        metadata: &[(&str, &str)],
        tensors: &[(&str, Dtype, &[usize])],
    ) -> Result<Self> {
        let mut header = Map::new();
        let metadata: Map<_, _> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        header.insert("__metadata__".into(), metadata.into());
        let mut start = 0;
        for (name, dtype, shape) in tensors {
            let end = start + shape.iter().product::<usize>() * dtype.bitsize() / 8;
            header.insert(
                (*name).to_owned(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
            );
            start = end;
        }
        let mut header = Value::Object(header).to_string();
        // Tensors begin at a multiple of 8 bytes, so that they can be mapped.
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let mut writer = Self {
            file: LargeFile::create(path).map_err(ModelError::io(path))?,
            path: path.to_path_buf(),
        };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(header.as_bytes())?;
        Ok(writer)
    }

    /// The next tensor, or a piece of it, in the format of the header.
    pub(super) fn append(&mut self, values: &[f32], dtype: SaveDtype) -> Result<()> {
        match dtype {
            SaveDtype::F32 => self.write(&little_endian(values)),
            SaveDtype::Bf16 => {
                let mut bytes = Vec::new();
                for piece in values.chunks(PIECE / 4) {
                    bytes.clear();
                    let rounded = piece.iter().map(|&x| half::bf16::from_f32(x));
                    bytes.extend(rounded.flat_map(|x| x.to_le_bytes()));
                    self.write(&bytes)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn finish(self) -> Result<Digest> {
        self.file.finish().map_err(ModelError::io(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes).map_err(ModelError::io(&self.path))
    }
}

/// Numbers as files hold them: where they lie, if this machine holds them so too.
fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    match cfg!(target_endian = "little") {
        true => Cow::Borrowed(bytemuck::cast_slice(values)),
        false => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
