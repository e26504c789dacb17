//! The typed schema: one field for every supported key of the YAML file, under
//! Axolotl's names.
//!
//! The doc comment of a field is what `trainer schema` shows in an editor, the
//! type and the `schemars` attributes are what the validator enforces, and the
//! `Default` implementation is the lowest layer of the configuration. Nothing
//! about a key is written anywhere else.
//!
//! Keys of one subject that only one part of the program reads are a group: a
//! struct in a file of its own, flattened into [`Config`], so that the YAML file
//! stays flat.

mod adapter;
mod checkpoint;
mod compute;
mod dataset;
mod generation;
mod guard;
mod optimizer;
mod parameters;
mod preference;
mod sampling;
mod tracking;
mod values;
mod vocabulary;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use adapter::{AdapterConfig, AdapterKind, InitLoraWeights, LORA_INITS, is_lora_init};
pub use checkpoint::CheckpointConfig;
pub(crate) use checkpoint::bytes;
pub use compute::ComputeConfig;
pub use dataset::{Dataset, PretrainingDataset, SpecialTokens};
pub use generation::GenerationConfig;
pub use guard::GuardConfig;
pub use optimizer::{LrGroup, OptimArgs, OptimizationConfig, Optimizer};
pub use parameters::ParametersConfig;
pub use preference::{DpoLossType, FDivergence, PreferenceConfig, Rl, Task};
pub use sampling::SamplingConfig;
pub use tracking::{TrackingConfig, WandbMode};
pub(crate) use values::names;
pub use values::*;
pub use vocabulary::VocabularyConfig;

/// A fine-tuning run, fully resolved: every key has a value or is optional.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
// Unknown keys are refused by the validator: serde cannot tell them where groups
// are flattened.
#[serde(default)]
#[schemars(extend(
    "required" = ["base_model", "datasets", "learning_rate"],
    "additionalProperties" = false
))]
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
    /// Special tokens to use in place of the tokenizer's own; those that the
    /// vocabulary lacks are added to it.
    pub special_tokens: SpecialTokens,
    /// Changes to the vocabulary.
    #[serde(flatten)]
    pub vocabulary: VocabularyConfig,

    // ---- what is trained ----------------------------------------------------
    /// Adapters and frozen weights.
    #[serde(flatten)]
    pub adapters: AdapterConfig,
    /// Parameters that are trained without an adapter, and noise.
    #[serde(flatten)]
    pub parameters: ParametersConfig,

    // ---- backend and precision ------------------------------------------
    /// Where tensors live: the fastest that works, or one by name.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub backend: Backend,
    /// Number formats and memory.
    #[serde(flatten)]
    pub compute: ComputeConfig,
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
    #[schemars(extend("x-not-in-axolotl" = true))]
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
    #[schemars(extend("x-not-in-axolotl" = true))]
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
    #[schemars(extend("x-not-in-axolotl" = true))]
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
    /// of padding them. `auto` does so on the backend `flex`, where it saves time and
    /// memory, unless rows are packed or `pad_to_sequence_len` is set.
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
    /// Even shares for the batches, and how positions are drawn.
    #[serde(flatten)]
    pub sampling: SamplingConfig,

    // ---- optimization ----------------------------------------------------
    /// Passes over the training data.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub num_epochs: f64,
    /// Optimizer steps; overrides `num_epochs`.
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Arguments of the optimizer, and learning rates of parts of the model.
    #[serde(flatten)]
    pub optimization: OptimizationConfig,
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Weight decay; not applied to norms and biases.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Decay of the first moment (AdamW, Adam, Lion, Muon); 0.95 for Muon unless
    /// set.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub adam_beta1: f64,
    /// Decay of the second moment (AdamW, Adam, Muon) or of the momentum (Lion);
    /// 0.95 for Muon unless set.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub adam_beta2: f64,
    /// Added to the root of the second moment (AdamW, Adam, Muon).
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

    // ---- preferences ---------------------------------------------------------
    /// Preferences, rewards and judged steps.
    #[serde(flatten)]
    pub preference: PreferenceConfig,

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
    /// Checkpoints and saved weights.
    #[serde(flatten)]
    pub checkpoint: CheckpointConfig,
    /// Steps that go wrong.
    #[serde(flatten)]
    pub guard: GuardConfig,
    /// Text that the trained model generates.
    #[serde(flatten)]
    pub generation: GenerationConfig,
    /// Files for programs that show training runs.
    #[serde(flatten)]
    pub tracking: TrackingConfig,
    /// Folder of everything that the run writes.
    pub output_dir: PathBuf,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_model: PathBuf::new(),
            tokenizer_config: None,
            model_config: None,
            reinit_weights: false,
            special_tokens: SpecialTokens::default(),
            vocabulary: VocabularyConfig::default(),
            adapters: AdapterConfig::default(),
            parameters: ParametersConfig::default(),
            backend: Backend::Auto,
            compute: ComputeConfig::default(),
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
            // A file's default is a folder (`layers::defaults`); a program writes nothing
            // where it did not say so.
            dataset_prepared_path: None,
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
            batch_flattening: AutoBool::Auto(Auto::Auto),
            use_pose: false,
            pose_max_context_len: None,
            pose_num_chunks: 2,
            pose_split_on_token_ids: Vec::new(),
            num_epochs: 1.0,
            max_steps: None,
            optimizer: Optimizer::AdamwTorchFused,
            optimization: OptimizationConfig::default(),
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
            preference: PreferenceConfig::default(),
            eval_strategy: None,
            eval_steps: None,
            evals_per_epoch: None,
            eval_on_start: true,
            logging_steps: None,
            sampling: SamplingConfig::default(),
            checkpoint: CheckpointConfig::default(),
            guard: GuardConfig::default(),
            generation: GenerationConfig::default(),
            tracking: TrackingConfig::default(),
            output_dir: PathBuf::from("./model-out"),
            seed: 42,
        }
    }
}
