//! Causal self-attention with grouped key-value heads and rotary positions.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens, `h` query heads,
//! `g` key-value heads, `k` head width, `d` model width.
//! References: arXiv 1706.03762 (attention), 2305.13245 (grouped heads).

use burn::module::Module;
use burn::prelude::*;

use crate::config::ModelConfig;
use crate::input::ModelInput;
use crate::linear::Linear;
use crate::ops::causal_attention;

/// The attention block of one layer.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `[h · k, d]`.
    pub q_proj: Linear,
    /// Keys, `[g · k, d]`.
    pub k_proj: Linear,
    /// Values, `[g · k, d]`.
    pub v_proj: Linear,
    /// Output, `[d, h · k]`.
    pub o_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    head_dim: usize,
}

/// Keys and values of the tokens seen so far, each `[b, s, g, k]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct KvCache {
    keys_values: Option<(Tensor<4>, Tensor<4>)>,
}

impl KvCache {
    fn extend(&mut self, k_btgk: Tensor<4>, v_btgk: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let both = match self.keys_values.take() {
            Some((k, v)) => (
                Tensor::cat(vec![k, k_btgk], 1),
                Tensor::cat(vec![v, v_btgk], 1),
            ),
            None => (k_btgk, v_btgk),
        };
        self.keys_values = Some(both.clone());
        both
    }
}

impl Attention {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        let (d, std, bias) = (
            config.hidden_size,
            config.initializer_range,
            config.attention_bias,
        );
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let head_dim = config.head_dim;
        Self {
            q_proj: Linear::new(d, heads * head_dim, bias, std, device),
            k_proj: Linear::new(d, kv_heads * head_dim, bias, std, device),
            v_proj: Linear::new(d, kv_heads * head_dim, bias, std, device),
            o_proj: Linear::new(heads * head_dim, d, bias, std, device),
            heads,
            kv_heads,
            head_dim,
        }
    }

    pub(crate) fn forward(
        &self,
        x_btd: Tensor<3>,
        input: &ModelInput,
        cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let [b, t, _] = x_btd.dims();
        let (h, g, k) = (self.heads, self.kv_heads, self.head_dim);
        let q_bthk = input
            .rope
            .rotate(self.q_proj.forward(x_btd.clone()).reshape([b, t, h, k]));
        let k_btgk = input
            .rope
            .rotate(self.k_proj.forward(x_btd.clone()).reshape([b, t, g, k]));
        let v_btgk = self.v_proj.forward(x_btd).reshape([b, t, g, k]);

        let (k_bsgk, v_bsgk) = match cache {
            Some(cache) => cache.extend(k_btgk, v_btgk),
            None => (k_btgk, v_btgk),
        };
        let out_bthk = causal_attention(q_bthk, k_bsgk, v_bsgk, input.starts_bt.clone());
        self.o_proj.forward(out_bthk.reshape([b, t, h * k]))
    }
}
