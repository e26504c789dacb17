//! Keys about the optimizer and about learning rates of parts of the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::names;

names! {
    /// Optimizers. Names that differ in kernels or in where their state is kept,
    /// but not in what they compute, are one optimizer here.
    Optimizer {
        /// AdamW as torch computes it.
        AdamwTorch = "adamw_torch",
        /// The same; the name of torch's fused kernel and Axolotl's default.
        AdamwTorchFused = "adamw_torch_fused",
        /// The same; the name of a kernel for TPUs.
        AdamwTorchXla = "adamw_torch_xla",
        /// The same; the name of a kernel for Ascend processors.
        AdamwTorchNpuFused = "adamw_torch_npu_fused",
        /// The same.
        Adamw = "adamw",
        /// The same; the name of a kernel that pages its state.
        PagedAdamw32bit = "paged_adamw_32bit",
        /// AdamW whose state takes 8 bits a value, as bitsandbytes computes it.
        Adamw8bit = "adamw_8bit",
        /// The same.
        AdamwBnb8bit = "adamw_bnb_8bit",
        /// The same.
        PagedAdamw8bit = "paged_adamw_8bit",
        /// Adam: weight decay is added to the gradient.
        Adam = "adam",
        /// Stochastic gradient descent, with momentum where `optim_args` says so.
        Sgd = "sgd",
        /// Adafactor as transformers computes it, at the rate of the schedule.
        Adafactor = "adafactor",
        /// Lion: steps by the sign of the momentum.
        Lion = "lion",
        /// The same; the name in transformers.
        Lion32bit = "lion_32bit",
        /// The same.
        PagedLion32bit = "paged_lion_32bit",
        /// Lion whose state takes 8 bits a value.
        Lion8bit = "lion_8bit",
        /// The same.
        PagedLion8bit = "paged_lion_8bit",
        /// Orthogonalized momentum for matrices, AdamW for all else.
        Muon = "muon",
        /// RMSprop as torch computes it.
        Rmsprop = "rmsprop",
        /// Adagrad as torch computes it.
        Adagrad = "adagrad",
    }
}

impl Optimizer {
    /// Which of `adam_beta1`, `adam_beta2` and `adam_epsilon` it reads.
    #[must_use]
    pub fn adam_keys(self) -> &'static [&'static str] {
        match self {
            Self::AdamwTorch
            | Self::AdamwTorchFused
            | Self::AdamwTorchXla
            | Self::AdamwTorchNpuFused
            | Self::Adamw
            | Self::PagedAdamw32bit
            | Self::Adamw8bit
            | Self::AdamwBnb8bit
            | Self::PagedAdamw8bit
            | Self::Adam
            | Self::Muon => &["adam_beta1", "adam_beta2", "adam_epsilon"],
            Self::Lion
            | Self::Lion32bit
            | Self::PagedLion32bit
            | Self::Lion8bit
            | Self::PagedLion8bit => &["adam_beta1", "adam_beta2"],
            Self::Sgd | Self::Adafactor | Self::Rmsprop | Self::Adagrad => &[],
        }
    }
}

/// Arguments of the optimizer and learning rates of parts of the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OptimizationConfig {
    /// Arguments that one optimizer alone takes, as a mapping or as a text such as
    /// `momentum=0.9,nesterov=true`. `sgd`: momentum, dampening, nesterov;
    /// `rmsprop`: alpha, eps, momentum, centered; `adagrad`: lr_decay, eps;
    /// `adafactor`: beta1, clip_threshold, decay_rate, scale_parameter; `muon`:
    /// momentum, nesterov, ns_steps, adjust_lr_fn.
    pub optim_args: Option<OptimArgs>,
    /// Peak learning rate of embeddings and of the output projection.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub embedding_lr: Option<f64>,
    /// The same as a multiple of `learning_rate`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub embedding_lr_scale: Option<f64>,
    /// Peak learning rates of parts of the model.
    #[schemars(length(min = 1))]
    pub lr_groups: Option<Vec<LrGroup>>,
    /// Peak learning rate of the B matrices of LoRA as a multiple of
    /// `learning_rate`, which is that of the A matrices (LoRA+, arXiv 2402.12354).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub loraplus_lr_ratio: Option<f64>,
    /// Peak learning rate of LoRA on embeddings under LoRA+; 1e-6 when absent.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub loraplus_lr_embedding: Option<f64>,
}

/// Arguments of an optimizer. Always a mapping in a loaded configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OptimArgs {
    /// `name=value,name=value`.
    Text(String),
    /// By name.
    Map(Map<String, Value>),
}

/// Parameters with a peak learning rate of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "modules", "lr"]))]
pub struct LrGroup {
    /// A name for messages.
    pub name: String,
    /// Parts of parameter names, such as `mlp.down_proj`. The first group with a
    /// part that occurs in a parameter's name takes it.
    #[schemars(length(min = 1))]
    pub modules: Vec<String>,
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub lr: f64,
}
