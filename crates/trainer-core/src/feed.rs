//! What the steps of a run are made of: the batches of samples, epoch after
//! epoch, or of rows that come one after the other.
//!
//! Invariants: a step takes `gradient_accumulation_steps` batches, fewer only at
//! the end of an epoch; finding them costs the same at the end of an epoch as at its
//! beginning.

use seqprep::{
    AnySamples, Batch, Preferences, Sample, SampleSource, collate_flattened, collate_packed,
};
use serde_json::Value;

use crate::batch_plan::{BatchOptions, EpochPlan};
use crate::batches::BatchSource;
use crate::checkpoint::FeedPosition;
use crate::error::{Result, TrainerError};

/// An error of whoever gives the rows.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Rows for training, one after the other: each holds the samples that share it.
/// A run takes as many as its steps need.
pub trait RowStream: Iterator<Item = Result<Vec<Sample>, BoxError>> {
    /// Where the stream is, after the last row that it gave; for a checkpoint.
    fn cursor(&self) -> Value;
}

/// Opens a stream: at its beginning, or where a cursor says. It is called once more
/// whenever a run goes back to a checkpoint; the stream before it is dropped first.
pub type OpenStream = Box<dyn FnMut(Option<Value>) -> Result<Box<dyn RowStream>, BoxError>>;

/// What is trained on.
pub enum TrainData {
    /// Samples, in memory or elsewhere, of which batches are planned for each
    /// epoch.
    Samples(Box<dyn SampleSource>),
    /// Rows that are packed already. `max_steps` sets the length of the run.
    Stream(OpenStream),
    /// Preferences, rewards or judged steps, for the objective that
    /// `config.preference` names.
    Preferences(Preferences),
}

/// What is evaluated on; may be empty.
pub enum EvalData {
    /// Samples, in memory or elsewhere.
    Samples(Box<dyn SampleSource>),
    /// Samples of the kind that is trained on.
    Preferences(Preferences),
}

impl<S: Into<AnySamples>> From<S> for EvalData {
    fn from(samples: S) -> Self {
        match samples.into() {
            AnySamples::Samples(samples) => Self::Samples(samples),
            AnySamples::Preferences(samples) => Self::Preferences(samples),
        }
    }
}

impl<S: Into<AnySamples>> From<S> for TrainData {
    fn from(samples: S) -> Self {
        match samples.into() {
            AnySamples::Samples(samples) => Self::Samples(samples),
            AnySamples::Preferences(samples) => Self::Preferences(samples),
        }
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
        batches: Box<dyn BatchStream<Batch = B>>,
        steps: usize,
    },
}

/// Batches without end.
pub(crate) trait BatchStream {
    type Batch;

    fn next(&mut self) -> Result<Self::Batch>;

    /// Rows in a batch.
    fn rows(&self) -> usize;

    fn cursor(&self) -> Value;

    /// Goes to where a cursor says.
    fn seek(&mut self, cursor: &Value) -> Result<()>;
}

impl<B> Feed<B> {
    pub(crate) fn samples(batches: impl BatchSource<Batch = B> + 'static) -> Self {
        Self::Samples {
            batches: Box::new(batches),
            epoch: 0,
            plan: None,
        }
    }

    pub(crate) fn stream(batches: impl BatchStream<Batch = B> + 'static) -> Self {
        Self::Stream {
            batches: Box::new(batches),
            steps: 0,
        }
    }

    /// Where the data is, between two steps.
    ///
    /// # Errors
    /// When a sample cannot be read.
    pub(crate) fn position(&self) -> Result<FeedPosition> {
        Ok(match self {
            Self::Samples {
                batches,
                epoch,
                plan,
            } => FeedPosition::Samples {
                epoch: *epoch,
                batches_done: plan.as_ref().map_or(0, |(_, done)| *done),
                data: batches.digest()?,
            },
            Self::Stream { batches, steps } => FeedPosition::Stream {
                steps: *steps,
                cursor: batches.cursor(),
            },
        })
    }

    /// Goes to a position.
    ///
    /// # Errors
    /// When the position is one of other data, or a stream cannot be opened there.
    pub(crate) fn seek(&mut self, position: &FeedPosition) -> Result<()> {
        match (self, position) {
            (
                Self::Samples {
                    batches,
                    epoch,
                    plan,
                },
                FeedPosition::Samples {
                    epoch: at,
                    batches_done,
                    data,
                },
            ) if *data == batches.digest()? => {
                *epoch = *at;
                *plan = match *batches_done {
                    0 => None,
                    done => Some((batches.plan(*at)?, done)),
                };
                Ok(())
            }
            (Self::Stream { batches, steps }, FeedPosition::Stream { steps: at, cursor }) => {
                batches.seek(cursor)?;
                *steps = *at;
                Ok(())
            }
            _ => Err(TrainerError::Data(
                "the checkpoint was made with other training data; to train on this data, begin \
                 anew from the saved model (base_model)"
                    .into(),
            )),
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
                let all = current.num_batches();
                let end = all.min(done.saturating_add(accumulation));
                let planned: Vec<_> = (*done..end).map(|index| current.batch(index)).collect();
                let window = planned
                    .iter()
                    .map(|rows| batches.collate(rows))
                    .collect::<Result<Vec<_>>>()?;
                *done = end;
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
            Self::Stream { batches, steps } => {
                let rows = accumulation * batches.rows();
                let window = (0..accumulation)
                    .map(|_| batches.next())
                    .collect::<Result<Vec<_>>>()?;
                *steps += 1;
                Ok(Window {
                    batches: window,
                    rows,
                    epoch: *steps as f64 / total_steps.max(1) as f64,
                    ends_epoch: false,
                })
            }
        }
    }
}

/// Batches of a stream of packed rows.
pub(crate) struct PackedRows {
    open: OpenStream,
    /// None only while it is opened anew.
    rows: Option<Box<dyn RowStream>>,
    /// Where it was opened, as long as nothing was read since.
    unread: Option<Value>,
    options: BatchOptions,
    vocab_size: usize,
}

impl PackedRows {
    /// Opens the stream at `cursor`, or at its beginning.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn new(
        mut open: OpenStream,
        cursor: Option<Value>,
        options: BatchOptions,
        vocab_size: usize,
    ) -> Result<Self> {
        let rows = open(cursor.clone()).map_err(TrainerError::data)?;
        Ok(Self {
            open,
            rows: Some(rows),
            unread: cursor,
            options,
            vocab_size,
        })
    }
}

impl BatchStream for PackedRows {
    type Batch = Batch;

    fn next(&mut self) -> Result<Batch> {
        let options = &self.options;
        let mut taken = Vec::with_capacity(options.rows);
        self.unread = None;
        for _ in 0..options.rows {
            let row = self.rows.as_mut().and_then(Iterator::next);
            let row = row.ok_or_else(|| {
                TrainerError::Data("the stream of training data ended before the run".into())
            })?;
            taken.push(row.map_err(TrainerError::data)?);
        }
        let mut ids = taken.iter().flatten().flat_map(|sample| &sample.input_ids);
        if let Some(id) = ids.find(|id| **id as usize >= self.vocab_size) {
            return Err(TrainerError::Data(format!(
                "the training data has token id {id}, but the model's vocabulary has {} entries: \
                 tokenizer and model do not belong together",
                self.vocab_size
            )));
        }
        let rows: Vec<Vec<&Sample>> = taken.iter().map(|row| row.iter().collect()).collect();
        let batch = match options.flatten {
            true => collate_flattened(&rows.concat(), &options.collate),
            false => collate_packed(&rows, &options.collate),
        };
        batch.map_err(TrainerError::data)
    }

    fn rows(&self) -> usize {
        self.options.rows
    }

    fn cursor(&self) -> Value {
        self.rows.as_ref().map_or(Value::Null, |rows| rows.cursor())
    }

    fn seek(&mut self, cursor: &Value) -> Result<()> {
        if self.unread.as_ref() == Some(cursor) {
            return Ok(());
        }
        // What it read ahead is not needed any more.
        self.rows = None;
        self.rows = Some((self.open)(Some(cursor.clone())).map_err(TrainerError::data)?);
        self.unread = Some(cursor.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::Batches;
    use trainer_config::Config;

    fn sample(length: u32) -> Sample {
        Sample::all_trained((1..=length).collect())
    }

    /// Rows of samples of these lengths, and how many were given.
    struct Rows(Vec<Vec<u32>>, usize);

    impl Iterator for Rows {
        type Item = Result<Vec<Sample>, BoxError>;

        fn next(&mut self) -> Option<Self::Item> {
            let row = self.0.get(self.1)?;
            self.1 += 1;
            Some(Ok(row.iter().copied().map(sample).collect()))
        }
    }

    impl RowStream for Rows {
        fn cursor(&self) -> Value {
            self.1.into()
        }
    }

    fn stream(rows: Vec<Vec<u32>>, vocab_size: usize) -> Feed<Batch> {
        let open: OpenStream = Box::new(move |cursor| {
            let at = cursor.map_or(0, |at| at.as_u64().unwrap() as usize);
            Ok(Box::new(Rows(rows.clone(), at)))
        });
        let options = BatchOptions::training(&config(), 0).unwrap();
        Feed::stream(PackedRows::new(open, None, options, vocab_size).unwrap())
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
        let options = BatchOptions::training(&config(), 0).unwrap();
        let samples: Vec<_> = (1..=7).map(sample).collect();
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
        let rows = vec![vec![2, 3], vec![4], vec![1], vec![2], vec![5]];
        let mut feed = stream(rows, 10);
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
        let mut feed = stream(vec![vec![5], vec![3]], 5);
        let error = feed.next(1, 1).err().unwrap().to_string();
        assert!(
            error.starts_with("the training data has token id 5"),
            "{error}"
        );
    }

    /// A stream goes back to any position that it was at, however often, and the rest is
    /// the same again.
    #[test]
    fn a_stream_goes_back() {
        let rows: Vec<Vec<u32>> = (0..12).map(|n| vec![1 + n % 5, 1 + n % 3]).collect();
        let mut feed = stream(rows, 10);
        let step = |feed: &mut Feed<Batch>| {
            let window = feed.next(2, 3).unwrap();
            (window.batches, window.epoch)
        };
        let mut positions = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..3 {
            positions.push(feed.position().unwrap());
            taken.push(step(&mut feed));
        }
        for back in [1, 0, 2, 2] {
            feed.seek(&positions[back]).unwrap();
            assert_eq!(feed.position().unwrap(), positions[back]);
            for expected in &taken[back..] {
                assert_eq!(step(&mut feed), *expected, "from step {back}");
            }
        }
    }

    /// Samples that are made when they are asked for.
    #[derive(Debug)]
    struct Counted(usize);

    impl SampleSource for Counted {
        fn len(&self) -> usize {
            self.0
        }

        fn length(&self, _: usize) -> Option<usize> {
            Some(2)
        }

        fn sample(&self, index: usize) -> Result<std::borrow::Cow<'_, Sample>, BoxError> {
            Ok(std::borrow::Cow::Owned(Sample::all_trained(vec![
                0,
                index as u32 % 7,
            ])))
        }
    }

    /// Steps at the end of a long epoch take as long as those at its beginning: to walk
    /// there would take some ten thousand times as long.
    #[test]
    fn the_end_of_a_long_epoch_is_found_at_once() {
        let config = Config {
            micro_batch_size: 1,
            ..Config::default()
        };
        let rows = 1_000_000;
        let source: Box<dyn SampleSource> = Box::new(Counted(rows));
        let batches = Batches::new(source, BatchOptions::training(&config, 0).unwrap()).unwrap();
        let plan = batches.plan(0).unwrap();
        let mut feed = Feed::samples(batches);
        let seconds = |feed: &mut Feed<Batch>| {
            let started = std::time::Instant::now();
            for _ in 0..200 {
                feed.next(1, rows).unwrap();
            }
            started.elapsed().as_secs_f64()
        };
        let first = seconds(&mut feed);
        let Feed::Samples { plan: at, .. } = &mut feed else {
            unreachable!("a feed of samples");
        };
        *at = Some((plan, rows - 300));
        let last = seconds(&mut feed);
        assert!(last < 50.0 * first.max(1e-3), "{last} s after {first} s");
        // The end itself is where it was.
        let window = feed.next(200, rows).unwrap();
        assert_eq!((window.batches.len(), window.ends_epoch), (100, true));
    }

    /// From every position between two steps, the rest is the same again.
    #[test]
    fn a_feed_goes_on_from_any_position() {
        let config = Config {
            curriculum_sampling: false,
            ..config()
        };
        let feed = || {
            let samples: Vec<_> = (1..=7).map(sample).collect();
            let options = BatchOptions::training(&config, 0).unwrap();
            Feed::samples(Batches::new(samples, options).unwrap())
        };
        let rest = |feed: &mut Feed<Batch>, n: usize| -> Vec<Vec<Batch>> {
            (0..n).map(|_| feed.next(3, 10).unwrap().batches).collect()
        };
        let all = rest(&mut feed(), 6);
        let mut running = feed();
        for done in 0..6 {
            let text = serde_json::to_string(&running.position().unwrap()).unwrap();
            let mut resumed = feed();
            resumed.seek(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(rest(&mut resumed, 6 - done), all[done..]);
            rest(&mut running, 1);
        }
    }

    #[test]
    fn a_position_in_other_data_is_refused() {
        let of = |samples: Vec<Sample>| {
            Feed::samples(
                Batches::new(samples, BatchOptions::training(&config(), 0).unwrap()).unwrap(),
            )
        };
        let feed = |lengths: [u32; 2]| of(lengths.map(sample).to_vec());
        let position = feed([2, 3]).position().unwrap();
        // As long, but other tokens, or others of them trained.
        let mut other = [2, 3].map(sample).to_vec();
        other[1].input_ids[2] = 9;
        assert!(of(other).seek(&position).is_err());
        let mut other = [2, 3].map(sample).to_vec();
        other[0].labels[1] = -100;
        assert!(of(other).seek(&position).is_err());
        assert!(feed([2, 3]).seek(&position).is_ok());
        let error = feed([3, 2]).seek(&position).unwrap_err().to_string();
        assert!(error.starts_with("the checkpoint was made with other training data"));
        let error = stream(Vec::new(), 5).seek(&position);
        assert!(error.is_err());
    }
}
