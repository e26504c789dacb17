//! Exponentials of whole slices, in a form that compilers turn into vector
//! instructions.

use rayon::prelude::*;

/// Lanes of partial results; a multiple of every vector width.
const LANES: usize = 16;

/// `eˣ` to about two units in the last place; 0 below -87, and for x up to 88.
///
/// Cody-Waite reduction to |r| ≤ ln 2 / 2 and a polynomial of degree 6. Without
/// branches and calls, unlike the library function.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 · 2²³: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    p * f32::from_bits(power)
}

#[inline(always)]
pub(super) fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// Replaces each `x` by `exp(x - shift)` and returns the sum.
#[inline(always)]
fn exp_sum(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - shift);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp(*x - shift);
        *lane += *x;
    }
    lanes.iter().sum()
}

/// Multiplies every number by `factor`.
pub(in crate::ops) fn scale(values: &mut [f32], factor: f32) {
    values.par_chunks_mut(super::PIECE).for_each(|piece| {
        for x in piece {
            *x *= factor;
        }
    });
}

/// Softmax without its division: replaces `scores` by `exp(x - max)` and returns
/// the maximum and the sum.
pub(super) fn softmax_numerators(scores: &mut [f32]) -> (f32, f32) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let max = max_of(scores);
            (max, exp_sum(scores, max))
        },
    )
}

/// Replaces each `x` by `exp(x - shift)`.
pub(super) fn exp_shifted(values: &mut [f32], shift: f32) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for x in values {
                *x = exp(*x - shift);
            }
        },
    );
}

/// Cross entropy of rows of logits. Returns the sum over rows of
/// `logsumexp(row) - row[target]`; with `with_gradients`, the logits become
/// `softmax(row) - onehot(target)`.
pub(in crate::ops) fn softmax_cross_entropy(
    logits: &mut [f32],
    targets: &[usize],
    with_gradients: bool,
) -> f32 {
    let width = logits.len() / targets.len().max(1);
    let losses: Vec<f32> = logits
        .par_chunks_mut(width.max(1))
        .zip(targets)
        .map(|(row, &target)| {
            let picked = row[target];
            let (max, sum) = softmax_numerators(row);
            if with_gradients {
                let scale = 1.0 / sum;
                row.iter_mut().for_each(|x| *x *= scale);
                row[target] -= 1.0;
            }
            max + sum.ln() - picked
        })
        .collect();
    losses.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0_f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_of_any_length() {
        for n in [1, 2, 15, 16, 17, 100] {
            let scores: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
            let mut numerators = scores.clone();
            let (max, sum) = softmax_numerators(&mut numerators);
            let want: f64 = scores.iter().map(|&x| f64::from(x - max).exp()).sum();
            assert!((f64::from(sum) - want).abs() < 1e-6 * want);
            assert!(numerators.iter().all(|x| *x <= 1.0));
        }
    }
}
