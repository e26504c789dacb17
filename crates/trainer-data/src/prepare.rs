//! Samples for supervised fine-tuning: what the [`pipeline`](crate::pipeline)
//! makes of rows with a [`Strategy`].

use seqprep::{
    LengthOutcome, Sample, drop_long_seq, drop_no_trainable_tokens, trained_tokens, truncate,
};
use trainer_config::{Config, Dataset, ExcessLength, PromptStrategy};

use crate::ledger::{DropReason, Ledger};
use crate::pipeline::{self, Hasher, Kind, Purpose, Read, Size, Task, by_length};
use crate::source::Row;
use crate::strategy::{Made, Strategy};
use crate::{DataError, Place, Tokenizer, strategy};

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

/// Which samples a run uses, in which order: indices into the samples that the
/// [`pipeline`](crate::pipeline) gave away, counted from 0.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What is trained on, in order. A sample may stand here several times.
    pub(crate) train: Vec<u32>,
    /// What is evaluated on, in order; may be empty.
    pub(crate) eval: Vec<u32>,
    /// The account of every row and token.
    pub(crate) ledger: Ledger,
}

/// Reads and tokenizes the data sets of a configuration.
///
/// The training samples are shuffled by `seed` if `shuffle_merged_datasets` is
/// set and `curriculum_sampling` is not. Evaluation samples are those of
/// `test_datasets`, in file order, or else those of `val_set_size` rows: of the rows
/// of the last training samples. All samples of a row are on one side; a sample that
/// a `weight` above 1 repeats is never in both.
///
/// # Errors
/// The first error in the order of the rows; a data set without rows, or of
/// which no row can be used; a split that leaves nothing on one side.
pub fn prepare(config: &Config, tokenizer: &Tokenizer) -> Result<Prepared, DataError> {
    prepare_with(config, tokenizer, strategy::build)
}

/// Makes the strategy of a data set, of which the first row is given, for sequences of
/// so many tokens.
pub type BuildStrategy = for<'a> fn(
    &'a Config,
    &'a Dataset,
    &Row,
    &'a Tokenizer,
    usize,
) -> Result<Box<dyn Strategy + 'a>, DataError>;

/// As [`prepare`], with strategies of one's own: `build` may hand what it does not know
/// to [`strategy::build`].
///
/// # Errors
/// As [`prepare`], and those of `build`.
pub fn prepare_with(
    config: &Config,
    tokenizer: &Tokenizer,
    build: BuildStrategy,
) -> Result<Prepared, DataError> {
    let purpose = Build(build);
    let collected = in_pool(config, || pipeline::collect(config, tokenizer, purpose))?;
    let (train, eval, ledger) = collected?;
    Ok(Prepared {
        train,
        eval,
        ledger,
    })
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

/// What samples for supervised fine-tuning are made with.
#[derive(Clone, Copy)]
pub(crate) struct Build(BuildStrategy);

impl Build {
    /// The strategies of this crate.
    pub(crate) const KNOWN: Self = Self(strategy::build);
}

impl Purpose for Build {
    fn name(self) -> Option<&'static str> {
        None
    }
}

impl Kind for Sample {
    type Reader<'a> = Box<dyn Strategy + 'a>;
    type Purpose = Build;

    fn reader<'a>(task: &Task<'a, Build>, first: &Row) -> Result<Self::Reader<'a>, DataError> {
        let Task {
            config,
            dataset,
            tokenizer,
            limit,
            purpose: Build(build),
        } = *task;
        build(config, dataset, first, tokenizer, limit)
    }

    fn name(reader: &Self::Reader<'_>) -> &'static str {
        reader.name()
    }

    fn read(reader: &Self::Reader<'_>, row: &Row) -> Result<Read<Self>, DataError> {
        let Made { samples, notes } = reader.made(row)?;
        Ok(Read {
            samples: samples.into_iter().map(|sample| (sample, 0)).collect(),
            notes,
        })
    }

    fn size(&self) -> Size {
        Size {
            tokens: self.len(),
            longest: self.len(),
            trained: trained_tokens(&self.labels),
        }
    }

    fn judge(
        &mut self,
        task: &Task<'_, Build>,
        _: &Self::Reader<'_>,
        at: &Place,
    ) -> Result<Option<DropReason>, DataError> {
        judge(task, at, self)
    }

    fn hash(&self, hasher: &mut Hasher) {
        hasher.ids(&self.input_ids);
        hasher.labels(&self.labels);
        if let Some(positions) = &self.position_ids {
            hasher.ids(positions);
        }
    }

    fn shown(&self) -> Option<&[u32]> {
        Some(&self.input_ids)
    }

    fn advice(task: &Task<'_, Build>, reason: DropReason) -> String {
        let advice = match reason {
            DropReason::Empty => "empty rows hold no text",
            _ => untrained_advice(task.dataset),
        };
        advice.to_owned()
    }
}

/// Applies the length rule, which may cut the sample, and the rule that
/// something has to be trained.
pub(crate) fn judge(
    task: &Task<'_, Build>,
    at: &Place,
    sample: &mut Sample,
) -> Result<Option<DropReason>, DataError> {
    let length = sample.len();
    let shortest = task.config.min_sample_len;
    let taught = trained_tokens(&sample.labels) > 0;
    let outcome: LengthOutcome = match task.config.excess_length_strategy {
        ExcessLength::Truncate => truncate(sample, task.limit, shortest),
        ExcessLength::Drop | ExcessLength::Raise => drop_long_seq(sample, task.limit, shortest),
    };
    let dropped = by_length(task, at, length, outcome)?;
    if dropped.is_some() || drop_no_trainable_tokens(sample) {
        return Ok(dropped);
    }
    let cut = matches!(outcome, LengthOutcome::Truncated { .. });
    Ok(Some(match cut && taught {
        true => DropReason::CutOff,
        false => DropReason::NothingToTrain,
    }))
}

/// What to change where samples have nothing to train.
fn untrained_advice(dataset: &Dataset) -> &'static str {
    match &dataset.strategy {
        Some(strategy) if strategy.is_chat() => {
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
