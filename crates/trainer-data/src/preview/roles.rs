//! Who says what in conversations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rayon::prelude::*;
use seqprep::IGNORE_INDEX;
use trainer_config::Config;

use super::RoleCount;
use crate::strategy::{self, TokenRoles};
use crate::{DataError, Tokenizer, source};

/// Name of what stands between the turns.
const TEMPLATE: &str = "(template)";

/// Who says each token of a sample, found by the ids of the sample.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    by_ids: HashMap<Vec<u32>, Vec<Option<Arc<str>>>>,
    /// Tokens and targets by role.
    counts: BTreeMap<String, (usize, usize)>,
}

impl Roles {
    /// The roles in the first `rows` rows of each training data set. Samples
    /// that are cut are found by what is left of them.
    ///
    /// # Errors
    /// As [`prepare`](crate::prepare).
    pub fn read(config: &Config, tokenizer: &Tokenizer, rows: usize) -> Result<Self, DataError> {
        let mut all = Self::default();
        for dataset in &config.datasets {
            let rows: Vec<source::Row> = source::open(dataset)?
                .take(rows)
                .collect::<Result<_, _>>()?;
            let Some(first) = rows.first() else { continue };
            let limit = config.sequence_len;
            let strategy = strategy::build(config, dataset, first, tokenizer, limit)?;
            let found: Vec<_> = rows
                .par_iter()
                .filter_map(|row| {
                    let roles = strategy.roles(row).transpose()?;
                    Some(roles.and_then(|roles| Ok((roles, strategy.samples(row)?))))
                })
                .collect::<Result<_, _>>()?;
            for (
                TokenRoles {
                    mut input_ids,
                    mut roles,
                },
                samples,
            ) in found
            {
                for sample in samples
                    .iter()
                    .filter(|sample| sample.input_ids == input_ids)
                {
                    for (role, label) in roles.iter().zip(&sample.labels) {
                        let name = role.as_deref().unwrap_or(TEMPLATE);
                        let count = match all.counts.get_mut(name) {
                            Some(count) => count,
                            None => all.counts.entry(name.to_owned()).or_default(),
                        };
                        count.0 += 1;
                        count.1 += usize::from(*label != IGNORE_INDEX);
                    }
                }
                input_ids.truncate(limit);
                roles.truncate(limit);
                all.insert(input_ids, roles);
            }
        }
        Ok(all)
    }

    /// Sets the roles of a sample, one a token.
    pub fn insert(&mut self, ids: Vec<u32>, roles: Vec<Option<Arc<str>>>) {
        self.by_ids.insert(ids, roles);
    }

    /// The role of each token of a sample; nothing for samples that have none.
    #[must_use]
    pub fn get(&self, ids: &[u32]) -> Option<&[Option<Arc<str>>]> {
        self.by_ids.get(ids).map(Vec::as_slice)
    }

    /// Tokens by role, most first. Samples that are dropped count too.
    #[must_use]
    pub fn counts(&self) -> Vec<RoleCount> {
        let mut counts: Vec<RoleCount> = self
            .counts
            .iter()
            .map(|(role, (tokens, trained))| RoleCount {
                role: role.clone(),
                tokens: *tokens,
                trained: *trained,
            })
            .collect();
        counts.sort_by_key(|count| std::cmp::Reverse(count.tokens));
        counts
    }
}
