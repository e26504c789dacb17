//! The text of tokens that arrive one at a time.
//!
//! Invariants: the pieces together are the text of all tokens, up to the first
//! stop text; no piece ends within a character; nothing that may become a stop
//! text is given out.

use super::Tokenizer;
use crate::DataError;

/// What a decoder gives for bytes that are not (yet) a character.
const INCOMPLETE: char = '\u{FFFD}';

/// Turns tokens into text as they come.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    stops: Vec<String>,
    ids: Vec<u32>,
    /// The tokens from here on are decoded: some that are given out already,
    /// since a decoder may treat the first token of a text in its own way.
    window: usize,
    /// The tokens up to here are given out.
    done: usize,
    /// Text that may be the beginning of a stop text.
    held: String,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// A stream that ends before the first of `stops`; empty ones are left out.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool, stops: &[String]) -> Self {
        Self {
            tokenizer,
            skip_special_tokens,
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            ids: Vec::new(),
            window: 0,
            done: 0,
            held: String::new(),
            stopped: false,
        }
    }

    /// The text that a further token makes certain, which may be none.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        if self.stopped {
            return Ok(String::new());
        }
        self.ids.push(id);
        let fresh = self.decoded(false)?;
        Ok(self.release(&fresh, false))
    }

    /// The rest, with what was held back.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn finish(&mut self) -> Result<String, DataError> {
        if self.stopped {
            return Ok(String::new());
        }
        let fresh = self.decoded(true)?;
        Ok(self.release(&fresh, true))
    }

    /// Whether a stop text came.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text of the tokens that are not given out, once it ends with a whole
    /// character or nothing more will come.
    fn decoded(&mut self, last: bool) -> Result<String, DataError> {
        let text = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special_tokens);
        let before = text(&self.ids[self.window..self.done])?;
        let all = text(&self.ids[self.window..])?;
        if all.ends_with(INCOMPLETE) && !last {
            return Ok(String::new());
        }
        let Some(fresh) = all.strip_prefix(&before) else {
            // What is given out already is not taken back.
            return Ok(String::new());
        };
        if fresh.is_empty() {
            return Ok(String::new());
        }
        let fresh = fresh.to_owned();
        self.window = self.done;
        self.done = self.ids.len();
        Ok(fresh)
    }

    fn release(&mut self, fresh: &str, last: bool) -> String {
        self.held.push_str(fresh);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = first.min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        if last {
            return std::mem::take(&mut self.held);
        }
        let beginning = |at: &usize| {
            let tail = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let places = self.held.char_indices().map(|(at, _)| at);
        let keep = places
            .into_iter()
            .find(beginning)
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }
}
