//! Samples without end, in bounded memory: rows for the trainer from data of
//! any size, from the first second on.
//!
//! ```text
//! files ──▶ blocks of samples ──shuffle, pack──▶ rows ──channel──▶ SampleStream
//!           (tokenized in parallel, in a thread of their own, one block ahead)
//! ```
//!
//! A block is what is shuffled and packed together: `buffer` samples, or fewer
//! where they are long or the data ends. The first blocks are smaller, so that the
//! first row does not wait for a whole buffer. Each pass over the data goes
//! through every sample once; nothing is left over at the end of a block.
//!
//! Invariant: the rows of a block depend on where it begins, its number and the
//! seed alone. A [`StreamCursor`] is therefore the beginning of a block and the
//! number of rows taken from it; the block is made again on resumption, and the
//! stream goes on with the same token.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use seqprep::{
    FirstFitOptions, Packing, PackingError, Sample, SeedStream, best_fit_decreasing_limited,
    first_fit, permutation, sequential, sequential_order, trained_tokens,
};
use serde::{Deserialize, Serialize};
use trainer_config::{
    Config, Dataset, PackingStrategy, PretrainingDataset, PretrainingType, PromptStrategy,
};

use crate::ledger::{DatasetLedger, DropReason, Ledger, SkipReason, Totals};
use crate::prepare::{Verdict, in_pool, judge};
use crate::source::{self, Record};
use crate::{DataError, Fingerprint, Place, Tokenizer, strategy};

/// Samples in the first block; each further one may be twice as large.
const FIRST_BLOCK: usize = 64;

/// A block ends after this many tokens, however few samples that are.
const BLOCK_TOKENS: usize = 1 << 22;

/// Rows that are tokenized at a time.
const CHUNK: usize = 512;

/// A data set of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSource {
    /// Its files, and how a row becomes samples.
    pub dataset: Dataset,
    /// Rows at its beginning that are left out.
    pub skip: usize,
}

/// What a stream reads, and how it makes rows.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// Data sets, read one after the other, again and again.
    pub sources: Vec<StreamSource>,
    /// Most samples that are shuffled and packed together.
    pub buffer: usize,
    /// Shuffle the samples of each block.
    pub shuffle: bool,
    /// Put several samples into one row of `sequence_len` tokens.
    pub packing: Option<PackingStrategy>,
}

impl StreamOptions {
    /// What a configuration with `streaming` or `pretraining_dataset` says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let sources = match &config.pretraining_dataset {
            Some(entries) => entries.iter().map(pretraining).collect(),
            None => {
                let datasets = config.datasets.iter().cloned();
                datasets
                    .map(|dataset| StreamSource { dataset, skip: 0 })
                    .collect()
            }
        };
        Self {
            sources,
            buffer: config.streaming_multipack_buffer_size,
            shuffle: config.shuffle_merged_datasets && !config.curriculum_sampling,
            packing: config.sample_packing.then_some(config.packing_strategy),
        }
    }
}

/// Plain text as a data set.
fn pretraining(entry: &PretrainingDataset) -> StreamSource {
    let strategy = match entry.strategy.unwrap_or(PretrainingType::Pretrain) {
        PretrainingType::Pretrain => PromptStrategy::Pretrain,
        PretrainingType::Completion => PromptStrategy::Completion,
    };
    StreamSource {
        dataset: Dataset {
            path: entry.path.clone(),
            ds_type: entry.ds_type,
            data_files: entry.data_files.clone(),
            split: entry.split.clone(),
            name: entry.name.clone(),
            field: entry.text_column.clone(),
            strategy: Some(strategy),
            ..Dataset::default()
        },
        skip: entry.skip.unwrap_or(0),
    }
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// Pass over the data, from 0.
    epoch: u64,
    /// Data set.
    source: usize,
    /// Rows of the data set before this one.
    row: u64,
    /// Samples of the row before this one.
    sample: usize,
}

/// A place in a stream, to go on from. Can be written to a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamCursor {
    inputs: Fingerprint,
    /// Where the block begins.
    position: Position,
    /// Number of the block, from which its randomness derives.
    block: u64,
    /// Rows taken from the block.
    rows: usize,
    /// The account up to the beginning of the block.
    ledger: Vec<DatasetLedger>,
}

/// Rows of a run, one after the other, without end: each holds the samples that
/// share it, which is one where nothing is packed.
///
/// After an error there are no more rows.
#[derive(Debug)]
pub struct SampleStream {
    blocks: Receiver<Result<Block, DataError>>,
    rows: std::vec::IntoIter<Vec<Sample>>,
    cursor: StreamCursor,
    /// The account up to the end of the block.
    ledger: Vec<DatasetLedger>,
    /// Rows to leave out of the first block.
    resumed: usize,
}

/// Samples that were shuffled and packed together.
#[derive(Debug)]
struct Block {
    start: Position,
    number: u64,
    rows: Vec<Vec<Sample>>,
    ledger_before: Vec<DatasetLedger>,
    ledger_after: Vec<DatasetLedger>,
}

impl SampleStream {
    /// Starts at the beginning of the data.
    ///
    /// # Errors
    /// A data set whose files cannot be found. What is wrong inside the files
    /// comes from the iterator.
    pub fn start(
        config: &Config,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
    ) -> Result<Self, DataError> {
        let cursor = StreamCursor {
            inputs: inputs(config, &tokenizer, &options)?,
            position: Position::default(),
            block: 0,
            rows: 0,
            ledger: options
                .sources
                .iter()
                .map(|source| DatasetLedger {
                    path: source.dataset.path.clone(),
                    ..DatasetLedger::default()
                })
                .collect(),
        };
        Ok(Self::spawn(config, tokenizer, options, cursor))
    }

    /// Goes on from a cursor, with the row after the last one that was taken.
    ///
    /// # Errors
    /// [`DataError::Cursor`] where a setting, the tokenizer, a template or the
    /// size of a file is another than before, and as [`SampleStream::start`].
    pub fn resume(
        config: &Config,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
        cursor: StreamCursor,
    ) -> Result<Self, DataError> {
        let differences = inputs(config, &tokenizer, &options)?.differences(&cursor.inputs);
        if !differences.is_empty() || cursor.ledger.len() != options.sources.len() {
            let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
            return Err(DataError::Cursor {
                message: differences.join("; "),
            });
        }
        Ok(Self::spawn(config, tokenizer, options, cursor))
    }

    fn spawn(
        config: &Config,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
        cursor: StreamCursor,
    ) -> Self {
        let (sender, blocks) = sync_channel(1);
        let config = config.clone();
        let (position, block) = (cursor.position, cursor.block);
        let ledger = cursor.ledger.clone();
        let stream = Self {
            blocks,
            rows: Vec::new().into_iter(),
            resumed: cursor.rows,
            ledger: ledger.clone(),
            cursor,
        };
        std::thread::spawn(move || {
            let maker = Maker {
                config: &config,
                tokenizer: &tokenizer,
                options: &options,
                sender: &sender,
                position,
                number: block,
                block: Vec::new(),
                tokens: 0,
                start: position,
                ledger_before: ledger.clone(),
                ledger,
            };
            let end = in_pool(&config, || maker.run()).and_then(|end| match end {
                Stop::Error(error) => Err(error),
                Stop::Unwanted => Ok(()),
            });
            if let Err(error) = end {
                // Nobody may be left to hear it.
                let _ = sender.send(Err(error));
            }
        });
        stream
    }

    /// Where the stream is: after the last row that it gave.
    #[must_use]
    pub fn cursor(&self) -> StreamCursor {
        self.cursor.clone()
    }

    /// The account of everything read up to the end of the present block.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut train = Totals::default();
        for set in &self.ledger {
            train.samples += set.kept.samples;
            train.tokens += set.kept.tokens;
            train.trained_tokens += set.trained_tokens;
        }
        Ledger {
            datasets: self.ledger.clone(),
            train,
            eval: Totals::default(),
        }
    }
}

impl Iterator for SampleStream {
    type Item = Result<Vec<Sample>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                self.cursor.rows += 1;
                return Some(Ok(row));
            }
            // The thread ends after an error.
            let block = match self.blocks.recv().ok()? {
                Ok(block) => block,
                Err(error) => return Some(Err(error)),
            };
            self.cursor.position = block.start;
            self.cursor.block = block.number;
            self.cursor.ledger = block.ledger_before;
            self.ledger = block.ledger_after;
            self.rows = block.rows.into_iter();
            self.cursor.rows = std::mem::take(&mut self.resumed);
            if let Some(last) = self.cursor.rows.checked_sub(1) {
                self.rows.nth(last);
            }
        }
    }
}

/// What a stream depends on, in no time: sizes of files, not their bytes.
fn inputs(
    config: &Config,
    tokenizer: &Tokenizer,
    options: &StreamOptions,
) -> Result<Fingerprint, DataError> {
    let datasets = options.sources.iter().map(|source| source.dataset.clone());
    let config = Config {
        datasets: datasets.collect(),
        ..config.clone()
    };
    let mut inputs = Fingerprint::by_size(&config, tokenizer)?;
    let skip: Vec<usize> = options.sources.iter().map(|source| source.skip).collect();
    inputs.add("stream skip", format!("{skip:?}"));
    inputs.add("stream buffer", options.buffer.to_string());
    inputs.add("stream shuffle", options.shuffle.to_string());
    let packing = options.packing.map_or("no", PackingStrategy::as_str);
    inputs.add("stream packing", packing.to_owned());
    Ok(inputs)
}

/// A row's place, its samples, and how often these are repeated.
type Made = (Place, Vec<Sample>, u32);

/// Why no more blocks are made.
enum Stop {
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
struct Maker<'a> {
    config: &'a Config,
    tokenizer: &'a Tokenizer,
    options: &'a StreamOptions,
    sender: &'a SyncSender<Result<Block, DataError>>,
    /// What is read next.
    position: Position,
    number: u64,
    block: Vec<Sample>,
    tokens: usize,
    start: Position,
    ledger_before: Vec<DatasetLedger>,
    ledger: Vec<DatasetLedger>,
}

impl Maker<'_> {
    fn run(mut self) -> Stop {
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
        let empty = || DataError::EmptyDataset {
            path: dataset.path.clone(),
        };
        let selected = source::select(dataset, seeds)?;
        let mut records = selected.records.peekable();
        // The strategy may have to be told from the first row.
        let (first, copies) = records.next().ok_or_else(empty)??;
        let first = first.row()?;
        let limit = self.config.sequence_len;
        let strategy = strategy::build(self.config, dataset, &first, self.tokenizer, limit)?;
        let account = &mut self.ledger[self.position.source];
        strategy.name().clone_into(&mut account.strategy);
        if self.position.row == 0 && self.position.sample == 0 {
            for (reason, rows) in selected.skipped {
                *account.skipped.entry(reason).or_default() += rows;
            }
            if source.skip > 0 {
                *account.skipped.entry(SkipReason::Slice).or_default() += source.skip;
            }
        }
        let read = usize::try_from(self.position.row).unwrap_or(usize::MAX);
        let mut records = std::iter::once(Ok((Record::Ready(first), copies)))
            .chain(records)
            .skip(source.skip.saturating_add(read));
        loop {
            let mut failed = None;
            let mut chunk = Vec::new();
            for record in records.by_ref().take(CHUNK.min(self.target())) {
                match record {
                    Ok(record) => chunk.push(record),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            let made: Vec<Result<Made, DataError>> = chunk
                .into_par_iter()
                .map(|(record, copies)| {
                    let row = record.row()?;
                    let samples = strategy.samples(&row)?;
                    Ok((row.at, samples, copies))
                })
                .collect();
            let ended = made.is_empty();
            for row in made {
                let (at, samples, copies) = row?;
                self.row(&at, samples, copies)?;
            }
            match failed {
                Some(error) => return Err(error.into()),
                None if ended => return Ok(()),
                None => {}
            }
        }
    }

    fn row(&mut self, at: &Place, samples: Vec<Sample>, copies: u32) -> Result<(), Stop> {
        let count = samples.len();
        let account = &mut self.ledger[self.position.source];
        if self.position.sample == 0 {
            account.rows += 1;
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
        for mut sample in samples.into_iter().skip(self.position.sample) {
            let length = sample.input_ids.len();
            let verdict = judge(self.config, self.config.sequence_len, at, &mut sample)?;
            let account = &mut self.ledger[self.position.source];
            account.made.add(length);
            match verdict {
                Verdict::Dropped(reason) => account.drop(reason, length),
                Verdict::Kept { removed } => {
                    if removed > 0 {
                        account.truncated.add(removed);
                    }
                    account.kept.add(sample.input_ids.len());
                    account.trained_tokens += trained_tokens(&sample.labels);
                    account.repeated += copies as usize;
                    for _ in 0..copies {
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
                number: self.number,
                rows,
                ledger_before: std::mem::replace(&mut self.ledger_before, self.ledger.clone()),
                ledger_after: self.ledger.clone(),
            };
            self.sender.send(Ok(block)).map_err(|_| Stop::Unwanted)?;
            self.number += 1;
        }
        self.tokens = 0;
        self.start = self.position;
        Ok(())
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

    /// A whole pass gave nothing: another would give nothing again.
    fn nothing(&self) -> DataError {
        let rows = self.ledger.iter().map(|account| account.rows).sum();
        let mut reasons = std::collections::BTreeMap::<DropReason, usize>::new();
        for (reason, count) in self.ledger.iter().flat_map(|account| &account.dropped) {
            *reasons.entry(*reason).or_default() += count.samples;
        }
        let path = self.ledger.first().map(|account| account.path.clone());
        DataError::AllDropped {
            path: path.unwrap_or_default(),
            rows,
            reasons: reasons
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect(),
            advice: "`trainer preprocess` on a part of the data says more".to_owned(),
        }
    }
}
