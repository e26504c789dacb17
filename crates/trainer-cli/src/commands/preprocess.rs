//! `trainer preprocess`: data sets to tokens, without a model.

use std::io::{Write as _, stdout};
use std::path::Path;

use trainer_config::Task;
use trainer_data::CacheOutcome;

use crate::args::Run;
use crate::failure::Failure;
use crate::session::{
    explain, is_streamed, load_layers, load_preferences, load_samples, load_tokenizer,
};

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([export, saved, explained], overrides) =
        run.flags(["export_jsonl", "save_to_disk", "explain_cache"])?;
    let config = load_layers(&run.config, overrides)?.config;
    if is_streamed(&config) {
        return Err(Failure::new(
            "the data of this run is read while training, so that there is nothing to \
             prepare; `trainer preview` shows rows of it",
        ));
    }
    let tokenizer = load_tokenizer(&config)?;
    if explained.is_some() {
        explain(&config, &tokenizer)?;
    }
    let outcome = match config.preference.task() {
        Task::Sft => {
            let (prepared, outcome) = load_samples(&config, &tokenizer)?;
            writeln!(stdout(), "{}", prepared.ledger)?;
            if let Some(path) = export {
                trainer_data::export_jsonl(&prepared.train, Path::new(&path))?;
                writeln!(stdout(), "{} rows written to {path}", prepared.train.len())?;
            }
            if let Some(folder) = saved {
                trainer_data::save_to_disk(&prepared.train, Path::new(&folder))?;
                writeln!(stdout(), "{} rows saved to {folder}", prepared.train.len())?;
            }
            outcome
        }
        Task::Rl(_) | Task::RewardModel | Task::ProcessRewardModel => {
            let flags = [("--export_jsonl", &export), ("--save_to_disk", &saved)];
            if let Some((flag, _)) = flags.iter().find(|(_, value)| value.is_some()) {
                return Err(Failure::new(format!(
                    "{flag} writes rows of tokens, which preferences and judged answers \
                     are not; without it they are prepared for training"
                )));
            }
            let (prepared, outcome) = load_preferences(&config, &tokenizer)?;
            writeln!(stdout(), "{}", prepared.ledger)?;
            outcome
        }
    };
    match outcome {
        CacheOutcome::Loaded { entry } | CacheOutcome::Stored { entry, .. } => {
            writeln!(stdout(), "prepared data in {}", entry.display())?;
            Ok(())
        }
        CacheOutcome::NotStored { error } => Err(error.into()),
        _ => Ok(()),
    }
}
