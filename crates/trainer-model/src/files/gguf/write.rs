//! Writes a GGUF file: metadata, descriptions of the tensors, then the tensors one
//! after the other.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{ALIGNMENT, GgufType, GgufValue, MAGIC, kind};
use crate::error::{ModelError, Result};

/// Numbers that are encoded at a time, whole blocks of every format.
const PIECE: usize = 1 << 18;

/// A tensor to come.
pub(super) struct Planned {
    pub(super) name: String,
    /// In our order, the outermost first.
    pub(super) shape: Vec<usize>,
    pub(super) format: GgufType,
}

impl Planned {
    fn bytes(&self) -> u64 {
        let (numbers, bytes) = self.format.block();
        (self.shape.iter().product::<usize>() / numbers * bytes) as u64
    }
}

pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Writer {
    /// Begins a file of these tensors, in this order.
    pub(super) fn create(
        path: &Path,
        metadata: &[(String, GgufValue)],
        tensors: &[Planned],
    ) -> Result<Self> {
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(3_u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            text(key, &mut head);
            put(value, &mut head);
        }
        let mut offset = 0_u64;
        for tensor in tensors {
            text(&tensor.name, &mut head);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                head.extend((*size as u64).to_le_bytes());
            }
            head.extend(tensor.format.code().to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        let file = File::create(path).map_err(ModelError::io(path))?;
        let mut writer = Self {
            file: BufWriter::new(file),
            path: path.to_path_buf(),
        };
        writer.write(&head)?;
        Ok(writer)
    }

    /// The next tensor.
    pub(super) fn append(&mut self, values: &[f32], format: GgufType) -> Result<()> {
        let (mut bytes, mut written) = (Vec::new(), 0_u64);
        for piece in values.chunks(PIECE) {
            bytes.clear();
            format.encode(piece, &mut bytes);
            self.write(&bytes)?;
            written += bytes.len() as u64;
        }
        let padding = written.next_multiple_of(ALIGNMENT) - written;
        self.write(&[0; ALIGNMENT as usize][..padding as usize])
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

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(value: &GgufValue, out: &mut Vec<u8>) {
    let code = |code: u32, out: &mut Vec<u8>| out.extend(code.to_le_bytes());
    let list = |element: u32, length: usize, out: &mut Vec<u8>| {
        out.extend(kind::ARRAY.to_le_bytes());
        out.extend(element.to_le_bytes());
        out.extend((length as u64).to_le_bytes());
    };
    match value {
        GgufValue::U32(n) => {
            code(kind::U32, out);
            out.extend(n.to_le_bytes());
        }
        GgufValue::I32(n) => {
            code(kind::I32, out);
            out.extend(n.to_le_bytes());
        }
        GgufValue::F32(n) => {
            code(kind::F32, out);
            out.extend(n.to_le_bytes());
        }
        GgufValue::Bool(b) => {
            code(kind::BOOL, out);
            out.push(u8::from(*b));
        }
        GgufValue::Text(value) => {
            code(kind::TEXT, out);
            text(value, out);
        }
        GgufValue::Texts(values) => {
            list(kind::TEXT, values.len(), out);
            values.iter().for_each(|value| text(value, out));
        }
        GgufValue::I32s(values) => {
            list(kind::I32, values.len(), out);
            out.extend(values.iter().flat_map(|n| n.to_le_bytes()));
        }
        GgufValue::F32s(values) => {
            list(kind::F32, values.len(), out);
            out.extend(values.iter().flat_map(|n| n.to_le_bytes()));
        }
    }
}
