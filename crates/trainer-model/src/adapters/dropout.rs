//! Dropout before the first factor, by a mask that can be drawn again.
//!
//! A mask is a function of the seed of the forward pass and of the map it belongs
//! to, so that a layer that is computed twice (recomputed in the backward pass)
//! drops the same values, and a resumed run those of the uninterrupted one.
//!
//! The seed belongs to a forward pass, not to a module. Handing it through every
//! block would put it into the signature of each of them, so it is kept for the
//! thread while a layer runs: [`DropoutScope`].

use std::cell::Cell;

use burn::prelude::*;

use super::random::{mix, uniform};

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Dropout is on in this thread while a scope with a seed lives.
pub(crate) struct DropoutScope {
    before: Option<u64>,
}

impl DropoutScope {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self {
            before: SEED.replace(seed),
        }
    }

    /// Whether dropout is on in this thread.
    pub(crate) fn is_on() -> bool {
        SEED.get().is_some()
    }
}

impl Drop for DropoutScope {
    fn drop(&mut self) {
        SEED.set(self.before);
    }
}

/// Zeroes elements of `x_ni` with the given probability and divides the others by
/// the probability to be kept; `None` where dropout is off. `place` tells maps apart.
pub(super) fn dropout(x_ni: &Tensor<2>, probability: f64, place: u64) -> Option<Tensor<2>> {
    let seed = SEED.get().filter(|_| probability > 0.0)?;
    let [n, i] = x_ni.dims();
    let seed = mix(seed ^ mix(place));
    let kept = (1.0 / (1.0 - probability)) as f32;
    let mask = (0..(n * i) as u64)
        .map(|index| {
            if uniform(seed, index) < probability {
                0.0
            } else {
                kept
            }
        })
        .collect::<Vec<f32>>();
    let device = x_ni.device().without_autodiff();
    let dtype = x_ni.dtype();
    let mask_ni = Tensor::from_data(TensorData::new(mask, [n, i]), (&device, dtype));
    Some(x_ni.clone() * mask_ni)
}
