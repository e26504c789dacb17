//! `trainer bench`: how fast a configuration trains, and where the time goes.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::{Distribution, FloatDType};
use serde_json::{Value, json};
use trainer_config::{Config, GenerationConfig, SaveStrategy};
use trainer_core::{AnyModel, Observer, Phases, StepReport, memory, setup_trainer, unfreeze};
use trainer_model::{ModelConfig, Pretrained, TrainingWork};

use super::train::{Data, fit_together};
use crate::args::{Bench, Shown};
use crate::failure::Failure;
use crate::session::{
    SavedTokenizer, load_for_training, load_layers, load_reference, load_tokenizer, select_device,
};

/// Steps that are timed, and those before them, unless asked for.
const STEPS: usize = 10;
const WARMUP: usize = 3;

/// Rows of the matrices whose products are timed.
const PEAK_ROWS: usize = 1024;
/// Seconds for which each product is repeated.
const PEAK_SECONDS: f64 = 0.3;

pub(crate) fn run(arguments: &Bench) -> Result<(), Failure> {
    let ([steps, warmup], overrides) = arguments.run.flags(["steps", "warmup"])?;
    let (shown, overrides) = arguments.shown.with(overrides);
    let steps = number("steps", steps)?.or(arguments.steps).unwrap_or(STEPS);
    let warmup = number("warmup", warmup)?
        .or(arguments.warmup)
        .unwrap_or(WARMUP);
    if steps == 0 {
        return Err(Failure::new("--steps must be 1 or more"));
    }
    let loaded = load_layers(&arguments.run.config, overrides)?;
    let folder = Scratch::new();
    let config = timed(
        loaded.config,
        warmup.saturating_add(steps),
        folder.0.clone(),
    );
    let measured = measure(&config, warmup, shown)?;
    match shown.json {
        true => writeln!(stdout(), "{}", measured.json())?,
        false => write!(stdout(), "{}", measured.table())?,
    }
    Ok(())
}

fn number(flag: &str, value: Option<String>) -> Result<Option<usize>, Failure> {
    value
        .map(|text| {
            text.parse()
                .map_err(|_| Failure::new(format!("--{flag} {text} is not a whole number")))
        })
        .transpose()
}

/// A folder for what every run writes, gone in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("trainer-bench-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The configuration without what is no training: evaluations, checkpoints, going on
/// from one.
fn timed(config: Config, steps: usize, output_dir: PathBuf) -> Config {
    let mut config = Config {
        max_steps: Some(steps),
        val_set_size: 0.0,
        test_datasets: None,
        eval_strategy: None,
        eval_steps: None,
        evals_per_epoch: None,
        eval_on_start: false,
        generation: GenerationConfig::default(),
        output_dir,
        ..config
    };
    let keys = &mut config.checkpoint;
    keys.save_strategy = Some(SaveStrategy::No);
    keys.save_steps = None;
    keys.saves_per_epoch = None;
    keys.save_first_step = false;
    keys.load_best_model_at_end = false;
    keys.metric_for_best_model = None;
    keys.greater_is_better = None;
    keys.early_stopping_patience = None;
    keys.resume_from_checkpoint = None;
    keys.auto_resume_from_checkpoints = false;
    config
}

/// Takes the steps down.
#[derive(Default)]
struct Seen(Vec<StepReport>);

impl Observer for Seen {
    fn stepped(&mut self, step: &StepReport) {
        self.0.push(step.clone());
    }

    fn warned(&mut self, message: &str) {
        eprintln!("warning: {message}");
    }

    fn separates_phases(&self) -> bool {
        true
    }
}

/// What a run gave.
struct Measured {
    backend: String,
    threads: usize,
    parameters: usize,
    trained_parameters: usize,
    work: TrainingWork,
    /// Operations a second of the fastest matrix product.
    peak: f64,
    memory: Option<u64>,
    warmup: usize,
    steps: Vec<StepReport>,
}

fn measure(config: &Config, warmup: usize, shown: Shown) -> Result<Measured, Failure> {
    let selected = select_device(config)?;
    let tokenizer = load_tokenizer(config)?;
    let (mut model, adapter) = load_for_training(config, &tokenizer, &selected.device)?;
    let reference = load_reference(config, &tokenizer, &selected.device)?;
    let mut data = Data::load(config, &tokenizer, shown)?;
    fit_together(config, &tokenizer, &mut model, &mut data)?;
    let (sizes, work, parameters, trained_parameters) = match &model {
        AnyModel::Causal(model) => size(config, model)?,
        AnyModel::Reward(model) => size(config, model)?,
    };
    shown.note("timing matrix products");
    let peak = matrix_peak(&selected.device, &sizes);
    let tokenizer = Arc::new(SavedTokenizer::new(tokenizer, &model));
    let trainer = setup_trainer(
        config,
        data.train,
        data.eval,
        model,
        tokenizer,
        config.max_steps,
        reference,
        adapter,
    )?;
    shown.note(format!("training for {} steps", trainer.total_steps()));
    let mut seen = Seen::default();
    trainer.train(&mut seen)?;
    let steps = seen.0.split_off(warmup.min(seen.0.len()));
    if steps.is_empty() {
        return Err(Failure::new(
            "no step was taken that could be timed: lower --warmup",
        ));
    }
    let threads = std::env::var("RAYON_NUM_THREADS").ok();
    let threads = threads.and_then(|text| text.parse().ok());
    Ok(Measured {
        backend: selected.backend.to_string(),
        threads: threads
            .or(std::thread::available_parallelism().ok().map(Into::into))
            .unwrap_or(1),
        parameters,
        trained_parameters,
        work,
        peak,
        memory: memory::resident().map(|resident| resident.peak),
        warmup,
        steps,
    })
}

type Sizes = (ModelConfig, TrainingWork, usize, usize);

/// What of a model decides how much work it is.
fn size<M: Pretrained>(config: &Config, model: &M) -> Result<Sizes, Failure> {
    let (model, rows) = unfreeze(config, model.clone())?;
    let infos = rows.parameters(&model);
    let whole = trainer_model::parameters(&model);
    let elements = |infos: &[trainer_model::ParameterInfo], all: bool| -> usize {
        let counted = infos.iter().filter(|info| all || info.trainable);
        counted
            .map(|info| info.shape.iter().product::<usize>())
            .sum()
    };
    Ok((
        model.config().clone(),
        TrainingWork::new(&model, &whole),
        elements(&whole, true),
        elements(&infos, false),
    ))
}

/// Operations a second of the fastest of the products that the MLP has, in `f32`, with
/// the backend's own kernel and all its threads.
fn matrix_peak(device: &Device, config: &ModelConfig) -> f64 {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let random = |rows: usize, columns: usize| {
        let values = Tensor::<2>::random([rows, columns], Distribution::Default, device);
        values.cast(FloatDType::F32)
    };
    let mut best = 0.0_f64;
    for (input, output) in [(d, f), (f, d)] {
        let (x, w) = (random(PEAK_ROWS, input), random(output, input));
        let work = 2.0 * (PEAK_ROWS * input * output) as f64;
        let begun = Instant::now();
        // The first one touches memory that the others find.
        for repetition in 0.. {
            let started = Instant::now();
            let product = x.clone().matmul(w.clone().transpose());
            let _ = device.sync();
            let seconds = started.elapsed().as_secs_f64();
            drop(product);
            if repetition > 0 {
                best = best.max(work / seconds.max(1e-9));
            }
            if repetition > 2 && begun.elapsed().as_secs_f64() > PEAK_SECONDS {
                break;
            }
        }
    }
    best
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

impl Measured {
    fn seconds(&self) -> f64 {
        median(self.steps.iter().map(|step| step.seconds))
    }

    /// Medians, each for itself.
    fn phases(&self) -> [(&'static str, f64); 4] {
        let of =
            |phase: fn(&Phases) -> f64| median(self.steps.iter().map(|step| phase(&step.phases)));
        [
            ("data", of(|phases| phases.data)),
            ("forward", of(|phases| phases.forward)),
            ("backward", of(|phases| phases.backward)),
            ("optimizer", of(|phases| phases.optimizer)),
        ]
    }

    /// Something of all steps over their time.
    fn rate(&self, of: impl Fn(&StepReport) -> f64) -> f64 {
        let seconds: f64 = self.steps.iter().map(|step| step.seconds).sum();
        self.steps.iter().map(of).sum::<f64>() / seconds.max(1e-9)
    }

    fn work_of(&self, step: &StepReport) -> f64 {
        self.work.of(&step.documents, step.trained_tokens)
    }

    /// Tokens a second, those trained on, and operations a second.
    fn rates(&self) -> (f64, f64, f64) {
        (
            self.rate(|step| step.tokens as f64),
            self.rate(|step| step.trained_tokens as f64),
            self.rate(|step| self.work_of(step)),
        )
    }

    fn json(&self) -> Value {
        let (tokens, trained, flops) = self.rates();
        let mut seconds = serde_json::Map::new();
        seconds.insert("step".into(), json!(self.seconds()));
        for (name, value) in self.phases() {
            seconds.insert(name.into(), json!(value));
        }
        json!({
            "backend": self.backend,
            "threads": self.threads,
            "parameters": self.parameters,
            "trained_parameters": self.trained_parameters,
            "warmup": self.warmup,
            "steps": self.steps.len(),
            "seconds": seconds,
            "step_seconds": self.steps.iter().map(|step| step.seconds).collect::<Vec<_>>(),
            "tokens_per_step": self.mean(|step| step.tokens),
            "trained_tokens_per_step": self.mean(|step| step.trained_tokens),
            "tokens_per_second": tokens,
            "trained_tokens_per_second": trained,
            "flops_per_step": self.steps.iter().map(|step| self.work_of(step)).sum::<f64>()
                / self.steps.len() as f64,
            "flops_per_second": flops,
            "matrix_peak": self.peak,
            "share_of_peak": flops / self.peak.max(1.0),
            "peak_memory_bytes": self.memory,
        })
    }

    fn mean(&self, of: impl Fn(&StepReport) -> usize) -> f64 {
        self.steps.iter().map(of).sum::<usize>() as f64 / self.steps.len() as f64
    }

    fn table(&self) -> String {
        let step = self.seconds();
        let (tokens, trained, flops) = self.rates();
        let mut text = format!(
            "{} on {} threads, {} parameters, {} trained; medians of {} steps after {}\n\n",
            self.backend,
            self.threads,
            self.parameters,
            self.trained_parameters,
            self.steps.len(),
            self.warmup
        );
        let mut line = |name: &str, value: String| {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{name:<22}{value:>12}");
        };
        line("step", format!("{:.1} ms", step * 1e3));
        for (name, seconds) in self.phases() {
            let share = 100.0 * seconds / step.max(1e-9);
            line(
                &format!("  {name}"),
                format!("{:.1} ms", seconds * 1e3) + &format!("{share:7.1} %"),
            );
        }
        line(
            "tokens a step",
            format!("{:.1}", self.mean(|step| step.tokens)),
        );
        line("tokens a second", format!("{tokens:.0}"));
        line("  trained", format!("{trained:.0}"));
        line("GFLOP/s", format!("{:.1}", flops / 1e9));
        line("  of matrix peak", format!("{:.1}", self.peak / 1e9));
        line(
            "  share",
            format!("{:.1} %", 100.0 * flops / self.peak.max(1.0)),
        );
        if let Some(bytes) = self.memory {
            line(
                "peak memory",
                format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
            );
        }
        text
    }
}
