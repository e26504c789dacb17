//! Rules about new tokens, and about the files of the trained model.

use super::Rules;
use crate::schema::bytes;

impl Rules<'_> {
    /// `max_shard_size`.
    pub(super) fn model_files(&mut self) {
        let size = &self.config.checkpoint.max_shard_size;
        if bytes(size).is_none() && self.usable(&["max_shard_size"]) {
            let label = self.value("max_shard_size", "this is none");
            self.error(
                &format!("`max_shard_size`: \"{size}\" is no size of a file"),
                [label],
                "write a number with a unit, such as `5GB`, `500MB` or `2GiB`",
            );
        }
    }

    /// Ids of `added_tokens_overrides`, and texts that stand for several tokens.
    pub(super) fn vocabulary(&mut self) {
        let keys = &self.config.vocabulary;
        let overrides = "added_tokens_overrides";
        for id in keys.added_tokens_overrides.keys() {
            if id.parse::<u32>().is_err() {
                let label = self.key(overrides, "names a token by something else than its id");
                self.error(
                    &format!("`{overrides}`: \"{id}\" is no token id"),
                    [label],
                    "write the number of a reserved token: `128041: \"<|tool|>\"`",
                );
            }
        }
        let special = &self.config.special_tokens.additional_special_tokens;
        let lists = [
            ("tokens", keys.tokens.iter().collect::<Vec<_>>()),
            (overrides, keys.added_tokens_overrides.values().collect()),
            (
                "special_tokens.additional_special_tokens",
                special.iter().collect(),
            ),
        ];
        let mut seen: Vec<(&str, &String)> = Vec::new();
        for (key, list) in lists {
            for token in list {
                if token.is_empty() {
                    let label = self.key(key, "holds an empty text");
                    self.error(
                        &format!("`{key}`: a token cannot be empty"),
                        [label],
                        "remove it",
                    );
                } else if let Some((first, _)) = seen.iter().find(|(_, other)| *other == token) {
                    let label = self.key(key, &format!("adds it again (`{first}` does already)"));
                    self.error(
                        &format!("the token \"{token}\" is added twice"),
                        [label],
                        "keep one of them",
                    );
                } else {
                    seen.push((key, token));
                }
            }
        }
    }
}
