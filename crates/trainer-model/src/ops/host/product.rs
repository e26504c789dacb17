//! Products of matrices added to what is there, with the kernels that flex multiplies
//! with: they use AVX-512 where the processor has it.

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2};

/// `c = factor · a · b` on this thread, added to what `c` holds if `added`.
///
/// # Panics
/// If the sizes do not fit one another.
pub(super) fn product(
    factor: f32,
    a: &ArrayView2<'_, f32>,
    b: &ArrayView2<'_, f32>,
    added: bool,
    c: &mut ArrayViewMut2<'_, f32>,
) {
    multiply(factor, a, b, added, c, Parallelism::None);
}

/// Multiplications below which one thread is done before others have begun.
const WORTH_THREADS: usize = 1 << 24;

/// `sum += a · b` on all threads, with a row-major sum.
///
/// # Panics
/// If the sizes do not fit one another.
pub(in crate::ops) fn add_product(
    sum: &mut [f32],
    a: &ArrayView2<'_, f32>,
    b: &ArrayView2<'_, f32>,
) {
    let sizes = (a.nrows(), b.ncols());
    let mut sum = ArrayViewMut2::from_shape(sizes, sum).expect("a sum of this size");
    let threads = match a.len() * b.ncols() < WORTH_THREADS {
        true => Parallelism::None,
        false => Parallelism::Rayon(0),
    };
    multiply(1.0, a, b, true, &mut sum, threads);
}

fn multiply(
    factor: f32,
    a: &ArrayView2<'_, f32>,
    b: &ArrayView2<'_, f32>,
    added: bool,
    c: &mut ArrayViewMut2<'_, f32>,
    threads: Parallelism,
) {
    let ((m, inner), (rows, n)) = (a.dim(), b.dim());
    assert!(inner == rows && c.dim() == (m, n), "sizes that fit");
    // SAFETY: the views say which elements of their slices row and column numbers stand
    // for, the sizes were compared, and no other view of `c` exists.
    #[allow(unsafe_code)] // The kernels have no other interface.
    unsafe {
        gemm::gemm(
            m,
            n,
            inner,
            c.as_mut_ptr(),
            c.strides()[1],
            c.strides()[0],
            added,
            a.as_ptr(),
            a.strides()[1],
            a.strides()[0],
            b.as_ptr(),
            b.strides()[1],
            b.strides()[0],
            1.0,
            factor,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

    use super::*;

    /// Views with any strides, empty ones included, against a sum of products.
    #[test]
    fn any_views_are_multiplied() {
        let numbers = |rows, columns, seed: usize| {
            Array2::from_shape_fn((rows, columns), |(i, j)| {
                ((i * 31 + j * 17 + seed) % 23) as f32 - 11.0
            })
        };
        let cases: [(usize, usize, usize); 6] = [
            (1, 1, 1),
            (3, 5, 7),
            (64, 64, 64),
            (17, 33, 2),
            (4, 0, 3),
            (2, 3, 0),
        ];
        for (m, inner, n) in cases {
            let (a, b) = (numbers(2 * m, inner, 1), numbers(n, inner + 1, 2));
            let a = a.slice(s![..;2, ..]);
            let b = b.slice(s![.., 1..]).reversed_axes();
            for added in [false, true] {
                let before = numbers(m, n + 2, 3);
                let mut c = before.clone();
                let mut part = c.slice_mut(s![.., 1..n + 1]);
                product(0.5, &a, &b, added, &mut part);
                for ((i, j), got) in c.indexed_iter() {
                    let want = if (1..=n).contains(&j) {
                        let terms = (0..inner).map(|k| a[[i, k]] * b[[k, j - 1]]);
                        0.5 * terms.sum::<f32>() + if added { before[[i, j]] } else { 0.0 }
                    } else {
                        before[[i, j]]
                    };
                    assert_eq!(*got, want, "{m} {inner} {n}, {i} {j}");
                }
            }
        }
    }
}
