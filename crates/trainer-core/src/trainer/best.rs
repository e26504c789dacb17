//! Which evaluation was the best, and whether it is time to stop.

use serde_json::Value;
use trainer_config::{CheckpointConfig, SaveStrategy};

use crate::checkpoint::{BestState, Exact};
use crate::error::{Result, TrainerError};
use crate::history::LogRow;

/// Follows one value of the evaluations.
#[derive(Debug, Clone)]
pub(super) struct Best {
    metric: String,
    greater: bool,
    patience: Option<usize>,
    state: BestState,
}

impl Best {
    /// `None` where nothing depends on the best evaluation.
    pub(super) fn new(keys: &CheckpointConfig) -> Option<Self> {
        let wanted = keys.load_best_model_at_end
            || keys.metric_for_best_model.is_some()
            || keys.early_stopping_patience.is_some()
            || keys.save_strategy == Some(SaveStrategy::Best);
        let metric = keys
            .metric_for_best_model
            .clone()
            .unwrap_or_else(|| "eval_loss".into());
        let metric = match metric.starts_with("eval_") {
            true => metric,
            false => format!("eval_{metric}"),
        };
        let greater = keys
            .greater_is_better
            .unwrap_or_else(|| !(metric.ends_with("loss") || metric.ends_with("ppl")));
        wanted.then(|| Self {
            greater,
            patience: keys.early_stopping_patience,
            metric,
            state: BestState::default(),
        })
    }

    /// Takes an evaluation after `step` into account; true when it is the best so
    /// far.
    ///
    /// # Errors
    /// When the row lacks the value, and names those that it has; when the value is not
    /// finite, which a row holds as null.
    pub(super) fn evaluated(&mut self, row: &LogRow, step: usize) -> Result<bool> {
        let value = row.get(&self.metric);
        if value.is_some_and(Value::is_null) {
            return Err(TrainerError::Setup(format!(
                "`metric_for_best_model: {}` is not a finite number after step {step}, so that \
                 nothing can be compared with it: choose another value, such as eval_loss",
                self.metric
            )));
        }
        let Some(value) = value.and_then(Value::as_f64) else {
            let have: Vec<&str> = row
                .keys()
                .map(String::as_str)
                .filter(|key| key.starts_with("eval_"))
                .collect();
            return Err(TrainerError::Setup(format!(
                "`metric_for_best_model: {}` is not a value of the evaluation; these are: {}",
                self.metric,
                have.join(", ")
            )));
        };
        let better = self.state.value.is_none_or(|best| match self.greater {
            true => value > best.0,
            false => value < best.0,
        });
        // An evaluation before the first step is something to compare with, but
        // there is no checkpoint of it and it is no reason to stop.
        if better {
            self.state = BestState {
                value: Some(Exact(value)),
                step,
                worse: 0,
            };
        } else {
            self.no_better();
        }
        Ok(better && step > 0)
    }

    /// Counts an evaluation that is not the best one.
    pub(super) fn no_better(&mut self) {
        self.state.worse += 1;
    }

    /// Whether too many evaluations in a row were no better.
    pub(super) fn stops(&self) -> bool {
        self.patience
            .is_some_and(|patience| self.state.worse >= patience)
    }

    /// Step of the best evaluation; `None` before the first step.
    pub(super) fn step(&self) -> Option<usize> {
        (self.state.value.is_some() && self.state.step > 0).then_some(self.state.step)
    }

    /// Value of the best evaluation.
    pub(super) fn value(&self) -> Option<f64> {
        self.state.value.map(|value| value.0)
    }

    pub(super) fn state(&self) -> BestState {
        self.state.clone()
    }

    pub(super) fn restore(&mut self, state: BestState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: f64) -> LogRow {
        LogRow::from_iter([("eval_accuracy".to_owned(), json!(value))])
    }

    #[test]
    fn more_or_less_is_better_by_the_name() {
        let keys = CheckpointConfig {
            metric_for_best_model: Some("accuracy".into()),
            early_stopping_patience: Some(2),
            ..CheckpointConfig::default()
        };
        let mut best = Best::new(&keys).unwrap();
        let improved: Vec<bool> = [0.5, 0.7, 0.7, 0.6]
            .iter()
            .enumerate()
            .map(|(step, value)| best.evaluated(&row(*value), step).unwrap())
            .collect();
        assert_eq!(improved, [false, true, false, false]);
        assert!(best.stops());
        assert_eq!((best.step(), best.value()), (Some(1), Some(0.7)));

        let keys = CheckpointConfig {
            greater_is_better: Some(false),
            ..keys
        };
        let mut best = Best::new(&keys).unwrap();
        assert!(best.evaluated(&row(0.5), 1).unwrap());
        assert!(best.evaluated(&row(0.4), 2).unwrap());
        assert!(!best.stops());
    }

    #[test]
    fn a_value_that_is_not_there_is_named_with_those_that_are() {
        let keys = CheckpointConfig {
            load_best_model_at_end: true,
            ..CheckpointConfig::default()
        };
        let error = Best::new(&keys).unwrap().evaluated(&row(0.5), 1);
        assert_eq!(
            error.unwrap_err().to_string(),
            "`metric_for_best_model: eval_loss` is not a value of the evaluation; these are: \
             eval_accuracy"
        );
        assert!(Best::new(&CheckpointConfig::default()).is_none());
    }

    #[test]
    fn what_is_not_finite_is_never_the_best() {
        let keys = CheckpointConfig {
            load_best_model_at_end: true,
            ..CheckpointConfig::default()
        };
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut best = Best::new(&keys).unwrap();
            let row = LogRow::from_iter([("eval_loss".to_owned(), json!(value))]);
            let error = best.evaluated(&row, 3).unwrap_err().to_string();
            assert!(
                error.contains("is not a finite number after step 3"),
                "{error}"
            );
            assert_eq!((best.step(), best.value()), (None, None));
        }
    }
}
