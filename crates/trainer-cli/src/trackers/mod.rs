//! Runs for the programs that show them: event files for TensorBoard, offline
//! runs for Weights & Biases, MLflow's file store, trackio's databases.
//!
//! Nothing is sent anywhere: each writes files of its program's format. The files
//! begin when the run does, so that a run that does not start leaves none; one
//! that cannot be written to gives a warning and no more rows.

mod mlflow;
mod tensorboard;
#[cfg(feature = "trackio")]
mod trackio;
mod wandb;
mod wire;

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use trainer_config::Config;
use trainer_core::{LogRow, Observer, RunPlan, TrainerError};

use crate::failure::Failure;

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

    fn logged(&mut self, row: &LogRow) {
        let step = row.get("step").and_then(Value::as_i64).unwrap_or(0);
        if let Some(log) = &mut self.log {
            let written = log.row(step, row);
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
        let open = move |_| -> io::Result<Box<dyn Log>> {
            Ok(Box::new(tensorboard::TensorBoard::create(&output)?))
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
        let open = move |_| -> io::Result<Box<dyn Log>> {
            Ok(Box::new(wandb::Wandb::create(&output, &names, &run)?))
        };
        all.push(Tracker::boxed("Weights & Biases", Box::new(open)));
    }
    if keys.use_mlflow {
        let store = keys.mlflow_folder().to_owned();
        let experiment = keys.mlflow_experiment_name.clone();
        let experiment = experiment.unwrap_or_else(|| "Default".to_owned());
        let run = run();
        let name = keys
            .mlflow_run_name
            .clone()
            .unwrap_or_else(|| run.name.clone());
        let open = move |_| -> io::Result<Box<dyn Log>> {
            let store = Path::new(&store);
            Ok(Box::new(mlflow::MlFlow::create(
                store,
                &experiment,
                &name,
                &run,
            )?))
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
            "error: this program was built without `use_trackio`; build it with `--features \
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

    #[test]
    fn ids_differ() {
        let (a, b) = (drawn_id(8), drawn_id(32));
        assert!(a.len() == 8 && b.len() == 32 && !b.starts_with(&a));
    }
}
