//! The decoder against what transformers computed for the same weights and
//! tokens (`reference.json` beside each model of the parity set).

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;
use trainer_model::{CausalLm, Targets, Tokens, parameters};

use crate::{folder, load, take};

const LOGIT_TOLERANCE: f64 = 1e-5;
const GRADIENT_TOLERANCE: f64 = 1e-4;

/// A model and what another program computed with it.
pub(crate) struct Case {
    pub(crate) model: CausalLm,
    reference: Value,
    ids: Vec<u32>,
}

fn case(name: &str, device: &Device) -> Case {
    read_case(load(&folder(name), device), &folder(name))
}

/// The case of a model whose `reference.json` is in `folder`.
pub(crate) fn read_case(model: CausalLm, folder: &Path) -> Case {
    let text = std::fs::read_to_string(folder.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let ids = numbers(&reference["input_ids"])
        .iter()
        .map(|&x| x as u32)
        .collect();
    Case {
        model,
        reference,
        ids,
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// Logits of one packed row, `[tokens][vocabulary]`.
fn logits(model: &CausalLm, ids: &[u32], positions: &[u32], segments: &[u32]) -> Vec<Vec<f64>> {
    let tokens = Tokens {
        rows: 1,
        width: ids.len(),
        input_ids: ids,
        position_ids: positions,
        segment_ids: segments,
    };
    let logits = model.logits(model.hidden(&model.input(&tokens)));
    let vocab = logits.dims()[2];
    let flat: Vec<f64> = logits.into_data().iter::<f64>().collect();
    flat.chunks(vocab).map(<[f64]>::to_vec).collect()
}

fn log_sum_exp(row: &[f64]) -> f64 {
    row.iter().map(|x| x.exp()).sum::<f64>().ln()
}

fn assert_close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got}, want {want}"
    );
}

pub(crate) fn forward_agrees(name: &str, case: &Case) {
    let n = case.ids.len();
    let positions: Vec<u32> = (0..n as u32).collect();
    let rows = logits(&case.model, &case.ids, &positions, &vec![1; n]);
    let want_rows = case.reference["logits_first16_vocab"].as_array().unwrap();
    assert_eq!(rows.len(), want_rows.len());
    for (t, (row, want)) in rows.iter().zip(want_rows).enumerate() {
        for (v, want) in numbers(want).into_iter().enumerate() {
            assert_close(
                row[v],
                want,
                LOGIT_TOLERANCE,
                &format!("{name} logit [{t}, {v}]"),
            );
        }
    }
    for (t, want) in numbers(&case.reference["logsumexp"])
        .into_iter()
        .enumerate()
    {
        assert_close(
            log_sum_exp(&rows[t]),
            want,
            LOGIT_TOLERANCE,
            &format!("{name} logsumexp [{t}]"),
        );
    }
}

/// Two documents in one row give what each gives on its own.
fn packed_documents_agree(name: &str, case: &Case) {
    let (mut positions, mut segments, mut want) = (Vec::new(), Vec::new(), Vec::new());
    for (index, document) in case.reference["documents"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let length = document["end"].as_u64().unwrap() - document["start"].as_u64().unwrap();
        positions.extend(0..length as u32);
        segments.extend(std::iter::repeat_n(index as u32 + 1, length as usize));
        want.extend(numbers(&document["logsumexp"]));
    }
    let rows = logits(&case.model, &case.ids, &positions, &segments);
    assert_eq!(rows.len(), want.len());
    for (t, want) in want.into_iter().enumerate() {
        assert_close(
            log_sum_exp(&rows[t]),
            want,
            LOGIT_TOLERANCE,
            &format!("{name} packed [{t}]"),
        );
    }
}

/// The loss, and the gradient norm of every parameter that has one.
pub(crate) fn gradients_agree(name: &str, case: &Case) {
    let n = case.ids.len();
    let positions: Vec<u32> = (0..n as u32).collect();
    let tokens = Tokens {
        rows: 1,
        width: n,
        input_ids: &case.ids,
        position_ids: &positions,
        segment_ids: &vec![1; n],
    };
    let labels: Vec<i32> = numbers(&case.reference["labels"])
        .iter()
        .map(|&x| x as i32)
        .collect();
    let targets = Targets::from_labels(&labels, n);
    // Recorded without the load-balancing loss of experts.
    let hidden = case.model.hidden(&case.model.input(&tokens));
    let loss = case.model.loss_sum(hidden, &targets) / targets.len() as f64;
    let value = loss.clone().into_scalar::<f32>();
    let want = case.reference["loss"].as_f64().unwrap();
    assert_close(
        f64::from(value),
        want,
        LOGIT_TOLERANCE,
        &format!("{name} loss"),
    );

    let mut gradients = loss.backward();
    let gradients = take(&case.model, &mut gradients);
    let mut squares: BTreeMap<String, f64> = BTreeMap::new();
    for (info, gradient) in parameters(&case.model).iter().zip(gradients.flat) {
        if !info.trainable {
            assert!(gradient.is_none(), "{name}: {} is frozen", info.name);
            continue;
        }
        let gradient = gradient.unwrap_or_else(|| panic!("{name}: no gradient for {}", info.name));
        let square = f64::from(gradient.square().sum().into_scalar::<f32>());
        *squares.entry(recorded_name(&info.name)).or_default() += square;
    }
    let want = case.reference["grad_norms"].as_object().unwrap();
    assert_eq!(squares.len(), want.len(), "{name}: number of parameters");
    for (parameter, square) in squares {
        let want = want[&parameter].as_f64().unwrap();
        assert_close(
            square.sqrt(),
            want,
            GRADIENT_TOLERANCE * want,
            &format!("{name} gradient {parameter}"),
        );
    }
}

/// The name under which a gradient was recorded: transformers holds the experts
/// of a layer in two tensors, gate and up in one and down in the other.
fn recorded_name(name: &str) -> String {
    let name = name.replace(".block_sparse_moe.", ".mlp.");
    let Some((layer, expert)) = name.split_once(".experts.") else {
        return name;
    };
    let down = expert.contains("down_proj") || expert.contains("w2");
    let joined = if down { "down_proj" } else { "gate_up_proj" };
    format!("{layer}.experts.{joined}")
}

const MODELS: [&str; 12] = [
    "gemma3",
    "granite",
    "llama",
    "llama3-rope",
    "mistral-swa",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3-moe",
    "smollm3",
];

fn all_agree(device: &Device) {
    for name in MODELS {
        forward_agrees(name, &case(name, device));
        packed_documents_agree(name, &case(name, device));
        gradients_agree(name, &case(name, &device.clone().autodiff()));
    }
}

#[cfg(feature = "flex")]
#[test]
fn agrees_with_transformers_on_flex() {
    all_agree(&Device::flex());
}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // Burn deprecates the backend; it stays available here by name.
#[test]
fn agrees_with_transformers_on_ndarray() {
    all_agree(&Device::ndarray());
}
