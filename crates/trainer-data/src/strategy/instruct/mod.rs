//! Layouts of one prompt and one response: a few columns between fixed texts.
//!
//! A layout is a line of the table in `layouts`: which columns it reads and the
//! [`Style`] of the text around them. The prompt is masked and the response, with
//! the end of the sequence, is trained.

mod layouts;
mod python_yaml;

use std::borrow::Cow;

use seqprep::Sample;
use trainer_config::{Config, PromptStrategy};

use super::plain::Plain;
use super::{Ends, Strategy, TokenRoles, prompt_and_response};
use crate::source::Row;
use crate::{DataError, Tokenizer};

pub(super) use layouts::nearest;

/// The texts around the parts of a prompt.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// Around the system message, which is left out with them where it is empty.
    system: [&'static str; 2],
    /// Before the instruction.
    open: &'static str,
    /// Between instruction and input; left out where there is no input.
    between: &'static str,
    /// After the instruction or the input.
    close: &'static str,
}

/// Where the system message comes from.
#[derive(Debug, Clone, Copy)]
enum System {
    /// There is none.
    None,
    /// It is always the same: for rows with input, and for rows without.
    Fixed([&'static str; 2]),
    /// The row has one.
    Row,
}

/// The parts of one row.
#[derive(Debug, Default)]
struct Parts<'a> {
    system: Cow<'a, str>,
    instruction: Cow<'a, str>,
    input: Cow<'a, str>,
    response: Cow<'a, str>,
}

/// One line of the table.
struct Layout {
    style: Style,
    system: System,
    parts: for<'a> fn(&'a Row, &'static str) -> Result<Parts<'a>, DataError>,
    ends: Ends,
    /// Whether the columns bring the special tokens of the format with them.
    formatted: bool,
}

/// A layout of the table with what is needed to tokenize.
pub(super) struct Instruct<'a> {
    name: &'static str,
    layout: Layout,
    tokenizer: &'a Tokenizer,
    plain: Plain,
    train_on_inputs: bool,
    sequence_len: usize,
}

impl<'a> Instruct<'a> {
    /// The strategy, if it is one of this table.
    pub(super) fn new(
        strategy: &PromptStrategy,
        config: &Config,
        tokenizer: &'a Tokenizer,
        sequence_len: usize,
    ) -> Option<Self> {
        Some(Self {
            name: strategy.as_str(),
            layout: layouts::layout(strategy)?,
            tokenizer,
            plain: Plain::new(config, tokenizer),
            train_on_inputs: config.train_on_inputs,
            sequence_len,
        })
    }
}

impl Strategy for Instruct<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn samples(&self, row: &Row) -> Result<Vec<Sample>, DataError> {
        Ok(vec![self.sample(row, self.train_on_inputs)?])
    }

    fn roles(&self, row: &Row) -> Result<Option<TokenRoles>, DataError> {
        Ok(Some(TokenRoles::of_response(self.sample(row, false)?)))
    }
}

impl Instruct<'_> {
    fn sample(&self, row: &Row, train_on_inputs: bool) -> Result<Sample, DataError> {
        let parts = (self.layout.parts)(row, self.name)?;
        let sample = self.encode(&parts).and_then(|prompt| {
            prompt_and_response(
                self.tokenizer,
                prompt,
                &parts.response,
                train_on_inputs,
                self.sequence_len,
                self.layout.ends,
            )
        });
        sample.map_err(|error| error.at(&row.at))
    }

    /// The tokens of the prompt.
    fn encode(&self, parts: &Parts<'_>) -> Result<Vec<u32>, DataError> {
        if self.layout.formatted {
            let ids = self.tokenizer.encode(&self.layout.prompt(parts), false)?;
            return Ok(self.tokenizer.opened(ids));
        }
        let prompt = self.layout.prompt(&Parts {
            system: self.plain.mark(&parts.system)?,
            instruction: self.plain.mark(&parts.instruction)?,
            input: self.plain.mark(&parts.input)?,
            response: Cow::default(),
        });
        self.plain.encode(self.tokenizer, &prompt)
    }
}

impl Layout {
    fn prompt(&self, parts: &Parts<'_>) -> String {
        let system = match self.system {
            System::None => "",
            System::Fixed([with_input, without]) => {
                if parts.input.is_empty() {
                    without
                } else {
                    with_input
                }
            }
            System::Row => &parts.system,
        };
        let style = &self.style;
        let mut text = String::new();
        if !system.is_empty() {
            text.push_str(style.system[0]);
            text.push_str(system);
            text.push_str(style.system[1]);
        }
        text.push_str(style.open);
        text.push_str(&parts.instruction);
        if !parts.input.is_empty() {
            text.push_str(style.between);
            text.push_str(&parts.input);
        }
        text.push_str(style.close);
        text
    }
}
