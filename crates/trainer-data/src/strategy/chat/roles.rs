//! Who says each token of a conversation, for those who look at the data.

use std::sync::Arc;

use super::{Chat, tokens_of};
use crate::DataError;
use crate::source::Row;
use crate::strategy::TokenRoles;

impl Chat<'_> {
    /// The roles of the conversation as a whole: the content of a turn, and what
    /// else of it can be trained, is of its role; the rest is of none.
    pub(super) fn token_roles(&self, row: &Row) -> Result<Option<TokenRoles>, DataError> {
        let mut conversation = self.chats.fields().read(row)?;
        if conversation.turns.is_empty() {
            return Ok(None);
        }
        // Only turns that are trained are found in the text.
        for turn in &mut conversation.turns {
            turn.trained = true;
        }
        let layout = self.chats.layout(row, &conversation, false)?;
        let encoded = self.tokenizer.encode_cut(&layout.text, &layout.cuts)?;
        let mut roles = vec![None; encoded.ids.len()];
        for (turn, span) in conversation.turns.iter().zip(&layout.spans) {
            let Some(body) = &span.body else { continue };
            let role: Arc<str> = turn.role.as_str().into();
            let mut tokens = tokens_of(&encoded, body);
            let end = span
                .end_from
                .and_then(|from| self.end(&encoded, from..span.end_before, super::END_DISTANCE));
            if let Some(end) = end {
                tokens.end = tokens.end.max(end + 1);
            }
            for token in tokens {
                roles[token] = Some(Arc::clone(&role));
            }
        }
        Ok(Some(TokenRoles {
            input_ids: encoded.ids,
            roles,
        }))
    }
}
