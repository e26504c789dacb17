//! `trainer sweep`: a run for every combination of values.
//!
//! Each run is a process of its own, so that one that fails or runs out of memory
//! takes no other with it.

use std::fs;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use trainer_config::{SweepRun, load_sweep};

use crate::EXIT_STOPPED;
use crate::args::{Overrides, Sweep};
use crate::failure::Failure;
use crate::report::{self, Results, number, read_log};
use crate::session::load_layers;

/// What came of a run.
struct Done {
    name: String,
    values: SweepRun,
    ended: Ended,
    results: Results,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Finished,
    Failed,
    Stopped,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

pub(crate) fn run(arguments: &Sweep) -> Result<(), Failure> {
    let (shown, overrides) = arguments.shown.with(arguments.keys.overrides()?);
    let output = load_layers(&arguments.config, overrides.clone())?
        .config
        .output_dir;
    let runs = load_sweep(&arguments.sweep)?;
    let digits = runs.len().to_string().len().max(3);
    let mut planned: Vec<(String, SweepRun, Overrides)> = Vec::new();
    for (index, values) in runs.into_iter().enumerate() {
        if values.iter().any(|(key, _)| key == "output_dir") {
            return Err(Failure::new(format!(
                "{}: `output_dir` cannot be swept: each run gets a folder in that of the \
                 configuration",
                arguments.sweep.display()
            )));
        }
        let name = format!("sweep-{:0digits$}", index + 1);
        let folder = output.join(&name).display().to_string();
        let mut all = overrides.clone();
        // A later value of a key wins.
        all.retain(|(key, _)| key != "output_dir" && !values.iter().any(|(own, _)| own == key));
        all.extend(values.iter().cloned());
        all.push(("output_dir".to_owned(), folder));
        // A mistake in the last combination is found before the first one trains.
        load_layers(&arguments.config, all.clone())?;
        planned.push((name, values, all));
    }

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop))?;
    }
    let count = planned.len();
    let mut done: Vec<Done> = Vec::new();
    for (index, (name, values, overrides)) in planned.into_iter().enumerate() {
        shown.note(format!("run {} of {count}: {}", index + 1, listed(&values)));
        let folder = output.join(&name);
        let ended = train(&arguments.config, &overrides, &folder, shown.quiet, &stop)?;
        let rows = read_log(&folder).map(|log| log.rows).unwrap_or_default();
        done.push(Done {
            name,
            values,
            ended,
            results: Results::of(&rows),
        });
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    finish(&output, count, &done, shown.json)
}

/// One run, to its end.
fn train(
    config: &Path,
    overrides: &Overrides,
    folder: &Path,
    quiet: bool,
    stop: &AtomicBool,
) -> Result<Ended, Failure> {
    // The log of an earlier sweep would be taken for that of a run that fails early.
    let _ = fs::remove_file(folder.join("metrics.jsonl"));
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("train");
    if quiet {
        command.arg("--quiet");
    }
    command.arg(config);
    for (key, value) in overrides {
        command.arg(format!("--{key}={value}"));
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // Ctrl-C reaches both processes; a signal to this one alone is passed on.
        if stop.load(Ordering::Relaxed) && !told {
            told = fs::write(folder.join("STOP"), "").is_ok();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = fs::remove_file(folder.join("STOP"));
    Ok(match status.code() {
        Some(0) => Ended::Finished,
        Some(EXIT_STOPPED) => Ended::Stopped,
        _ => Ended::Failed,
    })
}

/// The table, the files, and what the whole comes to.
fn finish(output: &Path, count: usize, done: &[Done], json_wanted: bool) -> Result<(), Failure> {
    let runs: Vec<Value> = done
        .iter()
        .map(|run| {
            let values: serde_json::Map<String, Value> = run
                .values
                .iter()
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect();
            json!({
                "run": run.name,
                "values": values,
                "state": run.ended.name(),
                "results": run.results.to_json(),
            })
        })
        .collect();
    let text = format!("{:#}\n", json!({"planned": count, "runs": runs}));
    report::save(&output.join("sweep.json"), &text)?;
    let folders: Vec<PathBuf> = done
        .iter()
        .map(|run| output.join(&run.name))
        .filter(|folder| folder.join("metrics.jsonl").is_file())
        .collect();
    if !folders.is_empty() {
        report::save(&output.join("sweep.html"), &report::comparison(&folders)?)?;
    }
    match json_wanted {
        true => write!(stdout(), "{text}")?,
        false => write!(stdout(), "{}", table(done))?,
    }
    let ended = |how| done.iter().filter(|run| run.ended == how).count();
    if done.len() < count || ended(Ended::Stopped) > 0 {
        return Err(Failure::stopped(format!(
            "stopped after {} of {count} runs",
            ended(Ended::Finished)
        )));
    }
    match ended(Ended::Failed) {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {count} runs failed"))),
    }
}

/// The runs, best first: by evaluation loss where there is one, else by the mean
/// training loss.
fn table(done: &[Done]) -> String {
    const COLUMNS: [&str; 4] = [
        "best evaluation loss",
        "evaluation loss",
        "mean training loss",
        "seconds",
    ];
    let mut order: Vec<&Done> = done.iter().collect();
    let by = |run: &Done| {
        let loss = run.results.get(COLUMNS[0]).or(run.results.get(COLUMNS[2]));
        (run.ended != Ended::Finished, loss.unwrap_or(f64::INFINITY))
    };
    order.sort_by(|a, b| {
        let ((a_bad, a_loss), (b_bad, b_loss)) = (by(a), by(b));
        a_bad.cmp(&b_bad).then(a_loss.total_cmp(&b_loss))
    });
    let columns = COLUMNS
        .iter()
        .filter(|name| done.iter().any(|run| run.results.get(name).is_some()));
    let columns: Vec<&str> = columns.copied().collect();
    let mut lines: Vec<Vec<String>> = vec![vec!["run".to_owned()]];
    lines[0].extend(columns.iter().map(|name| (*name).to_owned()));
    lines[0].extend(["state".to_owned(), "values".to_owned()]);
    for run in order {
        let mut cells = vec![run.name.clone()];
        let value = |name: &&str| run.results.get(name).map_or(String::new(), number);
        cells.extend(columns.iter().map(value));
        cells.extend([run.ended.name().to_owned(), listed(&run.values)]);
        lines.push(cells);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(
                |(column, (cell, width))| match (1..=columns.len()).contains(&column) {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                },
            )
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn listed(values: &SweepRun) -> String {
    let pairs: Vec<String> = values
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(" ")
}
