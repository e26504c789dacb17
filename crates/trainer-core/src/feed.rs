//! What the steps of a run are made of: the batches of samples in memory, epoch
//! after epoch, or of rows that come one after the other.
//!
//! Invariant: a step takes `gradient_accumulation_steps` batches, fewer only at
//! the end of an epoch.

use seqprep::{Batch, Sample, collate_flattened, collate_packed};

use crate::batches::{BatchOptions, BatchSource, EpochPlan};
use crate::error::{Result, TrainerError};

/// Rows for training, one after the other: each holds the samples that share it.
/// A run takes as many as its steps need.
pub type RowStream =
    Box<dyn Iterator<Item = Result<Vec<Sample>, Box<dyn std::error::Error + Send + Sync>>>>;

/// What is trained on.
pub enum TrainData {
    /// Samples in memory, of which batches are planned for each epoch.
    Samples(Vec<Sample>),
    /// Rows that are packed already. `max_steps` sets the length of the run.
    Stream(RowStream),
}

impl From<Vec<Sample>> for TrainData {
    fn from(samples: Vec<Sample>) -> Self {
        Self::Samples(samples)
    }
}

/// The batches of one step.
pub(crate) struct Window<B> {
    pub(crate) batches: Vec<B>,
    /// Rows of all batches.
    pub(crate) rows: usize,
    /// Epochs of the run once the step is taken.
    pub(crate) epoch: f64,
    /// Whether the step is the last of an epoch.
    pub(crate) ends_epoch: bool,
}

/// Gives the batches of each step.
pub(crate) enum Feed<B> {
    Samples {
        batches: Box<dyn BatchSource<Batch = B>>,
        epoch: u64,
        /// The plan of the epoch, and the batches of it that are done.
        plan: Option<(EpochPlan, usize)>,
    },
    Stream {
        next: Box<dyn FnMut() -> Result<B>>,
        rows_per_batch: usize,
        steps: usize,
    },
}

impl Feed<Batch> {
    /// A stream of packed rows.
    pub(crate) fn stream(mut rows: RowStream, options: BatchOptions, vocab_size: usize) -> Self {
        Self::Stream {
            rows_per_batch: options.rows,
            next: Box::new(move || streamed(&mut rows, &options, vocab_size)),
            steps: 0,
        }
    }
}

impl<B> Feed<B> {
    pub(crate) fn samples(batches: impl BatchSource<Batch = B> + 'static) -> Self {
        Self::Samples {
            batches: Box::new(batches),
            epoch: 0,
            plan: None,
        }
    }

    /// The samples that batches are planned of; none of a stream.
    pub(crate) fn batches(&self) -> Option<&dyn BatchSource<Batch = B>> {
        match self {
            Self::Samples { batches, .. } => Some(batches.as_ref()),
            Self::Stream { .. } => None,
        }
    }

    /// The batches of the next step, of a run of `total_steps`.
    pub(crate) fn next(&mut self, accumulation: usize, total_steps: usize) -> Result<Window<B>> {
        match self {
            Self::Samples {
                batches,
                epoch,
                plan,
            } => {
                let (current, done) = match plan {
                    Some(plan) => plan,
                    None => plan.insert((batches.plan(*epoch)?, 0)),
                };
                let planned: Vec<_> = current.batches().skip(*done).take(accumulation).collect();
                let window = planned
                    .iter()
                    .map(|rows| batches.collate(rows))
                    .collect::<Result<Vec<_>>>()?;
                *done += planned.len();
                let all = current.num_batches();
                let window = Window {
                    batches: window,
                    rows: planned.iter().map(|rows| rows.len()).sum(),
                    epoch: *epoch as f64 + *done as f64 / all as f64,
                    ends_epoch: *done >= all,
                };
                if window.ends_epoch {
                    *epoch += 1;
                    *plan = None;
                }
                Ok(window)
            }
            Self::Stream {
                next,
                rows_per_batch,
                steps,
            } => {
                let batches = (0..accumulation)
                    .map(|_| next())
                    .collect::<Result<Vec<_>>>()?;
                *steps += 1;
                Ok(Window {
                    batches,
                    rows: accumulation * *rows_per_batch,
                    epoch: *steps as f64 / total_steps.max(1) as f64,
                    ends_epoch: false,
                })
            }
        }
    }
}

/// The next batch of a stream.
fn streamed(rows: &mut RowStream, options: &BatchOptions, vocab_size: usize) -> Result<Batch> {
    let mut taken = Vec::with_capacity(options.rows);
    for _ in 0..options.rows {
        let row = rows.next().ok_or_else(|| {
            TrainerError::Data("the stream of training data ended before the run".into())
        })?;
        taken.push(row.map_err(|error| TrainerError::Data(error.to_string()))?);
    }
    let ids = taken.iter().flatten().flat_map(|sample| &sample.input_ids);
    if let Some(id) = ids.copied().find(|&id| id as usize >= vocab_size) {
        return Err(TrainerError::Data(format!(
            "the training data has token id {id}, but the model's vocabulary has {vocab_size} \
             entries: tokenizer and model do not belong together"
        )));
    }
    let rows: Vec<Vec<&Sample>> = taken.iter().map(|row| row.iter().collect()).collect();
    let batch = match options.flatten {
        true => collate_flattened(&rows.concat(), &options.collate),
        false => collate_packed(&rows, &options.collate),
    };
    batch.map_err(|error| TrainerError::Data(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::Batches;
    use trainer_config::Config;

    fn sample(length: u32) -> Sample {
        Sample::all_trained((1..=length).collect())
    }

    fn config() -> Config {
        Config {
            micro_batch_size: 2,
            shuffle_merged_datasets: false,
            curriculum_sampling: true,
            ..Config::default()
        }
    }

    #[test]
    fn samples_go_round_and_epochs_end_with_what_is_left() {
        let options = BatchOptions::training(&config(), 0);
        let samples = (1..=7).map(sample).collect();
        let mut feed = Feed::samples(Batches::new(samples, options).unwrap());
        let seen: Vec<_> = (0..4)
            .map(|_| {
                let window = feed.next(3, 10).unwrap();
                (
                    window.batches.len(),
                    window.rows,
                    window.epoch,
                    window.ends_epoch,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (3, 6, 0.75, false),
                (1, 1, 1.0, true),
                (3, 6, 1.75, false),
                (1, 1, 2.0, true)
            ]
        );
    }

    #[test]
    fn a_stream_gives_full_windows_until_it_ends() {
        let options = BatchOptions::training(&config(), 0);
        let rows = [vec![2, 3], vec![4], vec![1], vec![2], vec![5]];
        let rows = rows.map(|row| Ok(row.into_iter().map(sample).collect()));
        let mut feed = Feed::stream(Box::new(rows.into_iter()), options, 10);
        let window = feed.next(2, 4).unwrap();
        assert_eq!(
            (window.batches.len(), window.rows, window.epoch),
            (2, 4, 0.25)
        );
        assert_eq!(window.batches[0].documents(), 3);
        assert!(feed.batches().is_none());
        let error = feed.next(2, 4).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the stream of training data ended before the run"
        );
    }

    #[test]
    fn a_stream_with_foreign_ids_is_refused() {
        let options = BatchOptions::training(&config(), 0);
        let rows = [Ok(vec![sample(5)]), Ok(vec![sample(3)])];
        let mut feed = Feed::stream(Box::new(rows.into_iter()), options, 5);
        let error = feed.next(1, 1).err().unwrap().to_string();
        assert!(
            error.starts_with("the training data has token id 5"),
            "{error}"
        );
    }
}
