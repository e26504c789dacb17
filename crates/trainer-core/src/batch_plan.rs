//! Which samples share a row, and which rows a batch: by the keys that ask for it, the
//! lengths of the samples, the seed and the epoch alone.
//!
//! The plan of an epoch is a list of rows, each a list of sample indices. This is the one
//! place that decides which rows a batch holds: with several ranks, each would take its
//! share of the micro-batches here.

use seqprep::{
    CollateOptions, FirstFitOptions, Packing, PadTo, PaddingSide, PoseOptions, SeedStream, balance,
    best_fit_decreasing_limited, first_fit, group_by_length, num_micro_batches, permutation,
    sequential, sequential_order,
};
use trainer_config::{AutoBool, Backend, Config, PackingStrategy};

use crate::backend;
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
    /// Batches to which rows are dealt together, so that each trains about as
    /// many tokens; `None` leaves rows in their order.
    pub balance: Option<usize>,
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
    ///
    /// # Errors
    /// When positions are to be spread (`use_pose`) over none, or in no chunks.
    pub fn training(config: &Config, pad_token_id: u32) -> Result<Self> {
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
        let steps = config.sampling.label_balance_window_optim_steps;
        let window = steps.saturating_mul(config.gradient_accumulation_steps);
        Ok(Self {
            balance: config.sampling.balance_labels.then_some(window),
            pose: pose(config)?.map(|pose| (pose, seed)),
            ..options
        })
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
            flatten: packing.is_none() && flattens(config),
            packing,
            pose: None,
            balance: None,
            collate,
        }
    }
}

/// How positions are spread, where the configuration asks for it. A loaded one has a
/// maximum and chunks then.
fn pose(config: &Config) -> Result<Option<PoseOptions>> {
    if !config.use_pose {
        return Ok(None);
    }
    let made = PoseOptions::new(config.pose_max_context_len)
        .and_then(|pose| pose.with_chunks(config.pose_num_chunks));
    let pose = made.map_err(|error| TrainerError::setting("use_pose", error.to_string()))?;
    let pose = pose.with_split_on_token_ids(config.pose_split_on_token_ids.clone());
    Ok(Some(pose.with_variant(config.sampling.pose_variant)))
}

/// Whether the rows of a batch are joined where they are not packed. Only flex has an
/// attention whose cost is that of the documents and not of the row.
fn flattens(config: &Config) -> bool {
    match config.batch_flattening {
        AutoBool::Bool(joined) => joined,
        AutoBool::Auto(_) => {
            config.pad_to_sequence_len != Some(true)
                && backend::select(config.backend).is_ok_and(|found| found.backend == Backend::Flex)
        }
    }
}

/// Which samples share a row, from their lengths alone.
#[derive(Debug)]
pub(crate) struct Planner {
    options: BatchOptions,
    lengths: Vec<u32>,
    /// Number of targets of each sample, where rows are dealt out by it.
    trained: Vec<u32>,
    /// Bins that do not depend on the order: packed once.
    packed: Option<Packing>,
}

/// The rows of one epoch.
#[derive(Debug, Clone)]
pub struct EpochPlan {
    rows: Rows,
    rows_per_batch: usize,
}

/// Rows as lists of sample indices, in some bytes a sample.
#[derive(Debug, Clone)]
enum Rows {
    /// One sample each.
    Single(Vec<u32>),
    /// Several samples each.
    Packed(Packing),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Single(samples) => samples.len(),
            Self::Packed(packing) => packing.num_bins(),
        }
    }

    /// The samples of a row.
    fn get(&self, index: usize) -> &[u32] {
        match self {
            Self::Single(samples) => samples.get(index..=index).unwrap_or_default(),
            Self::Packed(packing) => packing.get(index).unwrap_or_default(),
        }
    }

    /// Deals the rows of each window of `batches` to its batches, so that their
    /// sums of `weights`, one for each sample, are about even. A batch that is
    /// not full stays where it is, at the end.
    fn balanced(self, weights: &[u32], rows_per_batch: usize, batches: usize) -> Self {
        let rows_per_batch = rows_per_batch.max(1);
        let window = rows_per_batch.saturating_mul(batches.max(1));
        let mut order: Vec<u32> = Vec::with_capacity(self.len());
        while order.len() < self.len() {
            let first = order.len();
            let rows = window.min(self.len() - first);
            let whole = rows - rows % rows_per_batch;
            let weight = |&sample: &u32| u64::from(weights[sample as usize]);
            let sums: Vec<u64> = (first..first + whole)
                .map(|row| self.get(row).iter().map(weight).sum())
                .collect();
            // Rows are numbered with 32 bits, as samples are.
            let first = first as u32;
            let dealt = balance(&sums, whole / rows_per_batch).into_iter().flatten();
            order.extend(dealt.map(|row| first + row));
            order.extend(first + whole as u32..first + rows as u32);
        }
        match self {
            Self::Single(samples) => {
                Self::Single(order.iter().map(|&row| samples[row as usize]).collect())
            }
            Self::Packed(packing) => Self::Packed(packing.in_order(&order)),
        }
    }
}

impl EpochPlan {
    /// Batches in the epoch; the last may have fewer rows.
    #[must_use]
    pub fn num_batches(&self) -> usize {
        num_micro_batches(self.rows.len() as u64, self.rows_per_batch as u64, false) as usize
    }

    /// The rows of each batch: lists of sample indices.
    pub fn batches(&self) -> impl Iterator<Item = Vec<Vec<u32>>> {
        (0..self.num_batches()).map(|index| self.batch(index))
    }

    /// The rows of one batch, wherever in the epoch it is; none beyond the last.
    #[must_use]
    pub fn batch(&self, index: usize) -> Vec<Vec<u32>> {
        let (rows, each) = (self.rows.len(), self.rows_per_batch.max(1));
        let first = rows.min(index.saturating_mul(each));
        let last = rows.min(first.saturating_add(each));
        (first..last)
            .map(|row| self.rows.get(row).to_vec())
            .collect()
    }
}

impl Planner {
    /// Takes the length of each sample and packs them if the packing does not
    /// depend on the order.
    ///
    /// # Errors
    /// When there is no sample or one does not fit into a row.
    pub(crate) fn new(lengths: impl Iterator<Item = usize>, options: BatchOptions) -> Result<Self> {
        let too_many = |_| TrainerError::Data("more samples or tokens than 2^32".into());
        let lengths = lengths
            .map(u32::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(too_many)?;
        if lengths.is_empty() {
            return Err(TrainerError::Data(
                "there are no samples to make batches of".into(),
            ));
        }
        u32::try_from(lengths.len()).map_err(too_many)?;
        let packed = match options.packing {
            Some(packing) if packing.strategy == PackingStrategy::BestFitDecreasing => {
                let documents = packing.limits.bin_size;
                let packed = best_fit_decreasing_limited(&lengths, packing.capacity, documents);
                Some(packed.map_err(TrainerError::data)?)
            }
            _ => None,
        };
        Ok(Self {
            options,
            lengths,
            trained: Vec::new(),
            packed,
        })
    }

    /// Deals rows out by how many targets each sample has, where `options` ask for it.
    pub(crate) fn balance_by(&mut self, trained: Vec<u32>) {
        self.trained = trained;
    }

    pub(crate) fn options(&self) -> &BatchOptions {
        &self.options
    }

    /// Length of each sample.
    pub(crate) fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// The rows of an epoch.
    ///
    /// # Errors
    /// When a sample does not fit into a row.
    pub(crate) fn plan(&self, epoch: u64) -> Result<EpochPlan> {
        let n = self.lengths.len() as u32;
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
            (Some(packing), _) => Rows::Packed(match self.options.order {
                Order::Sequential => packing.clone(),
                Order::Shuffled { seed } | Order::ByLength { seed } => {
                    packing.shuffle_bins(SeedStream::new(seed).derive("bins", epoch))
                }
            }),
            (None, Some(packing)) => {
                let lengths: Vec<u32> = order.iter().map(|&i| self.lengths[i as usize]).collect();
                let packed = match packing.strategy {
                    PackingStrategy::Sequential => sequential(&lengths, packing.capacity),
                    _ => first_fit(&lengths, packing.capacity, packing.limits),
                };
                Rows::Packed(packed.map_err(TrainerError::data)?.map_items(&order))
            }
            (None, None) => Rows::Single(order),
        };
        let rows = match self.options.balance {
            Some(batches) if !self.trained.is_empty() => {
                rows.balanced(&self.trained, self.options.rows, batches)
            }
            _ => rows,
        };
        Ok(EpochPlan {
            rows,
            rows_per_batch: self.options.rows,
        })
    }
}
