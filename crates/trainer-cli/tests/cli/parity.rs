//! The recorded runs of Axolotl 0.21: same losses, gradient norms, learning
//! rates and tokens (see `tests/parity/README.md`).

use std::fs;

use serde_json::Value;

use crate::{parity_root, stderr, trainer};

/// Relative tolerances. Twelve steps of AdamW in f32 amplify rounding, which
/// shows in the gradient norm most.
const TOLERANCES: [(&str, f64); 4] = [
    ("loss", 5e-6),
    ("grad_norm", 1e-4),
    ("learning_rate", 1e-9),
    ("eval_loss", 5e-6),
];

/// Tolerances where the recorded run drew a row of the embedding at random: that of
/// the token that transformers adds to a Qwen 2 tokenizer. Ours is the mean.
const WITH_A_DRAWN_ROW: [(&str, f64); 3] =
    [("loss", 1e-4), ("grad_norm", 2e-3), ("learning_rate", 1e-9)];

/// Tolerances of training on preferences. A reward is the difference of two sums of
/// hundreds, which 32-bit floats hold to about 1e-5.
const OF_PREFERENCES: [(&str, f64); 19] = [
    ("loss", 1e-5),
    ("grad_norm", 1e-4),
    ("learning_rate", 1e-9),
    ("num_tokens", 0.0),
    ("entropy", 1e-5),
    ("mean_token_accuracy", 1e-5),
    ("logps/chosen", 1e-5),
    ("logps/rejected", 1e-5),
    ("rewards/accuracies", 0.0),
    ("kl", 1e-2),
    ("nll_loss", 1e-5),
    ("log_odds_ratio", 1e-5),
    ("log_odds_chosen", 1e-3),
    ("accuracy", 0.0),
    ("margin", 1e-4),
    ("min_reward", 1e-4),
    ("mean_reward", 1e-4),
    ("max_reward", 1e-4),
    ("rewards/chosen", 1e-2),
];

fn expected(case: &str) -> Value {
    let path = parity_root().join(format!("cases/{case}.expected.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn agrees(case: &str) {
    agrees_within(case, &TOLERANCES);
}

fn agrees_with_a_drawn_row(case: &str) {
    agrees_within(case, &WITH_A_DRAWN_ROW);
}

fn agrees_on_preferences(case: &str) {
    agrees_within(case, &OF_PREFERENCES);
}

fn agrees_within(case: &str, tolerances: &[(&str, f64)]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = format!("cases/{case}.yaml");
    let arguments = ["train", &file, "--output_dir", out.to_str().unwrap()];
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));

    let state: Value =
        serde_json::from_str(&fs::read_to_string(out.join("trainer_state.json")).unwrap()).unwrap();
    let rows = state["log_history"].as_array().unwrap();
    let mut compared = 0;
    for want in expected(case)["log_history"].as_array().unwrap() {
        if want.get("train_runtime").is_some() {
            continue;
        }
        for &(key, tolerance) in tolerances {
            let Some(want_value) = want.get(key).and_then(Value::as_f64) else {
                continue;
            };
            let got = rows
                .iter()
                .find(|row| row["step"] == want["step"] && row.get(key).is_some())
                .and_then(|row| row[key].as_f64())
                .unwrap_or_else(|| panic!("{case}: no {key} at step {}", want["step"]));
            assert!(
                (got - want_value).abs() <= tolerance * want_value.abs(),
                "{case}: step {} {key}: got {got}, want {want_value}",
                want["step"]
            );
            compared += 1;
        }
    }
    assert!(compared >= 36, "{case}: only {compared} values compared");
}

fn prepares_the_same_rows(case: &str) {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let file = format!("cases/{case}.yaml");
    let arguments = [
        "preprocess",
        &file,
        "--export_jsonl",
        rows.to_str().unwrap(),
    ];
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));

    let text = fs::read_to_string(rows).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let want = expected(case);
    assert_eq!(rows.len() as u64, want["rows"].as_u64().unwrap());
    for (index, want) in want["dataset_head"].as_array().unwrap().iter().enumerate() {
        for key in ["input_ids", "labels", "attention_mask"] {
            assert_eq!(rows[index][key], want[key], "{case}: row {index}: {key}");
        }
    }
}

macro_rules! cases {
    ($check:ident: $($name:ident = $case:literal),+ $(,)?) => {
        $(#[test] fn $name() { $check($case); })+
    };
}

cases! { agrees:
    full_fine_tuning = "sft-full-llama",
    chat_template_and_llama3_rope = "sft-chat-llama3-rope",
    completion_with_linear_schedule_and_clipping = "sft-completion-linear-clip",
    rex_schedule = "sft-rex",
    cosine_with_a_floor = "sft-cosine-min-lr",
    evaluation = "sft-eval",
    packed_rows = "sft-packed-llama",
    gemma3 = "sft-full-gemma3",
    mistral_with_a_sliding_window = "sft-full-mistral-swa",
    mixtral = "sft-full-mixtral",
    phi3 = "sft-full-phi3",
    qwen3 = "sft-full-qwen3",
    adapter_that_exists = "sft-lora-llama",
}

cases! { agrees_with_a_drawn_row:
    qwen2 = "sft-full-qwen2",
}

cases! { agrees_on_preferences:
    direct_preference_optimization = "dpo-full",
    kahneman_tversky_optimization = "kto-full",
    odds_ratio_preference_optimization = "orpo-full",
    reward_model = "reward-model",
}

cases! { prepares_the_same_rows:
    alpaca_rows = "prep-alpaca",
    chat_rows = "prep-chat",
    completion_rows = "prep-completion",
}
