//! From a model to a folder that transformers loads.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::View;
use serde_json::Value;

use super::atomic::write_atomically;
use crate::error::{ModelError, Result};
use crate::pretrained::Pretrained;

/// Number format of saved weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveDtype {
    /// As trained.
    F32,
    /// Half the size; rounded to nearest even.
    Bf16,
}

impl SaveDtype {
    fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors`.
/// Each file appears under its name only once it is complete, the weights last.
///
/// # Errors
/// What the file system reports.
pub fn save_model<M: Pretrained>(model: &M, folder: &Path, dtype: SaveDtype) -> Result<()> {
    let mut config = model.saved_config();
    // Both names are read by one or another version of transformers.
    config.remove("torch_dtype");
    config.insert("dtype".into(), Value::from(dtype.torch_name()));
    write_json(&folder.join("config.json"), &Value::Object(config.clone()))?;

    let mut generation = serde_json::Map::new();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            generation.insert(key.into(), id.clone());
        }
    }
    write_json(
        &folder.join("generation_config.json"),
        &Value::Object(generation),
    )?;

    let mut views = Views {
        path: Vec::new(),
        dtype,
        found: Vec::new(),
    };
    model.visit(&mut views);
    let path = folder.join("model.safetensors");
    write_atomically(&path, |temporary| {
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views.found, Some(format), temporary).map_err(|e| {
            ModelError::Io {
                path: path.clone(),
                source: std::io::Error::other(e),
            }
        })
    })
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, |temporary| {
        let text = format!("{value:#}\n");
        std::fs::write(temporary, text).map_err(ModelError::io(path))
    })
}

/// A parameter that is brought to the host when the writer reaches it.
struct LazyTensor {
    shape: Vec<usize>,
    dtype: SaveDtype,
    read: RefCell<Option<Box<dyn FnOnce() -> TensorData>>>,
}

impl View for LazyTensor {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            SaveDtype::F32 => Dtype::F32,
            SaveDtype::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values: Vec<f32> = self
            .read
            .take()
            .and_then(|read| read().convert::<f32>().try_into_vec().ok())
            .unwrap_or_default();
        Cow::Owned(match self.dtype {
            SaveDtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            SaveDtype::Bf16 => values
                .iter()
                .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
                .collect(),
        })
    }

    fn data_len(&self) -> usize {
        let width = match self.dtype {
            SaveDtype::F32 => 4,
            SaveDtype::Bf16 => 2,
        };
        self.shape.iter().product::<usize>() * width
    }
}

struct Views {
    path: Vec<String>,
    dtype: SaveDtype,
    found: Vec<(String, LazyTensor)>,
}

impl ModuleVisitor for Views {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims().to_vec();
        let read: Box<dyn FnOnce() -> TensorData> = Box::new(move || value.into_data());
        let tensor = LazyTensor {
            shape,
            dtype: self.dtype,
            read: RefCell::new(Some(read)),
        };
        self.found.push((self.path.join("."), tensor));
    }
}
