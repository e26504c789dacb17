//! Decompositions of a weight into thin factors: orthonormal columns, and the leading
//! part of a singular value decomposition.
//!
//! The latter by iteration on a subspace (Halko, Martinsson and Tropp 2011, algorithm
//! 4.4): products with the weight, orthonormalized in between, turn a random subspace
//! towards the leading one. What is left is a small symmetric eigenproblem, which
//! Jacobi's rotations solve. A full decomposition would take a time that grows with
//! the cube of a model's width, for a few of its vectors.
//!
//! What these take is 150 lines. The crates that have them cost a first build 19 s
//! (nalgebra 0.35) and 93 s (faer 0.24) of processor time.
//!
//! Shape suffixes: `o` outputs, `i` inputs, `k` vectors of the subspace, `r` rank.

use burn::prelude::*;

use super::random::normal;

/// Vectors of the subspace beyond the rank: the more, the fewer iterations.
const MORE: usize = 16;

/// Most iterations where their number is not given.
const MOST: usize = 60;

/// The share of the weight that the subspace holds has settled when an iteration
/// changes it by no more than this part.
const SETTLED: f64 = 1e-7;

/// Leading singular values and vectors.
#[derive(Debug)]
pub(super) struct Leading {
    /// `[o, r]`.
    pub(super) left: Tensor<2>,
    /// Largest first.
    pub(super) values: Vec<f64>,
    /// `[r, i]`.
    pub(super) right: Tensor<2>,
}

/// The `r` leading singular vectors of `weight_oi`. With `iterations` given, as
/// torch's `svd_lowrank` finds them: in a subspace of `r` vectors after so many
/// iterations; else until they have settled.
pub(super) fn leading(
    weight_oi: &Tensor<2>,
    r: usize,
    iterations: Option<usize>,
    seed: u64,
) -> Leading {
    let [o, i] = weight_oi.dims();
    let k = match iterations {
        Some(_) => r,
        None => (2 * r).max(r + MORE).min(o).min(i),
    };
    let start = (0..(i * k) as u64).map(|index| normal(seed, index) as f32);
    let start = TensorData::new(start.collect::<Vec<f32>>(), [i, k]);
    let start_ik = Tensor::from_data(start, &weight_oi.device());
    let mut basis_ok = orthonormal(weight_oi.clone().matmul(start_ik));
    let mut held = 0.0;
    for _ in 0..iterations.unwrap_or(MOST) {
        let right_ik = weight_oi.clone().transpose().matmul(basis_ok.clone());
        if iterations.is_none() {
            let now = squares(&right_ik);
            if (now - held).abs() <= SETTLED * now {
                break;
            }
            held = now;
        }
        // Vectors of different lengths lose digits in the second product.
        basis_ok = orthonormal(weight_oi.clone().matmul(orthonormal(right_ik)));
    }

    // Of the weight within the subspace, `B = Qᵀ · W`: its left vectors and squared
    // values are those of `B · Bᵀ`.
    let within_ki = basis_ok.clone().transpose().matmul(weight_oi.clone());
    let rows = to_host(&within_ki);
    let mut gram = vec![0.0; k * k];
    for a in 0..k {
        for b in 0..=a {
            let (x, y) = (&rows[a * i..][..i], &rows[b * i..][..i]);
            let product = x.iter().zip(y).map(|(x, y)| x * y).sum();
            (gram[a * k + b], gram[b * k + a]) = (product, product);
        }
    }
    let (squared, vectors) = eigen(gram, k);
    let values: Vec<f64> = squared.iter().take(r).map(|x| x.max(0.0).sqrt()).collect();
    // Column `c` of the small left vectors is row `c` of `vectors`.
    let turn = |f: &dyn Fn(usize) -> f64| {
        let turned = (0..k).flat_map(|row| (0..r).map(move |c| (row, c)));
        let turned = turned.map(|(row, c)| (vectors[c * k + row] * f(c)) as f32);
        let data = TensorData::new(turned.collect::<Vec<f32>>(), [k, r]);
        Tensor::<2>::from_data(data, &weight_oi.device())
    };
    let inverse = |c: usize| {
        if values[c] > 0.0 {
            1.0 / values[c]
        } else {
            0.0
        }
    };
    Leading {
        left: basis_ok.matmul(turn(&|_| 1.0)),
        right: turn(&inverse).transpose().matmul(within_ki),
        values,
    }
}

fn to_host(x: &Tensor<2>) -> Vec<f64> {
    x.clone().into_data().iter::<f64>().collect()
}

fn squares(x: &Tensor<2>) -> f64 {
    f64::from(x.clone().square().sum().into_scalar::<f32>())
}

/// Orthonormal columns whose first `n` span the first `n` of `x`, for every `n`: the first
/// factor of a QR decomposition, with a positive diagonal in the second, by Householder's
/// reflections (Golub and Van Loan, section 5.2). They are orthonormal to rounding however
/// near to dependent those of `x` are; what one that depends on those before it leaves open
/// is any direction. `x` has no more columns than rows.
pub(super) fn orthonormal(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    debug_assert!(columns <= rows, "{columns} columns of {rows} rows");
    let device = x.device();
    let mut x: Vec<Vec<f64>> = to_host(&x.transpose())
        .chunks(rows)
        .map(<[f64]>::to_vec)
        .collect();
    // Of each reflection the normal, of length 1, from its first row on, and the sign of
    // the diagonal that it leaves.
    let mut reflections: Vec<(Vec<f64>, f64)> = Vec::with_capacity(columns);
    for place in 0..columns {
        let mut normal = x[place][place..].to_vec();
        let length = norm(&normal);
        // Away from the axis, so that nothing cancels.
        let sign = if normal[0] < 0.0 { 1.0 } else { -1.0 };
        normal[0] -= sign * length;
        let twice = norm(&normal);
        if twice > 0.0 {
            normal.iter_mut().for_each(|x| *x /= twice);
        }
        for column in &mut x[place..] {
            reflect(&mut column[place..], &normal);
        }
        reflections.push((normal, sign));
    }
    let mut flat: Vec<f32> = Vec::with_capacity(rows * columns);
    for place in 0..columns {
        let mut column = vec![0.0; rows];
        column[place] = reflections[place].1;
        for (first, (normal, _)) in reflections.iter().enumerate().take(place + 1).rev() {
            reflect(&mut column[first..], normal);
        }
        flat.extend(column.iter().map(|x| *x as f32));
    }
    Tensor::<2>::from_data(TensorData::new(flat, [columns, rows]), &device).transpose()
}

/// The reflection of `x` at the plane with this normal, of length 1; `x` itself where there
/// is none.
fn reflect(x: &mut [f64], normal: &[f64]) {
    let along: f64 = x.iter().zip(normal).map(|(x, n)| x * n).sum();
    for (x, n) in x.iter_mut().zip(normal) {
        *x -= 2.0 * along * n;
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Eigenvalues of a symmetric matrix, largest first, and its eigenvectors, one a row,
/// by cyclic Jacobi rotations (Golub and Van Loan, section 8.5).
fn eigen(mut matrix: Vec<f64>, k: usize) -> (Vec<f64>, Vec<f64>) {
    const SWEEPS: usize = 40;
    let mut vectors = vec![0.0; k * k];
    for a in 0..k {
        vectors[a * k + a] = 1.0;
    }
    for _ in 0..SWEEPS {
        let off: f64 = (0..k)
            .flat_map(|a| (0..a).map(move |b| (a, b)))
            .map(|(a, b)| matrix[a * k + b].powi(2))
            .sum();
        let diagonal: f64 = (0..k).map(|a| matrix[a * k + a].powi(2)).sum();
        if off <= 1e-30 * diagonal {
            break;
        }
        for a in 0..k {
            for b in a + 1..k {
                rotate(&mut matrix, &mut vectors, k, a, b);
            }
        }
    }
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&a, &b| matrix[b * k + b].total_cmp(&matrix[a * k + a]));
    let values = order.iter().map(|&a| matrix[a * k + a]).collect();
    let rows = order.iter().flat_map(|&a| &vectors[a * k..][..k]);
    (values, rows.copied().collect())
}

/// Makes element (`a`, `b`) zero.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], k: usize, a: usize, b: usize) {
    let (aa, bb, ab) = (matrix[a * k + a], matrix[b * k + b], matrix[a * k + b]);
    if ab == 0.0 {
        return;
    }
    let theta = (bb - aa) / (2.0 * ab);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |x: &mut [f64], one: usize, other: usize| {
        let (p, q) = (x[one], x[other]);
        (x[one], x[other]) = (cosine * p - sine * q, sine * p + cosine * q);
    };
    for c in 0..k {
        turn(matrix, c * k + a, c * k + b);
    }
    for c in 0..k {
        turn(matrix, a * k + c, b * k + c);
    }
    for c in 0..k {
        turn(vectors, a * k + c, b * k + c);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::cases;

    fn largest(x: Tensor<2>) -> f32 {
        x.abs().max().into_scalar::<f32>()
    }

    proptest! {
        #![proptest_config(cases(64))]

        /// Columns are orthonormal and span those that were given, also where some of these
        /// depend on others, nearly or wholly, are zero, or are of very different sizes.
        #[test]
        fn columns_are_orthonormal(
            rows in 1_usize..40,
            columns in 1_usize..12,
            near in prop::sample::select(vec![0.0_f32, 1e-9, 1e-7, 1e-5, 1e-3, 1.0]),
            sizes in -8_i32..8,
            seed: u64,
        ) {
            let columns = columns.min(rows);
            let device = Device::default();
            let mut host = vec![0.0_f32; rows * columns];
            for row in 0..rows {
                for column in 0..columns {
                    let number = normal(seed, (row * columns + column) as u64) as f32;
                    // Every other column is nearly the one before it.
                    let near_to = host[row * columns + column.saturating_sub(1)];
                    host[row * columns + column] = match column % 2 {
                        1 => near_to + near * number,
                        _ => number * 10_f32.powi(sizes * column as i32 / 4),
                    };
                }
            }
            let x = Tensor::<2>::from_data(TensorData::new(host, [rows, columns]), &device);
            let basis = orthonormal(x.clone());
            let product = basis.clone().transpose().matmul(basis.clone());
            let unit = Tensor::<2>::eye(columns, &device);
            prop_assert!(largest(product - unit) < 1e-5);
            let back = basis.clone().matmul(basis.transpose().matmul(x.clone()));
            prop_assert!(largest(back - x.clone()) <= 1e-5 * largest(x));
        }
    }
}
