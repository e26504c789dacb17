//! Batches of preferences: pairs of answers, answers with a verdict, judged steps.
//!
//! Order, packing and padding are those of other samples; a pair is never torn
//! apart. Each batch says where its documents lie and which samples they are, so
//! that values that belong to a sample, such as those of the reference model, can be
//! looked up.
//!
//! Invariant: the documents of a batch lie in its tokens one after the other, each
//! with its prompt in front, but for those of pairs that share a prompt: there the
//! rejected answer stands behind the chosen one, and a fork says so.

use std::collections::BTreeMap;
use std::ops::Range;

use seqprep::{
    Batch, CollateOptions, KtoSample, PadTo, Place, PreferencePair, Sample, StepSample,
    collate_forked_pairs, collate_judged, collate_packed_judged, collate_packed_pairs,
    collate_packed_steps, collate_pairs,
};
use serde::Serialize;
use trainer_model::{Fork, Targets};

use crate::batch_plan::{BatchOptions, EpochPlan, Planner};
use crate::batches::{BatchSource, check_ids};
use crate::error::{Result, TrainerError};
use crate::generation::Prompt;

/// A prompt and an answer in the tokens of a batch, by flat indices. The answer need
/// not stand right behind the prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Document {
    /// Tokens of the prompt.
    pub(crate) prompt: Range<usize>,
    /// Tokens of the answer.
    pub(crate) answer: Range<usize>,
}

impl Document {
    /// Lists the tokens of the answer as targets, and says which they are. The first
    /// token of a document is none: nothing predicts it.
    pub(crate) fn answer(&self, batch: &Batch, targets: &mut Targets) -> Range<usize> {
        let before = match self.prompt.is_empty() {
            true => None,
            false => Some(self.prompt.end - 1),
        };
        list(&self.answer, before, batch, targets)
    }

    /// Lists the tokens of the prompt as targets, but for the first.
    pub(crate) fn prompt(&self, batch: &Batch, targets: &mut Targets) -> Range<usize> {
        list(&self.prompt, None, batch, targets)
    }

    /// Flat index of the last token.
    pub(crate) fn last(&self) -> u32 {
        let last = match self.answer.is_empty() {
            true => &self.prompt,
            false => &self.answer,
        };
        last.end.saturating_sub(1) as u32
    }
}

/// Lists tokens that each the one before it predicts; the first of them is predicted
/// by the token `before`.
fn list(
    tokens: &Range<usize>,
    before: Option<usize>,
    batch: &Batch,
    targets: &mut Targets,
) -> Range<usize> {
    let first = targets.len();
    for index in tokens.clone() {
        let before = match index == tokens.start {
            true => before,
            false => Some(index - 1),
        };
        if let Some(before) = before {
            targets.positions.push(before as u32);
            targets.ids.push(batch.input_ids[index]);
        }
    }
    first..targets.len()
}

/// Where the documents of a batch lie, by row and segment.
struct Spans(BTreeMap<(u32, u32), Range<usize>>);

impl Spans {
    fn new(batch: &Batch) -> Self {
        let mut spans = BTreeMap::new();
        for (index, &segment) in batch.segment_ids.iter().enumerate() {
            if segment != 0 {
                let row = (index / batch.width.max(1)) as u32;
                let span = spans.entry((row, segment)).or_insert(index..index);
                span.end = index + 1;
            }
        }
        Self(spans)
    }

    /// The document at each place, with the length of its prompt.
    fn documents(
        &self,
        places: &[Place],
        prompts: impl Iterator<Item = usize>,
        forks: &[Fork],
    ) -> Vec<Document> {
        let shared = |answer: &Range<usize>| {
            // In the order of the batch.
            let found = forks.binary_search_by_key(&(answer.start as u32), |f| f.branch.start);
            let prompt = &forks[found.ok()?].shared;
            Some(prompt.start as usize..prompt.end as usize)
        };
        let documents = places.iter().zip(prompts).map(|(place, prompt)| {
            let span = self.0.get(&(place.row, place.segment));
            let span = span.cloned().unwrap_or_default();
            match shared(&span) {
                Some(prompt) => Document {
                    prompt,
                    answer: span,
                },
                None => Document {
                    prompt: span.start..span.start + prompt,
                    answer: span.start + prompt..span.end,
                },
            }
        });
        documents.collect()
    }
}

/// Hash of all samples, in order.
fn digest(samples: impl Iterator<Item = impl Serialize>) -> String {
    let mut hasher = blake3::Hasher::new();
    for sample in samples {
        let bytes = serde_json::to_vec(&sample).unwrap_or_default();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Pairs of answers, ready for the model.
#[derive(Debug, Serialize)]
pub(crate) struct PairBatch {
    /// The tokens of all answers, each with its prompt.
    pub(crate) tokens: Batch,
    /// Which pairs they are.
    pub(crate) items: Vec<u32>,
    /// The better answer of each pair.
    pub(crate) chosen: Vec<Document>,
    /// The worse answer of each pair.
    pub(crate) rejected: Vec<Document>,
    /// By how much the better answer of each pair is better, where the data says so.
    pub(crate) margins: Vec<f64>,
    /// Answers without a prompt of their own.
    #[serde(skip)]
    pub(crate) forks: Vec<Fork>,
}

impl PairBatch {
    /// Tokens of prompts that stand for two.
    pub(crate) fn shared_tokens(&self) -> usize {
        self.forks.iter().map(|fork| fork.shared.len()).sum()
    }
}

/// Pairs with the rules that make batches of them.
#[derive(Debug)]
pub(crate) struct PairBatches {
    pairs: Vec<PreferencePair>,
    /// Whether the answers of a pair share their prompt.
    forked: bool,
    planner: Planner,
    digest: String,
}

impl PairBatches {
    /// # Errors
    /// When there is no pair, one does not fit into a row, or a token id is not below
    /// `vocab_size`.
    pub(crate) fn new(
        pairs: Vec<PreferencePair>,
        mut options: BatchOptions,
        forked: bool,
        vocab_size: usize,
        what: &str,
    ) -> Result<Self> {
        for (index, pair) in pairs.iter().enumerate() {
            let parts: [&[u32]; 3] = [&pair.prompt, &pair.chosen, &pair.rejected];
            check_ids(index, &parts, vocab_size, what)?;
        }
        if let Some(packing) = &mut options.packing {
            // A row has room for the longest pair.
            packing.capacity = packing.capacity.saturating_mul(2);
        }
        if let (PadTo::Fixed(width), true) = (
            &mut options.collate.pad_to,
            forked || options.packing.is_some(),
        ) {
            *width *= 2;
        }
        let tokens = match forked {
            true => PreferencePair::forked_tokens,
            false => PreferencePair::tokens,
        };
        let planner = Planner::new(pairs.iter().map(tokens), options)?;
        // The layouts agree, but not to the bit.
        let layout = if forked { "-forked" } else { "" };
        Ok(Self {
            digest: digest(pairs.iter()) + layout,
            pairs,
            forked,
            planner,
        })
    }
}

impl PairBatches {
    /// Prompts of the first `count` pairs, with the better answers.
    pub(crate) fn prompts(&self, count: usize) -> Vec<Prompt> {
        let pairs = self.pairs.iter().filter(|pair| !pair.prompt.is_empty());
        pairs
            .take(count)
            .map(|pair| Prompt {
                prompt: pair.prompt.clone(),
                expected: pair.chosen.clone(),
            })
            .collect()
    }
}

impl BatchSource for PairBatches {
    type Batch = PairBatch;

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn digest(&self) -> Result<String> {
        Ok(self.digest.clone())
    }

    fn plan(&self, epoch: u64) -> Result<EpochPlan> {
        self.planner.plan(epoch)
    }

    fn collate(&self, rows: &[Vec<u32>]) -> Result<PairBatch> {
        let options = self.planner.options();
        let pair = |item: &u32| &self.pairs[*item as usize];
        let (flatten, packed) = (options.flatten, options.packing.is_some());
        let items = rows.concat();
        let collated = if self.forked {
            let each: Vec<Vec<&PreferencePair>> = match (flatten, packed) {
                (true, _) => vec![items.iter().map(pair).collect()],
                (false, true) => rows.iter().map(|r| r.iter().map(pair).collect()).collect(),
                (false, false) => items.iter().map(|item| vec![pair(item)]).collect(),
            };
            collate_forked_pairs(&each, &options.collate)
        } else {
            let each: Vec<Vec<(Sample, Sample)>> = rows
                .iter()
                .map(|row| row.iter().map(|item| pair(item).documents()).collect())
                .collect();
            match (flatten, packed) {
                (true, _) => collate_packed_pairs(&[each.concat()], &options.collate),
                (false, true) => collate_packed_pairs(&each, &options.collate),
                (false, false) => collate_pairs(&each.concat(), &options.collate),
            }
        };
        let collated = collated.map_err(TrainerError::data)?;
        let forks = collated.forks.into_iter().map(|fork| Fork {
            shared: fork.prompt,
            branch: fork.answer,
        });
        let forks: Vec<Fork> = forks.collect();
        let spans = Spans::new(&collated.batch);
        let prompts = || items.iter().map(|item| pair(item).prompt.len());
        Ok(PairBatch {
            chosen: spans.documents(&collated.chosen, prompts(), &forks),
            rejected: spans.documents(&collated.rejected, prompts(), &forks),
            margins: items
                .iter()
                .map(|item| pair(item).margin.map_or(0.0, f64::from))
                .collect(),
            tokens: collated.batch,
            forks,
            items,
        })
    }
}

/// Single answers, ready for the model.
#[derive(Debug, Serialize)]
pub(crate) struct JudgedBatch {
    /// The tokens of the answers, each with its prompt.
    pub(crate) tokens: Batch,
    /// Which samples they are.
    pub(crate) items: Vec<u32>,
    /// Each answer.
    pub(crate) answers: Vec<Document>,
    /// Whether each answer is a good one.
    pub(crate) desirable: Vec<bool>,
    /// The tokens of each prompt with the answer to another one.
    pub(crate) mismatched_tokens: Batch,
    /// Those answers, in the same order.
    pub(crate) mismatched: Vec<Document>,
}

/// Single answers with the rules that make batches of them.
#[derive(Debug)]
pub(crate) struct JudgedBatches {
    samples: Vec<KtoSample>,
    /// Whose answer follows the prompt of each sample where they are mismatched.
    partners: Vec<u32>,
    longest: usize,
    planner: Planner,
    digest: String,
}

impl JudgedBatches {
    /// The answers of each `group` of samples move on by one to make mismatched
    /// pairs; a group of one takes the answer of the sample before it.
    ///
    /// # Errors
    /// When there are fewer than two samples, one does not fit into a row, or a token
    /// id is not below `vocab_size`.
    pub(crate) fn new(
        samples: Vec<KtoSample>,
        options: BatchOptions,
        group: usize,
        longest: usize,
        vocab_size: usize,
        what: &str,
    ) -> Result<Self> {
        for (index, sample) in samples.iter().enumerate() {
            let parts: [&[u32]; 2] = [&sample.prompt, &sample.completion];
            check_ids(index, &parts, vocab_size, what)?;
        }
        if let [_] = *samples {
            return Err(TrainerError::Data(format!(
                "the {what} data has one row, but KTO compares answers with answers to other \
                 prompts: it needs two rows or more"
            )));
        }
        let planner = Planner::new(samples.iter().map(KtoSample::len), options)?;
        let n = samples.len();
        let partners = (0..n).map(|index| {
            let first = index - index % group.max(1);
            let size = group.min(n - first);
            match size {
                0 | 1 => (index + n - 1) % n,
                _ => first + (index - first + size - 1) % size,
            }
        });
        let mut batches = Self {
            partners: partners.map(|partner| partner as u32).collect(),
            samples,
            longest,
            planner,
            digest: String::new(),
        };
        let mismatched = (0..n).map(|item| batches.mismatched(item as u32));
        batches.digest = digest(batches.samples.iter().zip(mismatched));
        Ok(batches)
    }

    /// The prompt of a sample with the answer of its partner, cut to the longest row.
    fn mismatched(&self, item: u32) -> KtoSample {
        let own = &self.samples[item as usize];
        let partner = &self.samples[self.partners[item as usize] as usize];
        let room = self.longest.saturating_sub(own.prompt.len()).max(1);
        let end = partner.completion.len().min(room);
        KtoSample {
            prompt: own.prompt.clone(),
            completion: partner.completion[..end].to_vec(),
            desirable: own.desirable,
        }
    }

    fn arrange(&self, rows: &[Vec<KtoSample>], pad_to: PadTo) -> Result<(Batch, Vec<Document>)> {
        let options = self.planner.options();
        let collate = CollateOptions {
            pad_to,
            ..options.collate
        };
        let sequences: Vec<Vec<(Sample, bool)>> = rows
            .iter()
            .map(|row| row.iter().map(|s| (s.document(), s.desirable)).collect())
            .collect();
        let collated = match (options.flatten, options.packing.is_some()) {
            (true, _) => collate_packed_judged(&[sequences.concat()], &collate),
            (false, true) => collate_packed_judged(&sequences, &collate),
            (false, false) => collate_judged(&sequences.concat(), &collate),
        };
        let collated = collated.map_err(TrainerError::data)?;
        let prompts = rows.iter().flatten().map(|sample| sample.prompt.len());
        let documents = Spans::new(&collated.batch).documents(&collated.documents, prompts, &[]);
        Ok((collated.batch, documents))
    }
}

impl JudgedBatches {
    /// Prompts of the first `count` good answers, with these.
    pub(crate) fn prompts(&self, count: usize) -> Vec<Prompt> {
        let good = self.samples.iter().filter(|sample| sample.desirable);
        good.filter(|sample| !sample.prompt.is_empty())
            .take(count)
            .map(|sample| Prompt {
                prompt: sample.prompt.clone(),
                expected: sample.completion.clone(),
            })
            .collect()
    }
}

impl BatchSource for JudgedBatches {
    type Batch = JudgedBatch;

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn digest(&self) -> Result<String> {
        Ok(self.digest.clone())
    }

    fn plan(&self, epoch: u64) -> Result<EpochPlan> {
        self.planner.plan(epoch)
    }

    fn collate(&self, rows: &[Vec<u32>]) -> Result<JudgedBatch> {
        let each = |make: &dyn Fn(u32) -> KtoSample| -> Vec<Vec<KtoSample>> {
            let row = |row: &Vec<u32>| row.iter().map(|&item| make(item)).collect();
            rows.iter().map(row).collect()
        };
        let matched = each(&|item| self.samples[item as usize].clone());
        let (tokens, answers) = self.arrange(&matched, self.planner.options().collate.pad_to)?;
        // Other answers may fill a packed row further than its own.
        let mismatched = each(&|item| self.mismatched(item));
        let (mismatched_tokens, mismatched) = self.arrange(&mismatched, PadTo::Longest)?;
        Ok(JudgedBatch {
            tokens,
            answers,
            desirable: matched.iter().flatten().map(|s| s.desirable).collect(),
            mismatched_tokens,
            mismatched,
            items: rows.concat(),
        })
    }
}

/// Judged steps with the rules that make batches of them. The labels of a batch are
/// verdicts on the tokens they stand at.
#[derive(Debug)]
pub(crate) struct StepBatches {
    samples: Vec<StepSample>,
    planner: Planner,
    digest: String,
}

impl StepBatches {
    /// # Errors
    /// When there is no sample, one does not fit into a row, or a token id is not below
    /// `vocab_size`.
    pub(crate) fn new(
        samples: Vec<StepSample>,
        options: BatchOptions,
        vocab_size: usize,
        what: &str,
    ) -> Result<Self> {
        for (index, sample) in samples.iter().enumerate() {
            check_ids(index, &[&sample.input_ids], vocab_size, what)?;
        }
        let planner = Planner::new(samples.iter().map(StepSample::len), options)?;
        Ok(Self {
            digest: digest(samples.iter()),
            samples,
            planner,
        })
    }
}

impl BatchSource for StepBatches {
    type Batch = Batch;

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn digest(&self) -> Result<String> {
        Ok(self.digest.clone())
    }

    fn plan(&self, epoch: u64) -> Result<EpochPlan> {
        self.planner.plan(epoch)
    }

    fn collate(&self, rows: &[Vec<u32>]) -> Result<Batch> {
        let options = self.planner.options();
        let each = |row: &Vec<u32>| -> Vec<&StepSample> {
            let samples = row.iter().map(|&item| &self.samples[item as usize]);
            samples.collect()
        };
        let rows: Vec<Vec<&StepSample>> = match options.flatten {
            true => vec![rows.iter().flat_map(each).collect()],
            false => rows.iter().map(each).collect(),
        };
        collate_packed_steps(&rows, &options.collate).map_err(TrainerError::data)
    }
}
