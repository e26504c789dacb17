//! Which samples are used, in which order: shuffles, shards, the validation
//! split, repetitions. Works on indices alone.
//!
//! Invariants: what is drawn depends on `seed` and the number of samples only;
//! with `curriculum_sampling`, training samples keep the order of the files,
//! whether there is one data set or several; the validation split takes whole rows,
//! so that no two samples of a row are on both sides of it.

use std::collections::HashSet;

use seqprep::{SeedStream, permutation};
use trainer_config::Config;

use crate::DataError;
use crate::ledger::{DatasetLedger, DropReason, Ledger, Totals};
use crate::prepare::Plan;

/// What is known of the samples so far, in the order they were made.
#[derive(Debug, Default)]
pub(crate) struct Order {
    tokens: Vec<u32>,
    trained: Vec<u32>,
    /// The number of each sample's row; empty as long as every row has one.
    rows: Vec<u32>,
    /// A hash of each sample, where evaluation is compared with training.
    hashes: Vec<u64>,
    /// Uses after the first; empty as long as there are none.
    copies: Vec<u32>,
    /// Number of samples after each data set.
    ends: Vec<usize>,
    /// Number of training samples and of training data sets.
    training: (usize, usize),
}

/// What is known of a sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) tokens: usize,
    pub(crate) trained: usize,
    /// Uses after the first.
    pub(crate) copies: u32,
    /// Whether it is of the same row as the sample before it.
    pub(crate) same_row: bool,
    /// Hash of what it holds, where that is asked for.
    pub(crate) hash: Option<u64>,
}

impl Order {
    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), DataError> {
        let Entry {
            tokens,
            trained,
            copies,
            same_row,
            hash,
        } = entry;
        let rows = self.tokens.len();
        let Ok(place) = u32::try_from(rows) else {
            return Err(DataError::TooManySamples { rows });
        };
        if same_row && self.rows.is_empty() {
            self.rows.extend(0..place);
        }
        if let Some(last) = self.rows.last() {
            let row = if same_row { *last } else { last + 1 };
            self.rows.push(row);
        }
        self.hashes.extend(hash);
        if copies > 0 || !self.copies.is_empty() {
            self.copies.resize(rows, 0);
            self.copies.push(copies);
        }
        self.tokens.push(u32::try_from(tokens).unwrap_or(u32::MAX));
        self.trained
            .push(u32::try_from(trained).unwrap_or(u32::MAX));
        Ok(())
    }

    pub(crate) fn end_of_dataset(&mut self) {
        self.ends.push(self.tokens.len());
    }

    pub(crate) fn end_of_training(&mut self) {
        self.training = (self.tokens.len(), self.ends.len());
    }

    /// The data set of a sample.
    fn dataset(&self, index: u32) -> usize {
        self.ends.partition_point(|end| *end <= index as usize)
    }

    /// The row of a sample.
    fn row(&self, index: u32) -> u32 {
        self.rows.get(index as usize).copied().unwrap_or(index)
    }

    /// Number of rows that samples are of.
    fn count_rows(&self, order: &[u32]) -> usize {
        if self.rows.is_empty() && self.copies.is_empty() {
            return order.len();
        }
        let rows: HashSet<u32> = order.iter().map(|index| self.row(*index)).collect();
        rows.len()
    }

    /// Takes the samples of so many rows out: those of the last samples.
    fn hold_back(&self, train: &mut Vec<u32>, rows: usize) -> Vec<u32> {
        let mut held = HashSet::new();
        let mut from_the_end = train.iter().rev();
        while held.len() < rows
            && let Some(index) = from_the_end.next()
        {
            held.insert(self.row(*index));
        }
        let (eval, rest) = train
            .iter()
            .partition(|index| held.contains(&self.row(**index)));
        *train = rest;
        eval
    }

    /// How many of the samples to evaluate on are trained on as well.
    fn in_both(&self, train: &[u32], eval: &[u32]) -> usize {
        let hash = |index: &u32| self.hashes.get(*index as usize);
        if self.hashes.is_empty() || eval.is_empty() {
            return 0;
        }
        let known: HashSet<&u64> = eval.iter().filter_map(hash).collect();
        let trained = train.iter().filter_map(hash);
        let both: HashSet<&u64> = trained.filter(|hash| known.contains(hash)).collect();
        let mut hashes = eval.iter().filter_map(hash);
        hashes.by_ref().filter(|hash| both.contains(hash)).count()
    }

    pub(crate) fn plan(
        &self,
        config: &Config,
        mut datasets: Vec<DatasetLedger>,
    ) -> Result<Plan, DataError> {
        let seeds = SeedStream::new(config.seed);
        let shuffled = config.shuffle_merged_datasets && !config.curriculum_sampling;
        let (samples, sets) = self.training;
        let mut train: Vec<u32> = (0..u32::try_from(samples).unwrap_or(u32::MAX)).collect();
        if config.shuffle_before_merging_datasets && !config.curriculum_sampling {
            let mut start = 0;
            for (index, end) in self.ends[..sets].iter().enumerate() {
                let seed = seeds.derive("shuffle one data set", index as u64);
                shuffle(&mut train[start..*end], seed);
                start = *end;
            }
        }
        if shuffled {
            shuffle(&mut train, seeds.derive("shuffle data sets", 0));
        }
        if let Some(parts) = config.dataset_shard_num {
            let part = config.dataset_shard_idx.unwrap_or(0);
            train = self.shard(train, parts, part, &mut datasets)?;
        }
        let test = samples..self.tokens.len();
        let mut eval: Vec<u32> = test.filter_map(|index| u32::try_from(index).ok()).collect();
        if config.test_datasets.is_none() {
            let size = eval_rows(config.val_set_size, self.count_rows(&train))?;
            eval = self.hold_back(&mut train, size);
        }
        if !self.copies.is_empty() {
            let added = self.repeat(&mut train, shuffled, &mut datasets);
            let rows = train.len();
            if u32::try_from(rows).is_err() {
                return Err(DataError::TooManySamples { rows });
            }
            if added > 0 && shuffled {
                shuffle(&mut train, seeds.derive("shuffle repeated samples", 0));
            }
        }
        let ledger = Ledger {
            datasets,
            eval_in_train: self.in_both(&train, &eval),
            train: self.totals(&train),
            eval: self.totals(&eval),
        };
        Ok(Plan {
            train,
            eval,
            ledger,
        })
    }

    /// One of `parts` nearly equal parts in a row; the others are dropped.
    fn shard(
        &self,
        mut train: Vec<u32>,
        parts: usize,
        part: usize,
        datasets: &mut [DatasetLedger],
    ) -> Result<Vec<u32>, DataError> {
        let rows = train.len();
        // The first `rows % parts` parts have one sample more.
        let bound = |part: usize| part * (rows / parts) + part.min(rows % parts);
        let after = train.split_off(bound(part + 1));
        let kept = train.split_off(bound(part));
        if kept.is_empty() {
            return Err(DataError::ShardEmpty { parts, part, rows });
        }
        for index in train.iter().chain(&after) {
            let (tokens, trained) = self.size(*index);
            datasets[self.dataset(*index)].unkeep(DropReason::OtherShard, tokens, trained);
        }
        for (dataset, account) in datasets.iter_mut().enumerate().filter(|(_, a)| !a.test) {
            let kept = kept.iter().copied();
            let kept: Vec<u32> = kept.filter(|i| self.dataset(*i) == dataset).collect();
            account.kept_rows = self.count_rows(&kept);
        }
        Ok(kept)
    }

    /// Adds the further uses of the samples: of all of them at the end, where
    /// they are shuffled afterwards, else behind those of their own data set.
    /// Returns how many were added.
    fn repeat(
        &self,
        train: &mut Vec<u32>,
        shuffled: bool,
        datasets: &mut [DatasetLedger],
    ) -> usize {
        let copies = |index: u32| self.copies.get(index as usize).copied().unwrap_or(0);
        let before = train.len();
        let once = std::mem::take(train);
        let together = |a: &u32, b: &u32| shuffled || self.dataset(*a) == self.dataset(*b);
        for run in once.chunk_by(together) {
            train.extend_from_slice(run);
            let most = run.iter().map(|index| copies(*index)).max().unwrap_or(0);
            for pass in 1..=most {
                let again = run.iter().filter(|index| copies(**index) >= pass);
                train.extend(again.clone());
                for index in again {
                    datasets[self.dataset(*index)].repeated += 1;
                }
            }
        }
        train.len() - before
    }

    fn size(&self, index: u32) -> (usize, usize) {
        let of = |sizes: &[u32]| sizes.get(index as usize).map_or(0, |size| *size as usize);
        (of(&self.tokens), of(&self.trained))
    }

    fn totals(&self, order: &[u32]) -> Totals {
        let mut totals = Totals {
            rows: self.count_rows(order),
            samples: order.len(),
            ..Totals::default()
        };
        for index in order {
            let (tokens, trained) = self.size(*index);
            totals.tokens += tokens;
            totals.trained_tokens += trained;
        }
        totals
    }
}

/// Puts indices into the order that a seed draws.
fn shuffle(indices: &mut [u32], seed: u64) {
    // The callers see to it that there are fewer than 2^32 samples.
    let length = u32::try_from(indices.len()).unwrap_or(u32::MAX);
    let before = indices.to_vec();
    for (slot, from) in indices.iter_mut().zip(permutation(length, seed)) {
        *slot = before[from as usize];
    }
}

/// Number of rows to evaluate on: a part below 1 is rounded up.
fn eval_rows(size: f64, rows: usize) -> Result<usize, DataError> {
    if size == 0.0 {
        return Ok(0);
    }
    let count = if size < 1.0 {
        (size * rows as f64).ceil()
    } else {
        size
    };
    // Both are whole and not negative; the configuration rejects the rest.
    let count = count.max(0.0) as usize;
    if count >= rows {
        return Err(DataError::Split {
            size,
            rows,
            left: "nothing to train on",
        });
    }
    Ok(count)
}
