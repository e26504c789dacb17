//! A `type:` that is a mapping: columns and formats of one's own.
//!
//! The prompt is the system message in its format, where there is one, and then
//! `format`, or `no_input_format` for a row without input. A format that asks for
//! `{system}` itself is not preceded by another.

use seqprep::Sample;
use serde_json::Value;
use trainer_config::{Config, Dataset, FORMAT_NAMES, Format, UserDefined};

use super::{Ends, Strategy, TokenRoles, prompt_and_response};
use crate::source::Row;
use crate::{DataError, Tokenizer};

const NAME: &str = "user_defined";

pub(super) struct Own<'a> {
    tokenizer: &'a Tokenizer,
    train_on_inputs: bool,
    sequence_len: usize,
    system: &'a str,
    columns: [&'a str; 4],
    system_format: Format,
    format: Format,
    no_input_format: Format,
}

impl<'a> Own<'a> {
    pub(super) fn new(
        config: &Config,
        dataset: &Dataset,
        own: &'a UserDefined,
        tokenizer: &'a Tokenizer,
        sequence_len: usize,
    ) -> Result<Self, DataError> {
        Ok(Self {
            tokenizer,
            train_on_inputs: config.train_on_inputs,
            sequence_len,
            system: own.system_prompt.as_deref().unwrap_or_default(),
            columns: [
                own.field_system.as_deref().unwrap_or("system"),
                own.field_instruction.as_deref().unwrap_or("instruction"),
                own.field_input.as_deref().unwrap_or("input"),
                own.field_output.as_deref().unwrap_or("output"),
            ],
            system_format: format(dataset, "system_format", &own.system_format, "{system}")?,
            format: format(dataset, "format", &own.format, "{instruction} {input} ")?,
            no_input_format: format(
                dataset,
                "no_input_format",
                &own.no_input_format,
                "{instruction} ",
            )?,
        })
    }

    fn prompt(&self, system: &str, instruction: &str, input: &str) -> String {
        let format = if input.is_empty() {
            &self.no_input_format
        } else {
            &self.format
        };
        let values = [
            ("system", system),
            ("instruction", instruction),
            ("input", input),
        ];
        let mut prompt = if system.is_empty() || format.asks_for("system") {
            String::new()
        } else {
            self.system_format.fill(&values)
        };
        prompt.push_str(&format.fill(&values));
        prompt
    }
}

impl Strategy for Own<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        Ok(vec![self.sample(row, self.train_on_inputs)?])
    }

    fn roles(&self, row: &Row) -> Result<Option<TokenRoles>, DataError> {
        Ok(Some(TokenRoles::of_response(self.sample(row, false)?)))
    }
}

impl Own<'_> {
    fn sample(&self, row: &Row, train_on_inputs: bool) -> Result<Sample, DataError> {
        let [system, instruction, input, output] = self.columns;
        let system = match row.columns.get(system) {
            // Columns of tables are null where a row lacks the value.
            None | Some(Value::Null) => self.system,
            Some(_) => row.optional_text(system)?,
        };
        let column = |name, key: &str| {
            row.text(
                name,
                NAME,
                format!("; `{key}` of the `type` names the column"),
            )
        };
        let prompt = self.prompt(
            system,
            column(instruction, "field_instruction")?,
            row.optional_text(input)?,
        );
        let prompt = self.tokenizer.encode(&prompt, true);
        let sample = prompt_and_response(
            self.tokenizer,
            prompt.map_err(|error| error.at(&row.at))?,
            column(output, "field_output")?,
            train_on_inputs,
            self.sequence_len,
            Ends(1),
        );
        sample.map_err(|error| error.at(&row.at))
    }
}

/// A format of a `type:` mapping, or what stands in for it.
pub(crate) fn format(
    dataset: &Dataset,
    key: &'static str,
    written: &Option<String>,
    default: &str,
) -> Result<Format, DataError> {
    let names = FORMAT_NAMES.iter().find(|(name, _)| *name == key);
    let names = names.map_or(&[][..], |(_, names)| names);
    Format::parse(written.as_deref().unwrap_or(default), names).map_err(|error| {
        DataError::Dataset {
            path: dataset.path.clone(),
            message: format!("`{key}` of its `type` cannot be used: {error}"),
        }
    })
}
