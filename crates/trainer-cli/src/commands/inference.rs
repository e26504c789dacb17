//! `trainer inference`: the trained model goes on with a prompt.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use trainer_config::{Config, Dataset, DatasetFormat};
use trainer_data::source::{self, Row};
use trainer_data::to_json;

use crate::args::{Run, Shown};
use crate::failure::Failure;
use crate::session::{load_layers, load_trained_model, select_device};
use crate::text::{Prompt, Writer, written_out};

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([prompt, file, raw, greedy, logits], overrides) =
        run.flags(["prompt", "file", "raw", "greedy", "logits"])?;
    let mut config = load_layers(&run.config, written_out(overrides))?.config;
    if greedy.is_some() {
        take_the_likeliest(&mut config);
    }
    let input = match (prompt, file) {
        (Some(_), Some(_)) => {
            return Err(Failure::new(
                "--prompt and --file are two places to read a prompt from; keep one of them",
            ));
        }
        (Some(text), None) => Input::One(text),
        (None, Some(file)) if file.ends_with(".jsonl") => Input::Rows(rows(Path::new(&file))?),
        (None, Some(file)) => Input::One(
            std::fs::read_to_string(&file)
                .map_err(|error| Failure::new(format!("{file}: {error}")))?,
        ),
        (None, None) => Input::One(standard_input()?),
    };
    let device = select_device(&config)?.device;
    let trained = load_trained_model(&config, &device, Shown::default())?;
    let writer = Writer::new(&config, &trained.model, &trained.tokenizer, raw.is_some())?;
    if !writer.has_template() && raw.is_none() {
        eprintln!("no chat template: the prompt is continued as it is");
    }
    match input {
        Input::One(text) if logits.is_some() => {
            let columns = Map::from_iter([("prompt".to_owned(), Value::from(text.as_str()))]);
            scores(&writer, vec![(columns, Prompt::Text(text))])
        }
        Input::Rows(rows) if logits.is_some() => scores(&writer, asked(&writer, rows)?),
        Input::One(text) => one(&writer, text),
        Input::Rows(rows) => many(&writer, asked(&writer, rows)?, &config),
    }
}

/// As with `generation_do_sample: false`, without a word about keys that then
/// have no effect: the flag is there to look at a run's other side.
pub(super) fn take_the_likeliest(config: &mut Config) {
    config.generation.generation_do_sample = false;
}

enum Input {
    One(String),
    Rows(Vec<Row>),
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    // What `echo` puts behind a prompt is not meant to be part of it.
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok(text)
}

/// Writes the answer while it is made.
fn one(writer: &Writer<'_>, text: String) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writer.answer(&[Prompt::Text(text)], 0, |_, piece| {
        out.write_all(piece.as_bytes())?;
        out.flush()
    })?;
    writeln!(out)?;
    Ok(())
}

/// Writes each row with its answer, a batch at a time.
fn many(writer: &Writer<'_>, rows: Vec<Asked>, config: &Config) -> Result<(), Failure> {
    let size = config.eval_batch_size.unwrap_or(config.micro_batch_size);
    let mut out = std::io::stdout().lock();
    for (batch, rows) in rows.chunks(size).enumerate() {
        let (rows, prompts): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
        let answers = writer.answer(&prompts, batch * size, |_, _| Ok(()))?;
        for (mut row, answer) in rows.into_iter().zip(answers) {
            row.insert("completion".into(), json!(answer.text));
            row.insert("finish_reason".into(), json!(answer.finish));
            writeln!(out, "{}", to_json(&Value::Object(row)))?;
        }
        out.flush()?;
    }
    Ok(())
}

/// The columns of a row, and the tokens that it asks.
type Asked = (Map<String, Value>, Prompt);

/// What the rows ask. All of it is made before the first is answered, so that a row that
/// cannot be asked is said at once.
fn asked(writer: &Writer<'_>, rows: Vec<Row>) -> Result<Vec<Asked>, Failure> {
    let ask = |row: Row| {
        let columns = row.columns.clone().into_map();
        Ok((columns, Prompt::Ids(writer.encode(&Prompt::Row(row))?)))
    };
    rows.into_iter().map(ask).collect()
}

/// Writes each row with its tokens, and the scores of every token that may follow.
fn scores(writer: &Writer<'_>, rows: Vec<Asked>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for (mut row, prompt) in rows {
        let (ids, logits) = writer.logits(&prompt)?;
        row.insert("ids".into(), json!(ids));
        row.insert("logits".into(), json!(logits));
        writeln!(out, "{}", to_json(&Value::Object(row)))?;
    }
    Ok(())
}

/// The rows of a file of JSON lines, read as training data is.
fn rows(path: &Path) -> Result<Vec<Row>, Failure> {
    let file = Dataset {
        path: path.to_owned(),
        ds_type: Some(DatasetFormat::Json),
        ..Dataset::default()
    };
    Ok(source::open(&file)?.collect::<Result<_, _>>()?)
}
