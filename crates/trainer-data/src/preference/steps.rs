//! `stepwise_supervised`: a prompt, steps, and whether each step is right.
//!
//! A step is followed by the separator, and judged at its last token. The prompt
//! opens with the token that begins a sequence, if the tokenizer has one.

use seqprep::{IGNORE_INDEX, StepSample};
use serde_json::Value;
use trainer_config::{Dataset, PreferenceLayout, PromptStrategy};

use super::{PreferenceObjective, begin};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "stepwise_supervised";

/// How the rows of a data set are read.
pub(crate) struct Steps<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens that prompts begin with.
    opening: Vec<u32>,
    separator: Vec<u32>,
    longest: usize,
    last_only: bool,
}

/// A sample, and how many of its tokens `max_completion_length` cut.
pub(super) type Cut = (StepSample, usize);

impl<'a> Steps<'a> {
    pub(super) fn new(
        dataset: &Dataset,
        tokenizer: &'a Tokenizer,
        objective: PreferenceObjective,
    ) -> Result<Self, DataError> {
        let wanted = PromptStrategy::Preference(PreferenceLayout::StepwiseSupervised);
        if dataset.strategy.as_ref() != Some(&wanted) {
            let found = match &dataset.strategy {
                None => "it has no `type`".to_owned(),
                Some(other) => format!("`type: {other}` holds no judged steps"),
            };
            return Err(DataError::Dataset {
                path: dataset.path.clone(),
                message: format!("{found}; a process reward model takes `type: {NAME}`"),
            });
        }
        let separator = dataset.step_separator.as_deref().unwrap_or("\n");
        Ok(Self {
            tokenizer,
            opening: objective.opening(tokenizer),
            separator: tokenizer.encode(separator, false)?,
            longest: dataset.max_completion_length.unwrap_or(usize::MAX),
            last_only: dataset.train_on_last_step_only.unwrap_or(false),
        })
    }

    pub(super) fn sample(&self, row: &Row) -> Result<Cut, DataError> {
        let hint = "; the layout reads `prompt`, `completions`, `labels`";
        let prompt = row.text("prompt", NAME, hint)?;
        let list = |column: &'static str, expected| match row.column(column, NAME, hint)? {
            Value::Array(values) => Ok(values),
            other => Err(row.wrong_type(column, expected, other)),
        };
        let steps = list("completions", "a list of steps")?;
        let verdicts = list("labels", "a list of verdicts, one a step")?;
        let bad = |message| DataError::Row {
            at: row.at.clone(),
            message,
        };
        if steps.len() != verdicts.len() {
            return Err(bad(format!(
                "`completions` has {} steps, `labels` has {} verdicts",
                steps.len(),
                verdicts.len()
            )));
        }
        let encode = |text: &str| {
            self.tokenizer
                .encode(text, false)
                .map_err(|e| e.at(&row.at))
        };
        let mut input_ids = encode(prompt)?;
        begin(&mut input_ids, &self.opening);
        let start = input_ids.len();
        let mut labels = vec![IGNORE_INDEX; start];
        for (index, (step, verdict)) in steps.iter().zip(verdicts).enumerate() {
            let Value::String(text) = step else {
                return Err(row.wrong_type(format!("completions[{index}]"), "text", step));
            };
            let verdict = match verdict {
                Value::Bool(verdict) => i32::from(*verdict),
                Value::Number(number) if number.as_f64() == Some(0.0) => 0,
                Value::Number(number) if number.as_f64() == Some(1.0) => 1,
                other => {
                    let expected = "true (or 1) for a right step, false (or 0) for a wrong one";
                    return Err(row.wrong_type(format!("labels[{index}]"), expected, other));
                }
            };
            let length = input_ids.len();
            input_ids.extend(encode(text)?);
            input_ids.extend(&self.separator);
            if input_ids.len() == length {
                return Err(bad(format!(
                    "`completions[{index}]` is empty, and so is the separator: there is no token to judge the step at"
                )));
            }
            labels.resize(input_ids.len(), IGNORE_INDEX);
            if !self.last_only || index + 1 == steps.len() {
                labels[input_ids.len() - 1] = verdict;
            }
        }
        let length = input_ids.len().min(start.saturating_add(self.longest));
        let cut = input_ids.len() - length;
        input_ids.truncate(length);
        labels.truncate(length);
        Ok((StepSample { input_ids, labels }, cut))
    }
}
