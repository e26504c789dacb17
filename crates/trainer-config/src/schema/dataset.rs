//! The keys of one data set.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DatasetFormat, OneOrMany, PretrainingType, TrainOnEos};
use crate::PromptStrategy;

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
    /// Number of rows; 1,000 when absent (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub length: Option<usize>,
    /// Tokens of each row; `sequence_len` when absent (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 16_777_216))]
    pub sequence_length: Option<usize>,
    /// Smallest id; 100 when absent (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_input_id: Option<u32>,
    /// Ids are below this; the size of the tokenizer's vocabulary when absent
    /// (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_id: Option<u32>,
    /// Seed of the rows; the seed of the run when absent (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Fewest turns of a row, each an input and an output; 1 when absent
    /// (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_turns: Option<usize>,
    /// Most turns of a row; `min_turns` when absent (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_turns: Option<usize>,
    /// Fewest tokens of a turn; 32 when absent (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub min_turn_length: Option<usize>,
    /// Share of each turn that is not trained; 0.25 when absent and there are
    /// several turns, else 0 (`_synthetic`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub input_fraction: Option<f64>,
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
    /// Further special tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_special_tokens: Vec<String>,
}
