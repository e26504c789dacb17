//! Text of the data that reads like a special token.
//!
//! A tokenizer turns the text `<|im_end|>` into the token of that name wherever
//! it stands. In a content that someone typed, it is text. Such places are cut
//! in two for the tokenizer, behind their first character, so that neither half
//! is the name of a token. Everything else is tokenized as it would be alone.

use std::ops::Range;

use tokenizers::AddedToken;

use super::{Encoded, Tokenizer, encode_error};
use crate::DataError;

/// Divides texts; no text of natural data holds it.
const SPLITTER: &str = "\u{10FFFC}\u{10FFFD}\u{10FFFC}";

impl Tokenizer {
    /// The texts of special tokens.
    pub(crate) fn special_texts(&self) -> Vec<String> {
        let added = self.inner.get_added_vocabulary();
        let mut texts: Vec<String> = added
            .get_added_tokens_decoder()
            .values()
            .filter(|token| token.special && !token.content.is_empty())
            .map(|token| token.content.clone())
            .collect();
        texts.sort_unstable();
        texts
    }

    /// Whether an id is one of a token added to the vocabulary, special or not.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().contains_key(&id)
    }

    /// As [`Tokenizer::encode_with_offsets`] without added special tokens, where
    /// the text at each of `cuts` (bytes, ascending) must not become a special
    /// token that spans the cut.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub(crate) fn encode_cut(&self, text: &str, cuts: &[usize]) -> Result<Encoded, DataError> {
        if cuts.is_empty() {
            return self.encode_with_offsets(text, false);
        }
        if text.contains(SPLITTER) {
            return Err(DataError::Encode {
                message: format!(
                    "the text holds {SPLITTER:?}, which is reserved for dividing texts that look like special tokens"
                ),
            });
        }
        let splitting = self.splitting.get_or_init(|| {
            let mut splitting = self.inner.clone();
            splitting
                .add_tokens([AddedToken::from(SPLITTER, false).normalized(false)])
                .ok()?;
            let id = splitting.token_to_id(SPLITTER)?;
            Some((splitting, id))
        });
        let Some((splitting, splitter)) = splitting else {
            return Err(DataError::Encode {
                message: "it does not take another token, which texts that look like special tokens need; set `allow_special_tokens_in_content: true`".to_owned(),
            });
        };
        let mut divided = String::with_capacity(text.len() + cuts.len() * SPLITTER.len());
        let mut from = 0;
        for cut in cuts {
            divided.push_str(&text[from..*cut]);
            divided.push_str(SPLITTER);
            from = *cut;
        }
        divided.push_str(&text[from..]);
        let encoding = splitting
            .encode(divided, false)
            .map_err(|error| encode_error(&*error))?;
        let mut encoded = Encoded::default();
        let mut shift = 0;
        for (id, (start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if id == splitter {
                shift += SPLITTER.len();
                continue;
            }
            encoded.ids.push(*id);
            encoded.offsets.push(Range {
                start: start - shift,
                end: end - shift,
            });
        }
        Ok(encoded)
    }
}
