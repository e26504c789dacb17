//! `trainer evaluate`: loss and perplexity on the evaluation data.

use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use seqprep::Sample;
use serde_json::{Map, Value};
use trainer_config::{Config, Dataset, Task};
use trainer_core::{AnyModel, LogRow, evaluate_preferences, evaluate_samples};
use trainer_data::Tokenizer;
use trainer_model::{CausalLm, is_adapter};

use crate::args::{Evaluate, Shown};
use crate::failure::Failure;
use crate::folders;
use crate::limits::{longest_preference, warn_of_evaluation};
use crate::report::number;
use crate::session::{
    is_streamed, load_base_model, load_layers, load_preferences, load_samples, load_tokenizer,
    load_trained_any, load_trained_model, select_device, test_config,
};
use crate::vocabulary::{pad_id, vocabulary_of};

pub(crate) fn run(arguments: &Evaluate) -> Result<(), Failure> {
    let ([model], overrides) = arguments.run.flags(["model"])?;
    let (shown, overrides) = arguments.shown.with(overrides);
    let mut config = load_layers(&arguments.run.config, overrides)?.config;
    if let Some(folder) = model.map(PathBuf::from).or_else(|| arguments.model.clone()) {
        folders::exists("--model", &folder)?;
        if !folder.join("config.json").is_file() && !is_adapter(&folder) {
            return Err(Failure::new(format!(
                "--model: {} holds no model (no config.json) and no adapter (no \
                 adapter_config.json)",
                folder.display()
            )));
        }
        config.output_dir = folder;
    }
    let device = select_device(&config)?.device;
    let started = Instant::now();
    if config.preference.task() != Task::Sft {
        let row = preferences(&config, &device, shown)?;
        shown.note(format!(
            "evaluated in {:.1} s",
            started.elapsed().as_secs_f64()
        ));
        print(&row, shown.json)?;
        return Ok(());
    }
    let trained = load_trained_model(&config, &device, shown)?;
    let rows = evaluate(&config, &trained.tokenizer, &trained.model)?;
    shown.note(format!(
        "evaluated in {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    if shown.json {
        let row = |(name, row): &(String, LogRow)| (name.clone(), Value::Object(row.clone()));
        let sets: Map<String, Value> = rows[1..].iter().map(row).collect();
        let mut all = rows[0].1.clone();
        if !sets.is_empty() {
            all.insert("datasets".into(), Value::Object(sets));
        }
        writeln!(stdout(), "{}", Value::Object(all))?;
        return Ok(());
    }
    let wide = rows.iter().map(|(name, _)| name.chars().count()).max();
    let wide = wide.unwrap_or(0).max("data set".len());
    writeln!(
        stdout(),
        "{:<wide$}  {:>10}  {:>10}  {:>14}",
        "data set",
        "loss",
        "perplexity",
        "loss per token"
    )?;
    for (name, row) in &rows {
        let value = |key: &str| {
            row.get(key)
                .and_then(Value::as_f64)
                .map_or(String::new(), number)
        };
        writeln!(
            stdout(),
            "{name:<wide$}  {:>10}  {:>10}  {:>14}",
            value("eval_loss"),
            value("eval_ppl"),
            value("eval_loss_per_token")
        )?;
    }
    Ok(())
}

/// The values of an objective that learns from preferences. What DPO and its like
/// compare with is the base model.
fn preferences(config: &Config, device: &Device, shown: Shown) -> Result<LogRow, Failure> {
    let trained = load_trained_any(config, device, shown)?;
    let eval = load_preferences(config, &trained.tokenizer)?.0.eval;
    if eval.is_empty() {
        return Err(no_data());
    }
    let reference = match config.preference.task().has_reference() {
        true => Some(load_base_model(config, &load_tokenizer(config)?, device)?.valid()),
        false => None,
    };
    let limit = limit_of(&trained.model);
    warn_of_evaluation(longest_preference(&eval), limit);
    let pad_id = pad_id(&trained.tokenizer, vocabulary_of(&trained.model));
    Ok(evaluate_preferences(
        config,
        eval,
        trained.model,
        reference,
        pad_id,
    )?)
}

/// Values by name, without their prefix.
fn print(row: &LogRow, json: bool) -> std::io::Result<()> {
    if json {
        writeln!(stdout(), "{}", Value::Object(row.clone()))?;
        return Ok(());
    }
    for (key, value) in row {
        let name = key.strip_prefix("eval_").unwrap_or(key);
        if let (Some(value), false) = (value.as_f64(), name.ends_with("_per_second")) {
            writeln!(stdout(), "{name:<20}  {:>10}", number(value))?;
        }
    }
    Ok(())
}

fn limit_of(model: &AnyModel) -> usize {
    match model {
        AnyModel::Causal(model) => model.config().max_positions,
        AnyModel::Reward(model) => model.config().max_positions,
    }
}

fn no_data() -> Failure {
    Failure::new(
        "there is no evaluation data: set test_datasets or val_set_size, in the file or as \
         `--val_set_size 0.05`",
    )
}

/// The values on all of the data, then on each data set, where there are several.
fn evaluate(
    config: &Config,
    tokenizer: &Tokenizer,
    model: &CausalLm,
) -> Result<Vec<(String, LogRow)>, Failure> {
    let pad_id = pad_id(tokenizer, model.config().vocab_size);
    let limit = model.config().max_positions;
    let on = |samples: Vec<Sample>| {
        let longest = samples.iter().map(Sample::len).max();
        warn_of_evaluation(longest.unwrap_or(0), limit);
        evaluate_samples(config, samples, model, pad_id)
    };
    let Some(tests) = &config.test_datasets else {
        let samples = match is_streamed(config) || config.val_set_size == 0.0 {
            true => Vec::new(),
            false => load_samples(config, tokenizer)?.0.eval.into_vec()?,
        };
        if samples.is_empty() {
            return Err(no_data());
        }
        return Ok(vec![("evaluation".to_owned(), on(samples)?)]);
    };
    let samples = |tests: &[Dataset]| -> Result<_, Failure> {
        let tests = test_config(config, tests);
        Ok(load_samples(&tests, tokenizer)?.0.train.into_vec()?)
    };
    let mut rows = vec![("all".to_owned(), on(samples(tests)?)?)];
    if tests.len() > 1 {
        for (index, test) in tests.iter().enumerate() {
            let mut name = test.path.display().to_string();
            if rows.iter().any(|(known, _)| *known == name) {
                name = format!("{name} ({})", index + 1);
            }
            rows.push((name, on(samples(std::slice::from_ref(test))?)?));
        }
    }
    Ok(rows)
}
