//! `trainer preview`: rows of the first epoch as the model will see them.

use std::io::{IsTerminal, Write as _, stdout};

use seqprep::Sample;
use trainer_config::{Config, Task};
use trainer_core::{BatchOptions, BatchSource, Batches};
use trainer_data::preview::{PreviewReport, PreviewRow, Roles, TextStyle, to_html, to_text};
use trainer_data::{DataError, Tokenizer};

use crate::args::Run;
use crate::failure::Failure;
use crate::session::{
    is_streamed, load_layers, load_preferences, load_samples, load_tokenizer, open_stream,
};

/// Rows of each data set that are looked at for roles.
const ROLE_ROWS: usize = 10_000;

/// Rows of a stream that are counted.
const STREAM_ROWS: usize = 1000;

/// Rows that are shown where the command line does not say.
const ROWS: usize = 3;

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([count, tokens, html], overrides) = run.flags(["rows", "tokens", "html"])?;
    let count = match count {
        None => ROWS,
        Some(text) => text
            .parse()
            .map_err(|_| Failure::new(format!("--rows takes a number of rows, not \"{text}\"")))?,
    };
    let config = load_layers(&run.config, overrides)?.config;
    let tokenizer = load_tokenizer(&config)?;
    let (rows, report) = match (config.preference.task(), is_streamed(&config)) {
        (Task::Sft, true) => streamed(&config, &tokenizer, count)?,
        (Task::Sft, false) => planned(&config, &tokenizer, count)?,
        (Task::Rl(_) | Task::RewardModel | Task::ProcessRewardModel, _) => {
            preferences(&config, &tokenizer, count)?
        }
    };
    if let Some(path) = html {
        let title = format!("Preview of {}", run.config.display());
        std::fs::write(&path, to_html(&title, &rows, &report))
            .map_err(|error| Failure::new(format!("cannot write {path}: {error}")))?;
        writeln!(stdout(), "{} rows written to {path}", rows.len())?;
        return Ok(());
    }
    let style = TextStyle {
        color: stdout().is_terminal() && wants_color(),
        tokens: tokens.is_some(),
    };
    write!(stdout(), "{}", to_text(&rows, &report, style))?;
    Ok(())
}

/// Rows of the first epoch.
fn planned(
    config: &Config,
    tokenizer: &Tokenizer,
    count: usize,
) -> Result<(Vec<PreviewRow>, PreviewReport), Failure> {
    let samples = load_samples(config, tokenizer)?.0.train;
    let options = BatchOptions::training(config, tokenizer.pad_id().unwrap_or(0))?;
    let (pad_to, packed) = (options.collate.pad_to, options.packing.is_some());
    let lengths: Vec<usize> = (0..samples.len())
        .filter_map(|index| samples.length(index))
        .collect();
    let mut trained = 0;
    for sample in samples.iter() {
        trained += sample?.trained_tokens();
    }
    let batches = Batches::new(samples, options)?;
    let plan = batches.plan(0)?;
    let roles = Roles::read(config, tokenizer, ROLE_ROWS)?;
    let mut report = PreviewReport::new(&lengths, trained, plan.batches(), pad_to, packed);
    report.roles = roles.counts();
    let mut rows = Vec::new();
    for batch in plan.batches() {
        if rows.len() >= count {
            break;
        }
        let batch = batches.collate(&batch)?;
        let first = rows.len() + 1;
        rows.extend(PreviewRow::from_batch(&batch, first, tokenizer, &roles)?);
    }
    rows.truncate(count);
    Ok((rows, report))
}

/// Samples of preferences, in the order in which they were prepared.
fn preferences(
    config: &Config,
    tokenizer: &Tokenizer,
    count: usize,
) -> Result<(Vec<PreviewRow>, PreviewReport), Failure> {
    let samples = load_preferences(config, tokenizer)?.0.train;
    let rows = PreviewRow::from_preferences(&samples, count, tokenizer)?;
    Ok((rows, PreviewReport::of_preferences(&samples)))
}

/// Rows at the beginning of a stream.
fn streamed(
    config: &Config,
    tokenizer: &Tokenizer,
    count: usize,
) -> Result<(Vec<PreviewRow>, PreviewReport), Failure> {
    let options = BatchOptions::training(config, tokenizer.pad_id().unwrap_or(0))?;
    let taken: Vec<Vec<Sample>> = open_stream(config, None)?
        .take(STREAM_ROWS.max(count))
        .collect::<Result<_, DataError>>()?;
    let mut plan: Vec<Vec<u32>> = Vec::with_capacity(taken.len());
    let mut next = 0;
    for row in &taken {
        let end = next + u32::try_from(row.len()).unwrap_or(u32::MAX);
        plan.push((next..end).collect());
        next = end;
    }
    let lengths: Vec<usize> = taken.iter().flatten().map(Sample::len).collect();
    let trained = taken.iter().flatten().map(Sample::trained_tokens).sum();
    let report = PreviewReport::new(
        &lengths,
        trained,
        plan.chunks(options.rows),
        options.collate.pad_to,
        options.packing.is_some(),
    );
    let mut rows = Vec::new();
    for batch in taken[..count.min(taken.len())].chunks(options.rows) {
        let batch: Vec<Vec<&Sample>> = batch.iter().map(|row| row.iter().collect()).collect();
        let batch = seqprep::collate_packed(&batch, &options.collate)?;
        let first = rows.len() + 1;
        rows.extend(PreviewRow::from_batch(
            &batch,
            first,
            tokenizer,
            &Roles::default(),
        )?);
    }
    Ok((rows, report))
}

/// By the convention of no-color.org.
fn wants_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
