//! Output heads that files hold beside the embedding that a model ties them to: none is
//! passed over that is another tensor.

use std::path::{Path, PathBuf};

use burn::module::Module;
use tempfile::TempDir;
use trainer_model::{
    CausalLm, GgufExport, GgufType, LoraAdapter, LoraConfig, ModelConfig, Pretrained, Quantization,
    RewardTask, SaveDtype, SaveOptions, export_gguf, has_own_head, inverse_frequencies,
    load_causal_lm, load_reward_model, open_gguf, save_model,
};

use crate::adapters::{difference, logits};
use crate::edit::{self, Stored};
use crate::{cpu, folder, load, values};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const WEIGHTS: &str = "model.safetensors";

/// Models of the parity set that are tied, one of them with a soft cap of its own family.
const TIED: [&str; 5] = ["qwen2", "llama3-rope", "gemma3", "granite", "smollm3"];

fn add_head(all: &mut Vec<Stored>, change: impl Fn(usize, f32) -> f32) {
    let (_, shape, values) = all.iter().find(|(name, ..)| name == EMBEDDING).unwrap();
    let head = values
        .iter()
        .enumerate()
        .map(|(i, x)| change(i, *x))
        .collect();
    all.push((HEAD.into(), shape.clone(), head));
}

/// A tied model whose file has a head in which only the last number is another.
fn with_head(name: &str) -> TempDir {
    let target = edit::copy(name);
    edit::tensors(&target.path().join(WEIGHTS), |all| {
        let last = all
            .iter()
            .find(|(name, ..)| name == EMBEDDING)
            .unwrap()
            .2
            .len()
            - 1;
        add_head(all, |i, x| if i == last { x + 3.0 } else { x });
    });
    target
}

fn head(model: &CausalLm) -> Option<Vec<f32>> {
    values(model).remove(HEAD)
}

#[test]
fn a_head_that_is_another_tensor_is_used_and_kept() {
    for name in TIED {
        let target = with_head(name);
        assert!(has_own_head(target.path()).unwrap(), "{name}");
        let config = ModelConfig::from_folder(target.path(), None).unwrap();
        assert!(config.tie_word_embeddings, "{name}");
        let model = load(target.path(), &cpu());
        assert!(!model.config().tie_word_embeddings && !model.is_tied());
        // As in a folder that says so.
        let says_so = edit::copy_of(target.path());
        edit::json(&says_so.path().join("config.json"), |config| {
            config.insert("tie_word_embeddings".into(), false.into());
        });
        let expected = load(says_so.path(), &cpu());
        assert_eq!(values(&model), values(&expected), "{name}");
        assert_eq!(logits(&model, None), logits(&expected, None), "{name}");
        let tied = load(&folder(name), &cpu());
        assert!(difference(&logits(&model, None), &logits(&tied, None)) > 0.01);

        // In one file or several, and again after it is saved.
        let options = SaveOptions {
            dtype: SaveDtype::F32,
            max_shard_bytes: 100_000,
        };
        for options in [SaveDtype::F32.into(), options] {
            let saved = tempfile::tempdir().unwrap();
            save_model(&model, saved.path(), options).unwrap();
            edit::json(&saved.path().join("config.json"), |config| {
                assert_eq!(config["tie_word_embeddings"], false, "{name}");
                // As who edits it by hand might.
                config.insert("tie_word_embeddings".into(), true.into());
            });
            let again = load(saved.path(), &cpu());
            assert_eq!(values(&again), values(&model), "{name}");
        }
        // Quantized, the head is that of the file too.
        let mut config = ModelConfig::from_folder(target.path(), None).unwrap();
        config.quantization = Some(Quantization::Int8);
        let quantized = load_causal_lm(target.path(), &config, &cpu()).unwrap();
        assert_eq!(head(&quantized), head(&model), "{name}");
    }
}

#[test]
fn a_head_that_is_the_embedding_changes_nothing() {
    for name in TIED {
        let target = edit::copy(name);
        edit::tensors(&target.path().join(WEIGHTS), |all| add_head(all, |_, x| x));
        assert!(!has_own_head(target.path()).unwrap(), "{name}");
        let (model, before) = (load(target.path(), &cpu()), load(&folder(name), &cpu()));
        assert!(
            model.is_tied() && model.config().tie_word_embeddings,
            "{name}"
        );
        assert_eq!(values(&model), values(&before), "{name}");
    }
    // A model that is not tied has its head, equal or not.
    assert!(!load(&folder("llama"), &cpu()).is_tied());
    // One of another shape is no head.
    let target = edit::copy("qwen2");
    edit::tensors(&target.path().join(WEIGHTS), |all| {
        all.push((HEAD.into(), vec![2, 2], vec![0.0; 4]));
    });
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let error = load_causal_lm(target.path(), &config, &cpu())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("wrong shape: lm_head.weight is [2, 2]"),
        "{error}"
    );
}

/// Frequencies in a file are not needed, but not passed over where they are others.
#[test]
fn frequencies_of_older_files() {
    for (name, theta) in [("llama", 1e4_f32), ("llama3-rope", 1e4)] {
        let config = ModelConfig::from_folder(&folder(name), None).unwrap();
        let rope = &config.ropes[0];
        let theta = theta.max(rope.theta as f32);
        let plain: Vec<f32> = (0..rope.rotary_dim / 2)
            .map(|i| theta.powf(-2.0 * i as f32 / rope.rotary_dim as f32))
            .collect();
        for (frequencies, fits) in [
            (plain.clone(), true),
            (inverse_frequencies(rope, 1), true),
            (plain.iter().map(|x| x / 2.0).collect(), false),
            (plain[1..].to_vec(), false),
        ] {
            let target = edit::copy(name);
            edit::tensors(&target.path().join(WEIGHTS), |all| {
                let tensor = "model.layers.0.self_attn.rotary_emb.inv_freq";
                all.push((tensor.into(), vec![frequencies.len()], frequencies.clone()));
            });
            let loaded = load_causal_lm(target.path(), &config, &cpu());
            match loaded {
                Ok(_) => assert!(fits, "{name} {frequencies:?}"),
                Err(error) => assert!(
                    !fits
                        && error
                            .to_string()
                            .ends_with("inv_freq has other frequencies than config.json gives"),
                    "{name}: {error}"
                ),
            }
        }
    }
}

/// A model for rewards has no use for a head of the vocabulary.
#[test]
fn reward_models_have_another_head() {
    let target = with_head("qwen2");
    let config = ModelConfig::from_folder(target.path(), None).unwrap();
    let model = load_reward_model(target.path(), &config, RewardTask::Sequence, &cpu()).unwrap();
    assert!(!values(&model).contains_key(HEAD));
}

#[test]
fn gguf_files_have_the_head() {
    let model = load(with_head("qwen2").path(), &cpu());
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("model.gguf");
    let export = GgufExport {
        name: "tied".into(),
        format: GgufType::F32,
        tokenizer: Vec::new(),
    };
    export_gguf(&model, &export, &path).unwrap();
    let back = target.path().join("back");
    open_gguf(&path)
        .unwrap()
        .write(&back, SaveDtype::F32)
        .unwrap();
    assert_eq!(head(&load(&back, &cpu())), head(&model));
}

/// An adapter on a tied model, as PEFT saves it with these modules.
struct Saved {
    folder: TempDir,
}

impl Saved {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = LoraConfig {
            modules_to_save: vec!["embed_tokens".into()],
            ..LoraConfig::default()
        };
        let base = load(&folder_of_base(), &cpu().autodiff());
        let (model, adapter) = LoraAdapter::attach(base, config, 1).unwrap();
        adapter.save(&model, folder.path()).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the modules named, and changes the head.
    fn with(self, modules: &[&str], change: impl Fn(f32) -> f32) -> Self {
        edit::tensors(&self.path().join("adapter_model.safetensors"), |all| {
            all.retain(|(name, ..)| {
                let whole = !name.contains("lora_");
                !whole || modules.iter().any(|module| name.contains(module))
            });
            for (name, _, values) in all {
                if name.ends_with(HEAD) {
                    values.iter_mut().for_each(|x| *x = change(*x));
                }
            }
        });
        edit::json(&self.path().join("adapter_config.json"), |config| {
            config.insert("modules_to_save".into(), modules.into());
        });
        self
    }
}

fn folder_of_base() -> PathBuf {
    folder("qwen2")
}

/// Heads that adapters trained apart from the embedding are used, kept and merged.
#[test]
fn heads_of_adapters() {
    let both = ["embed_tokens", "lm_head"];
    let base = load(&folder_of_base(), &cpu());
    for (modules, factor, tied) in [
        (&both[..], 1.0, true),
        (&both[..], 1.5, false),
        (&["lm_head"][..], 1.5, false),
        (&["embed_tokens"][..], 1.0, false),
    ] {
        let saved = Saved::new().with(modules, |x| x * factor);
        let (model, adapter) = LoraAdapter::load(base.clone(), saved.path()).unwrap();
        assert_eq!(model.is_tied(), tied, "{modules:?} {factor}");
        let merged = adapter.merged(model.clone());
        let mut expected = values(&base)[EMBEDDING].clone();
        expected.iter_mut().for_each(|x| *x *= factor);
        if !tied {
            assert_eq!(head(&merged).unwrap(), expected, "{modules:?}");
        }
        // Both adapter and merged model come back as they are.
        let again = tempfile::tempdir().unwrap();
        adapter.save(&model, again.path()).unwrap();
        let (same, _) = LoraAdapter::load(base.clone(), again.path()).unwrap();
        assert_eq!(values(&same), values(&model), "{modules:?} {factor}");
        let whole = tempfile::tempdir().unwrap();
        save_model(&merged, whole.path(), SaveDtype::F32).unwrap();
        assert_eq!(values(&load(whole.path(), &cpu())), values(&merged));
    }
}

/// With `ensure_weight_tying` the embedding stands for both.
#[test]
fn tying_that_is_asked_for() {
    let saved = Saved::new().with(&["embed_tokens"], |x| x);
    edit::json(&saved.path().join("adapter_config.json"), |config| {
        config.insert("ensure_weight_tying".into(), true.into());
    });
    let base = load(&folder_of_base(), &cpu());
    let (model, adapter) = LoraAdapter::load(base, saved.path()).unwrap();
    assert!(model.is_tied() && adapter.config().ensure_weight_tying);
}

/// A run that goes on with one tensor does not take a head for it.
#[test]
fn a_head_is_not_restored_into_an_embedding() {
    let saved = Saved::new();
    let base = load(&folder_of_base(), &cpu().autodiff());
    let (model, adapter) = LoraAdapter::load(base, saved.path()).unwrap();
    assert!(adapter.restore(model.clone(), saved.path()).is_ok());
    let other = saved.with(&["embed_tokens", "lm_head"], |x| x + 1.0);
    let error = adapter
        .restore(model.valid(), other.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with(
            "base_model.model.lm_head.weight is not \
             base_model.model.model.embed_tokens.weight, which are one tensor of the model"
        ),
        "{error}"
    );
}
