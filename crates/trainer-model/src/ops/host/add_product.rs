//! A product of matrices that is added to what is there.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

use super::PIECE;

/// `y += l · r`, with `y` row-major.
pub(in crate::ops) fn add_product(y: &mut [f32], l: ArrayView2<'_, f32>, r: ArrayView2<'_, f32>) {
    let width = r.ncols();
    if width == 0 {
        return;
    }
    let rows = (PIECE / width).max(1);
    y.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(piece, part)| {
            let first = piece * rows;
            let count = part.len() / width;
            let mut part =
                ArrayViewMut2::from_shape((count, width), part).expect("whole rows of y");
            let l = l.slice(s![first..first + count, ..]);
            general_mat_mul(1.0, &l, &r, 1.0, &mut part);
        });
}
