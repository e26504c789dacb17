//! Runs for the programs that show them: event files for TensorBoard, offline
//! runs for Weights & Biases, MLflow's file store, trackio's databases.
//!
//! Nothing is sent anywhere: each writes files of its program's format. The files
//! begin when the run does, so that a run that does not start leaves none; one
//! that cannot be written to gives a warning and no more rows.
//!
//! A run that goes on from a checkpoint goes on in every program: a mark in
//! `output_dir` ([`Mark`]) says which run that is. What was logged after the checkpoint
//! is taken back, and what the program lacks of `metrics.jsonl` is added, so that both
//! have the same rows, each once.

mod mlflow;
mod tensorboard;
#[cfg(feature = "trackio")]
mod trackio;
mod wandb;
mod wire;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use trainer_config::Config;
use trainer_core::{LogRow, Observer, RunPlan, TrainerError};

use crate::failure::Failure;
use crate::report::save;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Finished,
    Stopped,
    Failed,
}

/// The files of one program.
trait Log {
    fn row(&mut self, step: i64, row: &LogRow) -> io::Result<()>;
    fn ended(&mut self, ending: Ending) -> io::Result<()>;
}

/// What every program is told of a run.
struct Run {
    name: String,
    config: Map<String, Value>,
}

/// Begins the files, for a run of which so many steps are done already.
type Open = Box<dyn Fn(usize) -> io::Result<Box<dyn Log>>>;

/// Writes a run for one program.
struct Tracker {
    name: &'static str,
    open: Open,
    log: Option<Box<dyn Log>>,
}

impl Tracker {
    fn boxed(name: &'static str, open: Open) -> Box<dyn Observer> {
        let log = None;
        Box::new(Self { name, open, log })
    }

    /// Gives up after an error: the run is worth more than its picture.
    fn check(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            eprintln!(
                "warning: {}: {error}; nothing more is written for it",
                self.name
            );
            self.log = None;
        }
    }
}

impl Observer for Tracker {
    fn started(&mut self, plan: &RunPlan) {
        let opened = (self.open)(plan.steps_done).map(|log| self.log = Some(log));
        self.check(opened);
    }

    /// As where another process goes on from the checkpoint.
    fn went_back(&mut self, step: usize) {
        if self.log.take().is_some() {
            let opened = (self.open)(step).map(|log| self.log = Some(log));
            self.check(opened);
        }
    }

    fn logged(&mut self, row: &LogRow) {
        if let Some(log) = &mut self.log {
            let written = log.row(step_of(row), row);
            self.check(written);
        }
    }

    fn ended(&mut self, error: Option<&TrainerError>) {
        let ending = match error {
            None => Ending::Finished,
            Some(TrainerError::Stopped { .. }) => Ending::Stopped,
            Some(_) => Ending::Failed,
        };
        if let Some(log) = &mut self.log {
            let written = log.ended(ending);
            self.check(written);
        }
    }
}

/// The trackers that the configuration asks for.
pub(crate) fn trackers(config: &Config) -> Result<Vec<Box<dyn Observer>>, Failure> {
    let keys = &config.tracking;
    let output = config.output_dir.clone();
    let name = output
        .file_name()
        .unwrap_or(output.as_os_str())
        .to_string_lossy()
        .into_owned();
    let run = || Run {
        name: name.clone(),
        config: match serde_json::to_value(config) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        },
    };
    let mut all = Vec::new();
    if keys.use_tensorboard {
        let output = output.clone();
        let open = move |steps_done| -> io::Result<Box<dyn Log>> {
            let log = tensorboard::TensorBoard::create(&output, steps_done)?;
            Ok(Box::new(log))
        };
        all.push(Tracker::boxed("TensorBoard", Box::new(open)));
    }
    if keys.wandb() {
        let names = wandb::Names {
            project: keys.wandb_project.clone(),
            entity: keys.wandb_entity.clone(),
            name: keys.wandb_name.clone(),
            id: keys.wandb_run_id.clone(),
        };
        let (run, output) = (run(), output.clone());
        let open = move |steps_done| -> io::Result<Box<dyn Log>> {
            let log = wandb::Wandb::create(&output, &names, &run, steps_done)?;
            Ok(Box::new(log))
        };
        all.push(Tracker::boxed("Weights & Biases", Box::new(open)));
    }
    if keys.use_mlflow {
        let store = keys.mlflow_folder().to_owned();
        let experiment = keys.mlflow_experiment_name.clone();
        let experiment = experiment.unwrap_or_else(|| "Default".to_owned());
        let mut run = run();
        if let Some(name) = &keys.mlflow_run_name {
            run.name.clone_from(name);
        }
        let output = output.clone();
        let open = move |steps_done| -> io::Result<Box<dyn Log>> {
            let store = Path::new(&store);
            let log = mlflow::MlFlow::create(&output, store, &experiment, &run, steps_done)?;
            Ok(Box::new(log))
        };
        all.push(Tracker::boxed("MLflow", Box::new(open)));
    }
    if keys.trackio() {
        #[cfg(feature = "trackio")]
        {
            let names = trackio::Names {
                project: keys.trackio_project(),
                name: keys.trackio_run_name.clone(),
                space: keys.trackio_space().map(str::to_owned),
            };
            let run = run();
            let open = move |steps_done| -> io::Result<Box<dyn Log>> {
                let log = trackio::Trackio::create(&output, &names, &run, steps_done)?;
                Ok(Box::new(log))
            };
            all.push(Tracker::boxed("trackio", Box::new(open)));
        }
        #[cfg(not(feature = "trackio"))]
        return Err(Failure::new(
            "this program was built without `use_trackio`; build it with `--features \
             trackio`, or use `use_tensorboard`, `use_wandb` or `use_mlflow`",
        ));
    }
    Ok(all)
}

/// The name that Hugging Face gives a value: programs group by the part before the
/// slash.
fn hub_name(key: &str) -> String {
    match key.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{key}"),
    }
}

/// The finite numbers of a row, but for the step.
fn scalars(row: &LogRow) -> impl Iterator<Item = (&str, f64)> {
    let number = |(key, value): (&'_ String, &Value)| -> Option<f64> {
        value
            .as_f64()
            .filter(|value| value.is_finite() && key != "step")
    };
    row.iter()
        .filter_map(move |(key, value)| Some((key.as_str(), number((key, value))?)))
}

/// A file of `output_dir` that says which run of a program the folder is of.
struct Mark(&'static str);

impl Mark {
    /// What was written for `folder`, a canonical path. A copy of a folder is not of
    /// the run that the folder is of.
    fn read(&self, folder: &Path) -> Option<Value> {
        let text = fs::read_to_string(folder.join(self.0)).ok()?;
        let mark: Value = serde_json::from_str(&text).ok()?;
        let is_here = mark["output_dir"].as_str() == Some(&*folder.to_string_lossy());
        is_here.then_some(mark)
    }

    /// Writes an object, and which folder it is for.
    fn write(&self, folder: &Path, mut mark: Value) -> io::Result<()> {
        mark["output_dir"] = folder.to_string_lossy().into();
        replace(&folder.join(self.0), &format!("{mark:#}\n"))
    }
}

/// Writes a file that holds its old text until it has the new.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    save(path, text).map_err(io::Error::other)
}

/// The log of a run up to the checkpoint that it goes on from.
fn logged(output: &Path) -> io::Result<Vec<LogRow>> {
    let path = output.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    let rows: serde_json::Result<Vec<LogRow>> = text.lines().map(serde_json::from_str).collect();
    rows.map_err(|error| at(&path)(io::Error::from(error)))
}

/// The step of a row.
fn step_of(row: &LogRow) -> i64 {
    row.get("step").and_then(Value::as_i64).unwrap_or(0)
}

/// Whether numbers are the same but for what reading them may round.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + use<> {
    let path: PathBuf = path.to_owned();
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// An id of `length` letters and digits that no other run has: made of the time
/// and the process.
fn drawn_id(length: usize) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = time.map_or(0, |time| time.as_nanos() as u64);
    let seeds = seqprep::SeedStream::new(nanoseconds ^ u64::from(std::process::id()) << 40);
    let hex: String = (0..length.div_ceil(16) as u64)
        .map(|place| format!("{:016x}", seeds.derive("run id", place)))
        .collect();
    hex[..length].to_owned()
}

/// Year, month, day, hour, minute and second of a time in seconds since 1970, UTC
/// (Howard Hinnant's algorithm `civil_from_days`).
pub(crate) fn calendar(seconds: u64) -> [u64; 6] {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let time = seconds % 86_400;
    [year, month, day, time / 3600, time / 60 % 60, time % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar() {
        assert_eq!(calendar(0), [1970, 1, 1, 0, 0, 0]);
        assert_eq!(calendar(951_782_399), [2000, 2, 28, 23, 59, 59]);
        assert_eq!(calendar(951_782_400), [2000, 2, 29, 0, 0, 0]);
        assert_eq!(calendar(1_893_456_000), [2030, 1, 1, 0, 0, 0]);
    }

    /// A run of a folder that was copied or moved is another one.
    #[test]
    fn the_mark_is_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (home, copy) = (folder.path().join("a"), folder.path().join("b"));
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(&copy).unwrap();
        let mark = Mark("mark.json");
        let home = fs::canonicalize(&home).unwrap();
        mark.write(&home, serde_json::json!({"run_id": "x"}))
            .unwrap();
        assert_eq!(mark.read(&home).unwrap()["run_id"], "x");
        fs::copy(home.join("mark.json"), copy.join("mark.json")).unwrap();
        assert_eq!(mark.read(&fs::canonicalize(&copy).unwrap()), None);
    }

    /// Rows, and where the files were opened anew.
    #[derive(Default, Clone)]
    struct Opened(std::rc::Rc<std::cell::RefCell<Vec<i64>>>);

    impl Log for Opened {
        fn row(&mut self, step: i64, _row: &LogRow) -> io::Result<()> {
            self.0.borrow_mut().push(step);
            Ok(())
        }

        fn ended(&mut self, _ending: Ending) -> io::Result<()> {
            Ok(())
        }
    }

    /// A run that goes back to a checkpoint is written like one that another process
    /// resumes.
    #[test]
    fn a_run_that_goes_back_is_opened_again() {
        let opened = Opened::default();
        let log = opened.clone();
        let open = move |steps_done: usize| -> io::Result<Box<dyn Log>> {
            log.0.borrow_mut().push(-(steps_done as i64));
            Ok(Box::new(log.clone()))
        };
        let mut tracker = Tracker::boxed("a program", Box::new(open));
        tracker.started(&RunPlan {
            total_steps: 4,
            steps_done: 0,
            samples: None,
            eval_samples: 0,
            trainable_parameters: 1,
        });
        let row = |step: i64| LogRow::from_iter([("step".to_owned(), step.into())]);
        tracker.logged(&row(3));
        tracker.went_back(2);
        tracker.logged(&row(3));
        assert_eq!(*opened.0.borrow(), [0, 3, -2, 3]);
    }

    #[test]
    fn ids_differ() {
        let (a, b) = (drawn_id(8), drawn_id(32));
        assert!(a.len() == 8 && b.len() == 32 && !b.starts_with(&a));
    }
}
