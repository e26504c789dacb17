//! `trainer-core`: trainings on samples that a program makes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use seqprep::{KtoSample, PreferencePair, Preferences, Sample};
use serde_json::json;
use trainer_config::{Config, PreferenceConfig, Rl};
use trainer_core::{EvalData, IdTokenizer, Silent, TrainData, Trained, backend, setup_trainer};
use trainer_model::{CausalLm, ModelConfig};

fn model(config: &Config) -> CausalLm {
    use burn::module::Module;
    let shape = json!({
        "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    });
    let shape = ModelConfig::from_json(
        shape.as_object().cloned().unwrap_or_default(),
        "config.json".into(),
    );
    let device = backend::select(config.backend).unwrap().device.autodiff();
    CausalLm::new(&shape.unwrap(), &device).materialize()
}

fn config(folder: &Path, rl: Option<Rl>) -> Config {
    Config {
        learning_rate: 0.01,
        micro_batch_size: 4,
        num_epochs: 2.0,
        output_dir: folder.join("out"),
        preference: PreferenceConfig {
            rl,
            ..PreferenceConfig::default()
        },
        ..Config::default()
    }
}

fn train(config: &Config, train: impl Into<TrainData>, eval: impl Into<EvalData>) -> Trained {
    let tokenizer = Arc::new(IdTokenizer::default());
    let model = model(config);
    let trainer = setup_trainer(config, train, eval, model, tokenizer, None, None, None);
    trainer.unwrap().train(&mut Silent).unwrap()
}

fn pairs() -> Vec<PreferencePair> {
    let pair = |n| PreferencePair {
        prompt: vec![1, n],
        chosen: vec![n + 8, 0],
        rejected: vec![n + 16, 0],
        margin: None,
    };
    (2..10).map(pair).collect()
}

/// The first try of each kind of data works: no wrapping, and `Vec::new()` is no evaluation
/// data whatever is trained on.
#[test]
fn samples_and_preferences_train() {
    let folder = tempfile::tempdir().unwrap();
    let samples: Vec<Sample> = (0..8)
        .map(|n| Sample::all_trained(vec![n, n + 1, n + 2]))
        .collect();
    let config_of = |rl| config(folder.path(), rl);
    let trained = train(&config_of(None), samples.clone(), samples);
    assert_eq!(trained.summary["step"], 4);
    for rl in [Rl::Dpo, Rl::Ipo, Rl::Orpo, Rl::Simpo, Rl::Cpo] {
        let trained = train(&config_of(Some(rl)), Preferences::from(pairs()), Vec::new());
        assert_eq!(trained.summary["step"], 4, "{rl}");
    }
    let judged: Vec<KtoSample> = pairs()
        .into_iter()
        .enumerate()
        .map(|(index, pair)| KtoSample {
            prompt: pair.prompt,
            completion: pair.chosen,
            desirable: index % 2 == 0,
        })
        .collect();
    let both = Preferences::from(judged);
    let trained = train(&config_of(Some(Rl::Kto)), both.clone(), both);
    assert!(
        trained.summary["train_loss"]
            .as_f64()
            .is_some_and(f64::is_finite)
    );
}

/// The defaults of a library write nothing where nobody told them to.
#[test]
fn nothing_is_written_outside_the_output_folder() {
    let folder = tempfile::tempdir().unwrap();
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).unwrap().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let before = names(Path::new("."));
    train(
        &config(folder.path(), Some(Rl::Dpo)),
        Preferences::from(pairs()),
        Vec::new(),
    );
    assert_eq!(names(Path::new(".")), before);
    assert_eq!(names(folder.path()), ["out"]);
}
