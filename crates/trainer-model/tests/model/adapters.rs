//! Adapters against what PEFT computed with them, and their files.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde_json::{Value, json};
use trainer_model::{
    Activations, CausalLm, LoraAdapter, LoraConfig, LoraInit, TargetModules, Tokens, map_values,
    parameters,
};

use crate::reference::{forward_agrees, gradients_agree, read_case};
use crate::{cpu, folder, load, next_token, recomputes, values};

pub(crate) fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/adapters")
        .join(name)
}

fn names(names: &[&str]) -> TargetModules {
    TargetModules::Names {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        all_linear: false,
    }
}

pub(crate) fn logits(model: &CausalLm, dropout: Option<u64>) -> Vec<f32> {
    let ids: Vec<u32> = (0..24).map(|i| i * 37 % 1024).collect();
    let positions: Vec<u32> = (0..24).collect();
    let tokens = Tokens {
        rows: 1,
        width: 24,
        input_ids: &ids,
        position_ids: &positions,
        segment_ids: &[1; 24],
    };
    let mut input = model.input(&tokens);
    if let Some(seed) = dropout {
        input = input.with_dropout(seed);
    }
    model
        .logits(model.hidden(&input))
        .into_data()
        .iter()
        .collect()
}

pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |max, (a, b)| max.max((a - b).abs()))
}

/// Changes everything that is trainable, by pseudo-random numbers.
pub(crate) fn trained(model: CausalLm) -> CausalLm {
    let trainable: Vec<bool> = parameters(&model).iter().map(|p| p.trainable).collect();
    map_values(model, |index, value| {
        if !trainable[index] {
            return value;
        }
        let n = value.dims()[0];
        let change: Vec<f32> = (0..n)
            .map(|i| 0.02 * ((i * 7 + index) as f32).sin())
            .collect();
        value.clone()
            + burn::Tensor::from_data(burn::tensor::TensorData::new(change, [n]), &value.device())
    })
}

/// Logits, loss and the gradient of every trained tensor, as PEFT has them.
#[test]
fn agrees_with_peft() {
    for name in ["lora", "dora", "pissa", "olora", "patterns", "modules"] {
        let base = load(&folder("llama"), &cpu().autodiff());
        let (model, _) = LoraAdapter::load(base, &recorded(name)).unwrap();
        gradients_agree(name, &read_case(model.clone(), &recorded(name)));
        forward_agrees(name, &read_case(model.valid(), &recorded(name)));
    }
}

/// The files of PEFT's adapters come out as they were.
#[test]
fn files_go_through_unchanged() {
    for name in ["lora", "dora", "patterns", "modules"] {
        let base = load(&folder("llama"), &cpu());
        let (model, adapter) = LoraAdapter::load(base, &recorded(name)).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter.save(&model, out.path()).unwrap();

        let file = "adapter_model.safetensors";
        let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert_eq!(read(out.path()), read(&recorded(name)), "{name}");

        let config = |folder: &Path| -> Value {
            let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
            let mut config: Value = serde_json::from_str(&text).unwrap();
            // PEFT keeps a set, in any order, and one name without a list.
            if let Some(names) = config["target_modules"].as_array_mut() {
                names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
            if config["layers_pattern"].is_string() {
                config["layers_pattern"] = json!([config["layers_pattern"]]);
            }
            config
        };
        assert_eq!(config(out.path()), config(&recorded(name)), "{name}");
    }
}

/// Who may read a saved file is what the system gives any new file.
#[cfg(unix)]
#[test]
fn files_have_the_permissions_of_new_ones() {
    use std::os::unix::fs::PermissionsExt;
    let base = load(&folder("llama"), &cpu());
    let (model, adapter) = LoraAdapter::load(base, &recorded("lora")).unwrap();
    let out = tempfile::tempdir().unwrap();
    adapter.save(&model, out.path()).unwrap();
    std::fs::write(out.path().join("new"), "").unwrap();
    let mode = |name: &str| {
        let file = out.path().join(name).metadata().unwrap();
        file.permissions().mode()
    };
    assert_eq!(mode("adapter_model.safetensors"), mode("new"));
    assert_eq!(mode("adapter_config.json"), mode("new"));
}

/// With dropout, the part of a DoRA map that its magnitude changes drops inputs of the
/// weight too.
#[test]
fn dropout_reaches_the_weight_of_a_direction() {
    let base = load(&folder("llama"), &cpu());
    let config = |dropout| LoraConfig {
        lora_dropout: dropout,
        use_dora: true,
        target_modules: names(&["layers.1.mlp.down_proj"]),
        ..LoraConfig::default()
    };
    let attach = |dropout| {
        let (model, _) = LoraAdapter::attach(base.clone(), config(dropout), 1).unwrap();
        // Magnitudes of twice the norm, and factors that do nothing: `2 · W · x`.
        let is_magnitude: Vec<bool> = parameters(&model)
            .iter()
            .map(|p| p.name.ends_with("lora_magnitude_vector"))
            .collect();
        map_values(model, |index, value| match is_magnitude[index] {
            true => value * 2.0,
            false => value,
        })
    };
    let (with, without) = (attach(0.5), attach(0.0));
    assert_eq!(logits(&with, None), logits(&without, None));
    // `W · x + W · dropout(x)`, so what is not adapted is not dropped.
    let dropped = difference(&logits(&with, Some(1)), &logits(&without, None));
    assert!(dropped > 1e-3, "{dropped}");
}

/// A new adapter changes nothing; a trained one is switched off and merged.
#[test]
fn switched_off_and_merged() {
    let base = load(&folder("llama"), &cpu().autodiff());
    let before = logits(&base.valid(), None);
    let values_before = values(&base);
    let kinds = [
        (LoraInit::Default, false),
        (LoraInit::Gaussian, false),
        (LoraInit::Default, true),
        (LoraInit::Pissa { iterations: None }, false),
        (LoraInit::Olora, true),
    ];
    for (init, dora) in kinds {
        let config = LoraConfig {
            modules_to_save: vec!["lm_head".into(), "o_proj".into()],
            init_lora_weights: init,
            use_dora: dora,
            ..LoraConfig::default()
        };
        let (model, adapter) = LoraAdapter::attach(base.clone(), config, 1).unwrap();
        assert_eq!(logits(&model.valid(), None), before, "{init:?} {dora}");

        let model = trained(model);
        let adapted = logits(&model.valid(), None);
        assert!(difference(&adapted, &before) > 0.1);
        let off = adapter.switched_off(&model);
        assert_eq!(values(&off), values_before);
        assert_eq!(logits(&off.valid(), None), before);

        let merged = adapter.merged(model);
        assert_eq!(
            values(&merged).keys().collect::<Vec<_>>(),
            values_before.keys().collect::<Vec<_>>()
        );
        assert!(difference(&logits(&merged.valid(), None), &adapted) < 1e-5);
    }
}

/// Factors that were made of weights are saved as an adapter of twice the rank on the
/// model as it was, and a run goes on from there to the bit.
#[test]
fn factors_of_weights_are_saved_for_the_model_as_it_was() {
    let base = load(&folder("llama"), &cpu().autodiff());
    let fast = LoraInit::Pissa {
        iterations: Some(2),
    };
    let exact = LoraInit::Pissa { iterations: None };
    for (init, use_rslora, use_dora) in [
        (exact, false, false),
        (fast, true, false),
        (LoraInit::Olora, true, true),
    ] {
        let config = LoraConfig {
            rank_pattern: vec![("q_proj".into(), 3)],
            alpha_pattern: vec![("v_proj".into(), 5.0)],
            lora_dropout: 0.2,
            init_lora_weights: init,
            use_rslora,
            use_dora,
            ..LoraConfig::default()
        };
        let (model, adapter) = LoraAdapter::attach(base.clone(), config.clone(), 1).unwrap();
        let model = trained(model);
        let out = tempfile::tempdir().unwrap();
        adapter.save(&model, out.path()).unwrap();

        let (plain, loaded) = LoraAdapter::load(base.clone(), out.path()).unwrap();
        assert_eq!(loaded.config().r, 16);
        assert_eq!(loaded.config().init_lora_weights, LoraInit::Default);
        let off = difference(&logits(&plain, None), &logits(&model, None));
        assert!(off < 1e-5, "{init} {off}");

        // With another seed the random factors would be others, were they not in the file.
        let (again, adapter) = LoraAdapter::attach(base.clone(), config, 2).unwrap();
        let again = adapter.restore(again, out.path()).unwrap();
        assert_eq!(values(&again), values(&model), "{init}");
        assert_eq!(logits(&again, Some(3)), logits(&model, Some(3)), "{init}");
        recomputes(&again);
    }
}

/// Dropout follows from its seed, is off without one, and its mean is no dropout.
#[test]
fn dropout_is_a_function_of_its_seed() {
    let base = load(&folder("llama"), &cpu().autodiff());
    let config = LoraConfig {
        lora_dropout: 0.3,
        ..LoraConfig::default()
    };
    let (model, _) = LoraAdapter::attach(base, config, 1).unwrap();
    let model = trained(model);
    let off = logits(&model, None);
    assert_eq!(logits(&model.valid(), None), off);
    assert_eq!(logits(&model, Some(5)), logits(&model, Some(5)));
    assert!(difference(&logits(&model, Some(5)), &logits(&model, Some(6))) > 1e-3);

    // One map alone, since a network is not linear in its masks.
    let mut sum = vec![0.0; off.len()];
    let runs = 300;
    for seed in 0..runs {
        for (sum, x) in sum.iter_mut().zip(logits(&model, Some(seed))) {
            *sum += x / runs as f32;
        }
    }
    let spread = difference(&logits(&model, Some(5)), &off);
    assert!(difference(&sum, &off) < 0.25 * spread);
}

/// Only the factors get gradients, also where every map has some.
#[test]
fn only_factors_are_trained() {
    let base = load(&folder("llama"), &cpu().autodiff());
    let (model, _) = LoraAdapter::attach(base, LoraConfig::default(), 1).unwrap();
    let model = trained(model);
    let (_, gradients) = next_token(&model, Activations::Kept);
    for (info, gradient) in parameters(&model).iter().zip(gradients.flat) {
        assert_eq!(
            info.trainable,
            info.name.contains(".lora_"),
            "{}",
            info.name
        );
        assert_eq!(gradient.is_some(), info.trainable, "{}", info.name);
    }
}

/// A layer that runs a second time drops the same values.
#[test]
fn recomputed_layers_drop_the_same() {
    for use_dora in [false, true] {
        let base = load(&folder("llama"), &cpu().autodiff());
        let config = LoraConfig {
            lora_dropout: 0.3,
            use_dora,
            ..LoraConfig::default()
        };
        let (model, _) = LoraAdapter::attach(base, config, 1).unwrap();
        recomputes(&trained(model));
    }
}

/// What matches nothing is an error that lists what there is.
#[test]
fn targets_that_are_not_there() {
    let message = |config: LoraConfig| {
        let base = load(&folder("llama"), &cpu());
        LoraAdapter::attach(base, config, 1)
            .unwrap_err()
            .to_string()
    };
    let targets = |target_modules| LoraConfig {
        target_modules,
        ..LoraConfig::default()
    };
    let have = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";
    assert_eq!(
        message(targets(names(&["q_proj", "qkv_proj"]))),
        format!("target_modules: \"qkv_proj\" matches no linear map of the model; it has {have}")
    );
    assert_eq!(
        message(targets(TargetModules::Pattern("q_proj".into()))),
        format!("target_modules: \"q_proj\" matches no linear map of the model; it has {have}")
    );
    assert!(
        message(targets(TargetModules::Pattern("(".into())))
            .starts_with("target_modules: \"(\" is not a regular expression")
    );
    let layers = LoraConfig {
        layers_to_transform: vec![0, 2],
        ..targets(names(&["q_proj"]))
    };
    assert_eq!(
        message(layers),
        "layers_to_transform: there is no layer 2: they are numbered 0 to 1"
    );
    let modules = LoraConfig {
        modules_to_save: vec!["embeddings".into()],
        ..LoraConfig::default()
    };
    assert!(message(modules).starts_with(
        "modules_to_save: \"embeddings\" is not a module of the model; it has embed_tokens, q_proj"
    ));
    let ranks = LoraConfig {
        rank_pattern: vec![("q_proj".into(), 4), ("up_proj".into(), 2)],
        ..targets(names(&["q_proj", "v_proj"]))
    };
    assert_eq!(
        message(ranks),
        "rank_pattern: \"up_proj\" matches none of the maps that get factors; these are q_proj, \
         v_proj"
    );
}

/// Expressions in a list, full names, and all linear maps at once.
#[test]
fn targets_in_lists() {
    let adapted = |target_modules| {
        let base = load(&folder("llama"), &cpu());
        let config = LoraConfig {
            target_modules,
            ..LoraConfig::default()
        };
        let (model, adapter) = LoraAdapter::attach(base, config, 1).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter.save(&model, out.path()).unwrap();
        let written = LoraConfig::from_folder(out.path()).unwrap().target_modules;
        let maps: Vec<String> = parameters(&model)
            .iter()
            .filter_map(|p| Some(p.name.strip_suffix(".lora_A.weight")?.to_owned()))
            .collect();
        (maps, written)
    };
    let (maps, written) = adapted(names(&[r".*\.0\..*[qv]_proj", "layers.1.mlp.up_proj"]));
    let layer0 = "model.layers.0.self_attn";
    assert_eq!(
        maps,
        [
            format!("{layer0}.q_proj"),
            format!("{layer0}.v_proj"),
            "model.layers.1.mlp.up_proj".into()
        ]
    );
    // PEFT takes names alone, so that is what it is given.
    assert_eq!(
        written,
        names(&[
            "layers.1.mlp.up_proj",
            &format!("{layer0}.q_proj"),
            &format!("{layer0}.v_proj")
        ])
    );
    let (maps, written) = adapted(TargetModules::Names {
        names: Vec::new(),
        all_linear: true,
    });
    assert_eq!(maps.len(), 14);
    let all = [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ];
    assert_eq!(written, names(&all));
}

/// Files that do not fit are errors that say how.
#[test]
fn files_that_do_not_fit() {
    let broken = |change: &dyn Fn(&Path)| {
        let out = tempfile::tempdir().unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(recorded("lora").join(file), out.path().join(file)).unwrap();
        }
        change(out.path());
        let base = load(&folder("llama"), &cpu());
        let error = LoraAdapter::load(base, out.path()).unwrap_err().to_string();
        error.replace(&out.path().display().to_string(), "DIR")
    };
    let set = |key: &'static str, value: Value| {
        move |folder: &Path| {
            let path = folder.join("adapter_config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            let mut config: Value = serde_json::from_str(&text).unwrap();
            config[key] = value.clone();
            std::fs::write(&path, config.to_string()).unwrap();
        }
    };
    let error = broken(&set("r", json!(8)));
    assert!(error.starts_with("DIR: the adapter does not fit the model:\n  wrong shape: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is [4, 64], the model needs [8, 64]"), "{error}");
    let error = broken(&set("target_modules", json!(["q_proj"])));
    assert!(
        error.contains("\n  unexpected: base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"),
        "{error}"
    );
    let error = broken(&set("modules_to_save", json!(["lm_head"])));
    assert!(
        error.contains("\n  missing: base_model.model.lm_head.weight [1024, 64]"),
        "{error}"
    );
    for (key, value, want) in [
        (
            "r",
            json!(1_u64 << 40),
            "r: expected a whole number from 1 to 65536, found 1099511627776",
        ),
        (
            "peft_type",
            json!("IA3"),
            "peft_type: expected LORA, found IA3",
        ),
        ("bias", json!("all"), "bias: \"all\" is not supported"),
        (
            "layer_replication",
            json!([[0, 1]]),
            "layer_replication: [[0,1]] is not supported",
        ),
        (
            "lora_dropout",
            json!(1.5),
            "lora_dropout: 1.5 is not at least 0 and below 1",
        ),
        ("target_modules", json!(null), "target_modules: is missing"),
    ] {
        let error = broken(&set(key, value));
        assert_eq!(error, format!("DIR/adapter_config.json: {want}"));
    }
    let error =
        broken(&|folder| std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap());
    assert_eq!(
        error,
        "DIR: no adapter_model.safetensors in this folder; an adapter is a folder with this file and adapter_config.json"
    );
    let error = broken(&|folder| {
        let path = folder.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
    });
    assert!(
        error.contains("it was not written or copied to its end"),
        "{error}"
    );
}
