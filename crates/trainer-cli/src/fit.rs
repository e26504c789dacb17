//! Whether a run fits into the memory of the machine, and what to change if not.

use std::fmt;

use trainer_config::{AdapterKind, Config, Optimizer};
use trainer_core::estimate::{BatchShape, Estimate, Others};
use trainer_core::memory::{self, gib};
use trainer_data::Tokenizer;

use crate::session::{
    Failure, has_second_model, is_streamed, load_tokenizer, select_device, shapes_for_training,
};

/// Rank of the adapter that is tried as a way out.
const TRIED_RANK: usize = 16;

/// The estimate of a configuration, beside what there is.
pub(crate) struct Fit {
    estimate: Estimate,
    /// Where the size of the batch is from.
    batch: &'static str,
    /// Bytes that can be had.
    available: Option<u64>,
    /// Settings that lower the peak, each with the peak it gives, where it does not
    /// fit.
    ways_out: Vec<(String, u64)>,
}

impl Fit {
    /// Estimates a run; loads a tokenizer, but no model.
    pub(crate) fn of(config: &Config) -> Result<Self, Failure> {
        let tokenizer = load_tokenizer(config)?;
        let (shape, batch) = batch_shape(config, &tokenizer)?;
        let estimate = estimate(config, &tokenizer, shape)?;
        let available = memory::available();
        let too_much = available.is_some_and(|available| estimate.total() > available);
        let ways_out = match too_much {
            true => ways_out(config, &tokenizer, shape, estimate.total()),
            false => Vec::new(),
        };
        Ok(Self {
            estimate,
            batch,
            available,
            ways_out,
        })
    }

    /// What to change, where the run does not fit.
    pub(crate) fn warning(&self) -> Option<String> {
        let available = self.available?;
        let total = self.estimate.total();
        if total <= available {
            return None;
        }
        let mut text = format!(
            "warning: the run will not fit into memory: it takes about {}, and there are {}\n",
            size(total),
            size(available)
        );
        for (setting, total) in &self.ways_out {
            let fits = if *total <= available { ", fits" } else { "" };
            text += &format!("  {setting}: {}{fits}\n", size(*total));
        }
        Some(text)
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n# Memory at the peak, estimated ({})", self.batch)?;
        for part in &self.estimate.parts {
            let size = size(part.bytes);
            writeln!(f, "#   {:<16} {size:>10}  {}", part.what, part.of)?;
        }
        let total = size(self.estimate.total());
        let available = self.available.map_or_else(String::new, |available| {
            format!("  of {} that can be had", size(available))
        });
        writeln!(f, "#   {:<16} {total:>10}{available}", "total")
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes >= 1 << 30 {
        true => format!("{:.2} GiB", gib(bytes)),
        false => format!("{:.1} MiB", gib(bytes) * 1024.0),
    }
}

/// The largest batch, of the data where it is prepared.
fn batch_shape(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(BatchShape, &'static str), Failure> {
    let largest = BatchShape::largest(config);
    if is_streamed(config) || config.preference.task() != trainer_config::Task::Sft {
        return Ok((largest, "rows of sequence_len tokens"));
    }
    // Data that is not there is for the run to find.
    match trainer_data::find_prepared(config, tokenizer) {
        Ok(Some(prepared)) => Ok((
            BatchShape::of_samples(config, prepared.train)?,
            "rows of the prepared data",
        )),
        Ok(None) | Err(_) => Ok((largest, "rows of sequence_len tokens")),
    }
}

fn estimate(
    config: &Config,
    tokenizer: &Tokenizer,
    shape: BatchShape,
) -> Result<Estimate, Failure> {
    let device = select_device(config)?.device;
    let (model, adapter) = shapes_for_training(config, tokenizer, &device)?;
    let folder = config
        .tokenizer_config
        .as_ref()
        .unwrap_or(&config.base_model);
    let file = std::fs::metadata(folder.join("tokenizer.json"));
    let others = Others {
        second_model: has_second_model(config),
        tokenizer_file: file.map_or(0, |file| file.len()),
    };
    Ok(model.estimate(config, adapter.as_ref(), shape, others)?)
}

/// Settings that change the peak by a tenth or more, with the peak that each gives.
fn ways_out(
    config: &Config,
    tokenizer: &Tokenizer,
    shape: BatchShape,
    total: u64,
) -> Vec<(String, u64)> {
    let with = |change: &dyn Fn(&mut Config)| {
        let mut changed = config.clone();
        change(&mut changed);
        changed
    };
    let part = |shape: BatchShape, of: usize, whole: usize| BatchShape {
        slots: shape.slots * of / whole,
        targets: shape.targets * of / whole,
    };
    let mut tried: Vec<(String, Config, BatchShape)> = Vec::new();
    let (rows, accumulation) = (config.micro_batch_size, config.gradient_accumulation_steps);
    if rows > 1 {
        tried.push((
            format!(
                "micro_batch_size: 1 (and gradient_accumulation_steps: {})",
                rows * accumulation
            ),
            with(&|config| {
                config.gradient_accumulation_steps *= config.micro_batch_size;
                config.micro_batch_size = 1;
            }),
            part(shape, 1, rows),
        ));
    }
    if !config.compute.gradient_checkpointing {
        tried.push((
            "gradient_checkpointing: true".into(),
            with(&|config| config.compute.gradient_checkpointing = true),
            shape,
        ));
    }
    tried.push((
        format!("sequence_len: {}", config.sequence_len / 2),
        with(&|config| config.sequence_len /= 2),
        part(shape, 1, 2),
    ));
    if config.adapters.adapter.is_none() {
        tried.push((
            format!("adapter: lora (with lora_r: {TRIED_RANK}, lora_target_linear: true)"),
            with(&|config| {
                config.adapters.adapter = Some(AdapterKind::Lora);
                config.adapters.lora_r = Some(TRIED_RANK);
                config.adapters.lora_target_linear = true;
            }),
            shape,
        ));
    }
    if config.adapters.adapter == Some(AdapterKind::Lora) && !config.adapters.load_in_4bit {
        tried.push((
            "adapter: qlora (with load_in_4bit: true)".into(),
            with(&|config| {
                config.adapters.adapter = Some(AdapterKind::Qlora);
                config.adapters.load_in_4bit = true;
                config.adapters.load_in_8bit = false;
            }),
            shape,
        ));
    }
    if config.optimizer == Optimizer::AdamwTorch || config.optimizer == Optimizer::AdamwTorchFused {
        tried.push((
            "optimizer: adamw_bnb_8bit".into(),
            with(&|config| config.optimizer = Optimizer::AdamwBnb8bit),
            shape,
        ));
    }
    let estimated = tried.into_iter().filter_map(|(name, config, shape)| {
        // What does not go together with the rest of the file is no way out.
        let estimate = estimate(&config, tokenizer, shape).ok()?;
        Some((name, estimate.total()))
    });
    estimated.filter(|(_, new)| *new < total / 10 * 9).collect()
}
