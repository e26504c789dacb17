//! What can be known of the data sets of a configuration without reading them: whether
//! their files are there, and whether their first rows are what their `type` says.

use seqprep::{KtoSample, PreferencePair, Sample, StepSample};
use trainer_config::{Config, Dataset};

use crate::pipeline::{Kind, Task};
use crate::prepare::Build;
use crate::source::{self, skips};
use crate::stream::StreamOptions;
use crate::{DataError, PreferenceObjective, Tokenizer};

/// Looks for the files of each data set, and at the first row of the first of them.
/// Returns what is wrong, with the data set as the configuration knows it
/// (`datasets.0`). Without a tokenizer the rows are not looked at. `objective` is that
/// of preferences, none for supervised fine-tuning. Data sets of the hub are left out.
#[must_use]
pub fn check_data(
    config: &Config,
    tokenizer: Option<&Tokenizer>,
    objective: Option<PreferenceObjective>,
) -> Vec<(String, DataError)> {
    let mut found = Vec::new();
    let mut look = |place: String, dataset: &Dataset, limit: usize| {
        // A path that is missing has been reported.
        if dataset.path.as_os_str().is_empty() || source::is_remote(dataset) {
            return;
        }
        if let Err(error) = first_row(config, dataset, tokenizer, objective, limit) {
            found.push((place, error));
        }
    };
    if config.pretraining_dataset.is_some() {
        let sources = StreamOptions::new(config).sources;
        for (index, entry) in sources.iter().enumerate() {
            let place = format!("pretraining_dataset.{index}");
            look(place, &entry.dataset, config.sequence_len);
        }
    } else {
        for (index, dataset) in config.datasets.iter().enumerate() {
            look(format!("datasets.{index}"), dataset, config.sequence_len);
        }
    }
    let limit = config.eval_sequence_len.unwrap_or(config.sequence_len);
    for (index, dataset) in config.test_datasets.iter().flatten().enumerate() {
        look(format!("test_datasets.{index}"), dataset, limit);
    }
    found
}

fn first_row(
    config: &Config,
    dataset: &Dataset,
    tokenizer: Option<&Tokenizer>,
    objective: Option<PreferenceObjective>,
    limit: usize,
) -> Result<(), DataError> {
    use PreferenceObjective::{Cpo, Kto, Orpo, Pairwise, ProcessRewardModel, RewardModel};
    let row = match source::first_row(dataset) {
        Err(error) if skips(config, &error) => return Ok(()),
        row => row?,
    };
    let (Some(row), Some(tokenizer)) = (row, tokenizer) else {
        return Ok(());
    };
    // Of a part of the rows, the first row need not be one.
    let part = dataset
        .split
        .as_ref()
        .is_some_and(|split| split.contains('['))
        || dataset.shards.is_some()
        || dataset.weight.is_some_and(|weight| weight < 1.0);
    if part {
        return Ok(());
    }
    let read = match objective {
        None => read::<Sample>(config, dataset, tokenizer, limit, Build::KNOWN, &row),
        Some(purpose @ Kto) => read::<KtoSample>(config, dataset, tokenizer, limit, purpose, &row),
        Some(purpose @ (Pairwise | Orpo | Cpo | RewardModel)) => {
            read::<PreferencePair>(config, dataset, tokenizer, limit, purpose, &row)
        }
        Some(purpose @ ProcessRewardModel) => {
            read::<StepSample>(config, dataset, tokenizer, limit, purpose, &row)
        }
    };
    read.or_else(|error| match skips(config, &error) {
        true => Ok(()),
        false => Err(error),
    })
}

fn read<K: Kind>(
    config: &Config,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    limit: usize,
    purpose: K::Purpose,
    row: &source::Row,
) -> Result<(), DataError> {
    let task = Task {
        config,
        dataset,
        tokenizer,
        limit,
        purpose,
    };
    let reader = K::reader(&task, row)?;
    K::read(&reader, row).map(drop)
}
