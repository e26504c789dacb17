//! `alpaca`: `instruction`, `input` (may be empty or absent) and `output` in
//! the layout of the Alpaca data set.

use seqprep::Sample;
use serde_json::Value;
use trainer_config::Config;

use super::{Strategy, prompt_and_response};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "alpaca";

const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.";
const WITHOUT_INPUT: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

pub(super) struct Alpaca<'a> {
    tokenizer: &'a Tokenizer,
    train_on_inputs: bool,
    sequence_len: usize,
}

impl<'a> Alpaca<'a> {
    pub(super) fn new(config: &Config, tokenizer: &'a Tokenizer, sequence_len: usize) -> Self {
        Self {
            tokenizer,
            train_on_inputs: config.train_on_inputs,
            sequence_len,
        }
    }
}

impl Strategy for Alpaca<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        let instruction = row.text("instruction", NAME, "")?;
        let input = match row.columns.get("input") {
            None | Some(Value::Null) => "",
            Some(Value::String(text)) => text,
            Some(other) => return Err(row.wrong_type("input", "text", other)),
        };
        let output = row.text("output", NAME, "")?;
        let sample = prompt_and_response(
            self.tokenizer,
            &prompt(instruction, input),
            output,
            self.train_on_inputs,
            self.sequence_len,
        );
        Ok(vec![sample.map_err(|error| error.at(&row.at))?])
    }
}

fn prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        format!("{WITHOUT_INPUT}\n\n### Instruction:\n{instruction}\n\n### Response:\n")
    } else {
        format!(
            "{WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    }
}
