//! The way of every data set, whatever its samples are: read, make samples,
//! apply the length rule, drop what cannot be trained on and what was there
//! before; then order and split.
//!
//! One thread reads ahead in chunks, which all threads parse and tokenize; the
//! order of samples and every count are those of one thread. Memory holds four
//! chunks, and a few bytes a sample; where the samples go is the business of the
//! caller.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use seqprep::{LengthOutcome, SeedStream};
use trainer_config::{Config, Dataset, ExcessLength};

use crate::ledger::{DatasetLedger, DropReason, Ledger, Note, SkipReason};
use crate::order::{Entry, Order};
use crate::prepare::Plan;
use crate::source::{self, Record, Row, Selection};
use crate::{DataError, Place, Tokenizer};

/// Most rows in a chunk.
const CHUNK_ROWS: usize = 2048;

/// A chunk ends after this many bytes of rows.
const CHUNK_BYTES: usize = 16 << 20;

/// Tokens that are shown of a sample with nothing to train.
const SHOWN_TOKENS: usize = 64;

/// A data set on its way.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a, P> {
    pub(crate) config: &'a Config,
    pub(crate) dataset: &'a Dataset,
    pub(crate) tokenizer: &'a Tokenizer,
    /// Longest sequence in tokens.
    pub(crate) limit: usize,
    /// What the samples are for.
    pub(crate) purpose: P,
}

/// How large a sample is, in tokens.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// All of them.
    pub(crate) tokens: usize,
    /// Those of its longest sequence.
    pub(crate) longest: usize,
    /// Those that are trained or judged.
    pub(crate) trained: usize,
}

/// What a row gave.
pub(crate) struct Read<K> {
    /// Samples, each with the number of tokens that are cut already.
    pub(crate) samples: Vec<(K, usize)>,
    /// What is to be said about the row.
    pub(crate) notes: Vec<Note>,
}

impl<K> From<Vec<(K, usize)>> for Read<K> {
    fn from(samples: Vec<(K, usize)>) -> Self {
        Self {
            samples,
            notes: Vec::new(),
        }
    }
}

/// What samples are for.
pub(crate) trait Purpose: Copy + Send + Sync {
    /// Its name, by which prepared samples are told apart; none of samples for
    /// supervised fine-tuning.
    fn name(self) -> Option<&'static str>;
}

/// A kind of samples.
pub(crate) trait Kind: Clone + Default + Send + Sync {
    /// What makes the samples of a data set.
    type Reader<'a>: Sync;

    /// What samples are for, where a kind serves several ends.
    type Purpose: Purpose;

    /// The reader of a data set, of which the first row is given.
    fn reader<'a>(
        task: &Task<'a, Self::Purpose>,
        first: &Row,
    ) -> Result<Self::Reader<'a>, DataError>;

    /// Name of the strategy or layout.
    fn name(reader: &Self::Reader<'_>) -> &'static str;

    /// The samples of a row.
    fn read(reader: &Self::Reader<'_>, row: &Row) -> Result<Read<Self>, DataError>;

    fn size(&self) -> Size;

    /// Applies the length rule, which may cut the sample, and the rules about
    /// what a sample has to hold.
    fn judge(
        &mut self,
        task: &Task<'_, Self::Purpose>,
        reader: &Self::Reader<'_>,
        at: &Place,
    ) -> Result<Option<DropReason>, DataError>;

    /// What identifies a sample.
    fn hash(&self, hasher: &mut Hasher);

    /// Its tokens, to show them where there is nothing to train; `None` where
    /// that is for other reasons than masks.
    fn shown(&self) -> Option<&[u32]>;

    /// Whether what is too long is cut, so that a sample is too long only where a cut
    /// leaves nothing of it.
    fn cuts(task: &Task<'_, Self::Purpose>) -> bool {
        task.config.excess_length_strategy == ExcessLength::Truncate
    }

    /// What to change where samples are dropped for a reason that is the kind's
    /// own.
    fn advice(task: &Task<'_, Self::Purpose>, reason: DropReason) -> String;
}

/// Hashes the fields of a sample.
pub(crate) struct Hasher(blake3::Hasher, Vec<u8>);

impl Hasher {
    /// Adds a field. Its length goes in too, which keeps fields apart.
    pub(crate) fn field(&mut self, values: impl Iterator<Item = [u8; 4]>) {
        self.1.clear();
        self.1.extend(values.flatten());
        self.0.update(&(self.1.len() as u64).to_le_bytes());
        self.0.update(&self.1);
    }

    /// Adds token ids.
    pub(crate) fn ids(&mut self, ids: &[u32]) {
        self.field(ids.iter().map(|id| id.to_le_bytes()));
    }

    /// Adds labels.
    pub(crate) fn labels(&mut self, labels: &[i32]) {
        self.field(labels.iter().map(|label| label.to_le_bytes()));
    }
}

fn hash<K: Kind>(sample: &K) -> u128 {
    let mut hasher = Hasher(blake3::Hasher::new(), Vec::new());
    sample.hash(&mut hasher);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.0.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half)
}

/// What a length rule means, of a sample whose longest sequence had `length`
/// tokens: why it is dropped, if it is.
pub(crate) fn by_length<P>(
    task: &Task<'_, P>,
    at: &Place,
    length: usize,
    outcome: LengthOutcome,
) -> Result<Option<DropReason>, DataError> {
    Ok(match outcome {
        LengthOutcome::Kept | LengthOutcome::Truncated { .. } => None,
        LengthOutcome::Empty => Some(DropReason::Empty),
        LengthOutcome::TooShort => Some(DropReason::TooShort),
        LengthOutcome::TooLong if task.config.excess_length_strategy == ExcessLength::Raise => {
            return Err(DataError::TooLong {
                at: at.clone(),
                length,
                limit: task.limit,
            });
        }
        LengthOutcome::TooLong => Some(DropReason::TooLong),
    })
}

/// Where samples go.
pub(crate) type Sink<'a, K> = &'a mut (dyn FnMut(K) -> Result<(), DataError> + Send);

/// Hands each sample to `sink` as soon as it is made, in the order of the files;
/// returns which of them are used in which order.
pub(crate) fn run<K: Kind>(
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: K::Purpose,
    sink: Sink<'_, K>,
) -> Result<Plan, DataError> {
    let mut made = Made::<K> {
        config,
        sink,
        order: Order::default(),
        seen: config.dataset_exact_deduplication.then(Seen::default),
        compared: config.val_set_size > 0.0 || config.test_datasets.is_some(),
        datasets: Vec::new(),
    };
    let task = |dataset, limit| Task {
        config,
        dataset,
        tokenizer,
        limit,
        purpose,
    };
    for dataset in &config.datasets {
        made.dataset(&task(dataset, config.sequence_len), false)?;
    }
    made.order.end_of_training();
    let limit = config.eval_sequence_len.unwrap_or(config.sequence_len);
    for dataset in config.test_datasets.iter().flatten() {
        made.dataset(&task(dataset, limit), true)?;
    }
    made.order.plan(config, made.datasets)
}

/// Training samples, evaluation samples and their account, in memory.
pub(crate) fn collect<K: Kind>(
    config: &Config,
    tokenizer: &Tokenizer,
    purpose: K::Purpose,
) -> Result<(Vec<K>, Vec<K>, Ledger), DataError> {
    let mut samples = Vec::new();
    let plan = run(config, tokenizer, purpose, &mut |sample: K| {
        samples.push(sample);
        Ok(())
    })?;
    let mut uses = vec![0_u32; samples.len()];
    for index in plan.train.iter().chain(&plan.eval) {
        uses[*index as usize] += 1;
    }
    let mut gather = |order: Vec<u32>| -> Vec<K> {
        order
            .into_iter()
            .map(|index| {
                let index = index as usize;
                uses[index] -= 1;
                match uses[index] {
                    0 => std::mem::take(&mut samples[index]),
                    _ => samples[index].clone(),
                }
            })
            .collect()
    };
    let train = gather(plan.train);
    Ok((train, gather(plan.eval), plan.ledger))
}

/// Hashes of the samples so far.
#[derive(Default)]
struct Seen {
    train: HashSet<u128>,
    eval: HashSet<u128>,
}

/// A row that was tokenized: where it is from, its samples with their hashes,
/// and how often it is repeated.
struct Tokenized<K> {
    at: Place,
    samples: Vec<(K, usize, u128)>,
    notes: Vec<Note>,
    copies: u32,
}

/// Rows that were read together, and why there are no more, if so.
struct Chunk {
    records: Vec<(Record, u32)>,
    end: Option<Result<(), DataError>>,
}

/// Everything that the data sets so far have given.
struct Made<'a, K> {
    config: &'a Config,
    sink: Sink<'a, K>,
    order: Order,
    seen: Option<Seen>,
    /// Whether evaluation samples are looked for among those that are trained on.
    compared: bool,
    datasets: Vec<DatasetLedger>,
}

impl<K: Kind> Made<'_, K> {
    fn dataset(&mut self, task: &Task<'_, K::Purpose>, test: bool) -> Result<(), DataError> {
        let dataset = task.dataset;
        let selection = Selection::new(dataset, SeedStream::new(self.config.seed), None)?;
        let mut rows = selection.chosen(None)?;
        let mut skipped = selection.skipped;
        let (first, copies) = source::first(&mut rows, &mut skipped, self.config, dataset)?;
        let reader = K::reader(task, &first)?;
        let mut sorter = Sorter {
            made: self,
            task,
            reader: &reader,
            longest: 0,
            kept_of_row: 0,
            account: DatasetLedger {
                path: dataset.path.clone(),
                strategy: K::name(&reader).to_owned(),
                test,
                skipped,
                ..DatasetLedger::default()
            },
            untrained: None,
        };
        let rows = rows.map(|row| row.map(|chosen| (chosen.record, chosen.copies)));
        let records = std::iter::once(Ok((Record::Ready(first), copies))).chain(rows);
        let (sender, chunks) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || read(records, &sender));
            sorter.chunks(&chunks)
        })?;
        let account = sorter.finish()?;
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

/// Decides on each sample of a data set, and keeps the account.
struct Sorter<'a, 'b, 'r, K: Kind> {
    made: &'a mut Made<'b, K>,
    task: &'a Task<'r, K::Purpose>,
    reader: &'a K::Reader<'r>,
    longest: usize,
    /// Samples that were kept of the present row.
    kept_of_row: usize,
    account: DatasetLedger,
    /// The first sample with nothing to train, and the beginning of its tokens.
    untrained: Option<(Place, Vec<u32>)>,
}

impl<K: Kind> Sorter<'_, '_, '_, K> {
    fn chunks(&mut self, chunks: &Receiver<Chunk>) -> Result<(), DataError> {
        let hashed = self.made.seen.is_some() || self.made.compared;
        let reader = self.reader;
        let make = |(record, copies): (Record, u32)| {
            let row = record.row()?;
            let hash = |(sample, cut): (K, usize)| {
                let hash = if hashed { hash(&sample) } else { 0 };
                (sample, cut, hash)
            };
            let Read { samples, notes } = row.checked(K::read(reader, &row))?;
            Ok(Tokenized {
                at: row.at,
                samples: samples.into_iter().map(hash).collect(),
                notes,
                copies,
            })
        };
        let mut before = Vec::new();
        for chunk in chunks {
            // One thread looks after the rows of the chunk before meanwhile.
            let (made, done) = rayon::join(
                || chunk.records.into_par_iter().map(make).collect(),
                || self.rows(std::mem::take(&mut before)),
            );
            done?;
            before = made;
            if let Some(end) = chunk.end {
                self.rows(before)?;
                return end;
            }
        }
        Ok(())
    }

    fn rows(&mut self, rows: Vec<Result<Tokenized<K>, DataError>>) -> Result<(), DataError> {
        for row in rows {
            match row {
                Ok(row) => self.row(row)?,
                Err(error) if source::skips(self.made.config, &error) => {
                    self.account.skip(SkipReason::Malformed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn row(&mut self, row: Tokenized<K>) -> Result<(), DataError> {
        self.account.rows += 1;
        self.account.note(&row.at, row.notes);
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
        self.kept_of_row = 0;
        for (sample, cut, hash) in row.samples {
            self.sample(&row.at, sample, cut, hash, row.copies)?;
        }
        self.account.kept_rows += usize::from(self.kept_of_row > 0);
        Ok(())
    }

    fn sample(
        &mut self,
        at: &Place,
        mut sample: K,
        cut: usize,
        hash: u128,
        copies: u32,
    ) -> Result<(), DataError> {
        let whole = sample.size();
        let before = whole.tokens + cut;
        self.account.made.add(before);
        self.longest = self.longest.max(whole.longest);
        let dropped = sample.judge(self.task, self.reader, at)?;
        if let Some(reason) = dropped.or_else(|| self.seen(hash)) {
            if reason.is_untrained() && self.untrained.is_none() {
                let shown = |ids: &[u32]| ids[..ids.len().min(SHOWN_TOKENS)].to_vec();
                self.untrained = sample.shown().map(|ids| (at.clone(), shown(ids)));
            }
            self.account.drop(reason, before);
            return Ok(());
        }
        let Size {
            tokens, trained, ..
        } = sample.size();
        if tokens < before {
            self.account.truncated.add(before - tokens);
        }
        self.account.kept.add(tokens);
        self.account.trained_tokens += trained;
        self.made.order.push(Entry {
            tokens,
            trained,
            copies,
            same_row: self.kept_of_row > 0,
            hash: self.made.compared.then_some(hash as u64),
        })?;
        self.kept_of_row += 1;
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

    fn finish(self) -> Result<DatasetLedger, DataError> {
        let dropped = &self.account.dropped;
        // Nothing new in a further data set is what deduplication is for; an
        // evaluation without rows is not.
        let expected = !self.account.test && dropped.contains_key(&DropReason::Duplicate);
        if self.account.kept.samples == 0 && !expected {
            return Err(all_dropped::<K>(self.task, &self.account, self.longest));
        }
        let counts = dropped.iter().filter(|(reason, _)| reason.is_untrained());
        let untrained: usize = counts.clone().map(|(_, count)| count.samples).sum();
        let most = counts.max_by_key(|(_, count)| count.samples);
        match (self.untrained, most) {
            (Some((at, ids)), Some((reason, _))) if untrained > self.account.made.samples / 2 => {
                Err(DataError::MostlyUntrained {
                    path: self.task.dataset.path.clone(),
                    untrained,
                    samples: self.account.made.samples,
                    at,
                    text: self.task.tokenizer.decode(&ids, false)?.into(),
                    advice: advice::<K>(self.task, *reason, &self.account, self.longest).into(),
                })
            }
            _ => Ok(self.account),
        }
    }
}

/// The error of a data set of which nothing is left, whose longest sequence had
/// `longest` tokens.
pub(crate) fn all_dropped<K: Kind>(
    task: &Task<'_, K::Purpose>,
    account: &DatasetLedger,
    longest: usize,
) -> DataError {
    // Rows that gave several samples each are not what the counts are of.
    let unit = match account.made.samples == account.rows {
        true => "",
        false => "samples ",
    };
    let reasons = account.dropped.iter();
    let causes = account.dropped.keys();
    let advice = causes.map(|reason| advice::<K>(task, *reason, account, longest));
    DataError::AllDropped {
        path: task.dataset.path.clone(),
        rows: account.rows,
        reasons: reasons
            .map(|(reason, count)| format!("{} {unit}{reason}", count.samples))
            .collect(),
        advice: advice.collect::<Vec<_>>().join("; "),
    }
}

/// What to change where samples are dropped for a reason.
fn advice<K: Kind>(
    task: &Task<'_, K::Purpose>,
    reason: DropReason,
    account: &DatasetLedger,
    longest: usize,
) -> String {
    let (config, limit) = (task.config, task.limit);
    let key = match account.test && config.eval_sequence_len.is_some() {
        true => "eval_sequence_len",
        false => "sequence_len",
    };
    let truncates = config.excess_length_strategy == ExcessLength::Truncate;
    match reason {
        DropReason::TooLong if K::cuts(task) => format!(
            "the longest has {longest} tokens, and the cut at `{key}` (now {limit}) leaves no room for an answer: raise it"
        ),
        DropReason::TooLong => format!(
            "the longest has {longest} tokens: raise `{key}` (now {limit}), or set `excess_length_strategy: truncate`"
        ),
        DropReason::CutOff => format!(
            "the longest has {longest} tokens, and the cut at `{key}` (now {limit} tokens) takes away what would be trained: raise it{}",
            if truncates {
                ", or leave such rows out with `excess_length_strategy: drop`"
            } else {
                ""
            }
        ),
        DropReason::TooShort => format!(
            "rows may be as short as `min_sample_len` (now {}): lower it",
            config.min_sample_len
        ),
        DropReason::NothingToTrain | DropReason::Empty => K::advice(task, reason),
        DropReason::Duplicate | DropReason::InTraining => {
            "take other rows, or write `dataset_exact_deduplication: false`".to_owned()
        }
        DropReason::OtherShard => "lower `dataset_shard_num`".to_owned(),
    }
}
