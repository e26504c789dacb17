//! Packing of a stream: samples come in one after the other, rows go out.
//!
//! Invariants: a row holds whole samples and at most `capacity` tokens; each
//! sample is in exactly one row; no more than `buffer` samples are held at a
//! time; the rows depend on the samples and the options alone, and those of a
//! buffer on that buffer alone, so that a run can go on at the start of any.

use std::borrow::Borrow;

use crate::packing::{Packing, PackingError};
use crate::sample::Sample;

/// Packs the samples of an iterator, `buffer` at a time, with a packer such as
/// [`best_fit_decreasing`](crate::best_fit_decreasing). A buffer of 0 counts as
/// 1; the larger it is, the fuller are the rows. Samples may be owned or
/// shared.
///
/// ```
/// use seqprep::{Sample, best_fit_decreasing, pack_stream};
///
/// let samples = [5, 4, 3, 2].map(|len| Sample::all_trained(vec![1; len]));
/// let rows: Result<Vec<Vec<Sample>>, _> =
///     pack_stream(samples.into_iter(), 8, 1000, best_fit_decreasing).collect();
/// let lengths: Vec<Vec<usize>> =
///     rows?.iter().map(|row| row.iter().map(Sample::len).collect()).collect();
/// assert_eq!(lengths, [vec![5, 3], vec![4, 2]]);
/// # Ok::<(), seqprep::PackingError>(())
/// ```
///
/// The iterator ends after an error, whose index counts from the first sample
/// of the stream.
pub fn pack_stream<I>(
    samples: I,
    capacity: u32,
    buffer: usize,
    pack: impl Fn(&[u32], u32) -> Result<Packing, PackingError>,
) -> impl Iterator<Item = Result<Vec<I::Item>, PackingError>>
where
    I: Iterator,
    I::Item: Borrow<Sample>,
{
    let mut samples = samples.fuse();
    let mut rows: std::vec::IntoIter<Vec<I::Item>> = Vec::new().into_iter();
    let mut seen = 0;
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        if let Some(row) = rows.next() {
            return Some(Ok(row));
        }
        let mut held: Vec<Option<I::Item>> =
            samples.by_ref().take(buffer.max(1)).map(Some).collect();
        if held.is_empty() {
            return None;
        }
        let lengths: Vec<u32> = held
            .iter()
            .flatten()
            // Longer than any capacity, so the packer refuses it.
            .map(|sample| u32::try_from(sample.borrow().len()).unwrap_or(u32::MAX))
            .collect();
        let packing = pack(&lengths, capacity).map_err(|error| match error {
            PackingError::ItemTooLong {
                index,
                len,
                capacity,
            } => PackingError::ItemTooLong {
                index: seen + index,
                len,
                capacity,
            },
            other => other,
        });
        seen += held.len();
        match packing {
            Err(error) => {
                failed = true;
                Some(Err(error))
            }
            Ok(packing) => {
                let packed: Vec<Vec<I::Item>> = packing
                    .bins()
                    .map(|bin| {
                        let samples = bin.iter().filter_map(|&index| held[index as usize].take());
                        samples.collect()
                    })
                    .collect();
                rows = packed.into_iter();
                rows.next().map(Ok)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::{best_fit_decreasing, sequential};

    fn samples(lengths: &'static [usize]) -> impl Iterator<Item = Sample> {
        lengths.iter().map(|&len| Sample::all_trained(vec![1; len]))
    }

    fn lengths(rows: impl Iterator<Item = Result<Vec<Sample>, PackingError>>) -> Vec<Vec<usize>> {
        rows.map(|row| row.unwrap().iter().map(Sample::len).collect())
            .collect()
    }

    #[test]
    fn each_buffer_is_packed_by_itself() {
        let rows = pack_stream(samples(&[3, 5, 8, 3, 1]), 8, 3, best_fit_decreasing);
        assert_eq!(lengths(rows), [vec![8], vec![5, 3], vec![3, 1]]);
        let rows = pack_stream(samples(&[3, 5, 8, 3, 1]), 8, 0, sequential);
        assert_eq!(lengths(rows).len(), 5);
        assert!(pack_stream(samples(&[]), 8, 3, sequential).next().is_none());
    }

    #[test]
    fn no_more_is_read_than_a_buffer() {
        let read = std::cell::Cell::new(0);
        let endless = std::iter::from_fn(|| {
            read.set(read.get() + 1);
            Some(Sample::all_trained(vec![1; 4]))
        });
        let mut rows = pack_stream(endless, 8, 10, best_fit_decreasing);
        for row in 1..=15 {
            rows.next().unwrap().unwrap();
            assert_eq!(read.get(), 10 * (row as usize).div_ceil(5));
        }
    }

    #[test]
    fn an_error_counts_from_the_first_sample() {
        let mut rows = pack_stream(samples(&[3, 5, 9, 3, 1]), 8, 2, best_fit_decreasing);
        assert!(rows.next().unwrap().is_ok());
        assert_eq!(
            rows.next(),
            Some(Err(PackingError::ItemTooLong {
                index: 2,
                len: 9,
                capacity: 8
            }))
        );
        assert_eq!(rows.next(), None);
    }
}
