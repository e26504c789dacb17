//! Tests of models against recorded values and of model folders.

mod adapters;
mod differences;
mod families;
mod files;
mod forks;
mod generation;
mod gguf;
mod gradients;
mod heads;
mod precision;
mod quantized;
mod recompute;
mod reference;
mod scores;
mod trained;
mod vocabulary;
mod work;

use std::path::PathBuf;

use burn::tensor::Device;
use trainer_model::{CausalLm, ModelConfig, load_causal_lm};

/// Folder of a model of the parity set.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer-cli/tests/parity/models")
        .join(name)
}

fn load(folder: &std::path::Path, device: &Device) -> CausalLm {
    let config = ModelConfig::from_folder(folder, None).unwrap();
    load_causal_lm(folder, &config, device).unwrap()
}

/// The CPU device of this build.
fn cpu() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    #[allow(deprecated)] // Burn deprecates the backend; it stays available here by name.
    return Device::ndarray();
}
