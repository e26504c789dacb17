//! Model folders in Hugging Face layout: `config.json`, `model.safetensors` or
//! shards with `model.safetensors.index.json`; GGUF files, which are made of them
//! and become them.
//!
//! Nothing read from a file is trusted before it is checked, and an output file
//! appears under its name only once it is complete.

mod atomic;
mod digest;
mod folder;
mod gguf;
mod header;
mod large;
mod layout;
mod load;
mod safetensors;
mod save;

pub use atomic::write_atomically;
pub use digest::{Digest, WrittenFile};
pub use folder::write_folder_atomically;
pub use gguf::{GgufExport, GgufImport, GgufType, GgufValue, export_gguf, open_gguf};
pub(crate) use layout::{ADAPTER, check_folder, read_generation_config};
pub use layout::{has_weights, hub_name, is_adapter};
pub(crate) use load::{EMBEDDING, HEAD, differs};
pub use load::{has_own_head, has_score, load_causal_lm, load_reward_model};
pub(crate) use safetensors::{PYTORCH, WeightFile};
pub use safetensors::{SaveDtype, write_tensors};
pub use save::{SaveOptions, check_saved, save_model};
