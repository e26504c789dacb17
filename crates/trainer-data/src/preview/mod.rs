//! What the model will see: tokens as text, with what is trained, masked,
//! padding and which document, and how full the rows are.
//!
//! ```text
//! Batch ──PreviewRow::from_batch──▶ PreviewRow ─┬─▶ to_text (plain or ANSI)
//! lengths, rows ──PreviewReport::new──▶ report ─┴─▶ to_html
//! ```
//!
//! Samples of preferences are shown one by one, with prompt and answers as the
//! parts of a row ([`PreviewRow::from_preferences`]).
//!
//! A preview is made from a [`Batch`], the very rectangle that is trained on,
//! and not from the rows of the files, so that it shows packing and padding as
//! they are. Rendering only makes text. Control characters of the data are
//! shown by name: a data set cannot control the terminal or the page.

mod html;
mod preferences;
mod report;
mod roles;
mod text;

use std::sync::Arc;

use seqprep::{Batch, IGNORE_INDEX};

use crate::{DataError, Tokenizer};

pub use html::{rows_to_html, to_html};
pub use report::{PreviewReport, RoleCount};
pub use roles::Roles;
pub use text::{TextStyle, to_text};

/// Most tokens that are taken to share one character.
const LONGEST_CHARACTER: usize = 6;

/// One row of a batch, or one sample of preferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRow {
    /// Number of the row in the epoch, from 1.
    pub number: usize,
    /// Its tokens, padding included.
    pub tokens: Vec<PreviewToken>,
    /// What each document is, where they are the parts of one sample (`prompt`,
    /// `chosen`, ...); empty for a row of a batch.
    pub parts: Vec<String>,
}

/// One token of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewToken {
    /// Its id.
    pub id: u32,
    /// Its position in its document.
    pub position: u32,
    /// Number of its document in the row, from 1; 0 is padding.
    pub document: u32,
    /// Whether it is a target.
    pub trained: bool,
    /// Its text. Where several tokens share a character, the last one has it.
    pub text: String,
    /// Who says it, where the data set is a conversation.
    pub role: Option<Arc<str>>,
}

impl PreviewRow {
    /// The rows of a batch, numbered from `first`.
    ///
    /// # Errors
    /// [`DataError::Encode`] where the tokenizer cannot give the text of an id.
    pub fn from_batch(
        batch: &Batch,
        first: usize,
        tokenizer: &Tokenizer,
        roles: &Roles,
    ) -> Result<Vec<Self>, DataError> {
        (0..batch.rows)
            .map(|row| {
                let range = row * batch.width..(row + 1) * batch.width;
                let places: Vec<usize> = range.collect();
                let mut tokens = Vec::with_capacity(places.len());
                for document in
                    places.chunk_by(|a, b| batch.segment_ids[*a] == batch.segment_ids[*b])
                {
                    let ids: Vec<u32> = document.iter().map(|&at| batch.input_ids[at]).collect();
                    let number = batch.segment_ids[document[0]];
                    let texts = match number {
                        0 => vec![String::new(); ids.len()],
                        _ => texts(&ids, tokenizer)?,
                    };
                    let said = roles.get(&ids);
                    for (offset, (&at, text)) in document.iter().zip(texts).enumerate() {
                        tokens.push(PreviewToken {
                            id: batch.input_ids[at],
                            position: batch.position_ids[at],
                            document: number,
                            trained: batch.labels[at] != IGNORE_INDEX,
                            text,
                            role: said.and_then(|roles| roles.get(offset)?.clone()),
                        });
                    }
                }
                Ok(Self {
                    number: first + row,
                    tokens,
                    parts: Vec::new(),
                })
            })
            .collect()
    }

    /// The heading of a row: what it holds, and how much of it is trained.
    fn heading(&self) -> String {
        let (tokens, trained) = self.counts();
        if !self.parts.is_empty() {
            return format!("{}: {tokens} tokens, {trained} trained", self.number);
        }
        let documents = match self.documents() {
            1 => "1 document".to_owned(),
            n => format!("{n} documents"),
        };
        format!(
            "{}: {documents}, {tokens} tokens, {trained} trained, {} padding",
            self.number,
            self.tokens.len() - tokens
        )
    }

    /// What stands above a document, which is numbered from 1; nothing where a row
    /// holds one alone.
    fn title(&self, document: u32) -> Option<String> {
        let part = usize::try_from(document.saturating_sub(1)).ok();
        match part.and_then(|part| self.parts.get(part)) {
            Some(part) => {
                let tokens = self.tokens.iter();
                let tokens = tokens.filter(|token| token.document == document).count();
                let end = if tokens == 1 { "" } else { "s" };
                Some(format!("{part}, {tokens} token{end}"))
            }
            None => (self.documents() > 1).then(|| format!("document {document}")),
        }
    }

    /// Number of documents.
    #[must_use]
    pub fn documents(&self) -> usize {
        let last = self.tokens.iter().map(|token| token.document).max();
        last.unwrap_or(0) as usize
    }

    /// Tokens that are not padding, and those of them that are targets.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let real = self.tokens.iter().filter(|token| token.document != 0);
        let trained = real.clone().filter(|token| token.trained).count();
        (real.count(), trained)
    }

    /// Neighbours of the same document, mask and role.
    fn runs(&self) -> impl Iterator<Item = &[PreviewToken]> {
        self.tokens
            .chunk_by(|a, b| (a.document, a.trained, &a.role) == (b.document, b.trained, &b.role))
    }
}

/// The text of each token of a document. Decoding goes on from the token before,
/// since some tokenizers drop the space at the start of a text.
fn texts(ids: &[u32], tokenizer: &Tokenizer) -> Result<Vec<String>, DataError> {
    let mut out = vec![String::new(); ids.len()];
    // Tokens from `start` on have no text yet; those from `context` on are
    // decoded together with them.
    let (mut context, mut start) = (0, 0);
    let mut before = String::new();
    for end in 1..=ids.len() {
        let text = tokenizer.decode(&ids[context..end], false)?;
        let whole = !text.ends_with('\u{FFFD}');
        if !whole && end - start < LONGEST_CHARACTER && end < ids.len() {
            continue;
        }
        let new = text.strip_prefix(before.as_str()).unwrap_or(&text);
        new.clone_into(&mut out[end - 1]);
        (context, start) = (start, end);
        before = tokenizer.decode(&ids[context..end], false)?;
    }
    Ok(out)
}

/// A character as it is shown, or the name of one that has no shape.
fn shown(character: char) -> Option<String> {
    match character {
        '\n' | '\t' => None,
        // Controls, and what changes the direction of text or has no width.
        c if c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}') =>
        {
            Some(format!("\\u{{{:X}}}", c as u32))
        }
        _ => None,
    }
}
