//! Scores of tokens against their definitions, and their gradients.

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use proptest::prelude::*;
use trainer_model::{Targets, Tokens, token_scores};

use crate::{cpu, folder, load};

/// The five numbers of a row of logits, in `f64`.
fn definition(logits: &[f64], target: usize) -> [f64; 5] {
    let max = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let log_sum = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    let log_probs: Vec<f64> = logits.iter().map(|x| x - log_sum).collect();
    let sum = |f: &dyn Fn(f64) -> f64| log_probs.iter().map(|&lp| f(lp)).sum::<f64>();
    [
        log_probs[target],
        -sum(&|lp| lp * lp.exp()),
        max - logits[target],
        logits.iter().sum::<f64>() / logits.len() as f64,
        sum(&|lp| (2.0 * lp).exp()).ln(),
    ]
}

fn values(tensor: Tensor<2>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

struct Case {
    x: Tensor<2>,
    w: Tensor<2>,
    ids: Vec<usize>,
    targets: Tensor<1, Int>,
}

fn case(device: &Device, [n, d, v]: [usize; 3], seed: u64) -> Case {
    device.seed(seed);
    let normal = Distribution::Normal(0.0, 1.0);
    let ids: Vec<usize> = (0..n).map(|i| (i * 31 + seed as usize) % v).collect();
    let indices: Vec<i64> = ids.iter().map(|&id| id as i64).collect();
    Case {
        x: Tensor::random([n, d], normal, device),
        w: Tensor::random([v, d], normal, device),
        ids,
        targets: Tensor::from_data(TensorData::new(indices, [n]), device),
    }
}

/// Gradients of `x` and `w` where each token has a weight of its own.
fn gradients(case: &Case, frozen: bool, fused: bool) -> (Vec<f64>, Option<Vec<f64>>) {
    let x = case.x.clone().require_grad();
    let w = match frozen {
        true => case.w.clone(),
        false => case.w.clone().require_grad(),
    };
    let log_probs_n1 = match fused {
        true => token_scores(x.clone(), w.clone(), case.targets.clone()).narrow(1, 0, 1),
        false => {
            let logits_nv = x.clone().matmul(w.clone().transpose());
            burn::tensor::activation::log_softmax(logits_nv, 1)
                .gather(1, case.targets.clone().unsqueeze_dim::<2>(1))
        }
    };
    let n = case.ids.len();
    let weights: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [n, 1]), &x.device());
    let gradients = (log_probs_n1 * weights).sum().backward();
    let dw = (!frozen).then(|| values(w.grad(&gradients).unwrap()));
    (values(x.grad(&gradients).unwrap()), dw)
}

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} {b}");
    }
}

fn agrees(device: &Device, sizes: [usize; 3], seed: u64, tolerance: f64) {
    let case = case(&device.clone().autodiff(), sizes, seed);
    let scores = token_scores(case.x.clone(), case.w.clone(), case.targets.clone());
    let logits = values(case.x.clone().matmul(case.w.clone().transpose()));
    let want: Vec<f64> = logits
        .chunks(sizes[2])
        .zip(&case.ids)
        .flat_map(|(row, &target)| definition(row, target))
        .collect();
    assert_close(&values(scores), &want, 2.0 * tolerance);
    let (dx, dw) = gradients(&case, false, true);
    let (plain_dx, plain_dw) = gradients(&case, false, false);
    assert_close(&dx, &plain_dx, tolerance);
    assert_close(&dw.unwrap(), &plain_dw.unwrap(), tolerance);
    // A frozen head takes another way.
    assert_close(&gradients(&case, true, true).0, &plain_dx, tolerance);
}

proptest! {
    #![proptest_config(crate::properties::cases(16))]

    #[test]
    fn scores_agree_with_their_definitions(
        n in 1_usize..40, d in 1_usize..24, v in 2_usize..70, seed in 0_u64..1000,
    ) {
        agrees(&cpu(), [n, d, v], seed, 1e-5);
    }
}

/// Another backend, by Burn's operations; and more tokens than a chunk holds.
#[test]
#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
fn scores_of_other_backends_and_sizes() {
    #[cfg(feature = "ndarray")]
    agrees(&Device::ndarray(), [7, 5, 11], 3, 1e-5);
    // The sums are long: plain operations are no better.
    agrees(&cpu(), [37, 3, (1 << 18) + 5], 5, 1e-4);
}

#[test]
fn scores_of_a_model_are_those_of_its_logits() {
    let model = load(&folder("llama"), &cpu());
    let ids = [5_u32, 9, 200, 31, 7, 1000];
    let input = model.input(&Tokens {
        rows: 1,
        width: 6,
        input_ids: &ids,
        position_ids: &[0, 1, 2, 3, 4, 5],
        segment_ids: &[1; 6],
    });
    let hidden = model.hidden(&input);
    let targets = Targets {
        positions: vec![1, 4],
        ids: vec![200, 1000],
    };
    let scores = model.token_scores(hidden.clone(), &targets);
    let logits = model.logits(hidden).into_data();
    let logits: Vec<f64> = logits.iter::<f64>().collect();
    let vocab = model.config().vocab_size;
    for (score, (&position, &id)) in scores
        .read()
        .iter()
        .zip(targets.positions.iter().zip(&targets.ids))
    {
        let row = &logits[position as usize * vocab..][..vocab];
        let [log_prob, entropy, gap, mean_logit, log_squares] = definition(row, id as usize);
        let got = [
            score.log_prob,
            score.entropy,
            score.gap,
            score.mean_logit,
            score.log_squares,
        ];
        assert_close(
            &got,
            &[log_prob, entropy, gap, mean_logit, log_squares],
            1e-5,
        );
    }
    let sum = scores
        .clone()
        .weighted_sum(&[2.0, -1.0])
        .into_scalar::<f32>();
    let read = scores.read();
    let want = 2.0 * read[0].log_prob - read[1].log_prob;
    assert!((f64::from(sum) - want).abs() < 1e-5);
}
