//! The values that keys take.

use schemars::JsonSchema;
// What is done to rows is defined where it is done. `excess_length_strategy` is the key.
pub use seqprep::{LengthStrategy as ExcessLength, PoseVariant};
use serde::{Deserialize, Serialize};

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
    "exaone4",
    "falcon_h1",
    "gemma",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4_unified",
    "jamba",
    "llama3",
    "llama3_2_vision",
    "llama4",
    "llava",
    "metharme",
    "mistral_v1",
    "mistral_v2v3",
    "mistral_v3_tekken",
    "mistral_v7_tekken",
    "nemotron_h",
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
        /// Every `save_steps`.
        Steps = "steps",
        /// After each epoch.
        Epoch = "epoch",
        /// After each evaluation that is better than all before.
        Best = "best",
    }
}

names! {
    /// What happens to a step whose loss or gradient is not finite.
    NonFinitePolicy {
        /// The run ends with an error.
        Stop = "stop",
        /// The step is left out, and counted.
        Skip = "skip",
        /// The run goes back to its last checkpoint, with half the learning rate.
        Rollback = "rollback",
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
