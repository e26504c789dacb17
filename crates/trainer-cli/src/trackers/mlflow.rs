//! A run in MLflow's file store: a folder for each experiment and run, with
//! `meta.yaml`, one file for each metric (`timestamp value step` lines),
//! parameter and tag.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use trainer_core::LogRow;

use super::{Ending, Log, Run, drawn_id, now, scalars};

/// Longest value of a parameter that MLflow reads.
const LONGEST_PARAMETER: usize = 6000;

/// A run that is being written.
pub(super) struct MlFlow {
    folder: PathBuf,
    experiment: String,
    id: String,
    name: String,
    started: u64,
}

fn milliseconds() -> u64 {
    (now() * 1000.0) as u64
}

impl MlFlow {
    /// Begins a run in the experiment of that name, which is made if it is not
    /// there.
    pub(super) fn create(
        store: &Path,
        experiment: &str,
        name: &str,
        run: &Run,
    ) -> io::Result<Self> {
        fs::create_dir_all(store)?;
        let store = fs::canonicalize(store)?;
        let experiment = find_or_make(&store, experiment)?;
        let id = drawn_id(32);
        let mlflow = Self {
            folder: store.join(&experiment).join(&id),
            experiment,
            id,
            name: name.to_owned(),
            started: milliseconds(),
        };
        for folder in ["metrics", "params", "tags", "artifacts"] {
            fs::create_dir_all(mlflow.folder.join(folder))?;
        }
        mlflow.meta(1, None)?;
        fs::write(mlflow.folder.join("tags/mlflow.runName"), name)?;
        fs::write(mlflow.folder.join("tags/mlflow.source.name"), "trainer")?;
        for (key, value) in &run.config {
            let text = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            if text.len() <= LONGEST_PARAMETER {
                fs::write(mlflow.folder.join("params").join(allowed(key)), text)?;
            }
        }
        Ok(mlflow)
    }

    /// Writes `meta.yaml`; the status is MLflow's number: 1 running, 3 finished,
    /// 4 failed, 5 killed.
    fn meta(&self, status: u8, end: Option<u64>) -> io::Result<()> {
        let artifacts = self.folder.join("artifacts");
        let end = end.map_or("null".to_owned(), |end| end.to_string());
        let text = format!(
            "artifact_uri: {artifacts}\nend_time: {end}\nentry_point_name: ''\nexperiment_id: \
             '{experiment}'\nlifecycle_stage: active\nrun_id: {id}\nrun_name: {name}\nrun_uuid: \
             {id}\nsource_name: ''\nsource_type: 4\nsource_version: ''\nstart_time: \
             {started}\nstatus: {status}\ntags: []\nuser_id: trainer\n",
            artifacts = quoted(&format!("file://{}", artifacts.display())),
            experiment = self.experiment,
            id = self.id,
            name = quoted(&self.name),
            started = self.started,
        );
        fs::write(self.folder.join("meta.yaml"), text)
    }
}

/// The id of the experiment of that name.
fn find_or_make(store: &Path, name: &str) -> io::Result<String> {
    let line = format!("name: {}", quoted(name));
    for entry in fs::read_dir(store)? {
        let folder = entry?.path();
        let Ok(meta) = fs::read_to_string(folder.join("meta.yaml")) else {
            continue;
        };
        // MLflow writes a plain name without quotes.
        let plain = format!("name: {name}");
        if meta.lines().any(|it| it == line || it == plain)
            && let Some(id) = folder.file_name().and_then(|id| id.to_str())
        {
            return Ok(id.to_owned());
        }
    }
    let id = match name {
        "Default" => "0".to_owned(),
        // Like those of MLflow: a number of 18 digits.
        _ => format!(
            "{}",
            100_000_000_000_000_000 + (now() * 1e6) as u64 % 800_000_000_000_000_000
        ),
    };
    let folder = store.join(&id);
    fs::create_dir_all(&folder)?;
    let time = milliseconds();
    fs::write(
        folder.join("meta.yaml"),
        format!(
            "artifact_location: {}\ncreation_time: {time}\nexperiment_id: \
             '{id}'\nlast_update_time: {time}\nlifecycle_stage: active\n{line}\n",
            quoted(&format!("file://{}", folder.display()))
        ),
    )?;
    Ok(id)
}

/// A text as YAML: JSON is.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A name as MLflow allows it.
fn allowed(name: &str) -> String {
    let change = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "_-. /".contains(c) => c,
        _ => '_',
    };
    name.chars().map(change).collect()
}

impl Log for MlFlow {
    fn row(&mut self, step: i64, row: &LogRow) -> io::Result<()> {
        for (key, value) in scalars(row) {
            let path = self.folder.join("metrics").join(allowed(key));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            writeln!(file, "{} {value} {step}", milliseconds())?;
        }
        Ok(())
    }

    fn ended(&mut self, ending: Ending) -> io::Result<()> {
        let status = match ending {
            Ending::Finished => 3,
            Ending::Failed => 4,
            Ending::Stopped => 5,
        };
        self.meta(status, Some(milliseconds()))
    }
}
