//! The optimizer's state as a safetensors file. Tensors are named by the index of
//! their parameter; the metadata says which parameter that is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};
use trainer_model::{WrittenFile, write_tensors};

use crate::error::{Result, TrainerError};
use crate::optimizer::{OptimizerState, ParameterState};

/// Bytes that are converted at a time.
const PIECE: usize = 1 << 20;

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

/// Reads a state that [`write`] wrote, one tensor after the other, so that nothing but
/// the state itself is held.
///
/// # Errors
/// When the file is missing or damaged.
pub(crate) fn read(path: &Path) -> Result<OptimizerState> {
    let damaged = |message: String| TrainerError::Checkpoint {
        path: path.to_path_buf(),
        message,
    };
    let mut file = File::open(path).map_err(TrainerError::io(path))?;
    let length = file.metadata().map_err(TrainerError::io(path))?.len();
    // The length of the header, and the header itself.
    let mut header = vec![0; 8];
    file.read_exact(&mut header)
        .map_err(TrainerError::io(path))?;
    let described = header.as_chunks().0.first().map(|b| u64::from_le_bytes(*b));
    let described = described.filter(|bytes| *bytes <= length - 8);
    let described = described.ok_or_else(|| damaged("it was not written to its end".into()))?;
    let rest = (&mut file).take(described).read_to_end(&mut header);
    rest.map_err(TrainerError::io(path))?;
    let tensors: Metadata = serde_json::from_slice(&header[8..])
        .map_err(|error| damaged(format!("its header is damaged: {error}")))?;
    let text = tensors.metadata().as_ref().and_then(|all| all.get(STATE));
    let text = text.ok_or_else(|| damaged(format!("its header has no {STATE}")))?;
    let description: Description =
        serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    let mut tensor = |name: &str| {
        let info = tensors.info(name);
        let info = info.ok_or_else(|| damaged(format!("it has no tensor {name}")))?;
        let (start, end) = info.data_offsets;
        if header.len() as u64 + end as u64 > length {
            return Err(damaged(format!("it ends before {name} does")));
        }
        let place = SeekFrom::Start((header.len() + start) as u64);
        file.seek(place).map_err(TrainerError::io(path))?;
        let mut file = (&mut file).take((end - start) as u64);
        let shape = info.shape.clone();
        match info.dtype {
            Dtype::F32 => {
                let count = (end - start) / 4;
                let mut values = Vec::with_capacity(count);
                let mut piece = Vec::with_capacity(PIECE);
                while values.len() < count {
                    piece.clear();
                    let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece);
                    if read.map_err(TrainerError::io(path))? == 0 {
                        return Err(damaged(format!("it ends before {name} does")));
                    }
                    let (numbers, _) = piece.as_chunks::<4>();
                    values.extend(numbers.iter().map(|x| f32::from_le_bytes(*x)));
                }
                Ok(TensorData::new(values, shape))
            }
            Dtype::U8 => {
                let mut values = Vec::with_capacity(end - start);
                let read = file.read_to_end(&mut values);
                read.map_err(TrainerError::io(path))?;
                Ok(TensorData::new(values, shape))
            }
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
        // More than is converted at a time.
        let mut many: Vec<f32> = (0..PIECE as u32 / 3).map(|i| i as f32).collect();
        many[..3].copy_from_slice(&[1.5, -0.0, f32::MIN_POSITIVE]);
        let floats = TensorData::new(many, [PIECE / 3]);
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
        for cut in (0..first.len()).step_by(first.len() / 50) {
            std::fs::write(&path, &first[..cut]).unwrap();
            assert!(read(&path).is_err(), "{cut}");
        }
        std::fs::write(&path, [7; 40]).unwrap();
        assert!(matches!(read(&path), Err(TrainerError::Checkpoint { .. })));
    }
}
