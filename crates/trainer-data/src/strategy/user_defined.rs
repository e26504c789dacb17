//! A `type:` that is a mapping: columns and formats of one's own.
//!
//! The prompt is the system message in its format, where there is one, and then
//! `format`, or `no_input_format` for a row without input. A format that asks for
//! `{system}` itself is not preceded by another.
//!
//! A key that is written is read: where only one of the two formats is, the other
//! one is not made up, but it serves rows of both kinds, or rows that it does not
//! fit are errors.

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
    /// Of rows with input, and of rows without; none where the other one is written
    /// and does not fit.
    formats: [Option<Format>; 2],
}

impl<'a> Own<'a> {
    pub(super) fn new(
        config: &Config,
        dataset: &Dataset,
        own: &'a UserDefined,
        tokenizer: &'a Tokenizer,
        sequence_len: usize,
    ) -> Result<Self, DataError> {
        let written = |key, text: &Option<String>, default: Option<&str>| match text {
            Some(_) => format(dataset, key, text, "").map(Some),
            None => default
                .map(|default| format(dataset, key, &None, default))
                .transpose(),
        };
        let alone = [&own.no_input_format, &own.format].map(Option::is_none);
        let mut formats = [
            written(
                "format",
                &own.format,
                alone[0].then_some("{instruction} {input} "),
            )?,
            written(
                "no_input_format",
                &own.no_input_format,
                alone[1].then_some("{instruction} "),
            )?,
        ];
        if let [Some(both), none @ None] = &mut formats
            && !both.asks_for("input")
        {
            *none = Some(both.clone());
        }
        let system_format = format(dataset, "system_format", &own.system_format, "{system}")?;
        let asked = |name| formats.iter().flatten().any(|format| format.asks_for(name));
        let all_ask = |name| formats.iter().flatten().all(|format| format.asks_for(name));
        let system = !all_ask("system") && system_format.asks_for("system");
        check_read(
            dataset,
            NOT_ASKED,
            &[
                (
                    "field_instruction",
                    own.field_instruction.is_some(),
                    asked("instruction"),
                ),
                ("field_input", own.field_input.is_some(), asked("input")),
                (
                    "field_system",
                    own.field_system.is_some(),
                    system || asked("system"),
                ),
                (
                    "system_prompt",
                    own.system_prompt.is_some(),
                    system || asked("system"),
                ),
                (
                    "system_format",
                    own.system_format.is_some(),
                    !all_ask("system"),
                ),
            ],
        )?;
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
            system_format,
            formats,
        })
    }

    fn prompt(
        &self,
        row: &Row,
        system: &str,
        instruction: &str,
        input: &str,
    ) -> Result<String, DataError> {
        let [with, without] = &self.formats;
        let (format, missing) = match input.is_empty() {
            true => (
                without,
                "no `{}`, and its `type` has `format`, which asks for {input}, but no `no_input_format`: write one for such rows, or leave {input} out of `format`",
            ),
            false => (
                with,
                "text in `{}`, and its `type` has `no_input_format`, but no `format`: write one for such rows",
            ),
        };
        let Some(format) = format else {
            return Err(DataError::Row {
                at: row.at.clone(),
                message: format!("the row has {}", missing.replacen("{}", self.columns[2], 1)),
            });
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
        Ok(prompt)
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
            row,
            system,
            column(instruction, "field_instruction")?,
            row.optional_text(input)?,
        )?;
        let prompt = self.tokenizer.encode(&prompt, false);
        let sample = prompt_and_response(
            self.tokenizer,
            self.tokenizer
                .opened(prompt.map_err(|error| error.at(&row.at))?),
            column(output, "field_output")?,
            train_on_inputs,
            self.sequence_len,
            Ends(1),
        );
        sample.map_err(|error| error.at(&row.at))
    }
}

/// Why a text is not asked for.
pub(crate) const NOT_ASKED: &str = "no format of it that is used asks for the text; write the name in braces where the text belongs";

/// Checks that the keys of a `type:` mapping that are written are read: each with
/// whether it is written and whether anything reads it. `why` says why not, and what
/// to do besides removing the key.
///
/// # Errors
/// [`DataError::Dataset`], for the first that nothing reads.
pub(crate) fn check_read(
    dataset: &Dataset,
    why: &str,
    keys: &[(&str, bool, bool)],
) -> Result<(), DataError> {
    match keys.iter().find(|(_, written, read)| *written && !read) {
        None => Ok(()),
        Some((key, ..)) => Err(DataError::Dataset {
            path: dataset.path.clone(),
            message: format!("`{key}` of its `type` has no effect: {why}, or remove `{key}`"),
        }),
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
