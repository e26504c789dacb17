//! Names of special tokens inside the columns of a prompt, which stay text.
//!
//! A mark behind the first character of such a name travels with the text into
//! the prompt; when the prompt is tokenized, the marks are taken out and the text
//! is divided there, so that the name does not become the token. Texts that bring
//! their special tokens with them on purpose are not marked.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use trainer_config::Config;

use crate::{DataError, Tokenizer};

/// A code point that Unicode keeps free for the use of programs.
const MARK: char = '\u{10FFFF}';

/// Marks names of special tokens in texts of the data.
pub(crate) struct Plain {
    finder: Option<AhoCorasick>,
}

impl Plain {
    pub(crate) fn new(config: &Config, tokenizer: &Tokenizer) -> Self {
        let names = if config.allow_special_tokens_in_content {
            Vec::new()
        } else {
            tokenizer.special_texts()
        };
        // Building fails only for texts of gigabytes.
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&names)
            .ok();
        Self {
            finder: finder.filter(|_| !names.is_empty()),
        }
    }

    /// The text with every name marked.
    ///
    /// # Errors
    /// A text that holds the mark.
    pub(crate) fn mark<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, DataError> {
        let Some(finder) = &self.finder else {
            return Ok(text.into());
        };
        if text.contains(MARK) {
            return Err(DataError::Encode {
                message: "the text holds U+10FFFF, which is reserved for dividing texts that look like special tokens; take it out, or set `allow_special_tokens_in_content: true`".to_owned(),
            });
        }
        let mut out = String::new();
        let mut from = 0;
        for found in finder.find_iter(text) {
            let first = text[found.range()].chars().next().map_or(0, char::len_utf8);
            let at = found.start() + first;
            out.push_str(&text[from..at]);
            out.push(MARK);
            from = at;
        }
        if from == 0 {
            return Ok(text.into());
        }
        out.push_str(&text[from..]);
        Ok(out.into())
    }

    /// The text without its marks, and the bytes at which they stood.
    pub(crate) fn unmark<'a>(&self, text: &'a str) -> (Cow<'a, str>, Vec<usize>) {
        if self.finder.is_none() || !text.contains(MARK) {
            return (text.into(), Vec::new());
        }
        let mut out = String::with_capacity(text.len());
        let mut cuts = Vec::new();
        for part in text.split_inclusive(MARK) {
            out.push_str(part.strip_suffix(MARK).unwrap_or(part));
            if part.ends_with(MARK) {
                cuts.push(out.len());
            }
        }
        (out.into(), cuts)
    }

    /// The ids of a marked text, with what every sequence begins with.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, DataError> {
        let (text, cuts) = self.unmark(text);
        let ids = match cuts.is_empty() {
            true => tokenizer.encode(&text, false)?,
            false => tokenizer.encode_cut(&text, &cuts)?.ids,
        };
        Ok(tokenizer.opened(ids))
    }
}
