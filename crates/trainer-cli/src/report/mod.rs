//! What a run leaves for people: `report.html` and the model card, and the page
//! that compares runs.
//!
//! ```text
//! before the run  About: configuration, environment, data ──┐
//! metrics.jsonl ───────────────── read_log ─────────────────┼─▶ report.html, README.md
//! how it ended ─────────────────── Outcome ─────────────────┘
//! ```
//!
//! The curves come from `metrics.jsonl`, so that a run that was gone on with shows
//! all of itself.

mod card;
mod environment;
mod lengths;
mod page;
mod results;
mod series;

use std::fs;
use std::path::{Path, PathBuf};

use seqprep::PadTo;
use trainer_config::{Config, Loaded};
use trainer_core::{BatchOptions, LogRow, Observer, RunPlan, SAMPLES, TrainerError};
use trainer_data::preview::{PreviewReport, PreviewRow, Roles, rows_to_html};
use trainer_data::{Ledger, Samples, Tokenizer};
use trainer_model::{ModelError, write_atomically};

use crate::failure::Failure;
use crate::progress::samples;
use crate::trackers::{calendar, now};
use environment::{command, environment};
use lengths::{Bar, bars};
use page::{CHARTS, Page, escaped, table};
pub(crate) use results::{Results, number};
pub(crate) use series::RunLog;
use series::{charts, to_json};

/// Name of the report in the output folder.
pub(crate) const REPORT: &str = "report.html";

/// Samples of which the mask is shown.
const SHOWN_SAMPLES: usize = 3;
/// Tokens of each of them that are shown.
const SHOWN_TOKENS: usize = 600;

/// What is known of a run before it begins.
pub(crate) struct About {
    config: Config,
    resolved: String,
    command: String,
    folder: Option<PathBuf>,
    environment: Vec<(&'static str, String)>,
    data: Option<DataShown>,
    /// Parameters that are trained, once the run has begun.
    trained: Option<usize>,
    /// Steps of the checkpoint that the run went on from.
    steps_before: usize,
}

/// What is shown of the training data.
pub(crate) struct DataShown {
    lengths: PreviewReport,
    bars: Vec<Bar>,
    rows: Vec<PreviewRow>,
}

impl DataShown {
    /// Looks at prepared samples, which have `trained` targets.
    ///
    /// # Errors
    /// When a sample cannot be read, or the tokenizer cannot give the text of an id.
    pub(crate) fn of(
        samples: &Samples,
        trained: usize,
        config: &Config,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Failure> {
        let count = samples.len();
        let lengths: Vec<usize> = (0..count)
            .map(|at| samples.length(at).unwrap_or(0))
            .collect();
        let mut collate = BatchOptions::training(config, tokenizer.pad_id().unwrap_or(0))?.collate;
        collate.pad_to = PadTo::Longest;
        let mut rows = Vec::new();
        for (index, sample) in samples.iter().take(SHOWN_SAMPLES).enumerate() {
            let sample = sample?;
            let batch = seqprep::collate_packed(&[vec![sample.as_ref()]], &collate)?;
            // Who says what takes another pass over the files: `trainer preview` does it.
            let roles = Roles::default();
            rows.extend(PreviewRow::from_batch(
                &batch,
                index + 1,
                tokenizer,
                &roles,
            )?);
        }
        Ok(Self {
            lengths: PreviewReport::new(
                &lengths,
                trained,
                Vec::<Vec<Vec<u32>>>::new(),
                PadTo::Longest,
                false,
            ),
            bars: bars(&lengths),
            rows,
        })
    }

    fn lengths_html(&self) -> String {
        let [shortest, median, longest] = self.lengths.lengths;
        let most = self.bars.iter().map(|bar| bar.samples).max().unwrap_or(0);
        let bars: String = self
            .bars
            .iter()
            .map(|bar| {
                let name = match bar.first == bar.last {
                    true => bar.last.to_string(),
                    false => format!("{}-{}", bar.first, bar.last),
                };
                format!(
                    "<tr><td class=\"n\">{name}</td><td><span class=\"bar\" style=\"width:{:.1}rem\">\
                     </span> {}</td></tr>\n",
                    bar.samples as f64 / most.max(1) as f64 * 14.0,
                    bar.samples
                )
            })
            .collect();
        format!(
            "<p>{} samples of {shortest} to {longest} tokens, median {median}.</p>\n<table>\n{bars}\
             </table>",
            self.lengths.samples
        )
    }

    fn samples_html(&self) -> String {
        let mut html = String::from(
            "<p><span class=\"t\">trained</span> <span class=\"m\">masked</span>; pointing at a \
             token shows its id and position.</p>\n",
        );
        for row in &self.rows {
            let mut row = row.clone();
            let rest = row.tokens.len().saturating_sub(SHOWN_TOKENS);
            row.tokens.truncate(SHOWN_TOKENS);
            html.push_str(&rows_to_html(&[row]));
            if rest > 0 {
                html.push_str(&format!("<p class=\"dim\">{rest} more tokens</p>\n"));
            }
        }
        html
    }
}

/// How a run ended.
pub(crate) enum Outcome<'a> {
    /// At its last step, or by early stopping.
    Finished,
    /// By a signal or a wish, or by an error, with its message.
    Ended(&'a str),
}

impl About {
    pub(crate) fn new(loaded: &Loaded, backend: &str, data: Option<DataShown>) -> Self {
        Self {
            config: loaded.config.clone(),
            resolved: loaded.render(),
            command: command(loaded),
            folder: std::env::current_dir().ok(),
            environment: environment(backend),
            data,
            trained: None,
            steps_before: 0,
        }
    }

    /// Writes `report.html`, and for a finished run the model card.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(crate) fn write(
        &self,
        outcome: &Outcome<'_>,
        ledger: Option<&Ledger>,
    ) -> Result<(), Failure> {
        let output = &self.config.output_dir;
        let log = read_log(output)?;
        let results = Results::of(&log.rows);
        let html = self.page(outcome, ledger, log, &results);
        save(&output.join(REPORT), &html)?;
        if matches!(outcome, Outcome::Finished) {
            save(&output.join("README.md"), &self.card(&results, ledger))?;
        }
        Ok(())
    }

    fn page(
        &self,
        outcome: &Outcome<'_>,
        ledger: Option<&Ledger>,
        log: RunLog,
        results: &Results,
    ) -> String {
        let mut page = Page::new(&log.name);
        page.lead(&match outcome {
            Outcome::Finished => "<p>Finished.</p>".to_owned(),
            Outcome::Ended(message) => {
                format!("<p class=\"bad\"><b>{}</b></p>", escaped(message))
            }
        });
        page.lead(&format!("<p class=\"dim\">{}</p>", escaped(&self.what())));
        page.section("results", "Results", &table(&[], &results.table()));
        page.section("", "Curves", CHARTS);
        if let Some(samples) = samples_html(&log.rows) {
            page.section("samples", "What the model writes", &samples);
        }
        if let Some(ledger) = ledger {
            page.section("data", "Data", &ledger_html(ledger));
        }
        if let Some(data) = &self.data {
            page.section(
                "",
                "Lengths of the samples, in tokens",
                &data.lengths_html(),
            );
            page.section("rows", "What is trained", &data.samples_html());
        }
        page.section("", "To run it again", &self.command_html());
        let environment = self.environment.iter();
        let environment: Vec<Vec<String>> = environment
            .map(|(name, value)| vec![(*name).to_owned(), value.clone()])
            .collect();
        page.section("", "Environment", &table(&[], &environment));
        let config = format!(
            "<details><summary>Every value, with its origin</summary><pre>{}</pre></details>",
            self.config_html()
        );
        page.section("", "Configuration", &config);
        page.finish(&to_json(&charts(&[log])))
    }

    /// What was trained on what, and when.
    fn what(&self) -> String {
        let config = serde_json::to_value(&self.config).unwrap_or_default();
        let mut what = vec![self.config.base_model.display().to_string()];
        let method = |key: &str| config[key].as_str().map(str::to_owned);
        what.push(method("adapter").unwrap_or_else(|| "full".to_owned()));
        what.extend(method("rl"));
        for key in ["reward_model", "process_reward_model"] {
            if config[key] == true {
                what.push(key.replace('_', " "));
            }
        }
        if let Some(trained) = self.trained {
            what.push(format!("{trained} trained parameters"));
        }
        if self.steps_before > 0 {
            what.push(format!("went on after step {}", self.steps_before));
        }
        let [year, month, day, hour, minute, _] = calendar(now() as u64);
        what.push(format!(
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC"
        ));
        what.join(" · ")
    }

    fn command_html(&self) -> String {
        let folder = self.folder.as_ref().map(|folder| {
            format!(
                "<p class=\"dim\">in {}</p>",
                escaped(&folder.display().to_string())
            )
        });
        format!(
            "<pre>{}</pre>{}",
            escaped(&self.command),
            folder.unwrap_or_default()
        )
    }

    /// The resolved configuration; origins are comments.
    fn config_html(&self) -> String {
        let lines = self
            .resolved
            .lines()
            .map(|line| match line.rsplit_once("  # ") {
                Some((value, origin)) => {
                    format!("{}  <u># {}</u>\n", escaped(value), escaped(origin))
                }
                None => format!("{}\n", escaped(line)),
            });
        lines.collect()
    }

    fn card(&self, results: &Results, ledger: Option<&Ledger>) -> String {
        card::card(&self.config, &self.command, results, ledger)
    }
}

/// Writes the report when a run is over.
pub(crate) struct Reporter {
    about: About,
    ledger: Box<dyn Fn() -> Option<Ledger>>,
    /// Before it has started, the folder may be that of another run.
    started: bool,
}

impl Reporter {
    /// `ledger` gives the account of the data at the end of the run.
    pub(crate) fn new(about: About, ledger: Box<dyn Fn() -> Option<Ledger>>) -> Self {
        Self {
            about,
            ledger,
            started: false,
        }
    }
}

impl Observer for Reporter {
    fn started(&mut self, plan: &RunPlan) {
        self.started = true;
        self.about.trained = Some(plan.trainable_parameters);
        self.about.steps_before = plan.steps_done;
    }

    fn ended(&mut self, error: Option<&TrainerError>) {
        if !self.started {
            return;
        }
        let message = error.map(ToString::to_string);
        let outcome = message.as_deref().map_or(Outcome::Finished, Outcome::Ended);
        if let Err(failure) = self.about.write(&outcome, (self.ledger)().as_ref()) {
            eprintln!("warning: the report could not be written: {failure}");
        }
    }
}

/// Samples before training, or of the first evaluation, beside those of the last one.
fn samples_html(rows: &[LogRow]) -> Option<String> {
    let mut with = rows.iter().filter(|row| row.contains_key(SAMPLES));
    let first = with.next()?;
    let last = with.next_back().unwrap_or(first);
    let step = |row: &LogRow| {
        row.get("step")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0)
    };
    let text = |text: &str| format!("<pre>{}</pre>", escaped(text));
    let mut html = String::new();
    for (before, after) in samples(first).into_iter().zip(samples(last)) {
        html += &format!(
            "<table>\n<tr><th>prompt</th><td>{}</td></tr>\n<tr><th>step \
             {}</th><td>{}</td></tr>\n<tr><th>step {}</th><td>{}</td></tr>\n<tr><th>in the \
             data</th><td>{}</td></tr>\n</table>\n",
            text(&before.prompt),
            step(first),
            text(&before.completion),
            step(last),
            text(&after.completion),
            text(&before.expected),
        );
    }
    (!html.is_empty()).then_some(html)
}

/// The account of the data.
fn ledger_html(ledger: &Ledger) -> String {
    let head = [
        "data set", "type", "rows", "samples", "kept", "tokens", "trained", "left out",
    ];
    let rows: Vec<Vec<String>> = ledger
        .datasets
        .iter()
        .map(|set| {
            let mut left_out: Vec<String> = Vec::new();
            left_out.extend(
                set.skipped
                    .iter()
                    .map(|(why, rows)| format!("{rows} rows {why}")),
            );
            left_out.extend(
                set.dropped
                    .iter()
                    .map(|(why, count)| format!("{} dropped, {why}", count.samples)),
            );
            if set.truncated.samples > 0 {
                left_out.push(format!(
                    "{} cut by {} tokens",
                    set.truncated.samples, set.truncated.tokens
                ));
            }
            left_out.extend(set.warnings.iter().map(ToString::to_string));
            let test = if set.test { " (test)" } else { "" };
            let numbers = [
                set.rows,
                set.made.samples,
                set.kept.samples,
                set.kept.tokens,
                set.trained_tokens,
            ];
            let mut cells = vec![
                format!("{}{test}", set.path.display()),
                set.strategy.clone(),
            ];
            cells.extend(numbers.iter().map(usize::to_string));
            cells.push(left_out.join("; "));
            cells
        })
        .collect();
    let splits: String = [("Training", ledger.train), ("Evaluation", ledger.eval)]
        .iter()
        .filter(|(_, totals)| totals.samples > 0)
        .map(|(name, totals)| {
            format!(
                "<p>{name}: {} samples, {} tokens, {} of them trained.</p>\n",
                totals.samples, totals.tokens, totals.trained_tokens
            )
        })
        .collect();
    format!("{}\n{splits}", table(&head, &rows))
}

/// The page that compares runs by their folders.
///
/// # Errors
/// When a folder has no log.
pub(crate) fn comparison(folders: &[PathBuf]) -> Result<String, Failure> {
    let mut runs = Vec::new();
    for folder in folders {
        let mut log = read_log(folder)?;
        let same = |run: &RunLog| run.name == log.name;
        if runs.iter().any(same) {
            log.name = folder.display().to_string();
        }
        runs.push(log);
    }
    let results: Vec<Results> = runs.iter().map(|run| Results::of(&run.rows)).collect();
    let mut page = Page::new(&format!("{} runs compared", runs.len()));
    let mut head = vec![""];
    head.extend(runs.iter().map(|run| run.name.as_str()));
    page.section(
        "",
        "Results",
        &table(&head, &results::side_by_side(&results)),
    );
    page.section("", "Curves", CHARTS);
    Ok(page.finish(&to_json(&charts(&runs))))
}

/// The log of the run in a folder.
///
/// # Errors
/// When there is none, or a line of it is no JSON object.
pub(crate) fn read_log(folder: &Path) -> Result<RunLog, Failure> {
    let path = folder.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::new(format!(
            "{}: {error}; the folder of a run has its log there",
            path.display()
        ))
    })?;
    let mut rows: Vec<LogRow> = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            // The last line of a run that was killed may be half a line.
            Err(_) if index + 1 == lines.len() => {}
            Err(error) => {
                return Err(Failure::new(format!(
                    "{}:{}: {error}",
                    path.display(),
                    index + 1
                )));
            }
        }
    }
    let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = absolute.file_name().unwrap_or(folder.as_os_str());
    Ok(RunLog {
        name: name.to_string_lossy().into_owned(),
        rows,
    })
}

/// Writes a text, whole or not at all.
pub(crate) fn save(path: &Path, text: &str) -> Result<(), ModelError> {
    write_atomically(path, |temporary| {
        fs::write(temporary, text).map_err(|source| ModelError::Io {
            path: path.to_path_buf(),
            source,
        })
    })
}
