//! Position ids: plain, and positional skip-wise (PoSE).
//!
//! PoSE (Zhu and others, arXiv 2309.10400) trains a short row as if it were
//! spread over a long context: the row is cut into chunks and the positions
//! skip ahead between them, so the model meets large distances at the price of
//! the short row.
//!
//! Invariants: one position a token; strictly increasing; the first is 0; the
//! last is below the maximum; consecutive positions differ by 1 except between
//! chunks. The result of a row is a function of the seed, the row's index and
//! its tokens, whatever the number of threads.

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::order::SeedStream;
use crate::sample::Sample;

/// Positions that PoSE spreads a row over where nobody says otherwise.
pub const DEFAULT_MAX_CONTEXT_LEN: u32 = 32_768;

/// Gives a sample the positions `0, 1, ..., n − 1`. A sample without tokens
/// stays as it is.
///
/// ```
/// use seqprep::{Sample, add_position_ids};
///
/// let mut sample = Sample::all_trained(vec![31, 41, 59]);
/// assert_eq!(sample.position_ids, None);
/// add_position_ids(&mut sample);
/// assert_eq!(sample.position_ids, Some(vec![0, 1, 2]));
/// ```
pub fn add_position_ids(sample: &mut Sample) {
    if !sample.is_empty() {
        sample.position_ids = Some((0..sample.len() as u32).collect());
    }
}

/// [`add_position_ids`] for each sample, on all threads of the current pool.
pub fn add_position_ids_batch(samples: &mut [Sample]) {
    samples.par_iter_mut().for_each(add_position_ids);
}

/// How positions are spread over a longer context.
///
/// In [`Axolotl`](Self::Axolotl)'s variant the first gap tends to be the largest. The
/// distributions of the [`Paper`](Self::Paper)'s variant are chosen here: every division
/// into non-empty chunks is equally likely, and the offsets of the chunks are uniform
/// draws, sorted, so that no gap is favoured over another; both change with every row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[cfg_attr(
    feature = "schemars",
    schemars(description = "How positions are spread over a longer context.")
)]
#[serde(rename_all = "lowercase")]
pub enum PoseVariant {
    /// Chunks of equal length; each gap is drawn from what those before it left.
    #[default]
    Axolotl,
    /// Chunks and gaps of random size, none favoured (arXiv 2309.10400).
    Paper,
}

/// What [`add_pose_position_ids`] needs to know; only valid settings can be
/// built, or read.
///
/// The default has [`DEFAULT_MAX_CONTEXT_LEN`] positions, two chunks, no split tokens and
/// Axolotl's variant; what is absent where settings are read is as there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PoseFields")]
pub struct PoseOptions {
    max_context_len: u32,
    chunks: usize,
    split_on_token_ids: BTreeSet<u32>,
    variant: PoseVariant,
}

impl Default for PoseOptions {
    fn default() -> Self {
        Self {
            max_context_len: DEFAULT_MAX_CONTEXT_LEN,
            chunks: 2,
            split_on_token_ids: BTreeSet::new(),
            variant: PoseVariant::default(),
        }
    }
}

/// The fields of [`PoseOptions`] as they are read, before they are checked.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PoseFields {
    max_context_len: u32,
    chunks: usize,
    split_on_token_ids: BTreeSet<u32>,
    variant: PoseVariant,
}

impl Default for PoseFields {
    fn default() -> Self {
        let options = PoseOptions::default();
        Self {
            max_context_len: options.max_context_len,
            chunks: options.chunks,
            split_on_token_ids: options.split_on_token_ids,
            variant: options.variant,
        }
    }
}

impl TryFrom<PoseFields> for PoseOptions {
    type Error = PoseError;

    fn try_from(read: PoseFields) -> Result<Self, PoseError> {
        let options = Self::new(read.max_context_len)?.with_chunks(read.chunks)?;
        let options = options.with_split_on_token_ids(read.split_on_token_ids);
        Ok(options.with_variant(read.variant))
    }
}

/// Why a row has no PoSE positions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoseError {
    /// No maximum was given.
    #[error(
        "PoSE needs a maximum context length (pose_max_context_len): the number of positions to \
         spread a row over"
    )]
    MissingMaximum,
    /// A row cannot be cut into no chunks.
    #[error("PoSE cannot cut rows into 0 chunks (pose_num_chunks); give 1 or more")]
    ZeroChunks,
    /// The row has no tokens.
    #[error("row {row} has no tokens, so it has no PoSE positions; drop empty rows first")]
    EmptyRow {
        /// Index of the row.
        row: u64,
    },
    /// The row has more tokens than there are positions.
    #[error(
        "row {row} has {len} tokens, more than the maximum context length of {max_context_len} \
         positions (pose_max_context_len); raise the maximum, or drop or truncate long rows"
    )]
    RowTooLong {
        /// Index of the row.
        row: u64,
        /// Tokens in the row.
        len: usize,
        /// Number of positions.
        max_context_len: u32,
    },
}

impl PoseOptions {
    /// Two chunks, no split tokens, Axolotl's variant. `max_context_len` is
    /// the number of positions to spread a row over: the largest position is
    /// one less.
    ///
    /// # Errors
    /// [`PoseError::MissingMaximum`] when it is `None` or 0.
    pub fn new(max_context_len: impl Into<Option<u32>>) -> Result<Self, PoseError> {
        match max_context_len.into() {
            None | Some(0) => Err(PoseError::MissingMaximum),
            Some(max_context_len) => Ok(Self {
                max_context_len,
                ..Self::default()
            }),
        }
    }

    /// Sets the number of chunks; 1 gives plain positions. Not used when there
    /// are split tokens.
    ///
    /// # Errors
    /// [`PoseError::ZeroChunks`].
    pub fn with_chunks(mut self, chunks: usize) -> Result<Self, PoseError> {
        if chunks == 0 {
            return Err(PoseError::ZeroChunks);
        }
        self.chunks = chunks;
        Ok(self)
    }

    /// Starts a new chunk at each of these tokens, instead of counting chunks.
    /// No tokens leave it at counted chunks.
    pub fn with_split_on_token_ids(mut self, token_ids: impl IntoIterator<Item = u32>) -> Self {
        self.split_on_token_ids = token_ids.into_iter().collect();
        self
    }

    /// Sets the variant.
    pub fn with_variant(mut self, variant: PoseVariant) -> Self {
        self.variant = variant;
        self
    }

    /// The positions that a row of `len` tokens leaves for gaps.
    ///
    /// # Errors
    /// [`PoseError::EmptyRow`] and [`PoseError::RowTooLong`], with the index
    /// `row`: those of [`add_pose_position_ids`], before the row is read.
    pub fn room(&self, len: usize, row: u64) -> Result<usize, PoseError> {
        let max_context_len = self.max_context_len;
        if len == 0 {
            return Err(PoseError::EmptyRow { row });
        }
        (max_context_len as usize)
            .checked_sub(len)
            .ok_or(PoseError::RowTooLong {
                row,
                len,
                max_context_len,
            })
    }
}

/// Gives a sample PoSE positions and returns the last of them.
///
/// `row` is the index of the sample in its data set: with the seed it decides
/// the draws, and errors name it.
///
/// A row is left with plain positions when there is nowhere to skip: its
/// length equals the maximum, it has one chunk, no split token occurs, or (in
/// Axolotl's variant) it has fewer tokens than chunks. Axolotl's variant also
/// passes over a first boundary at index 0 or 1, as Axolotl does.
///
/// With the default options a row is cut into two chunks, spread over
/// [`DEFAULT_MAX_CONTEXT_LEN`] positions:
///
/// ```
/// use seqprep::{PoseOptions, Sample, add_pose_position_ids};
///
/// let mut sample = Sample::all_trained((0..10).collect());
/// let last = add_pose_position_ids(&mut sample, &PoseOptions::default(), 42, 0)?;
/// let positions = sample.position_ids.unwrap_or_default();
/// // The first chunk is as it was, the second starts anywhere behind it.
/// assert_eq!(positions[..5], [0, 1, 2, 3, 4]);
/// assert!(positions[5..].windows(2).all(|pair| pair[1] == pair[0] + 1));
/// assert_eq!(positions[9], last);
/// assert!(last < 32_768);
/// # Ok::<(), seqprep::PoseError>(())
/// ```
///
/// # Errors
/// [`PoseError::EmptyRow`] and [`PoseError::RowTooLong`]; the sample is then
/// unchanged.
pub fn add_pose_position_ids(
    sample: &mut Sample,
    options: &PoseOptions,
    seed: u64,
    row: u64,
) -> Result<u32, PoseError> {
    let len = sample.len();
    let room = options.room(len, row)?;
    let mut rng = SeedStream::new(seed).rng("pose", row);
    let mut up_to = |max: u32| rng.up_to(u64::from(max)) as u32;
    // It fits: `max_context_len` is 32 bits wide.
    let (len, room) = (len as u32, room as u32);
    let ids = &sample.input_ids;
    let positions = match options.variant {
        PoseVariant::Axolotl => spread_evenly_cut(ids, options, room, &mut up_to),
        PoseVariant::Paper => spread_randomly_cut(ids, options, room, &mut up_to),
    };
    let last = positions.last().copied().unwrap_or(len - 1);
    sample.position_ids = Some(positions);
    Ok(last)
}

/// [`add_pose_position_ids`] for each sample, on all threads of the current
/// pool; the first sample has index `first_row`.
///
/// # Errors
/// The error of the first row that has one; positions of other rows may have
/// been set.
pub fn add_pose_position_ids_batch(
    samples: &mut [Sample],
    options: &PoseOptions,
    seed: u64,
    first_row: u64,
) -> Result<(), PoseError> {
    let first_error = samples
        .par_iter_mut()
        .enumerate()
        .filter_map(|(i, sample)| {
            let row = first_row + i as u64;
            add_pose_position_ids(sample, options, seed, row)
                .err()
                .map(|error| (row, error))
        })
        .min_by_key(|(row, _)| *row);
    first_error.map_or(Ok(()), |(_, error)| Err(error))
}

/// Indices at which a split token stands.
fn split_points(ids: &[u32], options: &PoseOptions) -> Vec<u32> {
    let is_split = |&(_, id): &(u32, &u32)| options.split_on_token_ids.contains(id);
    let split = (0..).zip(ids).filter(is_split);
    split.map(|(index, _)| index).collect()
}

/// Axolotl's variant. `up_to(max)` draws from `0..=max`.
fn spread_evenly_cut(
    ids: &[u32],
    options: &PoseOptions,
    mut room: u32,
    up_to: &mut dyn FnMut(u32) -> u32,
) -> Vec<u32> {
    let len = ids.len() as u32;
    let mut starts = if options.split_on_token_ids.is_empty() {
        // More chunks than tokens would be empty chunks, which skip nothing.
        let chunks = options.chunks.min(len as usize + 1) as u32;
        let chunk_len = if options.chunks > len as usize {
            0
        } else {
            len / chunks
        };
        (1..chunks).map(|i| i * chunk_len).collect()
    } else {
        split_points(ids, options)
    };
    if starts.first().is_some_and(|&first| first < 2) {
        starts.remove(0);
    }
    // A boundary at 0 ends an empty chunk, before which nothing is skipped.
    starts.retain(|&start| start > 0);
    let mut offset = 0;
    let mut cuts = Vec::with_capacity(starts.len());
    for start in starts {
        let skip = if room > 0 { up_to(room) } else { 0 };
        room -= skip;
        offset += skip;
        cuts.push((start, offset));
    }
    spread(len, &cuts)
}

/// The variant after the paper. `up_to(max)` draws from `0..=max`.
fn spread_randomly_cut(
    ids: &[u32],
    options: &PoseOptions,
    room: u32,
    up_to: &mut dyn FnMut(u32) -> u32,
) -> Vec<u32> {
    let len = ids.len() as u32;
    let starts = if options.split_on_token_ids.is_empty() {
        // Floyd's algorithm: distinct starts in 1..len, each set equally
        // likely.
        let count = (options.chunks.min(len as usize) - 1) as u32;
        let mut starts = BTreeSet::new();
        for largest in len - count..len {
            let start = 1 + up_to(largest - 1);
            if !starts.insert(start) {
                starts.insert(largest);
            }
        }
        starts.into_iter().collect()
    } else {
        let mut starts = split_points(ids, options);
        starts.retain(|&start| start > 0);
        starts
    };
    let mut offsets: Vec<u32> = starts.iter().map(|_| up_to(room)).collect();
    offsets.sort_unstable();
    let cuts: Vec<(u32, u32)> = starts.into_iter().zip(offsets).collect();
    spread(len, &cuts)
}

/// The positions of `len` tokens, shifted by `offset` from each `start` on.
fn spread(len: u32, cuts: &[(u32, u32)]) -> Vec<u32> {
    let mut positions = Vec::with_capacity(len as usize);
    let mut shift = 0;
    for &(start, offset) in cuts {
        positions.extend((positions.len() as u32..start).map(|index| index + shift));
        shift = offset;
    }
    positions.extend((positions.len() as u32..len).map(|index| index + shift));
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions of a row when the draws are those of CPython's
    /// `random.seed(0)`: `randint(0, 40)` gives 24, `randint(0, 16)` then 13,
    /// and so on as recorded from Axolotl's function.
    fn axolotl(ids: &[u32], max: u32, chunks: usize, split: &[u32]) -> Vec<u32> {
        let options = PoseOptions::new(max)
            .unwrap()
            .with_chunks(chunks)
            .unwrap()
            .with_split_on_token_ids(split.iter().copied());
        let mut draws = [24, 13].into_iter();
        spread_evenly_cut(ids, &options, max - ids.len() as u32, &mut |_| {
            draws.next().unwrap()
        })
    }

    fn plain(len: u32) -> Vec<u32> {
        (0..len).collect()
    }

    #[test]
    fn axolotl_variant_matches_recorded_values() {
        let ids = plain(10);
        assert_eq!(
            axolotl(&ids, 50, 2, &[]),
            [0, 1, 2, 3, 4, 29, 30, 31, 32, 33]
        );
        assert_eq!(
            axolotl(&ids, 50, 3, &[]),
            [0, 1, 2, 27, 28, 29, 43, 44, 45, 46]
        );
        assert_eq!(axolotl(&ids, 50, 1, &[]), plain(10));
        assert_eq!(axolotl(&ids, 10, 2, &[]), plain(10));
        assert_eq!(axolotl(&ids, 50, 2, &[77]), plain(10));
        for len in 1..=3 {
            assert_eq!(axolotl(&plain(len), 50, 2, &[]), plain(len));
        }
        assert_eq!(axolotl(&plain(5), 50, 10, &[]), plain(5));
        assert_eq!(axolotl(&plain(5), 50, usize::MAX, &[]), plain(5));
        let split_first = [9, 2, 3, 9, 5, 6];
        assert_eq!(axolotl(&split_first, 50, 2, &[9]), [0, 1, 2, 27, 28, 29]);
        let split_thrice = [9, 9, 3, 9, 5, 6];
        assert_eq!(axolotl(&split_thrice, 50, 2, &[9]), [0, 25, 26, 40, 41, 42]);
        assert_eq!(axolotl(&[9], 50, 1, &[]), [0]);
    }

    #[test]
    fn gaps_of_the_paper_variant_are_alike() {
        let options = PoseOptions::new(1003)
            .unwrap()
            .with_chunks(3)
            .unwrap()
            .with_variant(PoseVariant::Paper);
        let (mut first, mut second) = (0.0, 0.0);
        for row in 0..4000 {
            let mut sample = Sample::all_trained(vec![1, 2, 3]);
            add_pose_position_ids(&mut sample, &options, 1, row).unwrap();
            let positions = sample.position_ids.unwrap();
            first += f64::from(positions[1] - positions[0]);
            second += f64::from(positions[2] - positions[1]);
        }
        // Both have a mean of a third of the room, plus 1.
        for mean in [first / 4000.0, second / 4000.0] {
            assert!((mean - 334.3).abs() < 15.0, "{mean}");
        }
    }

    #[test]
    fn bad_settings_and_rows_are_errors() {
        assert_eq!(PoseOptions::new(None), Err(PoseError::MissingMaximum));
        assert_eq!(PoseOptions::new(0), Err(PoseError::MissingMaximum));
        let options = PoseOptions::new(4).unwrap();
        assert_eq!(
            options.clone().with_chunks(0).unwrap_err().to_string(),
            "PoSE cannot cut rows into 0 chunks (pose_num_chunks); give 1 or more"
        );
        let mut rows = vec![Sample::all_trained(vec![1; 4]), Sample::default()];
        assert_eq!(
            add_pose_position_ids_batch(&mut rows, &options, 0, 10),
            Err(PoseError::EmptyRow { row: 11 })
        );
        rows.insert(0, Sample::all_trained(vec![1; 5]));
        let error = add_pose_position_ids_batch(&mut rows, &options, 0, 10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 10 has 5 tokens, more than the maximum context length of 4 positions \
             (pose_max_context_len); raise the maximum, or drop or truncate long rows"
        );
        assert_eq!(rows[0].position_ids, None);
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let options = PoseOptions::new(50)
            .unwrap()
            .with_chunks(3)
            .unwrap()
            .with_split_on_token_ids([9, 4])
            .with_variant(PoseVariant::Paper);
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<PoseOptions>(&text).unwrap(), options);
        let read = |text: &str| {
            serde_json::from_str::<PoseOptions>(text).map_err(|error| error.to_string())
        };
        assert_eq!(read("{}"), Ok(PoseOptions::default()));
        assert_eq!(PoseOptions::default(), PoseOptions::new(32_768).unwrap());
        assert!(
            read(r#"{"chunks": 0}"#)
                .unwrap_err()
                .starts_with("PoSE cannot cut")
        );
        assert!(read(r#"{"max_context_len": 0}"#).is_err());
        assert!(read(r#"{"chunk": 3}"#).is_err());
    }

    #[test]
    fn plain_positions() {
        let mut rows = vec![Sample::default(), Sample::all_trained(vec![5; 3])];
        add_position_ids_batch(&mut rows);
        assert_eq!(rows[0].position_ids, None);
        assert_eq!(rows[1].position_ids, Some(vec![0, 1, 2]));
    }
}
