//! Operations on the flex backend that run [`super::host`]'s kernels, each with
//! its own backward pass. Other backends compute the same by Burn's operations.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, TensorData};
use burn_flex::FlexTensor;
use ndarray::{ArrayView2, ShapeBuilder};

use super::ScoreRule;
use super::host::attention::{Saved, Seen, Sizes};
use super::host::{
    attention, gated, product, rms_norm, rope, scale, softmax_cross_entropy, token_scores as scores,
};
use crate::config::Activation;

/// The operations as tensors see them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"))]
pub(crate) trait FlexOps: Backend {
    /// `act(gate) · up`.
    fn gated(
        activation: Activation,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// RMSNorm over the last dimension.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;

    /// Rotary embedding of `x`, `[b, t, h, k]`, by tables `[b, t, 1, r]`.
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Causal attention within documents; see [`super::forked_attention`].
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        seen: IntTensor<Self>,
        rule: ScoreRule,
    ) -> FloatTensor<Self>;
}

/// Forward passes with what their backward passes need.
pub(crate) trait Kernels: Backend {
    fn gated_forward(
        activation: Activation,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Gradients of gate and up.
    fn gated_backward(
        activation: Activation,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The result and the scale of each row.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of x and weight.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `x` turned by the angles of the tables, or back.
    fn rope_turn(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        back: bool,
    ) -> FloatTensor<Self>;
    /// The result and the logarithm of each softmax's sum.
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        seen: IntTensor<Self>,
        rule: ScoreRule,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of q, k and v.
    fn attention_backward(
        state: AttentionState<Self>,
        upstream: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

/// What attention's backward pass reads.
#[derive(Debug, Clone)]
pub(crate) struct AttentionState<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    seen: IntTensor<B>,
    rule: ScoreRule,
    output: FloatTensor<B>,
    log_sums: FloatTensor<B>,
}

/// The elements of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous tensor of f32")
}

/// A tensor whose elements can be changed in their place: nothing else holds them, and
/// they are all that its memory holds. Copied only where that is not so.
///
/// Not by way of a `Vec`: the memory of Burn's results is not aligned as one, and would
/// be copied each time.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let all = tensor.storage::<f32>().len();
    let mut tensor = match tensor.as_slice::<f32>() {
        Some(values) if values.len() == all => tensor,
        Some(values) => self::tensor(values.to_vec(), tensor.shape()),
        None => tensor.to_contiguous(),
    };
    tensor.storage_mut::<f32>();
    tensor
}

/// The elements of an [`owned`] tensor.
fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    tensor.storage_mut()
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

fn indices(tensor: &FlexTensor) -> Vec<usize> {
    let data = tensor.to_contiguous().into_data();
    data.iter::<i64>()
        .map(|i| usize::try_from(i).unwrap_or(0))
        .collect()
}

/// What each query sees, of `[b, t, 1]` or `[b, t, 3]` numbers.
fn seen_keys(tensor: &FlexTensor) -> Vec<Seen> {
    let [_, _, numbers] = tensor.shape().dims::<3>();
    indices(tensor)
        .chunks_exact(numbers.max(1))
        .map(|numbers| Seen {
            start: numbers[0],
            gap: match *numbers {
                [_, from, to] => (from, to),
                _ => (0, 0),
            },
        })
        .collect()
}

fn attention_sizes(q: &FlexTensor, k: &FlexTensor, rule: ScoreRule) -> Sizes {
    let [rows, queries, heads, width] = q.shape().dims::<4>();
    let [_, keys, kv_heads, _] = k.shape().dims::<4>();
    Sizes {
        rows,
        queries,
        keys,
        row_keys: keys,
        heads,
        kv_heads,
        width,
        scale: rule.scale as f32,
        softcap: rule.softcap.map(|cap| cap as f32),
    }
}

/// Tokens from one row of `[b, s, g, k]` to the next, where rows are contiguous and
/// may have room behind them.
fn row_keys(tensor: &FlexTensor) -> Option<usize> {
    let [_, keys, heads, width] = tensor.shape().dims::<4>();
    let layout = tensor.layout();
    let token = heads * width;
    let row = usize::try_from(layout.strides()[0]).ok()?;
    let within = layout.strides()[1..] == [token as isize, width as isize, 1];
    let whole = row >= token * keys && row.is_multiple_of(token);
    (layout.start_offset() == 0 && within && whole).then(|| row / token)
}

impl Kernels for Flex {
    fn gated_forward(activation: Activation, gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (mut gate, up) = (owned(gate), up.to_contiguous());
        let (g, u) = (values_mut(&mut gate), values(&up));
        match activation {
            Activation::Silu => gated::forward::<gated::Silu>(g, u),
            Activation::GeluTanh => gated::forward::<gated::GeluTanh>(g, u),
        }
        gate
    }

    fn gated_backward(
        activation: Activation,
        gate: FlexTensor,
        up: FlexTensor,
        upstream: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        let (mut gate, up, mut upstream) = (owned(gate), up.to_contiguous(), owned(upstream));
        let (g, d) = (values_mut(&mut gate), values_mut(&mut upstream));
        let u = values(&up);
        match activation {
            Activation::Silu => gated::backward::<gated::Silu>(g, u, d),
            Activation::GeluTanh => gated::backward::<gated::GeluTanh>(g, u, d),
        }
        (gate, upstream)
    }

    fn rms_norm_forward(x: FlexTensor, weight: FlexTensor, eps: f64) -> (FlexTensor, FlexTensor) {
        let (mut x, weight) = (owned(x), weight.to_contiguous());
        let scales = rms_norm::forward(values_mut(&mut x), values(&weight), eps as f32);
        let rows = scales.len();
        (x, tensor(scales, [rows]))
    }

    fn rms_norm_backward(
        x: FlexTensor,
        weight: FlexTensor,
        scales: FlexTensor,
        upstream: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let mut upstream = owned(upstream);
        let dx = values_mut(&mut upstream);
        let dw = rms_norm::backward(values(&x), values(&weight), values(&scales), dx);
        (upstream, tensor(dw, weight.shape()))
    }

    fn rope_turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, back: bool) -> FlexTensor {
        let width = x.shape().dims::<4>()[3];
        let (mut x, cos, sin) = (owned(x), cos.to_contiguous(), sin.to_contiguous());
        let direction = if back { -1.0 } else { 1.0 };
        let rotated = cos.shape().dims::<4>()[3];
        rope::rotate(
            values_mut(&mut x),
            values(&cos),
            values(&sin),
            (width, rotated),
            direction,
        );
        x
    }

    fn attention_forward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        seen: FlexTensor,
        rule: ScoreRule,
    ) -> (FlexTensor, FlexTensor) {
        let mut sizes = attention_sizes(&q, &k, rule);
        let shape = q.shape();
        let (q, seen) = (q.to_contiguous(), seen_keys(&seen));
        let (output, log_sums) = match (row_keys(&k), row_keys(&v)) {
            // A cache is read where it is.
            (Some(of_k), Some(of_v)) if of_k == of_v => {
                sizes.row_keys = of_k;
                attention::forward(sizes, values(&q), k.storage(), v.storage(), &seen)
            }
            _ => {
                let (k, v) = (k.to_contiguous(), v.to_contiguous());
                attention::forward(sizes, values(&q), values(&k), values(&v), &seen)
            }
        };
        let n = log_sums.len();
        (tensor(output, shape), tensor(log_sums, [n]))
    }

    fn attention_backward(state: AttentionState<Self>, upstream: FlexTensor) -> [FlexTensor; 3] {
        let sizes = attention_sizes(&state.q, &state.k, state.rule);
        let (q, k, v) = (
            state.q.to_contiguous(),
            state.k.to_contiguous(),
            state.v.to_contiguous(),
        );
        let (seen, upstream) = (seen_keys(&state.seen), upstream.to_contiguous());
        let saved = Saved {
            q: values(&q),
            k: values(&k),
            v: values(&v),
            seen: &seen,
            output: values(&state.output),
            log_sums: values(&state.log_sums),
        };
        let (dq, dk, dv) = attention::backward(sizes, &saved, values(&upstream));
        [
            tensor(dq, q.shape()),
            tensor(dk, k.shape()),
            tensor(dv, v.shape()),
        ]
    }
}

impl FlexOps for Flex {
    fn gated(activation: Activation, gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        Self::gated_forward(activation, gate, up)
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        Self::rms_norm_forward(x, weight, eps).0
    }

    fn rope(x: FlexTensor, cos: FlexTensor, sin: FlexTensor) -> FlexTensor {
        Self::rope_turn(x, cos, sin, false)
    }

    fn causal_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        seen: FlexTensor,
        rule: ScoreRule,
    ) -> FlexTensor {
        Self::attention_forward(q, k, v, seen, rule).0
    }
}

#[derive(Debug)]
struct GatedBackward;

impl<B: Kernels> Backward<B, 2> for GatedBackward {
    type State = (Activation, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate, up] = ops.parents;
        let upstream = grads.consume::<B>(&ops.node);
        let (activation, state_gate, state_up) = ops.state;
        let (d_gate, d_up) = B::gated_backward(activation, state_gate, state_up, upstream);
        for (node, gradient) in [(gate, d_gate), (up, d_up)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: Kernels> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x, weight] = ops.parents;
        let upstream = grads.consume::<B>(&ops.node);
        let (state_x, state_weight, scales) = ops.state;
        let (dx, dw) = B::rms_norm_backward(state_x, state_weight, scales, upstream);
        for (node, gradient) in [(x, dx), (weight, dw)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RopeBackward;

impl<B: Kernels> Backward<B, 1> for RopeBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents;
        let upstream = grads.consume::<B>(&ops.node);
        if let Some(node) = x {
            let (cos, sin) = ops.state;
            grads.register::<B>(node.id, B::rope_turn(upstream, cos, sin, true));
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: Kernels> Backward<B, 3> for AttentionBackward {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let gradients = B::attention_backward(ops.state, upstream);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: FlexOps + Kernels, C: CheckpointStrategy> FlexOps for Autodiff<B, C> {
    fn gated(
        activation: Activation,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        match GatedBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let output = B::gated_forward(activation, gate.clone(), up.clone());
                prepared.finish((activation, gate, up), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::gated_forward(activation, gate, up)),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match RmsNormBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => {
                let (output, scales) = B::rms_norm_forward(x.clone(), weight.clone(), eps);
                prepared.finish((x, weight, scales), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::rms_norm_forward(x, weight, eps).0),
        }
    }

    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let node = x.node();
        let x = x.into_primitive();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let prepared = RopeBackward.prepare::<C>([node]).compute_bound().stateful();
        let output = B::rope_turn(x, cos.clone(), sin.clone(), false);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((cos, sin), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        seen: IntTensor<Self>,
        rule: ScoreRule,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let prepared = AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful();
        let (output, log_sums) =
            B::attention_forward(q.clone(), k.clone(), v.clone(), seen.clone(), rule);
        match prepared {
            OpsKind::Tracked(prepared) => {
                let state = AttentionState {
                    q,
                    k,
                    v,
                    seen,
                    rule,
                    output: output.clone(),
                    log_sums,
                };
                prepared.finish(state, output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

/// Loss and logit gradients of a chunk; see [`softmax_cross_entropy`].
pub(super) fn cross_entropy_rows(
    logits: FlexTensor,
    targets: &FlexTensor,
    with_gradients: bool,
) -> (FlexTensor, FlexTensor) {
    let mut logits = owned(logits);
    let rows = values_mut(&mut logits);
    let loss = softmax_cross_entropy(rows, &indices(targets), with_gradients);
    (tensor(vec![loss], [1]), logits)
}

/// `x` times the one number of `factor_11`, in the memory of `x`.
pub(super) fn multiple(x: FlexTensor, factor_11: &FlexTensor) -> FlexTensor {
    let factor = values(&factor_11.to_contiguous())[0];
    if factor == 1.0 {
        return x;
    }
    let mut x = owned(x);
    scale(values_mut(&mut x), factor);
    x
}

/// Scores of a chunk of logits; see [`super::token_scores()`].
pub(super) fn token_scores(logits: &FlexTensor, targets: &FlexTensor) -> FlexTensor {
    let logits = logits.to_contiguous();
    let targets = indices(targets);
    let shape = [targets.len(), scores::COLUMNS];
    tensor(scores::forward(values(&logits), &targets), shape)
}

/// Gradients of weighted log-probabilities with respect to a chunk of logits.
pub(super) fn token_score_gradients(
    logits: FlexTensor,
    targets: &FlexTensor,
    scores: &FlexTensor,
    weights: &FlexTensor,
) -> FlexTensor {
    let mut logits = owned(logits);
    let (scores, weights) = (scores.to_contiguous(), weights.to_contiguous());
    let targets = indices(targets);
    let rows = values_mut(&mut logits);
    scores::backward(rows, &targets, values(&scores), values(&weights));
    logits
}

/// `y + l · r` of matrices; in place where nothing else holds `y`.
pub(super) fn add_product(y: FlexTensor, l: FlexTensor, r: FlexTensor) -> FlexTensor {
    if y.dtype() != DType::F32 {
        return Flex::float_add(y, Flex::float_matmul(l, r));
    }
    let mut y = owned(y);
    product::add_product(values_mut(&mut y), &matrix(&l), &matrix(&r));
    y
}

/// `l · r` of matrices.
pub(super) fn product(l: FlexTensor, r: FlexTensor) -> FlexTensor {
    if [l.dtype(), r.dtype()] != [DType::F32; 2] {
        return Flex::float_matmul(l, r);
    }
    let (l, r) = (matrix(&l), matrix(&r));
    tensor(product::product_of(&l, &r), [l.nrows(), r.ncols()])
}

/// A matrix in the memory of a tensor, whatever its strides.
fn matrix(tensor: &FlexTensor) -> ArrayView2<'_, f32> {
    let [rows, columns] = tensor.shape().dims::<2>();
    let layout = tensor.layout();
    let stride = |dim: usize| usize::try_from(layout.strides()[dim]).expect("forward strides");
    let strides = (stride(0), stride(1));
    let values = &tensor.storage::<f32>()[layout.start_offset()..];
    ArrayView2::from_shape((rows, columns).strides(strides), values)
        .expect("the layout is that of the storage")
}

/// Whether the kernels can take tensors of this device and type.
pub(super) fn applies(device: &burn::tensor::Device, dtype: DType) -> bool {
    dtype == DType::F32 && device.clone().without_autodiff() == burn::tensor::Device::flex()
}
