//! One safetensors file: header checked against the file's length, tensors read
//! one at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{ModelError, Result};

/// Longest header that is read, in bytes (the limit of the reference
/// implementation).
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file.
pub(crate) struct WeightFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    tensors: HashMap<String, TensorInfo>,
}

impl WeightFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let damaged = |message: String| ModelError::Damaged {
            path: path.to_path_buf(),
            message,
        };
        let mut file = File::open(path).map_err(ModelError::io(path))?;
        let length = file.metadata().map_err(ModelError::io(path))?.len();
        if length < 8 {
            return Err(damaged(format!("not a safetensors file: {length} bytes")));
        }
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(ModelError::io(path))?;
        let header_len = u64::from_le_bytes(size);
        if header_len > MAX_HEADER || header_len > length - 8 {
            return Err(damaged(format!(
                "not a safetensors file, or cut off: the header claims {header_len} bytes of {length}"
            )));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(ModelError::io(path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| damaged(format!("the safetensors header is damaged: {e}")))?;
        let expected = 8 + header_len + metadata.data_len() as u64;
        if expected != length {
            return Err(damaged(format!(
                "the file has {length} bytes, its header describes {expected}; it was not written or \
                 copied to its end"
            )));
        }
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        Ok(Self {
            path: path.to_path_buf(),
            file,
            data_start: 8 + header_len,
            tensors,
        })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// Values of a tensor as `f32`.
    pub(crate) fn read_f32(&mut self, name: &str) -> Result<Vec<f32>> {
        let damaged = |message: String| ModelError::Damaged {
            path: self.path.clone(),
            message,
        };
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| damaged(format!("no tensor named {name}")))?;
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(ModelError::io(&self.path))?;
        let (words, _) = bytes.as_chunks::<2>();
        match info.dtype {
            Dtype::F32 => Ok(bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect()),
            Dtype::BF16 => Ok(words
                .iter()
                .map(|&b| half::bf16::from_le_bytes(b).to_f32())
                .collect()),
            Dtype::F16 => Ok(words
                .iter()
                .map(|&b| half::f16::from_le_bytes(b).to_f32())
                .collect()),
            other => Err(damaged(format!(
                "tensor {name} is stored as {other:?}; supported: F32, BF16, F16"
            ))),
        }
    }
}
