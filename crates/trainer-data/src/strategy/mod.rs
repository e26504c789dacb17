//! Rows to samples: one module for each `type:` of a data set.
//!
//! Shared rules: prompt and response are tokenized apart, so that the tokens
//! of a prompt do not depend on its answer; a sample ends with the end-of-sequence
//! token unless its text does already; nothing is cut here, since lengths are
//! the business of the pipeline, which counts what it cuts.

pub(crate) mod chat;
mod input_output;
mod instruct;
pub(crate) mod plain;
mod pretokenized;
mod synthetic;
mod text;
mod turns;
pub(crate) mod user_defined;

use std::sync::Arc;

use seqprep::{IGNORE_INDEX, Sample};
use trainer_config::{Config, Dataset, PromptStrategy};

pub use chat::{Asked, ChatPrompts};

use crate::ledger::Note;
use crate::source::Row;
use crate::{DataError, Tokenizer};

/// Turns the rows of a data set into samples.
pub trait Strategy: Send + Sync {
    /// Its name, as written in the configuration.
    fn name(&self) -> &'static str;

    /// The samples of one row: none if the row holds no text, several if the
    /// row is split.
    ///
    /// # Errors
    /// A row that lacks a column or holds values of another type.
    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError>;

    /// As [`Strategy::samples`], with what is to be said about the row. Strategies
    /// that have something to say override this.
    ///
    /// # Errors
    /// As [`Strategy::samples`].
    fn made(&self, row: &Row) -> Result<Made, DataError> {
        Ok(self.samples(row)?.into())
    }

    /// Who says each token of a row; nothing where a row has no roles.
    ///
    /// # Errors
    /// As [`Strategy::samples`].
    fn roles(&self, _row: &Row) -> Result<Option<TokenRoles>, DataError> {
        Ok(None)
    }
}

/// What became of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Its samples.
    pub samples: Vec<Sample>,
    /// What is to be said about it, which is no error.
    pub notes: Vec<Note>,
}

impl From<Vec<Sample>> for Made {
    fn from(samples: Vec<Sample>) -> Self {
        Self {
            samples,
            notes: Vec::new(),
        }
    }
}

/// Who says each token of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRoles {
    /// The tokens of the sample.
    pub input_ids: Vec<u32>,
    /// The role of each; none for what a template puts between the turns.
    pub roles: Vec<Option<Arc<str>>>,
}

impl TokenRoles {
    /// The roles of a masked prompt and its response.
    fn of_response(sample: Sample) -> Self {
        let [prompt, response] = ["prompt", "response"].map(Arc::<str>::from);
        let role = |label: &i32| match *label {
            IGNORE_INDEX => Some(Arc::clone(&prompt)),
            _ => Some(Arc::clone(&response)),
        };
        Self {
            roles: sample.labels.iter().map(role).collect(),
            input_ids: sample.input_ids,
        }
    }
}

/// The strategy of a data set. Where the configuration names none, rows that
/// are already tokenized, as `first` shows, are taken as they are.
///
/// # Errors
/// No strategy, or a chat template that cannot be used.
pub fn build<'a>(
    config: &'a Config,
    dataset: &'a Dataset,
    first: &Row,
    tokenizer: &'a Tokenizer,
    sequence_len: usize,
) -> Result<Box<dyn Strategy + 'a>, DataError> {
    let has = |column: &str| first.columns.contains_key(column);
    let strategy = match &dataset.strategy {
        Some(strategy) => strategy,
        None if has("input_ids") && has("labels") => &PromptStrategy::Pretokenized,
        None => {
            return Err(DataError::NoStrategy {
                path: dataset.path.clone(),
                found: first.names(),
                suggestion: instruct::nearest(first)
                    .unwrap_or("alpaca, chat_template, completion or pretokenized"),
            });
        }
    };
    if let Some(strategy) = instruct::Instruct::new(strategy, config, tokenizer, sequence_len) {
        return Ok(Box::new(Suggesting(strategy)));
    }
    if let Some(strategy) = turns::Turns::new(strategy, config, tokenizer) {
        return Ok(Box::new(Suggesting(strategy)));
    }
    Ok(match strategy {
        PromptStrategy::ChatTemplate | PromptStrategy::MessagesChat => {
            Box::new(chat::Chat::new(config, dataset, tokenizer)?)
        }
        PromptStrategy::Completion => Box::new(text::Text::completion(
            config,
            dataset,
            tokenizer,
            sequence_len,
        )),
        PromptStrategy::Pretrain => {
            Box::new(text::Text::pretrain(dataset, tokenizer, sequence_len))
        }
        PromptStrategy::InputOutput => Box::new(Suggesting(input_output::InputOutput::new(
            config, tokenizer,
        ))),
        PromptStrategy::Pretokenized => Box::new(pretokenized::Pretokenized { tokenizer }),
        PromptStrategy::Synthetic => Box::new(synthetic::Synthetic::new(
            config,
            dataset,
            tokenizer,
            sequence_len,
        )?),
        PromptStrategy::UserDefined(own) => Box::new(user_defined::Own::new(
            config,
            dataset,
            own,
            tokenizer,
            sequence_len,
        )?),
        other => {
            return Err(DataError::Dataset {
                path: dataset.path.clone(),
                message: format!(
                    "`type: {other}` gives preferences or judged steps, which supervised fine-tuning does not take; set `rl` (dpo, ipo, kto, orpo, simpo), `reward_model` or `process_reward_model`, or name another type"
                ),
            });
        }
    })
}

/// A strategy that names the layout that fits where a column is missing.
struct Suggesting<S>(S);

impl<S: Strategy> Strategy for Suggesting<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        Ok(self.made(row)?.samples)
    }

    fn made(&self, row: &Row) -> Result<Made, DataError> {
        self.0.made(row).map_err(|mut error| {
            if let DataError::MissingColumn { hint, strategy, .. } = &mut error
                && hint.is_empty()
                && let Some(nearest) = instruct::nearest(row)
                && nearest != *strategy
            {
                *hint = format!("; the columns fit `type: {nearest}`");
            }
            error
        })
    }

    fn roles(&self, row: &Row) -> Result<Option<TokenRoles>, DataError> {
        self.0.roles(row)
    }
}

/// A prompt and its response as one sample; the prompt is masked unless
/// `train_on_inputs`. `prompt` begins as every sequence does. No tokens of the
/// response, no end of sequence either.
fn prompt_and_response(
    tokenizer: &Tokenizer,
    prompt: Vec<u32>,
    response: &str,
    train_on_inputs: bool,
    sequence_len: usize,
    ends: Ends,
) -> Result<Sample, DataError> {
    let mut input_ids = prompt;
    let mut answer = Vec::new();
    if !response.is_empty() {
        answer = tokenizer.encode(response, false)?;
        if answer.starts_with(&input_ids) && input_ids == tokenizer.opening() {
            // Without a prompt, the response may bring the beginning itself.
            input_ids.clear();
        }
        end(&mut answer, tokenizer, sequence_len, ends)?;
    }
    let mut labels = if train_on_inputs {
        input_ids.iter().copied().map(label).collect()
    } else {
        vec![IGNORE_INDEX; input_ids.len()]
    };
    labels.extend(answer.iter().copied().map(label));
    input_ids.extend(answer);
    Ok(Sample {
        input_ids,
        labels,
        position_ids: None,
    })
}

/// What is to be said about a row that brings its ends itself, where no token ends
/// what is trained of it. `place` is the column.
fn unended(sample: &Sample, tokenizer: &Tokenizer, place: &str) -> Vec<Note> {
    let ids = sample.input_ids.iter().zip(&sample.labels);
    let last = ids.rev().find(|(_, label)| **label != IGNORE_INDEX);
    match last {
        Some((id, _)) if tokenizer.eos_id() != Some(*id) && !tokenizer.is_added(*id) => {
            vec![Note::new(
                "no token ends what is trained, so that the model does not learn to stop there; rows of this type are taken as they are: put the tokenizer's `eos_token` where an answer ends",
                place,
            )]
        }
        _ => Vec::new(),
    }
}

/// How many end-of-sequence tokens stand after a text.
#[derive(Debug, Clone, Copy)]
struct Ends(usize);

/// Appends end-of-sequence tokens, one less where the text has one, as far as
/// there is room.
///
/// # Errors
/// [`DataError::NoEnd`] where there is no such token, and the text does not end with
/// another special one.
fn end(
    ids: &mut Vec<u32>,
    tokenizer: &Tokenizer,
    sequence_len: usize,
    ends: Ends,
) -> Result<(), DataError> {
    let Some(eos) = tokenizer.eos_id() else {
        return match ids.last() {
            Some(last) if !tokenizer.is_special(*last) => Err(tokenizer.no_end()),
            _ => Ok(()),
        };
    };
    let there = usize::from(ids.last() == Some(&eos));
    for _ in there..ends.0 {
        if ids.len() < sequence_len {
            ids.push(eos);
        }
    }
    Ok(())
}

/// A token id as a label. Ids beyond `i32` are beyond every vocabulary, and
/// found by the check of the ids.
fn label(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}
