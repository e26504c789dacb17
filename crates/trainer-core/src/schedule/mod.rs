//! Learning-rate schedules: the factor on the peak rate at each step.
//!
//! `t` counts the optimizer steps already taken, so the first step sees `t = 0`;
//! `W` is the number of warmup steps and `T` the number of all steps. Factors
//! are those of transformers, torch and Axolotl under the same names, except
//! that no schedule rises again past `T`.
//!
//! References: transformers `optimization.py`; torch `OneCycleLR`; REX is arXiv
//! 2107.04197; one-cycle is arXiv 1708.07120; warmup-stable-decay is arXiv
//! 2404.06395.

mod metric;

use std::f64::consts::PI;

use trainer_config::{Config, LrScheduler};

use self::metric::{Greedy, Plateau};
use crate::error::{Result, TrainerError};
use crate::kwargs::Kwargs;

/// The key of the parameters of a schedule.
const KWARGS: &str = "lr_scheduler_kwargs";

/// The learning rate over a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    peak: f64,
    shape: Shape,
    warmup: usize,
    total: usize,
    jagged: Option<Jagged>,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine {
        cycles: f64,
        min: f64,
        quadratic_warmup: bool,
    },
    CosineConstant {
        min: f64,
        constant_after: f64,
    },
    CosineWarmupMin {
        cycles: f64,
        min: f64,
        warmup_start: Option<f64>,
    },
    CosineRestarts {
        cycles: f64,
    },
    Polynomial {
        end: f64,
        power: f64,
    },
    InverseSqrt {
        timescale: f64,
    },
    WarmupStableDecay(StableDecay),
    OneCycle(OneCycle),
    Rex {
        min: f64,
    },
    Plateau(Plateau),
    Greedy(Greedy),
}

#[derive(Debug, Clone, PartialEq)]
struct StableDecay {
    stable: f64,
    decay: f64,
    min: f64,
    cycles: f64,
    warmup_curve: Curve,
    decay_curve: Curve,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Curve {
    Linear,
    Cosine,
    OneMinusSqrt,
}

const CURVES: &[(&str, Curve)] = &[
    ("linear", Curve::Linear),
    ("cosine", Curve::Cosine),
    ("1-sqrt", Curve::OneMinusSqrt),
];

#[derive(Debug, Clone, PartialEq)]
struct OneCycle {
    div_factor: f64,
    final_div_factor: f64,
    rising: f64,
    base_momentum: f64,
    max_momentum: f64,
    cycle_momentum: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Jagged {
    every: usize,
    warmup: usize,
    anneal: usize,
    min: f64,
}

/// Steps over which the rate rises: as configured, else 3% of all steps and at
/// most 100.
#[must_use]
pub fn warmup_steps(config: &Config, total: usize) -> usize {
    match (config.warmup_steps, config.warmup_ratio) {
        (Some(steps), _) => steps,
        (None, Some(ratio)) => (ratio * total as f64) as usize,
        (None, None) => ((0.03 * total as f64) as usize).min(100),
    }
}

impl Schedule {
    /// The schedule of a configuration over `total` steps.
    ///
    /// # Errors
    /// When `lr_scheduler_kwargs` holds a name that the schedule does not take
    /// or lacks one that it needs, or when the steps do not fit together.
    pub fn new(config: &Config, total: usize) -> Result<Self> {
        let warmup = warmup_steps(config, total);
        let mut kwargs = Kwargs::new(
            KWARGS,
            config.lr_scheduler,
            config.lr_scheduler_kwargs.as_ref(),
        );
        let shape = shape(config, warmup, total, &mut kwargs)?;
        kwargs.finish()?;
        let jagged = config.jagged_restart_steps.map(|every| Jagged {
            every,
            warmup: config.jagged_restart_warmup_steps.unwrap_or(10),
            anneal: config.jagged_restart_anneal_steps.unwrap_or(1),
            min: config.cosine_min_lr_ratio.unwrap_or(0.001),
        });
        if let Some(jagged) = &jagged
            && jagged.warmup + jagged.anneal > jagged.every
        {
            return Err(TrainerError::setting(
                "jagged_restart_steps",
                format!(
                    "{} steps leave no room for {} of warmup and {} of annealing",
                    jagged.every, jagged.warmup, jagged.anneal
                ),
            ));
        }
        Ok(Self {
            peak: config.learning_rate,
            shape,
            warmup,
            total,
            jagged,
        })
    }

    /// Learning rate of the step after `t` steps.
    #[must_use]
    pub fn learning_rate(&self, t: usize) -> f64 {
        let rate = match &self.shape {
            Shape::Plateau(plateau) => plateau.rate(),
            Shape::Greedy(greedy) => greedy.rate(),
            _ => self.peak * self.factor(t),
        };
        match &self.jagged {
            Some(jagged) => jagged.apply(t, rate),
            None => rate,
        }
    }

    /// First-moment decay of the step after `t` steps, where the schedule sets
    /// it (one-cycle lowers it while the rate rises).
    #[must_use]
    pub fn beta1(&self, t: usize) -> Option<f64> {
        match &self.shape {
            Shape::OneCycle(cycle) if cycle.cycle_momentum => Some(cycle.momentum(t, self.total)),
            _ => None,
        }
    }

    /// Tells a schedule that follows the evaluation loss about a new one.
    pub fn evaluated(&mut self, loss: f64) {
        match &mut self.shape {
            Shape::Plateau(plateau) => plateau.evaluated(loss),
            Shape::Greedy(greedy) => greedy.evaluated(loss),
            _ => {}
        }
    }

    /// What such a schedule remembers; empty for one that follows the step alone.
    #[must_use]
    pub fn state(&self) -> Vec<f64> {
        match &self.shape {
            Shape::Plateau(plateau) => plateau.state(),
            Shape::Greedy(greedy) => greedy.state(),
            _ => Vec::new(),
        }
    }

    /// Goes on with what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// When it is the state of another schedule.
    pub fn restore(&mut self, state: &[f64]) -> Result<()> {
        let fits = match &mut self.shape {
            Shape::Plateau(plateau) => plateau.restore(state),
            Shape::Greedy(greedy) => greedy.restore(state),
            _ => state.is_empty(),
        };
        match fits {
            true => Ok(()),
            false => Err(TrainerError::setting(
                "lr_scheduler",
                "the checkpoint holds the state of another schedule".into(),
            )),
        }
    }

    fn factor(&self, t: usize) -> f64 {
        let (warmup, total) = (self.warmup as f64, self.total as f64);
        // Past the end a schedule stays where it arrived.
        let step = t.min(self.total) as f64;
        let rise = step / warmup.max(1.0);
        let warming = t < self.warmup;
        let progress = (step - warmup) / (total - warmup).max(1.0);
        match &self.shape {
            // The last two have rates of their own.
            Shape::Constant | Shape::Plateau(_) | Shape::Greedy(_) => 1.0,
            Shape::OneCycle(cycle) => cycle.factor(t, self.total),
            Shape::Rex { min } => rex(t + 1, self.warmup, self.total, *min),
            Shape::WarmupStableDecay(shape) => shape.factor(step, warmup),
            Shape::CosineWarmupMin {
                cycles,
                min,
                warmup_start,
            } => {
                if warming {
                    return match warmup_start {
                        None => (step + 1.0) / warmup.max(1.0),
                        Some(start) => start + (1.0 - start) * step / (warmup - 1.0).max(1.0),
                    };
                }
                let progress = (step - warmup + 1.0) / (total - warmup).max(1.0);
                cosine(progress.min(1.0), *cycles, *min)
            }
            Shape::CosineConstant {
                min,
                constant_after,
            } => {
                let last = (total * constant_after).floor();
                let step = step.min(last);
                if step < warmup {
                    step / warmup.max(1.0)
                } else {
                    cosine((step - warmup) / (last - warmup).max(1.0), 0.5, *min)
                }
            }
            Shape::Cosine {
                quadratic_warmup: true,
                ..
            } if warming => rise * rise,
            _ if warming => rise,
            Shape::ConstantWithWarmup => 1.0,
            Shape::Linear => ((total - step) / (total - warmup).max(1.0)).max(0.0),
            Shape::Cosine { cycles, min, .. } => cosine(progress, *cycles, *min),
            Shape::CosineRestarts { cycles } => {
                if progress >= 1.0 {
                    0.0
                } else {
                    0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())
                }
            }
            Shape::Polynomial { end, power } => {
                let end = end / self.peak;
                (1.0 - end) * (1.0 - progress).max(0.0).powf(*power) + end
            }
            Shape::InverseSqrt { timescale } => {
                let shift = timescale - warmup;
                (((t as f64) + shift) / timescale).sqrt().recip()
            }
        }
    }
}

/// Half a cosine from 1 to `min` for `cycles` of 0.5.
fn cosine(progress: f64, cycles: f64, min: f64) -> f64 {
    let factor = 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
    (factor * (1.0 - min) + min).max(0.0)
}

/// Reflected exponential; `t` counts from 1.
fn rex(t: usize, warmup: usize, total: usize, min: f64) -> f64 {
    if t <= warmup && warmup > 0 {
        return t as f64 / warmup as f64;
    }
    let (past, rest) = ((t - warmup) as f64, total.saturating_sub(warmup) as f64);
    if past >= rest {
        return min;
    }
    let left = (rest - past) / rest;
    min + (1.0 - min) * left / (0.1 + 0.9 * left)
}

impl StableDecay {
    fn factor(&self, step: f64, warmup: f64) -> f64 {
        if step < warmup {
            let rise = self.warmup_curve.rise(step / warmup.max(1.0), self.cycles);
            return rise * (1.0 - self.min) + self.min;
        }
        if step < warmup + self.stable {
            return 1.0;
        }
        if step < warmup + self.stable + self.decay {
            let progress = (step - warmup - self.stable) / self.decay.max(1.0);
            let fall = self.decay_curve.fall(progress, self.cycles);
            return (fall * (1.0 - self.min) + self.min).max(0.0);
        }
        self.min
    }
}

impl Curve {
    fn rise(self, progress: f64, cycles: f64) -> f64 {
        match self {
            Self::Linear => progress,
            Self::Cosine => 0.5 * (1.0 - (PI * cycles * 2.0 * progress).cos()),
            Self::OneMinusSqrt => 1.0 - (1.0 - progress).max(0.0).sqrt(),
        }
    }

    fn fall(self, progress: f64, cycles: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - progress,
            Self::Cosine => 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos()),
            Self::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }
}

impl OneCycle {
    /// Ends of the rising and the falling phase, in steps.
    fn phases(&self, total: usize) -> (f64, f64) {
        (self.rising * total as f64 - 1.0, total as f64 - 1.0)
    }

    /// From `a` to `b` along half a cosine as `progress` goes from 0 to 1.
    fn anneal(a: f64, b: f64, progress: f64) -> f64 {
        b + (a - b) / 2.0 * (1.0 + (PI * progress).cos())
    }

    fn at(&self, t: usize, total: usize, start: f64, middle: f64, end: f64) -> f64 {
        let (peak, last) = self.phases(total);
        let step = (t as f64).min(last);
        if step <= peak || last <= peak {
            Self::anneal(start, middle, if peak > 0.0 { step / peak } else { 1.0 })
        } else {
            Self::anneal(middle, end, (step - peak) / (last - peak))
        }
    }

    fn factor(&self, t: usize, total: usize) -> f64 {
        let start = 1.0 / self.div_factor;
        self.at(t, total, start, 1.0, start / self.final_div_factor)
    }

    fn momentum(&self, t: usize, total: usize) -> f64 {
        self.at(
            t,
            total,
            self.max_momentum,
            self.base_momentum,
            self.max_momentum,
        )
    }
}

impl Jagged {
    fn apply(&self, t: usize, factor: f64) -> f64 {
        let (every, anneal) = (self.every, self.anneal);
        let within = t % every;
        let scale = if t < every - anneal {
            1.0
        } else if within < self.warmup {
            within as f64 / self.warmup as f64
        } else if within > every - anneal {
            (every - within) as f64 / anneal as f64
        } else {
            1.0
        };
        factor * (scale * (1.0 - self.min) + self.min)
    }
}

fn shape(config: &Config, warmup: usize, total: usize, kwargs: &mut Kwargs<'_>) -> Result<Shape> {
    let min_ratio = config.cosine_min_lr_ratio;
    Ok(match config.lr_scheduler {
        LrScheduler::Constant => Shape::Constant,
        LrScheduler::ConstantWithWarmup => Shape::ConstantWithWarmup,
        LrScheduler::Linear => Shape::Linear,
        LrScheduler::Cosine => match (min_ratio, config.cosine_constant_lr_ratio) {
            _ if config.lr_quadratic_warmup => Shape::Cosine {
                cycles: kwargs.number("num_cycles", 0.5)?,
                min: 0.0,
                quadratic_warmup: true,
            },
            (Some(min), Some(constant_after)) => Shape::CosineConstant {
                min,
                constant_after,
            },
            (min, _) => Shape::Cosine {
                cycles: kwargs.number("num_cycles", 0.5)?,
                min: min.unwrap_or(0.0),
                quadratic_warmup: false,
            },
        },
        LrScheduler::CosineWithRestarts => Shape::CosineRestarts {
            cycles: kwargs.number("num_cycles", 1.0)?,
        },
        LrScheduler::CosineWithMinLr => Shape::Cosine {
            cycles: kwargs.number("num_cycles", 0.5)?,
            min: min_ratio_of(config, kwargs)?,
            quadratic_warmup: false,
        },
        LrScheduler::CosineWarmupWithMinLr => Shape::CosineWarmupMin {
            cycles: kwargs.number("num_cycles", 0.5)?,
            min: min_ratio_of(config, kwargs)?,
            warmup_start: kwargs.optional_number("warmup_lr_rate")?,
        },
        LrScheduler::Polynomial => Shape::Polynomial {
            end: kwargs.number("lr_end", 1e-7)?,
            power: kwargs.number("power", 1.0)?,
        },
        LrScheduler::InverseSqrt => {
            let default = if warmup == 0 { 10_000.0 } else { warmup as f64 };
            Shape::InverseSqrt {
                timescale: kwargs.number("timescale", default)?,
            }
        }
        LrScheduler::WarmupStableDecay => {
            let decay = kwargs.needed_number("num_decay_steps")?;
            let default = (total as f64 - warmup as f64 - decay).max(0.0);
            Shape::WarmupStableDecay(StableDecay {
                stable: kwargs.number("num_stable_steps", default)?,
                decay,
                min: kwargs.number("min_lr_ratio", 0.0)?,
                cycles: kwargs.number("num_cycles", 0.5)?,
                warmup_curve: kwargs.choice("warmup_type", CURVES, Curve::Linear)?,
                decay_curve: kwargs.choice("decay_type", CURVES, Curve::Cosine)?,
            })
        }
        LrScheduler::ReduceLrOnPlateau => {
            Shape::Plateau(Plateau::new(config.learning_rate, kwargs)?)
        }
        LrScheduler::Greedy => Shape::Greedy(Greedy::new(config.learning_rate, kwargs)?),
        LrScheduler::OneCycle => Shape::OneCycle(OneCycle {
            div_factor: kwargs.number("div_factor", 25.0)?,
            final_div_factor: kwargs.number("final_div_factor", 1e4)?,
            rising: kwargs.number("pct_start", warmup as f64 / total.max(1) as f64)?,
            base_momentum: kwargs.number("base_momentum", 0.85)?,
            max_momentum: kwargs.number("max_momentum", 0.95)?,
            cycle_momentum: kwargs.flag("cycle_momentum", true)?,
        }),
        LrScheduler::Rex => {
            if warmup > total {
                return Err(TrainerError::setting(
                    "warmup_steps",
                    format!("{warmup} steps of warmup are more than the {total} steps of the run"),
                ));
            }
            Shape::Rex {
                min: min_ratio.unwrap_or(0.0),
            }
        }
    })
}

/// `min_lr` over the peak, or `min_lr_rate`; one of the two is needed.
fn min_ratio_of(config: &Config, kwargs: &mut Kwargs<'_>) -> Result<f64> {
    match (
        kwargs.optional_number("min_lr")?,
        kwargs.optional_number("min_lr_rate")?,
    ) {
        (Some(min), None) => Ok(min / config.learning_rate),
        (None, Some(rate)) => Ok(rate),
        _ => Err(TrainerError::setting(
            KWARGS,
            format!(
                "{} needs min_lr or min_lr_rate, and not both",
                config.lr_scheduler
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
