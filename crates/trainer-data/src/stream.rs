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
//!
//! Where a block begins is an `Anchor`: the file, the row, and for text files the
//! byte, so that nothing in front of it is read again. Compressed files and JSON
//! arrays have to be read from their beginning, Parquet from that of the row group.
//! A byte of a file that was modified since is not used: the file is then read up to
//! the row as well. Either way the row has to be the one that was there before.

mod maker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use seqprep::Sample;
use serde::{Deserialize, Serialize};
use trainer_config::{
    Config, Dataset, PackingStrategy, PretrainingDataset, PretrainingType, PromptStrategy,
};

use crate::ledger::{DatasetLedger, Ledger, Totals, Warning};
use crate::prepare::in_pool;
use crate::source::{Mark, Survey};
use crate::{DataError, Fingerprint, Tokenizer};
use maker::{Found, Maker, Stop};

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

/// The row that a block begins with, and what is needed to read it without those
/// before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Anchor {
    mark: Mark,
    /// Hash of its columns.
    row: String,
    /// The first row of the data set, which may tell how the others are read.
    first: Mark,
    /// What the files were when they were opened.
    survey: Survey,
}

/// A place in a stream, to go on from. Can be written to a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamCursor {
    inputs: Fingerprint,
    /// Where the block begins.
    position: Position,
    /// Its first row. None at the beginning of the data, and in cursors of older
    /// versions, which are found again by counting rows.
    #[serde(default)]
    anchor: Option<Anchor>,
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
    modified: Vec<PathBuf>,
}

/// Samples that were shuffled and packed together.
#[derive(Debug)]
struct Block {
    start: Position,
    anchor: Option<Anchor>,
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
            anchor: None,
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
        Ok(Self::spawn(config, tokenizer, options, cursor, Vec::new()))
    }

    /// Goes on from a cursor, with the row after the last one that was taken.
    /// What was read of the data before is not read again, where its format allows.
    ///
    /// # Errors
    /// [`DataError::Cursor`] where a setting, the tokenizer, a template or the
    /// size of a file is another than before, and as [`SampleStream::start`]. The
    /// iterator gives the same error where the row to go on with is not there.
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
        let source = options.sources.get(cursor.position.source);
        let modified = match (&cursor.anchor, source) {
            (Some(anchor), Some(source)) => anchor.survey.modified_since(&source.dataset)?,
            _ => Vec::new(),
        };
        Ok(Self::spawn(config, tokenizer, options, cursor, modified))
    }

    fn spawn(
        config: &Config,
        tokenizer: Arc<Tokenizer>,
        options: StreamOptions,
        cursor: StreamCursor,
        modified: Vec<PathBuf>,
    ) -> Self {
        let (sender, blocks) = sync_channel(1);
        let config = config.clone();
        let (position, block) = (cursor.position, cursor.block);
        let ledger = cursor.ledger.clone();
        let resumed = cursor.anchor.clone().map(|anchor| Found {
            anchor,
            unmodified: modified.is_empty(),
        });
        let stream = Self {
            blocks,
            rows: Vec::new().into_iter(),
            resumed: cursor.rows,
            ledger: ledger.clone(),
            cursor,
            modified,
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
                anchor: None,
                resumed,
                ledger_before: ledger.clone(),
                longest: vec![0; ledger.len()],
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

    /// Files that were modified after the cursor was taken that this stream goes on
    /// from, though their sizes are the same: they are read again from their
    /// beginning, up to the row to go on with.
    #[must_use]
    pub fn modified(&self) -> &[PathBuf] {
        &self.modified
    }

    /// What is to be said about the rows read up to the end of the present block.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.ledger.iter().flat_map(|set| &set.warnings)
    }

    /// The account of everything read up to the end of the present block.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut train = Totals::default();
        for set in &self.ledger {
            train.rows += set.kept_rows;
            train.samples += set.kept.samples;
            train.tokens += set.kept.tokens;
            train.trained_tokens += set.trained_tokens;
        }
        Ledger {
            datasets: self.ledger.clone(),
            train,
            eval: Totals::default(),
            eval_in_train: 0,
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
            self.cursor.anchor = block.anchor;
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
