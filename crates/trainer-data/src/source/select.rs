//! Which rows of a data set are used: splits and their slices, shards, weights.
//!
//! Invariants: rows keep the order of the files; what is chosen at random is a
//! function of the seed and the number of rows alone; the shards of a data set
//! are disjoint, hold all of its rows, and differ by one row at most.

use std::collections::BTreeMap;

use seqprep::{SeedStream, SplitMix64};
use trainer_config::{Config, Dataset, MalformedRows};

use super::{DataFile, Record, Records, Row, files};
use crate::DataError;
use crate::ledger::SkipReason;

/// The rows of a data set that are used.
pub(crate) struct Selected {
    /// The rows, and how often each is repeated after its first use.
    pub(crate) records: Box<dyn Iterator<Item = Result<(Record, u32), DataError>> + Send>,
    /// Rows that are not used.
    pub(crate) skipped: BTreeMap<SkipReason, usize>,
}

impl Selected {
    /// Takes the first row, which may tell how the others are to be read.
    /// Malformed rows before it are counted as skipped if the configuration
    /// says so.
    ///
    /// # Errors
    /// That of the first row; [`DataError::EmptyDataset`] if there is none.
    pub(crate) fn first(
        &mut self,
        config: &Config,
        dataset: &Dataset,
    ) -> Result<(Row, u32), DataError> {
        let mut failed = None;
        for record in self.records.by_ref() {
            let (record, copies) = record?;
            match record.row() {
                Ok(row) => return Ok((row, copies)),
                Err(error) if skips(config, &error) => {
                    skip(&mut self.skipped, SkipReason::Malformed, 1);
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
}

/// Whether a row with this error is left out.
pub(crate) fn skips(config: &Config, error: &DataError) -> bool {
    config.malformed_rows == MalformedRows::Skip && error.is_of_one_row()
}

/// The rows of the split of a data set.
pub(super) struct Split {
    pub(super) records: Records,
    /// Number of rows of the files and of the parts of them that are used, if
    /// they had to be counted.
    counted: Option<(usize, usize)>,
}

/// Opens the split that a data set names.
pub(super) fn split(dataset: &Dataset) -> Result<Split, DataError> {
    let layout = files::resolve(dataset)?;
    let spec = layout.spec(dataset)?;
    let mut parts = Vec::new();
    let mut counted = None;
    for part in &spec.parts {
        let files = layout.split(dataset, &part.name)?;
        let range = if part.is_whole() {
            0..usize::MAX
        } else {
            let rows = count(files)?;
            let range = part.range(rows).map_err(|message| DataError::Dataset {
                path: dataset.path.clone(),
                message: format!(
                    "`split: {}` goes beyond the data: {message} rows",
                    dataset.split.as_deref().unwrap_or_default()
                ),
            })?;
            let (all, used) = counted.unwrap_or((0, 0));
            counted = Some((all + rows, used + range.len()));
            range
        };
        parts.push((files.to_vec(), range));
    }
    // Parts that are used as a whole are counted for the sum only.
    if let Some((all, used)) = &mut counted {
        for (files, range) in &parts {
            if range.end == usize::MAX {
                let rows = count(files)?;
                *all += rows;
                *used += rows;
            }
        }
    }
    // The first file is opened now, so that what is wrong with it is known early.
    let mut first = parts
        .first()
        .and_then(|(files, _)| files.first())
        .map(DataFile::records)
        .transpose()?;
    let records = parts.into_iter().flat_map(move |(files, range)| {
        let mut opened = first.take();
        files
            .into_iter()
            .flat_map(move |file| -> Records {
                match opened.take().map_or_else(|| file.records(), Ok) {
                    Ok(records) => records,
                    Err(error) => Box::new(std::iter::once(Err(error))),
                }
            })
            .skip(range.start)
            .take(range.len())
    });
    Ok(Split {
        records: Box::new(records),
        counted,
    })
}

fn count(files: &[DataFile]) -> Result<usize, DataError> {
    files.iter().map(DataFile::count).sum()
}

/// Opens a data set with all that its entry says about its rows.
pub(crate) fn select(dataset: &Dataset, seeds: SeedStream) -> Result<Selected, DataError> {
    let mut split = split(dataset)?;
    let mut skipped = BTreeMap::new();
    let shards = dataset.shards.unwrap_or(1);
    let weight = dataset.weight.unwrap_or(1.0);
    if let Some((all, used)) = split.counted {
        skip(&mut skipped, SkipReason::Slice, all - used);
    }
    if shards <= 1 && weight == 1.0 {
        return Ok(Selected {
            records: Box::new(split.records.map(|record| Ok((record?, 0)))),
            skipped,
        });
    }
    // Both need the number of rows, one to choose from, one for the account.
    let rows = match split.counted {
        Some((_, used)) => used,
        None => {
            let layout = files::resolve(dataset)?;
            let mut rows = 0;
            for part in &layout.spec(dataset)?.parts {
                rows += count(layout.split(dataset, &part.name)?)?;
            }
            rows
        }
    };
    let index = dataset.shards_idx.unwrap_or(0);
    let mut used = rows;
    if shards > 1 {
        used = (0..rows)
            .zip(Shards::new(shards, seeds))
            .filter(|(_, shard)| *shard == index)
            .count();
        if used == 0 && rows > 0 {
            return Err(DataError::Dataset {
                path: dataset.path.clone(),
                message: format!(
                    "shard {index} of {shards} has no rows, for there are only {rows}; lower `shards`"
                ),
            });
        }
        skip(&mut skipped, SkipReason::Shard, rows - used);
        // Errors do not count as rows.
        let mut assigned = Shards::new(shards, seeds);
        split.records = Box::new(split.records.filter(move |record| match record {
            Ok(_) => assigned.next() == Some(index),
            Err(_) => true,
        }));
    }
    let mut picks = Picks::new(used, weight, seeds);
    skip(&mut skipped, SkipReason::Weight, used - picks.kept());
    let records = split.records.filter_map(move |record| match record {
        Ok(record) => match picks.next() {
            Some(0) | None => None,
            Some(uses) => Some(Ok((record, uses - 1))),
        },
        Err(error) => Some(Err(error)),
    });
    Ok(Selected {
        records: Box::new(records),
        skipped,
    })
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
