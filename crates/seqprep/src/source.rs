//! Where the samples of a run are: in memory, or wherever a
//! [`SampleSource`] reads them from.
//!
//! Invariants: a source does not change while it is used; lengths are known
//! without reading samples, so that a run can be planned before one is read.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Debug;

use crate::preference::Preferences;
use crate::sample::Sample;

/// Why a sample could not be read.
pub type SourceError = Box<dyn Error + Send + Sync>;

/// Samples in a fixed order, of which each is read when it is asked for.
///
/// A `Vec<Sample>` is one, and turns into the box that takes any source:
///
/// ```
/// use seqprep::{Sample, SampleSource};
///
/// let samples = vec![Sample::all_trained(vec![3, 4, 5])];
/// let source: Box<dyn SampleSource> = samples.into();
/// assert_eq!((source.len(), source.length(0)), (1, Some(3)));
/// assert_eq!(source.sample(0)?.input_ids, [3, 4, 5]);
/// assert!(source.sample(1).is_err());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub trait SampleSource: Debug + Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True when there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of a sample, or `None` past the last. Reads nothing.
    fn length(&self, index: usize) -> Option<usize>;

    /// A sample. Threads may read at the same time.
    ///
    /// # Errors
    /// Where it cannot be read, and past the last sample.
    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>, SourceError>;

    /// Number of targets of a sample, as [`Sample::trained_tokens`] counts them.
    ///
    /// # Errors
    /// As [`SampleSource::sample`].
    fn trained_tokens(&self, index: usize) -> Result<usize, SourceError> {
        Ok(self.sample(index)?.trained_tokens())
    }

    /// A token id that none of the samples exceeds, where that is known without
    /// reading them.
    fn largest_id(&self) -> Option<u32> {
        None
    }
}

/// What is trained or evaluated on, whatever is learnt from it.
///
/// ```
/// use seqprep::{AnySamples, PreferencePair, Preferences, Sample};
///
/// let documents = AnySamples::from(vec![Sample::all_trained(vec![3, 4, 5])]);
/// let pairs = AnySamples::from(Preferences::from(vec![PreferencePair::default()]));
/// assert_eq!((documents.len(), pairs.len()), (1, 1));
/// ```
#[derive(Debug)]
pub enum AnySamples {
    /// Token sequences with labels, in memory or elsewhere.
    Samples(Box<dyn SampleSource>),
    /// Pairs of answers, answers with a verdict, or judged steps.
    Preferences(Preferences),
}

impl AnySamples {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Samples(samples) => samples.len(),
            Self::Preferences(samples) => samples.len(),
        }
    }

    /// True when there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: Into<Box<dyn SampleSource>>> From<S> for AnySamples {
    fn from(samples: S) -> Self {
        Self::Samples(samples.into())
    }
}

impl From<Preferences> for AnySamples {
    fn from(samples: Preferences) -> Self {
        Self::Preferences(samples)
    }
}

impl SampleSource for Vec<Sample> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn length(&self, index: usize) -> Option<usize> {
        self.get(index).map(Sample::len)
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>, SourceError> {
        match self.get(index) {
            Some(sample) => Ok(Cow::Borrowed(sample)),
            None => Err(format!("there is no sample {index}: there are {}", self.len()).into()),
        }
    }
}

impl From<Vec<Sample>> for Box<dyn SampleSource> {
    fn from(samples: Vec<Sample>) -> Self {
        Box::new(samples)
    }
}
