//! `trainer merge-lora`: from a model and its adapter to one model.

use std::path::{Path, PathBuf};

use trainer_config::Config;
use trainer_core::save_options;
use trainer_data::Tokenizer;
use trainer_model::{
    ModelConfig, SaveDtype, check_saved, load_causal_lm, load_reward_model, save_model,
};

use crate::args::Run;
use crate::failure::Failure;
use crate::merge::{Merged, Probe, check_outputs, difference};
use crate::session::{
    adapter_folder, head_of, load_layers, load_tokenizer, merged_causal, merged_reward,
    select_device,
};

/// Largest difference of outputs that the number format of a saved model explains, as a
/// part of the largest output.
const TOLERANCES: (f32, f32) = (1e-4, 0.1);

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([out], overrides) = run.flags(["out"])?;
    let config = load_layers(&run.config, overrides)?.config;
    if config.adapters.adapter.is_none() {
        return Err(Failure::new(
            "this configuration has no `adapter`, so there is nothing to merge; give the \
             configuration that the adapter was trained with",
        ));
    }
    let out = out.map_or_else(|| config.output_dir.join("merged"), PathBuf::from);
    let folder = adapter_folder(&config).unwrap_or(&config.output_dir);
    let tokenizer = load_tokenizer(&config)?;
    let device = select_device(&config)?.device;
    let shape = || ModelConfig::from_folder(&out, None);
    match head_of(&config) {
        None => {
            let merged = merged_causal(&config, &tokenizer, &device, folder)?;
            save(&config, &tokenizer, merged, &out, &|| {
                Ok(load_causal_lm(&out, &shape()?, &device)?)
            })
        }
        Some((task, _)) => {
            let merged = merged_reward(&config, &tokenizer, &device, folder)?;
            save(&config, &tokenizer, merged, &out, &|| {
                Ok(load_reward_model(&out, &shape()?, task, &device)?)
            })
        }
    }
}

/// Saves a merged model and compares what was written, not what was to be written.
fn save<M: Probe>(
    config: &Config,
    tokenizer: &Tokenizer,
    merged: Merged<M>,
    out: &Path,
    load: &dyn Fn() -> Result<M, Failure>,
) -> Result<(), Failure> {
    let Merged {
        model,
        outputs,
        compared,
    } = merged;
    let options = save_options(config);
    save_model(&model, out, options)?;
    check_saved(&model, out, options.dtype)?;
    drop(model);
    tokenizer.save(out)?;
    let saved = load()?.probe();
    let what = M::OUTPUTS;
    check_outputs(&[&saved]).map_err(|message| {
        Failure::new(format!(
            "{}: the {what} of the saved model {message}; do not use it",
            out.display()
        ))
    })?;
    let rounding = difference(&outputs, &saved);
    // The numbers are those that were to be written: this is about config.json.
    let tolerance = match options.dtype {
        SaveDtype::F32 => TOLERANCES.0,
        SaveDtype::Bf16 => TOLERANCES.1,
    };
    if rounding > tolerance * compared.largest {
        return Err(Failure::new(format!(
            "{}: the {what} of the saved model differ from those of the merged one by \
             {rounding:.1e} (the largest is {:.1e}); do not use it",
            out.display(),
            compared.largest
        )));
    }
    eprintln!(
        "merged model saved to {}; its {what} differ from the adapter's by at most {:.1e} (largest \
         {:.1e}, changed by the adapter by {:.1e})",
        out.display(),
        compared.difference.max(rounding),
        compared.largest,
        compared.change
    );
    if options.dtype == SaveDtype::Bf16 && rounding >= compared.change {
        eprintln!(
            "warning: rounding to bfloat16 changes the {what} by {rounding:.1e}, no less than the \
             adapter does; `save_dtype: float32` keeps what it has learnt"
        );
    }
    Ok(())
}
