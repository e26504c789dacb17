//! Preferences, rewards and judged steps: rows to the samples of `seqprep`.
//!
//! ```text
//! Row ──layout──▶ texts (prompt, answers) ──encode──▶ sample ──length rule──▶ kept
//! ```
//!
//! A layout (`type:` of a data set) says which columns are read and what text
//! stands around them; the objective says how the texts become tokens. Prompt and
//! answer are tokenized apart, so that the tokens of a prompt are those the model
//! sees when it is asked; an answer ends with the end of the sequence.
//!
//! Invariants: those of [`prepare`](crate::prepare()): rows in the order of the
//! files, and nothing dropped or cut without a line in the ledger.

mod chat;
mod encode;
mod kinds;
mod layouts;
mod messages;
mod steps;

use seqprep::Preferences;
use trainer_config::{Config, Rl, Task};

use crate::pipeline::{self, Kind, Purpose};
use crate::prepare::in_pool;
use crate::{DataError, Ledger, Tokenizer};

/// Calls a function that is generic over the kind of samples, with the kind that an
/// objective learns from, and what makes [`Preferences`] of them as a further argument.
macro_rules! of_kind {
    ($call:ident($config:ident, $tokenizer:ident, $objective:ident)) => {{
        use seqprep::Preferences;
        use $crate::PreferenceObjective;
        match $objective {
            PreferenceObjective::Kto => $call($config, $tokenizer, $objective, Preferences::Kto),
            PreferenceObjective::ProcessRewardModel => {
                $call($config, $tokenizer, $objective, Preferences::Steps)
            }
            PreferenceObjective::Pairwise
            | PreferenceObjective::Orpo
            | PreferenceObjective::Cpo
            | PreferenceObjective::RewardModel => {
                $call($config, $tokenizer, $objective, Preferences::Pairs)
            }
        }
    }};
}
pub(crate) use encode::begin;
pub(crate) use of_kind;

/// What the samples are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreferenceObjective {
    /// Pairs, compared by the log-probabilities of their answers: DPO, IPO.
    Pairwise,
    /// Pairs for ORPO, whose prompts open with the token that begins a sequence
    /// wherever the tokenizer has one.
    Orpo,
    /// Pairs for SimPO and CPO, whose prompts open as those of ORPO do.
    Cpo,
    /// Single answers with a verdict.
    Kto,
    /// Pairs for a reward model, which reads a conversation as a whole. What is
    /// too long is cut, whatever `excess_length_strategy` says short of `raise`.
    RewardModel,
    /// Steps with a verdict each. What is too long is cut, as for a reward model.
    ProcessRewardModel,
}

impl PreferenceObjective {
    /// What the samples of a configuration are for; none where it fine-tunes under
    /// supervision.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        Some(match config.preference.task() {
            Task::Sft => return None,
            Task::Rl(Rl::Dpo | Rl::Ipo) => Self::Pairwise,
            Task::Rl(Rl::Orpo) => Self::Orpo,
            Task::Rl(Rl::Simpo | Rl::Cpo) => Self::Cpo,
            Task::Rl(Rl::Kto) => Self::Kto,
            Task::RewardModel => Self::RewardModel,
            Task::ProcessRewardModel => Self::ProcessRewardModel,
        })
    }

    /// The tokens that its prompts begin with, as TRL's trainers have it: those of
    /// ORPO and CPO put the beginning of a sequence there, that of process rewards
    /// too; the others leave it to the tokenizer. A conversation that a reward model
    /// reads is what the chat template prints.
    pub(crate) fn opening(self, tokenizer: &Tokenizer) -> Vec<u32> {
        match (self, tokenizer.bos_id()) {
            (Self::Orpo | Self::Cpo | Self::ProcessRewardModel, Some(bos)) => vec![bos],
            _ => tokenizer.opening().to_vec(),
        }
    }

    /// How messages call it.
    fn name(self) -> &'static str {
        match self {
            Self::Pairwise => "preference pairs",
            Self::Orpo => "ORPO",
            Self::Cpo => "SimPO or CPO",
            Self::Kto => "KTO",
            Self::RewardModel => "a reward model",
            Self::ProcessRewardModel => "a process reward model",
        }
    }

    /// Whether its samples are pairs.
    fn pairs(self) -> bool {
        matches!(
            self,
            Self::Pairwise | Self::Orpo | Self::Cpo | Self::RewardModel
        )
    }
}

/// The tokens of a text that a model is to go on with as it stands, begun as the
/// training data of the configuration begins: once, whether the text brings its first
/// token or not.
///
/// # Errors
/// [`DataError::Encode`].
pub fn plain_prompt(
    config: &Config,
    tokenizer: &Tokenizer,
    text: &str,
) -> Result<Vec<u32>, DataError> {
    let opening = match PreferenceObjective::of(config) {
        Some(objective) => objective.opening(tokenizer),
        None => tokenizer.opening().to_vec(),
    };
    let mut ids = tokenizer.encode(text, false)?;
    begin(&mut ids, &opening);
    Ok(ids)
}

impl Purpose for PreferenceObjective {
    fn name(self) -> Option<&'static str> {
        Some(self.name())
    }
}

/// The samples of a run on preferences.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedPreferences {
    /// What is trained on, in order.
    pub train: Preferences,
    /// What is evaluated on, in order; may be empty.
    pub eval: Preferences,
    /// The account of every row and token. The tokens of a pair are those of its
    /// two sequences, prompts included.
    pub ledger: Ledger,
}

/// Reads and tokenizes the data sets of a configuration for an objective.
///
/// Shuffles, shards, repetitions, deduplication and the validation split are
/// those of [`prepare`](crate::prepare()).
///
/// # Errors
/// As [`prepare`](crate::prepare()); a `type` that does not fit the objective.
pub fn prepare_preferences(
    config: &Config,
    tokenizer: &Tokenizer,
    objective: PreferenceObjective,
) -> Result<PreparedPreferences, DataError> {
    in_pool(config, || of_kind!(collect(config, tokenizer, objective)))?
}

fn collect<K: Kind<Purpose = PreferenceObjective>>(
    config: &Config,
    tokenizer: &Tokenizer,
    objective: PreferenceObjective,
    wrap: fn(Vec<K>) -> Preferences,
) -> Result<PreparedPreferences, DataError> {
    let (train, eval, ledger) = pipeline::collect(config, tokenizer, objective)?;
    Ok(PreparedPreferences {
        train: wrap(train),
        eval: wrap(eval),
        ledger,
    })
}
