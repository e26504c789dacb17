//! Batches of samples, as an epoch's plan has them.
//!
//! Samples are read when the batch is made that holds them, so that memory holds a batch
//! and, for each sample, its length and its place in the plan.

use std::borrow::Cow;
use std::sync::OnceLock;

use rayon::prelude::*;
use seqprep::{
    Batch, PadTo, Sample, SampleSource, StepPlan, add_pose_position_ids, calculate_total_num_steps,
    collate_flattened, collate_packed,
};
use trainer_config::Config;

use crate::batch_plan::{BatchOptions, EpochPlan, Planner};
use crate::error::{Result, TrainerError};
use crate::generation::Prompt;

/// Rows of which each epoch's batches are planned.
pub trait BatchSource {
    /// What a forward pass takes.
    type Batch;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of an epoch.
    ///
    /// # Errors
    /// When a sample does not fit into a row.
    fn plan(&self, epoch: u64) -> Result<EpochPlan>;

    /// One batch of a plan.
    ///
    /// # Errors
    /// When a sample cannot be read, or a row does not fit into the width it is
    /// padded to.
    fn collate(&self, rows: &[Vec<u32>]) -> Result<Self::Batch>;

    /// A digest of the samples, by which a checkpoint knows its data again. Wherever
    /// the samples are kept, it is the same.
    ///
    /// # Errors
    /// When a sample cannot be read.
    fn digest(&self) -> Result<String>;

    /// Tokens of all samples, where a batch counts its tokens by them.
    fn tokens(&self) -> Option<u64> {
        None
    }

    /// Optimizer steps of a run: exactly those that will be taken, since it
    /// counts the batches of every epoch that the run begins.
    ///
    /// # Errors
    /// When a sample does not fit into a row.
    fn total_steps(&self, config: &Config) -> Result<usize> {
        if let Some(steps) = config.max_steps {
            return Ok(steps);
        }
        let mut total = 0;
        let mut left = config.num_epochs;
        let mut epoch = 0;
        while left > 1e-9 {
            let plan = StepPlan {
                micro_batches_per_epoch: self.plan(epoch)?.num_batches() as u64,
                gradient_accumulation_steps: config.gradient_accumulation_steps as u64,
                num_epochs: left.min(1.0),
                max_steps: None,
            };
            total += calculate_total_num_steps(&plan)
                .map_err(TrainerError::data)?
                .total_steps;
            left -= 1.0;
            epoch += 1;
        }
        Ok(total as usize)
    }
}

/// Samples with the rules that make batches of them.
#[derive(Debug)]
pub struct Batches {
    samples: Box<dyn SampleSource>,
    planner: Planner,
    /// Once it has been asked for.
    digest: OnceLock<String>,
}

impl Batches {
    /// Takes samples and packs them if the packing does not depend on the order.
    /// Reads none of them, unless rows are dealt out by what they train.
    ///
    /// # Errors
    /// When there is no sample, or one does not fit into a row or cannot be read.
    pub fn new(samples: impl Into<Box<dyn SampleSource>>, options: BatchOptions) -> Result<Self> {
        let samples = samples.into();
        let lengths = (0..samples.len()).map(|index| samples.length(index).unwrap_or(0));
        let mut planner = Planner::new(lengths, options)?;
        if let Some((pose, _)) = &planner.options().pose {
            for (row, &len) in (0..).zip(planner.lengths()) {
                pose.room(len as usize, row).map_err(TrainerError::data)?;
            }
        }
        if planner.options().balance.is_some() {
            let count = |index| {
                let trained = samples.trained_tokens(index).map_err(TrainerError::data)?;
                Ok(u32::try_from(trained).unwrap_or(u32::MAX))
            };
            planner.balance_by((0..samples.len()).map(count).collect::<Result<_>>()?);
        }
        Ok(Self {
            samples,
            planner,
            digest: OnceLock::new(),
        })
    }

    /// Prompts of the first `count` samples that have one; see [`Prompt::of_sample`].
    pub(crate) fn prompts(&self, count: usize, ratio: f64) -> Result<Vec<Prompt>> {
        let mut prompts = Vec::new();
        for index in 0..self.samples.len() {
            if prompts.len() == count {
                break;
            }
            let sample = self.samples.sample(index).map_err(TrainerError::data)?;
            prompts.extend(Prompt::of_sample(&sample, ratio));
        }
        Ok(prompts)
    }

    /// Places for tokens in the batch of these rows, padding included.
    pub(crate) fn slots(&self, rows: &[Vec<u32>]) -> usize {
        let length = |&index: &u32| self.planner.lengths()[index as usize] as usize;
        let row = |row: &Vec<u32>| row.iter().map(length).sum::<usize>();
        let (count, longest) = match self.planner.options().flatten {
            true => (1, rows.iter().map(row).sum()),
            false => (rows.len(), rows.iter().map(row).max().unwrap_or(0)),
        };
        let width = match self.planner.options().collate.pad_to {
            PadTo::Longest => longest,
            PadTo::MultipleOf(multiple) => longest.next_multiple_of(multiple.max(1)),
            PadTo::Fixed(width) => width,
        };
        count * width
    }

    /// A sample as it is trained on.
    fn sample(&self, index: u32) -> Result<Cow<'_, Sample>> {
        let sample = self.samples.sample(index as usize);
        let mut sample = sample.map_err(TrainerError::data)?;
        if let Some((pose, seed)) = &self.planner.options().pose {
            add_pose_position_ids(sample.to_mut(), pose, *seed, u64::from(index))
                .map_err(TrainerError::data)?;
        }
        Ok(sample)
    }

    /// Checks that the model has every token id. Reads the samples only where
    /// their source does not know its largest id, or where that is too large.
    ///
    /// # Errors
    /// Names the first sample with an id that the model does not have, and the
    /// id; or a sample cannot be read.
    pub fn check_vocabulary(&self, vocab_size: usize, what: &str) -> Result<()> {
        let outside = |id: u32| id as usize >= vocab_size;
        if self.samples.largest_id().is_some_and(|id| !outside(id)) {
            return Ok(());
        }
        for index in 0..self.samples.len() {
            let sample = self.samples.sample(index);
            let sample = sample.map_err(TrainerError::data)?;
            check_ids(index, &[&sample.input_ids], vocab_size, what)?;
        }
        Ok(())
    }
}

/// Checks that the model has every token id of a sample.
///
/// # Errors
/// Names the sample and the id.
pub(crate) fn check_ids(
    index: usize,
    parts: &[&[u32]],
    vocab_size: usize,
    what: &str,
) -> Result<()> {
    let mut ids = parts.iter().copied().flatten();
    match ids.find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(TrainerError::Data(format!(
            "sample {index} of the {what} data has token id {id}, but the model's vocabulary has \
             {vocab_size} entries: tokenizer and model do not belong together"
        ))),
    }
}

impl BatchSource for Batches {
    type Batch = Batch;

    fn len(&self) -> usize {
        self.samples.len()
    }

    /// Of all tokens and labels. Reads every sample, on all cores, the first time it is
    /// asked for; a gigabyte of tokens takes about a second.
    fn digest(&self) -> Result<String> {
        if let Some(known) = self.digest.get() {
            return Ok(known.clone());
        }
        let hashes: Vec<[u8; 32]> = (0..self.samples.len())
            .into_par_iter()
            .map(|index| {
                let sample = self.samples.sample(index).map_err(TrainerError::data)?;
                Ok(hash_of(&sample))
            })
            .collect::<Result<_>>()?;
        let digest = blake3::hash(hashes.as_flattened()).to_hex().to_string();
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    fn tokens(&self) -> Option<u64> {
        Some(self.planner.lengths().iter().map(|&n| u64::from(n)).sum())
    }

    fn plan(&self, epoch: u64) -> Result<EpochPlan> {
        self.planner.plan(epoch)
    }

    /// Reads the samples of the batch.
    fn collate(&self, rows: &[Vec<u32>]) -> Result<Batch> {
        let rows = rows
            .iter()
            .map(|row| row.iter().map(|&index| self.sample(index)).collect())
            .collect::<Result<Vec<Vec<Cow<'_, Sample>>>>>()?;
        let rows: Vec<Vec<&Sample>> = rows
            .iter()
            .map(|row| row.iter().map(AsRef::as_ref).collect())
            .collect();
        let options = self.planner.options();
        if options.flatten {
            return collate_flattened(&rows.concat(), &options.collate).map_err(TrainerError::data);
        }
        collate_packed(&rows, &options.collate).map_err(TrainerError::data)
    }
}

fn hash_of(sample: &Sample) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: Vec<u8>| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    };
    add(sample
        .input_ids
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect());
    add(sample.labels.iter().flat_map(|x| x.to_le_bytes()).collect());
    let positions = sample.position_ids.iter().flatten();
    add(positions.flat_map(|x| x.to_le_bytes()).collect());
    hasher.finalize().into()
}

#[cfg(test)]
#[path = "batches_tests.rs"]
mod tests;
