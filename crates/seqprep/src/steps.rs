//! How many optimizer steps a run takes.
//!
//! Invariant: the number is exact for the micro-batches that really run, so
//! that a learning-rate schedule of that length ends with the run. Count the
//! micro-batches (pack first), do not estimate them.

use serde::{Deserialize, Serialize};

/// What determines the number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepPlan {
    /// Micro-batches that run in one epoch; see [`num_micro_batches`].
    pub micro_batches_per_epoch: u64,
    /// Micro-batches in one optimizer step. The last step of an epoch may have
    /// fewer: accumulation does not reach into the next epoch.
    pub gradient_accumulation_steps: u64,
    /// Passes over the data; may be fractional.
    pub num_epochs: f64,
    /// A number of steps that overrides `num_epochs`, more epochs included.
    pub max_steps: Option<u64>,
}

/// The answer to a [`StepPlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCount {
    /// Optimizer steps in a whole epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps in the run.
    pub total_steps: u64,
    /// Epochs that begin: the last may be cut short.
    pub epochs_started: u64,
}

/// Why no number of steps exists.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepsError {
    /// There is nothing to train on.
    #[error(
        "an epoch has no micro-batches: the data set is empty, or all of it was dropped or is \
         less than one whole batch"
    )]
    NoMicroBatches,
    /// No gradients would ever be applied.
    #[error("gradient_accumulation_steps is 0; it must be 1 or more")]
    ZeroAccumulation,
    /// The number of steps is given and 0.
    #[error("max_steps is 0; it must be 1 or more, or absent to train for num_epochs")]
    ZeroMaxSteps,
    /// Not a number of epochs.
    #[error("num_epochs is {0}; it must be a number above 0")]
    Epochs(f64),
}

/// Micro-batches of `micro_batch_size` rows out of `rows`; the ragged last one
/// counts unless `drop_last`. A size of 0 counts as 1.
pub fn num_micro_batches(rows: u64, micro_batch_size: u64, drop_last: bool) -> u64 {
    let size = micro_batch_size.max(1);
    if drop_last {
        rows / size
    } else {
        rows.div_ceil(size)
    }
}

/// The number of optimizer steps of a run.
///
/// An epoch takes `ceil(micro_batches / accumulation)` steps and a run
/// `ceil(num_epochs × steps_per_epoch)`, packed or not. A product within one
/// part in 10^9 of a whole number is that number: 1.1 epochs of 10 steps are
/// 11 steps, although 1.1 × 10 is a little more than 11 in floating point.
///
/// # Errors
/// See [`StepsError`]. `num_epochs` is not looked at when `max_steps` is set.
pub fn calculate_total_num_steps(plan: &StepPlan) -> Result<StepCount, StepsError> {
    if plan.micro_batches_per_epoch == 0 {
        return Err(StepsError::NoMicroBatches);
    }
    if plan.gradient_accumulation_steps == 0 {
        return Err(StepsError::ZeroAccumulation);
    }
    let steps_per_epoch = plan
        .micro_batches_per_epoch
        .div_ceil(plan.gradient_accumulation_steps);
    let total_steps = match plan.max_steps {
        Some(0) => return Err(StepsError::ZeroMaxSteps),
        Some(steps) => steps,
        None if !plan.num_epochs.is_finite() || plan.num_epochs <= 0.0 => {
            return Err(StepsError::Epochs(plan.num_epochs));
        }
        None => {
            let steps = plan.num_epochs * steps_per_epoch as f64;
            let whole = steps.round();
            if (steps - whole).abs() <= whole * 1e-9 {
                whole as u64
            } else {
                steps.ceil() as u64
            }
        }
    };
    Ok(StepCount {
        steps_per_epoch,
        total_steps,
        epochs_started: total_steps.div_ceil(steps_per_epoch),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(micro_batches: u64, accumulation: u64, epochs: f64) -> u64 {
        calculate_total_num_steps(&StepPlan {
            micro_batches_per_epoch: micro_batches,
            gradient_accumulation_steps: accumulation,
            num_epochs: epochs,
            max_steps: None,
        })
        .unwrap()
        .total_steps
    }

    #[test]
    fn counts_whole_and_partial_windows() {
        assert_eq!(total(3, 1, 2.0), 6);
        assert_eq!(total(10, 4, 1.0), 3);
        assert_eq!(total(10, 4, 2.0), 6);
        assert_eq!(total(10, 100, 3.0), 3);
        assert_eq!(total(num_micro_batches(6, 4, false), 1, 1.5), 3);
        assert_eq!(total(num_micro_batches(3, 2, true), 1, 2.0), 2);
        assert_eq!(total(3, 1, 0.01), 1);
    }

    #[test]
    fn floating_point_adds_no_step() {
        for tenths in 1..=50_u64 {
            for steps in [10, 20, 70] {
                let epochs = tenths as f64 / 10.0;
                assert_eq!(total(steps, 1, epochs), tenths * steps / 10, "{epochs}");
            }
        }
        // A real fraction still rounds up.
        assert_eq!(total(1_000_000, 1, 1.000_001_5), 1_000_002);
    }

    #[test]
    fn max_steps_wins_in_both_directions() {
        let plan = StepPlan {
            micro_batches_per_epoch: 10,
            gradient_accumulation_steps: 2,
            num_epochs: f64::NAN,
            max_steps: Some(12),
        };
        assert_eq!(
            calculate_total_num_steps(&plan),
            Ok(StepCount {
                steps_per_epoch: 5,
                total_steps: 12,
                epochs_started: 3
            })
        );
    }

    #[test]
    fn impossible_plans_are_errors() {
        let plan = StepPlan {
            micro_batches_per_epoch: 10,
            gradient_accumulation_steps: 2,
            num_epochs: 1.0,
            max_steps: None,
        };
        let error = |plan: StepPlan| calculate_total_num_steps(&plan).unwrap_err();
        let none = StepPlan {
            micro_batches_per_epoch: 0,
            ..plan
        };
        assert_eq!(error(none), StepsError::NoMicroBatches);
        let zero = StepPlan {
            gradient_accumulation_steps: 0,
            ..plan
        };
        assert_eq!(error(zero), StepsError::ZeroAccumulation);
        let zero = StepPlan {
            max_steps: Some(0),
            ..plan
        };
        assert_eq!(error(zero), StepsError::ZeroMaxSteps);
        for epochs in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            let plan = StepPlan {
                num_epochs: epochs,
                ..plan
            };
            assert!(matches!(error(plan), StepsError::Epochs(_)));
        }
    }
}
