//! How much memory a run will take at most, before it begins.
//!
//! The parts are added up as if all were there at once. Strictly they are not: the
//! activations of a step are gone when its last gradient comes. But what a CPU
//! backend frees, the allocator keeps in pieces between blocks that stay, and the
//! next step's activations do not fit into the places of gradients, so that the sum
//! is what is measured (docs/performance.md; `scripts/check_memory_estimate.py`
//! repeats it). It is an estimate for the flex backend in `f32`; others keep more
//! between forward and backward pass.
//!
//! Letters: `d` width of the model, `h` query and `g` key-value heads of width `k`,
//! `i` width inside the MLP, `v` vocabulary, `r` rank of an adapter.

use std::collections::HashMap;

use trainer_config::{Config, SaveStrategy};
use trainer_model::{
    DecoderModel, ModelConfig, NormPlacement, ParameterInfo, Pretrained, QkNorm, parameters,
};

use crate::adapter::{Adapter, quantization};
use crate::batches::BatchSource;
use crate::error::Result;
use crate::optimizer;
use crate::trained::unfreeze;

/// Bytes of a number.
const F32: u64 = 4;

/// What a process takes before it has a model: program, libraries, threads.
const PROCESS: u64 = 26 << 20;

/// Memory of a tokenizer over the size of its file.
const TOKENIZER: u64 = 10;

/// What the allocator keeps in pieces that fit nothing, in hundredths of the weights as
/// `f32`: measured, from none to a third.
const FRAGMENTS: u64 = 15;

/// Name of the embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Part of a layer's activations that its backward pass needs once more for the
/// gradients that go through it, in halves.
const WORK_HALVES: u64 = 1;

/// The largest batch of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Places for tokens, padding included.
    pub slots: usize,
    /// Tokens that the loss is taken over.
    pub targets: usize,
}

impl BatchShape {
    /// The largest that a configuration allows, whatever the data. A preference has
    /// two answers, each with its prompt.
    #[must_use]
    pub fn largest(config: &Config) -> Self {
        let answers = match config.preference.task() {
            trainer_config::Task::Sft | trainer_config::Task::ProcessRewardModel => 1,
            trainer_config::Task::Rl(_) | trainer_config::Task::RewardModel => 2,
        };
        let slots = config.micro_batch_size * config.sequence_len * answers;
        Self {
            slots,
            targets: slots,
        }
    }

    /// The largest of the first epoch of `samples`.
    ///
    /// # Errors
    /// When the samples cannot be made into batches.
    pub fn of_samples(
        config: &Config,
        samples: impl Into<Box<dyn seqprep::SampleSource>>,
    ) -> Result<Self> {
        let options = crate::BatchOptions::training(config, 0);
        let batches = crate::Batches::new(samples, options)?;
        let plan = batches.plan(0)?;
        let slots = plan.batches().map(|rows| batches.slots(&rows)).max();
        let slots = slots.unwrap_or(0);
        Ok(Self {
            slots,
            targets: slots,
        })
    }
}

/// A part of the memory and its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub what: &'static str,
    /// What its size depends on.
    pub of: String,
    /// Bytes.
    pub bytes: u64,
}

/// The parts of a run's memory at its peak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// The parts, none of them empty.
    pub parts: Vec<Part>,
    /// What is written.
    pub files: Files,
}

/// The large files of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// Checkpoints that are there at a time, at most, with the one that is written.
    pub checkpoints: u64,
    /// Bytes of one.
    pub checkpoint: u64,
    /// Bytes of the model or adapter at the end.
    pub model: u64,
}

impl Files {
    fn of(config: &Config, model: u64, state: u64) -> Self {
        let keys = &config.checkpoint;
        let checkpoints = match (keys.save_strategy, saves(config)) {
            (_, true) => keys.save_total_limit as u64 + 1,
            (Some(SaveStrategy::No), false) => 0,
            // At the end.
            (_, false) => 1,
        };
        Self {
            checkpoints,
            checkpoint: match keys.save_only_model {
                true => model,
                false => model + state,
            },
            model,
        }
    }

    /// Bytes in all, at most.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.checkpoints * self.checkpoint + self.model
    }
}

impl Estimate {
    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// What takes memory beside the model that is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// A second model is the reference.
    pub second_model: bool,
    /// Size of the tokenizer's file, in bytes.
    pub tokenizer_file: u64,
}

/// Estimates the peak memory of a run.
///
/// `model` need not have its values yet: shapes are enough. `adapter` is what
/// [`Adapter::attach`] gave with it.
///
/// # Errors
/// When the optimizer of the configuration does not fit the parameters.
pub fn memory<M: DecoderModel + Pretrained>(
    config: &Config,
    model: &M,
    adapter: Option<&Adapter>,
    batch: BatchShape,
    others: Others,
) -> Result<Estimate> {
    let mut infos = parameters(model);
    let (_, rows) = unfreeze(config, model.clone())?;
    for (index, info) in infos.iter_mut().enumerate() {
        info.trainable = match adapter {
            Some(adapter) => adapter.trains(&info.name),
            None => rows.trains(index),
        };
    }
    let in_few_bits = quantized(config, model)?;
    let weights = infos.iter().map(|info| match in_few_bits.get(&info.name) {
        Some(bytes) => *bytes,
        None => weight_bytes(info),
    });
    let all: u64 = weights.sum();
    let in_full: u64 = infos.iter().map(weight_bytes).sum();
    let trained = infos.iter().filter(|info| info.trainable);
    let trained: u64 = trained.map(weight_bytes).sum();
    let mut narrowed = rows.parameters(model);
    for (narrowed, info) in narrowed.iter_mut().zip(&infos) {
        narrowed.trainable = info.trainable;
    }
    let optimizer = optimizer::build(config, &narrowed)?;
    let state: u64 = infos
        .iter()
        .enumerate()
        .filter(|(_, info)| info.trainable)
        .map(|(index, _)| optimizer.state_bytes(index))
        .sum();
    let shape = model.decoder().config();
    let count = |bytes: u64| format!("{:.1} M numbers", bytes as f64 / F32 as f64 / 1e6);
    let copies = match config.gradient_accumulation_steps {
        1 => 1,
        _ => 2,
    };
    let recomputed = config.compute.gradient_checkpointing;
    let parts = [
        Part {
            what: "weights",
            of: match (others.second_model, in_few_bits.is_empty()) {
                (true, _) => "of the model, and of the reference model".into(),
                (false, true) => count(all),
                (false, false) => "frozen ones in few bits".into(),
            },
            bytes: all * (1 + u64::from(others.second_model)),
        },
        Part {
            what: "gradients",
            of: match copies {
                1 => count(trained),
                _ => format!("{}, of a batch and of the sum", count(trained)),
            },
            bytes: trained * copies,
        },
        Part {
            what: "optimizer state",
            of: config.optimizer.to_string(),
            bytes: state,
        },
        Part {
            what: "activations",
            of: format!(
                "{} places of tokens, {}",
                batch.slots,
                match recomputed {
                    true => "one layer at a time",
                    false => "all layers",
                }
            ),
            bytes: activations(shape, &infos, config, batch.slots as u64),
        },
        Part {
            what: "loss",
            of: "logits of a chunk; of a tied embedding, a second gradient".into(),
            bytes: loss(shape, &infos, batch.targets as u64),
        },
        Part {
            what: "checkpoint",
            of: "copies while one is written".into(),
            bytes: match saves(config) {
                // The step that follows copies the weights that it changes.
                true if !config.checkpoint.save_only_model => state + trained,
                true => trained,
                false => 0,
            },
        },
        Part {
            what: "allocator",
            of: "free, between blocks that stay".into(),
            bytes: in_full * FRAGMENTS / 100,
        },
        Part {
            what: "process",
            of: "program and tokenizer".into(),
            bytes: PROCESS + TOKENIZER * others.tokenizer_file,
        },
    ];
    let saved = match adapter {
        Some(_) => trained,
        None => in_full,
    };
    Ok(Estimate {
        parts: parts.into_iter().filter(|part| part.bytes > 0).collect(),
        files: Files::of(config, saved, state),
    })
}

/// The weights that are kept in few bits, with their bytes. `model` has them in full.
fn quantized<M: Pretrained>(config: &Config, model: &M) -> Result<HashMap<String, u64>> {
    let mut bytes = HashMap::new();
    if let Some(quantization) = quantization(config) {
        model.clone().each_linear("", &mut |name, linear| {
            let size = quantization.bytes(linear.weight.shape()) as u64;
            bytes.insert(format!("{name}.weight"), size);
            Ok(())
        })?;
    }
    Ok(bytes)
}

/// Bytes of a weight in `f32`.
fn weight_bytes(info: &ParameterInfo) -> u64 {
    F32 * info.shape.iter().product::<usize>() as u64
}

/// Whether a run writes checkpoints before its end.
fn saves(config: &Config) -> bool {
    let keys = &config.checkpoint;
    let often = keys.save_steps.is_some() || keys.saves_per_epoch.is_some();
    let never = keys.save_strategy == Some(SaveStrategy::No) && !keys.save_first_step;
    // One at the end of the only epoch finds the gradients gone.
    let epochs = config.max_steps.is_none() && config.num_epochs > 1.0;
    often || (!never && epochs)
}

/// Numbers that a layer keeps of each token for its backward pass: what goes into
/// norms and matrix products, what attention and the gate read again.
fn layer_numbers(shape: &ModelConfig, experts: bool) -> u64 {
    let (d, k) = (shape.hidden_size, shape.head_dim);
    let (q, kv) = (shape.num_attention_heads * k, shape.num_key_value_heads * k);
    // The stream before each block, and that after its norm.
    let mut stream = 4 * d;
    if shape.norm.placement == NormPlacement::Both {
        stream += 2 * d;
    }
    // Queries, keys and values, and what attention gives.
    let mut attention = 2 * (q + kv);
    if shape.attention.qk_norm != QkNorm::None {
        attention += q + kv;
    }
    if shape.attention.fused {
        attention += q + 2 * kv;
    }
    // Gate, up, and their product.
    let mlp = match shape.experts.as_ref().filter(|_| experts) {
        Some(moe) => moe.per_token * (3 * moe.intermediate_size + 2 * d) + 2 * moe.count,
        None => 3 * shape.intermediate_size,
    };
    (stream + attention + mlp) as u64
}

/// Numbers that adapters keep of each token, in all layers: the product of the first
/// factor, before and after it is scaled, and the input where some of it is dropped.
fn adapter_numbers(infos: &[ParameterInfo], dropout: bool) -> u64 {
    let first = infos.iter().filter(|info| info.name.contains("lora_A"));
    let numbers = first.map(|info| match info.shape.as_slice() {
        [r, input] => 2 * r + if dropout { 2 * input } else { 0 },
        _ => 0,
    });
    numbers.sum::<usize>() as u64
}

fn activations(shape: &ModelConfig, infos: &[ParameterInfo], config: &Config, slots: u64) -> u64 {
    let d = shape.hidden_size as u64;
    let layers = shape.layers.iter();
    let each: Vec<u64> = layers
        .map(|layer| layer_numbers(shape, layer.experts))
        .collect();
    let dropout = config.adapters.lora_dropout.is_some_and(|p| p > 0.0);
    let adapters = adapter_numbers(infos, dropout);
    let count = each.len().max(1) as u64;
    let largest = each.iter().copied().max().unwrap_or(0) + adapters / count;
    let kept = match config.compute.gradient_checkpointing {
        true => count * d + largest,
        false => each.iter().sum::<u64>() + adapters,
    };
    // The final norm and the hidden states that are predicted from.
    let top = 4 * d;
    F32 * slots * (kept + largest * WORK_HALVES / 2 + top)
}

/// The logits of a chunk and their gradient. An embedding that is the output projection
/// too has two gradients before they are added, of which one is counted already.
fn loss(shape: &ModelConfig, infos: &[ParameterInfo], targets: u64) -> u64 {
    let (v, d) = (shape.vocab_size as u64, shape.hidden_size as u64);
    let chunk = (trainer_model::logits_chunk(shape.vocab_size) as u64).min(targets);
    let is_trained = |info: &ParameterInfo| info.trainable && info.name == EMBEDDING;
    let twice = shape.tie_word_embeddings && infos.iter().any(is_trained);
    F32 * (2 * chunk * v + u64::from(twice) * v * d)
}
