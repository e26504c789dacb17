//! Rows to samples: tokenize on all threads, apply the length rule, leave out what
//! teaches nothing or was there before; then order and split as for supervised
//! fine-tuning.

use std::collections::HashSet;

use rayon::prelude::*;
use seqprep::{
    KtoSample, LengthOutcome, PreferencePair, SeedStream, StepSample, drop_long_kto,
    drop_long_pair, truncate_kto, truncate_pair, truncate_steps,
};
use serde::Serialize;
use serde_json::Value;
use trainer_config::{Config, Dataset, ExcessLength};

use super::PreferenceObjective;
use super::encode::Encoder;
use super::layouts::Layout;
use super::steps::Steps;
use crate::ledger::{DatasetLedger, DropReason, Ledger, SkipReason};
use crate::order::Order;
use crate::source::{self, Record, Row};
use crate::{DataError, Tokenizer};

/// Rows tokenized at a time.
const CHUNK: usize = 2048;

/// A sample as the pipeline sees it.
pub(super) trait Kind: Sized + Clone + Default + Send + Sync + Serialize {
    /// What reads the rows of a data set.
    type Reader<'a>: Sync;

    fn reader<'a>(
        config: &'a Config,
        dataset: &'a Dataset,
        first: &Row,
        tokenizer: &'a Tokenizer,
        objective: PreferenceObjective,
    ) -> Result<Self::Reader<'a>, DataError>;

    /// The sample of a row, and how many of its tokens are cut already.
    fn read(reader: &Self::Reader<'_>, row: &Row) -> Result<(Self, usize), DataError>;

    /// Name of the layout.
    fn layout(reader: &Self::Reader<'_>) -> &'static str;

    /// Tokens of everything in it, of its longest sequence, and those that are
    /// trained or judged.
    fn tokens(&self) -> (usize, usize, usize);

    /// Keeps it, cuts it if `cut`, or says why not.
    fn fit(
        &mut self,
        reader: &Self::Reader<'_>,
        limits: (usize, usize),
        cut: bool,
    ) -> LengthOutcome;

    /// Whether a cut left something to learn.
    fn teaches(&self) -> bool;
}

impl Kind for PreferencePair {
    type Reader<'a> = (Layout<'a>, Encoder<'a>, PreferenceObjective);

    fn reader<'a>(
        config: &'a Config,
        dataset: &'a Dataset,
        first: &Row,
        tokenizer: &'a Tokenizer,
        objective: PreferenceObjective,
    ) -> Result<Self::Reader<'a>, DataError> {
        Ok((
            Layout::new(config, dataset, first, tokenizer, objective)?,
            Encoder::new(config, tokenizer, objective)?,
            objective,
        ))
    }

    fn read(
        (layout, encoder, _): &Self::Reader<'_>,
        row: &Row,
    ) -> Result<(Self, usize), DataError> {
        let texts = layout.texts(row)?;
        if texts.prompt.is_empty() || texts.answers.iter().any(String::is_empty) {
            return Ok((Self::default(), 0));
        }
        let mut pair = encoder.pair(&texts).map_err(|error| error.at(&row.at))?;
        pair.margin = match row.columns.get("margin") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let margin = value.as_f64().filter(|margin| margin.is_finite());
                let margin = margin.ok_or_else(|| row.wrong_type("margin", "a number", value))?;
                Some(margin as f32)
            }
        };
        Ok((pair, 0))
    }

    fn layout((layout, ..): &Self::Reader<'_>) -> &'static str {
        layout.name
    }

    fn tokens(&self) -> (usize, usize, usize) {
        let answers = self.chosen.len() + self.rejected.len();
        (PreferencePair::tokens(self), self.len(), answers)
    }

    fn fit(
        &mut self,
        (_, encoder, objective): &Self::Reader<'_>,
        (limit, shortest): (usize, usize),
        cut: bool,
    ) -> LengthOutcome {
        let outcome = drop_long_pair(self, limit, shortest);
        if !cut || outcome != LengthOutcome::TooLong {
            return outcome;
        }
        if *objective == PreferenceObjective::RewardModel {
            // A plain cut: the reward is read wherever the text ends.
            return truncate_pair(self, limit, shortest, (0, 0));
        }
        let ends = (encoder.ends(&self.chosen), encoder.ends(&self.rejected));
        truncate_pair(self, limit, shortest, ends)
    }

    fn teaches(&self) -> bool {
        self.chosen != self.rejected
    }
}

impl Kind for KtoSample {
    type Reader<'a> = (Layout<'a>, Encoder<'a>);

    fn reader<'a>(
        config: &'a Config,
        dataset: &'a Dataset,
        first: &Row,
        tokenizer: &'a Tokenizer,
        objective: PreferenceObjective,
    ) -> Result<Self::Reader<'a>, DataError> {
        Ok((
            Layout::new(config, dataset, first, tokenizer, objective)?,
            Encoder::new(config, tokenizer, objective)?,
        ))
    }

    fn read((layout, encoder): &Self::Reader<'_>, row: &Row) -> Result<(Self, usize), DataError> {
        let texts = layout.texts(row)?;
        let desirable = layout.verdict(row)?;
        if texts.prompt.is_empty() || texts.answers[0].is_empty() {
            return Ok((Self::default(), 0));
        }
        let sample = encoder.kto(&texts, desirable);
        Ok((sample.map_err(|error| error.at(&row.at))?, 0))
    }

    fn layout((layout, _): &Self::Reader<'_>) -> &'static str {
        layout.name
    }

    fn tokens(&self) -> (usize, usize, usize) {
        (self.len(), self.len(), self.completion.len())
    }

    fn fit(
        &mut self,
        (_, encoder): &Self::Reader<'_>,
        (limit, shortest): (usize, usize),
        cut: bool,
    ) -> LengthOutcome {
        if cut {
            let end = encoder.ends(&self.completion);
            truncate_kto(self, limit, shortest, end)
        } else {
            drop_long_kto(self, limit, shortest)
        }
    }

    fn teaches(&self) -> bool {
        true
    }
}

impl Kind for StepSample {
    type Reader<'a> = Steps<'a>;

    fn reader<'a>(
        _: &'a Config,
        dataset: &'a Dataset,
        _: &Row,
        tokenizer: &'a Tokenizer,
        _: PreferenceObjective,
    ) -> Result<Self::Reader<'a>, DataError> {
        Steps::new(dataset, tokenizer)
    }

    fn read(reader: &Self::Reader<'_>, row: &Row) -> Result<(Self, usize), DataError> {
        reader.sample(row)
    }

    fn layout(_: &Self::Reader<'_>) -> &'static str {
        "stepwise_supervised"
    }

    fn tokens(&self) -> (usize, usize, usize) {
        (self.len(), self.len(), self.judged())
    }

    fn fit(
        &mut self,
        _: &Self::Reader<'_>,
        (limit, shortest): (usize, usize),
        cut: bool,
    ) -> LengthOutcome {
        if cut || self.len() <= limit {
            truncate_steps(self, limit, shortest)
        } else {
            LengthOutcome::TooLong
        }
    }

    fn teaches(&self) -> bool {
        self.judged() > 0
    }
}

/// Training samples, evaluation samples, and their account.
pub(super) fn run<K: Kind>(
    config: &Config,
    tokenizer: &Tokenizer,
    objective: PreferenceObjective,
) -> Result<(Vec<K>, Vec<K>, Ledger), DataError> {
    let mut made = Made::<K> {
        config,
        objective,
        samples: Vec::new(),
        order: Order::default(),
        seen: [HashSet::new(), HashSet::new()],
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
    let plan = made.order.plan(config, made.datasets)?;
    let mut samples = made.samples;
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

struct Made<'a, K> {
    config: &'a Config,
    objective: PreferenceObjective,
    samples: Vec<K>,
    order: Order,
    /// Hashes of the training and of the evaluation samples.
    seen: [HashSet<[u8; 32]>; 2],
    datasets: Vec<DatasetLedger>,
}

impl<K: Kind> Made<'_, K> {
    fn dataset(
        &mut self,
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        limit: usize,
        test: bool,
    ) -> Result<(), DataError> {
        let mut selected = source::select(dataset, SeedStream::new(self.config.seed))?;
        let (first, copies) = selected.first(self.config, dataset)?;
        let source::Selected { records, skipped } = selected;
        let reader = K::reader(self.config, dataset, &first, tokenizer, self.objective)?;
        let mut account = DatasetLedger {
            path: dataset.path.clone(),
            strategy: K::layout(&reader).to_owned(),
            test,
            skipped,
            ..DatasetLedger::default()
        };
        let mut records = std::iter::once(Ok((Record::Ready(first), copies))).chain(records);
        let mut longest = 0;
        loop {
            let chunk: Vec<_> = records.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            let read = |record: Result<(Record, u32), DataError>| {
                let (record, copies) = record?;
                let row = record.row()?;
                let (sample, cut) = K::read(&reader, &row)?;
                Ok((row, sample, cut, copies))
            };
            let made: Vec<Result<_, DataError>> = chunk.into_par_iter().map(read).collect();
            for made in made {
                let (row, sample, cut, copies) = match made {
                    Ok(made) => made,
                    Err(error) if source::skips(self.config, &error) => {
                        account.skip(SkipReason::Malformed);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                account.rows += 1;
                longest = longest.max(sample.tokens().1);
                self.sample(&mut account, &reader, &row, (sample, cut), limit, copies)?;
            }
        }
        self.finish(dataset, account, longest, limit)
    }

    fn sample(
        &mut self,
        account: &mut DatasetLedger,
        reader: &K::Reader<'_>,
        row: &Row,
        (mut sample, cut): (K, usize),
        limit: usize,
        copies: u32,
    ) -> Result<(), DataError> {
        let before = sample.tokens().0 + cut;
        account.made.add(before);
        let reward = matches!(
            self.objective,
            PreferenceObjective::RewardModel | PreferenceObjective::ProcessRewardModel
        );
        let strategy = self.config.excess_length_strategy;
        let cuts = strategy == ExcessLength::Truncate || (reward && strategy == ExcessLength::Drop);
        let length = sample.tokens().1;
        let limits = (limit, self.config.min_sample_len);
        let reason = match sample.fit(reader, limits, cuts) {
            LengthOutcome::Kept => None,
            LengthOutcome::Truncated { .. } if sample.teaches() => None,
            LengthOutcome::Truncated { .. } => Some(DropReason::NothingToTrain),
            LengthOutcome::Empty => Some(DropReason::Empty),
            LengthOutcome::TooShort => Some(DropReason::TooShort),
            LengthOutcome::TooLong if strategy == ExcessLength::Raise => {
                return Err(DataError::TooLong {
                    at: row.at.clone(),
                    length,
                    limit,
                });
            }
            LengthOutcome::TooLong => Some(DropReason::TooLong),
        };
        let (tokens, _, trained) = sample.tokens();
        let reason = reason
            .or_else(|| (trained == 0).then_some(DropReason::NothingToTrain))
            .or_else(|| self.duplicate(&sample, account.test));
        if let Some(reason) = reason {
            account.drop(reason, before);
            return Ok(());
        }
        if tokens < before {
            account.truncated.add(before - tokens);
        }
        account.kept.add(tokens);
        account.trained_tokens += trained;
        self.order.push(tokens, trained, copies)?;
        self.samples.push(sample);
        Ok(())
    }

    /// Whether a sample was there before; it is remembered.
    fn duplicate(&mut self, sample: &K, test: bool) -> Option<DropReason> {
        if !self.config.dataset_exact_deduplication {
            return None;
        }
        let bytes = serde_json::to_vec(sample).unwrap_or_default();
        let hash = *blake3::hash(&bytes).as_bytes();
        let [train, eval] = &mut self.seen;
        if test && train.contains(&hash) {
            return Some(DropReason::InTraining);
        }
        let seen = if test { eval } else { train };
        (!seen.insert(hash)).then_some(DropReason::Duplicate)
    }

    fn finish(
        &mut self,
        dataset: &Dataset,
        account: DatasetLedger,
        longest: usize,
        limit: usize,
    ) -> Result<(), DataError> {
        let expected = !account.test && account.dropped.contains_key(&DropReason::Duplicate);
        if account.kept.samples == 0 && !expected {
            let advice = account.dropped.keys().map(|reason| match reason {
                DropReason::TooLong => format!(
                    "the longest has {longest} tokens: raise `sequence_len` (now {limit}), or set `excess_length_strategy: truncate`"
                ),
                DropReason::TooShort => format!(
                    "rows may be as short as `min_sample_len` (now {}): lower it",
                    self.config.min_sample_len
                ),
                DropReason::NothingToTrain => format!(
                    "what `sequence_len` (now {limit}) leaves of them teaches nothing: raise it"
                ),
                DropReason::Empty => "prompts and answers have to hold text".to_owned(),
                DropReason::Duplicate | DropReason::InTraining | DropReason::OtherShard => {
                    "take other rows, or write `dataset_exact_deduplication: false`".to_owned()
                }
            });
            return Err(DataError::AllDropped {
                path: dataset.path.clone(),
                rows: account.rows,
                reasons: account
                    .dropped
                    .iter()
                    .map(|(reason, count)| format!("{} {reason}", count.samples))
                    .collect(),
                advice: advice.collect::<Vec<_>>().join("; "),
            });
        }
        self.datasets.push(account);
        self.order.end_of_dataset();
        Ok(())
    }
}
