#![doc = include_str!("../README.md")]

mod adapters;
mod attention;
mod config;
mod decoder;
mod error;
mod families;
mod feed_forward;
mod files;
mod generate;
mod input;
mod linear;
mod norm;
mod ops;
mod parameters;
mod pretrained;
mod reward;
mod rotary;

pub use adapters::{Factor, Linears, LoraAdapter, LoraConfig, LoraInit, TargetModules};
pub use attention::Attention;
pub use config::{
    Activation, AttentionConfig, ExpertsConfig, LayerConfig, MlpConfig, MlpLayout, ModelConfig,
    Multipliers, NormConfig, NormPlacement, QkNorm, RopeConfig, RopeScaling,
};
pub use decoder::{CausalLm, Decoder, DecoderLayer, Targets};
pub use error::{ModelError, Result};
pub use families::supported;
pub use feed_forward::{FeedForward, FusedMlp, NumberedMlp, SparseMoe, SplitMlp};
pub use files::{
    SaveDtype, has_score, load_causal_lm, load_reward_model, save_model, write_atomically,
    write_folder_atomically,
};
pub use input::{ModelInput, Tokens};
pub use linear::{Embedding, Linear};
pub use norm::RmsNorm;
pub use ops::{
    ScoreRule, causal_attention, geglu, linear_cross_entropy, plain, rms_norm, rope, swiglu,
};
pub use parameters::{ParameterGradients, ParameterInfo, map_values, parameters, visit_values};
pub use pretrained::Pretrained;
pub use reward::{RewardModel, RewardTask};
pub use rotary::{RopeTables, inverse_frequencies};
