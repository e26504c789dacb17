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

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use trainer_model::{CausalLm, ModelConfig, load_causal_lm, visit_values};

/// Folder of a model of the parity set.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer-cli/tests/parity/models")
        .join(name)
}

/// All values of a model, by the names of its parameters.
fn values<M: Module>(model: &M) -> BTreeMap<String, Vec<f32>> {
    let mut values = BTreeMap::new();
    let visited = visit_values(model, |name, value| {
        values.insert(name.to_owned(), value.read());
        Ok::<(), Infallible>(())
    });
    match visited {
        Ok(()) => values,
        Err(never) => match never {},
    }
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
