//! The norm of all gradients together.

use burn::prelude::*;
use rayon::prelude::*;
use trainer_model::ParameterGradients;

use super::state::slice;
use crate::backend::in_host_memory;

/// Elements that a thread takes at a time. The sum of a piece does not depend on the
/// number of threads, and the sums are added in their order.
const PIECE: usize = 1 << 16;

/// Euclidean norm over all gradients together; 0 without any.
///
/// On a CPU backend it is one reading of each. They are taken out of their tensors for
/// it and put back, and not copied unless something else holds them.
#[must_use]
pub fn global_norm(gradients: &mut ParameterGradients) -> f64 {
    let mut sum = 0.0;
    let mut elsewhere: Option<Tensor<1>> = None;
    for place in &mut gradients.flat {
        let Some(gradient) = place.take() else {
            continue;
        };
        let device = gradient.device();
        if in_host_memory(&device) {
            let data = gradient.into_data();
            sum += sum_of_squares(slice(&data));
            *place = Some(Tensor::from_data(data, &device));
        } else {
            let square = gradient.clone().square().sum();
            *place = Some(gradient);
            elsewhere = Some(match elsewhere {
                Some(squares) => squares + square,
                None => square,
            });
        }
    }
    let elsewhere = elsewhere.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()));
    (sum + elsewhere).sqrt()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let pieces: Vec<f64> = values.par_chunks(PIECE).map(of_piece).collect();
    pieces.iter().sum()
}

fn of_piece(values: &[f32]) -> f64 {
    /// Partial sums, a multiple of every vector width.
    const LANES: usize = 16;
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut lanes = [0.0_f64; LANES];
            let (chunks, rest) = values.as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(x) * f64::from(x);
                }
            }
            let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            lanes.iter().sum::<f64>() + rest
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Norms of numbers whose squares have a sum known from elsewhere, in one piece and
    /// in several, and of gradients that something else holds.
    #[test]
    fn the_norm_is_that_of_all_gradients() {
        let device = Device::flex();
        // The sum of the first n squares is n (n + 1) (2 n + 1) / 6.
        let squares = |n: f64| n * (n + 1.0) * (2.0 * n + 1.0) / 6.0;
        let sizes = [0, 1, 7, 16, 33, PIECE, PIECE + 1, 3 * PIECE + 5];
        let of = |n: usize| {
            let values: Vec<f32> = (1..=n).map(|x| x as f32).collect();
            Tensor::<1>::from_data(TensorData::new(values, [n]), &device)
        };
        let mut expected = 0.0;
        let mut gradients = ParameterGradients { flat: vec![None] };
        assert_eq!(global_norm(&mut gradients), 0.0);
        for n in sizes {
            gradients.flat.push(Some(of(n)));
            expected += squares(n as f64);
            let held = gradients.flat.clone();
            let norm = global_norm(&mut gradients);
            assert!(
                (norm / expected.sqrt() - 1.0).abs() < 1e-12 || expected == 0.0,
                "{n}"
            );
            drop(held);
        }
        let kept = gradients.flat.iter().flatten().zip(sizes);
        for (gradient, n) in kept {
            assert_eq!(gradient.to_data(), of(n).to_data());
        }
    }
}
