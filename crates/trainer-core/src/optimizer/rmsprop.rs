//! RMSprop, as `torch.optim.RMSprop` computes it.
//!
//! ```text
//! g ← g + wd · p
//! s ← α · s + (1 - α) g²
//! a ← a + (1 - α)(g - a)             (centered; then s - a² in place of s below)
//! b ← μ · b + g / (√s + ε)           (momentum; otherwise b is the quotient)
//! p ← p - lr · b
//! ```
//! Reference: Tieleman and Hinton, lecture 6.5 of "Neural networks for machine
//! learning"; the centered form is that of arXiv 1308.0850.

use burn::prelude::*;

use super::elements::{PerElement, Value};
use super::engine::At;
use crate::error::Result;
use crate::kwargs::Kwargs;

/// RMSprop.
#[derive(Debug)]
pub(super) struct RmsProp {
    alpha: f64,
    epsilon: f64,
    momentum: f64,
    centered: bool,
}

/// The parts of a state that are there.
struct Kept<'a, T> {
    square: &'a mut T,
    average: Option<&'a mut T>,
    buffer: Option<&'a mut T>,
}

impl RmsProp {
    /// Takes `alpha` (0.99), `eps` (1e-8), `momentum` (0) and `centered` (false).
    pub(super) fn new(arguments: &mut Kwargs<'_>) -> Result<Self> {
        Ok(Self {
            alpha: arguments.shrinking("alpha", 0.99)?,
            epsilon: arguments.number("eps", 1e-8)?,
            momentum: arguments.number("momentum", 0.0)?,
            centered: arguments.flag("centered", false)?,
        })
    }

    /// `state` in the order of [`PerElement::values`].
    fn kept<'a, T>(&self, state: &'a mut [T]) -> Kept<'a, T> {
        let mut state = state.iter_mut();
        let Some(square) = state.next() else {
            unreachable!("the mean square is always kept");
        };
        Kept {
            square,
            average: if self.centered { state.next() } else { None },
            buffer: if self.momentum > 0.0 {
                state.next()
            } else {
                None
            },
        }
    }
}

impl PerElement for RmsProp {
    fn values(&self) -> Vec<Value> {
        let mut values = vec![Value {
            name: "square_avg",
            signed: false,
        }];
        if self.centered {
            values.push(Value {
                name: "grad_avg",
                signed: true,
            });
        }
        if self.momentum > 0.0 {
            values.push(Value {
                name: "momentum_buffer",
                signed: true,
            });
        }
        values
    }

    #[inline(always)]
    fn on_slices(&self, at: &At, value: &mut [f32], gradient: &[f32], state: &mut [&mut [f32]]) {
        let Kept {
            square,
            mut average,
            mut buffer,
        } = self.kept(state);
        let (rate, decay) = (at.rate as f32, at.weight_decay as f32);
        let (alpha, rest) = (self.alpha as f32, (1.0 - self.alpha) as f32);
        let epsilon = self.epsilon as f32;
        let momentum = at.momentum.unwrap_or(self.momentum) as f32;
        for (i, ((p, &g), s)) in value
            .iter_mut()
            .zip(gradient)
            .zip(square.iter_mut())
            .enumerate()
        {
            let g = g + decay * *p;
            *s = alpha * *s + rest * g * g;
            let root = match &mut average {
                Some(average) => {
                    let a = &mut average[i];
                    *a += rest * (g - *a);
                    (*s - *a * *a).sqrt()
                }
                None => s.sqrt(),
            };
            let step = g / (root + epsilon);
            let step = match &mut buffer {
                Some(buffer) => {
                    let b = &mut buffer[i];
                    *b = momentum * *b + step;
                    *b
                }
                None => step,
            };
            *p -= rate * step;
        }
    }

    fn on_tensors(
        &self,
        at: &At,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: &mut [Tensor<1>],
    ) -> Tensor<1> {
        let Kept {
            square,
            average,
            buffer,
        } = self.kept(state);
        let rest = 1.0 - self.alpha;
        let gradient = gradient + value.clone() * at.weight_decay;
        *square = square.clone() * self.alpha + gradient.clone().square() * rest;
        let mean_square = match average {
            Some(average) => {
                *average = average.clone() + (gradient.clone() - average.clone()) * rest;
                square.clone() - average.clone().square()
            }
            None => square.clone(),
        };
        let mut step = gradient / (mean_square.sqrt() + self.epsilon);
        if let Some(buffer) = buffer {
            step = buffer.clone() * at.momentum.unwrap_or(self.momentum) + step;
            *buffer = step.clone();
        }
        value - step * at.rate
    }
}
