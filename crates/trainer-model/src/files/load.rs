//! From a folder to a model on a device.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use burn::prelude::*;

use super::layout::open_weights;
use super::safetensors::WeightFile;
use crate::config::{ModelConfig, RopeConfig, RopeScaling};
use crate::decoder::CausalLm;
use crate::error::{ModelError, Result};
use crate::parameters::{fill_values, parameters};
use crate::pretrained::Pretrained;
use crate::quantized::{Quantization, QuantizedMatrix};
use crate::reward::{RewardModel, RewardTask};
use crate::rotary::inverse_frequencies;
use crate::weight::Weight;

/// Frequencies of rotary embeddings, which older files carry. They are computed.
const FREQUENCIES: &str = "rotary_emb.inv_freq";

/// The output head, and the embedding that it is where a model ties the two.
pub(crate) const HEAD: &str = "lm_head.weight";
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Loads the weights of `folder` into a model of this configuration, as `f32`, or as
/// its [`quantization`](ModelConfig::quantization) says. One tensor at a time is
/// read, in pieces: beside the model, next to no memory is needed.
///
/// A head in the files that is not the embedding is the head of the model, whatever
/// `tie_word_embeddings` says: the configuration of the model then says false.
///
/// # Errors
/// When a file is missing or damaged, numbers are not finite, or tensors are missing,
/// unexpected or of another shape; all of the latter are named.
pub fn load_causal_lm(folder: &Path, config: &ModelConfig, device: &Device) -> Result<CausalLm> {
    let mut files = open_weights(folder)?;
    let mut config = Cow::Borrowed(config);
    if config.tie_word_embeddings && head_differs(&mut files)? {
        config.to_mut().untie();
    }
    fill(folder, files, CausalLm::new(&config, device))
}

/// Whether the weights of `folder` have an output head that is not the embedding, which
/// a model then has in spite of its `tie_word_embeddings`. Merges of adapters with a
/// trained head leave such files. Reads the two tensors only where there are both.
///
/// # Errors
/// When a file is missing or damaged.
pub fn has_own_head(folder: &Path) -> Result<bool> {
    head_differs(&mut open_weights(folder)?)
}

fn head_differs(files: &mut [WeightFile]) -> Result<bool> {
    let holder = |name: &str| files.iter().position(|file| file.shape(name).is_some());
    match (holder(HEAD), holder(EMBEDDING)) {
        (Some(head), Some(embedding)) => {
            if files[head].shape(HEAD) != files[embedding].shape(EMBEDDING) {
                return Ok(true);
            }
            let values = files[head].read_f32(HEAD)?;
            differs(&mut files[embedding], EMBEDDING, &values)
        }
        // What is missing is for the model to say.
        (head, _) => Ok(head.is_some()),
    }
}

/// Whether a tensor of a file has other numbers than `values`.
pub(crate) fn differs(file: &mut WeightFile, name: &str, values: &[f32]) -> Result<bool> {
    let mut rest = values;
    let mut same = true;
    file.pieces(name, |piece| {
        let (now, later) = rest.split_at(piece.len().min(rest.len()));
        rest = later;
        same = now == piece;
        match same {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(!same || !rest.is_empty())
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
    let files = open_weights(folder)?;
    fill(folder, files, RewardModel::new(config, task, device))
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
fn fill<M: Pretrained>(folder: &Path, files: Vec<WeightFile>, model: M) -> Result<M> {
    let (mut files, mut model) = (files, model);
    check(folder, &mut files, &model)?;
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
        let matrix = QuantizedMatrix::new(&values, linear.weight.shape(), quantization);
        linear.weight = Weight::quantized(matrix, linear.weight.device());
        Ok(())
    })
}

/// Compares what the files hold with what the model needs, before anything is
/// allocated.
fn check<M: Pretrained>(folder: &Path, files: &mut [WeightFile], model: &M) -> Result<()> {
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
        .filter(|name| !name.ends_with(FREQUENCIES))
        .filter(|name| !model.ignores(name))
        .collect();
    unexpected.sort_unstable();
    problems.extend(
        unexpected
            .iter()
            .map(|name| format!("  unexpected: {name}")),
    );
    for file in files {
        let found = file.names().filter(|name| name.ends_with(FREQUENCIES));
        for name in found.map(str::to_owned).collect::<Vec<_>>() {
            if !are_computed(&file.read_f32(&name)?, &model.config().ropes) {
                problems.push(format!(
                    "  {name} has other frequencies than config.json gives"
                ));
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ModelError::Tensors {
            folder: folder.to_path_buf(),
            problems,
        })
    }
}

/// Whether frequencies are those of one of these rotary embeddings, as it is or before it
/// is scaled, to the precision of half a number.
fn are_computed(values: &[f32], ropes: &[RopeConfig]) -> bool {
    let plain = |rope: &RopeConfig| RopeConfig {
        scaling: RopeScaling::Default,
        ..rope.clone()
    };
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-2 * b.abs() + 1e-6;
    let mut all = ropes.iter().flat_map(|rope| [rope.clone(), plain(rope)]);
    all.any(|rope| {
        let expected = inverse_frequencies(&rope, 1);
        expected.len() == values.len() && values.iter().zip(&expected).all(close)
    })
}
