//! bitsandbytes' dynamic map of 8 bits (arXiv 2110.02861, section 2.2).

use std::sync::LazyLock;

/// The number of each code, ascending: seven decades below 1, each with twice as many
/// codes as the one below, and codes for zero and 1. From -1 if `signed`, else from 0.
#[must_use]
pub fn dynamic_map(signed: bool) -> Vec<f32> {
    const DECADES: usize = 7;
    let mut values = vec![0.0, 1.0];
    for decade in 0..DECADES {
        let steps = if signed { 1 } else { 2 } << decade;
        let bounds: Vec<f32> = (0..=steps).map(|i| bound(i, steps)).collect();
        let unit = 10f64.powi(decade as i32 + 1 - DECADES as i32) as f32;
        for pair in bounds.windows(2) {
            let middle = unit * ((pair[0] + pair[1]) / 2.0);
            values.push(middle);
            if signed {
                values.push(-middle);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    values
}

/// Bound `i` of `steps` equal steps from 0.1 to 1, rounded as torch's `linspace`
/// does: once, and from both ends.
fn bound(i: usize, steps: usize) -> f32 {
    let step = (1.0 - 0.1) / steps as f32;
    if i < steps.div_ceil(2) {
        step.mul_add(i as f32, 0.1)
    } else {
        (-step).mul_add((steps - i) as f32, 1.0)
    }
}

/// The signed map and the way back, over a grid of this many numbers from -1 to 1: a
/// number takes the code of the nearest number of the grid, as in bitsandbytes' CPU
/// kernel.
const GRID: usize = 1 << 16;

static SIGNED: LazyLock<Signed> = LazyLock::new(Signed::new);

/// The signed map.
#[derive(Debug)]
pub(super) struct Signed {
    values: Vec<f32>,
    codes: Vec<u8>,
}

impl Signed {
    pub(super) fn get() -> &'static Self {
        &SIGNED
    }

    fn new() -> Self {
        let values = dynamic_map(true);
        let middles: Vec<f32> = values
            .windows(2)
            .map(|pair| (pair[0] + pair[1]) / 2.0)
            .collect();
        let codes = (0..GRID).map(|index| {
            let number = index as f32 / (GRID - 1) as f32 * 2.0 - 1.0;
            middles.partition_point(|middle| *middle < number) as u8
        });
        let codes = codes.collect();
        Self { values, codes }
    }

    /// The number of a code.
    pub(super) fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }

    /// The code of a number from -1 to 1.
    pub(super) fn code(&self, number: f32) -> u8 {
        let place = ((number.clamp(-1.0, 1.0) + 1.0) * 0.5) * (GRID - 1) as f32 + 0.5;
        // A number that is none has the place 0.
        self.codes[(place as usize).min(GRID - 1)]
    }
}
