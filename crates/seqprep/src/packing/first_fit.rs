//! First-fit in the given order, in groups and with a limit of documents a
//! bin: Axolotl's packer.
//!
//! The first bin with room is found in a segment tree over the room of all
//! bins, so a group of n documents takes O(n log n) rather than n times the
//! number of bins. Groups do not see each other and are packed in parallel;
//! the result does not depend on the number of threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Packing, PackingError, check_lengths};

/// Limits of [`first_fit`]. The defaults are Axolotl's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstFitOptions {
    /// Documents that are packed together: each run of so many in the given
    /// order gets bins of its own. Smaller groups stay closer to the order.
    pub group_size: usize,
    /// Documents in a bin at most.
    pub bin_size: usize,
}

impl Default for FirstFitOptions {
    fn default() -> Self {
        Self {
            group_size: 100_000,
            bin_size: 200,
        }
    }
}

/// Each document goes into the first bin of its group that has room for it,
/// else into a new one.
///
/// # Errors
/// [`PackingError::ItemTooLong`], [`PackingError::TooManyItems`] and
/// [`PackingError::ZeroLimit`].
pub fn first_fit(
    lengths: &[u32],
    capacity: u32,
    options: FirstFitOptions,
) -> Result<Packing, PackingError> {
    let FirstFitOptions {
        group_size,
        bin_size,
    } = options;
    for (name, limit) in [("group_size", group_size), ("bin_size", bin_size)] {
        if limit == 0 {
            return Err(PackingError::ZeroLimit { name });
        }
    }
    let tokens = check_lengths(lengths, capacity)?;
    let groups: Vec<(Vec<u32>, u32)> = lengths
        .par_chunks(group_size)
        .map(|group| pack_group(group, capacity, bin_size))
        .collect();
    let mut bin_of = Vec::with_capacity(lengths.len());
    let mut num_bins = 0;
    for (bins, count) in groups {
        bin_of.extend(bins.into_iter().map(|bin| bin + num_bins));
        num_bins += count;
    }
    let items = 0..lengths.len() as u32;
    Ok(Packing::from_assignment(
        items,
        &bin_of,
        num_bins as usize,
        capacity,
        tokens,
    ))
}

/// The bin of each document of a group, and the number of bins.
fn pack_group(lengths: &[u32], capacity: u32, bin_size: usize) -> (Vec<u32>, u32) {
    let mut rooms = RoomTree::new(capacity);
    let mut counts: Vec<usize> = Vec::new();
    let bin_of = lengths
        .iter()
        .map(|&len| {
            let bin = rooms.first_with(len).unwrap_or_else(|| {
                counts.push(0);
                rooms.open()
            });
            counts[bin] += 1;
            if counts[bin] == bin_size {
                rooms.close(bin);
            } else {
                rooms.take(bin, len);
            }
            bin as u32
        })
        .collect();
    (bin_of, counts.len() as u32)
}

/// The room of each bin under a binary tree of maxima. Room is stored plus
/// one: 0 is a bin that takes nothing more, not even an empty document.
struct RoomTree {
    capacity: u32,
    /// Number of leaves, a power of two.
    leaves: usize,
    bins: usize,
    /// Node 1 is the root, node `n` has the children `2n` and `2n + 1`, the
    /// leaves begin at `leaves`.
    nodes: Vec<u64>,
}

impl RoomTree {
    fn new(capacity: u32) -> Self {
        Self {
            capacity,
            leaves: 1,
            bins: 0,
            nodes: vec![0; 2],
        }
    }

    /// Opens a bin and returns its index.
    fn open(&mut self) -> usize {
        if self.bins == self.leaves {
            let mut grown = Self {
                leaves: self.leaves * 2,
                nodes: vec![0; self.nodes.len() * 2],
                ..*self
            };
            grown.nodes[grown.leaves..][..self.leaves].copy_from_slice(&self.nodes[self.leaves..]);
            for node in (1..grown.leaves).rev() {
                grown.nodes[node] = grown.nodes[2 * node].max(grown.nodes[2 * node + 1]);
            }
            *self = grown;
        }
        let bin = self.bins;
        self.bins += 1;
        self.set(bin, u64::from(self.capacity) + 1);
        bin
    }

    /// The first bin with room for `len` tokens.
    fn first_with(&self, len: u32) -> Option<usize> {
        let needed = u64::from(len) + 1;
        if self.nodes[1] < needed {
            return None;
        }
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.nodes[node] < needed {
                node += 1;
            }
        }
        Some(node - self.leaves)
    }

    fn take(&mut self, bin: usize, len: u32) {
        let room = self.nodes[self.leaves + bin] - u64::from(len);
        self.set(bin, room);
    }

    fn close(&mut self, bin: usize) {
        self.set(bin, 0);
    }

    fn set(&mut self, bin: usize, room: u64) {
        let mut node = self.leaves + bin;
        self.nodes[node] = room;
        while node > 1 {
            node /= 2;
            let largest = self.nodes[2 * node].max(self.nodes[2 * node + 1]);
            if self.nodes[node] == largest {
                break;
            }
            self.nodes[node] = largest;
        }
    }
}
