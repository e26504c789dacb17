//! Why the data of a run is prepared, or is not, by comparing inputs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use trainer_config::Config;

use super::entry::{check, read_manifest};
use super::key::{Difference, Fingerprint};
use crate::{DataError, Tokenizer};

/// Why the data of a run is, or is not, there already.
#[derive(Debug)]
pub struct Explanation {
    /// Folder of prepared data sets, if they are kept.
    pub root: Option<PathBuf>,
    /// The name that the run's data has there.
    pub key: String,
    /// Whether it is there, complete and undamaged.
    pub found: bool,
    /// What is wrong with the one that is there.
    pub damaged: Option<String>,
    /// Number of other prepared data sets.
    pub others: usize,
    /// The one with the fewest differences, and these.
    pub nearest: Option<(String, Vec<Difference>)>,
}

/// Compares the inputs of a run with the prepared data sets; prepares nothing.
///
/// # Errors
/// A data set whose files cannot be found or read.
pub fn explain_cache(config: &Config, tokenizer: &Tokenizer) -> Result<Explanation, DataError> {
    let fingerprint = Fingerprint::new(config, tokenizer)?;
    let key = fingerprint.key();
    let mut explanation = Explanation {
        root: super::folder(config).map(Path::to_owned),
        found: false,
        damaged: None,
        others: 0,
        nearest: None,
        key,
    };
    let Some(root) = &explanation.root else {
        return Ok(explanation);
    };
    match check(&root.join(&explanation.key), &fingerprint) {
        Ok(found) => explanation.found = found,
        Err(reason) => explanation.damaged = Some(reason),
    }
    let mut names: Vec<String> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| *name != explanation.key && !name.starts_with('.'))
        .collect();
    names.sort();
    for name in names {
        let Ok(manifest) = read_manifest(&root.join(&name)) else {
            continue;
        };
        explanation.others += 1;
        let differences = fingerprint.differences(&manifest.inputs);
        let nearest = explanation.nearest.as_ref();
        if nearest.is_none_or(|(_, best)| differences.len() < best.len()) {
            explanation.nearest = Some((name, differences));
        }
    }
    Ok(explanation)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(root) = &self.root else {
            return writeln!(
                f,
                "prepared data sets are not kept: `dataset_prepared_path` is empty"
            );
        };
        let here = root.join(&self.key);
        let here = here.display();
        if self.found {
            return writeln!(f, "the prepared data set {here} is used");
        }
        match &self.damaged {
            Some(reason) => writeln!(f, "the prepared data set {here} is damaged: {reason}")?,
            None => writeln!(f, "there is no prepared data set {here}")?,
        }
        match &self.nearest {
            None => writeln!(f, "{} holds no other", root.display()),
            Some((name, differences)) => {
                writeln!(f, "the nearest of {} others is {name}:", self.others)?;
                for difference in differences {
                    writeln!(f, "  {difference}")?;
                }
                Ok(())
            }
        }
    }
}
