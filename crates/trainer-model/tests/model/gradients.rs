//! Hand-written backward passes against differences of their forward pass, and
//! properties that training relies on.

use burn::tensor::{Distribution, Int, Tensor, TensorData};
use proptest::prelude::*;
use trainer_model::{
    ParameterGradients, ScoreRule, Targets, Tokens, causal_attention, geglu, linear_cross_entropy,
    plain, rms_norm, rope, swiglu,
};

use crate::{cpu, folder, load};

/// The same value by Burn's own operations.
fn plain_cross_entropy(x_nd: Tensor<2>, w_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    let log_probs_nv = burn::tensor::activation::log_softmax(x_nd.matmul(w_vd.transpose()), 1);
    log_probs_nv
        .gather(1, targets_n.unsqueeze_dim::<2>(1))
        .sum()
        .neg()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Value and both gradients, for any shape, one row and one column included.
    #[test]
    fn linear_cross_entropy_agrees_with_plain_operations(
        n in 1_usize..40, d in 1_usize..24, v in 2_usize..70, seed in 0_u64..1000,
    ) {
        let device = cpu().autodiff();
        device.seed(seed);
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<2>::random([n, d], normal, &device);
        let w = Tensor::<2>::random([v, d], normal, &device);
        let ids: Vec<i64> = (0..n).map(|i| ((i * 31 + seed as usize) % v) as i64).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(ids, [n]), &device);
        let run = |fused: bool| {
            let (x, w) = (x.clone().require_grad(), w.clone().require_grad());
            let loss = if fused {
                linear_cross_entropy(x.clone(), w.clone(), targets.clone())
            } else {
                plain_cross_entropy(x.clone(), w.clone(), targets.clone())
            };
            // Not 1, so that the upstream gradient counts.
            let gradients = (loss.clone() / 3.0).backward();
            let dx: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter().collect();
            let dw: Vec<f32> = w.grad(&gradients).unwrap().into_data().iter().collect();
            (loss.into_scalar::<f32>(), dx, dw)
        };
        let (fused, reference) = (run(true), run(false));
        prop_assert!((fused.0 - reference.0).abs() <= 1e-5 * reference.0.abs().max(1.0));
        for (a, b) in fused.1.iter().zip(&reference.1).chain(fused.2.iter().zip(&reference.2)) {
            prop_assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
        }
    }
}

/// Values and gradients of two forms of an operation, for an upstream gradient
/// that differs from element to element.
fn assert_same(
    inputs: &[Tensor<4>],
    fused: impl Fn(&[Tensor<4>]) -> Tensor<4>,
    plain: impl Fn(&[Tensor<4>]) -> Tensor<4>,
) -> Result<(), TestCaseError> {
    let run = |form: &dyn Fn(&[Tensor<4>]) -> Tensor<4>| {
        let leaves: Vec<Tensor<4>> = inputs.iter().map(|x| x.clone().require_grad()).collect();
        let output = form(&leaves);
        let n = output.shape().num_elements();
        let upstream: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let upstream =
            Tensor::<4>::from_data(TensorData::new(upstream, output.shape()), &output.device());
        let gradients = (output.clone() * upstream).sum().backward();
        let mut results = vec![output.into_data().iter::<f32>().collect::<Vec<f32>>()];
        for leaf in &leaves {
            results.push(
                leaf.grad(&gradients)
                    .unwrap()
                    .into_data()
                    .iter::<f32>()
                    .collect(),
            );
        }
        results
    };
    for (tensor, (got, want)) in run(&fused).into_iter().zip(run(&plain)).enumerate() {
        let scale = want.iter().fold(1.0_f32, |max, x| max.max(x.abs()));
        for (a, b) in got.iter().zip(&want) {
            prop_assert!(
                (a - b).abs() <= 2e-5 * scale,
                "result {tensor}: {a}, plain {b}, of {scale}"
            );
        }
        prop_assert_eq!(got.len(), want.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn swiglu_is_its_plain_form(rows in 1_usize..9, width in 1_usize..70, seed in 0_u64..1000) {
        let device = cpu().autodiff();
        device.seed(seed);
        let wide = Distribution::Normal(0.0, 4.0);
        let inputs = [0; 2].map(|_| Tensor::<4>::random([rows, 1, 2, width], wide, &device));
        assert_same(
            &inputs,
            |x| swiglu(x[0].clone(), x[1].clone()),
            |x| plain::swiglu(x[0].clone(), x[1].clone()),
        )?;
    }

    #[test]
    fn geglu_is_its_plain_form(rows in 1_usize..9, width in 1_usize..70, seed in 0_u64..1000) {
        let device = cpu().autodiff();
        device.seed(seed);
        let wide = Distribution::Normal(0.0, 4.0);
        let inputs = [0; 2].map(|_| Tensor::<4>::random([rows, 1, 2, width], wide, &device));
        assert_same(
            &inputs,
            |x| geglu(x[0].clone(), x[1].clone()),
            |x| plain::geglu(x[0].clone(), x[1].clone()),
        )?;
    }

    #[test]
    fn rms_norm_is_its_plain_form(rows in 1_usize..200, width in 1_usize..70, seed in 0_u64..1000) {
        let device = cpu().autodiff();
        device.seed(seed);
        let normal = Distribution::Normal(0.5, 1.0);
        let inputs = [
            Tensor::<4>::random([rows, 1, 1, width], normal, &device),
            Tensor::<4>::random([1, 1, 1, width], normal, &device),
        ];
        let weight = |x: &[Tensor<4>]| x[1].clone().reshape([width]);
        assert_same(
            &inputs,
            |x| rms_norm(x[0].clone(), weight(x), 1e-5),
            |x| plain::rms_norm(x[0].clone(), weight(x), 1e-5),
        )?;
    }

    #[test]
    fn rope_is_its_plain_form(rows in 1_usize..4, tokens in 1_usize..40, heads in 1_usize..4,
                              half in 1_usize..20, rest in 0_usize..4, seed in 0_u64..1000) {
        let device = cpu().autodiff();
        device.seed(seed);
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<4>::random([rows, tokens, heads, 2 * half + rest], normal, &device);
        let angles = Tensor::<4>::random([rows, tokens, 1, half], normal, &device.clone().without_autodiff());
        let angles = Tensor::cat(vec![angles.clone(), angles], 3);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        assert_same(
            &[x],
            |x| rope(x[0].clone(), cos.clone(), sin.clone()),
            |x| plain::rope(x[0].clone(), cos.clone(), sin.clone()),
        )?;
    }

    /// Any grouping of heads, several documents in a row and padding, more
    /// queries than a block, and cached keys before the first query.
    #[test]
    fn attention_is_its_plain_form(
        rows in 1_usize..3, kv_heads in 1_usize..3, group in 1_usize..4, half_width in 1_usize..9,
        lengths in prop::collection::vec(1_usize..60, 1..4), past in 0_usize..5, seed in 0_u64..1000,
    ) {
        let device = cpu().autodiff();
        device.seed(seed);
        let normal = Distribution::Normal(0.0, 1.0);
        let (queries, width) = (lengths.iter().sum::<usize>(), 2 * half_width);
        // With keys before the queries there is one document.
        let (keys, mut starts) = (queries + past, Vec::new());
        for row in 0..rows {
            let mut start = 0;
            for &length in &lengths {
                let seen = if past > 0 { row.min(past) } else { start };
                starts.extend(std::iter::repeat_n(seen as i64, length));
                start += length;
            }
        }
        let starts = Tensor::<2, Int>::from_data(TensorData::new(starts, [rows, queries]), &device);
        let rule = ScoreRule { scale: 0.3, softcap: (seed % 2 == 0).then_some(1.5) };
        let random = |tokens, heads| Tensor::<4>::random([rows, tokens, heads, width], normal, &device);
        let inputs = [random(queries, kv_heads * group), random(keys, kv_heads), random(keys, kv_heads)];
        assert_same(
            &inputs,
            |x| causal_attention(x[0].clone(), x[1].clone(), x[2].clone(), starts.clone(), rule),
            |x| plain::causal_attention(x[0].clone(), x[1].clone(), x[2].clone(), starts.clone(), rule),
        )?;
    }
}

/// Two documents in one row give the loss and the gradients that they give in
/// rows of their own, and a token of one does not touch the other.
#[test]
fn packed_rows_are_unpacked_rows() {
    let model = load(&folder("llama"), &cpu().autodiff());
    let documents: [Vec<u32>; 2] = [
        (10..30).collect(),
        (500..513).map(|id| id * 7 % 1000).collect(),
    ];
    let gradients_of = |tokens: &Tokens<'_>, labels: &[i32]| {
        let hidden = model.hidden(&model.input(tokens));
        let loss = model.loss_sum(hidden, &Targets::from_labels(labels, tokens.width));
        let mut gradients = loss.backward();
        let value = loss.into_scalar::<f32>();
        (value, ParameterGradients::take(&model, &mut gradients))
    };

    let (mut loss_apart, mut apart) = (0.0, ParameterGradients::default());
    let (mut ids, mut positions, mut segments, mut labels) = (vec![], vec![], vec![], vec![]);
    for (index, document) in documents.iter().enumerate() {
        let n = document.len();
        let own: Vec<u32> = (0..n as u32).collect();
        let mut own_labels: Vec<i32> = document.iter().map(|&id| id as i32).collect();
        own_labels[0] = -100;
        let tokens = Tokens {
            rows: 1,
            width: n,
            input_ids: document,
            position_ids: &own,
            segment_ids: &vec![1; n],
        };
        let (loss, gradients) = gradients_of(&tokens, &own_labels);
        loss_apart += loss;
        apart.add(gradients);
        ids.extend(document);
        positions.extend(own);
        segments.extend(vec![index as u32 + 1; n]);
        labels.extend(own_labels);
    }
    let tokens = Tokens {
        rows: 1,
        width: ids.len(),
        input_ids: &ids,
        position_ids: &positions,
        segment_ids: &segments,
    };
    let (loss, packed) = gradients_of(&tokens, &labels);
    assert!(
        (loss - loss_apart).abs() <= 1e-5 * loss_apart,
        "{loss} {loss_apart}"
    );
    for (a, b) in packed.flat.into_iter().zip(apart.flat) {
        let (a, b) = (a.unwrap(), b.unwrap());
        let scale = b.clone().abs().max().into_scalar::<f32>();
        let difference = (a - b).abs().max().into_scalar::<f32>();
        assert!(
            difference <= 1e-5 * scale.max(1.0),
            "{difference} of {scale}"
        );
    }

    let second_half = |ids: &[u32]| -> Vec<f32> {
        let tokens = Tokens {
            input_ids: ids,
            ..tokens
        };
        let logits = model.logits(model.hidden(&model.input(&tokens)));
        logits.narrow(1, 20, 13).into_data().iter().collect()
    };
    let before = second_half(&ids);
    let mut changed = ids.clone();
    changed[5] = 999;
    assert_eq!(
        before,
        second_half(&changed),
        "documents leak into one another"
    );
}
