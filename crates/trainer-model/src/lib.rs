#![doc = include_str!("../README.md")]

mod attention;
mod config;
mod decoder;
mod error;
mod files;
mod generate;
mod input;
mod linear;
mod ops;
mod parameters;
mod rotary;

pub use attention::Attention;
pub use config::{ModelConfig, RopeConfig, RopeScaling, SUPPORTED};
pub use decoder::{CausalLm, Decoder, DecoderLayer, Mlp, Targets};
pub use error::{ModelError, Result};
pub use files::{SaveDtype, load_causal_lm, save_causal_lm, write_atomically};
pub use input::{ModelInput, Tokens};
pub use linear::{Embedding, Linear, RmsNorm};
pub use ops::{causal_attention, linear_cross_entropy, plain, rms_norm, rope, swiglu};
pub use parameters::{ParameterGradients, ParameterInfo, map_values, parameters, visit_values};
pub use rotary::{RopeTables, inverse_frequencies};
