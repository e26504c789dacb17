//! `trainer-core` as a library: a small Llama with random weights learns to
//! count. No files are read; the trained model is written to a folder.
//!
//!     cargo run --release --example fine_tune

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use seqprep::Sample;
use serde_json::{Value, json};
use trainer_config::{Backend, Config, LrScheduler};
use trainer_core::{IdTokenizer, LogRow, Observer, backend, setup_trainer};
use trainer_model::{CausalLm, GenerationOptions, ModelConfig};

/// Prints the loss of each log row.
struct Losses;

impl Observer for Losses {
    fn logged(&mut self, row: &LogRow) {
        if let (Some(step), Some(loss)) = (row.get("step"), row.get("loss")) {
            println!("step {step}: loss {loss:.4}");
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    trainer_core::keep_freed_memory();

    // Sixteen numbers in a row, from every start: 5, 6, 7, ... modulo 64.
    let samples: Vec<Sample> = (0..64)
        .map(|start| {
            let input_ids: Vec<u32> = (start..start + 16).map(|n| n % 64).collect();
            let labels = input_ids.iter().map(|&id| id as i32).collect();
            Sample {
                input_ids,
                labels,
                position_ids: None,
            }
        })
        .collect();

    let Value::Object(shape) = json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "tie_word_embeddings": true,
    }) else {
        unreachable!("the literal above is an object");
    };
    let shape = ModelConfig::from_json(shape, "config.json".into())?;

    let config = Config {
        learning_rate: 0.01,
        lr_scheduler: LrScheduler::Linear,
        micro_batch_size: 16,
        num_epochs: 25.0,
        logging_steps: Some(10),
        output_dir: std::env::temp_dir().join("trainer-core-fine-tune"),
        ..Config::default()
    };

    let device = backend::select(Backend::Auto)?.device.autodiff();
    device.seed(config.seed);
    let model = CausalLm::new(&shape, &device).materialize();
    // Token ids stand for themselves here, so that there is nothing to save.
    let tokenizer = std::sync::Arc::new(IdTokenizer::default());
    let trainer = setup_trainer(
        &config,
        samples,
        Vec::new(),
        model,
        tokenizer,
        None,
        None,
        None,
    )?;
    let trained = trainer.train(&mut Losses)?;

    if let Some(model) = trained.model.into_causal() {
        let options = GenerationOptions::greedy(5, Vec::new());
        let go_on = |_, _| ControlFlow::Continue(());
        let answers = model.generate(&[vec![40, 41, 42]], &options, go_on)?;
        println!("40 41 42 goes on with {:?}", answers[0].ids);
    }
    Ok(())
}
