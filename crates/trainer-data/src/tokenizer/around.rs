//! What stands around a text: the tokens that the tokenizer puts in front of every
//! sequence and behind it, and the one that ends an answer.
//!
//! Invariant: what a sequence begins with is found from what the tokenizer does, not
//! from what its files call a token, and stands there once, whether the tokenizer
//! puts it there or the text brings it.

use super::{ROLES, Tokenizer, token_text};
use crate::DataError;

/// Tokens in front of a sequence and behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

impl Around {
    /// Found from a text of one letter, so that its tokens are told from the others.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let ids = |special| {
            let encoding = tokenizer.encode("a", special).ok()?;
            Some(encoding.get_ids().to_vec())
        };
        let (Some(plain), Some(whole)) = (ids(false), ids(true)) else {
            return Self::default();
        };
        let mut places = whole.windows(plain.len().max(1));
        let Some(at) = places.position(|ids| ids == plain) else {
            return Self::default();
        };
        Self {
            before: whole[..at].to_vec(),
            after: whole[at + plain.len()..].to_vec(),
        }
    }
}

impl Tokenizer {
    /// Ids of the tokens that the tokenizer puts in front of every sequence.
    #[must_use]
    pub fn opening(&self) -> &[u32] {
        &self.around.before
    }

    /// Ids of the tokens that it puts behind every sequence.
    #[must_use]
    pub fn closing(&self) -> &[u32] {
        &self.around.after
    }

    /// Puts what every sequence begins with in front of ids that do not begin with it.
    pub(crate) fn opened(&self, ids: Vec<u32>) -> Vec<u32> {
        let opening = self.opening();
        match ids.starts_with(opening) {
            true => ids,
            false => [opening, &ids].concat(),
        }
    }

    /// The ids of a text that is a sequence by itself, with what the tokenizer puts
    /// around it; what the text brings of that is not put there again.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub(crate) fn encode_whole(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = self.opened(self.encode(text, false)?);
        if !ids.ends_with(self.closing()) {
            ids.extend(self.closing());
        }
        Ok(ids)
    }

    /// The text of the token that opens a sequence; empty where there is none.
    pub(crate) fn bos_text(&self) -> String {
        match (&self.tokens[0], self.opening().first()) {
            (Some((text, _)), _) => text.clone(),
            (None, Some(id)) => self.inner.id_to_token(*id).unwrap_or_default(),
            (None, None) => String::new(),
        }
    }

    /// Why nothing ends the answers of a tokenizer without an end of sequence.
    pub(crate) fn no_end(&self) -> DataError {
        let role = ROLES[1];
        let files = [Some(&self.config), self.special.as_ref()];
        let named = files
            .into_iter()
            .flatten()
            .find_map(|file| file.get(role).and_then(token_text));
        DataError::NoEnd {
            path: self.folder().to_owned(),
            reason: match named {
                Some(token) => {
                    format!("its `{role}` is {token:?}, which is not in the vocabulary")
                }
                None => format!("its files name no `{role}`"),
            },
        }
    }
}
