//! Whether a run fits into the memory of the machine, and what to change if not.

use std::fmt;
use std::path::Path;

use trainer_config::{AdapterKind, Config, Optimizer, SaveStrategy};
use trainer_core::estimate::{BatchShape, Estimate, Others, sample_bytes};
use trainer_core::memory::{self, gib};
use trainer_data::{Search, Tokenizer};

use crate::base::model_notes;
use crate::failure::Failure;
use crate::session::{
    Found, find_prepared, has_second_model, load_tokenizer, select_device, shapes_for_training,
};

/// Rank of the adapter that is tried as a way out.
const TRIED_RANK: usize = 16;

/// The estimate of a configuration, beside what there is.
pub(crate) struct Fit {
    estimate: Estimate,
    /// Where the sizes of data are from.
    batch: &'static str,
    /// Bytes that can be had.
    available: Option<u64>,
    /// Settings that lower the peak, each with the peak it gives, where it does not
    /// fit.
    ways_out: Vec<(String, u64)>,
    /// Bytes that the disk of the output folder has free.
    free: Option<u64>,
    /// What there is to know of the model before it is trained.
    notes: Vec<String>,
}

impl Fit {
    /// Estimates a run; loads a tokenizer, but no model.
    pub(crate) fn of(config: &Config) -> Result<Self, Failure> {
        let tokenizer = load_tokenizer(config)?;
        let (data, batch) = data(config, &tokenizer)?;
        let estimate = estimate(config, &tokenizer, data)?;
        // What the process has already is the run's too.
        let own = memory::resident().map_or(0, |resident| resident.now);
        let available = memory::available().map(|available| available + own);
        let too_much = available.is_some_and(|available| estimate.total() > available);
        let ways_out = match too_much {
            true => ways_out(config, &tokenizer, data, estimate.total()),
            false => Vec::new(),
        };
        Ok(Self {
            estimate,
            batch,
            available,
            ways_out,
            free: free_space(&config.output_dir),
            notes: model_notes(config)?,
        })
    }

    /// What to change, where the run does not fit.
    pub(crate) fn warning(&self) -> Option<String> {
        let warnings = [self.memory_warning(), self.disk_warning()];
        let text: String = warnings.into_iter().flatten().collect();
        (!text.is_empty()).then_some(text)
    }

    fn memory_warning(&self) -> Option<String> {
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

    fn disk_warning(&self) -> Option<String> {
        let (free, files) = (self.free?, self.estimate.files);
        (files.total() > free).then(|| {
            format!(
                "warning: the run may fill the disk of output_dir: it writes up to {}, and {} are \
                 free\n  lower save_total_limit, set `save_only_model: true`, or choose another \
                 output_dir\n",
                size(files.total()),
                size(free)
            )
        })
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
        writeln!(f, "#   {:<16} {total:>10}{available}", "total")?;
        let files = self.estimate.files;
        writeln!(f, "\n# Files in output_dir, at most")?;
        if files.checkpoints > 0 {
            let each = size(files.checkpoint);
            let all = size(files.checkpoint * files.checkpoints);
            let count = files.checkpoints;
            writeln!(f, "#   {:<16} {all:>10}  {count} of {each}", "checkpoints")?;
        }
        let (model, total) = (size(files.model), size(files.total()));
        writeln!(f, "#   {:<16} {model:>10}", "model or adapter")?;
        let free = self.free.map_or_else(String::new, |free| {
            format!("  of {} that are free", size(free))
        });
        writeln!(f, "#   {:<16} {total:>10}{free}", "total")?;
        for note in &self.notes {
            writeln!(f, "\n# warning: {note}")?;
        }
        Ok(())
    }
}

/// Bytes that are free where a folder is, or will be made; unknown where that is no
/// disk, such as `/proc`, which says that it has no blocks at all.
fn free_space(folder: &Path) -> Option<u64> {
    let here = Path::new(".");
    let there = folder.ancestors().find(|it| it.exists()).unwrap_or(here);
    let disk = rustix::fs::statvfs(there).ok()?;
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes >= 1 << 30 {
        true => format!("{:.2} GiB", gib(bytes)),
        false => format!("{:.1} MiB", gib(bytes) * 1024.0),
    }
}

/// What is trained on, as far as it takes memory.
#[derive(Debug, Clone, Copy)]
struct Data {
    /// The largest batch.
    batch: BatchShape,
    /// Bytes of samples in memory.
    samples: u64,
}

/// The data where it is prepared, and where the sizes are from.
fn data(config: &Config, tokenizer: &Tokenizer) -> Result<(Data, &'static str), Failure> {
    const PREPARED: &str = "rows of the prepared data";
    Ok(match find_prepared(config, tokenizer, Search::Size) {
        Ok(Some(Found::Samples(prepared))) => {
            let batch = BatchShape::of_samples(config, prepared.train)?;
            (Data { batch, samples: 0 }, PREPARED)
        }
        Ok(Some(Found::Preferences(prepared))) => {
            let samples = sample_bytes(&prepared.train) + sample_bytes(&prepared.eval);
            let device = select_device(config)?.device;
            let (model, _) = shapes_for_training(config, tokenizer, &device)?;
            let batch = model.largest_batch(config, prepared.train)?;
            (Data { batch, samples }, PREPARED)
        }
        // Data that is not there is for the run to find.
        Ok(None) | Err(_) => {
            let batch = BatchShape::largest(config);
            (Data { batch, samples: 0 }, "rows of sequence_len tokens")
        }
    })
}

fn estimate(config: &Config, tokenizer: &Tokenizer, data: Data) -> Result<Estimate, Failure> {
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
        samples: data.samples,
    };
    Ok(model.estimate(config, adapter.as_ref(), data.batch, others)?)
}

/// A setting that takes less memory.
struct Alternative {
    /// As it is written in the file.
    setting: String,
    config: Config,
    /// Batches are one in so many of what they were.
    fewer: usize,
}

/// Settings that may lower the peak, the least harmful first.
fn alternatives(config: &Config) -> Vec<Alternative> {
    let mut all = Vec::new();
    let mut add = |setting: String, fewer: usize, change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        change(&mut config);
        all.push(Alternative {
            setting,
            config,
            fewer,
        });
    };
    let (rows, accumulation) = (config.micro_batch_size, config.gradient_accumulation_steps);
    if rows > 1 {
        add(
            format!(
                "micro_batch_size: 1 (and gradient_accumulation_steps: {})",
                rows * accumulation
            ),
            rows,
            &|config| {
                config.gradient_accumulation_steps *= config.micro_batch_size;
                config.micro_batch_size = 1;
            },
        );
    }
    if !config.compute.gradient_checkpointing {
        add("gradient_checkpointing: true".into(), 1, &|config| {
            config.compute.gradient_checkpointing = true;
        });
    }
    add(
        format!("sequence_len: {}", config.sequence_len / 2),
        2,
        &|config| config.sequence_len /= 2,
    );
    if config.adapters.adapter.is_none() {
        add(
            format!("adapter: lora (with lora_r: {TRIED_RANK}, lora_target_linear: true)"),
            1,
            &|config| {
                config.adapters.adapter = Some(AdapterKind::Lora);
                config.adapters.lora_r = Some(TRIED_RANK);
                config.adapters.lora_target_linear = true;
            },
        );
    }
    if config.adapters.adapter == Some(AdapterKind::Lora) && !config.adapters.load_in_4bit {
        add(
            "adapter: qlora (with load_in_4bit: true)".into(),
            1,
            &|config| {
                config.adapters.adapter = Some(AdapterKind::Qlora);
                config.adapters.load_in_4bit = true;
                config.adapters.load_in_8bit = false;
            },
        );
    }
    if matches!(
        config.optimizer,
        Optimizer::AdamwTorch | Optimizer::AdamwTorchFused
    ) {
        add("optimizer: adamw_bnb_8bit".into(), 1, &|config| {
            config.optimizer = Optimizer::AdamwBnb8bit;
        });
    }
    all
}

/// Settings that change the peak by a tenth or more, with the peak that each gives.
fn ways_out(config: &Config, tokenizer: &Tokenizer, data: Data, total: u64) -> Vec<(String, u64)> {
    let estimated = alternatives(config).into_iter().filter_map(|tried| {
        let batch = BatchShape {
            slots: data.batch.slots / tried.fewer,
            targets: data.batch.targets / tried.fewer,
        };
        let data = Data { batch, ..data };
        // What does not go together with the rest of the file is no way out.
        let estimate = estimate(&tried.config, tokenizer, data).ok()?;
        Some((tried.setting, estimate.total()))
    });
    estimated.filter(|(_, new)| *new < total / 10 * 9).collect()
}

/// What to change in a file whose run has no memory left, a line each.
pub(crate) fn advice(config: &Config, file: &Path) -> String {
    let settings = alternatives(config).into_iter().map(|it| it.setting);
    let mut text = format!("change one of these:\n{}", {
        let lines: Vec<String> = settings.map(|it| format!("  {it}")).collect();
        lines.join("\n")
    });
    text += &format!(
        "\n`trainer check {}` says how much memory each would take",
        file.display()
    );
    let never = config.checkpoint.save_strategy == Some(SaveStrategy::No);
    if !never && !config.checkpoint.save_only_model {
        text +=
            "\n--auto_resume_from_checkpoints goes on from the last checkpoint, if there is one";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_that_of_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("not/there/yet");
        assert!(free_space(&below).is_some_and(|free| free > 0));
        if Path::new("/proc/self").exists() {
            assert_eq!(free_space(Path::new("/proc/nowhere")), None);
        }
    }
}
