//! The pipeline: read, tokenize, apply the length rule, drop what cannot be
//! trained on, concatenate, shuffle, split.
//!
//! Rows are read in chunks and tokenized on all threads; the order of samples
//! and every count are those of one thread.

use rayon::prelude::*;
use seqprep::{
    LengthOutcome, Sample, SeedStream, drop_long_seq, drop_no_trainable_tokens, permutation,
    trained_tokens, truncate,
};
use trainer_config::{Config, Dataset, ExcessLength, PromptStrategy};

use crate::ledger::{DatasetLedger, DropReason, Ledger, Totals};
use crate::source::{self, Row};
use crate::{DataError, Place, Tokenizer, strategy};

/// Rows tokenized at a time.
const CHUNK: usize = 2048;

/// The samples of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// What is trained on, in order.
    pub train: Vec<Sample>,
    /// What is evaluated on, in order; may be empty.
    pub eval: Vec<Sample>,
    /// The account of every row and token.
    pub ledger: Ledger,
}

/// Reads and tokenizes the data sets of a configuration.
///
/// The training samples are shuffled by `seed` if `shuffle_merged_datasets` is
/// set and `curriculum_sampling` is not. Evaluation samples are those of
/// `test_datasets`, in file order, or else the last `val_set_size` of the
/// training samples.
///
/// # Errors
/// The first error in the order of the rows; a data set without rows, or of
/// which no row can be used; a split that leaves nothing on one side.
pub fn prepare(config: &Config, tokenizer: &Tokenizer) -> Result<Prepared, DataError> {
    let mut datasets = Vec::new();
    let mut train = Vec::new();
    for dataset in &config.datasets {
        let (samples, account) = one(config, dataset, tokenizer, config.sequence_len, false)?;
        train.extend(samples);
        datasets.push(account);
    }
    if config.shuffle_merged_datasets && !config.curriculum_sampling {
        train = shuffle(train, config.seed)?;
    }
    let mut eval = Vec::new();
    if let Some(tests) = &config.test_datasets {
        let limit = config.eval_sequence_len.unwrap_or(config.sequence_len);
        for dataset in tests {
            let (samples, account) = one(config, dataset, tokenizer, limit, true)?;
            eval.extend(samples);
            datasets.push(account);
        }
    } else {
        let size = eval_rows(config.val_set_size, train.len())?;
        eval = train.split_off(train.len() - size);
    }
    let ledger = Ledger {
        datasets,
        train: totals(&train),
        eval: totals(&eval),
    };
    Ok(Prepared {
        train,
        eval,
        ledger,
    })
}

/// The samples of one data set, and its account.
fn one(
    config: &Config,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    limit: usize,
    test: bool,
) -> Result<(Vec<Sample>, DatasetLedger), DataError> {
    let mut rows = source::open(dataset)?;
    let first = rows.next().ok_or_else(|| DataError::EmptyDataset {
        path: dataset.path.clone(),
    })??;
    let strategy = strategy::build(config, dataset, &first, tokenizer, limit)?;
    let mut sorter = Sorter {
        config,
        limit,
        longest: 0,
        kept: Vec::new(),
        account: DatasetLedger {
            path: dataset.path.clone(),
            strategy: strategy.name().to_owned(),
            test,
            ..DatasetLedger::default()
        },
    };
    let mut rows = std::iter::once(Ok(first)).chain(rows);
    let mut unread = None;
    while unread.is_none() {
        let mut chunk: Vec<Row> = Vec::new();
        while chunk.len() < CHUNK {
            match rows.next() {
                Some(Ok(row)) => chunk.push(row),
                Some(Err(error)) => {
                    unread = Some(Err(error));
                    break;
                }
                None => {
                    unread = Some(Ok(()));
                    break;
                }
            }
        }
        let made: Vec<_> = chunk.par_iter().map(|row| strategy.samples(row)).collect();
        for (row, samples) in chunk.iter().zip(made) {
            sorter.row(&row.at, samples?)?;
        }
    }
    unread.transpose()?;
    sorter.finish(dataset)
}

/// Decides on each sample, and keeps the account.
struct Sorter<'a> {
    config: &'a Config,
    limit: usize,
    longest: usize,
    kept: Vec<Sample>,
    account: DatasetLedger,
}

impl Sorter<'_> {
    fn row(&mut self, at: &Place, samples: Vec<Sample>) -> Result<(), DataError> {
        self.account.rows += 1;
        if samples.is_empty() {
            self.account.made.add(0);
            self.account.drop(DropReason::Empty, 0);
        }
        for sample in samples {
            self.sample(at, sample)?;
        }
        Ok(())
    }

    fn sample(&mut self, at: &Place, mut sample: Sample) -> Result<(), DataError> {
        let length = sample.input_ids.len();
        let shortest = self.config.min_sample_len;
        self.account.made.add(length);
        self.longest = self.longest.max(length);
        let outcome = match self.config.excess_length_strategy {
            ExcessLength::Truncate => truncate(&mut sample, self.limit, shortest),
            ExcessLength::Drop | ExcessLength::Raise => {
                drop_long_seq(&sample, self.limit, shortest)
            }
        };
        let dropped = match outcome {
            LengthOutcome::Kept | LengthOutcome::Truncated { .. } => None,
            LengthOutcome::Empty => Some(DropReason::Empty),
            LengthOutcome::TooShort => Some(DropReason::TooShort),
            LengthOutcome::TooLong if self.config.excess_length_strategy == ExcessLength::Raise => {
                return Err(DataError::TooLong {
                    at: at.clone(),
                    length,
                    limit: self.limit,
                });
            }
            LengthOutcome::TooLong => Some(DropReason::TooLong),
        };
        let dropped = dropped
            .or_else(|| (!drop_no_trainable_tokens(&sample)).then_some(DropReason::NothingToTrain));
        if let Some(reason) = dropped {
            self.account.drop(reason, length);
            return Ok(());
        }
        if let LengthOutcome::Truncated { removed } = outcome {
            self.account.truncated.add(removed);
        }
        self.account.kept.add(sample.input_ids.len());
        self.account.trained_tokens += trained_tokens(&sample.labels);
        self.kept.push(sample);
        Ok(())
    }

    fn finish(self, dataset: &Dataset) -> Result<(Vec<Sample>, DatasetLedger), DataError> {
        if !self.kept.is_empty() {
            return Ok((self.kept, self.account));
        }
        let dropped = &self.account.dropped;
        let advice = dropped.keys().map(|reason| match reason {
            DropReason::TooLong => format!(
                "the longest has {} tokens: raise `sequence_len` (now {}), or set `excess_length_strategy: truncate`",
                self.longest, self.limit
            ),
            DropReason::TooShort => format!(
                "rows may be as short as `min_sample_len` (now {}): lower it",
                self.config.min_sample_len
            ),
            DropReason::NothingToTrain => match dataset.strategy {
                Some(PromptStrategy::ChatTemplate) => {
                    "no turn is of a role in `roles_to_train`: check it and `roles`, or set `train_on_inputs: true`"
                }
                Some(PromptStrategy::Alpaca) => "the column `output` has to hold the responses",
                _ => "the column `labels` has to hold a token id where a token is trained",
            }
            .to_owned(),
            DropReason::Empty => "empty rows hold no text".to_owned(),
        });
        Err(DataError::AllDropped {
            path: dataset.path.clone(),
            rows: self.account.rows,
            reasons: dropped
                .iter()
                .map(|(reason, count)| format!("{} {reason}", count.samples))
                .collect(),
            advice: advice.collect::<Vec<_>>().join("; "),
        })
    }
}

fn shuffle(mut samples: Vec<Sample>, seed: u64) -> Result<Vec<Sample>, DataError> {
    let rows = samples.len();
    let length = u32::try_from(rows).map_err(|_| DataError::TooManySamples { rows })?;
    let order = permutation(length, SeedStream::new(seed).derive("shuffle data sets", 0));
    Ok(order
        .into_iter()
        .map(|index| std::mem::take(&mut samples[index as usize]))
        .collect())
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

fn totals(samples: &[Sample]) -> Totals {
    Totals {
        samples: samples.len(),
        tokens: samples.iter().map(|sample| sample.input_ids.len()).sum(),
        trained_tokens: samples
            .iter()
            .map(|sample| trained_tokens(&sample.labels))
            .sum(),
    }
}
