//! From samples to batches: the order of an epoch, packing, collation.
//!
//! The plan of an epoch is a list of rows, each a list of sample indices; it
//! depends on the seed and the epoch alone. This is the one place that decides
//! which rows a batch holds: with several ranks, each would take its share of
//! the micro-batches here.

use seqprep::{
    Batch, CollateOptions, FirstFitOptions, Packing, PadTo, PaddingSide, PoseOptions, Sample,
    SeedStream, StepPlan, add_pose_position_ids_batch, best_fit_decreasing_limited,
    calculate_total_num_steps, collate_flattened, collate_packed, first_fit, group_by_length,
    num_micro_batches, permutation, sequential, sequential_order,
};
use trainer_config::{AutoBool, Config, PackingStrategy};

use crate::error::{Result, TrainerError};

/// How samples become batches.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Rows in a batch.
    pub rows: usize,
    /// Order of the samples.
    pub order: Order,
    /// Put several samples into one row, or one.
    pub packing: Option<PackingOptions>,
    /// Join the rows of a batch into one, without padding between them.
    pub flatten: bool,
    /// Spread the positions of the samples, drawn from this seed.
    pub pose: Option<(PoseOptions, u64)>,
    /// Padding.
    pub collate: CollateOptions,
}

/// Order of the samples in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As given.
    Sequential,
    /// A new permutation for each epoch.
    Shuffled {
        /// Seed of the run.
        seed: u64,
    },
    /// A new permutation for each epoch, in which samples of similar length are
    /// neighbours.
    ByLength {
        /// Seed of the run.
        seed: u64,
    },
}

/// How samples are put into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackingOptions {
    /// The algorithm.
    pub strategy: PackingStrategy,
    /// Tokens in a row.
    pub capacity: u32,
    /// Limits: documents in a row, and documents packed at a time by first-fit.
    pub limits: FirstFitOptions,
}

impl BatchOptions {
    /// Options of the training data.
    #[must_use]
    pub fn training(config: &Config, pad_token_id: u32) -> Self {
        let seed = config.seed;
        let packing = config.sample_packing;
        let order = if config.curriculum_sampling {
            Order::Sequential
        } else if config.group_by_length && !packing {
            Order::ByLength { seed }
        } else {
            Order::Shuffled { seed }
        };
        let options = Self::new(
            config,
            config.micro_batch_size,
            order,
            packing,
            config.sequence_len,
            pad_token_id,
        );
        // A loaded configuration has a maximum and chunks where it asks for this.
        let pose = PoseOptions::new(config.pose_max_context_len)
            .and_then(|pose| pose.with_chunks(config.pose_num_chunks))
            .map(|pose| pose.with_split_on_token_ids(config.pose_split_on_token_ids.clone()));
        Self {
            pose: pose
                .ok()
                .filter(|_| config.use_pose)
                .map(|pose| (pose, seed)),
            ..options
        }
    }

    /// Options of the evaluation data.
    #[must_use]
    pub fn evaluation(config: &Config, pad_token_id: u32) -> Self {
        let rows = config.eval_batch_size.unwrap_or(config.micro_batch_size);
        let packing = config.eval_sample_packing.unwrap_or(config.sample_packing);
        let len = config.eval_sequence_len.unwrap_or(config.sequence_len);
        Self::new(config, rows, Order::Sequential, packing, len, pad_token_id)
    }

    fn new(
        config: &Config,
        rows: usize,
        order: Order,
        packing: bool,
        sequence_len: usize,
        pad_token_id: u32,
    ) -> Self {
        let strategy = if config.sample_packing_sequentially {
            PackingStrategy::Sequential
        } else {
            config.packing_strategy
        };
        let packing = packing.then_some(PackingOptions {
            strategy,
            capacity: u32::try_from(sequence_len).unwrap_or(u32::MAX),
            limits: FirstFitOptions {
                group_size: config.sample_packing_group_size,
                bin_size: config.sample_packing_bin_size,
            },
        });
        let pad_to = match (config.pad_to_sequence_len, config.pad_to_multiple_of) {
            (Some(true), _) => PadTo::Fixed(sequence_len),
            (_, Some(multiple)) => PadTo::MultipleOf(multiple),
            _ => PadTo::Longest,
        };
        let collate = CollateOptions {
            pad_token_id,
            padding_side: PaddingSide::Right,
            pad_to,
        };
        Self {
            rows,
            order,
            flatten: packing.is_none() && config.batch_flattening != AutoBool::Bool(false),
            packing,
            pose: None,
            collate,
        }
    }
}

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
    /// When a row does not fit into the width it is padded to.
    fn collate(&self, rows: &[Vec<u32>]) -> Result<Self::Batch>;

    /// A digest of the samples, by which a checkpoint knows its data again.
    fn digest(&self) -> String;

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
            total += calculate_total_num_steps(&plan).map_err(data)?.total_steps;
            left -= 1.0;
            epoch += 1;
        }
        Ok(total as usize)
    }
}

/// Samples with the rules that make batches of them.
#[derive(Debug)]
pub struct Batches {
    samples: Vec<Sample>,
    options: BatchOptions,
    lengths: Vec<u32>,
    /// Bins that do not depend on the order: packed once.
    packed: Option<Packing>,
}

/// The rows of one epoch.
#[derive(Debug, Clone)]
pub struct EpochPlan {
    rows: Vec<Vec<u32>>,
    rows_per_batch: usize,
}

impl EpochPlan {
    /// Batches in the epoch; the last may have fewer rows.
    #[must_use]
    pub fn num_batches(&self) -> usize {
        num_micro_batches(self.rows.len() as u64, self.rows_per_batch as u64, false) as usize
    }

    /// The rows of each batch: lists of sample indices.
    pub fn batches(&self) -> impl Iterator<Item = &[Vec<u32>]> {
        self.rows.chunks(self.rows_per_batch.max(1))
    }
}

impl Batches {
    /// Takes samples and packs them if the packing does not depend on the order.
    ///
    /// # Errors
    /// When there is no sample or one does not fit into a row.
    pub fn new(mut samples: Vec<Sample>, options: BatchOptions) -> Result<Self> {
        if samples.is_empty() {
            return Err(TrainerError::Data(
                "there are no samples to make batches of".into(),
            ));
        }
        let too_many = |_| TrainerError::Data("more samples or tokens than 2^32".into());
        u32::try_from(samples.len()).map_err(too_many)?;
        let lengths = samples
            .iter()
            .map(|sample| u32::try_from(sample.input_ids.len()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(too_many)?;
        if let Some((pose, seed)) = &options.pose {
            add_pose_position_ids_batch(&mut samples, pose, *seed, 0).map_err(data)?;
        }
        let packed = match options.packing {
            Some(packing) if packing.strategy == PackingStrategy::BestFitDecreasing => {
                let documents = packing.limits.bin_size;
                let packed = best_fit_decreasing_limited(&lengths, packing.capacity, documents);
                Some(packed.map_err(data)?)
            }
            _ => None,
        };
        Ok(Self {
            samples,
            options,
            lengths,
            packed,
        })
    }

    /// The first sample with a token id that the model does not have.
    ///
    /// # Errors
    /// Names the sample and the id.
    pub fn check_vocabulary(&self, vocab_size: usize, what: &str) -> Result<()> {
        for (index, sample) in self.samples.iter().enumerate() {
            if let Some(&id) = sample
                .input_ids
                .iter()
                .find(|&&id| id as usize >= vocab_size)
            {
                return Err(TrainerError::Data(format!(
                    "sample {index} of the {what} data has token id {id}, but the model's \
                     vocabulary has {vocab_size} entries: tokenizer and model do not belong together"
                )));
            }
        }
        Ok(())
    }
}

impl BatchSource for Batches {
    type Batch = Batch;

    fn len(&self) -> usize {
        self.samples.len()
    }

    /// Of the lengths: telling all tokens apart would take reading them all.
    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for length in &self.lengths {
            hasher.update(&length.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn plan(&self, epoch: u64) -> Result<EpochPlan> {
        let n = self.samples.len() as u32;
        let order = match self.options.order {
            Order::Sequential => sequential_order(n),
            Order::Shuffled { seed } => {
                permutation(n, SeedStream::new(seed).derive("epoch", epoch))
            }
            Order::ByLength { seed } => {
                let seed = SeedStream::new(seed).derive("epoch", epoch);
                group_by_length(&self.lengths, self.options.rows, seed)
            }
        };
        let rows = match (&self.packed, self.options.packing) {
            (Some(packing), _) => {
                let packing = match self.options.order {
                    Order::Sequential => packing.clone(),
                    Order::Shuffled { seed } | Order::ByLength { seed } => {
                        packing.shuffle_bins(SeedStream::new(seed).derive("bins", epoch))
                    }
                };
                packing.bins().map(<[u32]>::to_vec).collect()
            }
            (None, Some(packing)) => {
                let lengths: Vec<u32> = order.iter().map(|&i| self.lengths[i as usize]).collect();
                let packed = match packing.strategy {
                    PackingStrategy::Sequential => sequential(&lengths, packing.capacity),
                    _ => first_fit(&lengths, packing.capacity, packing.limits),
                };
                let packed = packed.map_err(data)?.map_items(&order);
                packed.bins().map(<[u32]>::to_vec).collect()
            }
            (None, None) => order.into_iter().map(|index| vec![index]).collect(),
        };
        Ok(EpochPlan {
            rows,
            rows_per_batch: self.options.rows,
        })
    }

    fn collate(&self, rows: &[Vec<u32>]) -> Result<Batch> {
        let rows: Vec<Vec<&Sample>> = rows
            .iter()
            .map(|row| {
                row.iter()
                    .map(|&index| &self.samples[index as usize])
                    .collect()
            })
            .collect();
        if self.options.flatten {
            return collate_flattened(&rows.concat(), &self.options.collate).map_err(data);
        }
        collate_packed(&rows, &self.options.collate).map_err(data)
    }
}

fn data(error: impl std::error::Error) -> TrainerError {
    TrainerError::Data(error.to_string())
}

#[cfg(test)]
#[path = "batches_tests.rs"]
mod tests;
