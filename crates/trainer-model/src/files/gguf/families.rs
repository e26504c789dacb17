//! How models of each family are laid out in GGUF: names of tensors and keys.
//!
//! Reference: `convert_hf_to_gguf.py` and `gguf-py/gguf/tensor_mapping.py` of
//! llama.cpp.

/// A family of models.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// `model_type` of `config.json`.
    pub(super) model_type: &'static str,
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// Class in `config.json`'s `architectures`.
    pub(super) class: &'static str,
    /// The rows of query and key projections that rotary embeddings turn together
    /// lie side by side, where Hugging Face has them half a head apart.
    pub(super) pairs: bool,
    /// Weights of norms are stored with 1 added.
    pub(super) norms_plus_one: bool,
    /// The projections of queries, keys and values have biases.
    pub(super) qkv_bias: bool,
    /// Four norms in a layer: before and after attention and MLP.
    pub(super) four_norms: bool,
}

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "llama",
    class: "LlamaForCausalLM",
    pairs: true,
    norms_plus_one: false,
    qkv_bias: false,
    four_norms: false,
};

/// The families that are exported and imported; the first of an architecture is
/// what a file of it becomes.
pub(super) const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        model_type: "mistral",
        class: "MistralForCausalLM",
        ..LLAMA
    },
    Family {
        model_type: "qwen2",
        architecture: "qwen2",
        class: "Qwen2ForCausalLM",
        pairs: false,
        qkv_bias: true,
        ..LLAMA
    },
    Family {
        model_type: "qwen3",
        architecture: "qwen3",
        class: "Qwen3ForCausalLM",
        pairs: false,
        ..LLAMA
    },
    Family {
        model_type: "gemma3_text",
        architecture: "gemma3",
        class: "Gemma3ForCausalLM",
        pairs: false,
        norms_plus_one: true,
        four_norms: true,
        ..LLAMA
    },
    Family {
        model_type: "phi3",
        architecture: "phi3",
        class: "Phi3ForCausalLM",
        pairs: false,
        ..LLAMA
    },
];

/// Factors of the rotary frequencies, a tensor that is no part of a model here.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Outside of the layers: Hugging Face's and GGUF's names, without `.weight`.
const TOP: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// Within a layer, with two norms.
const LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// What four norms are called; two of the names mean others elsewhere.
const FOUR_NORMS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

impl Family {
    fn in_layer(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        let own = if self.four_norms { FOUR_NORMS } else { &[] };
        // One matrix of Phi 3 holds gate and up, and is called as the latter.
        let fused = self.model_type == "phi3";
        let others = LAYER.iter().filter(move |(hf, _)| {
            own.iter().all(|(named, _)| named != hf)
                && (*hf != "mlp.up_proj" || !fused)
                && (*hf != "mlp.gate_up_proj" || fused)
        });
        own.iter().chain(others)
    }

    /// GGUF's name of a tensor.
    pub(super) fn gguf_name(&self, name: &str) -> Option<String> {
        let (stem, end) = name.rsplit_once('.')?;
        if let Some(rest) = stem.strip_prefix("model.layers.") {
            let (layer, part) = rest.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            let (_, gguf) = self.in_layer().find(|(hf, _)| *hf == part)?;
            return Some(format!("blk.{layer}.{gguf}.{end}"));
        }
        let (_, gguf) = TOP.iter().find(|(hf, _)| *hf == stem)?;
        Some(format!("{gguf}.{end}"))
    }

    /// Hugging Face's name of a tensor.
    pub(super) fn hf_name(&self, name: &str) -> Option<String> {
        let (stem, end) = name.rsplit_once('.')?;
        if let Some(rest) = stem.strip_prefix("blk.") {
            let (layer, part) = rest.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            let (hf, _) = self.in_layer().find(|(_, gguf)| *gguf == part)?;
            return Some(format!("model.layers.{layer}.{hf}.{end}"));
        }
        let (hf, _) = TOP.iter().find(|(_, gguf)| *gguf == stem)?;
        Some(format!("{hf}.{end}"))
    }
}

/// Whether a tensor of Hugging Face's name is a query or key projection, whose
/// rows belong to heads.
pub(super) fn turned_heads(name: &str) -> Option<Heads> {
    let (stem, _) = name.rsplit_once('.')?;
    if stem.ends_with("self_attn.q_proj") {
        Some(Heads::Query)
    } else if stem.ends_with("self_attn.k_proj") {
        Some(Heads::Key)
    } else {
        None
    }
}

/// Which heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    Query,
    Key,
}

/// Rows of each head that are half a head apart, put side by side, or back.
/// `values` is `[heads · width, columns]` (a bias has one column).
pub(super) fn reorder(values: &[f32], heads: usize, rows: usize, to_pairs: bool) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    let (width, half) = (rows / heads, rows / heads / 2);
    let mut out = vec![0.0; values.len()];
    for head in 0..heads {
        for index in 0..half {
            for side in 0..2 {
                let pair = head * width + 2 * index + side;
                let apart = head * width + side * half + index;
                let (from, to) = if to_pairs {
                    (apart, pair)
                } else {
                    (pair, apart)
                };
                out[to * columns..][..columns]
                    .copy_from_slice(&values[from * columns..][..columns]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for family in FAMILIES {
            for (hf, _) in family.in_layer() {
                let name = format!("model.layers.11.{hf}.weight");
                let gguf = family.gguf_name(&name).unwrap();
                assert!(gguf.starts_with("blk.11."), "{gguf}");
                assert_eq!(family.hf_name(&gguf), Some(name), "{}", family.model_type);
            }
            for (hf, gguf) in TOP {
                let (hf, gguf) = (format!("{hf}.weight"), format!("{gguf}.weight"));
                assert_eq!(family.gguf_name(&hf), Some(gguf.clone()));
                assert_eq!(family.hf_name(&gguf), Some(hf));
            }
            for other in [
                "model.layers.x.mlp.up_proj.weight",
                "bias",
                "model.layers.1.a.weight",
            ] {
                assert_eq!(family.gguf_name(other), None);
            }
        }
    }

    #[test]
    fn rows_are_put_side_by_side_and_back() {
        // Two heads of four rows, one column.
        let rows: Vec<f32> = (0..8_u8).map(f32::from).collect();
        let pairs = reorder(&rows, 2, 8, true);
        assert_eq!(pairs, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(reorder(&pairs, 2, 8, false), rows);
    }
}
