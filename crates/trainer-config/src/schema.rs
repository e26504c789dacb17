//! The typed schema: one field for every supported key of the YAML file, under
//! Axolotl's names.
//!
//! The doc comment of a field is what `trainer schema` shows in an editor, the
//! type and the `schemars` attributes are what the validator enforces, and the
//! `Default` implementation is the lowest layer of the configuration. Nothing
//! about a key is written anywhere else.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fine-tuning run, fully resolved: every key has a value or is optional.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["base_model", "datasets", "learning_rate"]))]
pub struct Config {
    // ---- model and tokenizer -------------------------------------------
    /// Folder of the model to start from, in Hugging Face layout.
    pub base_model: PathBuf,
    /// Folder of the tokenizer; `base_model` when absent.
    pub tokenizer_config: Option<PathBuf>,
    /// Values merged over the model's `config.json` before it is built.
    pub model_config: Option<serde_json::Map<String, serde_json::Value>>,
    /// Start from random weights (pretraining from scratch): only `config.json`
    /// and the tokenizer of `base_model` are read.
    pub reinit_weights: bool,
    /// Special tokens to use in place of the tokenizer's own.
    pub special_tokens: SpecialTokens,

    // ---- backend and precision ------------------------------------------
    /// Where tensors live: the fastest that works, or one by name.
    pub backend: Backend,
    /// Train in bfloat16. Not available yet: `false` or `auto`.
    pub bf16: AutoBool,
    /// Train in float16. Not available yet: `false`.
    pub fp16: bool,
    /// TensorFloat-32 on NVIDIA GPUs; has no meaning on a CPU.
    pub tf32: AutoBool,
    /// Attention implementation; all of them keep packed documents apart.
    pub attn_implementation: Option<AttnImplementation>,

    // ---- data -------------------------------------------------------------
    /// The data sets to train on, concatenated.
    #[schemars(length(min = 1))]
    pub datasets: Vec<Dataset>,
    /// Data sets to evaluate on, in place of a split of the training data.
    #[schemars(length(min = 1))]
    pub test_datasets: Option<Vec<Dataset>>,
    /// Part of the data kept for evaluation: a fraction below 1, or a number of rows.
    #[schemars(range(min = 0.0))]
    pub val_set_size: f64,
    /// Folder of prepared data sets.
    pub dataset_prepared_path: Option<PathBuf>,
    /// Shuffle the rows after the data sets are concatenated.
    pub shuffle_merged_datasets: bool,
    /// Take rows in file order, in every epoch.
    pub curriculum_sampling: bool,
    /// Longest sequence in tokens.
    #[schemars(range(min = 1))]
    pub sequence_len: usize,
    /// Longest sequence in tokens of evaluation rows; `sequence_len` when absent.
    #[schemars(range(min = 1))]
    pub eval_sequence_len: Option<usize>,
    /// What happens to a row longer than `sequence_len`.
    pub excess_length_strategy: ExcessLength,
    /// Rows with fewer tokens are dropped.
    #[schemars(range(min = 1))]
    pub min_sample_len: usize,
    /// Train on the prompt as well as on the response.
    pub train_on_inputs: bool,
    /// Chat template: `tokenizer_default`, a bundled name, or `jinja`.
    pub chat_template: Option<String>,
    /// The chat template itself, or the path of a file that holds it.
    pub chat_template_jinja: Option<String>,

    // ---- batches -----------------------------------------------------------
    /// Rows in one forward pass.
    #[schemars(range(min = 1))]
    pub micro_batch_size: usize,
    /// Rows in one optimizer step, a multiple of `micro_batch_size`. Always absent
    /// in a loaded configuration: it sets `gradient_accumulation_steps`.
    #[serde(skip_serializing)]
    #[schemars(range(min = 1))]
    pub batch_size: Option<usize>,
    /// Forward passes in one optimizer step.
    #[schemars(range(min = 1))]
    pub gradient_accumulation_steps: usize,
    /// Rows in one forward pass of an evaluation; `micro_batch_size` when absent.
    #[schemars(range(min = 1))]
    pub eval_batch_size: Option<usize>,
    /// Put several documents into one row, each attending to itself alone.
    pub sample_packing: bool,
    /// Pack evaluation rows too; as `sample_packing` when absent.
    pub eval_sample_packing: Option<bool>,
    /// How documents are put into rows.
    pub packing_strategy: PackingStrategy,
    /// Most documents in one packed row.
    #[schemars(range(min = 1))]
    pub sample_packing_bin_size: usize,
    /// Documents that are packed together at a time by `first_fit`.
    #[schemars(range(min = 1))]
    pub sample_packing_group_size: usize,
    /// Pack documents in their order (the same as `packing_strategy: sequential`).
    pub sample_packing_sequentially: bool,
    /// Pad every row to `sequence_len`, not just to the longest row of its batch.
    pub pad_to_sequence_len: Option<bool>,
    /// Pad rows to a multiple of this many tokens.
    #[schemars(range(min = 1))]
    pub pad_to_multiple_of: Option<usize>,

    // ---- optimization ----------------------------------------------------
    /// Passes over the training data.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub num_epochs: f64,
    /// Optimizer steps; overrides `num_epochs`.
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decoupled weight decay; not applied to norms and biases.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Decay of the first moment.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub adam_beta1: f64,
    /// Decay of the second moment.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this global norm; 0 turns clipping off.
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: f64,
    /// Shape of the learning rate over the run.
    pub lr_scheduler: LrScheduler,
    /// Parameters of the schedule, under Hugging Face's names.
    pub lr_scheduler_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
    /// Steps over which the learning rate rises from zero.
    pub warmup_steps: Option<usize>,
    /// Warmup as a part of all steps.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup_ratio: Option<f64>,
    /// Warm up with the square of the progress (cosine only).
    pub lr_quadratic_warmup: bool,
    /// Lowest learning rate as a part of the peak (cosine and rex).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cosine_min_lr_ratio: Option<f64>,
    /// Part of the run after which the learning rate stays at its lowest (cosine).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cosine_constant_lr_ratio: Option<f64>,
    /// Restart the warmup every so many steps.
    #[schemars(range(min = 1))]
    pub jagged_restart_steps: Option<usize>,
    /// Warmup steps after each restart.
    #[schemars(range(min = 1))]
    pub jagged_restart_warmup_steps: Option<usize>,
    /// Steps over which the learning rate falls before each restart.
    #[schemars(range(min = 1))]
    pub jagged_restart_anneal_steps: Option<usize>,

    // ---- evaluation, logging, output -----------------------------------------
    /// When to evaluate.
    pub eval_strategy: Option<EvalStrategy>,
    /// Steps between evaluations; below 1, a part of all steps.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eval_steps: Option<f64>,
    /// Evaluations in one epoch.
    #[schemars(range(min = 1))]
    pub evals_per_epoch: Option<usize>,
    /// Evaluate before the first step too, unless `eval_strategy: no`.
    pub eval_on_start: bool,
    /// Steps between log rows; by default 0.5% of all steps, from 1 to 10.
    #[schemars(range(min = 1))]
    pub logging_steps: Option<usize>,
    /// When to write checkpoints during the run; the trained model is always
    /// saved at the end.
    pub save_strategy: SaveStrategy,
    /// Number format of the saved weights.
    pub save_dtype: SaveDtype,
    /// Folder of everything that the run writes.
    pub output_dir: PathBuf,
    /// Seed of every random choice.
    pub seed: u64,
}

/// One data set: where its rows are and how they become text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub struct Dataset {
    /// File of the data set.
    pub path: PathBuf,
    /// Format of the file; told from its name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ds_type: Option<DatasetFormat>,
    /// How a row becomes tokens and labels.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub strategy: Option<PromptStrategy>,
    /// Column of the text (`completion`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Column of the messages (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_messages: Option<String>,
    /// Column names inside a message: role and content (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_property_mappings: Option<std::collections::BTreeMap<String, String>>,
    /// Other names of roles, under the role each stands for (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<std::collections::BTreeMap<String, Vec<String>>>,
    /// Roles whose turns are trained (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles_to_train: Option<Vec<String>>,
    /// Which end-of-turn tokens are trained (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_on_eos: Option<TrainOnEos>,
    /// Chat template of this data set, in place of the top-level one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// The chat template itself, or the path of a file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_jinja: Option<String>,
}

/// Special tokens to use in place of the tokenizer's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialTokens {
    /// Beginning of a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// End of a sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    /// Unknown text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
}

/// Values of `chat_template`. Besides them, `tokenizer_default_fallback_chatml`
/// is `tokenizer_default` where the tokenizer has a template, else `chatml`.
pub const CHAT_TEMPLATES: &[&str] = &[
    "tokenizer_default",
    "chatml",
    "jinja",
    "tokenizer_default_fallback_chatml",
];

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            /// Every name, as written in the YAML file.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// The name as written in the YAML file.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

names! {
    /// The backends that tensors can live on.
    Backend {
        /// The fastest that is compiled in and works.
        Auto = "auto",
        /// NVIDIA GPUs.
        Cuda = "cuda",
        /// Burn's ndarray backend on the CPU.
        Ndarray = "ndarray",
        /// Burn's flex backend on the CPU.
        Flex = "flex",
        /// Any GPU through wgpu.
        Wgpu = "wgpu",
    }
}
names! {
    /// File formats of data sets.
    DatasetFormat {
        /// One JSON object a line, or one array of objects.
        Json = "json",
        /// Comma-separated values with a header.
        Csv = "csv",
        /// Plain text, one row a line.
        Text = "text",
        /// Apache Parquet.
        Parquet = "parquet",
    }
}
names! {
    /// How a row becomes tokens and labels.
    PromptStrategy {
        /// `instruction`, `input`, `output` in the Alpaca layout.
        Alpaca = "alpaca",
        /// `messages` rendered by a chat template.
        ChatTemplate = "chat_template",
        /// `text`, trained from its first token to its last.
        Completion = "completion",
        /// Rows that hold `input_ids` and `labels` already.
        Pretokenized = "pretokenized",
    }
}
names! {
    /// Which end-of-turn tokens are trained.
    TrainOnEos {
        /// All of them.
        All = "all",
        /// Those of trained turns.
        Turn = "turn",
        /// That of the last turn.
        Last = "last",
        /// None.
        None = "none",
    }
}
names! {
    /// What happens to a row longer than `sequence_len`.
    ExcessLength {
        /// It is left out, and counted.
        Drop = "drop",
        /// Its end is cut off.
        Truncate = "truncate",
        /// The run stops with an error.
        Raise = "raise",
    }
}
names! {
    /// How documents are put into packed rows; `first_fit` with
    /// `curriculum_sampling`, where no other is named.
    PackingStrategy {
        /// Longest first, each into the fullest row that has room.
        BestFitDecreasing = "best_fit_decreasing",
        /// In sampling order, each into the first row that has room (Axolotl's).
        FirstFit = "first_fit",
        /// In sampling order, one open row.
        Sequential = "sequential",
    }
}
names! {
    /// Attention implementations.
    AttnImplementation {
        /// Plain matrix products.
        Eager = "eager",
        /// The fused operation of the backend.
        Sdpa = "sdpa",
    }
}
names! {
    /// Optimizers.
    Optimizer {
        /// AdamW as torch computes it.
        AdamwTorch = "adamw_torch",
        /// The same; the name of torch's fused kernel and Axolotl's default.
        AdamwTorchFused = "adamw_torch_fused",
        /// The same.
        Adamw = "adamw",
    }
}
names! {
    /// Shapes of the learning rate over the run.
    LrScheduler {
        /// Falls along half a cosine.
        Cosine = "cosine",
        /// Falls in a straight line.
        Linear = "linear",
        /// Stays at its peak from the first step.
        Constant = "constant",
        /// Stays at its peak after the warmup.
        ConstantWithWarmup = "constant_with_warmup",
        /// Falls along half a cosine, several times.
        CosineWithRestarts = "cosine_with_restarts",
        /// Falls along half a cosine to `min_lr` or `min_lr_rate`.
        CosineWithMinLr = "cosine_with_min_lr",
        /// The same, with a warmup that starts at `warmup_lr_rate`.
        CosineWarmupWithMinLr = "cosine_warmup_with_min_lr",
        /// Falls with a power of what is left.
        Polynomial = "polynomial",
        /// Falls with the inverse root of the step.
        InverseSqrt = "inverse_sqrt",
        /// Warmup, plateau, decay.
        WarmupStableDecay = "warmup_stable_decay",
        /// Is multiplied by `factor` when the evaluation loss stops falling.
        ReduceLrOnPlateau = "reduce_lr_on_plateau",
        /// Rises while the evaluation loss falls, and falls when it does not
        /// (arXiv 2512.14527).
        Greedy = "greedy",
        /// torch's one-cycle policy.
        OneCycle = "one_cycle",
        /// Reflected exponential (arXiv 2107.04197).
        Rex = "rex",
    }
}
names! {
    /// When to evaluate.
    EvalStrategy {
        /// Never, not even at the end.
        No = "no",
        /// Every `eval_steps`.
        Steps = "steps",
        /// After each epoch.
        Epoch = "epoch",
    }
}
names! {
    /// When to write checkpoints.
    SaveStrategy {
        /// Never: only the trained model, at the end.
        No = "no",
    }
}

names! {
    /// Number formats of saved weights.
    SaveDtype {
        /// As trained.
        Float32 = "float32",
        /// Half the size, rounded.
        Bfloat16 = "bfloat16",
    }
}

/// `true`, `false`, or `auto`: whatever the device supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AutoBool {
    /// As said.
    Bool(bool),
    /// Whatever the device supports.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Auto {
    /// Whatever the device supports.
    #[serde(rename = "auto")]
    Auto,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_model: PathBuf::new(),
            tokenizer_config: None,
            model_config: None,
            reinit_weights: false,
            special_tokens: SpecialTokens::default(),
            backend: Backend::Auto,
            bf16: AutoBool::Auto(Auto::Auto),
            fp16: false,
            tf32: AutoBool::Auto(Auto::Auto),
            attn_implementation: None,
            datasets: Vec::new(),
            test_datasets: None,
            val_set_size: 0.0,
            dataset_prepared_path: None,
            shuffle_merged_datasets: true,
            curriculum_sampling: false,
            sequence_len: 512,
            eval_sequence_len: None,
            excess_length_strategy: ExcessLength::Drop,
            min_sample_len: 2,
            train_on_inputs: false,
            chat_template: None,
            chat_template_jinja: None,
            micro_batch_size: 1,
            batch_size: None,
            gradient_accumulation_steps: 1,
            eval_batch_size: None,
            sample_packing: false,
            eval_sample_packing: None,
            packing_strategy: PackingStrategy::BestFitDecreasing,
            sample_packing_bin_size: 200,
            sample_packing_group_size: 100_000,
            sample_packing_sequentially: false,
            pad_to_sequence_len: None,
            pad_to_multiple_of: None,
            num_epochs: 1.0,
            max_steps: None,
            optimizer: Optimizer::AdamwTorchFused,
            learning_rate: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            lr_scheduler: LrScheduler::Cosine,
            lr_scheduler_kwargs: None,
            warmup_steps: None,
            warmup_ratio: None,
            lr_quadratic_warmup: false,
            cosine_min_lr_ratio: None,
            cosine_constant_lr_ratio: None,
            jagged_restart_steps: None,
            jagged_restart_warmup_steps: None,
            jagged_restart_anneal_steps: None,
            eval_strategy: None,
            eval_steps: None,
            evals_per_epoch: None,
            eval_on_start: true,
            logging_steps: None,
            save_strategy: SaveStrategy::No,
            save_dtype: SaveDtype::Float32,
            output_dir: PathBuf::from("./model-out"),
            seed: 42,
        }
    }
}
