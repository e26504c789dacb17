//! Each library crate by itself, then all of them together.

mod config;
mod core;
mod data;
mod model;
mod seqprep;
mod together;

use std::path::PathBuf;

/// A model and a tokenizer that come with the project.
fn base_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../base-model")
}
