//! Data sets of the Hugging Face hub: downloaded into the hub's own cache,
//! then read as a folder.
//!
//! Invariant: a data set that was downloaded once is read without a network.

use std::path::PathBuf;

use hf_hub::{HFClientSync, HFError};
use trainer_config::Dataset;

use crate::DataError;

/// Downloads the data files of `owner/name` at a revision, or finds them in the
/// cache, and gives their folder. The token is the one that the hub's own tools
/// use (`HF_TOKEN`, or what `hf auth login` stored), and so are the folder of the
/// cache (`HF_HOME`) and the address of the hub (`HF_ENDPOINT`).
///
/// # Errors
/// When the hub cannot be reached and the cache lacks the data set, and when the hub
/// refuses, with what would help.
pub(super) fn download(dataset: &Dataset) -> Result<PathBuf, DataError> {
    let failed = |message: String| DataError::Dataset {
        path: dataset.path.clone(),
        message: format!("cannot be downloaded from the Hugging Face hub: {message}"),
    };
    let id = dataset.path.to_string_lossy();
    let (owner, name) = id
        .split_once('/')
        .ok_or_else(|| failed("an id is `owner/name`".to_owned()))?;
    let patterns: Vec<String> = match &dataset.data_files {
        Some(files) => files.as_slice().to_vec(),
        None => [
            "json", "jsonl", "ndjson", "csv", "txt", "parquet", "arrow", "gz", "zst",
        ]
        .iter()
        .map(|extension| format!("**/*.{extension}"))
        .collect(),
    };
    let client = HFClientSync::new().map_err(|error| failed(error.to_string()))?;
    let get = |only_local: bool| {
        client
            .dataset(owner, name)
            .snapshot_download()
            .maybe_revision(dataset.revision.clone())
            .allow_patterns(patterns.clone())
            .local_files_only(only_local)
            .send()
    };
    get(false)
        .or_else(|error| match unreachable(&error) {
            true => get(true).map_err(|_| error),
            false => Err(error),
        })
        .map_err(|error| {
            let help = help(&error);
            failed(match help {
                Some(help) => format!("{error}; {help}"),
                None => error.to_string(),
            })
        })
}

/// Whether there was no answer at all.
fn unreachable(error: &HFError) -> bool {
    matches!(error, HFError::Request { .. })
}

fn help(error: &HFError) -> Option<&'static str> {
    Some(match error {
        HFError::Request { .. } => {
            "the hub gave no answer, and the data set is not in the cache: look at the network, or \
             download the files elsewhere and give their folder as `path`"
        }
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            "set HF_TOKEN to a token that may read it, after accepting its terms on its page"
        }
        HFError::RepoNotFound { .. } => {
            "look at the spelling of `path`, which is also the path of a local file or folder; \
             private data sets need HF_TOKEN"
        }
        HFError::RevisionNotFound { .. } => "look at `revision`: a branch, a tag or a commit",
        _ => return None,
    })
}
