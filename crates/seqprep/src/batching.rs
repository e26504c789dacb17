//! Which rows make a batch: by similar length, by a budget of tokens, evenly by
//! trained tokens.
//!
//! Invariants: each index comes exactly once; the result depends on the
//! arguments alone. [`by_tokens`] works on an iterator and holds no more than
//! the batch at hand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use crate::order::permutation;

/// Batches that are sorted together, as in transformers.
const MEGABATCH: usize = 50;

/// A random order in which rows of similar length are neighbours.
///
/// As `group_by_length` of transformers has it: the rows are shuffled and cut
/// into groups of 50 batches (fewer if there would be less than four groups);
/// each group is sorted, longest first; the longest row of all comes first, so
/// that a lack of memory shows in the first step. The shuffle is that of
/// [`permutation`].
///
/// `batch_size` is the number of rows in a batch; 0 counts as 1.
pub fn group_by_length(lengths: &[u32], batch_size: usize, seed: u64) -> Vec<u32> {
    let batch_size = batch_size.max(1);
    let quarter = lengths.len() / batch_size.saturating_mul(4);
    let megabatch = quarter.clamp(1, MEGABATCH).saturating_mul(batch_size);
    // Indices are 32 bits wide throughout: longer lists cannot be packed either.
    let mut order = permutation(lengths.len() as u32, seed);
    for group in order.chunks_mut(megabatch) {
        group.sort_by_key(|&index| Reverse(lengths[index as usize]));
    }
    let longest = (0..order.len())
        .step_by(megabatch)
        .min_by_key(|&place| Reverse(lengths[order[place] as usize]));
    if let Some(longest) = longest {
        order.swap(0, longest);
    }
    order
}

/// The size of a batch in token slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBudget {
    /// Token slots in a batch.
    pub tokens: usize,
    /// Rows in a batch, at most.
    pub rows: usize,
    /// Whether rows are padded to the longest, so that padding counts; else
    /// the batch is flattened.
    pub padded: bool,
}

/// Why a budget cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// A row alone is over the budget.
    #[error(
        "row {row} has {len} tokens, more than the {budget} of a batch; drop or truncate long \
         rows, or allow more tokens in a batch"
    )]
    RowTooLong {
        /// Number of the row, from 0.
        row: usize,
        /// Its tokens.
        len: usize,
        /// Token slots in a batch.
        budget: usize,
    },
    /// Batches of no rows were asked for.
    #[error("a batch of 0 rows was asked for; allow 1 or more")]
    NoRows,
}

/// Rows in the given order, cut into batches that keep a budget: a batch is
/// closed when the next row would not fit.
///
/// ```
/// use seqprep::{TokenBudget, by_tokens};
///
/// let budget = TokenBudget { tokens: 12, rows: 8, padded: true };
/// let batches: Result<Vec<Vec<usize>>, _> =
///     by_tokens([3, 4, 4, 5, 2].into_iter(), |&len| len, budget).collect();
/// // Three rows of 4 slots; two of 5.
/// assert_eq!(batches?, [vec![3, 4, 4], vec![5, 2]]);
/// # Ok::<(), seqprep::BudgetError>(())
/// ```
///
/// After an error the iterator ends.
pub fn by_tokens<I: Iterator>(
    rows: I,
    len: impl Fn(&I::Item) -> usize,
    budget: TokenBudget,
) -> impl Iterator<Item = Result<Vec<I::Item>, BudgetError>> {
    let mut rows = rows.enumerate();
    let mut next: Option<(I::Item, usize)> = None;
    let mut failed = None;
    if budget.rows == 0 {
        failed = Some(BudgetError::NoRows);
    }
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut batch = Vec::new();
        let (mut sum, mut longest) = (0_usize, 0);
        while failed.is_none() {
            let Some((row, tokens)) = next.take().or_else(|| {
                let (number, row) = rows.next()?;
                let tokens = len(&row);
                if tokens > budget.tokens {
                    failed = Some(BudgetError::RowTooLong {
                        row: number,
                        len: tokens,
                        budget: budget.tokens,
                    });
                    return None;
                }
                Some((row, tokens))
            }) else {
                break;
            };
            let slots = match budget.padded {
                true => tokens.max(longest).saturating_mul(batch.len() + 1),
                false => sum.saturating_add(tokens),
            };
            if batch.len() == budget.rows || slots > budget.tokens {
                next = Some((row, tokens));
                return Some(Ok(batch));
            }
            sum += tokens;
            longest = tokens.max(longest);
            batch.push(row);
        }
        // Rows before a bad one are still given.
        if !batch.is_empty() {
            return Some(Ok(batch));
        }
        ended = true;
        failed.take().map(Err)
    })
}

/// Rows dealt to groups (ranks, or the batches of a step) so that the groups
/// have about the same sum of weights, and numbers of rows that differ by at
/// most one.
///
/// A row's weight is its number of trained tokens, as in `balance_labels`: with
/// even sums, no rank's gradient stands for far fewer tokens than another's.
/// The heaviest row goes first, each to the group with the least sum that may
/// still take one (of equals, the first). Groups list their rows in ascending
/// order. No group at all takes no rows.
pub fn balance(weights: &[u64], groups: usize) -> Vec<Vec<u32>> {
    let mut dealt = vec![Vec::new(); groups];
    if groups == 0 {
        return dealt;
    }
    let mut heaviest: Vec<u32> = (0..weights.len() as u32).collect();
    heaviest.sort_by_key(|&row| Reverse(weights[row as usize]));
    let each = weights.len() / groups;
    // As many groups take one row more than the others.
    let mut larger = weights.len() % groups;
    let mut lightest: BinaryHeap<Reverse<(u64, usize)>> =
        (0..groups).map(|group| Reverse((0, group))).collect();
    for row in heaviest {
        while let Some(Reverse((sum, group))) = lightest.pop() {
            let full = dealt[group].len() >= each;
            if full && (dealt[group].len() > each || larger == 0) {
                continue;
            }
            larger -= usize::from(full);
            dealt[group].push(row);
            lightest.push(Reverse((sum.saturating_add(weights[row as usize]), group)));
            break;
        }
    }
    for rows in &mut dealt {
        rows.sort_unstable();
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_sorted_and_the_longest_row_is_first() {
        let lengths: Vec<u32> = (0..40).map(|i| (i * 7) % 40).collect();
        // 40 rows in batches of 2: a quarter of the batches are 5.
        let order = group_by_length(&lengths, 2, 1);
        let shuffled = permutation(40, 1);
        assert_eq!(lengths[order[0] as usize], 39);
        for (group, drawn) in order.chunks(10).zip(shuffled.chunks(10)) {
            let lens =
                |rows: &[u32]| -> Vec<u32> { rows.iter().map(|&i| lengths[i as usize]).collect() };
            assert!(lens(&group[1..]).is_sorted_by_key(|&len| Reverse(len)));
            // But for the swap, a group holds what was drawn for it.
            let strangers = group.iter().filter(|row| !drawn.contains(row)).count();
            assert!(strangers <= 1);
        }
        assert_eq!(group_by_length(&[], 4, 1), [0_u32; 0]);
        assert_eq!(group_by_length(&[5, 6, 7], 0, 1)[0], 2);
    }

    fn batches(lengths: &[usize], budget: TokenBudget) -> Vec<Result<Vec<usize>, BudgetError>> {
        by_tokens(lengths.iter().copied(), |&len| len, budget).collect()
    }

    #[test]
    fn padding_counts_unless_rows_are_flattened() {
        let mut budget = TokenBudget {
            tokens: 10,
            rows: 3,
            padded: true,
        };
        let lengths = [2, 2, 2, 2, 5, 1, 9];
        let made: Result<Vec<_>, _> = batches(&lengths, budget).into_iter().collect();
        assert_eq!(made.unwrap(), [vec![2, 2, 2], vec![2, 5], vec![1], vec![9]]);
        budget.padded = false;
        let made: Result<Vec<_>, _> = batches(&lengths, budget).into_iter().collect();
        assert_eq!(made.unwrap(), [vec![2, 2, 2], vec![2, 5, 1], vec![9]]);
    }

    #[test]
    fn rows_before_a_long_one_are_given() {
        let mut budget = TokenBudget {
            tokens: 4,
            rows: 3,
            padded: true,
        };
        let made = batches(&[1, 5, 1], budget);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0], Ok(vec![1]));
        assert_eq!(
            made[1].clone().unwrap_err().to_string(),
            "row 1 has 5 tokens, more than the 4 of a batch; drop or truncate long rows, or allow \
             more tokens in a batch"
        );
        budget.rows = 0;
        assert_eq!(batches(&[1], budget), [Err(BudgetError::NoRows)]);
    }

    #[test]
    fn sums_are_even() {
        assert_eq!(
            balance(&[9, 1, 1, 8, 7, 2, 3, 4], 2),
            [vec![0, 1, 6, 7], vec![2, 3, 4, 5]],
        );
        // The group with the one heavy row still takes its share of rows.
        assert_eq!(balance(&[100, 1, 1, 1, 1], 2), [vec![0, 4], vec![1, 2, 3]]);
        assert_eq!(balance(&[1], 3), [vec![0], vec![], vec![]]);
        assert_eq!(balance(&[1], 0), Vec::<Vec<u32>>::new());
    }
}
