//! When a run evaluates, logs and saves.

use trainer_config::{Config, EvalStrategy, SaveStrategy};

use crate::error::{Result, TrainerError};

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Every {
    Steps(usize),
    Epoch,
    /// Not even at the start and the end.
    Never,
}

impl Every {
    /// Whether it happens after `step`.
    pub(super) fn is_due(self, step: usize, ends_epoch: bool) -> bool {
        match self {
            Self::Steps(every) => step.is_multiple_of(every),
            Self::Epoch => ends_epoch,
            Self::Never => false,
        }
    }

    /// `steps` as written: a number of steps, or below 1 a part of `total`.
    fn of_steps(steps: f64, total: usize) -> Self {
        match steps < 1.0 {
            true => Self::Steps((total as f64 * steps).ceil().max(1.0) as usize),
            false => Self::Steps(steps as usize),
        }
    }
}

/// The sizes that cadences depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub(super) total_steps: usize,
    /// Steps of the first epoch; a stream has none.
    pub(super) epoch_steps: Option<usize>,
}

impl Lengths {
    /// `n` times an epoch.
    fn per_epoch(self, n: usize, key: &str, instead: &str) -> Result<Every> {
        let steps = self.epoch_steps.ok_or_else(|| {
            TrainerError::Setup(format!(
                "a stream of data has no epochs: write `{instead}` in place of `{key}`"
            ))
        })?;
        Ok(Every::Steps(steps.div_ceil(n).max(1)))
    }
}

/// When to evaluate, where there is something to evaluate on.
pub(super) fn evaluation(config: &Config, lengths: Lengths) -> Result<Every> {
    Ok(
        match (
            config.eval_steps,
            config.evals_per_epoch,
            config.eval_strategy,
        ) {
            (Some(steps), _, _) => Every::of_steps(steps, lengths.total_steps),
            (_, Some(n), _) => lengths.per_epoch(n, "evals_per_epoch", "eval_steps")?,
            (_, _, Some(EvalStrategy::No)) => Every::Never,
            (_, _, Some(EvalStrategy::Epoch | EvalStrategy::Steps) | None) => Every::Epoch,
        },
    )
}

/// When to write checkpoints; those of the best evaluations come on top.
pub(super) fn saving(config: &Config, lengths: Lengths) -> Result<Every> {
    let keys = &config.checkpoint;
    Ok(
        match (keys.save_steps, keys.saves_per_epoch, keys.save_strategy) {
            (Some(steps), _, _) => Every::of_steps(steps, lengths.total_steps),
            (_, Some(n), _) => lengths.per_epoch(n, "saves_per_epoch", "save_steps")?,
            (_, _, Some(SaveStrategy::No | SaveStrategy::Best)) => Every::Never,
            (_, _, Some(SaveStrategy::Epoch | SaveStrategy::Steps) | None) => Every::Epoch,
        },
    )
}

/// Steps between log rows.
pub(super) fn logging_steps(config: &Config, total_steps: usize) -> usize {
    config
        .logging_steps
        .unwrap_or_else(|| (total_steps / 200).clamp(1, 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainer_config::CheckpointConfig;

    fn saved(checkpoint: CheckpointConfig, epoch_steps: Option<usize>) -> Result<Every> {
        let config = Config {
            checkpoint,
            ..Config::default()
        };
        let lengths = Lengths {
            total_steps: 100,
            epoch_steps,
        };
        saving(&config, lengths)
    }

    #[test]
    fn checkpoints_come_as_configured() {
        let keys = CheckpointConfig::default;
        let at = |keys, epoch| saved(keys, epoch).unwrap();
        assert_eq!(at(keys(), Some(10)), Every::Epoch);
        let steps = |save_steps| CheckpointConfig {
            save_steps: Some(save_steps),
            ..keys()
        };
        assert_eq!(at(steps(7.0), None), Every::Steps(7));
        assert_eq!(at(steps(0.25), None), Every::Steps(25));
        assert_eq!(at(steps(0.0001), None), Every::Steps(1));
        let best = CheckpointConfig {
            save_strategy: Some(SaveStrategy::Best),
            ..keys()
        };
        assert_eq!(at(best, Some(10)), Every::Never);
        let thrice = CheckpointConfig {
            saves_per_epoch: Some(3),
            ..keys()
        };
        assert_eq!(at(thrice.clone(), Some(10)), Every::Steps(4));
        assert_eq!(
            saved(thrice, None).unwrap_err().to_string(),
            "a stream of data has no epochs: write `save_steps` in place of `saves_per_epoch`"
        );
    }
}
