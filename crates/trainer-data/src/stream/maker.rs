//! The thread of a stream: reads, tokenizes, shuffles and packs block after block.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use rayon::prelude::*;
use seqprep::{
    FirstFitOptions, Packing, PackingError, Sample, SeedStream, best_fit_decreasing_limited,
    first_fit, permutation, sequential, sequential_order, trained_tokens,
};
use trainer_config::{Config, PackingStrategy};

use super::{Anchor, Block, Position, StreamOptions, StreamSource};
use crate::ledger::{DatasetLedger, DropReason, Note, SkipReason};
use crate::pipeline::{self, Task};
use crate::prepare::{Build, judge};
use crate::source::{Chosen, ChosenRows, Mark, Record, Row, Selection, Survey};
use crate::{DataError, Tokenizer, strategy};

/// Samples in the first block; each further one may be twice as large.
const FIRST_BLOCK: usize = 64;

/// A block ends after this many tokens, however few samples that are.
const BLOCK_TOKENS: usize = 1 << 22;

/// Rows that are tokenized at a time.
const CHUNK: usize = 512;

/// A row, where it is, its samples, and how often these are repeated.
struct Made {
    row: Row,
    mark: Mark,
    samples: Vec<Sample>,
    notes: Vec<Note>,
    copies: u32,
}

/// A data set that is read.
struct Opened<'a> {
    survey: &'a Survey,
    /// Its first row.
    first: Mark,
}

impl Opened<'_> {
    /// What a block that begins with this row is found again by.
    fn anchor(&self, made: &Made) -> Anchor {
        Anchor {
            mark: made.mark,
            row: hash(&made.row),
            first: self.first,
            survey: self.survey.clone(),
        }
    }
}

/// What identifies a row, beside its place: the columns that its samples are made
/// of, since no others are decoded.
fn hash(row: &Row) -> String {
    let columns: Vec<_> = row.columns.asked().collect();
    // Columns are JSON values: there is nothing to fail.
    let columns = serde_json::to_vec(&columns).unwrap_or_default();
    blake3::hash(&columns).to_hex()[..32].to_owned()
}

/// Where a stream goes on.
pub(super) struct Found {
    pub(super) anchor: Anchor,
    /// Whether the files are those of before, so that the place in them counts.
    pub(super) unmodified: bool,
}

impl Found {
    /// Checks that a row is the one to go on with.
    fn check(&self, made: &Made) -> Result<(), DataError> {
        if made.mark == self.anchor.mark && hash(&made.row) == self.anchor.row {
            return Ok(());
        }
        Err(DataError::Cursor {
            message: format!(
                "{} is not the row that was there when the checkpoint was written",
                made.row.at
            ),
        })
    }
}

/// Why no more blocks are made.
pub(super) enum Stop {
    Error(DataError),
    /// The stream was dropped.
    Unwanted,
}

impl From<DataError> for Stop {
    fn from(error: DataError) -> Self {
        Self::Error(error)
    }
}

/// Makes the blocks.
pub(super) struct Maker<'a> {
    pub(super) config: &'a Config,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) options: &'a StreamOptions,
    pub(super) sender: &'a SyncSender<Result<Block, DataError>>,
    /// What is read next.
    pub(super) position: Position,
    pub(super) number: u64,
    pub(super) block: Vec<Sample>,
    pub(super) tokens: usize,
    pub(super) start: Position,
    /// The first row of the block, once there is one.
    pub(super) anchor: Option<Anchor>,
    /// Where to go on, until that is done.
    pub(super) resumed: Option<Found>,
    pub(super) ledger_before: Vec<DatasetLedger>,
    pub(super) ledger: Vec<DatasetLedger>,
    /// Tokens of the longest sample of each data set so far.
    pub(super) longest: Vec<usize>,
}

impl Maker<'_> {
    pub(super) fn run(mut self) -> Stop {
        loop {
            if let Err(stop) = self.epoch() {
                return stop;
            }
        }
    }

    /// The rest of a pass over the data.
    fn epoch(&mut self) -> Result<(), Stop> {
        let whole =
            self.position.source == 0 && self.position.row == 0 && self.position.sample == 0;
        let kept = |ledger: &[DatasetLedger]| -> usize {
            ledger.iter().map(|account| account.kept.samples).sum()
        };
        let before = kept(&self.ledger);
        while let Some(source) = self.options.sources.get(self.position.source) {
            self.source(source)?;
            self.position.source += 1;
            self.position.row = 0;
            self.position.sample = 0;
            if self.anchor.is_none() {
                self.begin();
            }
        }
        if whole && kept(&self.ledger) == before {
            return Err(Stop::Error(self.nothing()));
        }
        self.position = Position {
            epoch: self.position.epoch + 1,
            ..Position::default()
        };
        self.flush()
    }

    /// The rest of a data set.
    fn source(&mut self, source: &StreamSource) -> Result<(), Stop> {
        let dataset = &source.dataset;
        let seeds = SeedStream::new(self.config.seed);
        let resumed = self.resumed.take();
        let known = resumed.as_ref().filter(|found| found.unmodified);
        let known = known.map(|found| &found.anchor);
        let selection = Selection::new(dataset, seeds, known.map(|anchor| &anchor.survey))?;
        let mut rows = selection.chosen(known.map(|anchor| anchor.first))?;
        // The strategy may have to be told from the first row.
        let empty = || DataError::EmptyDataset {
            path: dataset.path.clone(),
        };
        let Chosen {
            record,
            copies,
            mark,
        } = rows.next().ok_or_else(empty)??;
        let first = record.row()?;
        let limit = self.config.sequence_len;
        let strategy = strategy::build(self.config, dataset, &first, self.tokenizer, limit)?;
        let opened = Opened {
            survey: selection.survey(),
            first: mark,
        };
        let account = &mut self.ledger[self.position.source];
        strategy.name().clone_into(&mut account.strategy);
        if self.position.row == 0 && self.position.sample == 0 {
            for (reason, rows) in &selection.skipped {
                *account.skipped.entry(*reason).or_default() += rows;
            }
            if source.skip > 0 {
                *account.skipped.entry(SkipReason::Slice).or_default() += source.skip;
            }
        }
        let mut rows: ChosenRows = match &resumed {
            Some(Found { anchor, unmodified }) => selection.chosen(Some(match unmodified {
                true => anchor.mark,
                false => anchor.mark.without_spot(),
            }))?,
            None => {
                let first = Chosen {
                    record: Record::Ready(first),
                    copies,
                    mark,
                };
                let read = usize::try_from(self.position.row).unwrap_or(usize::MAX);
                let before = source.skip.saturating_add(read);
                Box::new(std::iter::once(Ok(first)).chain(rows).skip(before))
            }
        };
        let mut expected = resumed;
        loop {
            let mut failed = None;
            let mut chunk = Vec::new();
            for chosen in rows.by_ref().take(CHUNK.min(self.target())) {
                match chosen {
                    Ok(chosen) => chunk.push(chosen),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            let made: Vec<Result<Made, DataError>> = chunk
                .into_par_iter()
                .map(|chosen| {
                    let row = chosen.record.row()?;
                    let strategy::Made { samples, notes } = row.checked(strategy.made(&row))?;
                    Ok(Made {
                        row,
                        mark: chosen.mark,
                        samples,
                        notes,
                        copies: chosen.copies,
                    })
                })
                .collect();
            let ended = made.is_empty();
            for made in made {
                let made = made?;
                if let Some(expected) = expected.take() {
                    expected.check(&made)?;
                }
                self.row(made, &opened)?;
            }
            match failed {
                Some(error) => return Err(error.into()),
                None if ended && expected.is_some() => {
                    let path = dataset.path.display();
                    let message = format!("{path} ends before the row to go on with");
                    return Err(DataError::Cursor { message }.into());
                }
                None if ended => return Ok(()),
                None => {}
            }
        }
    }

    fn row(&mut self, mut made: Made, opened: &Opened<'_>) -> Result<(), Stop> {
        let samples = std::mem::take(&mut made.samples);
        let count = samples.len();
        if self.anchor.is_none() {
            self.anchor = Some(opened.anchor(&made));
        }
        let account = &mut self.ledger[self.position.source];
        if self.position.sample == 0 {
            account.rows += 1;
            account.note(&made.row.at, std::mem::take(&mut made.notes));
            match count {
                0 => {
                    account.made.add(0);
                    account.drop(DropReason::Empty, 0);
                }
                1 => {}
                several => {
                    account.split.rows += 1;
                    account.split.samples += several;
                }
            }
        }
        if count == 0 {
            self.position.row += 1;
            return Ok(());
        }
        let task = Task {
            config: self.config,
            dataset: &self.options.sources[self.position.source].dataset,
            tokenizer: self.tokenizer,
            limit: self.config.sequence_len,
            purpose: Build::KNOWN,
        };
        let done = self.position.sample;
        let mut kept = false;
        for (index, mut sample) in samples.into_iter().enumerate() {
            let length = sample.len();
            let dropped = judge(&task, &made.row.at, &mut sample)?;
            let first_kept = dropped.is_none() && !kept;
            kept |= dropped.is_none();
            if index < done {
                // It went into an earlier block.
                continue;
            }
            let longest = &mut self.longest[self.position.source];
            *longest = length.max(*longest);
            if self.anchor.is_none() {
                self.anchor = Some(opened.anchor(&made));
            }
            let account = &mut self.ledger[self.position.source];
            account.made.add(length);
            match dropped {
                Some(reason) => account.drop(reason, length),
                None => {
                    if sample.len() < length {
                        account.truncated.add(length - sample.len());
                    }
                    account.kept.add(sample.len());
                    account.kept_rows += usize::from(first_kept);
                    account.trained_tokens += trained_tokens(&sample.labels);
                    account.repeated += made.copies as usize;
                    for _ in 0..made.copies {
                        self.tokens += sample.len();
                        self.block.push(sample.clone());
                    }
                    self.tokens += sample.len();
                    self.block.push(sample);
                }
            }
            self.position.sample += 1;
            if self.position.sample == count {
                self.position.sample = 0;
                self.position.row += 1;
            }
            if self.block.len() >= self.target() || self.tokens >= BLOCK_TOKENS {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Samples in the present block.
    fn target(&self) -> usize {
        let doubled = FIRST_BLOCK << self.number.min(24);
        self.options.buffer.clamp(1, doubled)
    }

    /// Sends the block, which ends here.
    fn flush(&mut self) -> Result<(), Stop> {
        if !self.block.is_empty() {
            let rows = self.rows()?;
            let block = Block {
                start: self.start,
                anchor: self.anchor.take(),
                number: self.number,
                rows,
                ledger_before: std::mem::take(&mut self.ledger_before),
                ledger_after: self.ledger.clone(),
            };
            self.sender.send(Ok(block)).map_err(|_| Stop::Unwanted)?;
            self.number += 1;
        }
        self.begin();
        Ok(())
    }

    /// The next block begins here.
    fn begin(&mut self) {
        self.tokens = 0;
        self.start = self.position;
        self.anchor = None;
        self.ledger_before.clone_from(&self.ledger);
    }

    /// Shuffles and packs the samples of the block.
    fn rows(&mut self) -> Result<Vec<Vec<Sample>>, DataError> {
        let seeds = SeedStream::new(self.config.seed);
        let mut samples = std::mem::take(&mut self.block);
        let count = u32::try_from(samples.len()).map_err(|_| DataError::TooManySamples {
            rows: samples.len(),
        })?;
        let order = match self.options.shuffle {
            true => permutation(count, seeds.derive("stream block", self.number)),
            false => sequential_order(count),
        };
        let lengths: Vec<u32> = order
            .iter()
            .map(|&index| u32::try_from(samples[index as usize].len()).unwrap_or(u32::MAX))
            .collect();
        let mut take = |index: u32| std::mem::take(&mut samples[index as usize]);
        let Some(strategy) = self.options.packing else {
            return Ok(order.into_iter().map(|index| vec![take(index)]).collect());
        };
        // Samples that are too long were dropped, cut or refused already.
        let packing = self
            .pack(strategy, &lengths)
            .map_err(|error| DataError::Encode {
                message: error.to_string(),
            })?;
        let packing = match self.options.shuffle {
            true => packing.shuffle_bins(seeds.derive("stream bins", self.number)),
            false => packing,
        };
        Ok(packing
            .map_items(&order)
            .bins()
            .map(|bin| bin.iter().map(|&index| take(index)).collect())
            .collect())
    }

    fn pack(&self, strategy: PackingStrategy, lengths: &[u32]) -> Result<Packing, PackingError> {
        let capacity = u32::try_from(self.config.sequence_len).unwrap_or(u32::MAX);
        match strategy {
            PackingStrategy::BestFitDecreasing => {
                let documents = self.config.sample_packing_bin_size;
                best_fit_decreasing_limited(lengths, capacity, documents)
            }
            PackingStrategy::Sequential => sequential(lengths, capacity),
            PackingStrategy::FirstFit => {
                let limits = FirstFitOptions {
                    group_size: self.config.sample_packing_group_size,
                    bin_size: self.config.sample_packing_bin_size,
                };
                first_fit(lengths, capacity, limits)
            }
        }
    }

    /// A whole pass gave nothing: another would give nothing again. Says why of the
    /// first data set.
    fn nothing(&self) -> DataError {
        let accounts = self.ledger.iter().zip(&self.longest);
        let mut sources = self.options.sources.iter().zip(accounts);
        let Some((source, (account, longest))) = sources.next() else {
            return DataError::EmptyDataset {
                path: PathBuf::new(),
            };
        };
        let task = Task {
            config: self.config,
            dataset: &source.dataset,
            tokenizer: self.tokenizer,
            limit: self.config.sequence_len,
            purpose: Build::KNOWN,
        };
        pipeline::all_dropped::<Sample>(&task, account, *longest)
    }
}
