//! From a configuration file to a saved model, by the crates together.

use std::sync::Arc;

use trainer_config::load_str;
use trainer_core::{Silent, backend, setup_trainer};
use trainer_data::{Tokenizer, prepare};
use trainer_downstream::SavedTokenizer;
use trainer_model::{ModelConfig, load_causal_lm};

use super::base_model;

#[test]
fn from_a_file_to_a_saved_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let row = r#"{"instruction": "Name a bird.", "input": "", "output": "A wren."}"#;
    std::fs::write(&data, format!("{row}\n").repeat(4)).unwrap();
    let text = format!(
        "base_model: {:?}\nlearning_rate: 1e-3\nmicro_batch_size: 2\nnum_epochs: 1\n\
         dataset_prepared_path: \"\"\noutput_dir: {:?}\ndatasets: [{{path: {data:?}, type: alpaca}}]\n",
        base_model(),
        folder.path().join("out"),
    );
    let config = load_str("run.yaml", &text).unwrap().config;

    let tokenizer = Tokenizer::from_config(&config).unwrap();
    let prepared = prepare(&config, &tokenizer).unwrap();
    let device = backend::select(config.backend).unwrap().device.autodiff();
    device.seed(config.seed);
    let shape = ModelConfig::from_folder(&config.base_model, None).unwrap();
    let model = load_causal_lm(&config.base_model, &shape, &device).unwrap();
    let trainer = setup_trainer(
        &config,
        prepared.train,
        prepared.eval,
        model,
        Arc::new(SavedTokenizer(tokenizer)),
        None,
        None,
        None,
    )
    .unwrap();
    assert_eq!(trainer.total_steps(), 2);
    trainer.train(&mut Silent).unwrap();
    for file in [
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "metrics.jsonl",
    ] {
        assert!(config.output_dir.join(file).exists(), "{file}");
    }
}
