//! From a folder to a model on a device.

use std::collections::BTreeSet;
use std::path::Path;

use burn::prelude::*;

use super::layout::open_weights;
use super::safetensors::WeightFile;
use crate::config::ModelConfig;
use crate::decoder::CausalLm;
use crate::error::{ModelError, Result};
use crate::parameters::{fill_values, parameters};
use crate::pretrained::Pretrained;
use crate::quantized::{Quantization, QuantizedMatrix};
use crate::reward::{RewardModel, RewardTask};
use crate::weight::Weight;

/// Tensors that older files carry and that no model needs: they are computed.
const COMPUTED: &[&str] = &["rotary_emb.inv_freq"];

/// Loads the weights of `folder` into a model of this configuration, as `f32`, or as
/// its [`quantization`](ModelConfig::quantization) says. One tensor at a time is
/// read, in pieces: beside the model, next to no memory is needed.
///
/// # Errors
/// When a file is missing or damaged, or tensors are missing, unexpected or of
/// another shape; all of them are named.
pub fn load_causal_lm(folder: &Path, config: &ModelConfig, device: &Device) -> Result<CausalLm> {
    fill(folder, CausalLm::new(config, device))
}

/// As [`load_causal_lm`], with a classification head. The folder may be that of a
/// causal model, which has none: the head is then drawn, as [`RewardModel::new`]
/// does; [`has_score`] tells beforehand.
///
/// # Errors
/// As [`load_causal_lm`]; also when the head has another number of labels than
/// the configuration.
pub fn load_reward_model(
    folder: &Path,
    config: &ModelConfig,
    task: RewardTask,
    device: &Device,
) -> Result<RewardModel> {
    fill(folder, RewardModel::new(config, task, device))
}

/// Whether the weights of `folder` have a classification head.
///
/// # Errors
/// When a file is missing or damaged.
pub fn has_score(folder: &Path) -> Result<bool> {
    let files = open_weights(folder)?;
    Ok(files
        .iter()
        .any(|file| file.shape("score.weight").is_some()))
}

/// Gives a new model the weights of `folder`.
fn fill<M: Pretrained>(folder: &Path, mut model: M) -> Result<M> {
    let mut files = open_weights(folder)?;
    check(folder, &files, &model)?;
    if let Some(quantization) = model.config().quantization {
        quantize(&mut files, &mut model, quantization)?;
    }
    fill_values(model, |name| {
        let holder = files.iter_mut().find(|file| file.shape(name).is_some());
        holder.map(|file| file.read_f32(name)).transpose()
    })
}

/// Reads and quantizes the maps of the layers one after the other, so that of one
/// alone there are numbers. Heads stay as they are, as in bitsandbytes.
fn quantize<M: Pretrained>(
    files: &mut [WeightFile],
    model: &mut M,
    quantization: Quantization,
) -> Result<()> {
    model.each_linear("", &mut |map, linear| {
        let name = format!("{map}.weight");
        let holder = files.iter_mut().find(|file| file.shape(&name).is_some());
        let Some(file) = holder.filter(|_| map.contains('.')) else {
            return Ok(());
        };
        let values = file.read_f32(&name)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(ModelError::Damaged {
                path: file.path().to_path_buf(),
                message: format!(
                    "tensor {name} has numbers that are not finite, which cannot be quantized"
                ),
            });
        }
        let matrix = QuantizedMatrix::new(&values, linear.weight.shape(), quantization);
        linear.weight = Weight::quantized(matrix, linear.weight.device());
        Ok(())
    })
}

/// Compares what the files hold with what the model needs, before anything is
/// allocated.
fn check<M: Pretrained>(folder: &Path, files: &[WeightFile], model: &M) -> Result<()> {
    let wanted = parameters(model);
    let mut problems = Vec::new();
    for parameter in &wanted {
        match files.iter().find_map(|file| file.shape(&parameter.name)) {
            None if model.may_lack(&parameter.name) => {}
            None => problems.push(format!(
                "  missing: {} {:?}",
                parameter.name, parameter.shape
            )),
            Some(shape) if shape != parameter.shape => problems.push(format!(
                "  wrong shape: {} is {shape:?}, config.json gives {:?}",
                parameter.name, parameter.shape
            )),
            Some(_) => {}
        }
    }
    let known: BTreeSet<&str> = wanted.iter().map(|p| p.name.as_str()).collect();
    let mut unexpected: Vec<&str> = files
        .iter()
        .flat_map(WeightFile::names)
        .filter(|name| !known.contains(name))
        .filter(|name| !COMPUTED.iter().any(|suffix| name.ends_with(suffix)))
        .filter(|name| !model.ignores(name))
        .collect();
    unexpected.sort_unstable();
    problems.extend(
        unexpected
            .iter()
            .map(|name| format!("  unexpected: {name}")),
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ModelError::Tensors {
            folder: folder.to_path_buf(),
            problems,
        })
    }
}
