//! Rows for new tokens: the embedding, and the output head where there is one of
//! its own, grow or shrink to a vocabulary.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{Distribution, TensorData};
use serde_json::Value;

use crate::config::ModelConfig;
use crate::decoder::{CausalLm, Decoder};
use crate::parameters::ParameterInfo;
use crate::reward::RewardModel;
use crate::trained::TrainedRows;
use crate::weight::Weight;

const EOS: &str = "eos_token_id";

/// What new rows begin as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewRows {
    /// The mean of the old rows: as likely as an average token, and like none.
    Mean,
    /// Drawn from N(0, `initializer_range`²). Seed the device first.
    Random,
}

impl Decoder {
    /// The same with an embedding of `rows`.
    fn resize(&mut self, rows: usize, new: NewRows) {
        let std = self.config().initializer_range;
        self.embed_tokens.weight = resized(self.embed_tokens.weight.clone(), rows, new, std);
        let config = self.config_mut();
        config.vocab_size = rows;
        config.raw.insert("vocab_size".into(), Value::from(rows));
    }

    /// Puts the id of a special token into the configurations that are saved:
    /// `role` is `bos_token_id`, `eos_token_id` or `pad_token_id`. What ended a text
    /// before still does.
    pub fn set_token_id(&mut self, role: &str, id: u32) {
        if role == EOS {
            self.add_end_tokens(&[id]);
        } else {
            let generation = &mut self.config_mut().generation;
            generation.insert(role.into(), Value::from(id));
        }
        self.config_mut().raw.insert(role.into(), Value::from(id));
    }

    /// Puts tokens that end a text into `generation_config.json`, besides those that
    /// do so already.
    pub fn add_end_tokens(&mut self, ids: &[u32]) {
        let config: &mut ModelConfig = self.config_mut();
        let before = config.generation.get(EOS).or_else(|| config.raw.get(EOS));
        let mut all = match before {
            Some(Value::Array(ids)) => ids.clone(),
            Some(Value::Null) | None => Vec::new(),
            Some(id) => vec![id.clone()],
        };
        for id in ids.iter().map(|id| Value::from(*id)) {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        let value = match <[Value; 1]>::try_from(all) {
            Ok([one]) => one,
            Err(several) => Value::Array(several),
        };
        config.generation.insert(EOS.into(), value);
    }
}

impl CausalLm {
    /// The model with a vocabulary of `rows`, 1 or more. Old rows are kept as they
    /// are, those from `rows` on are left out.
    #[must_use]
    pub fn resize_vocabulary(mut self, rows: usize, new: NewRows) -> Self {
        if rows != self.config().vocab_size {
            let std = self.config().initializer_range;
            self.model.resize(rows, new);
            // A head is never quantized.
            if let Some(Weight::Full(weight)) = self.lm_head.as_mut().map(|head| &mut head.weight) {
                *weight = resized(weight.clone(), rows, new, std);
            }
        }
        self
    }
}

impl RewardModel {
    /// As [`CausalLm::resize_vocabulary`].
    #[must_use]
    pub fn resize_vocabulary(mut self, rows: usize, new: NewRows) -> Self {
        if rows != self.config().vocab_size {
            self.model.resize(rows, new);
        }
        self
    }
}

fn resized(param: Param<Tensor<2>>, rows: usize, new: NewRows, std: f64) -> Param<Tensor<2>> {
    let value = param.val();
    let (device, trainable) = (value.device(), param.is_require_grad());
    let [old, width] = value.dims();
    let plain = if value.is_autodiff() {
        value.inner()
    } else {
        value
    };
    let plain = match rows.checked_sub(old) {
        None => plain.narrow(0, 0, rows),
        Some(more) => {
            let host = plain.device();
            let fresh = match new {
                NewRows::Random => {
                    Tensor::random([more, width], Distribution::Normal(0.0, std), &host)
                }
                NewRows::Mean => {
                    let mean = mean_row(plain.clone(), width);
                    Tensor::<1>::from_data(TensorData::new(mean, [width]), &host)
                        .reshape([1, width])
                        .repeat_dim(0, more)
                }
            };
            Tensor::cat(vec![plain, fresh], 0)
        }
    };
    let value = Tensor::from_data(plain.into_data(), &device);
    Param::from_tensor(value).set_require_grad(trainable)
}

/// The mean over all rows, summed in `f64`.
fn mean_row(table: Tensor<2>, width: usize) -> Vec<f32> {
    let rows = table.dims()[0].max(1) as f64;
    let values = table.into_data().convert::<f32>();
    let mut sums = vec![0.0_f64; width];
    for (index, value) in values.iter::<f32>().enumerate() {
        sums[index % width] += f64::from(value);
    }
    sums.into_iter().map(|sum| (sum / rows) as f32).collect()
}

/// New tokens of which training leaves the rows of one part of a model as they are, so
/// that they never mean anything there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntrainedRows {
    /// `embed_tokens` or `lm_head`.
    pub part: &'static str,
    /// The tokens.
    pub ids: Vec<u32>,
}

/// Which new tokens, whose ids are `new`, have rows that training leaves as they are: of
/// the embedding, and of the output head where it is not the embedding. Nothing where all
/// of them are trained. That does no harm to tokens that no text has.
#[must_use]
pub fn untrained_rows(
    new: &[u32],
    parameters: &[ParameterInfo],
    rows: &TrainedRows,
) -> Vec<UntrainedRows> {
    let of = |part: &'static str| {
        let found: Vec<(usize, &ParameterInfo)> = parameters
            .iter()
            .enumerate()
            .filter(|(_, info)| info.name.split('.').any(|name| name == part))
            .collect();
        let trained = |id: u32| {
            let mut found = found.iter();
            found.any(|&(index, info)| info.trainable && rows.has(index, id as usize))
        };
        let ids = new.iter().copied().filter(|id| !trained(*id)).collect();
        (!found.is_empty()).then_some(UntrainedRows { part, ids })
    };
    let parts = ["embed_tokens", "lm_head"].into_iter().filter_map(of);
    parts.filter(|part| !part.ids.is_empty()).collect()
}
