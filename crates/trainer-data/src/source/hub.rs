//! Data sets of the Hugging Face hub: downloaded into the hub's own cache,
//! then read as a folder.

use std::path::PathBuf;

use hf_hub::HFClientSync;
use trainer_config::Dataset;

use crate::DataError;

/// Downloads the data files of `owner/name` at a revision, or finds them in the
/// cache, and gives their folder. The token is the one that the hub's own tools
/// use (`HF_TOKEN`, or what `hf auth login` stored).
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
    client
        .dataset(owner, name)
        .snapshot_download()
        .maybe_revision(dataset.revision.clone())
        .allow_patterns(patterns)
        .send()
        .map_err(|error| failed(error.to_string()))
}
