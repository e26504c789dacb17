//! Settings of `config.json` that are known: those that some family reads, and those that
//! say nothing of what a model computes. The class of transformers that reads a file knows
//! no others either, but the code that a model brings may.

use serde_json::{Map, Value};

/// Settings that are read, or that a family has and another ignores.
const READ: &[&str] = &[
    "_sliding_window_pattern",
    "attention_bias",
    "attention_dropout",
    "attention_multiplier",
    "attn_logit_softcapping",
    "decoder_sparse_step",
    "embd_pdrop",
    "embedding_multiplier",
    "final_logit_softcapping",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "id2label",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "logits_scaling",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "mlp_only_layers",
    "model_type",
    "moe_intermediate_size",
    "no_rope_layer_interval",
    "no_rope_layers",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_labels",
    "num_local_experts",
    "original_max_position_embeddings",
    "output_router_logits",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "resid_pdrop",
    "residual_multiplier",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sliding_window",
    "sliding_window_pattern",
    "tie_word_embeddings",
    "use_bidirectional_attention",
    "use_sliding_window",
    "vocab_size",
];

/// Settings that say nothing of what a model computes.
const NEUTRAL: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "cache_implementation",
    // Of layers that are computed in parts, to the same end.
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "is_decoder",
    "label2id",
    "model_name",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    // Slices of the same product.
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    // How text is drawn; transformers has moved these to generation_config.json.
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Settings of rotary embeddings.
const ROPE: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "full_attention",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "short_factor",
    "sliding_attention",
    "truncate",
    "type",
];

/// Whether a value asks for nothing.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Settings that ask for something and that nothing reads, each with the names of the
/// objects that it lies in.
pub(super) fn unknown(raw: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in raw {
        let has = |keys: &[&str]| keys.contains(&key.as_str());
        if matches!(key.as_str(), "rope_parameters" | "rope_scaling") {
            unknown_of_rope(key, value, &mut found);
        } else if !has(READ) && !has(NEUTRAL) && !is_empty(value) {
            found.push(key.clone());
        }
    }
    found
}

fn unknown_of_rope(name: &str, value: &Value, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{name}.{key}");
        match ROPE.contains(&key.as_str()) {
            true if value.is_object() => unknown_of_rope(&path, value, found),
            false if !is_empty(value) => found.push(path),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_asks_for_something_is_named() {
        let raw = json!({
            "model_type": "llama",
            "shiny_routing": true,
            "depth_scale": 0.5,
            "asks_for_nothing": null,
            "off": false,
            "no_text": "",
            "none": [],
            "nothing": {"inside": null},
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "wobble": 2},
                "shiny": [1],
                "factor": 2.0,
            },
        });
        assert_eq!(
            unknown(raw.as_object().unwrap()),
            [
                "shiny_routing",
                "depth_scale",
                "rope_parameters.full_attention.wobble",
                "rope_parameters.shiny"
            ]
        );
    }
}
