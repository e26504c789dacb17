//! The pipeline: read, tokenize, apply the length rule, drop what cannot be
//! trained on and what was there before; then order and split.
//!
//! One thread reads ahead in chunks, which all threads parse and tokenize; the
//! order of samples and every count are those of one thread. Memory holds three
//! chunks, and a few bytes a sample; where the samples go is the business of the
//! caller ([`prepare_into`]).

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use seqprep::{
    LengthOutcome, Sample, SeedStream, drop_long_seq, drop_no_trainable_tokens, trained_tokens,
    truncate,
};
use trainer_config::{Config, Dataset, ExcessLength, PromptStrategy};

use crate::ledger::{DatasetLedger, DropReason, Ledger, SkipReason};
use crate::order::Order;
use crate::source::{self, Record};
use crate::strategy::Strategy;
use crate::{DataError, Place, Tokenizer, strategy};

/// Most rows in a chunk.
const CHUNK_ROWS: usize = 2048;

/// A chunk ends after this many bytes of rows.
const CHUNK_BYTES: usize = 16 << 20;

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

/// Which samples a run uses, in which order: indices into the samples that
/// [`prepare_into`] gave away, counted from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is trained on, in order. A sample may stand here several times.
    pub train: Vec<u32>,
    /// What is evaluated on, in order; may be empty.
    pub eval: Vec<u32>,
    /// The account of every row and token.
    pub ledger: Ledger,
}

/// Reads and tokenizes the data sets of a configuration.
///
/// The training samples are shuffled by `seed` if `shuffle_merged_datasets` is
/// set and `curriculum_sampling` is not. Evaluation samples are those of
/// `test_datasets`, in file order, or else the last `val_set_size` of the
/// training samples. A sample that a `weight` above 1 repeats is never in both.
///
/// # Errors
/// The first error in the order of the rows; a data set without rows, or of
/// which no row can be used; a split that leaves nothing on one side.
pub fn prepare(config: &Config, tokenizer: &Tokenizer) -> Result<Prepared, DataError> {
    let mut samples = Vec::new();
    let plan = prepare_into(config, tokenizer, &mut |sample| {
        samples.push(sample);
        Ok(())
    })?;
    let mut uses = vec![0_u32; samples.len()];
    for index in plan.train.iter().chain(&plan.eval) {
        uses[*index as usize] += 1;
    }
    let mut gather = |order: Vec<u32>| -> Vec<Sample> {
        order
            .into_iter()
            .map(|index| {
                let index = index as usize;
                uses[index] -= 1;
                if uses[index] == 0 {
                    std::mem::take(&mut samples[index])
                } else {
                    samples[index].clone()
                }
            })
            .collect()
    };
    Ok(Prepared {
        train: gather(plan.train),
        eval: gather(plan.eval),
        ledger: plan.ledger,
    })
}

/// As [`prepare`], but hands each sample to `sink` as soon as it is made, in the
/// order of the files, and returns which of them are used in which order. Thus
/// memory does not depend on the amount of data, apart from some 20 bytes a
/// sample.
///
/// # Errors
/// As [`prepare`], and those of `sink`.
pub fn prepare_into(
    config: &Config,
    tokenizer: &Tokenizer,
    sink: &mut (dyn FnMut(Sample) -> Result<(), DataError> + Send),
) -> Result<Plan, DataError> {
    in_pool(config, || run(config, tokenizer, sink))?
}

/// Runs `work` on the threads that the configuration asks for.
pub(crate) fn in_pool<T: Send>(
    config: &Config,
    work: impl FnOnce() -> T + Send,
) -> Result<T, DataError> {
    let Some(threads) = config.dataset_num_proc else {
        return Ok(work());
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| DataError::Threads {
            threads,
            message: error.to_string(),
        })?;
    Ok(pool.install(work))
}

fn run(
    config: &Config,
    tokenizer: &Tokenizer,
    sink: &mut (dyn FnMut(Sample) -> Result<(), DataError> + Send),
) -> Result<Plan, DataError> {
    let mut made = Made {
        config,
        sink,
        order: Order::default(),
        seen: config.dataset_exact_deduplication.then(Seen::default),
        datasets: Vec::new(),
    };
    for dataset in &config.datasets {
        made.dataset(dataset, tokenizer, config.sequence_len, false)?;
    }
    made.order.end_of_training();
    let limit = config.eval_sequence_len.unwrap_or(config.sequence_len);
    for dataset in config.test_datasets.iter().flatten() {
        made.dataset(dataset, tokenizer, limit, true)?;
    }
    made.order.plan(config, made.datasets)
}

/// Hashes of the samples so far.
#[derive(Default)]
struct Seen {
    train: HashSet<u128>,
    eval: HashSet<u128>,
}

/// What identifies a sample: ids, labels, and positions if it brings any.
fn hash(sample: &Sample) -> u128 {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(4 * sample.input_ids.len());
    let mut field = |values: &mut dyn Iterator<Item = [u8; 4]>| {
        bytes.clear();
        bytes.extend(values.flatten());
        // The length keeps fields apart.
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    };
    field(&mut sample.input_ids.iter().map(|id| id.to_le_bytes()));
    field(&mut sample.labels.iter().map(|label| label.to_le_bytes()));
    if let Some(positions) = &sample.position_ids {
        field(&mut positions.iter().map(|position| position.to_le_bytes()));
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half)
}

/// A row that was tokenized: where it is from, its samples with their hashes,
/// and how often it is repeated.
struct Tokenized {
    at: Place,
    samples: Vec<(Sample, u128)>,
    copies: u32,
}

/// Rows that were read together, and why there are no more, if so.
struct Chunk {
    records: Vec<(Record, u32)>,
    end: Option<Result<(), DataError>>,
}

/// Everything that the data sets so far have given.
struct Made<'a> {
    config: &'a Config,
    sink: &'a mut (dyn FnMut(Sample) -> Result<(), DataError> + Send),
    order: Order,
    seen: Option<Seen>,
    datasets: Vec<DatasetLedger>,
}

impl Made<'_> {
    fn dataset(
        &mut self,
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        limit: usize,
        test: bool,
    ) -> Result<(), DataError> {
        let config = self.config;
        let mut selected = source::select(dataset, SeedStream::new(config.seed))?;
        let (first, copies) = selected.first(config, dataset)?;
        let source::Selected { records, skipped } = selected;
        let strategy = strategy::build(config, dataset, &first, tokenizer, limit)?;
        let mut sorter = Sorter {
            made: self,
            limit,
            longest: 0,
            account: DatasetLedger {
                path: dataset.path.clone(),
                strategy: strategy.name().to_owned(),
                test,
                skipped,
                ..DatasetLedger::default()
            },
            untrained: None,
        };
        let records = std::iter::once(Ok((Record::Ready(first), copies))).chain(records);
        let (sender, chunks) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || read(records, &sender));
            sorter.chunks(&*strategy, &chunks)
        })?;
        let account = sorter.finish(dataset, tokenizer)?;
        self.datasets.push(account);
        self.order.end_of_dataset();
        Ok(())
    }
}

/// Reads rows in chunks, until their end, an error, or nobody wants more.
fn read(
    mut records: impl Iterator<Item = Result<(Record, u32), DataError>>,
    sender: &SyncSender<Chunk>,
) {
    let mut ended = false;
    while !ended {
        let mut chunk = Chunk {
            records: Vec::new(),
            end: None,
        };
        let mut bytes = 0;
        while chunk.end.is_none() && chunk.records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            match records.next() {
                Some(Ok(record)) => {
                    bytes += record.0.size();
                    chunk.records.push(record);
                }
                Some(Err(error)) => chunk.end = Some(Err(error)),
                None => chunk.end = Some(Ok(())),
            }
        }
        ended = chunk.end.is_some();
        if sender.send(chunk).is_err() {
            return;
        }
    }
}

/// What the rules say of a sample by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is used; so many tokens were cut off.
    Kept {
        /// Number of tokens.
        removed: usize,
    },
    /// It is not used.
    Dropped(DropReason),
}

/// Applies the length rule, which may cut the sample, and the rule that
/// something has to be trained.
pub(crate) fn judge(
    config: &Config,
    limit: usize,
    at: &Place,
    sample: &mut Sample,
) -> Result<Verdict, DataError> {
    let length = sample.input_ids.len();
    let shortest = config.min_sample_len;
    let outcome = match config.excess_length_strategy {
        ExcessLength::Truncate => truncate(sample, limit, shortest),
        ExcessLength::Drop | ExcessLength::Raise => drop_long_seq(sample, limit, shortest),
    };
    let removed = match outcome {
        LengthOutcome::Kept => 0,
        LengthOutcome::Truncated { removed } => removed,
        LengthOutcome::Empty => return Ok(Verdict::Dropped(DropReason::Empty)),
        LengthOutcome::TooShort => return Ok(Verdict::Dropped(DropReason::TooShort)),
        LengthOutcome::TooLong if config.excess_length_strategy == ExcessLength::Raise => {
            return Err(DataError::TooLong {
                at: at.clone(),
                length,
                limit,
            });
        }
        LengthOutcome::TooLong => return Ok(Verdict::Dropped(DropReason::TooLong)),
    };
    if !drop_no_trainable_tokens(sample) {
        return Ok(Verdict::Dropped(DropReason::NothingToTrain));
    }
    Ok(Verdict::Kept { removed })
}

/// Decides on each sample of a data set, and keeps the account.
struct Sorter<'a, 'b> {
    made: &'a mut Made<'b>,
    limit: usize,
    longest: usize,
    account: DatasetLedger,
    /// The first sample with nothing to train, and the beginning of its tokens.
    untrained: Option<(Place, Vec<u32>)>,
}

impl Sorter<'_, '_> {
    fn chunks(
        &mut self,
        strategy: &dyn Strategy,
        chunks: &Receiver<Chunk>,
    ) -> Result<(), DataError> {
        let hashed = self.made.seen.is_some();
        for chunk in chunks {
            let made: Vec<Result<Tokenized, DataError>> = chunk
                .records
                .into_par_iter()
                .map(|(record, copies)| {
                    let row = record.row()?;
                    let hash = |sample: Sample| {
                        let hash = if hashed { hash(&sample) } else { 0 };
                        (sample, hash)
                    };
                    let samples = strategy.samples(&row)?.into_iter().map(hash).collect();
                    Ok(Tokenized {
                        at: row.at,
                        samples,
                        copies,
                    })
                })
                .collect();
            for row in made {
                match row {
                    Ok(row) => self.row(row)?,
                    Err(error) if source::skips(self.made.config, &error) => {
                        self.account.skip(SkipReason::Malformed);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(end) = chunk.end {
                return end;
            }
        }
        Ok(())
    }

    fn row(&mut self, row: Tokenized) -> Result<(), DataError> {
        self.account.rows += 1;
        match row.samples.len() {
            0 => {
                self.account.made.add(0);
                self.account.drop(DropReason::Empty, 0);
            }
            1 => {}
            several => {
                self.account.split.rows += 1;
                self.account.split.samples += several;
            }
        }
        for (sample, hash) in row.samples {
            self.sample(&row.at, sample, hash, row.copies)?;
        }
        Ok(())
    }

    fn sample(
        &mut self,
        at: &Place,
        mut sample: Sample,
        hash: u128,
        copies: u32,
    ) -> Result<(), DataError> {
        let length = sample.input_ids.len();
        self.account.made.add(length);
        self.longest = self.longest.max(length);
        let verdict = judge(self.made.config, self.limit, at, &mut sample)?;
        let dropped = match verdict {
            Verdict::Kept { .. } => self.seen(hash),
            Verdict::Dropped(reason) => Some(reason),
        };
        if let Some(reason) = dropped {
            if reason == DropReason::NothingToTrain && self.untrained.is_none() {
                sample.input_ids.truncate(SHOWN_TOKENS);
                self.untrained = Some((at.clone(), sample.input_ids));
            }
            self.account.drop(reason, length);
            return Ok(());
        }
        if let Verdict::Kept {
            removed: removed @ 1..,
        } = verdict
        {
            self.account.truncated.add(removed);
        }
        let (tokens, trained) = (sample.input_ids.len(), trained_tokens(&sample.labels));
        self.account.kept.add(tokens);
        self.account.trained_tokens += trained;
        self.made.order.push(tokens, trained, copies)?;
        (self.made.sink)(sample)
    }

    /// Whether a sample was there before; it is remembered.
    fn seen(&mut self, hash: u128) -> Option<DropReason> {
        let seen = self.made.seen.as_mut()?;
        let set = if self.account.test {
            if seen.train.contains(&hash) {
                return Some(DropReason::InTraining);
            }
            &mut seen.eval
        } else {
            &mut seen.train
        };
        (!set.insert(hash)).then_some(DropReason::Duplicate)
    }

    fn finish(self, dataset: &Dataset, tokenizer: &Tokenizer) -> Result<DatasetLedger, DataError> {
        let dropped = &self.account.dropped;
        // Nothing new in a further data set is what deduplication is for; an
        // evaluation without rows is not.
        let expected = !self.account.test && dropped.contains_key(&DropReason::Duplicate);
        if self.account.kept.samples > 0 || expected {
            let count = dropped.get(&DropReason::NothingToTrain);
            let count = count.map_or(0, |count| count.samples);
            return match self.untrained {
                Some((at, ids)) if count > self.account.made.samples / 2 => {
                    Err(DataError::MostlyUntrained {
                        path: dataset.path.clone(),
                        untrained: count,
                        samples: self.account.made.samples,
                        at,
                        text: tokenizer.decode(&ids, false)?,
                        advice: untrained_advice(dataset),
                    })
                }
                _ => Ok(self.account),
            };
        }
        let advice = dropped.keys().map(|reason| match reason {
            DropReason::TooLong => format!(
                "the longest has {} tokens: raise `sequence_len` (now {}), or set `excess_length_strategy: truncate`",
                self.longest, self.limit
            ),
            DropReason::TooShort => format!(
                "rows may be as short as `min_sample_len` (now {}): lower it",
                self.made.config.min_sample_len
            ),
            DropReason::NothingToTrain => untrained_advice(dataset).to_owned(),
            DropReason::Empty => "empty rows hold no text".to_owned(),
            DropReason::Duplicate | DropReason::InTraining => {
                "take other rows, or write `dataset_exact_deduplication: false`".to_owned()
            }
            DropReason::OtherShard => "lower `dataset_shard_num`".to_owned(),
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

/// Tokens that are shown of a sample with nothing to train.
const SHOWN_TOKENS: usize = 64;

/// What to change where samples have nothing to train.
fn untrained_advice(dataset: &Dataset) -> &'static str {
    match dataset.strategy {
        Some(PromptStrategy::ChatTemplate) => {
            "no turn is of a role in `roles_to_train`: check it and `roles`, or set `train_on_inputs: true`"
        }
        Some(PromptStrategy::Alpaca) => "the column `output` has to hold the responses",
        Some(PromptStrategy::Pretokenized) | None => {
            "the column `labels` has to hold a token id where a token is trained"
        }
        Some(PromptStrategy::InputOutput) => "the `label` of what is trained has to be true",
        Some(_) => "the column of the responses has to hold text",
    }
}
