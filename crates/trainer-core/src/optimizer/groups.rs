//! The learning rate and weight decay of each parameter, by its name.
//!
//! Each parameter has a peak learning rate of its own, and all follow the same
//! schedule. Without keys that say otherwise the rate is `learning_rate`, and
//! weight decay is for what transformers 5 gives it to: all but biases and norms.
//!
//! Rules about names are here alone; names are those of the weight files, with
//! `lora_a`, `lora_b`, `lora_embedding_a` or `lora_embedding_b` as a part for the
//! matrices of adapters.

use trainer_config::{Config, LrGroup};
use trainer_model::ParameterInfo;

use super::engine::Parameter;
use crate::error::{Result, TrainerError};

/// Rate of LoRA on embeddings under LoRA+, unless configured.
const LORAPLUS_EMBEDDING: f64 = 1e-6;

/// What a parameter's steps are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    /// Its peak learning rate over `learning_rate`.
    pub(super) rate: f64,
    pub(super) weight_decay: f64,
}

/// A matrix of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lora {
    A,
    B,
    Embedding,
}

fn lora(name: &str) -> Option<Lora> {
    let name = name.to_lowercase();
    let has = |part: &str| name.split('.').any(|found| found == part);
    if has("lora_embedding_a") || has("lora_embedding_b") {
        return Some(Lora::Embedding);
    }
    let matrix = match (has("lora_a"), has("lora_b")) {
        (true, _) => Lora::A,
        (false, true) => Lora::B,
        (false, false) => return None,
    };
    Some(if name.contains("embed_tokens") {
        Lora::Embedding
    } else {
        matrix
    })
}

/// Whether a parameter is of the embeddings or the output projection.
pub(super) fn is_embedding(name: &str) -> bool {
    name.contains("embed_tokens") || name.contains("lm_head")
}

/// Whether weight decay is for a parameter: `get_decay_parameter_names` of
/// transformers 5.
fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let in_name = ["bias", "layernorm", "rmsnorm"];
    let norm = |part: &str| part == "norm" || part.ends_with("_norm");
    !in_name.iter().any(|part| name.contains(part)) && !name.split('.').any(norm)
}

/// The parameters with their groups.
///
/// - LoRA+ (`loraplus_lr_ratio`; arXiv 2402.12354, groups as in PEFT): LoRA on
///   embeddings has `loraplus_lr_embedding`, B matrices and vectors have
///   `learning_rate` times the ratio.
/// - Otherwise embeddings have `embedding_lr` or `embedding_lr_scale`, and
///   parameters in one of `lr_groups` its rate. Where one of these keys is set,
///   embeddings have no weight decay, as in Axolotl.
pub(super) fn assign(config: &Config, infos: &[ParameterInfo]) -> Result<Vec<Parameter>> {
    check(config, infos)?;
    let parameters = infos.iter().map(|info| Parameter {
        name: info.name.clone(),
        shape: info.shape.clone(),
        group: group(config, info),
    });
    Ok(parameters.collect())
}

fn group(config: &Config, info: &ParameterInfo) -> Group {
    let keys = &config.optimization;
    let name = info.name.as_str();
    let peak = config.learning_rate;
    let mut decays = decays(name);
    let rate = if let Some(ratio) = keys.loraplus_lr_ratio {
        match lora(name) {
            Some(Lora::Embedding) => {
                keys.loraplus_lr_embedding.unwrap_or(LORAPLUS_EMBEDDING) / peak
            }
            Some(Lora::B) => ratio,
            Some(Lora::A) => 1.0,
            None if info.shape.len() == 1 => ratio,
            None => 1.0,
        }
    } else {
        let embedding = is_embedding(name);
        let scale = keys.embedding_lr.map(|rate| rate / peak);
        let scale = scale.or(keys.embedding_lr_scale);
        let groups = keys.lr_groups.iter().flatten();
        let mut rates = groups.filter(|group| takes(group, name));
        if embedding && (scale.is_some() || keys.lr_groups.is_some()) {
            decays = false;
        }
        match (scale, rates.next()) {
            (Some(scale), _) if embedding => scale,
            (_, Some(group)) => group.lr / peak,
            (_, None) => 1.0,
        }
    };
    Group {
        rate,
        weight_decay: if decays { config.weight_decay } else { 0.0 },
    }
}

fn takes(group: &LrGroup, name: &str) -> bool {
    group.modules.iter().any(|module| name.contains(module))
}

/// A rate for parameters of which none is trained says something else than was
/// meant.
fn check(config: &Config, infos: &[ParameterInfo]) -> Result<()> {
    let keys = &config.optimization;
    let trained = || infos.iter().filter(|info| info.trainable);
    let none_is = |test: &dyn Fn(&str) -> bool| !trained().any(|info| test(&info.name));
    let example = trained().next().map_or("", |info| info.name.as_str());
    if keys.loraplus_lr_ratio.is_some() && none_is(&|name| lora(name) == Some(Lora::B)) {
        return Err(TrainerError::setting(
            "loraplus_lr_ratio",
            "LoRA+ is about the matrices of LoRA, and none are trained here: add an adapter \
             (`adapter: lora`), or remove the key"
                .to_owned(),
        ));
    }
    for (key, set) in [
        ("embedding_lr", keys.embedding_lr.is_some()),
        ("embedding_lr_scale", keys.embedding_lr_scale.is_some()),
    ] {
        if set && none_is(&is_embedding) {
            return Err(TrainerError::setting(
                key,
                "no embedding and no output projection is trained here: remove the key, or train \
                 them (`embed_tokens`, `lm_head`)"
                    .to_owned(),
            ));
        }
    }
    for group in keys.lr_groups.iter().flatten() {
        if none_is(&|name| takes(group, name)) {
            return Err(TrainerError::setting(
                "lr_groups",
                format!(
                    "group `{}`: no trained parameter has {} in its name; names are such as \
                     `{example}`",
                    group.name,
                    group.modules.join(" or ")
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn infos(names: &[&str]) -> Vec<ParameterInfo> {
        let info = |name: &&str| ParameterInfo {
            name: (*name).to_owned(),
            shape: if name.ends_with("proj.weight") || name.contains("lora") {
                vec![4, 3]
            } else {
                vec![4]
            },
            trainable: true,
        };
        names.iter().map(info).collect()
    }

    fn config(keys: serde_json::Value) -> Config {
        let mut all = json!({"learning_rate": 1e-3, "weight_decay": 0.1});
        all.as_object_mut()
            .unwrap()
            .extend(keys.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    /// Rate over `learning_rate`, and whether weight decay is on.
    fn assigned(keys: serde_json::Value, names: &[&str]) -> Vec<(f64, bool)> {
        let parameters = assign(&config(keys), &infos(names)).unwrap();
        let groups = parameters.into_iter().map(|parameter| parameter.group);
        groups
            .map(|group| {
                let rate = (group.rate * 1e9).round() / 1e9;
                (rate, group.weight_decay == 0.1)
            })
            .collect()
    }

    /// The names of all families: transformers 5.23, `get_decay_parameter_names`.
    #[test]
    fn weight_decay_is_for_all_but_norms_and_biases() {
        for (name, decays) in [
            ("model.embed_tokens.weight", true),
            ("lm_head.weight", true),
            ("score.weight", true),
            ("model.layers.0.self_attn.q_proj.weight", true),
            ("model.layers.0.self_attn.q_proj.bias", false),
            ("model.layers.0.self_attn.q_norm.weight", false),
            ("model.layers.0.input_layernorm.weight", false),
            ("model.layers.0.post_feedforward_layernorm.weight", false),
            ("model.layers.0.mlp.experts.3.down_proj.weight", true),
            ("model.layers.0.mlp.gate.weight", true),
            ("model.norm.weight", false),
            ("model.layers.0.normalizer.weight", true),
            ("model.layers.0.self_attn.q_proj.lora_a.weight", true),
            ("model.layers.0.self_attn.q_proj.lora_b.weight", true),
            (
                "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                true,
            ),
        ] {
            assert_eq!(super::decays(name), decays, "{name}");
        }
    }

    #[test]
    fn embeddings_and_groups() {
        let names = [
            "model.embed_tokens.weight",
            "lm_head.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.mlp.down_proj.bias",
            "model.layers.0.mlp.up_proj.weight",
            "model.norm.weight",
        ];
        let none = assigned(json!({}), &names);
        let decays = [true, true, true, false, true, false];
        assert_eq!(none, decays.map(|decays| (1.0, decays)));
        let rate = assigned(json!({"embedding_lr": 1e-4}), &names);
        assert_eq!(rate[..3], [(0.1, false), (0.1, false), (1.0, true)]);
        let scale = assigned(json!({"embedding_lr_scale": 0.5}), &names);
        assert_eq!(scale[..3], [(0.5, false), (0.5, false), (1.0, true)]);
        let groups = json!({"lr_groups": [
            {"name": "down", "modules": ["down_proj", "embed"], "lr": 2e-3},
            {"name": "mlp", "modules": ["mlp"], "lr": 3e-3},
        ]});
        assert_eq!(
            assigned(groups.clone(), &names),
            [
                (2.0, false),
                (1.0, false),
                (2.0, true),
                (2.0, false),
                (3.0, true),
                (1.0, false)
            ]
        );
        let mut both = groups;
        both["embedding_lr_scale"] = json!(4);
        assert_eq!(assigned(both, &names)[..2], [(4.0, false), (4.0, false)]);
    }

    #[test]
    fn lora_plus() {
        let names = [
            "model.embed_tokens.lora_embedding_a.weight",
            "model.embed_tokens.lora_b.weight",
            "model.layers.0.q_proj.lora_a.weight",
            "model.layers.0.q_proj.lora_B.default.weight",
            "model.layers.0.q_proj.lora_magnitude_vector",
            "model.norm.weight",
            "lm_head.lora_b.weight",
        ];
        assert_eq!(
            assigned(json!({"loraplus_lr_ratio": 16}), &names)[..4],
            [(1e-3, true), (1e-3, true), (1.0, true), (16.0, true)]
        );
        let keys = json!({"loraplus_lr_ratio": 16, "loraplus_lr_embedding": 1e-4});
        let own = assigned(keys, &names);
        assert_eq!(own[0], (0.1, true));
        assert_eq!(own[5..], [(16.0, false), (16.0, true)]);
    }

    #[test]
    fn a_rate_for_nothing_is_an_error() {
        let names = infos(&["model.layers.0.q_proj.lora_a.weight"]);
        for (keys, part) in [
            (
                json!({"loraplus_lr_ratio": 16}),
                "loraplus_lr_ratio: LoRA+ is about the matrices of LoRA",
            ),
            (
                json!({"embedding_lr": 1e-4}),
                "embedding_lr: no embedding and no output projection is trained",
            ),
            (
                json!({"lr_groups": [{"name": "down", "modules": ["dwn", "down"], "lr": 1e-4}]}),
                "lr_groups: group `down`: no trained parameter has dwn or down in its name; names \
                 are such as `model.layers.0.q_proj.lora_a.weight`",
            ),
        ] {
            let error = assign(&config(keys), &names).unwrap_err().to_string();
            assert!(error.starts_with(part), "{error}");
        }
    }
}
