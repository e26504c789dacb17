//! Rows to samples: one module for each `type:` of a data set.
//!
//! Shared rules: prompt and response are tokenized apart, so that the tokens
//! of a prompt do not depend on its answer; a sample ends with the end-of-sequence
//! token unless its text does already; nothing is cut here, since lengths are
//! the business of the pipeline, which counts what it cuts.

mod alpaca;
mod chat_template;
mod completion;
mod pretokenized;

use seqprep::{IGNORE_INDEX, Sample};
use trainer_config::{Config, Dataset, PromptStrategy};

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
    let strategy = match dataset.strategy {
        Some(strategy) => strategy,
        None if has("input_ids") && has("labels") => PromptStrategy::Pretokenized,
        None => {
            return Err(DataError::NoStrategy {
                path: dataset.path.clone(),
                found: first.names(),
                suggestion: if has("messages") || has("conversations") {
                    "chat_template"
                } else if has("instruction") {
                    "alpaca"
                } else if has("text") {
                    "completion"
                } else {
                    "alpaca, chat_template, completion or pretokenized"
                },
            });
        }
    };
    Ok(match strategy {
        PromptStrategy::Alpaca => Box::new(alpaca::Alpaca::new(config, tokenizer, sequence_len)),
        PromptStrategy::ChatTemplate => {
            Box::new(chat_template::Chat::new(config, dataset, tokenizer)?)
        }
        PromptStrategy::Completion => Box::new(completion::Completion::new(
            config,
            dataset,
            tokenizer,
            sequence_len,
        )),
        PromptStrategy::Pretokenized => Box::new(pretokenized::Pretokenized {
            vocab_size: tokenizer.vocab_size(),
        }),
    })
}

/// A prompt and its response as one sample; the prompt is masked unless
/// `train_on_inputs`. No tokens of the response, no end of sequence either.
fn prompt_and_response(
    tokenizer: &Tokenizer,
    prompt: &str,
    response: &str,
    train_on_inputs: bool,
    sequence_len: usize,
) -> Result<Sample, DataError> {
    let mut input_ids = tokenizer.encode(prompt, true)?;
    let mut labels = if train_on_inputs {
        input_ids.iter().copied().map(label).collect()
    } else {
        vec![IGNORE_INDEX; input_ids.len()]
    };
    let mut answer = Vec::new();
    if !response.is_empty() {
        answer = tokenizer.encode(response, true)?;
        if tokenizer
            .bos_id()
            .is_some_and(|bos| answer.first() == Some(&bos))
        {
            answer.remove(0);
        }
        end(&mut answer, tokenizer, sequence_len);
    }
    labels.extend(answer.iter().copied().map(label));
    input_ids.extend(answer);
    Ok(Sample {
        input_ids,
        labels,
        position_ids: None,
    })
}

/// Appends the end-of-sequence token, unless it is there or there is no room.
fn end(ids: &mut Vec<u32>, tokenizer: &Tokenizer, sequence_len: usize) {
    if let Some(eos) = tokenizer.eos_id()
        && ids.last() != Some(&eos)
        && ids.len() < sequence_len
    {
        ids.push(eos);
    }
}

/// A token id as a label. Ids beyond `i32` are beyond every vocabulary, and
/// found by the check of the ids.
fn label(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}
