//! Hand-written backward passes against differences of their forward pass, and
//! properties that training relies on.

use burn::tensor::{Distribution, Int, Tensor, TensorData};
use proptest::prelude::*;
use trainer_model::{
    CausalLm, ParameterGradients, ScoreRule, Targets, Tokens, causal_attention, geglu, linear,
    linear_cross_entropy, lora_linear, plain, rms_norm, rope, swiglu,
};

use crate::{cpu, folder, load, take};

/// The same value by Burn's own operations.
fn plain_cross_entropy(x_nd: Tensor<2>, w_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    let log_probs_nv = burn::tensor::activation::log_softmax(x_nd.matmul(w_vd.transpose()), 1);
    log_probs_nv
        .gather(1, targets_n.unsqueeze_dim::<2>(1))
        .sum()
        .neg()
}

proptest! {
    #![proptest_config(crate::properties::cases(24))]

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
pub(crate) fn assert_same(
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
    #![proptest_config(crate::properties::cases(32))]

    #[test]
    fn linear_is_its_plain_form(rows in 1_usize..40, input in 1_usize..70, output in 1_usize..70, seed in 0_u64..1000) {
        let device = cpu().autodiff();
        device.seed(seed);
        let random = |dims: [usize; 4]| Tensor::<4>::random(dims, Distribution::Normal(0.0, 1.0), &device);
        let matrices = |x: &[Tensor<4>]| {
            (x[0].clone().reshape([rows, input]), x[1].clone().reshape([output, input]))
        };
        assert_same(
            &[random([1, 1, rows, input]), random([1, 1, output, input])],
            |x| {
                let (x, w) = matrices(x);
                linear(x, w).reshape([1, 1, rows, output])
            },
            |x| {
                let (x, w) = matrices(x);
                x.matmul(w.transpose()).reshape([1, 1, rows, output])
            },
        )?;
    }

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

    /// Any sizes, one row, one column and rank one included; more rows than a piece of
    /// work has, and an input that is no contiguous matrix.
    #[test]
    fn lora_linear_is_its_plain_form(
        rows in 1_usize..300, input in 1_usize..40, output in 1_usize..130, rank in 1_usize..9,
        turned: bool, seed in 0_u64..1000,
    ) {
        let device = cpu().autodiff();
        device.seed(seed);
        let random = |device: &burn::tensor::Device, a, b| {
            Tensor::<4>::random([1, 1, a, b], Distribution::Normal(0.0, 1.0), device)
        };
        let inputs = [
            if turned { random(&device, input, rows) } else { random(&device, rows, input) },
            random(&device, rank, input),
            random(&device, output, rank),
        ];
        let weight = random(&device.clone().without_autodiff(), output, input);
        let flat = |x: &Tensor<4>| -> Tensor<2> {
            let [_, _, a, b] = x.dims();
            x.clone().reshape([a, b])
        };
        let form = |x: &[Tensor<4>], form: &dyn Fn([Tensor<2>; 4]) -> Tensor<2>| {
            let first = flat(&x[0]);
            let first = if turned { first.transpose() } else { first };
            form([first, flat(&weight), flat(&x[1]), flat(&x[2])]).unsqueeze()
        };
        assert_same(
            &inputs,
            |x| form(x, &|[x, w, a, b]| lora_linear(x, w, a, b, 0.7)),
            |x| form(x, &|[x, w, a, b]| plain::lora_linear(x, w, a, b, 0.7)),
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

/// The map is linear in each of its arguments, so that differences over steps of any
/// length are its derivatives.
#[test]
fn lora_linear_has_the_gradients_of_its_differences() {
    let device = cpu().autodiff();
    device.seed(5);
    let random = |a, b| Tensor::<2>::random([a, b], Distribution::Normal(0.0, 1.0), &device);
    let values = [random(5, 7), random(3, 7), random(4, 3)];
    let weight = random(4, 7).inner();
    let upstream: Vec<f32> = (0..20).map(|i| (i as f32 * 0.37).sin()).collect();
    let upstream = Tensor::<2>::from_data(TensorData::new(upstream, [5, 4]), &device);
    let loss = |[x, a, b]: [Tensor<2>; 3]| {
        (lora_linear(x, weight.clone(), a, b, 1.5) * upstream.clone()).sum()
    };
    let leaves = values.clone().map(Tensor::require_grad);
    let gradients = loss(leaves.clone()).backward();
    for (index, leaf) in leaves.iter().enumerate() {
        let got: Vec<f32> = leaf.grad(&gradients).unwrap().into_data().iter().collect();
        let [rows, columns] = leaf.dims();
        for (place, got) in got.into_iter().enumerate() {
            let moved = |step: f32| {
                let mut direction = vec![0.0_f32; rows * columns];
                direction[place] = step;
                let direction = TensorData::new(direction, [rows, columns]);
                let mut moved = values.clone();
                moved[index] = moved[index].clone() + Tensor::from_data(direction, &device);
                loss(moved).into_scalar::<f32>()
            };
            let want = (moved(0.5) - moved(-0.5)) / 1.0;
            assert!(
                (got - want).abs() < 1e-4 * want.abs().max(1.0),
                "{index}: {got} {want}"
            );
        }
    }
}

/// Without a gradient for its weights, the loss has the same one for its input.
#[test]
fn a_frozen_head_changes_no_other_gradient() {
    let device = cpu().autodiff();
    device.seed(6);
    let random = |a, b| Tensor::<2>::random([a, b], Distribution::Normal(0.0, 1.0), &device);
    let (x, w) = (random(9, 6), random(30, 6));
    let ids: Vec<i64> = (0..9).map(|i| i * 3).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(ids, [9]), &device);
    let run = |frozen: bool| {
        let (x, w) = (
            x.clone().require_grad(),
            w.clone().set_require_grad(!frozen),
        );
        let loss = linear_cross_entropy(x.clone(), w.clone(), targets.clone());
        let gradients = loss.backward();
        assert_eq!(w.grad(&gradients).is_none(), frozen);
        x.grad(&gradients).unwrap().into_data()
    };
    assert_eq!(run(true), run(false));
}

/// Families with and without windows, bounds on scores and layers without positions.
pub(crate) const FAMILIES: [&str; 7] = [
    "llama",
    "gemma3",
    "mistral-swa",
    "olmo2",
    "phi3",
    "qwen3-moe",
    "smollm3",
];

/// Documents of one row, one behind the other.
#[derive(Default)]
struct Row {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<u32>,
    labels: Vec<i32>,
}

impl Row {
    fn add(&mut self, document: &[u32]) {
        let segment = self.segments.last().map_or(1, |last| last + 1);
        self.ids.extend(document);
        self.positions.extend(0..document.len() as u32);
        self.segments.extend(vec![segment; document.len()]);
        self.labels.push(-100);
        self.labels
            .extend(document[1..].iter().map(|&id| id as i32));
    }

    fn pad(&mut self, width: usize) {
        for zeros in [&mut self.ids, &mut self.positions, &mut self.segments] {
            zeros.resize(zeros.len().next_multiple_of(width), 0);
        }
        self.labels.resize(self.ids.len(), -100);
    }

    /// The same numbers as rows of this width.
    fn tokens(&self, width: usize) -> Tokens<'_> {
        Tokens {
            rows: self.ids.len() / width,
            width,
            input_ids: &self.ids,
            position_ids: &self.positions,
            segment_ids: &self.segments,
        }
    }
}

/// Summed loss and its gradients.
fn sums(model: &CausalLm, row: &Row, width: usize) -> (f64, ParameterGradients) {
    let input = model.input(&row.tokens(width));
    let targets = Targets::from_labels(&row.labels, width);
    let hidden_btd = model.hidden(&input);
    let loss = model.loss_sum(hidden_btd, &targets);
    let mut gradients = loss.backward();
    let value = f64::from(loss.into_scalar::<f32>());
    (value, take(model, &mut gradients))
}

/// Asserts that the gradient of each parameter agrees to `tolerance` of its norm.
pub(crate) fn assert_close(
    name: &str,
    got: ParameterGradients,
    want: &ParameterGradients,
    tolerance: f32,
) {
    let norm = |x: Tensor<1>| x.square().sum().sqrt().into_scalar::<f32>();
    for (index, (a, b)) in got.flat.into_iter().zip(&want.flat).enumerate() {
        let (Some(a), Some(b)) = (&a, b) else {
            assert_eq!(a.is_some(), b.is_some(), "{name}: parameter {index}");
            continue;
        };
        let (difference, size) = (norm(a.clone() - b.clone()), norm(b.clone()));
        assert!(
            difference <= tolerance * size,
            "{name}: parameter {index}: {difference} of {size}"
        );
    }
}

pub(crate) fn document(length: usize, seed: u32) -> Vec<u32> {
    let ids = 0..length as u32;
    ids.map(|i| (i * 37 + seed * 101) % 1000 + 3).collect()
}

/// Three documents in one row give the loss and the gradients that they give in
/// rows of their own.
#[test]
fn packed_rows_are_unpacked_rows() {
    for name in FAMILIES {
        let model = load(&folder(name), &cpu().autodiff());
        // Beyond the windows of 48 tokens, and beyond a block of 64 queries.
        let documents = [document(70, 1), document(13, 2), document(55, 3)];
        let (mut loss_apart, mut apart) = (0.0, ParameterGradients::default());
        let mut packed = Row::default();
        for document in &documents {
            packed.add(document);
            let mut own = Row::default();
            own.add(document);
            let (loss, gradients) = sums(&model, &own, document.len());
            loss_apart += loss;
            apart.add(gradients);
        }
        let (loss, gradients) = sums(&model, &packed, packed.ids.len());
        let difference = (loss - loss_apart).abs();
        assert!(
            difference <= 1e-5 * loss_apart,
            "{name}: {loss} {loss_apart}"
        );
        assert_close(name, gradients, &apart, 1e-5);
    }
}

/// A token of one document does not touch a bit of another document's logits.
#[test]
fn documents_do_not_leak() {
    for name in FAMILIES {
        let model = load(&folder(name), &cpu());
        let mut row = Row::default();
        row.add(&document(70, 1));
        row.add(&document(55, 2));
        let second = |row: &Row| -> Vec<u32> {
            let logits = model.logits(model.hidden(&model.input(&row.tokens(125))));
            let logits = logits.narrow(1, 70, 55).into_data();
            logits.iter::<f32>().map(f32::to_bits).collect()
        };
        let before = second(&row);
        for changed in [0, 5, 69] {
            row.ids[changed] = 999 - row.ids[changed];
            assert!(before == second(&row), "{name}: token {changed}");
        }
        row.ids[70] += 1;
        assert!(before != second(&row), "{name}: a document sees itself");
    }
}

/// Eight rows of unequal length give the same gradient as one batch, as four of two and
/// as eight of one, each sum divided by the tokens of all.
#[test]
fn gradients_do_not_depend_on_the_batches() {
    for name in ["llama", "gemma3", "mistral-swa", "phi3"] {
        let model = load(&folder(name), &cpu().autodiff());
        let documents: Vec<Vec<u32>> = [40, 3, 61, 17, 2, 29, 55, 8]
            .into_iter()
            .enumerate()
            .map(|(seed, length)| document(length, seed as u32))
            .collect();
        let tokens: usize = documents.iter().map(|document| document.len() - 1).sum();
        let runs = [8, 2, 1].map(|rows| {
            let mut sum = (0.0, ParameterGradients::default());
            for batch in documents.chunks(rows) {
                let width = batch.iter().map(Vec::len).max().unwrap();
                let mut padded = Row::default();
                for document in batch {
                    // A row starts anew with segment 1 as far as attention goes.
                    padded.add(document);
                    padded.pad(width);
                }
                let (loss, mut gradients) = sums(&model, &padded, width);
                gradients.scale(1.0 / tokens as f64);
                sum.0 += loss / tokens as f64;
                sum.1.add(gradients);
            }
            sum
        });
        let [whole, twos, ones] = runs;
        for (loss, gradients) in [twos, ones] {
            assert!((loss - whole.0).abs() <= 1e-6 * whole.0, "{name}");
            assert_close(name, gradients, &whole.1, 1e-6);
        }
    }
}
