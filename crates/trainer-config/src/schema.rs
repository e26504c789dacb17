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

use crate::PromptStrategy;

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
    /// Read the data sets while training, again and again, in bounded memory;
    /// `max_steps` sets the length of the run.
    pub streaming: bool,
    /// Plain text to read while training, in place of `datasets`.
    #[schemars(length(min = 1))]
    pub pretraining_dataset: Option<Vec<PretrainingDataset>>,
    /// Samples of a stream that are shuffled and packed together.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub streaming_multipack_buffer_size: usize,
    /// Part of the data kept for evaluation: a fraction below 1, or a number of rows.
    #[schemars(range(min = 0.0))]
    pub val_set_size: f64,
    /// Leave out samples whose tokens and labels are those of an earlier one, in
    /// the training data and in the evaluation data.
    pub dataset_exact_deduplication: bool,
    /// Threads that read and tokenize; all processor cores when absent.
    #[schemars(range(min = 1, max = 1024))]
    pub dataset_num_proc: Option<usize>,
    /// Cut the prepared training data into this many parts and use one of them.
    #[schemars(range(min = 1))]
    pub dataset_shard_num: Option<usize>,
    /// Which of the `dataset_shard_num` parts is used, from 0.
    pub dataset_shard_idx: Option<usize>,
    /// Folder in which prepared data sets are kept and found again; an empty text
    /// (`""`) turns that off.
    pub dataset_prepared_path: Option<PathBuf>,
    /// Shuffle each data set before they are concatenated.
    pub shuffle_before_merging_datasets: bool,
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
    /// What happens to a row that cannot be read, or that lacks what its `type` needs.
    pub malformed_rows: MalformedRows,
    /// Rows with fewer tokens are dropped.
    #[schemars(range(min = 1))]
    pub min_sample_len: usize,
    /// Train on the prompt as well as on the response.
    pub train_on_inputs: bool,
    /// Chat template: `tokenizer_default`, a bundled name, or `jinja`.
    pub chat_template: Option<String>,
    /// The chat template itself, or the path of a file that holds it.
    pub chat_template_jinja: Option<String>,
    /// Variables of the chat template, such as `enable_thinking`.
    pub chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
    /// System message of conversations that have none, or the path of a file that
    /// holds it.
    pub default_system_message: Option<String>,
    /// Tokens that end a turn, besides the end of sequence and the token that the
    /// chat template prints after an assistant's turn.
    #[schemars(length(min = 1))]
    pub eot_tokens: Option<Vec<String>>,
    /// Let text of the data that looks like a special token become that token, as
    /// Axolotl does. Otherwise it is ordinary text.
    pub allow_special_tokens_in_content: bool,

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
    /// Take rows of similar length for one batch, which saves padding.
    pub group_by_length: bool,
    /// Join the rows of a batch into one, each attending to itself alone, instead
    /// of padding them; `auto` does so where rows are not packed.
    pub batch_flattening: AutoBool,
    /// Spread the positions of each row over a longer context (positional
    /// skip-wise training), so that the model learns large distances.
    pub use_pose: bool,
    /// Positions over which `use_pose` spreads a row; `sequence_len` or more.
    #[schemars(range(min = 1))]
    pub pose_max_context_len: Option<u32>,
    /// Chunks into which `use_pose` cuts a row.
    #[schemars(range(min = 1))]
    pub pose_num_chunks: usize,
    /// Token ids at which `use_pose` starts a new chunk, instead of counting
    /// chunks.
    pub pose_split_on_token_ids: Vec<u32>,

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
    /// A file, a folder of files, a pattern (`data/*.jsonl`), a folder that the
    /// `datasets` library saved, or the id of a data set of the Hugging Face hub.
    pub path: PathBuf,
    /// Format of the files; told from their names when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ds_type: Option<DatasetFormat>,
    /// Files or patterns inside `path`, in place of all files of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_files: Option<OneOrMany>,
    /// Split to use, or a part of it: `train`, `train[:1%]`, `train[10:20]`,
    /// `train[-5%:]`, `train+test`; `train` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Configuration of the data set: a folder inside `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Branch, tag or commit of a data set of the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Divide the rows at random into this many parts and use one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub shards: Option<usize>,
    /// Which of the `shards` parts is used, from 0; the first when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards_idx: Option<usize>,
    /// Share of the rows that is used. Below 1, a random part of them; above 1,
    /// all of them so many times, with a random part once more for the fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000.0), extend("exclusiveMinimum" = 0))]
    pub weight: Option<f64>,
    /// How a row becomes tokens and labels.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub strategy: Option<PromptStrategy>,
    /// Column of the text (`completion`, `pretrain`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Column of the better answer (preferences by a chat template).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_chosen: Option<String>,
    /// Column of the worse answer (preferences by a chat template).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_rejected: Option<String>,
    /// Text after each step, whose last token is judged: a line end when absent
    /// (`stepwise_supervised`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_separator: Option<String>,
    /// Most tokens of all steps together (`stepwise_supervised`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_completion_length: Option<usize>,
    /// Judge the last step alone (`stepwise_supervised`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_on_last_step_only: Option<bool>,
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
    /// Which end-of-sequence tokens are trained (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_on_eos: Option<TrainOnEos>,
    /// Which tokens that end a turn are trained, where they are not the end of
    /// sequence; as `train_on_eos` when absent (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_on_eot: Option<TrainOnEos>,
    /// Column of a system message, put before conversations that have none
    /// (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_system: Option<String>,
    /// Column of the tools; `tools` when absent (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_tools: Option<String>,
    /// Property of a message that holds its reasoning; `reasoning_content` when
    /// absent (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_thinking: Option<String>,
    /// Name under which the chat template reads the reasoning; `reasoning_content`
    /// when absent (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_thinking_key: Option<String>,
    /// Take reasoning between tags (`<think>`, `<reasoning>`,
    /// `<|begin_of_thought|>`) out of the assistant's contents and give it to the
    /// chat template apart (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_thinking: Option<bool>,
    /// Property of a message that says whether its turn is trained, in place of
    /// `roles_to_train` (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_field_training: Option<String>,
    /// Property of a message that lists which characters of its content are
    /// trained: `{begin_offset, end_offset, train}`, both ends included
    /// (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_field_training_detail: Option<String>,
    /// Leave out a system message at the start (`chat_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_system_message: Option<bool>,
    /// Chat template of this data set, in place of the top-level one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// The chat template itself, or the path of a file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_jinja: Option<String>,
}

/// Plain text that is read while training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub struct PretrainingDataset {
    /// As `path` of a data set.
    pub path: PathBuf,
    /// Format of the files; told from their names when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ds_type: Option<DatasetFormat>,
    /// Files or patterns inside `path`, in place of all files of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_files: Option<OneOrMany>,
    /// Split to use, or a part of it; `train` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Configuration of the data set: a folder inside `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Column of the text; `text` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// How a text longer than `sequence_len` is divided; `pretrain` when absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub strategy: Option<PretrainingType>,
    /// Rows at the beginning that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<usize>,
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

/// Values of `chat_template`: the tokenizer's own template, a template given in
/// `chat_template_jinja`, and those that are bundled.
pub const CHAT_TEMPLATES: &[&str] = &[
    "tokenizer_default",
    "jinja",
    "alpaca",
    "aya",
    "chatml",
    "cohere",
    "deepseek_v2",
    "deepseek_v3",
    "exaone",
    "gemma",
    "gemma3",
    "gemma3n",
    "llama3",
    "llama3_2_vision",
    "llama4",
    "metharme",
    "mistral_v1",
    "mistral_v2v3",
    "mistral_v3_tekken",
    "mistral_v7_tekken",
    "phi_3",
    "phi_35",
    "pixtral",
    "qwen2_vl",
    "qwen3",
    "qwen3_5",
    "qwen_25",
];

/// What stands before the name of a bundled template that is used only where the
/// tokenizer has none.
pub const CHAT_TEMPLATE_FALLBACK: &str = "tokenizer_default_fallback_";

/// Whether `chat_template` may have this value.
#[must_use]
pub fn is_chat_template(name: &str) -> bool {
    match name.strip_prefix(CHAT_TEMPLATE_FALLBACK) {
        Some(bundled) => CHAT_TEMPLATES[2..].contains(&bundled),
        None => CHAT_TEMPLATES.contains(&name),
    }
}

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
pub(crate) use names;

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
        /// Apache Arrow, as a file or as a stream.
        Arrow = "arrow",
    }
}
names! {
    /// How a text longer than `sequence_len` is divided.
    PretrainingType {
        /// Into windows that overlap, so that every token has some context.
        Pretrain = "pretrain",
        /// Into windows one after the other.
        Completion = "completion",
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
    /// What happens to a row that cannot be used as it is.
    MalformedRows {
        /// The run stops with an error that names the row.
        Raise = "raise",
        /// It is left out, and counted. Errors of the file itself still stop the run.
        Skip = "skip",
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

/// One text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
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
            streaming: false,
            pretraining_dataset: None,
            streaming_multipack_buffer_size: 10_000,
            val_set_size: 0.0,
            dataset_exact_deduplication: false,
            dataset_num_proc: None,
            dataset_shard_num: None,
            dataset_shard_idx: None,
            dataset_prepared_path: Some(PathBuf::from("last_run_prepared")),
            shuffle_before_merging_datasets: false,
            shuffle_merged_datasets: true,
            curriculum_sampling: false,
            sequence_len: 512,
            eval_sequence_len: None,
            excess_length_strategy: ExcessLength::Drop,
            malformed_rows: MalformedRows::Raise,
            min_sample_len: 2,
            train_on_inputs: false,
            chat_template: None,
            chat_template_jinja: None,
            chat_template_kwargs: None,
            default_system_message: None,
            eot_tokens: None,
            allow_special_tokens_in_content: false,
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
            group_by_length: false,
            batch_flattening: AutoBool::Bool(false),
            use_pose: false,
            pose_max_context_len: None,
            pose_num_chunks: 2,
            pose_split_on_token_ids: Vec::new(),
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
