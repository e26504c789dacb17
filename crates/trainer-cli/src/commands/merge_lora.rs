//! `trainer merge-lora`: from a model and its adapter to one model.

use std::path::PathBuf;

use burn::module::Module;
use trainer_core::save_options;
use trainer_model::{
    CausalLm, LoraAdapter, ModelConfig, SaveDtype, Tokens, load_causal_lm, save_model,
};

use crate::args::Run;
use crate::failure::Failure;
use crate::session::{load_base_model, load_layers, load_tokenizer, select_device};

/// Rows and tokens of the comparison after merging.
const PROBE: (usize, usize) = (4, 32);

/// Largest difference of logits that rounding explains, as a part of the largest
/// logit: weights of f32 and of bfloat16.
const TOLERANCES: (f32, f32) = (1e-4, 0.1);

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([out], overrides) = run.flags(["out"])?;
    let mut config = load_layers(&run.config, overrides)?.config;
    if config.adapters.adapter.is_none() {
        return Err(Failure::new(
            "this configuration has no `adapter`, so there is nothing to merge; give the \
             configuration that the adapter was trained with",
        ));
    }
    // The factors are added to the weights that quantization was made of, as Axolotl
    // does: nothing is lost to it twice.
    (config.adapters.load_in_4bit, config.adapters.load_in_8bit) = (false, false);
    let out = out.map_or_else(|| config.output_dir.join("merged"), PathBuf::from);
    let folder = config
        .adapters
        .lora_model_dir
        .as_ref()
        .filter(|_| !config.output_dir.join("adapter_config.json").is_file())
        .unwrap_or(&config.output_dir);
    let tokenizer = load_tokenizer(&config)?;
    let device = select_device(&config)?.device;
    // Nothing is trained: no gradients are recorded.
    let base = load_base_model(&config, &tokenizer, &device)?.valid();
    let (model, adapter) = LoraAdapter::load(base, folder)?;
    eprintln!("adapter of {}", folder.display());

    let adapted = probe(&model);
    let merged = adapter.merged(model);
    let options = save_options(&config);
    save_model(&merged, &out, options)?;
    drop(merged);
    tokenizer.save(&out)?;

    // What was written is compared, not what was to be written.
    let shape = ModelConfig::from_folder(&out, None)?;
    let saved = probe(&load_causal_lm(&out, &shape, &device)?);
    let largest = adapted.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let difference = adapted
        .iter()
        .zip(&saved)
        .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    let tolerance = match options.dtype {
        SaveDtype::F32 => TOLERANCES.0,
        SaveDtype::Bf16 => TOLERANCES.1,
    };
    let agree = difference <= tolerance * largest;
    if !agree {
        return Err(Failure::new(format!(
            "{}: the merged model's logits differ from the adapter's by {difference:.2e} \
             (largest logit {largest:.2e}); do not use it",
            out.display()
        )));
    }
    eprintln!(
        "merged model saved to {}; its logits differ from the adapter's by at most {difference:.1e} \
         (largest logit {largest:.1e})",
        out.display()
    );
    Ok(())
}

/// The logits of a few rows of tokens that are spread over the vocabulary.
fn probe(model: &CausalLm) -> Vec<f32> {
    let (rows, width) = PROBE;
    let vocab = model.config().vocab_size as u64;
    let input_ids: Vec<u32> = (1..=(rows * width) as u64)
        .map(|n| ((n * 2_654_435_761) % vocab) as u32)
        .collect();
    let position_ids: Vec<u32> = (0..rows).flat_map(|_| 0..width as u32).collect();
    let tokens = Tokens {
        rows,
        width,
        input_ids: &input_ids,
        position_ids: &position_ids,
        segment_ids: &vec![1; rows * width],
    };
    let hidden_btd = model.hidden(&model.input(&tokens));
    model.logits(hidden_btd).into_data().iter::<f32>().collect()
}
