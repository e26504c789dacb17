//! `trainer demo`: fine-tunes the model in `examples/` on its glossary and shows
//! what that did to its answers.

use std::io::{Write as _, stdout};
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use serde_json::Value;
use trainer_config::Config;
use trainer_data::Tokenizer;
use trainer_model::CausalLm;

use super::train::{View, train};
use crate::args::Shown;
use crate::failure::Failure;
use crate::session::{load_layers, load_model, load_tokenizer, select_device};
use crate::text::{Prompt, Writer};

/// Longest answer, in tokens; those of the glossary are shorter.
const MAX_NEW_TOKENS: usize = 96;

/// Questions of which the answers are printed.
const SHOWN: usize = 3;

struct Question {
    text: String,
    answer: String,
}

pub(crate) fn run(folder: &Path) -> Result<(), Failure> {
    let file = folder.join("glossary.yaml");
    if !file.is_file() {
        return Err(Failure::new(format!(
            "{} is not there; run this from the root of the repository, or give the folder \
             of the examples",
            file.display()
        )));
    }
    let started = Instant::now();
    let loaded = load_layers(&file, Vec::new())?;
    let mut config = loaded.config.clone();
    config.generation.generation_do_sample = false;
    config.generation.generation_max_new_tokens = Some(MAX_NEW_TOKENS);
    let tokenizer = load_tokenizer(&config)?;
    let held_back = read_questions(&folder.join("data/glossary.eval.chat.jsonl"))?;
    let device = select_device(&config)?.device;
    let before = load_model(&config, &tokenizer, &device)?.0.valid();
    let shown = &held_back[..SHOWN.min(held_back.len())];
    let answers_before = answers(&config, &before, &tokenizer, shown)?;
    drop(before);

    let trained = train(&loaded, View::Lines(Shown::default()))?;
    let trained = trained.model.into_causal();
    let trained = trained.ok_or_else(|| Failure::new("the example trains no language model"))?;
    let answers_after = answers(&config, &trained, &tokenizer, &held_back)?;

    writeln!(stdout(), "\nQuestions in words that were not trained on:")?;
    for (question, (before, after)) in shown.iter().zip(answers_before.iter().zip(&answers_after)) {
        writeln!(stdout(), "\n  {}", question.text)?;
        writeln!(stdout(), "    before: {}", one_line(before))?;
        writeln!(stdout(), "    after:  {}", one_line(after))?;
    }
    let exact = held_back
        .iter()
        .zip(&answers_after)
        .filter(|(question, answer)| question.answer.trim() == answer.trim())
        .count();
    writeln!(
        stdout(),
        "\n{exact} of {} held-back rewordings answered exactly, {:.0} s in all. The model has \
         learned these sentences by heart; it knows nothing else.",
        held_back.len(),
        started.elapsed().as_secs_f64()
    )?;
    Ok(())
}

/// Asks a model questions in its chat format.
fn answers(
    config: &Config,
    model: &CausalLm,
    tokenizer: &Tokenizer,
    questions: &[Question],
) -> Result<Vec<String>, Failure> {
    let writer = Writer::new(config, model, tokenizer, false)?;
    let prompts: Vec<Prompt> = questions
        .iter()
        .map(|question| Prompt::Text(question.text.clone()))
        .collect();
    let answers = writer.answer(&prompts, 0, |_, _| Ok(()))?;
    Ok(answers.into_iter().map(|answer| answer.text).collect())
}

fn read_questions(path: &Path) -> Result<Vec<Question>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    let mut questions = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |what: &str| Failure::new(format!("{}:{}: {what}", path.display(), index + 1));
        let row: Value = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let content = |turn: usize| {
            row["messages"][turn]["content"]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| wrong("expected messages: a question and its answer"))
        };
        questions.push(Question {
            text: content(0)?,
            answer: content(1)?,
        });
    }
    Ok(questions)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
