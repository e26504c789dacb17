//! Best-fit-decreasing: each document, longest first, goes into the fullest
//! bin that still has room for it.
//!
//! Lengths are small integers, which makes this linear in practice: documents
//! are sorted by counting, bins hang in one stack for each amount of room, and
//! a bit set over the rooms finds the smallest that suffices. Documents of one
//! length are placed together: after best fit puts one into a bin that has
//! room for another, that bin is the best fit for the next one too, so all
//! that fit go in at once.

use std::collections::BTreeMap;

use super::{Packing, PackingError, check_lengths};

/// Whether a table with an entry for each of `0..=largest` is worth its memory
/// for so many documents: at most 64 bytes a document. Others take maps and
/// comparisons.
fn suits_table(largest: u32, documents: usize) -> bool {
    largest as usize / 16 <= documents
}

/// Documents by decreasing length, each into the bin with the least room that
/// suffices, else into a new one.
///
/// Documents of equal length are taken in the given order; of bins with equal
/// room, the one that came to it last. Bins come out in the order in which
/// they were opened, that with the longest document first: shuffle them with
/// [`Packing::shuffle_bins`].
///
/// # Errors
/// [`PackingError::ItemTooLong`] and [`PackingError::TooManyItems`].
pub fn best_fit_decreasing(lengths: &[u32], capacity: u32) -> Result<Packing, PackingError> {
    pack(lengths, capacity, u32::MAX)
}

/// As [`best_fit_decreasing`], with at most `bin_size` documents in a bin; a
/// bin that has as many is closed.
///
/// # Errors
/// As [`best_fit_decreasing`]; [`PackingError::ZeroLimit`] for a limit of 0.
pub fn best_fit_decreasing_limited(
    lengths: &[u32],
    capacity: u32,
    bin_size: usize,
) -> Result<Packing, PackingError> {
    if bin_size == 0 {
        return Err(PackingError::ZeroLimit { name: "bin_size" });
    }
    pack(
        lengths,
        capacity,
        u32::try_from(bin_size).unwrap_or(u32::MAX),
    )
}

fn pack(lengths: &[u32], capacity: u32, limit: u32) -> Result<Packing, PackingError> {
    let tokens = check_lengths(lengths, capacity)?;
    if lengths.is_empty() {
        return Ok(Packing::from_assignment(
            [].into_iter(),
            &[],
            0,
            capacity,
            0,
        ));
    }
    // A room of all tokens is as good as any larger one.
    let room = u32::try_from(tokens).map_or(capacity, |tokens| tokens.min(capacity));
    let sorted = sort_decreasing(lengths);
    let (bin_of, num_bins) = if suits_table(room, lengths.len()) {
        place(lengths, &sorted, room, limit, TableOfBins::new(room))
    } else {
        place(lengths, &sorted, room, limit, MapOfBins::default())
    };
    Ok(Packing::from_assignment(
        sorted.into_iter(),
        &bin_of,
        num_bins,
        capacity,
        tokens,
    ))
}

/// Indices by decreasing length; equal lengths keep their order.
fn sort_decreasing(lengths: &[u32]) -> Vec<u32> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if !suits_table(longest, lengths.len()) {
        let mut sorted: Vec<u32> = (0..lengths.len() as u32).collect();
        sorted.sort_by_key(|&index| std::cmp::Reverse(lengths[index as usize]));
        return sorted;
    }
    let mut places = vec![0_u32; longest as usize + 1];
    for &len in lengths {
        places[len as usize] += 1;
    }
    let mut start = 0;
    for place in places.iter_mut().rev() {
        start += std::mem::replace(place, start);
    }
    let mut sorted = vec![0_u32; lengths.len()];
    for (index, &len) in (0_u32..).zip(lengths) {
        let place = &mut places[len as usize];
        sorted[*place as usize] = index;
        *place += 1;
    }
    sorted
}

/// Bins that can take more, by room.
trait OpenBins {
    /// Removes a bin with the least room of at least `len`; returns the room
    /// and the bin.
    fn take(&mut self, len: u32) -> Option<(u32, u32)>;

    fn put(&mut self, room: u32, bin: u32);
}

/// The bin of each document in sorted order, and the number of bins.
fn place(
    lengths: &[u32],
    sorted: &[u32],
    capacity: u32,
    limit: u32,
    mut open: impl OpenBins,
) -> (Vec<u32>, usize) {
    let mut bin_of = Vec::with_capacity(sorted.len());
    let mut num_bins = 0;
    // Documents in each bin; kept only where a limit can be reached.
    let counted = (limit as usize) < sorted.len();
    let mut documents: Vec<u32> = Vec::new();
    for run in sorted.chunk_by(|&a, &b| lengths[a as usize] == lengths[b as usize]) {
        let len = lengths[run[0] as usize];
        let mut left = run.len();
        while left > 0 {
            let (room, bin) = open.take(len).unwrap_or_else(|| {
                num_bins += 1;
                (capacity, num_bins - 1)
            });
            let mut fit = match len {
                0 => left,
                len => left.min((room / len) as usize),
            };
            let mut closed = false;
            if counted {
                if bin as usize == documents.len() {
                    documents.push(0);
                }
                let documents = &mut documents[bin as usize];
                fit = fit.min((limit - *documents) as usize);
                *documents += fit as u32;
                closed = *documents == limit;
            }
            bin_of.resize(bin_of.len() + fit, bin);
            left -= fit;
            open.put(room - len * fit as u32, bin);
            if closed {
                // It goes through the stack, which numbers the bins, and out.
                open.take(room - len * fit as u32);
            }
        }
    }
    (bin_of, num_bins as usize)
}

const NO_BIN: u32 = u32::MAX;

/// A stack of bins for each room, and two levels of bits that say which stacks
/// hold any.
struct TableOfBins {
    /// The bin on top of each stack.
    top: Vec<u32>,
    /// The bin below each bin in its stack.
    below: Vec<u32>,
    /// One bit a room.
    rooms: Vec<u64>,
    /// One bit a word of `rooms`.
    words: Vec<u64>,
}

impl TableOfBins {
    fn new(capacity: u32) -> Self {
        let rooms = capacity as usize + 1;
        let words = rooms.div_ceil(64);
        Self {
            top: vec![NO_BIN; rooms],
            below: Vec::new(),
            rooms: vec![0; words],
            words: vec![0; words.div_ceil(64)],
        }
    }

    /// The least room of at least `len` that a bin has.
    fn least_room(&self, len: u32) -> Option<usize> {
        let len = len as usize;
        let word = len / 64;
        let bits = self.rooms[word] & (u64::MAX << (len % 64));
        if bits != 0 {
            return Some(word * 64 + bits.trailing_zeros() as usize);
        }
        let next = word + 1;
        let mut group = next / 64;
        let mut bits = self.words.get(group)? & (u64::MAX << (next % 64));
        while bits == 0 {
            group += 1;
            bits = *self.words.get(group)?;
        }
        let word = group * 64 + bits.trailing_zeros() as usize;
        Some(word * 64 + self.rooms[word].trailing_zeros() as usize)
    }
}

impl OpenBins for TableOfBins {
    fn take(&mut self, len: u32) -> Option<(u32, u32)> {
        let room = self.least_room(len)?;
        let bin = self.top[room];
        let next = self.below[bin as usize];
        self.top[room] = next;
        if next == NO_BIN {
            let word = room / 64;
            self.rooms[word] &= !(1 << (room % 64));
            if self.rooms[word] == 0 {
                self.words[word / 64] &= !(1 << (word % 64));
            }
        }
        Some((room as u32, bin))
    }

    fn put(&mut self, room: u32, bin: u32) {
        let room = room as usize;
        if bin as usize == self.below.len() {
            self.below.push(NO_BIN);
        }
        self.below[bin as usize] = std::mem::replace(&mut self.top[room], bin);
        let word = room / 64;
        self.rooms[word] |= 1 << (room % 64);
        self.words[word / 64] |= 1 << (word % 64);
    }
}

/// As [`TableOfBins`], for rooms too large for a table.
#[derive(Default)]
struct MapOfBins(BTreeMap<u32, Vec<u32>>);

impl OpenBins for MapOfBins {
    fn take(&mut self, len: u32) -> Option<(u32, u32)> {
        let (&room, bins) = self.0.range_mut(len..).next()?;
        let bin = bins.pop()?;
        if bins.is_empty() {
            self.0.remove(&room);
        }
        Some((room, bin))
    }

    fn put(&mut self, room: u32, bin: u32) {
        self.0.entry(room).or_default().push(bin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::SplitMix64;

    #[test]
    fn table_and_map_place_alike() {
        let mut rng = SplitMix64::new(3);
        for capacity in [1, 63, 64, 65, 5000] {
            let mut lengths: Vec<u32> = (0..2000)
                .map(|_| rng.up_to(u64::from(capacity)) as u32)
                .collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            let sorted: Vec<u32> = (0..2000).collect();
            assert_eq!(
                place(&lengths, &sorted, capacity, 3, TableOfBins::new(capacity)),
                place(&lengths, &sorted, capacity, 3, MapOfBins::default()),
            );
        }
    }

    #[test]
    fn counting_and_comparing_sort_alike() {
        let counted = sort_decreasing(&[3, 1, 3, 0, 2, 3]);
        assert_eq!(counted, [0, 2, 5, 4, 1, 3]);
        let compared = sort_decreasing(&[3000, 1000, 3000, 0, 2000, 3000]);
        assert_eq!(compared, counted);
    }

    #[test]
    fn huge_capacities_take_no_table() {
        let packing = best_fit_decreasing(&[u32::MAX, 5, u32::MAX - 5, 0], u32::MAX).unwrap();
        let bins: Vec<&[u32]> = packing.bins().collect();
        assert_eq!(bins, [&[0][..], &[2, 1, 3]]);
    }
}
