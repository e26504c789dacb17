//! What a layer does to each token alone: a gated MLP, or a mixture of them.
//!
//! Variants differ in the names of their tensors. They add no part to a name:
//! the tensors of either are those of the field that holds the enum.
//!
//! Shape suffixes: `b` rows, `t` tokens, `d` model width, `n` tokens of a batch,
//! `e` experts, `k` experts of a token, `m` tokens of one expert.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault};
use burn::module::{ModuleMapper, ModuleVisitor};
use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::{FloatDType, IndexingUpdateOp, TensorData};

use crate::adapters::{Linears, linears};
use crate::config::{Activation, ExpertsConfig, MlpConfig, MlpLayout, ModelConfig};
use crate::error::Result;
use crate::linear::Linear;
use crate::ops::{geglu, swiglu};
use crate::precision::{as_in, in_f32};

/// Gated MLP, `down(act(gate(x)) · up(x))` (arXiv 2002.05202), or experts.
#[derive(Debug, Clone)]
pub enum FeedForward {
    /// Three projections under Llama's names.
    Split(SplitMlp),
    /// Gate and up in one.
    Fused(FusedMlp),
    /// Three projections under Mixtral's names.
    Numbered(NumberedMlp),
    /// A mixture of experts.
    Experts(SparseMoe),
}

/// Three projections under Llama's names.
#[derive(Module, Debug)]
pub struct SplitMlp {
    /// Gate.
    pub gate_proj: Linear,
    /// Up.
    pub up_proj: Linear,
    /// Down.
    pub down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

/// Gate and up in one projection.
#[derive(Module, Debug)]
pub struct FusedMlp {
    /// Gate, then up.
    pub gate_up_proj: Linear,
    /// Down.
    pub down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

/// Three projections under Mixtral's names.
#[derive(Module, Debug)]
pub struct NumberedMlp {
    /// Gate.
    pub w1: Linear,
    /// Down.
    pub w2: Linear,
    /// Up.
    pub w3: Linear,
    #[module(skip)]
    activation: Activation,
}

/// Implements `Module` for an enum of modules whose variants add nothing to the
/// names of their tensors; the derived implementation adds the variant.
macro_rules! transparent_module {
    ($name:ident: $($variant:ident),+) => {
        impl Module for $name {
            fn collect_devices(&self, devices: Devices) -> Devices {
                match self { $(Self::$variant(inner) => inner.collect_devices(devices)),+ }
            }
            fn fork(self, device: &Device) -> Self {
                match self { $(Self::$variant(inner) => Self::$variant(inner.fork(device))),+ }
            }
            fn to_device(self, device: &Device) -> Self {
                match self { $(Self::$variant(inner) => Self::$variant(inner.to_device(device))),+ }
            }
            fn train(self) -> Self {
                match self { $(Self::$variant(inner) => Self::$variant(inner.train())),+ }
            }
            fn valid(&self) -> Self {
                match self { $(Self::$variant(inner) => Self::$variant(inner.valid())),+ }
            }
            fn materialize(self) -> Self {
                match self { $(Self::$variant(inner) => Self::$variant(inner.materialize())),+ }
            }
            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                match self { $(Self::$variant(inner) => inner.visit(visitor)),+ }
            }
            fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
                match self { $(Self::$variant(inner) => Self::$variant(inner.map(mapper))),+ }
            }
        }
        impl ModuleDisplayDefault for $name {
            fn content(&self, content: Content) -> Option<Content> {
                match self { $(Self::$variant(inner) => inner.content(content)),+ }
            }
        }
        impl ModuleDisplay for $name {}
    };
}

linears!(SplitMlp: gate_proj, up_proj, down_proj);
linears!(FusedMlp: gate_up_proj, down_proj);
linears!(NumberedMlp: w1, w2, w3);
// The router is no map that adapters change.
linears!(SparseMoe: experts);

impl Linears for FeedForward {
    fn each_linear(
        &mut self,
        name: &str,
        f: &mut dyn FnMut(&str, &mut Linear) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Split(mlp) => mlp.each_linear(name, f),
            Self::Fused(mlp) => mlp.each_linear(name, f),
            Self::Numbered(mlp) => mlp.each_linear(name, f),
            Self::Experts(experts) => experts.each_linear(name, f),
        }
    }
}

transparent_module!(FeedForward: Split, Fused, Numbered, Experts);

impl FeedForward {
    /// A gated MLP of this inner width.
    pub(crate) fn mlp(config: &ModelConfig, inner: usize, device: &Device) -> Self {
        let MlpConfig {
            activation,
            bias,
            layout,
        } = config.mlp;
        let (d, std) = (config.hidden_size, config.initializer_range);
        let linear = |input, output| Linear::new(input, output, bias, std, device);
        match layout {
            MlpLayout::Split => Self::Split(SplitMlp {
                gate_proj: linear(d, inner),
                up_proj: linear(d, inner),
                down_proj: linear(inner, d),
                activation,
            }),
            MlpLayout::Fused => Self::Fused(FusedMlp {
                gate_up_proj: linear(d, 2 * inner),
                down_proj: linear(inner, d),
                activation,
            }),
            MlpLayout::Numbered => Self::Numbered(NumberedMlp {
                w1: linear(d, inner),
                w2: linear(inner, d),
                w3: linear(d, inner),
                activation,
            }),
        }
    }

    /// Applies it to each token of `x_nd`. `real` says which tokens are no
    /// padding, `balance` gathers what the load-balancing loss is made of.
    pub(crate) fn forward(
        &self,
        x_nd: Tensor<2>,
        real: &[bool],
        balance: Option<&mut Balance>,
    ) -> Tensor<2> {
        match self {
            Self::Split(mlp) => {
                let gate = mlp.gate_proj.forward(x_nd.clone());
                let up = mlp.up_proj.forward(x_nd);
                mlp.down_proj.forward(gated(mlp.activation, gate, up))
            }
            Self::Fused(mlp) => {
                let both = mlp.gate_up_proj.forward(x_nd);
                let inner = both.dims()[1] / 2;
                let (gate, up) = (
                    both.clone().narrow(1, 0, inner),
                    both.narrow(1, inner, inner),
                );
                mlp.down_proj.forward(gated(mlp.activation, gate, up))
            }
            Self::Numbered(mlp) => {
                let gate = mlp.w1.forward(x_nd.clone());
                let up = mlp.w3.forward(x_nd);
                mlp.w2.forward(gated(mlp.activation, gate, up))
            }
            Self::Experts(experts) => experts.forward(x_nd, real, balance),
        }
    }
}

fn gated(activation: Activation, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let up = up.cast(FloatDType::F32);
    in_f32(gate, |gate| match activation {
        Activation::Silu => swiglu(gate, up),
        Activation::GeluTanh => geglu(gate, up),
    })
}

/// A mixture of experts: each token is sent to the `k` experts that the router
/// gives the highest probability (arXiv 1701.06538, 2401.04088).
#[derive(Module, Debug)]
pub struct SparseMoe {
    /// The router, `[e, d]`.
    pub gate: Linear,
    /// The experts, each a gated MLP.
    pub experts: Vec<FeedForward>,
    #[module(skip)]
    per_token: usize,
    #[module(skip)]
    normalized: bool,
}

impl SparseMoe {
    pub(crate) fn new(config: &ModelConfig, experts: &ExpertsConfig, device: &Device) -> Self {
        let (d, std) = (config.hidden_size, config.initializer_range);
        let expert = |_| FeedForward::mlp(config, experts.intermediate_size, device);
        Self {
            gate: Linear::new(d, experts.count, false, std, device),
            experts: (0..experts.count).map(expert).collect(),
            per_token: experts.per_token,
            normalized: experts.normalized,
        }
    }

    pub(crate) fn forward(
        &self,
        x_nd: Tensor<2>,
        real: &[bool],
        balance: Option<&mut Balance>,
    ) -> Tensor<2> {
        let device = x_nd.device();
        let [n, _] = x_nd.dims();
        let (e, k) = (self.experts.len(), self.per_token);
        let scores_ne = self.gate.forward(x_nd.clone());
        let probs_ne = softmax(scores_ne.cast(FloatDType::F32), 1);
        // Which expert gets which token is decided on the host, once a layer.
        let host: Vec<f32> = probs_ne.clone().into_data().iter().collect();
        let chosen: Vec<usize> = host.chunks(e).flat_map(|row| largest(row, k)).collect();
        if let Some(balance) = balance {
            balance.add(&chosen, &probs_ne, real, k);
        }
        let chosen_nk = indices(&chosen, &device).reshape([n, k]);
        let mut weights_nk = probs_ne.gather(1, chosen_nk);
        if self.normalized {
            weights_nk = weights_nk.clone() / weights_nk.sum_dim(1);
        }
        let weights_n1 = as_in(weights_nk, x_nd.dtype()).reshape([n * k, 1]);

        let mut slots_of = vec![Vec::new(); e];
        for (slot, &expert) in chosen.iter().enumerate() {
            slots_of[expert].push(slot);
        }
        let mut sum_nd = x_nd.zeros_like();
        for (expert, slots) in self.experts.iter().zip(&slots_of) {
            if slots.is_empty() {
                continue;
            }
            let tokens: Vec<usize> = slots.iter().map(|slot| slot / k).collect();
            let tokens_m = indices(&tokens, &device);
            let x_md = x_nd.clone().select(0, tokens_m.clone());
            let y_md = expert.forward(x_md, real, None)
                * weights_n1.clone().select(0, indices(slots, &device));
            sum_nd = sum_nd.select_assign(0, tokens_m, y_md, IndexingUpdateOp::Add);
        }
        sum_nd
    }
}

/// Indices of the `k` largest values, the largest first; of equal ones the first.
fn largest(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(k);
    order
}

fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// What the load-balancing loss is made of, summed over layers (arXiv
/// 2101.03961, equations 4 to 6, with all layers as one batch, as in
/// transformers): how often each expert is chosen, and its mean probability.
/// Padding counts for neither.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Tokens sent to each expert.
    chosen: Vec<f64>,
    /// Sum of each expert's probabilities, `[e]`.
    probs_e: Option<Tensor<1>>,
    /// Tokens, counted once a layer.
    tokens: usize,
}

impl Balance {
    fn add(&mut self, chosen: &[usize], probs_ne: &Tensor<2>, real: &[bool], k: usize) {
        let [n, e] = probs_ne.dims();
        self.chosen.resize(e, 0.0);
        for (slot, &expert) in chosen.iter().enumerate() {
            if real[slot / k] {
                self.chosen[expert] += 1.0;
            }
        }
        let counted = real.iter().filter(|&&real| real).count();
        self.tokens += counted;
        let probs_ne = if counted == n {
            probs_ne.clone()
        } else {
            let mask: Vec<f32> = real.iter().map(|&real| f32::from(u8::from(real))).collect();
            let mask_n1 = Tensor::from_data(TensorData::new(mask, [n, 1]), &probs_ne.device());
            probs_ne.clone() * mask_n1
        };
        let sum_e = probs_ne.sum_dim(0).reshape([e]);
        self.probs_e = Some(match self.probs_e.take() {
            Some(sum) => sum + sum_e,
            None => sum_e,
        });
    }

    /// Sum of each expert's probabilities, `[e]`; `None` where no layer has experts.
    pub(crate) fn probabilities(self) -> Option<Tensor<1>> {
        self.probs_e
    }

    /// The same with other sums of probabilities, which the loss then depends on.
    pub(crate) fn map_probabilities(mut self, f: impl FnOnce(Tensor<1>) -> Tensor<1>) -> Self {
        self.probs_e = self.probs_e.map(f);
        self
    }

    /// `e · Σ share · probability`, `[1]`: `k` for a perfect balance. `None` where
    /// no layer has experts or no token counts.
    pub(crate) fn loss(self) -> Option<Tensor<1>> {
        let probs_e = self.probs_e.filter(|_| self.tokens > 0)?;
        let (e, tokens) = (self.chosen.len(), self.tokens as f64);
        let shares: Vec<f32> = self
            .chosen
            .iter()
            .map(|count| (count / tokens) as f32)
            .collect();
        let shares_e = Tensor::from_data(TensorData::new(shares, [e]), &probs_e.device());
        Some((probs_e / tokens * shares_e).sum() * e as f64)
    }
}
