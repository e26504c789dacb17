//! `adapter_config.json` and `adapter_model.safetensors`, as PEFT reads and writes
//! them.
//!
//! The name of a tensor is that of the parameter behind [`PREFIX`]; numbers are
//! stored as trained, in `f32`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::adapter::LoraAdapter;
use super::config::{FILE, LoraConfig};
use crate::error::{ModelError, Result};
use crate::files::{WeightFile, write_atomically};
use crate::parameters::{fill_values, parameters, visit_values};
use crate::pretrained::Pretrained;

const WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT puts before the names of a model's parameters.
const PREFIX: &str = "base_model.model.";

impl LoraAdapter {
    /// Writes the adapter that `model` carries. Each file appears under its name
    /// only once it is complete, the weights last.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn save<M: Pretrained>(&self, model: &M, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        write_atomically(&path, |temporary| {
            let text = format!(
                "{:#}\n",
                self.config.to_json(
                    model.task_type(),
                    &self.plan.target_modules,
                    &self.plan.modules_to_save
                )
            );
            std::fs::write(temporary, text).map_err(ModelError::io(&path))
        })?;

        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        visit_values(model, |name, data| {
            if self.has(name) {
                let shape = data.shape().to_vec();
                let bytes: Vec<u8> = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
                for name in self.names_of(name) {
                    tensors.insert(format!("{PREFIX}{name}"), (shape.clone(), bytes.clone()));
                }
            }
            Ok(())
        })?;
        let path = folder.join(WEIGHTS);
        let failed = |e: safetensors::SafeTensorError| ModelError::Io {
            path: path.clone(),
            source: std::io::Error::other(e),
        };
        let mut views = Vec::new();
        for (name, (shape, bytes)) in &tensors {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?;
            views.push((name, view));
        }
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        write_atomically(&path, |temporary| {
            safetensors::serialize_to_file(views, Some(format), temporary).map_err(failed)
        })
    }

    /// Attaches the adapter of a folder to the model it was trained for.
    ///
    /// # Errors
    /// When a file is missing or damaged, asks for something that is not supported,
    /// or does not fit the model.
    pub fn load<M: Pretrained>(model: M, folder: &Path) -> Result<(M, Self)> {
        let config = LoraConfig::from_folder(folder)?;
        // The seed draws values that the file then replaces.
        let (model, adapter) = Self::attach(model, config, 0)?;
        let model = adapter.restore(model, folder)?;
        Ok((model, adapter))
    }

    /// `model`, which carries this adapter, with the weights of a folder.
    ///
    /// # Errors
    /// When the file is missing or damaged, or does not fit the adapter.
    pub fn restore<M: Pretrained>(&self, model: M, folder: &Path) -> Result<M> {
        let path = folder.join(WEIGHTS);
        if !path.is_file() {
            return Err(ModelError::MissingFile {
                folder: folder.to_path_buf(),
                name: WEIGHTS.into(),
                hint: format!("an adapter is a folder with this file and {FILE}"),
            });
        }
        let mut file = WeightFile::open(&path)?;
        self.check(&model, &file, folder)?;
        fill_values(model, |name| match self.has(name) {
            true => file.read_f32(&format!("{PREFIX}{name}")).map(Some),
            false => Ok(None),
        })
    }

    /// Compares what a file holds with what the model's adapter needs.
    fn check<M: Pretrained>(&self, model: &M, file: &WeightFile, folder: &Path) -> Result<()> {
        let mut problems = Vec::new();
        let mut wanted: Vec<String> = Vec::new();
        for parameter in parameters(model) {
            if !self.has(&parameter.name) {
                continue;
            }
            for name in self.names_of(&parameter.name) {
                let name = format!("{PREFIX}{name}");
                let want = &parameter.shape;
                match file.shape(&name) {
                    None => problems.push(format!("  missing: {name} {want:?}")),
                    Some(shape) if shape != want => problems.push(format!(
                        "  wrong shape: {name} is {shape:?}, the model needs {want:?}"
                    )),
                    Some(_) => {}
                }
                wanted.push(name);
            }
        }
        let mut unexpected: Vec<&str> = file
            .names()
            .filter(|name| !wanted.iter().any(|wanted| wanted == name))
            .collect();
        unexpected.sort_unstable();
        problems.extend(
            unexpected
                .iter()
                .map(|name| format!("  unexpected: {name}")),
        );
        if problems.is_empty() {
            return Ok(());
        }
        Err(ModelError::AdapterTensors {
            folder: folder.to_path_buf(),
            problems,
        })
    }
}
