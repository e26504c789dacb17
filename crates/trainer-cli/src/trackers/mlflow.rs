//! A run in MLflow's file store: a folder for each experiment and run, with
//! `meta.yaml`, one file for each metric (`timestamp value step` lines),
//! parameter and tag.
//!
//! A run that goes on from a checkpoint goes on in its folder: the files of its metrics
//! are cut after the last value that is still in the log.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trainer_core::LogRow;

use super::{Ending, Log, Mark, Run, at, drawn_id, logged, now, replace, same, scalars, step_of};

/// Which run a folder is of.
const MARK: Mark = Mark("mlflow.json");

/// MLflow's number of the status of a run that is going on.
const RUNNING: u8 = 1;

/// Longest value of a parameter that MLflow reads.
const LONGEST_PARAMETER: usize = 6000;

/// A run that is being written.
pub(super) struct MlFlow {
    folder: PathBuf,
}

fn milliseconds() -> u64 {
    (now() * 1000.0) as u64
}

impl MlFlow {
    /// Begins a run in the experiment of that name, which is made if it is not
    /// there; goes on with that of `output` after `steps_done` steps.
    pub(super) fn create(
        output: &Path,
        store: &Path,
        experiment: &str,
        run: &Run,
        steps_done: usize,
    ) -> io::Result<Self> {
        fs::create_dir_all(store).map_err(at(store))?;
        let store = fs::canonicalize(store)?;
        let output = fs::canonicalize(output)?;
        let experiment = find_or_make(&store, experiment)?;
        let rows = match steps_done {
            0 => Vec::new(),
            _ => logged(&output)?,
        };
        let known = (steps_done > 0).then(|| Self::go_on(&output, &store, &experiment, &rows));
        let mlflow = match known.transpose()?.flatten() {
            Some(mlflow) => mlflow,
            None => Self::begin(&output, &store, &experiment, run, &rows)?,
        };
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

    fn begin(
        output: &Path,
        store: &Path,
        experiment: &str,
        run: &Run,
        rows: &[LogRow],
    ) -> io::Result<Self> {
        let id = drawn_id(32);
        let folder = store.join(experiment).join(&id);
        for part in ["metrics", "params", "tags", "artifacts"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let artifacts = folder.join("artifacts");
        let text = format!(
            "artifact_uri: {artifacts}\nend_time: null\nentry_point_name: ''\nexperiment_id: \
             '{experiment}'\nlifecycle_stage: active\nrun_id: {id}\nrun_name: {name}\nrun_uuid: \
             {id}\nsource_name: ''\nsource_type: 4\nsource_version: ''\nstart_time: \
             {started}\nstatus: {RUNNING}\ntags: []\nuser_id: trainer\n",
            artifacts = quoted(&format!("file://{}", artifacts.display())),
            name = quoted(&run.name),
            started = milliseconds(),
        );
        replace(&folder.join("meta.yaml"), &text)?;
        fs::write(folder.join("tags/mlflow.runName"), &run.name)?;
        fs::write(folder.join("tags/mlflow.source.name"), "trainer")?;
        let folder_text = folder.to_string_lossy();
        MARK.write(output, json!({ "run_id": id, "folder": folder_text }))?;
        let mut mlflow = Self { folder };
        // Those of a run that had no tracker.
        for row in rows {
            mlflow.row(step_of(row), row)?;
        }
        Ok(mlflow)
    }

    /// The run that `output` is of, with the values of `rows` and no others; none where
    /// the experiment has no such run.
    fn go_on(
        output: &Path,
        store: &Path,
        experiment: &str,
        rows: &[LogRow],
    ) -> io::Result<Option<Self>> {
        let Some(mark) = MARK.read(output) else {
            return Ok(None);
        };
        let id = mark["run_id"].as_str().unwrap_or_default();
        let mlflow = Self {
            folder: store.join(experiment).join(id),
        };
        // One that was deleted in MLflow stays so.
        let meta = fs::read_to_string(mlflow.folder.join("meta.yaml"));
        let active = |meta: String| meta.lines().any(|line| line == "lifecycle_stage: active");
        if id.is_empty() || !meta.is_ok_and(active) || !mlflow.take_back(rows)? {
            return Ok(None);
        }
        mlflow.status(RUNNING, None)?;
        Ok(Some(mlflow))
    }

    /// Makes the metrics those of `rows`; false, and nothing done, where they are of
    /// another training.
    fn take_back(&self, rows: &[LogRow]) -> io::Result<bool> {
        let folder = self.folder.join("metrics");
        let mut wanted = BTreeMap::<PathBuf, Vec<(f64, i64)>>::new();
        for row in rows {
            for (key, value) in scalars(row) {
                let values = wanted.entry(folder.join(allowed(key))).or_default();
                values.push((value, step_of(row)));
            }
        }
        let mut found = BTreeMap::new();
        for path in files(&folder)? {
            let text = fs::read(&path).map_err(at(&path))?;
            let values = wanted.get(&path).map_or(&[][..], Vec::as_slice);
            found.insert(path, (shared(&text, values), text.len()));
        }
        let none_is_shared = found.values().all(|((lines, _), _)| *lines == 0);
        if none_is_shared && !found.is_empty() && !wanted.is_empty() {
            return Ok(false);
        }
        for (path, ((_, bytes), length)) in &found {
            if !wanted.contains_key(path) {
                fs::remove_file(path).map_err(at(path))?;
            } else if bytes < length {
                let file = OpenOptions::new().write(true).open(path);
                file.and_then(|file| file.set_len(*bytes as u64))
                    .map_err(at(path))?;
            }
        }
        for (path, values) in &wanted {
            let known = found.get(path).map_or(0, |((lines, _), _)| *lines);
            append(path, &values[known..])?;
        }
        Ok(true)
    }

    /// Changes the status in `meta.yaml`: [`RUNNING`], 3 finished, 4 failed, 5 killed.
    fn status(&self, status: u8, end: Option<u64>) -> io::Result<()> {
        let path = self.folder.join("meta.yaml");
        let meta = fs::read_to_string(&path).map_err(at(&path))?;
        let change = |line: &str| match line.split_once(':') {
            Some(("status", _)) => format!("status: {status}\n"),
            Some(("end_time", _)) => {
                let end = end.map_or("null".to_owned(), |end| end.to_string());
                format!("end_time: {end}\n")
            }
            // The name among them, which can be changed in MLflow.
            _ => format!("{line}\n"),
        };
        replace(&path, &meta.lines().map(change).collect::<String>())
    }
}

/// Files of a folder and of those in it: a metric may have slashes in its name.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => all.extend(files(&entry.path())?),
            false => all.push(entry.path()),
        }
    }
    Ok(all)
}

/// How many lines of a metric's file are the first of `values` (value and step), and
/// their bytes.
fn shared(text: &[u8], values: &[(f64, i64)]) -> (usize, usize) {
    let (mut lines, mut bytes) = (0, 0);
    for (line, (value, step)) in text.split_inclusive(|byte| *byte == b'\n').zip(values) {
        let Some(Ok(known)) = line.strip_suffix(b"\n").map(str::from_utf8) else {
            break;
        };
        let mut fields = known.split(' ').skip(1);
        let is_value = |it: &str| it.parse().is_ok_and(|it| same(it, *value));
        let is_step = |it: &str| it.parse() == Ok(*step);
        if !(fields.next().is_some_and(is_value) && fields.next().is_some_and(is_step)) {
            break;
        }
        (lines, bytes) = (lines + 1, bytes + line.len());
    }
    (lines, bytes)
}

/// Adds values, with their steps, to a metric's file.
fn append(path: &Path, values: &[(f64, i64)]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let time = milliseconds();
    let lines: String = values
        .iter()
        .map(|(value, step)| format!("{time} {value} {step}\n"))
        .collect();
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(at(path))
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
            append(&path, &[(value, step)])?;
        }
        Ok(())
    }

    fn ended(&mut self, ending: Ending) -> io::Result<()> {
        let status = match ending {
            Ending::Finished => 3,
            Ending::Failed => 4,
            Ending::Stopped => 5,
        };
        self.status(status, Some(milliseconds()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shared_up_to_the_first_that_differs() {
        let values = [(0.5, 1), (0.25, 2)];
        let at = |text: &str| shared(text.as_bytes(), &values);
        assert_eq!(at("7 0.5 1\n8 0.25 2\n9 0.125 3\n"), (2, 17));
        assert_eq!(at("7 0.5 1\n8 0.25 3\n"), (1, 8));
        assert_eq!(at("7 0.5 1\n8 0.26 2\n"), (1, 8));
        // A line that was being written.
        assert_eq!(at("7 0.5 1\n8 0.25 2"), (1, 8));
        assert_eq!(at("7 0.5"), (0, 0));
        assert_eq!(at("\n"), (0, 0));
        assert_eq!(at(""), (0, 0));
    }
}
