//! What a run reports: log rows in memory, `metrics.jsonl` as they happen,
//! `trainer_state.json` in Hugging Face's layout.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use trainer_model::write_atomically;

use crate::error::{Result, TrainerError};

/// Named values of one moment of a run; keys are those of Hugging Face.
pub type LogRow = Map<String, Value>;

/// Follows a run, for a progress bar or a test. Every method may be left out.
pub trait Observer {
    /// The run begins.
    fn started(&mut self, _plan: &RunPlan) {}
    /// Part of the work before the first step is done: `done` of `total` batches.
    fn preparing(&mut self, _what: &str, _done: usize, _total: usize) {}
    /// An optimizer step was taken.
    fn stepped(&mut self, _step: &StepReport) {}
    /// A row was logged: training values, an evaluation, or the summary.
    fn logged(&mut self, _row: &LogRow) {}
    /// The run went back to the checkpoint after so many steps: `metrics.jsonl` has the
    /// rows up to there again, and later ones are logged anew.
    fn went_back(&mut self, _step: usize) {}
    /// A checkpoint is complete.
    fn saved(&mut self, _checkpoint: &Path) {}
    /// Something went wrong that does not stop the run.
    fn warned(&mut self, _message: &str) {}
    /// The run is over: everything is written, or it failed or was stopped, by the
    /// error. Also called for a run that could not start.
    fn ended(&mut self, _error: Option<&TrainerError>) {}
    /// Asked after each step: what the run shall do before the next one.
    fn requests(&mut self) -> Requests {
        Requests::default()
    }
    /// Whether each phase of a step waits for the device, so that its time is its own.
    /// Where operations are computed when they are called, as on a CPU, it is so anyway.
    fn separates_phases(&self) -> bool {
        false
    }
}

/// What an observer can ask of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Evaluate now.
    pub evaluate: bool,
    /// Write a checkpoint now.
    pub save: bool,
    /// Write a checkpoint and end with [`TrainerError::Stopped`].
    pub stop: bool,
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// Observers that all follow the same run, in their order; what any of them asks
/// for is asked for.
#[derive(Default)]
pub struct Several(pub Vec<Box<dyn Observer>>);

impl Observer for Several {
    fn started(&mut self, plan: &RunPlan) {
        self.0.iter_mut().for_each(|one| one.started(plan));
    }

    fn preparing(&mut self, what: &str, done: usize, total: usize) {
        let all = self.0.iter_mut();
        all.for_each(|one| one.preparing(what, done, total));
    }

    fn stepped(&mut self, step: &StepReport) {
        self.0.iter_mut().for_each(|one| one.stepped(step));
    }

    fn logged(&mut self, row: &LogRow) {
        self.0.iter_mut().for_each(|one| one.logged(row));
    }

    fn went_back(&mut self, step: usize) {
        self.0.iter_mut().for_each(|one| one.went_back(step));
    }

    fn saved(&mut self, checkpoint: &Path) {
        self.0.iter_mut().for_each(|one| one.saved(checkpoint));
    }

    fn warned(&mut self, message: &str) {
        self.0.iter_mut().for_each(|one| one.warned(message));
    }

    fn ended(&mut self, error: Option<&TrainerError>) {
        self.0.iter_mut().for_each(|one| one.ended(error));
    }

    fn requests(&mut self) -> Requests {
        let asked = self.0.iter_mut().map(|one| one.requests());
        asked.fold(Requests::default(), |all, one| Requests {
            evaluate: all.evaluate || one.evaluate,
            save: all.save || one.save,
            stop: all.stop || one.stop,
        })
    }

    fn separates_phases(&self) -> bool {
        self.0.iter().any(|one| one.separates_phases())
    }
}

/// Sizes of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// Optimizer steps.
    pub total_steps: usize,
    /// Those that an earlier process took.
    pub steps_done: usize,
    /// Training samples, where their number is known: not of a stream.
    pub samples: Option<usize>,
    /// Evaluation samples.
    pub eval_samples: usize,
    /// Parameters that are trained.
    pub trainable_parameters: usize,
}

/// Seconds of the phases of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phases {
    /// Waiting for the batches.
    pub data: f64,
    /// From the batches to the loss.
    pub forward: f64,
    /// From the loss to the gradients, with what is computed a second time.
    pub backward: f64,
    /// Norm, clipping, and the new parameters.
    pub optimizer: f64,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq)]
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
    /// Places of the window, padding included; 0 where they are not counted.
    pub slots: usize,
    /// Tokens that the loss is taken over.
    pub trained_tokens: usize,
    /// Lengths of the documents of the window.
    pub documents: Vec<u32>,
    /// Seconds the step took.
    pub seconds: f64,
    /// Of which these.
    pub phases: Phases,
}

/// The files of a run.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    metrics: File,
    /// Shared with the checkpoints that are being written.
    rows: Vec<Arc<LogRow>>,
}

impl History {
    /// Begins with the rows of an earlier part of the run, if there is one:
    /// `metrics.jsonl` holds these and nothing that came after them.
    pub(crate) fn create(folder: &Path, earlier: Vec<Arc<LogRow>>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(TrainerError::io(folder))?;
        let path = folder.join("metrics.jsonl");
        let mut metrics = File::create(&path).map_err(TrainerError::io(&path))?;
        for row in &earlier {
            write_row(&mut metrics, row).map_err(TrainerError::io(&path))?;
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            metrics,
            rows: earlier,
        })
    }

    /// Everything logged so far.
    pub(crate) fn rows(&self) -> &[Arc<LogRow>] {
        &self.rows
    }

    pub(crate) fn log(&mut self, row: LogRow, observer: &mut dyn Observer) -> Result<()> {
        write_row(&mut self.metrics, &row)
            .map_err(TrainerError::io(self.folder.join("metrics.jsonl")))?;
        observer.logged(&row);
        self.rows.push(Arc::new(row));
        Ok(())
    }

    /// Writes `trainer_state.json`.
    pub(crate) fn save_state(&self, state: &RunState) -> Result<()> {
        let value = json!({
            "best_metric": state.best_metric,
            "best_model_checkpoint": state.best_checkpoint,
            "epoch": state.epoch,
            "eval_steps": state.eval_steps,
            "global_step": state.step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.rows.iter().map(Arc::as_ref).collect::<Vec<_>>(),
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

/// In one call: a killed run leaves no part of a line.
fn write_row(file: &mut File, row: &LogRow) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(row)?;
    line.push(b'\n');
    file.write_all(&line)
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
    pub(crate) best_metric: Option<f64>,
    pub(crate) best_checkpoint: Option<PathBuf>,
}
