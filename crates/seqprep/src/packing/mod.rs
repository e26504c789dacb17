//! Packing: which documents share a row.
//!
//! A packer takes the lengths of the documents in the order in which they are
//! to be seen and gives bins of indices into those lengths. To pack a shuffled
//! order, gather the lengths in that order and give the result back its
//! indices:
//!
//! ```
//! use seqprep::{best_fit_decreasing, permutation};
//!
//! let lengths = [5_u32, 4, 3, 2, 1, 6];
//! let order = permutation(6, 42);
//! let shuffled: Vec<u32> = order.iter().map(|&i| lengths[i as usize]).collect();
//! let packing = best_fit_decreasing(&shuffled, 8)?.map_items(&order);
//! assert_eq!(packing.num_bins(), 3);
//! # Ok::<(), seqprep::PackingError>(())
//! ```
//!
//! Invariants: each index is in exactly one bin; no bin holds more tokens than
//! the capacity; the result depends on the arguments alone.
//!
//! | packer | order of the rows | bins |
//! |---|---|---|
//! | [`best_fit_decreasing`] | longest documents first | fewest |
//! | [`best_fit_decreasing_limited`] | longest documents first | few, with a limit on documents |
//! | [`first_fit`] | close to the given order | a little more |
//! | [`sequential`] | the given order | most |

mod best_fit;
mod first_fit;

pub use best_fit::{best_fit_decreasing, best_fit_decreasing_limited};
pub use first_fit::{FirstFitOptions, first_fit};

use serde::{Deserialize, Serialize};

/// Documents assigned to bins, as indices.
///
/// All bins lie in one allocation; a bin is a slice of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    items: Vec<u32>,
    /// Where each bin ends in `items`.
    ends: Vec<u32>,
    capacity: u32,
    tokens: u64,
}

/// Why lengths cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackingError {
    /// A document is longer than a bin.
    #[error(
        "document {index} has {len} tokens, more than the {capacity} of a packed row; drop or \
         truncate long documents before packing"
    )]
    ItemTooLong {
        /// Index of the document, the first that is too long.
        index: usize,
        /// Tokens in the document.
        len: u32,
        /// Tokens in a bin.
        capacity: u32,
    },
    /// More documents than 32-bit indices reach.
    #[error("{count} documents are more than can be packed at once (4294967295); pack in parts")]
    TooManyItems {
        /// Number of documents.
        count: usize,
    },
    /// A group or a bin of no documents.
    #[error("{name} is 0; it must be 1 or more")]
    ZeroLimit {
        /// The option: `group_size` or `bin_size`.
        name: &'static str,
    },
}

/// How well a [`Packing`] fills its bins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PackingReport {
    /// Documents packed.
    pub documents: usize,
    /// Bins, each of which becomes a row.
    pub bins: usize,
    /// Tokens in a bin.
    pub capacity: u32,
    /// Tokens in all documents.
    pub tokens: u64,
    /// Places for tokens: bins times capacity.
    pub slots: u64,
    /// Tokens over slots, from 0 to 1; 1 when there are no bins.
    pub efficiency: f64,
}

impl Packing {
    /// Number of bins.
    pub fn num_bins(&self) -> usize {
        self.ends.len()
    }

    /// Tokens that fit in a bin.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The bins in the order in which they were opened; each holds the indices
    /// of its documents.
    pub fn bins(&self) -> impl ExactSizeIterator<Item = &[u32]> + Clone {
        (0..self.ends.len()).map(|bin| self.range(bin))
    }

    /// The documents of one bin, or `None` past the last bin.
    pub fn get(&self, bin: usize) -> Option<&[u32]> {
        (bin < self.ends.len()).then(|| self.range(bin))
    }

    fn range(&self, bin: usize) -> &[u32] {
        let start = match bin {
            0 => 0,
            bin => self.ends[bin - 1],
        };
        &self.items[start as usize..self.ends[bin] as usize]
    }

    /// Replaces each index `i` by `order[i]`: from places in a shuffled order
    /// back to rows of the data set.
    ///
    /// # Panics
    /// When `order` is shorter than the list of lengths that was packed.
    #[must_use]
    pub fn map_items(mut self, order: &[u32]) -> Self {
        for item in &mut self.items {
            *item = order[*item as usize];
        }
        self
    }

    /// The same bins in a random order, by [`permutation`](crate::permutation).
    /// Best-fit-decreasing opens the bins of the longest documents first, an
    /// order not to train in.
    #[must_use]
    pub fn shuffle_bins(&self, seed: u64) -> Self {
        self.in_order(&crate::order::permutation(self.ends.len() as u32, seed))
    }

    /// The bins that `order` names, in its order.
    ///
    /// # Panics
    /// When `order` names a bin that there is not.
    #[must_use]
    pub fn in_order(&self, order: &[u32]) -> Self {
        let mut items = Vec::with_capacity(self.items.len());
        let mut ends = Vec::with_capacity(order.len());
        for &bin in order {
            items.extend_from_slice(self.range(bin as usize));
            ends.push(items.len() as u32);
        }
        Self {
            items,
            ends,
            ..*self
        }
    }

    /// Numbers of bins, tokens and slots, and the efficiency.
    pub fn report(&self) -> PackingReport {
        let slots = self.ends.len() as u64 * u64::from(self.capacity);
        PackingReport {
            documents: self.items.len(),
            bins: self.ends.len(),
            capacity: self.capacity,
            tokens: self.tokens,
            slots,
            efficiency: match slots {
                0 => 1.0,
                slots => self.tokens as f64 / slots as f64,
            },
        }
    }

    /// Turns "the bin of each item" into bins of items. `items` and `bin_of`
    /// run in parallel; items keep their order within a bin.
    fn from_assignment(
        items: impl Iterator<Item = u32>,
        bin_of: &[u32],
        num_bins: usize,
        capacity: u32,
        tokens: u64,
    ) -> Self {
        let mut ends = vec![0_u32; num_bins];
        for &bin in bin_of {
            ends[bin as usize] += 1;
        }
        // `ends` becomes the start of each bin, and moves to its end as the
        // bin is filled.
        let mut start = 0;
        for end in &mut ends {
            start += std::mem::replace(end, start);
        }
        let mut sorted = vec![0_u32; bin_of.len()];
        for (item, &bin) in items.zip(bin_of) {
            let place = &mut ends[bin as usize];
            sorted[*place as usize] = item;
            *place += 1;
        }
        Self {
            items: sorted,
            ends,
            capacity,
            tokens,
        }
    }
}

/// Checks that each length fits in a bin; returns the sum of the lengths.
fn check_lengths(lengths: &[u32], capacity: u32) -> Result<u64, PackingError> {
    if u32::try_from(lengths.len()).is_err() {
        return Err(PackingError::TooManyItems {
            count: lengths.len(),
        });
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if longest > capacity {
        let index = lengths.iter().position(|&len| len > capacity).unwrap_or(0);
        return Err(PackingError::ItemTooLong {
            index,
            len: lengths[index],
            capacity,
        });
    }
    Ok(lengths.iter().map(|&len| u64::from(len)).sum())
}

/// Next-fit: documents in order, a new bin whenever one does not fit into the
/// open bin.
///
/// # Errors
/// [`PackingError::ItemTooLong`] and [`PackingError::TooManyItems`].
pub fn sequential(lengths: &[u32], capacity: u32) -> Result<Packing, PackingError> {
    let tokens = check_lengths(lengths, capacity)?;
    let mut ends = Vec::new();
    let mut room = capacity;
    for (index, &len) in (0_u32..).zip(lengths) {
        if len > room {
            ends.push(index);
            room = capacity;
        }
        room -= len;
    }
    if !lengths.is_empty() {
        ends.push(lengths.len() as u32);
    }
    Ok(Packing {
        items: crate::order::sequential_order(lengths.len() as u32),
        ends,
        capacity,
        tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [u32; 6] = [5, 4, 3, 2, 1, 6];

    fn bins(packing: &Packing) -> Vec<Vec<u32>> {
        packing.bins().map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn first_fit_matches_recorded_bins() {
        let pack = |lengths: &[u32], group_size, bin_size| {
            let options = FirstFitOptions {
                group_size,
                bin_size,
            };
            bins(&first_fit(lengths, 8, options).unwrap())
        };
        assert_eq!(
            pack(&LENGTHS, 100_000, 200),
            [vec![0, 2], vec![1, 3, 4], vec![5]]
        );
        assert_eq!(
            pack(&LENGTHS, 3, 200),
            [vec![0, 2], vec![1], vec![3, 4], vec![5]]
        );
        assert_eq!(pack(&[1; 5], 100, 2), [vec![0, 1], vec![2, 3], vec![4]]);
        // A bin of its full number of documents takes not even an empty one.
        assert_eq!(pack(&[1, 0, 0], 100, 2), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn sequential_matches_recorded_bins() {
        let packing = sequential(&LENGTHS, 8).unwrap();
        assert_eq!(bins(&packing), [vec![0], vec![1, 2], vec![3, 4], vec![5]]);
        let report = packing.report();
        assert_eq!((report.tokens, report.slots), (21, 32));
    }

    #[test]
    fn reports_efficiency() {
        let packing = first_fit(&LENGTHS, 8, FirstFitOptions::default()).unwrap();
        assert_eq!(
            packing.report(),
            PackingReport {
                documents: 6,
                bins: 3,
                capacity: 8,
                tokens: 21,
                slots: 24,
                efficiency: 0.875
            }
        );
        assert_eq!(sequential(&[], 8).unwrap().report().efficiency, 1.0);
    }

    #[test]
    fn items_are_renamed_and_bins_shuffled() {
        let packing = sequential(&[5, 4, 3, 6], 8).unwrap();
        let renamed = packing.map_items(&[30, 20, 10, 0]);
        assert_eq!(bins(&renamed), [vec![30], vec![20, 10], vec![0]]);
        assert_eq!(renamed.get(1), Some(&[20, 10][..]));
        assert_eq!(renamed.get(3), None);
        let order = crate::order::permutation(3, 7);
        assert_ne!(order, [0, 1, 2]);
        let shuffled = renamed.shuffle_bins(7);
        for (place, &bin) in order.iter().enumerate() {
            assert_eq!(shuffled.get(place), renamed.get(bin as usize));
        }
        assert_eq!(shuffled.report(), renamed.report());
    }

    #[test]
    fn a_long_document_is_an_error_in_every_packer() {
        let expected = "document 2 has 9 tokens, more than the 8 of a packed row; drop or \
                        truncate long documents before packing";
        let lengths = [8, 1, 9, 10];
        for result in [
            sequential(&lengths, 8),
            best_fit_decreasing(&lengths, 8),
            first_fit(&lengths, 8, FirstFitOptions::default()),
        ] {
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn limits_of_zero_are_errors() {
        let options = FirstFitOptions {
            bin_size: 0,
            ..FirstFitOptions::default()
        };
        assert_eq!(
            first_fit(&[1], 8, options).unwrap_err().to_string(),
            "bin_size is 0; it must be 1 or more"
        );
    }
}
