//! Folders of the parity set with other tensors or settings.

use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::tensor::SafeTensors;
use serde_json::{Map, Value};
use tempfile::TempDir;
use trainer_model::write_tensors;

use crate::folder;

/// A tensor of an `f32` file.
pub(crate) type Stored = (String, Vec<usize>, Vec<f32>);

/// A copy of a model.
pub(crate) fn copy(name: &str) -> TempDir {
    copy_of(&folder(name))
}

pub(crate) fn copy_of(source: &Path) -> TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source).unwrap().flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), target.path().join(entry.file_name())).unwrap();
        }
    }
    target
}

/// Changes the tensors of a file.
pub(crate) fn tensors(path: &Path, change: impl FnOnce(&mut Vec<Stored>)) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<Stored> = file
        .iter()
        .map(|(name, view)| {
            let numbers = view.data().as_chunks::<4>().0.iter();
            let values = numbers.map(|&b| f32::from_le_bytes(b)).collect();
            (name.to_owned(), view.shape().to_vec(), values)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    change(&mut all);
    let data: Vec<(String, TensorData)> = all
        .into_iter()
        .map(|(name, shape, values)| (name, TensorData::new(values, shape)))
        .collect();
    let data = data.iter().map(|(name, data)| (name.clone(), data));
    write_tensors(path, &[("format", "pt")], data.collect()).unwrap();
}

/// Changes the settings in a JSON file.
pub(crate) fn json(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let text = fs::read_to_string(path).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    change(value.as_object_mut().unwrap());
    fs::write(path, value.to_string()).unwrap();
}
