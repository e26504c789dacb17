//! How much memory a run will take at most, before it begins.
//!
//! There are two moments at which the peak may be: when the loss is known and all
//! activations are there, and when the last gradient comes and none is. The parts of
//! the larger one are the estimate. At a third, the optimizer's step, nothing is there
//! that the second has not. Everything else is freed by then, and used again, but for
//! what the allocator keeps in pieces: activations and gradients take turns, and neither
//! fit quite into the places of the other (docs/performance.md;
//! `scripts/check_memory_estimate.py` measures it). It is an estimate for the flex
//! backend in `f32`; others keep more between forward and backward pass.
//!
//! A reference model, an evaluation and a checkpoint that is read back keep no
//! activations: what they need for a moment is less than what a step does.
//!
//! Letters: `d` width of the model, `h` query and `g` key-value heads of width `k`,
//! `i` width inside the MLP, `v` vocabulary, `r` rank of an adapter.

use std::collections::HashMap;

use seqprep::{KtoSample, PreferencePair, Preferences};
use trainer_config::{Config, Rl, SaveStrategy, Task};
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
const PROCESS: u64 = 30 << 20;

/// Memory of a tokenizer over the size of its file.
const TOKENIZER: u64 = 10;

/// What the allocator keeps in pieces that fit nothing, in hundredths of the smaller of
/// activations and gradients: measured, from 5 to 35.
const FRAGMENTS: u64 = 20;

/// Name of the embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Name of an output projection that is not the embedding.
const HEAD: &str = "lm_head.weight";

/// Part of a layer's activations that its backward pass needs once more for the
/// gradients that go through it, in halves.
const WORK_HALVES: u64 = 1;

/// The largest batch of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Places for tokens, padding included.
    pub slots: usize,
    /// Tokens whose logits the loss is made of: none where a head of its own gives
    /// rewards.
    pub targets: usize,
}

impl BatchShape {
    /// The largest that a configuration allows, whatever the data. A pair has two
    /// answers, each with its prompt.
    #[must_use]
    pub fn largest(config: &Config) -> Self {
        let (answers, has_logits) = match config.preference.task() {
            Task::Sft | Task::Rl(Rl::Kto) => (1, true),
            Task::Rl(_) => (2, true),
            Task::RewardModel => (2, false),
            Task::ProcessRewardModel => (1, false),
        };
        let slots = config.micro_batch_size * config.sequence_len * answers;
        Self {
            slots,
            targets: if has_logits { slots } else { 0 },
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
        let options = crate::BatchOptions::training(config, 0)?;
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
    /// Samples that are in memory, in bytes; see [`sample_bytes`].
    pub samples: u64,
}

/// Bytes of samples in memory.
#[must_use]
pub fn sample_bytes(samples: &Preferences) -> u64 {
    // Of each list: its ids, and what it and the allocator note about it.
    let list = |numbers: usize| 4 * numbers + 40;
    let bytes: usize = match samples {
        Preferences::Pairs(pairs) => {
            let pair = |p: &PreferencePair| [&p.prompt, &p.chosen, &p.rejected].map(Vec::len);
            pairs.iter().flat_map(pair).map(list).sum()
        }
        Preferences::Kto(answers) => {
            let answer = |s: &KtoSample| [&s.prompt, &s.completion].map(Vec::len);
            answers.iter().flat_map(answer).map(list).sum()
        }
        Preferences::Steps(steps) => steps.iter().map(|s| 2 * list(s.len())).sum(),
    };
    bytes as u64
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
    let accumulates = config.gradient_accumulation_steps > 1;
    let activations = activations(shape, &infos, config, batch.slots as u64);
    let head = head(shape, &infos, batch.targets as u64);
    let always = vec![
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
            what: "optimizer state",
            of: config.optimizer.to_string(),
            bytes: state,
        },
        Part {
            what: "samples",
            of: "tokens of pairs, answers or steps".into(),
            bytes: others.samples,
        },
        Part {
            what: "allocator",
            of: "free, in pieces between blocks that stay".into(),
            bytes: activations.min(trained) * FRAGMENTS / 100,
        },
        Part {
            what: "process",
            of: "program and tokenizer".into(),
            bytes: PROCESS + TOKENIZER * others.tokenizer_file,
        },
    ];
    let copied = match saves(config) {
        true if !config.checkpoint.save_only_model => state,
        _ => 0,
    };
    let with_loss = [
        Part {
            what: "gradients",
            of: format!("{}, of the batches before", count(trained)),
            bytes: if accumulates { trained } else { 0 },
        },
        Part {
            what: "activations",
            of: format!(
                "{} places of tokens, {}",
                batch.slots,
                match config.compute.gradient_checkpointing {
                    true => "one layer at a time",
                    false => "all layers",
                }
            ),
            bytes: activations,
        },
        Part {
            what: "loss",
            of: "logits of a chunk, and the gradient of the head".into(),
            bytes: head.logits + head.gradient,
        },
        Part {
            what: "checkpoint",
            of: "copies while one is written".into(),
            // The step that came after changed the weights.
            bytes: copied + if saves(config) { trained } else { 0 },
        },
    ];
    let with_gradients = [
        Part {
            what: "gradients",
            of: match accumulates {
                false => count(trained),
                true => format!("{}, of a batch and of the sum", count(trained)),
            },
            bytes: trained * (1 + u64::from(accumulates)),
        },
        Part {
            what: "checkpoint",
            of: "copies while one is written".into(),
            bytes: copied,
        },
    ];
    let saved = match adapter {
        Some(_) => trained,
        None => in_full,
    };
    let files = Files::of(config, saved, state);
    let [first, second] = [with_loss.to_vec(), with_gradients.to_vec()].map(|moment| {
        let parts = [always.clone(), moment].concat().into_iter();
        let parts = parts.filter(|part| part.bytes > 0).collect();
        Estimate { parts, files }
    });
    Ok(match first.total() > second.total() {
        true => first,
        false => second,
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

/// What the output projection takes beside activations, in bytes.
struct Head {
    /// Logits of a chunk, in whose place their gradient comes.
    logits: u64,
    /// Gradient of the projection, where it is trained: it is there before any
    /// activation is gone.
    gradient: u64,
}

fn head(shape: &ModelConfig, infos: &[ParameterInfo], targets: u64) -> Head {
    let (v, d) = (shape.vocab_size as u64, shape.hidden_size as u64);
    let chunk = (trainer_model::logits_chunk(shape.vocab_size) as u64).min(targets);
    let name = match shape.tie_word_embeddings {
        true => EMBEDDING,
        false => HEAD,
    };
    let trained = targets > 0 && infos.iter().any(|info| info.trainable && info.name == name);
    Head {
        logits: F32 * chunk * v,
        gradient: if trained { F32 * v * d } else { 0 },
    }
}
