//! Samples as JSON lines, for eyes and other tools.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::{DataError, Samples};

#[derive(Serialize)]
struct Line<'a> {
    input_ids: &'a [u32],
    labels: &'a [i32],
    attention_mask: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_ids: Option<&'a [u32]>,
}

/// Writes one JSON object a sample: `input_ids`, `labels`, and an
/// `attention_mask` of ones.
///
/// # Errors
/// [`DataError::Io`] if the file cannot be written, or a sample not read.
pub fn export_jsonl(samples: &Samples, path: &Path) -> Result<(), DataError> {
    let failed = |source| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    for sample in samples.iter() {
        let sample = sample?;
        let line = Line {
            input_ids: &sample.input_ids,
            labels: &sample.labels,
            attention_mask: vec![1; sample.input_ids.len()],
            position_ids: sample.position_ids.as_deref(),
        };
        serde_json::to_writer(&mut out, &line).map_err(|error| failed(error.into()))?;
        out.write_all(b"\n").map_err(failed)?;
    }
    out.flush().map_err(failed)
}
