//! Templates that need no file, by the names of Axolotl.
//!
//! Each is written after the format that the model's publisher documents; the
//! crate's tests hold what each prints for a table of conversations.
//!
//! Invariants: the list is in alphabetic order; every name is one of
//! `trainer_config::CHAT_TEMPLATES`.

macro_rules! template {
    ($file:literal) => {
        include_str!(concat!("bundled/", $file, ".jinja"))
    };
}

/// Names and texts. Families that share a format share a file.
const TEMPLATES: &[(&str, &str)] = &[
    ("alpaca", template!("alpaca")),
    ("aya", template!("cohere")),
    ("chatml", template!("chatml")),
    ("cohere", template!("cohere")),
    ("deepseek_v2", template!("deepseek_v2")),
    ("deepseek_v3", template!("deepseek_v3")),
    ("exaone", template!("exaone")),
    ("exaone4", template!("exaone4")),
    ("falcon_h1", template!("falcon_h1")),
    ("gemma", template!("gemma")),
    ("gemma3", template!("gemma3")),
    ("gemma3n", template!("gemma3")),
    ("gemma4", template!("gemma4")),
    ("gemma4_unified", template!("gemma4")),
    ("jamba", template!("jamba")),
    ("llama3", template!("llama3")),
    ("llama3_2_vision", template!("llama3_2_vision")),
    ("llama4", template!("llama4")),
    ("llava", template!("llava")),
    ("metharme", template!("metharme")),
    ("mistral_v1", template!("mistral_v1")),
    ("mistral_v2v3", template!("mistral_v2v3")),
    ("mistral_v3_tekken", template!("mistral_v3_tekken")),
    ("mistral_v7_tekken", template!("mistral_v7_tekken")),
    ("nemotron_h", template!("nemotron_h")),
    ("phi_3", template!("phi_3")),
    ("phi_35", template!("phi_35")),
    ("pixtral", template!("pixtral")),
    ("qwen2_vl", template!("qwen2_vl")),
    ("qwen3", template!("qwen3")),
    ("qwen3_5", template!("qwen3_5")),
    ("qwen_25", template!("qwen_25")),
];

/// The text of a bundled template.
pub(super) fn source(name: &str) -> Option<&'static str> {
    let found = TEMPLATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, source)| *source)
}

/// Every name.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}
