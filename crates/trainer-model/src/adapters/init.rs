//! First values of the factors.
//!
//! Shape suffixes: `o` outputs, `i` inputs, `r` rank.

use burn::prelude::*;

use super::config::LoraInit;
use super::decompose::{leading, orthonormal};
use super::random::{normal, seed_of, uniform};
use crate::error::{ModelError, Result};
use crate::weight::Weight;

/// Factors as training begins with them.
pub(super) struct First {
    /// `[r, i]`.
    pub(super) a: Tensor<2>,
    /// `[o, r]`.
    pub(super) b: Tensor<2>,
    /// They are made of the weight, and their product is not zero: it is taken away
    /// from the adapted map, which so computes what it did.
    pub(super) taken: bool,
}

/// The factors of the map `name` with this weight, off the autodiff graph, whose
/// product is multiplied by `scale`. What is drawn is drawn from a seed and the name,
/// so that it does not depend on the other maps.
///
/// # Errors
/// When the factors are made of the weight, and it is quantized or has not as many
/// dimensions as the rank.
pub(super) fn factors(
    init: LoraInit,
    weight: &Weight,
    rank: usize,
    scale: f64,
    seed: u64,
    name: &str,
) -> Result<First> {
    let [output, input] = weight.shape();
    let device = weight.device().without_autodiff();
    let seed = seed_of(seed, name);
    let drawn = |draw: &dyn Fn(u64) -> f64| {
        let a = (0..(rank * input) as u64).map(|index| draw(index) as f32);
        let a = TensorData::new(a.collect::<Vec<f32>>(), [rank, input]);
        First {
            a: Tensor::from_data(a, &device),
            b: Tensor::zeros([output, rank], &device),
            taken: false,
        }
    };
    let weight_oi = match init {
        LoraInit::Default => {
            let bound = 1.0 / (input as f64).sqrt();
            return Ok(drawn(&|index| (2.0 * uniform(seed, index) - 1.0) * bound));
        }
        LoraInit::Gaussian => return Ok(drawn(&|index| normal(seed, index) / rank as f64)),
        LoraInit::Pissa { .. } | LoraInit::Olora => {
            let refused = |message| ModelError::Adapter {
                setting: "init_lora_weights",
                message,
            };
            if matches!(weight, Weight::Quantized(_)) {
                return Err(refused(format!(
                    "{init} makes factors of weights, and those of {name} are quantized: load the \
                     model without quantization, or write `true`"
                )));
            }
            if rank > output.min(input) {
                return Err(refused(format!(
                    "{init} makes factors of a weight, and that of {name} has {output} x {input} \
                     numbers: lower the rank, {rank}, or write `true`"
                )));
            }
            weight.rows(0, output)
        }
    };
    let (a, b) = match init {
        LoraInit::Pissa { iterations } => {
            let parts = leading(&weight_oi, rank, iterations, seed);
            let roots = parts.values.iter().map(|s| (s / scale).sqrt() as f32);
            let roots = TensorData::new(roots.collect::<Vec<f32>>(), [rank]);
            let roots_r = Tensor::<1>::from_data(roots, &device);
            let a_ri = parts.right * roots_r.clone().reshape([rank, 1]);
            (a_ri, parts.left * roots_r.reshape([1, rank]))
        }
        _ => {
            let b_or = orthonormal(weight_oi.clone().narrow(1, 0, rank));
            (b_or.clone().transpose().matmul(weight_oi), b_or)
        }
    };
    Ok(First { a, b, taken: true })
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use proptest::prelude::*;

    use super::*;
    use crate::properties::cases;

    fn difference(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar::<f32>()
    }

    proptest! {
        #![proptest_config(cases(24))]

        /// Of a product of thin factors, all ways of making factors give back the whole;
        /// those of PiSSA share the singular values evenly.
        ///
        /// The factors of OLoRA span the first columns of the weight, which give back the
        /// others as far as they are independent beside their own rounding.
        #[test]
        fn thin_weights_are_found(
            output in 3_usize..40, input in 3_usize..40, rank in 1_usize..4, seed: u64
        ) {
            let device = Device::default();
            let random = |rows: usize, columns: usize, seed: u64| {
                let values = (0..(rows * columns) as u64).map(|i| normal(seed, i) as f32);
                let data = TensorData::new(values.collect::<Vec<f32>>(), [rows, columns]);
                Tensor::<2>::from_data(data, &device)
            };
            let weight_oi = random(output, rank, seed).matmul(random(rank, input, seed ^ 1));
            let size = weight_oi.clone().abs().max().into_scalar::<f32>().max(1.0);
            let weight = Weight::Full(Param::from_tensor(weight_oi.clone()));
            let pissa = LoraInit::Pissa { iterations: None };
            let fast = LoraInit::Pissa { iterations: Some(4) };
            for init in [pissa, fast] {
                let First { a, b, taken } = factors(init, &weight, rank, 2.0, 7, "x").unwrap();
                prop_assert!(taken);
                let back = b.clone().matmul(a.clone()) * 2.0;
                prop_assert!(difference(back, weight_oi.clone()) < 1e-4 * size, "{init}");
                let lengths = |x: Tensor<2>, dim| -> Vec<f32> {
                    x.square().sum_dim(dim).sqrt().into_data().iter().collect()
                };
                for (a, b) in lengths(a, 1).iter().zip(lengths(b, 0)) {
                    prop_assert!((a - b).abs() <= 1e-3 * size, "{a} {b}");
                }
            }

            let olora = LoraInit::Olora;
            let First { a, b, taken } = factors(olora, &weight, rank, 1.0, 7, "x").unwrap();
            prop_assert!(taken);
            let product = b.clone().transpose().matmul(b.clone());
            prop_assert!(difference(product, Tensor::eye(rank, &device)) < 1e-5);
            let back = b.matmul(a.clone());
            let first = |x: &Tensor<2>| x.clone().narrow(1, 0, rank);
            prop_assert!(difference(first(&back), first(&weight_oi)) < 1e-5 * size);
            // What is left of the last independent column: the less, the more of it is the
            // rounding of the weight.
            let left = (0..rank).map(|r| a.clone().slice([r..r + 1, r..r + 1]));
            let left = left.map(|x| x.into_scalar::<f32>().abs());
            let left = left.fold(f32::INFINITY, f32::min);
            let rounding = 4.0 * f32::EPSILON * size * (1.0 + size / left);
            prop_assert!(difference(back, weight_oi) < rounding * size.max(4.0), "{left}");
        }
    }

    #[test]
    fn more_ranks_than_dimensions() {
        let weight = Tensor::<2>::zeros([3, 5], &Device::default());
        let weight = Weight::Full(Param::from_tensor(weight));
        let error = factors(LoraInit::Olora, &weight, 4, 1.0, 1, "q")
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "init_lora_weights: olora makes factors of a weight, and that of q has 3 x 5 \
             numbers: lower the rank, 4, or write `true`"
        );
    }
}
