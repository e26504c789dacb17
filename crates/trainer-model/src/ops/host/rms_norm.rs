//! RMSNorm of rows and its gradients.
//!
//! `y = x · s · w` with `s = 1 / sqrt(mean(x²) + eps)`;
//! `dx = s · (w · dy) - x · s³ / d · Σ(w · dy · x)`, `dw = Σ_rows dy · x · s`.

use rayon::prelude::*;

use super::PIECE;

/// Rows that are summed together into one part of `dw`; fixed, so that the order
/// of the sum is.
const ROWS: usize = 64;

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Normalizes rows of `weight.len()` in place and returns the scale of each row.
pub(in crate::ops) fn forward(x: &mut [f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let d = weight.len();
    let mut scales = vec![0.0; x.len() / d];
    let rows = (PIECE / d).max(1);
    x.par_chunks_mut(rows * d)
        .zip(scales.par_chunks_mut(rows))
        .for_each(|(x, scales)| {
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (x, scale) in x.chunks_exact_mut(d).zip(scales) {
                        *scale = (dot(x, x) / d as f32 + eps).sqrt().recip();
                        for (x, w) in x.iter_mut().zip(weight) {
                            *x = *x * *scale * w;
                        }
                    }
                },
            );
        });
    scales
}

/// Gradient of `x` in place of `upstream`, and that of the weight.
pub(in crate::ops) fn backward(
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    upstream: &mut [f32],
) -> Vec<f32> {
    let d = weight.len();
    let parts: Vec<Vec<f32>> = x
        .par_chunks(ROWS * d)
        .zip(upstream.par_chunks_mut(ROWS * d))
        .zip(scales.par_chunks(ROWS))
        .map(|((x, upstream), scales)| {
            let mut dw = vec![0.0; d];
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(d).zip(upstream.chunks_exact_mut(d));
                    for ((x, dy), &scale) in rows.zip(scales) {
                        for (((dw, &x), dy), w) in
                            dw.iter_mut().zip(x).zip(dy.iter_mut()).zip(weight)
                        {
                            *dw += *dy * x * scale;
                            *dy *= w;
                        }
                        let along = dot(dy, x) * scale * scale * scale / d as f32;
                        for (dy, x) in dy.iter_mut().zip(x) {
                            *dy = scale * *dy - along * x;
                        }
                    }
                },
            );
            dw
        })
        .collect();
    let mut dw = vec![0.0; d];
    for part in parts {
        for (sum, x) in dw.iter_mut().zip(part) {
            *sum += x;
        }
    }
    dw
}
