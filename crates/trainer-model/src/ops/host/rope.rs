//! Rotary embedding of heads in place.

use rayon::prelude::*;

/// Rotates the leading `r` dimensions of each head of `x`, `[n, h, k]`, by its
/// token's angles: `cos` and `sin` are `[n, r]`, both halves of a row alike, and
/// `widths` is `(k, r)`. `direction` is 1, or -1 for the way
/// back, which is also the gradient.
pub(in crate::ops) fn rotate(
    x: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    (width, rotated): (usize, usize),
    direction: f32,
) {
    let tokens = cos.len() / rotated;
    let half = rotated / 2;
    let heads = x.len() / tokens.max(1);
    x.par_chunks_mut(heads.max(1))
        .zip(cos.par_chunks(rotated))
        .zip(sin.par_chunks(rotated))
        .with_min_len(16)
        .for_each(|((x, cos), sin)| {
            for head in x.chunks_exact_mut(width) {
                let (first, second) = head[..rotated].split_at_mut(half);
                let pairs = first.iter_mut().zip(second);
                for ((a, b), (c, s)) in pairs.zip(cos.iter().zip(sin)) {
                    let s = s * direction;
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        });
}
