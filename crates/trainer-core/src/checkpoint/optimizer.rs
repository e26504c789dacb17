//! The optimizer's state as a safetensors file. Tensors are named by the index of
//! their parameter; the metadata says which parameter that is.

use std::path::Path;

use burn::tensor::TensorData;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use trainer_model::{WrittenFile, write_tensors};

use crate::error::{Result, TrainerError};
use crate::optimizer::{OptimizerState, ParameterState};

/// Where the metadata describes the state.
const STATE: &str = "optimizer_state";

#[derive(Serialize, Deserialize)]
struct Description {
    optimizer: String,
    parameters: Vec<Parameter>,
}

#[derive(Serialize, Deserialize)]
struct Parameter {
    name: String,
    steps: u64,
    tensors: Vec<String>,
}

/// Writes the state.
///
/// # Errors
/// What the file system reports.
pub(crate) fn write(state: &OptimizerState, path: &Path) -> Result<WrittenFile> {
    let description = Description {
        optimizer: state.optimizer.clone(),
        parameters: state
            .parameters
            .iter()
            .map(|parameter| Parameter {
                name: parameter.name.clone(),
                steps: parameter.steps,
                tensors: parameter
                    .tensors
                    .iter()
                    .map(|(name, _)| name.clone())
                    .collect(),
            })
            .collect(),
    };
    let damaged = |error: &dyn std::fmt::Display| TrainerError::Checkpoint {
        path: path.to_path_buf(),
        message: error.to_string(),
    };
    let text = serde_json::to_string(&description).map_err(|error| damaged(&error))?;
    let mut tensors = Vec::new();
    for (index, parameter) in state.parameters.iter().enumerate() {
        let named = parameter.tensors.iter();
        tensors.extend(named.map(|(name, data)| (format!("{index}.{name}"), data)));
    }
    Ok(write_tensors(path, &[(STATE, &text)], tensors)?)
}

/// Reads a state that [`write`] wrote.
///
/// # Errors
/// When the file is missing or damaged.
pub(crate) fn read(path: &Path) -> Result<OptimizerState> {
    let bytes = std::fs::read(path).map_err(TrainerError::io(path))?;
    let damaged = |message: String| TrainerError::Checkpoint {
        path: path.to_path_buf(),
        message,
    };
    let wrong = |error: safetensors::SafeTensorError| damaged(error.to_string());
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(wrong)?;
    let text = header.metadata().as_ref().and_then(|all| all.get(STATE));
    let text = text.ok_or_else(|| damaged(format!("its header has no {STATE}")))?;
    let description: Description =
        serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(wrong)?;
    let tensor = |name: &str| {
        let view = file.tensor(name).map_err(wrong)?;
        let shape = view.shape().to_vec();
        match view.dtype() {
            Dtype::F32 => {
                let (values, _) = view.data().as_chunks::<4>();
                let values: Vec<f32> = values.iter().map(|x| f32::from_le_bytes(*x)).collect();
                Ok(TensorData::new(values, shape))
            }
            Dtype::U8 => Ok(TensorData::new(view.data().to_vec(), shape)),
            other => Err(damaged(format!("{name} has type {other:?}"))),
        }
    };
    let mut parameters = Vec::with_capacity(description.parameters.len());
    for (index, parameter) in description.parameters.into_iter().enumerate() {
        let mut tensors = Vec::with_capacity(parameter.tensors.len());
        for name in parameter.tensors {
            let data = tensor(&format!("{index}.{name}"))?;
            tensors.push((name, data));
        }
        parameters.push(ParameterState {
            name: parameter.name,
            steps: parameter.steps,
            tensors,
        });
    }
    Ok(OptimizerState {
        optimizer: description.optimizer,
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_to_the_bit() {
        let floats = TensorData::new(vec![1.5_f32, -0.0, f32::MIN_POSITIVE], [3]);
        let codes = TensorData::new(vec![0_u8, 127, 255, 3], [2, 2]);
        let state = OptimizerState {
            optimizer: "adamw".into(),
            parameters: vec![
                ParameterState {
                    name: "model.norm.weight".into(),
                    steps: 12,
                    tensors: vec![("exp_avg".into(), floats)],
                },
                ParameterState {
                    name: "lm_head.weight".into(),
                    steps: 3,
                    tensors: vec![("exp_avg".into(), codes)],
                },
            ],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        write(&state, &path).unwrap();
        assert_eq!(read(&path).unwrap(), state);
        let first = std::fs::read(&path).unwrap();
        write(&state, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        std::fs::write(&path, [7; 40]).unwrap();
        assert!(matches!(read(&path), Err(TrainerError::Checkpoint { .. })));
    }
}
