//! Model folders in Hugging Face layout: `config.json`, `model.safetensors` or
//! shards with `model.safetensors.index.json`.
//!
//! Nothing read from a file is trusted before it is checked, and an output file
//! appears under its name only once it is complete.

mod atomic;
mod folder;
mod load;
mod safetensors;
mod save;

pub use atomic::write_atomically;
pub use folder::write_folder_atomically;
pub use load::{has_score, load_causal_lm, load_reward_model};
pub(crate) use safetensors::WeightFile;
pub use save::{SaveDtype, save_model};
