//! Steps, evaluations and weights that are not finite, under each policy, with an objective
//! that fails where a test wants it to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use burn::module::Module;
use seqprep::{Batch, Sample};
use serde_json::{Value, json};
use trainer_config::{Backend, CheckpointConfig, Config, GuardConfig};
use trainer_model::{Linear, ParameterGradients, map_values};

use super::*;
use crate::batch_plan::BatchOptions;
use crate::batches::Batches;
use crate::checkpoint::{self, SaveModel, SavedRun};
use crate::feed::{Feed, OpenStream, PackedRows, RowStream};
use crate::history::{LogRow, Observer, StepReport};
use crate::tokenizer::IdTokenizer;
use crate::trainer::objective::{Accumulated, Precision, StepSeed};
use crate::trainer::run::save::nonfinite_parameter;

/// What happens in a run. Steps are counted from 1.
#[derive(Default)]
struct Script {
    /// Steps whose loss is not a number, one entry a failure.
    steps: Vec<usize>,
    /// Evaluations that give no number, by the step they follow.
    evaluations: Vec<usize>,
    /// The evaluation loss after a step; 1 without an entry. One entry is used once, the
    /// last for good.
    losses: Vec<(usize, f64)>,
    /// What is done when a step fails.
    at_failure: Option<Box<dyn FnMut() + Send>>,
    /// First token of each step's rows.
    seen: Vec<u32>,
}

/// Learns nothing, and does what a script says.
struct Scripted {
    name: &'static str,
    evaluates: bool,
    script: Arc<Mutex<Script>>,
    step: usize,
}

/// Takes the first entry that equals `step` out of a list.
fn take(list: &mut Vec<usize>, step: usize) -> bool {
    let found = list.iter().position(|entry| *entry == step);
    found.map(|index| list.remove(index)).is_some()
}

impl Objective for Scripted {
    type Model = Linear;
    type Batch = Batch;

    fn accumulate(&mut self, _: &Linear, window: &[Batch], seed: StepSeed) -> Result<Accumulated> {
        self.step = seed.step + 1;
        let mut script = self.script.lock().unwrap();
        script.seen.push(window[0].input_ids[0]);
        let fails = take(&mut script.steps, self.step);
        if let Some(hook) = script.at_failure.as_mut().filter(|_| fails) {
            hook();
        }
        Ok(Accumulated {
            loss: if fails { f64::NAN } else { 1.0 },
            gradients: ParameterGradients::default(),
            ..Accumulated::default()
        })
    }

    fn evaluate(&mut self, _: &Linear) -> Result<LogRow> {
        let mut script = self.script.lock().unwrap();
        if take(&mut script.evaluations, self.step) {
            return Err(TrainerError::NonFiniteEvaluation {
                step: None,
                name: "eval_loss".into(),
                value: f64::NAN,
                given_up: GivenUp::AtOnce,
            });
        }
        let entry = script
            .losses
            .iter()
            .position(|(step, _)| *step == self.step);
        let loss = entry.map_or(1.0, |entry| script.losses.remove(entry).1);
        Ok(LogRow::from_iter([("eval_loss".to_owned(), json!(loss))]))
    }

    fn eval_samples(&self) -> usize {
        usize::from(self.evaluates)
    }

    fn saver(&self, _: Linear, _: Precision) -> SaveModel {
        let name = self.name;
        Box::new(move |folder| {
            fs::write(folder.join("model"), name).map_err(TrainerError::io(folder))?;
            Ok(Vec::new())
        })
    }

    fn restore(&self, model: Linear, folder: &Path) -> Result<Linear> {
        assert_eq!(fs::read_to_string(folder.join("model")).unwrap(), self.name);
        Ok(model)
    }
}

#[derive(Default)]
struct Seen {
    steps: Vec<(usize, f64)>,
    warnings: Vec<String>,
    returns: Vec<usize>,
}

impl Observer for Seen {
    fn stepped(&mut self, step: &StepReport) {
        self.steps.push((step.step, step.learning_rate));
    }

    fn went_back(&mut self, step: usize) {
        self.returns.push(step);
    }

    fn warned(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}

/// A run of five steps, one a sample, in a folder that goes with the test.
struct Lab {
    folder: tempfile::TempDir,
    config: Config,
    name: &'static str,
    evaluates: bool,
    streams: bool,
    script: Arc<Mutex<Script>>,
    seen: Seen,
}

impl Lab {
    fn new(policy: NonFinitePolicy, fails_at: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            output_dir: folder.path().to_path_buf(),
            dataset_prepared_path: None,
            learning_rate: 1.0,
            lr_scheduler: trainer_config::LrScheduler::Constant,
            logging_steps: Some(1),
            eval_steps: Some(1.0),
            eval_on_start: false,
            max_steps: Some(5),
            curriculum_sampling: true,
            checkpoint: CheckpointConfig {
                save_steps: Some(2.0),
                ..CheckpointConfig::default()
            },
            guard: GuardConfig {
                on_nonfinite: policy,
                on_nonfinite_limit: 2,
            },
            ..Config::default()
        };
        Self {
            folder,
            config,
            name: "a",
            evaluates: false,
            streams: false,
            script: Arc::new(Mutex::new(Script {
                steps: fails_at.to_vec(),
                ..Script::default()
            })),
            seen: Seen::default(),
        }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains; gives the steps whose loss is in the log.
    fn run(&mut self) -> Result<Vec<usize>> {
        let config = &self.config;
        let device = crate::backend::select(Backend::Auto)
            .unwrap()
            .device
            .autodiff();
        let samples = (1..=5).map(|id| Sample::all_trained(vec![id, id]));
        let options = BatchOptions::training(config, 0).unwrap();
        let feed = if self.streams {
            let rows: Vec<Sample> = samples.collect();
            let open: OpenStream = Box::new(move |cursor| {
                let at = cursor.map_or(0, |at| at.as_u64().unwrap() as usize);
                Ok(Box::new(Rows(rows.clone(), at)))
            });
            Feed::stream(PackedRows::new(open, None, options, 10)?)
        } else {
            Feed::samples(Batches::new(samples.collect::<Vec<_>>(), options)?)
        };
        let objective = Scripted {
            name: self.name,
            evaluates: self.evaluates,
            script: Arc::clone(&self.script),
            step: 0,
        };
        let run = Run::new(
            config,
            objective,
            feed,
            Linear::new(2, 2, false, 0.1, &device).materialize(),
            Arc::new(IdTokenizer::default()),
            None,
            Resume::find(config)?,
        )?;
        run.train(&mut self.seen)?;
        Ok(self.logged("loss"))
    }

    /// Steps of the rows of the log that have a value.
    fn logged(&self, key: &str) -> Vec<usize> {
        let rows = fs::read_to_string(self.path("metrics.jsonl")).unwrap();
        let rows = rows
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row.get(key).is_some())
            .map(|row| row["step"].as_u64().unwrap() as usize)
            .collect()
    }
}

/// Rows of a stream from one of them on.
struct Rows(Vec<Sample>, usize);

impl Iterator for Rows {
    type Item = Result<Vec<Sample>, Box<dyn std::error::Error + Send + Sync>>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.0.get(self.1)?.clone();
        self.1 += 1;
        Some(Ok(vec![row]))
    }
}

impl RowStream for Rows {
    fn cursor(&self) -> Value {
        self.1.into()
    }
}

/// Waits for a checkpoint that is being written.
fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_run_stops_unless_it_is_told_otherwise() {
    let mut lab = Lab::new(NonFinitePolicy::Stop, &[4]);
    let error = lab.run().unwrap_err().to_string();
    assert!(
        error.starts_with("step 4: the loss is NaN; the step was not taken"),
        "{error}"
    );
    assert!(
        error.ends_with("; or set on_nonfinite to skip or rollback"),
        "{error}"
    );
    assert!(lab.path("nonfinite-step-4.json").exists());
}

#[test]
fn a_step_is_left_out() {
    let mut lab = Lab::new(NonFinitePolicy::Skip, &[4]);
    assert_eq!(lab.run().unwrap(), [1, 2, 3, 5]);
    let warnings = &lab.seen.warnings;
    assert!(
        warnings[0].ends_with("the step is left out"),
        "{warnings:?}"
    );
    assert!(lab.path("nonfinite-step-4.json").exists());
}

#[test]
fn a_run_goes_back_with_a_lower_rate() {
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[4, 4]);
    assert_eq!(lab.run().unwrap(), [1, 2, 3, 4, 5]);
    let taken = [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (3, 0.5),
        (3, 0.25),
        (4, 0.25),
        (5, 0.25),
    ];
    assert_eq!(lab.seen.steps, taken);
    assert_eq!(lab.seen.returns, [2, 2]);
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[4, 4, 4]);
    let error = lab.run().unwrap_err();
    let given_up = GivenUp::TooOften(2);
    assert!(
        matches!(error, TrainerError::NonFinite { step: 4, given_up: found, .. } if found == given_up),
        "{error}"
    );
}

/// Samples and streams alike: the rows after going back are those that came before.
#[test]
fn the_data_goes_back_too() {
    for streams in [false, true] {
        let mut lab = Lab::new(NonFinitePolicy::Rollback, &[4]);
        lab.streams = streams;
        assert_eq!(lab.run().unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(
            lab.script().seen,
            [1, 2, 3, 4, 3, 4, 5],
            "streams: {streams}"
        );
    }
}

/// The weights that a step fails with are those of the checkpoint right before it: from
/// there it would fail again, whatever the learning rate.
#[test]
fn the_checkpoint_right_before_is_passed_over() {
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[4]);
    lab.config.checkpoint.save_steps = Some(1.0);
    assert_eq!(lab.run().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(lab.seen.returns, [2]);
}

#[test]
fn checkpoints_of_other_runs_are_not_gone_back_to() {
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[]);
    lab.run().unwrap();
    assert!(lab.path("checkpoint-4").exists());
    // Another run in the same folder, which fails before its first checkpoint.
    lab.name = "b";
    lab.script().steps.push(2);
    let error = lab.run().unwrap_err();
    assert!(
        error.to_string().ends_with(
            "there is no earlier checkpoint of this run to go back to: lower save_steps, or set \
             save_first_step: true"
        ),
        "{error}"
    );
    assert!(lab.seen.returns.is_empty());
    let saved = |name: &str| fs::read_to_string(lab.path(name).join("model")).unwrap();
    assert_eq!(
        (saved("checkpoint-4"), saved("")),
        ("a".to_owned(), "a".to_owned())
    );
    // One that has a checkpoint of its own takes that, though others have more steps.
    lab.script().steps.push(4);
    assert_eq!(lab.run().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(lab.seen.returns, [2]);
    assert_eq!(fs::read_to_string(lab.path("model")).unwrap(), "b");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_named() {
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[]);
    lab.config.checkpoint.save_steps = Some(1.0);
    let path = lab.path("checkpoint-3");
    {
        let mut script = lab.script();
        script.steps.push(5);
        script.at_failure = Some(Box::new(move || {
            wait_for(&path);
            fs::write(path.join("model"), "x").unwrap();
        }));
    }
    assert_eq!(lab.run().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(lab.seen.returns, [2]);
    let named = |warning: &String| warning.contains("checkpoint-3 is skipped: model is damaged");
    assert!(
        lab.seen.warnings.iter().any(named),
        "{:?}",
        lab.seen.warnings
    );
}

#[test]
fn a_checkpoint_of_another_configuration_is_passed_over() {
    let mut lab = Lab::new(NonFinitePolicy::Stop, &[]);
    lab.run().unwrap();
    let newest = checkpoint::find(&lab.config.output_dir, None, true).unwrap();
    let saved = SavedRun::read(&newest.path.unwrap()).unwrap();
    let other = Resume::within(&lab.config, "another run", 9).unwrap();
    assert!(other.checkpoint.is_none());
    let within = |config: &Config, before| {
        let found = Resume::within(config, &saved.run, before).unwrap();
        (found.checkpoint.map(|(_, saved)| saved.step), found.skipped)
    };
    assert_eq!(within(&lab.config, 9), (Some(4), vec![]));
    assert_eq!(within(&lab.config, 4), (Some(2), vec![]));
    assert_eq!(within(&lab.config, 2), (None, vec![]));
    // What may change between two parts of a run may change here.
    lab.config.logging_steps = Some(3);
    assert_eq!(within(&lab.config, 9), (Some(4), vec![]));
    lab.config.weight_decay = 0.5;
    let (found, skipped) = within(&lab.config, 9);
    assert_eq!(found, None);
    assert_eq!(skipped.len(), 2);
    assert!(
        skipped[0]
            .contains("checkpoint-4 is skipped: the run was begun with another configuration")
            && skipped[0].contains("  weight_decay: "),
        "{skipped:?}"
    );
}

/// What was evaluated after the checkpoint is not the best any more.
#[test]
fn evaluations_go_back_too() {
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[4]);
    lab.evaluates = true;
    lab.config.checkpoint.metric_for_best_model = Some("loss".into());
    lab.script().losses = vec![(2, 0.9), (3, 0.1), (3, 0.5)];
    lab.run().unwrap();
    assert_eq!(lab.logged("eval_loss"), [1, 2, 3, 4, 5]);
    let state = fs::read_to_string(lab.path("trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["best_metric"], 0.5);
    assert_eq!(state["global_step"], 5);
    assert_eq!(state["log_history"].as_array().unwrap().len(), 11);
}

/// The time of a run is that of the clock: what was gone back for is part of it once.
#[test]
fn time_is_counted_once() {
    let mut lab = Lab::new(NonFinitePolicy::Rollback, &[4, 4]);
    lab.script().at_failure = Some(Box::new(|| std::thread::sleep(Duration::from_millis(300))));
    let started = Instant::now();
    lab.run().unwrap();
    let elapsed = started.elapsed().as_secs_f64();
    let rows = fs::read_to_string(lab.path("metrics.jsonl")).unwrap();
    let summary: Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
    let runtime = summary["train_runtime"].as_f64().unwrap();
    assert!((0.6..=elapsed).contains(&runtime), "{runtime} of {elapsed}");
}

#[test]
fn an_evaluation_without_a_number_is_refused_by_the_policy() {
    let lab = |policy, fails: &[usize]| {
        let mut lab = Lab::new(policy, &[]);
        lab.evaluates = true;
        lab.config.checkpoint.early_stopping_patience = Some(9);
        lab.script().evaluations = fails.to_vec();
        lab
    };
    let mut stops = lab(NonFinitePolicy::Stop, &[3]);
    let error = stops.run().unwrap_err().to_string();
    assert!(
        error.starts_with(
            "the evaluation after step 3 gives no finite number: eval_loss is NaN. Lower"
        ),
        "{error}"
    );
    let mut skips = lab(NonFinitePolicy::Skip, &[3]);
    assert_eq!(skips.run().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(skips.logged("eval_loss"), [1, 2, 4, 5]);
    // After a step, and at the end.
    for (step, seen) in [(3, vec![1, 2, 3, 3, 4, 5]), (5, vec![1, 2, 3, 4, 5, 5])] {
        let mut goes_back = lab(NonFinitePolicy::Rollback, &[step]);
        assert_eq!(goes_back.run().unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(goes_back.seen.returns, [if step == 3 { 2 } else { 4 }]);
        assert_eq!(goes_back.script().seen, seen);
        assert_eq!(goes_back.logged("eval_loss"), [1, 2, 3, 4, 5]);
    }
    // At the last evaluation, which comes by itself.
    let mut last = lab(NonFinitePolicy::Rollback, &[5]);
    last.config.eval_steps = Some(2.0);
    assert_eq!(last.run().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(last.seen.returns, [4]);
    // Evaluations that give no number count as no better.
    let mut patient = lab(NonFinitePolicy::Skip, &[2, 3]);
    patient.config.checkpoint.early_stopping_patience = Some(2);
    assert_eq!(patient.run().unwrap(), [1, 2, 3]);
}

#[test]
fn a_weight_that_is_not_finite_is_found() {
    let device = crate::backend::select(Backend::Auto).unwrap().device;
    let model = Linear::new(2, 2, false, 0.1, &device.autodiff()).materialize();
    let names = std::collections::HashSet::from(["weight".to_owned()]);
    assert_eq!(nonfinite_parameter(&model, &names), None);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let model = map_values(model.clone(), |_, value| value.slice_fill(2..3, bad));
        assert_eq!(
            nonfinite_parameter(&model, &names),
            Some("weight".to_owned())
        );
        // One that does not change is as it came.
        assert_eq!(nonfinite_parameter(&model, &Default::default()), None);
    }
}
