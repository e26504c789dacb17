//! What a run reports: log rows in memory, `metrics.jsonl` as they happen,
//! `trainer_state.json` in Hugging Face's layout.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use trainer_model::write_atomically;

use crate::error::{Result, TrainerError};

/// Named values of one moment of a run; keys are those of Hugging Face.
pub type LogRow = Map<String, Value>;

/// Follows a run, for a progress bar or a test. Every method may be left out.
pub trait Observer {
    /// The run begins.
    fn started(&mut self, _plan: &RunPlan) {}
    /// An optimizer step was taken.
    fn stepped(&mut self, _step: &StepReport) {}
    /// A row was logged: training values, an evaluation, or the summary.
    fn logged(&mut self, _row: &LogRow) {}
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// Sizes of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// Optimizer steps.
    pub total_steps: usize,
    /// Training samples, where their number is known: not of a stream.
    pub samples: Option<usize>,
    /// Evaluation samples.
    pub eval_samples: usize,
    /// Parameters that are trained.
    pub trainable_parameters: usize,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: usize,
    /// Mean cross entropy of the window's trained tokens.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Rate of the step.
    pub learning_rate: f64,
    /// Tokens of the window, padding left out.
    pub tokens: usize,
    /// Seconds the step took.
    pub seconds: f64,
}

/// The files of a run.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    metrics: File,
    rows: Vec<LogRow>,
}

impl History {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(TrainerError::io(folder))?;
        let path = folder.join("metrics.jsonl");
        let metrics = File::create(&path).map_err(TrainerError::io(&path))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            metrics,
            rows: Vec::new(),
        })
    }

    pub(crate) fn log(&mut self, row: LogRow, observer: &mut dyn Observer) -> Result<()> {
        let line = Value::Object(row.clone()).to_string();
        writeln!(self.metrics, "{line}")
            .map_err(TrainerError::io(self.folder.join("metrics.jsonl")))?;
        observer.logged(&row);
        self.rows.push(row);
        Ok(())
    }

    /// Writes `trainer_state.json`.
    pub(crate) fn save_state(&self, state: &RunState) -> Result<()> {
        let value = json!({
            "best_metric": null,
            "best_model_checkpoint": null,
            "epoch": state.epoch,
            "eval_steps": state.eval_steps,
            "global_step": state.step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.rows,
            "logging_steps": state.logging_steps,
            "max_steps": state.max_steps,
            "num_input_tokens_seen": state.tokens,
            "num_train_epochs": state.num_train_epochs,
            "train_batch_size": state.train_batch_size,
        });
        let path = self.folder.join("trainer_state.json");
        write_atomically(&path, |temporary| {
            fs::write(temporary, format!("{value:#}\n")).map_err(|source| {
                trainer_model::ModelError::Io {
                    path: path.clone(),
                    source,
                }
            })
        })?;
        Ok(())
    }
}

/// The values of `trainer_state.json` beside the log.
#[derive(Debug, Clone)]
pub(crate) struct RunState {
    pub(crate) epoch: f64,
    pub(crate) step: usize,
    pub(crate) max_steps: usize,
    pub(crate) num_train_epochs: f64,
    pub(crate) train_batch_size: usize,
    pub(crate) logging_steps: usize,
    pub(crate) eval_steps: Option<usize>,
    pub(crate) tokens: u64,
}
