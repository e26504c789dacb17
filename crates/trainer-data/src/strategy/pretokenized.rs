//! `pretokenized`: rows that hold `input_ids` and `labels` already, with an
//! optional `attention_mask` and `position_ids`. Padding (a mask of 0) is taken
//! out, since batches bring their own.

use seqprep::{IGNORE_INDEX, Sample};
use serde_json::Value;

use super::{Made, Strategy, unended};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "pretokenized";

pub(super) struct Pretokenized<'a> {
    pub(super) tokenizer: &'a Tokenizer,
}

impl Strategy for Pretokenized<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        Ok(self.made(row)?.samples)
    }

    fn made(&self, row: &Row) -> Result<Made, DataError> {
        let vocab_size = self.tokenizer.vocab_size();
        let id = "a list of token ids";
        let input_ids = integers(row, "input_ids", id, row.column("input_ids", NAME, "")?)?;
        let labels = integers(
            row,
            "labels",
            "a list of token ids and -100",
            row.column("labels", NAME, "")?,
        )?;
        let optional = |column| match row.columns.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => integers(row, column, "a list of integers", value).map(Some),
        };
        let mask = optional("attention_mask")?;
        let positions = optional("position_ids")?;

        let bad = |message| DataError::Row {
            at: row.at.clone(),
            message,
        };
        let lengths = [
            ("labels", Some(&labels)),
            ("attention_mask", mask.as_ref()),
            ("position_ids", positions.as_ref()),
        ];
        for (column, values) in lengths {
            if let Some(values) = values
                && values.len() != input_ids.len()
            {
                return Err(bad(format!(
                    "`{column}` has {} entries, `input_ids` has {}",
                    values.len(),
                    input_ids.len()
                )));
            }
        }
        let mut sample = Sample {
            position_ids: positions.as_ref().map(|_| Vec::new()),
            ..Sample::default()
        };
        for (index, (id, label)) in input_ids.iter().zip(&labels).enumerate() {
            if mask.as_ref().is_some_and(|mask| mask[index] == 0) {
                continue;
            }
            let token = u32::try_from(*id).map_err(|_| {
                bad(format!(
                    "`input_ids[{index}]` is {id}, which is no token id"
                ))
            })?;
            if token as usize >= vocab_size {
                return Err(bad(format!(
                    "`input_ids[{index}]` is {id}, beyond the vocabulary of the tokenizer ({}); the rows were made with another tokenizer",
                    vocab_size
                )));
            }
            let ignored = *label == i64::from(IGNORE_INDEX);
            if !ignored && *label != *id {
                return Err(bad(format!(
                    "`labels[{index}]` is {label}; it has to be the token id {id}, or -100 where nothing is trained"
                )));
            }
            sample.input_ids.push(token);
            sample.labels.push(if ignored {
                IGNORE_INDEX
            } else {
                super::label(token)
            });
            if let (Some(out), Some(positions)) = (&mut sample.position_ids, &positions) {
                let position = positions[index];
                out.push(u32::try_from(position).map_err(|_| {
                    bad(format!(
                        "`position_ids[{index}]` is {position}, which is no position"
                    ))
                })?);
            }
        }
        Ok(Made {
            notes: unended(&sample, self.tokenizer, "labels"),
            samples: vec![sample],
        })
    }
}

fn integers(
    row: &Row,
    column: &str,
    expected: &'static str,
    value: &Value,
) -> Result<Vec<i64>, DataError> {
    let Value::Array(values) = value else {
        return Err(row.wrong_type(column, expected, value));
    };
    values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            value
                .as_i64()
                .ok_or_else(|| row.wrong_type(format!("{column}[{index}]"), "an integer", value))
        })
        .collect()
}
