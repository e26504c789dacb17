//! What can go wrong between a model folder and a model.

use std::path::PathBuf;

/// Why a model could not be read, built or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no folder of this name.
    #[error("{}: there is no such folder{hint}", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
        /// What to do, after a semicolon; may be empty.
        hint: String,
    },
    /// The folder holds no file of this name.
    #[error("{}: no {name} in this folder; {hint}", folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The missing file.
        name: String,
        /// What to do.
        hint: String,
    },
    /// A JSON file is not JSON, or not of the expected form.
    #[error("{}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// The model type is not one that this crate builds.
    #[error(
        "{}: model_type \"{found}\" is not supported; supported: {supported}",
        path.display()
    )]
    UnknownArchitecture {
        /// The `config.json`.
        path: PathBuf,
        /// `model_type` in the file.
        found: String,
        /// Every supported name.
        supported: String,
    },
    /// A value of the configuration cannot be used.
    #[error("{}: {key}: {message}", path.display())]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A weight file is damaged.
    #[error("{}: {message}", path.display())]
    Damaged {
        /// The weight file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A setting of an adapter does not fit the model.
    #[error("{setting}: {message}")]
    Adapter {
        /// The setting, under PEFT's name.
        setting: &'static str,
        /// What is wrong and what there is.
        message: String,
    },
    /// What is to be trained is not there.
    #[error("unfrozen_parameters: {message}")]
    Unfrozen {
        /// What is wrong and what there is.
        message: String,
    },
    /// An adapter file does not hold the tensors of the adapter.
    #[error("{}: the adapter does not fit the model:\n{}", folder.display(), problems.join("\n"))]
    AdapterTensors {
        /// The folder.
        folder: PathBuf,
        /// One line for each missing, unexpected or wrongly shaped tensor.
        problems: Vec<String>,
    },
    /// The weight files do not hold the tensors of the model.
    #[error("{}: the weights do not fit config.json:\n{}", folder.display(), problems.join("\n"))]
    Tensors {
        /// The folder.
        folder: PathBuf,
        /// One line for each missing, unexpected or wrongly shaped tensor.
        problems: Vec<String>,
    },
    /// A model that cannot be exported to GGUF.
    #[error("{message}")]
    Gguf {
        /// What has no place there.
        message: String,
    },
    /// A parameter of a model has numbers that are not finite.
    #[error("tensor {tensor} has numbers that are not finite")]
    NotFinite {
        /// The parameter.
        tensor: String,
    },
    /// A model cannot be written as it is.
    #[error("{message}")]
    Unwritable {
        /// What stands in the way, and what to do.
        message: String,
    },
    /// Text cannot be generated as asked.
    #[error("{message}")]
    Generation {
        /// What is wrong and what is expected.
        message: String,
    },
}

impl ModelError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Result of this crate's operations.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
