//! Classification heads against what transformers computes, and through folders.

use std::fs;

use serde_json::{Value, json};
use trainer_model::{
    ModelConfig, Pretrained, RewardModel, RewardTask, SaveDtype, Tokens, has_score,
    load_reward_model, save_model,
};

use crate::{cpu, folder};

fn load(name: &str, task: RewardTask) -> RewardModel {
    let config = ModelConfig::from_folder(&folder(name), None).unwrap();
    load_reward_model(&folder(name), &config, task, &cpu()).unwrap()
}

/// Values of the heads for documents of these lengths in one row with padding
/// behind, the tokens of each being the first of one fixed sequence.
fn scores(model: &RewardModel, lengths: &[usize], at: &[usize]) -> Vec<f32> {
    let (mut ids, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    for (index, &length) in lengths.iter().enumerate() {
        ids.extend((0..length as u32).map(|i| (i * 37 + 11) % 1000 + 3));
        positions.extend(0..length as u32);
        segments.extend(std::iter::repeat_n(index as u32 + 1, length));
    }
    for padding in [&mut ids, &mut positions, &mut segments] {
        padding.extend([0; 5]);
    }
    let tokens = Tokens {
        rows: 1,
        width: ids.len(),
        input_ids: &ids,
        position_ids: &positions,
        segment_ids: &segments,
    };
    let hidden = model.hidden(&model.input(&tokens));
    let positions: Vec<u32> = match model.task() {
        RewardTask::Sequence => tokens.document_ends(),
        RewardTask::Token => at.iter().map(|&position| position as u32).collect(),
    };
    model
        .scores(hidden, &positions)
        .into_data()
        .iter()
        .collect()
}

fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
}

#[test]
fn heads_agree_with_transformers() {
    let reward = load("llama-reward", RewardTask::Sequence);
    assert_close(
        &scores(&reward, &[1, 17, 40], &[]),
        &[0.040_767_804, -0.093_967_23, 0.403_129_7],
    );
    let process = load("llama-prm", RewardTask::Token);
    let want = [
        [-0.060_025_007, 0.241_051_78],
        [-0.098_136_08, 0.199_334_79],
        [0.009_714_41, 0.158_218_58],
    ];
    assert_close(&scores(&process, &[40], &[0, 16, 39]), want.as_flattened());
}

#[test]
fn heads_are_saved_and_read() {
    let cases = [
        (
            "llama-reward",
            RewardTask::Sequence,
            "LlamaForSequenceClassification",
        ),
        (
            "llama-prm",
            RewardTask::Token,
            "LlamaForTokenClassification",
        ),
    ];
    for (name, task, class) in cases {
        let target = tempfile::tempdir().unwrap();
        let model = load(name, task);
        save_model(&model, target.path(), SaveDtype::F32).unwrap();
        let text = fs::read_to_string(target.path().join("config.json")).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["architectures"], json!([class]));
        assert!(has_score(target.path()).unwrap());
        let config = ModelConfig::from_folder(target.path(), None).unwrap();
        assert_eq!(config.num_labels, model.config().num_labels);
        let again = load_reward_model(target.path(), &config, task, &cpu()).unwrap();
        assert_eq!(
            scores(&again, &[9], &[3]),
            scores(&model, &[9], &[3]),
            "{name}"
        );
    }
}

/// A causal model gets a head of its own, which its file does not have, and its
/// vocabulary head is left behind.
#[test]
fn a_causal_model_gets_a_new_head() {
    assert!(!has_score(&folder("llama")).unwrap());
    let labels = json!({"num_labels": 1});
    let config = ModelConfig::from_folder(&folder("llama"), labels.as_object()).unwrap();
    let device = cpu();
    device.seed(7);
    let model =
        load_reward_model(&folder("llama"), &config, RewardTask::Sequence, &device).unwrap();
    assert_eq!(scores(&model, &[3, 4], &[]).len(), 2);
    let saved = model.saved_config();
    assert_eq!(saved["id2label"], json!({"0": "LABEL_0"}));
    assert!(!saved.contains_key("num_labels"));

    // A head of another size is an error.
    let labels = json!({"num_labels": 3});
    let config = ModelConfig::from_folder(&folder("llama-reward"), labels.as_object());
    let error = config
        .and_then(|config| {
            load_reward_model(
                &folder("llama-reward"),
                &config,
                RewardTask::Sequence,
                &device,
            )
        })
        .unwrap_err();
    assert!(error.to_string().contains("score.weight"), "{error}");
}
