//! Products of matrices, with the kernels that flex multiplies with: they use AVX-512
//! where the processor has it.
//!
//! The kernels' own threads wait while one of them puts a matrix into the order that it
//! is read in: a fifth of a forward pass whose weights are read across. Here a product
//! is cut into blocks, each the work of one thread from the beginning.
//!
//! Invariant: how a product is cut depends on its sizes alone, so that it has the same
//! bits on any number of threads.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

/// Multiplications for which it is worth to wake another thread.
const BLOCK: usize = 1 << 21;

/// Most blocks of a product.
const MOST_BLOCKS: usize = 16;

/// Blocks are multiples of this many columns or rows: what the kernels compute at a time,
/// or several of it.
const UNITS: [usize; 2] = [48, 64];

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
    #[allow(unsafe_code, reason = "the kernels have no other interface")]
    // SAFETY: all of `c` is numbers.
    unsafe {
        multiply(factor, a, b, added, c);
    }
}

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
    let sum = ArrayViewMut2::from_shape(sizes, sum).expect("a sum of this size");
    #[allow(unsafe_code, reason = "the kernels have no other interface")]
    // SAFETY: all of the sum is numbers.
    unsafe {
        in_blocks(a, b, true, sum);
    }
}

/// `a · b` on all threads, row-major.
///
/// Burn's own product fills its result with zeros before.
///
/// # Panics
/// If the sizes do not fit one another.
pub(in crate::ops) fn product_of(a: &ArrayView2<'_, f32>, b: &ArrayView2<'_, f32>) -> Vec<f32> {
    let (m, n) = (a.nrows(), b.ncols());
    let mut numbers = Vec::with_capacity(m * n);
    let room: &mut [MaybeUninit<f32>] = &mut numbers.spare_capacity_mut()[..m * n];
    let room = ArrayViewMut2::from_shape((m, n), room).expect("room of this size");
    #[allow(
        unsafe_code,
        reason = "a result that is not filled before it is computed"
    )]
    // SAFETY: a product that is not added to anything sets all of its result.
    unsafe {
        in_blocks(a, b, false, room);
        numbers.set_len(m * n);
    }
    numbers
}

/// `c = a · b`, or `c += a · b` if `added`, in blocks on all threads.
///
/// # Safety
/// `E` is `f32`, or `MaybeUninit<f32>` if not `added`.
#[allow(unsafe_code, reason = "the kernels have no other interface")]
unsafe fn in_blocks<E: Send>(
    a: &ArrayView2<'_, f32>,
    b: &ArrayView2<'_, f32>,
    added: bool,
    mut c: ArrayViewMut2<'_, E>,
) {
    let sizes = [a.nrows(), b.ncols()];
    let work = a.len() * b.ncols();
    // What is not read in its order is put into it by each block for itself: cut where
    // each has its own part. The kernels turn a product with a row-major result around.
    let across = b.strides()[1] != 1 || a.strides()[1] == 1;
    let mut axis = usize::from(across);
    if sizes[axis] < 2 * UNITS[axis] {
        axis = 1 - axis;
    }
    let blocks = (work / BLOCK).clamp(1, MOST_BLOCKS);
    let length = sizes[axis].div_ceil(blocks).next_multiple_of(UNITS[axis]);
    if length >= sizes[axis] {
        // SAFETY: of the caller.
        unsafe { multiply(1.0, a, b, added, &mut c) };
        return;
    }
    let (cut, axis) = (axis, Axis(axis));
    let parts: Vec<_> = match cut {
        0 => a
            .axis_chunks_iter(axis, length)
            .map(|a| (a, b.view()))
            .collect(),
        _ => b
            .axis_chunks_iter(axis, length)
            .map(|b| (a.view(), b))
            .collect(),
    };
    let results: Vec<_> = c.axis_chunks_iter_mut(axis, length).collect();
    let work = parts.into_par_iter().zip(results).with_max_len(1);
    work.for_each(|((a, b), mut c)| {
        // SAFETY: of the caller.
        unsafe { multiply(1.0, &a, &b, added, &mut c) };
    });
}

/// `c = factor · a · b` on this thread, added to what `c` holds if `added`.
///
/// # Safety
/// `E` is `f32`, or `MaybeUninit<f32>` if not `added`; that sets all of `c`.
///
/// # Panics
/// If the sizes do not fit one another.
#[allow(unsafe_code, reason = "the kernels have no other interface")]
unsafe fn multiply<E>(
    factor: f32,
    a: &ArrayView2<'_, f32>,
    b: &ArrayView2<'_, f32>,
    added: bool,
    c: &mut ArrayViewMut2<'_, E>,
) {
    let ((m, inner), (rows, n)) = (a.dim(), b.dim());
    assert!(inner == rows && c.dim() == (m, n), "sizes that fit");
    // SAFETY: the views say which elements of their slices row and column numbers stand
    // for, the sizes were compared, and no other view of `c` exists. The caller answers
    // for what `c` holds.
    unsafe {
        gemm::gemm(
            m,
            n,
            inner,
            c.as_mut_ptr().cast::<f32>(),
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
            Parallelism::None,
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

    /// Products of several blocks, cut either way, against that of one thread.
    #[test]
    fn blocks_make_the_whole() {
        let numbers = |rows, columns, seed: usize| {
            Array2::from_shape_fn((rows, columns), |(i, j)| {
                ((i * 31 + j * 17 + seed) % 23) as f32 - 11.0
            })
        };
        let cases = [
            (200, 300, 130),
            (16, 700, 601),
            (601, 700, 16),
            (1, 4096, 4097),
        ];
        for (m, inner, n) in cases {
            let mut whole = numbers(m, n, 3);
            let (a, b) = (numbers(m, inner, 1), numbers(inner, n, 2));
            let (at, bt) = (
                a.t().as_standard_layout().into_owned(),
                b.t().as_standard_layout().into_owned(),
            );
            let mut sums = [whole.clone(), whole.clone(), whole.clone()];
            product(1.0, &a.view(), &b.view(), true, &mut whole.view_mut());
            for (sum, (a, b)) in
                sums.iter_mut()
                    .zip([(a.view(), b.view()), (at.t(), b.view()), (a.view(), bt.t())])
            {
                let alone = product_of(&a, &b);
                let sum = sum.as_slice_mut().unwrap();
                let before = numbers(m, n, 3);
                add_product(sum, &a, &b);
                for ((sum, before), alone) in sum.iter().zip(&before).zip(&alone) {
                    assert_eq!(*sum, before + alone, "{m} {inner} {n}");
                }
                assert_eq!(sum, whole.as_slice().unwrap(), "{m} {inner} {n}");
            }
        }
    }
}
