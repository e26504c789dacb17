//! Causal self-attention with grouped key-value heads and rotary positions.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens, `h` query heads,
//! `g` key-value heads, `k` head width, `d` model width.
//! References: arXiv 1706.03762 (attention), 2305.13245 (grouped heads),
//! 2302.05442 (norms of queries and keys).

use burn::module::Module;
use burn::prelude::*;

use crate::adapters::linears;
use crate::config::{LayerConfig, ModelConfig, QkNorm};
use crate::generate::KvCache;
use crate::input::ModelInput;
use crate::linear::Linear;
use crate::norm::RmsNorm;
use crate::ops::{ScoreRule, forked_attention};

/// The attention block of one layer. Queries, keys and values come of three
/// projections or of one.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `[h · k, d]`.
    pub q_proj: Option<Linear>,
    /// Keys, `[g · k, d]`.
    pub k_proj: Option<Linear>,
    /// Values, `[g · k, d]`.
    pub v_proj: Option<Linear>,
    /// Queries, keys and values, `[(h + 2g) · k, d]`.
    pub qkv_proj: Option<Linear>,
    /// Output, `[d, h · k]`.
    pub o_proj: Linear,
    /// Norm of the queries.
    pub q_norm: Option<RmsNorm>,
    /// Norm of the keys.
    pub k_norm: Option<RmsNorm>,
    #[module(skip)]
    shape: AttentionShape,
}

linears!(Attention: q_proj, k_proj, v_proj, qkv_proj, o_proj);

/// What of an attention block is no parameter.
#[derive(Debug, Clone, PartialEq)]
struct AttentionShape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scores: ScoreRule,
    layer: LayerConfig,
}

impl Attention {
    pub(crate) fn new(config: &ModelConfig, layer: &LayerConfig, device: &Device) -> Self {
        let (d, std) = (config.hidden_size, config.initializer_range);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (head_dim, attention) = (config.head_dim, &config.attention);
        let project = |heads: usize, wanted: bool| {
            wanted.then(|| Linear::new(d, heads * head_dim, attention.input_bias, std, device))
        };
        let norm = |heads: usize| match attention.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some(RmsNorm::new(head_dim, &config.norm, device)),
            QkNorm::Projection => Some(RmsNorm::new(heads * head_dim, &config.norm, device)),
        };
        Self {
            q_proj: project(heads, !attention.fused),
            k_proj: project(kv_heads, !attention.fused),
            v_proj: project(kv_heads, !attention.fused),
            qkv_proj: project(heads + 2 * kv_heads, attention.fused),
            o_proj: Linear::new(heads * head_dim, d, attention.output_bias, std, device),
            q_norm: norm(heads),
            k_norm: norm(kv_heads),
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scores: ScoreRule {
                    scale: attention.scale,
                    softcap: attention.softcap,
                },
                layer: *layer,
            },
        }
    }

    pub(crate) fn forward(
        &self,
        x_btd: Tensor<3>,
        input: &ModelInput,
        cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let [b, t, _] = x_btd.dims();
        let shape = &self.shape;
        let (mut q_bthk, mut k_btgk, v_btgk) = self.project(x_btd);
        if let Some(norm) = &self.q_norm {
            q_bthk = norm.forward_heads(q_bthk);
        }
        if let Some(norm) = &self.k_norm {
            k_btgk = norm.forward_heads(k_btgk);
        }
        if let Some(rope) = shape.layer.rope {
            q_bthk = input.ropes[rope].rotate(q_bthk);
            k_btgk = input.ropes[rope].rotate(k_btgk);
        }
        let (k_bsgk, v_bsgk) = match cache {
            Some(cache) => cache.extend(k_btgk, v_btgk),
            None => (k_btgk, v_btgk),
        };
        let seen_btn = input.seen(shape.layer.window);
        let out_bthk = forked_attention(q_bthk, k_bsgk, v_bsgk, seen_btn, shape.scores);
        self.o_proj
            .forward(out_bthk.reshape([b, t, shape.heads * shape.head_dim]))
    }

    /// Queries, keys and values.
    fn project(&self, x_btd: Tensor<3>) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let [b, t, _] = x_btd.dims();
        let (h, g, k) = (self.shape.heads, self.shape.kv_heads, self.shape.head_dim);
        if let Some(all) = &self.qkv_proj {
            let all = all.forward(x_btd).reshape([b, t, h + 2 * g, k]);
            let part = |start, heads| all.clone().narrow(2, start, heads);
            return (part(0, h), part(h, g), part(h + g, g));
        }
        let project = |linear: &Option<Linear>, heads| {
            let linear = linear.as_ref().expect("made where nothing is fused");
            linear.forward(x_btd.clone()).reshape([b, t, heads, k])
        };
        (
            project(&self.q_proj, h),
            project(&self.k_proj, g),
            project(&self.v_proj, g),
        )
    }
}
