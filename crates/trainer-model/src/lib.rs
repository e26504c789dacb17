#![doc = include_str!("../README.md")]

mod adapters;
mod attention;
mod backward;
mod config;
mod decoder;
mod error;
mod families;
mod feed_forward;
mod files;
mod finite;
mod generate;
mod input;
mod linear;
mod noise;
mod norm;
mod ops;
mod parameters;
mod precision;
mod pretrained;
#[cfg(test)]
mod properties;
mod quantized;
mod reward;
mod rotary;
mod scores;
mod trained;
mod vocabulary;
mod weight;
mod work;

pub use adapters::{Factor, Linears, LoraAdapter, LoraConfig, LoraInit, TargetModules};
pub use attention::Attention;
pub use backward::{Activations, Backward, DecoderModel, backward};
pub use config::{
    Activation, AttentionConfig, ExpertsConfig, LayerConfig, MlpConfig, MlpLayout, ModelConfig,
    Multipliers, NormConfig, NormPlacement, QkNorm, RopeConfig, RopeScaling,
};
pub use decoder::{CausalLm, Decoder, DecoderLayer, Targets};
pub use error::{ModelError, Result};
pub use families::supported;
pub use feed_forward::{FeedForward, FusedMlp, NumberedMlp, SparseMoe, SplitMlp};
pub use files::{
    Digest, GgufExport, GgufImport, GgufType, GgufValue, SaveDtype, SaveOptions, WrittenFile,
    check_saved, export_gguf, has_own_head, has_score, has_weights, hub_name, is_adapter,
    load_causal_lm, load_reward_model, open_gguf, save_model, write_atomically,
    write_folder_atomically, write_tensors,
};
pub use finite::check_finite;
pub use generate::{Finish, Generated, GenerationOptions, Sampling};
pub use input::{Fork, ModelInput, Tokens};
pub use linear::{Embedding, Linear};
pub use norm::RmsNorm;
pub use ops::{
    ScoreRule, causal_attention, forked_attention, geglu, linear, linear_cross_entropy,
    logits_chunk, lora_linear, plain, quantized_linear, rms_norm, rope, swiglu, token_scores,
};
pub use parameters::{
    Numbers, ParameterGradients, ParameterInfo, ParameterValue, map_values, parameters,
    visit_values,
};
pub use pretrained::Pretrained;
pub use quantized::{Quantization, QuantizedMatrix, dynamic_map};
pub use reward::{RewardModel, RewardTask};
pub use rotary::{RopeTables, inverse_frequencies};
pub use scores::{TokenScore, TokenScores};
pub use trained::TrainedRows;
pub use vocabulary::{NewRows, UntrainedRows, untrained_rows};
pub use weight::{Quantized, Weight};
pub use work::TrainingWork;
