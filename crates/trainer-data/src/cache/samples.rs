//! The samples of a run, wherever they are.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use seqprep::{Sample, SampleSource, SourceError};

use super::tokens::TokenFile;
use crate::{DataError, Ledger, Prepared};

/// Samples in the order in which they are used: in memory, or in a file, of
/// which each is read when it is asked for.
#[derive(Debug, Clone)]
pub struct Samples(Place);

#[derive(Debug, Clone)]
enum Place {
    Memory(Vec<Sample>),
    File {
        path: PathBuf,
        file: Arc<TokenFile>,
        /// Places in the file.
        order: Vec<u32>,
    },
}

/// As [`Prepared`], with samples that may be in a file.
#[derive(Debug, Clone)]
pub struct PreparedData {
    /// What is trained on, in order.
    pub train: Samples,
    /// What is evaluated on, in order; may be empty.
    pub eval: Samples,
    /// The account of every row and token.
    pub ledger: Ledger,
}

impl Samples {
    /// Samples of a file; every place in `order` is one of a sample.
    pub(super) fn in_file(path: PathBuf, file: Arc<TokenFile>, order: Vec<u32>) -> Self {
        Self(Place::File { path, file, order })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Memory(samples) => samples.len(),
            Place::File { order, .. } => order.len(),
        }
    }

    /// True when there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of a sample, or `None` past the last; reads no file.
    #[must_use]
    pub fn length(&self, index: usize) -> Option<usize> {
        match &self.0 {
            Place::Memory(samples) => samples.get(index).map(Sample::len),
            Place::File { file, order, .. } => file.length(*order.get(index)? as usize),
        }
    }

    /// A sample. Threads may read at the same time.
    ///
    /// # Errors
    /// [`DataError::Io`] where the file cannot be read, and past the last sample.
    pub fn get(&self, index: usize) -> Result<Cow<'_, Sample>, DataError> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "no such sample");
        match &self.0 {
            Place::Memory(samples) => match samples.get(index) {
                Some(sample) => Ok(Cow::Borrowed(sample)),
                None => Err(failed(PathBuf::new(), outside())),
            },
            Place::File { path, file, order } => {
                let place = order.get(index).ok_or_else(outside);
                place
                    .and_then(|place| file.get(*place as usize))
                    .map(Cow::Owned)
                    .map_err(|error| failed(path.clone(), error))
            }
        }
    }

    /// Every sample, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Cow<'_, Sample>, DataError>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// All samples in memory.
    ///
    /// # Errors
    /// As [`Samples::get`].
    pub fn into_vec(self) -> Result<Vec<Sample>, DataError> {
        match self.0 {
            Place::Memory(samples) => Ok(samples),
            Place::File { path, file, order } => order
                .into_iter()
                .map(|place| file.get(place as usize))
                .collect::<io::Result<_>>()
                .map_err(|error| failed(path, error)),
        }
    }
}

fn failed(path: PathBuf, source: io::Error) -> DataError {
    DataError::Io {
        action: "read",
        path,
        source,
    }
}

impl SampleSource for Samples {
    fn len(&self) -> usize {
        self.len()
    }

    fn length(&self, index: usize) -> Option<usize> {
        self.length(index)
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>, SourceError> {
        Ok(self.get(index)?)
    }

    fn largest_id(&self) -> Option<u32> {
        match &self.0 {
            Place::Memory(_) => None,
            Place::File { file, .. } => Some(file.largest_id()),
        }
    }
}

impl From<Samples> for Box<dyn SampleSource> {
    fn from(samples: Samples) -> Self {
        Box::new(samples)
    }
}

impl From<Vec<Sample>> for Samples {
    fn from(samples: Vec<Sample>) -> Self {
        Self(Place::Memory(samples))
    }
}

impl From<Prepared> for PreparedData {
    fn from(prepared: Prepared) -> Self {
        Self {
            train: prepared.train.into(),
            eval: prepared.eval.into(),
            ledger: prepared.ledger,
        }
    }
}

impl PreparedData {
    /// All samples in memory.
    ///
    /// # Errors
    /// [`DataError::Io`] where a file cannot be read.
    pub fn into_memory(self) -> Result<Prepared, DataError> {
        Ok(Prepared {
            train: self.train.into_vec()?,
            eval: self.eval.into_vec()?,
            ledger: self.ledger,
        })
    }
}
