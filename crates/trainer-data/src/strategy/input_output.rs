//! `input_output`: a list of segments, each a text and whether it is trained.
//!
//! Segments are tokenized apart and put together as they are: no token is added
//! at their beginning, between them or at their end.

use seqprep::{IGNORE_INDEX, Sample};
use serde_json::Value;
use trainer_config::Config;

use super::{Made, Strategy, label, unended};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "input_output";
const COLUMN: &str = "segments";

pub(super) struct InputOutput<'a> {
    tokenizer: &'a Tokenizer,
    train_on_inputs: bool,
}

impl<'a> InputOutput<'a> {
    pub(super) fn new(config: &Config, tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            train_on_inputs: config.train_on_inputs,
        }
    }
}

impl Strategy for InputOutput<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        Ok(self.made(row)?.samples)
    }

    fn made(&self, row: &Row) -> Result<Made, DataError> {
        let segments = row.column(COLUMN, NAME, "")?;
        let Value::Array(segments) = segments else {
            return Err(row.wrong_type(COLUMN, "a list of segments", segments));
        };
        let mut sample = Sample::default();
        for (index, segment) in segments.iter().enumerate() {
            let place = || format!("{COLUMN}[{index}]");
            let Value::Object(parts) = segment else {
                let expected = "an object with a text and a label";
                return Err(row.wrong_type(place(), expected, segment));
            };
            let part = |name: &str| parts.get(name).unwrap_or(&Value::Null);
            let Value::String(text) = part("text") else {
                return Err(row.wrong_type(format!("{}.text", place()), "text", part("text")));
            };
            let Value::Bool(trained) = part("label") else {
                let expected = "true where the text is trained, else false";
                return Err(row.wrong_type(format!("{}.label", place()), expected, part("label")));
            };
            let ids = self.tokenizer.encode(text, false);
            let ids = ids.map_err(|error| error.at(&row.at))?;
            let trained = *trained || self.train_on_inputs;
            sample.labels.extend(ids.iter().map(
                |id| {
                    if trained { label(*id) } else { IGNORE_INDEX }
                },
            ));
            sample.input_ids.extend(ids);
        }
        if sample.is_empty() {
            return Ok(Vec::new().into());
        }
        Ok(Made {
            notes: unended(&sample, self.tokenizer, COLUMN),
            samples: vec![sample],
        })
    }
}
