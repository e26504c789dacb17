//! Which rows of a data set are used: splits and their slices, shards, weights.
//!
//! Invariants: rows keep the order of the files; what is chosen at random is a
//! function of the seed and the number of rows alone; the shards of a data set
//! are disjoint, hold all of its rows, and differ by one row at most.
//!
//! A [`Mark`] names a row for good, so that a stream can go on with it: the file,
//! the row in it, and where it begins. A [`Survey`] is what had to be found out
//! about the files before.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use seqprep::{SeedStream, SplitMix64};
use serde::{Deserialize, Serialize};
use trainer_config::{Config, Dataset, MalformedRows};

use super::{DataFile, Format, Record, Records, Row, Spot, Start, files};
use crate::DataError;
use crate::ledger::SkipReason;

/// A row that is used.
pub(crate) struct Chosen {
    pub(crate) record: Record,
    /// How often it is repeated after its first use.
    pub(crate) copies: u32,
    /// Where it is.
    pub(crate) mark: Mark,
}

/// Where a row is among the rows of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Number of its file, among those that are read.
    file: usize,
    /// Rows of the file before it.
    row: usize,
    /// Rows of the split before it.
    before: usize,
    /// Where it begins, if the file can be read from there on.
    spot: Option<Spot>,
}

impl Mark {
    /// The same row, in a file that has to be read from its beginning.
    pub(crate) fn without_spot(self) -> Self {
        Self { spot: None, ..self }
    }
}

/// What was found out about the files of a data set when they were opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Survey {
    /// When each was modified, in nanoseconds since 1970.
    modified: Vec<Option<u64>>,
    /// The rows of each, if they had to be counted.
    rows: Option<Vec<usize>>,
}

impl Survey {
    /// Files of a data set that were modified since.
    ///
    /// # Errors
    /// Files that cannot be found.
    pub(crate) fn modified_since(&self, dataset: &Dataset) -> Result<Vec<PathBuf>, DataError> {
        let layout = files::resolve(dataset)?;
        let mut before = self.modified.iter().copied();
        let mut changed = Vec::new();
        for part in &layout.spec(dataset)?.parts {
            for file in layout.split(dataset, &part.name)? {
                let now = modified(file);
                let same = before.next().is_some_and(|then| then == now);
                // What cannot be known is taken for a change.
                let known = now.is_some() || matches!(file.format, Format::Empty(_));
                if !(same && known || changed.contains(&file.path)) {
                    changed.push(file.path.clone());
                }
            }
        }
        Ok(changed)
    }
}

/// When a file was modified, if the file system says so.
fn modified(file: &DataFile) -> Option<u64> {
    let time = file.path.metadata().ok()?.modified().ok()?;
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Which rows of a data set are used.
pub(crate) struct Selection {
    pieces: Vec<Piece>,
    thinning: Option<Thinning>,
    survey: Survey,
    /// Rows that are not used.
    pub(crate) skipped: BTreeMap<SkipReason, usize>,
}

/// Rows of a file, which are all of them if the range ends with the largest number.
#[derive(Clone)]
struct Piece {
    file: DataFile,
    rows: Range<usize>,
}

/// Which rows of a split shards and weight leave.
#[derive(Clone, Copy)]
struct Thinning {
    shards: usize,
    shard: usize,
    weight: f64,
    /// Rows of the shard.
    rows: usize,
    seeds: SeedStream,
}

impl Thinning {
    /// How often each row of a split is used.
    fn uses(self) -> impl Iterator<Item = u32> {
        let mut picks = Picks::new(self.rows, self.weight, self.seeds);
        let shards = Shards::new(self.shards, self.seeds);
        shards.map(move |shard| match shard == self.shard {
            true => picks.next().unwrap_or(0),
            false => 0,
        })
    }
}

impl Selection {
    /// The rows of the split that a data set names.
    pub(super) fn split(dataset: &Dataset) -> Result<Self, DataError> {
        Self::of_split(dataset, false, None)
    }

    /// The rows of a data set after all that its entry says about them. What is
    /// `known` is not found out again; the files must not have changed since.
    pub(crate) fn new(
        dataset: &Dataset,
        seeds: SeedStream,
        known: Option<&Survey>,
    ) -> Result<Self, DataError> {
        let shards = dataset.shards.unwrap_or(1);
        let weight = dataset.weight.unwrap_or(1.0);
        // Both need the number of rows, one to choose from, one for the account.
        let thinned = shards > 1 || weight != 1.0;
        let mut selection = Self::of_split(dataset, thinned, known)?;
        if !thinned {
            return Ok(selection);
        }
        let rows: usize = selection.pieces.iter().map(|piece| piece.rows.len()).sum();
        let shard = dataset.shards_idx.unwrap_or(0);
        let mut used = rows;
        if shards > 1 {
            let assigned = Shards::new(shards, seeds).take(rows);
            used = assigned.filter(|assigned| *assigned == shard).count();
            if used == 0 && rows > 0 {
                return Err(DataError::Dataset {
                    path: dataset.path.clone(),
                    message: format!(
                        "shard {shard} of {shards} has no rows, for there are only {rows}; lower `shards`"
                    ),
                });
            }
            skip(&mut selection.skipped, SkipReason::Shard, rows - used);
        }
        let kept = Picks::new(used, weight, seeds).kept();
        skip(&mut selection.skipped, SkipReason::Weight, used - kept);
        selection.thinning = Some(Thinning {
            shards,
            shard,
            weight,
            rows: used,
            seeds,
        });
        Ok(selection)
    }

    /// Rows are counted where a slice needs their number, or all if `counted`.
    fn of_split(
        dataset: &Dataset,
        counted: bool,
        known: Option<&Survey>,
    ) -> Result<Self, DataError> {
        let layout = files::resolve(dataset)?;
        let spec = layout.spec(dataset)?;
        let mut parts = Vec::new();
        for part in &spec.parts {
            parts.push((part, layout.split(dataset, &part.name)?));
        }
        let files = || parts.iter().flat_map(|(_, files)| *files);
        // Before they are read: a change while that goes on is one.
        let modified = files().map(modified).collect();
        let counts = match counted || spec.parts.iter().any(|part| !part.is_whole()) {
            false => None,
            true => Some(match known.and_then(|known| known.rows.clone()) {
                Some(rows) if rows.len() == files().count() => rows,
                _ => files().map(DataFile::count).collect::<Result<_, _>>()?,
            }),
        };
        let mut pieces = Vec::new();
        let mut unused = 0;
        let mut next = 0;
        for (part, files) in parts {
            let counts = counts
                .as_deref()
                .map(|counts| &counts[next..][..files.len()]);
            next += files.len();
            let Some(counts) = counts else {
                pieces.extend(files.iter().map(|file| Piece {
                    file: file.clone(),
                    rows: 0..usize::MAX,
                }));
                continue;
            };
            let rows = counts.iter().sum();
            let range = part.range(rows).map_err(|message| DataError::Dataset {
                path: dataset.path.clone(),
                message: format!(
                    "`split: {}` goes beyond the data: {message} rows",
                    dataset.split.as_deref().unwrap_or_default()
                ),
            })?;
            unused += rows - range.len();
            let mut before = 0;
            for (file, count) in files.iter().zip(counts) {
                let within = |row: usize| row.saturating_sub(before).min(*count);
                let rows = within(range.start)..within(range.end);
                if !rows.is_empty() {
                    pieces.push(Piece {
                        file: file.clone(),
                        rows,
                    });
                }
                before += count;
            }
        }
        let mut skipped = BTreeMap::new();
        skip(&mut skipped, SkipReason::Slice, unused);
        Ok(Self {
            pieces,
            thinning: None,
            survey: Survey {
                modified,
                rows: counts,
            },
            skipped,
        })
    }

    /// What was found out about the files.
    pub(crate) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The rows, from the first one or from a mark on. The first file is opened
    /// now, so that what is wrong with it is known early.
    pub(crate) fn chosen(&self, from: Option<Mark>) -> Result<ChosenRows, DataError> {
        let pieces = self.pieces.iter().cloned().enumerate();
        let (file, before) = from.map_or((0, 0), |mark| (mark.file, mark.before));
        let mut marked = Marked {
            pieces: pieces.skip(file).collect::<Vec<_>>().into_iter(),
            open: None,
            before,
        };
        marked.open(from)?;
        let Some(thinning) = self.thinning else {
            return Ok(Box::new(marked.map(|row| {
                let (record, mark) = row?;
                Ok(Chosen {
                    record,
                    copies: 0,
                    mark,
                })
            })));
        };
        let mut uses = thinning.uses();
        uses.by_ref().take(before).for_each(drop);
        Ok(Box::new(marked.filter_map(move |row| match row {
            Ok((record, mark)) => {
                let copies = uses.next()?.checked_sub(1)?;
                Some(Ok(Chosen {
                    record,
                    copies,
                    mark,
                }))
            }
            // Errors do not count as rows.
            Err(error) => Some(Err(error)),
        })))
    }
}

/// Rows that are used, in order. After an error there are no more.
pub(crate) type ChosenRows = Box<dyn Iterator<Item = Result<Chosen, DataError>> + Send>;

/// Takes the first row, which may tell how the others are to be read.
/// Malformed rows before it are counted as skipped if the configuration says so.
///
/// # Errors
/// That of the first row; [`DataError::EmptyDataset`] if there is none.
pub(crate) fn first(
    rows: &mut ChosenRows,
    skipped: &mut BTreeMap<SkipReason, usize>,
    config: &Config,
    dataset: &Dataset,
) -> Result<(Row, u32), DataError> {
    let mut failed = None;
    for chosen in rows {
        let chosen = chosen?;
        match chosen.record.row() {
            Ok(row) => return Ok((row, chosen.copies)),
            Err(error) if skips(config, &error) => {
                skip(skipped, SkipReason::Malformed, 1);
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    // Without any good row, the first bad one says more than a count.
    Err(failed.unwrap_or_else(|| DataError::EmptyDataset {
        path: dataset.path.clone(),
    }))
}

/// Whether a row with this error is left out.
pub(crate) fn skips(config: &Config, error: &DataError) -> bool {
    config.malformed_rows == MalformedRows::Skip && error.is_of_one_row()
}

/// The rows of pieces, one after the other, with their marks.
struct Marked {
    pieces: std::vec::IntoIter<(usize, Piece)>,
    open: Option<Open>,
    /// Rows before the next one.
    before: usize,
}

/// A piece that is read.
struct Open {
    file: usize,
    records: Records,
    /// Rows of the file that are still to be read.
    rows: Range<usize>,
}

impl Marked {
    /// Opens the next piece, from a row of it on, if one is given.
    fn open(&mut self, from: Option<Mark>) -> Result<bool, DataError> {
        let Some((file, piece)) = self.pieces.next() else {
            return Ok(false);
        };
        let start = match from {
            None => Start {
                rows: piece.rows.start,
                spot: None,
            },
            Some(mark) => Start {
                rows: mark.row,
                spot: mark.spot,
            },
        };
        self.open = Some(Open {
            file,
            records: piece.file.records(start)?,
            rows: start.rows..piece.rows.end,
        });
        Ok(true)
    }

    fn read(&mut self) -> Result<Option<(Record, Mark)>, DataError> {
        loop {
            if let Some(open) = &mut self.open
                && let Some(row) = open.rows.next()
                && let Some(found) = open.records.next()
            {
                let (record, spot) = found?;
                let mark = Mark {
                    file: open.file,
                    row,
                    before: self.before,
                    spot,
                };
                self.before += 1;
                return Ok(Some((record, mark)));
            }
            if !self.open(None)? {
                return Ok(None);
            }
        }
    }
}

impl Iterator for Marked {
    type Item = Result<(Record, Mark), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.read();
        if row.is_err() {
            self.pieces = Vec::new().into_iter();
            self.open = None;
        }
        row.transpose()
    }
}

fn skip(skipped: &mut BTreeMap<SkipReason, usize>, reason: SkipReason, rows: usize) {
    if rows > 0 {
        *skipped.entry(reason).or_default() += rows;
    }
}

/// The shard of each row, in order. Of any `shards` rows in a row each shard
/// gets one, in an order drawn anew.
struct Shards {
    rng: SplitMix64,
    block: Vec<usize>,
    next: usize,
}

impl Shards {
    fn new(shards: usize, seeds: SeedStream) -> Self {
        Self {
            rng: seeds.rng("shards", 0),
            block: (0..shards).collect(),
            next: shards,
        }
    }
}

impl Iterator for Shards {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next == self.block.len() {
            self.next = 0;
            for i in (1..self.block.len()).rev() {
                let other = self.rng.up_to(i as u64) as usize;
                self.block.swap(i, other);
            }
        }
        let shard = self.block.get(self.next).copied();
        self.next += 1;
        shard
    }
}

/// How often each row is used: a fixed number of times, and once more for rows
/// chosen at random, of which there is an exact number (Knuth's algorithm S).
struct Picks {
    rng: SplitMix64,
    times: u32,
    rows: usize,
    left: usize,
    wanted: usize,
}

impl Picks {
    fn new(rows: usize, weight: f64, seeds: SeedStream) -> Self {
        // The configuration keeps weights between 0 and 1000.
        let times = weight.trunc() as u32;
        // 0.29 of 100 rows are 29, though the product is a little less.
        let part = (weight.fract() * rows as f64 + 1e-9).floor() as usize;
        let wanted = if times == 0 { part.max(1) } else { part };
        Self {
            rng: seeds.rng("weight", 0),
            times,
            rows,
            left: rows,
            wanted: wanted.min(rows),
        }
    }

    /// Rows that are used at all.
    fn kept(&self) -> usize {
        if self.times > 0 {
            self.rows
        } else {
            self.wanted
        }
    }
}

impl Iterator for Picks {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let last = self.left.checked_sub(1)?;
        let chosen = (self.rng.up_to(last as u64) as usize) < self.wanted;
        self.left = last;
        if chosen {
            self.wanted -= 1;
        }
        Some(self.times + u32::from(chosen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shards_are_disjoint_complete_and_even(rows in 0usize..400, shards in 1usize..20, seed in any::<u64>()) {
            let assigned: Vec<usize> = Shards::new(shards, SeedStream::new(seed)).take(rows).collect();
            for shard in 0..shards {
                let size = assigned.iter().filter(|s| **s == shard).count();
                prop_assert!(size == rows / shards || size == rows.div_ceil(shards));
            }
        }

        #[test]
        fn picks_keep_their_promises(rows in 1usize..400, weight in 0.001f64..5.0, seed in any::<u64>()) {
            let picks = Picks::new(rows, weight, SeedStream::new(seed));
            let kept = picks.kept();
            let uses: Vec<u32> = picks.collect();
            prop_assert_eq!(uses.len(), rows);
            prop_assert_eq!(uses.iter().filter(|uses| **uses > 0).count(), kept);
            let sum: usize = uses.iter().map(|uses| *uses as usize).sum();
            prop_assert!((sum as f64 - (weight * rows as f64).max(1.0)).abs() <= 1.0);
            let most = uses.iter().max().unwrap() - uses.iter().min().unwrap();
            prop_assert!(most <= 1);
        }
    }

    #[test]
    fn every_row_is_as_likely() {
        let mut counts = [0; 10];
        for seed in 0..2000 {
            for (row, uses) in Picks::new(10, 0.3, SeedStream::new(seed)).enumerate() {
                counts[row] += uses;
            }
        }
        assert!(counts.iter().all(|n| (500..700).contains(n)), "{counts:?}");
    }
}
