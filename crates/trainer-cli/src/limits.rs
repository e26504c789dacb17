//! How long the documents of a run are, beside the positions that its model is made for.
//!
//! What is trained on more positions allows as many in its files; packed rows are no longer
//! than their documents, which begin at position 0 each.

use seqprep::{Preferences, SampleSource};
use trainer_config::Config;
use trainer_core::{AnyModel, EvalData, TrainData};
use trainer_data::Tokenizer;
use trainer_model::{Decoder, ModelConfig};

use crate::session::{is_streamed, load_samples};

/// Positions that are trained, and what they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trained {
    positions: usize,
    what: &'static str,
}

impl Trained {
    /// By the configuration alone; nothing where it takes the data to know.
    fn by_keys(config: &Config) -> Option<Self> {
        if let (true, Some(most)) = (config.use_pose, config.pose_max_context_len) {
            return Some(Self {
                positions: (most as usize).max(config.sequence_len),
                what: "pose_max_context_len",
            });
        }
        // The documents of a stream are known when it is over.
        (!config.sample_packing || is_streamed(config)).then_some(Self {
            positions: config.sequence_len,
            what: "sequence_len",
        })
    }

    fn of_longest(positions: usize) -> Self {
        Self {
            positions,
            what: "the length of the longest document",
        }
    }

    /// Those of a run with this data.
    pub(crate) fn of(config: &Config, data: &TrainData) -> Self {
        Self::by_keys(config).unwrap_or_else(|| {
            Self::of_longest(match data {
                TrainData::Samples(samples) => longest(samples.as_ref()),
                TrainData::Preferences(samples) => longest_preference(samples),
                TrainData::Stream(_) => config.sequence_len,
            })
        })
    }

    /// Those of a run that is over. Where it took the data to know, it is read again.
    pub(crate) fn of_finished(config: &Config, tokenizer: &Tokenizer) -> Self {
        Self::by_keys(config).unwrap_or_else(|| {
            let data = load_samples(config, tokenizer);
            Self::of_longest(data.map_or(config.sequence_len, |(data, _)| longest(&data.train)))
        })
    }

    /// Raises the limit of a model to what is trained.
    pub(crate) fn raise(self, model: &mut Decoder) {
        let mut config = model.config().clone();
        if let Some(warning) = self.raise_config(&mut config) {
            eprintln!("warning: {warning}");
            model.raise_position_limit(self.positions);
        }
    }

    /// Raises the limit of a configuration; what there is to say about it.
    fn raise_config(self, config: &mut ModelConfig) -> Option<String> {
        let Self { positions, what } = self;
        let limit = config.max_positions;
        if positions <= limit {
            return None;
        }
        let saved = match config.raise_position_limit(positions) {
            true => format!("saved models say {positions}"),
            false => {
                "saved models keep the number, from which their RoPE scaling counts".to_owned()
            }
        };
        Some(format!(
            "{what} is {positions}, more than max_position_embeddings of the model, {limit}: it was \
             not made for so many positions; {saved}"
        ))
    }
}

/// What there is to say about the limit of a model, by the configuration alone.
pub(crate) fn warning(config: &Config, mut model: ModelConfig) -> Option<String> {
    Trained::by_keys(config)?.raise_config(&mut model)
}

/// Raises the limit of a model that is to be trained, and says so of evaluations too.
pub(crate) fn raise(config: &Config, data: &TrainData, eval: &EvalData, model: &mut AnyModel) {
    let decoder = decoder(model);
    Trained::of(config, data).raise(decoder);
    let longest = match eval {
        EvalData::Samples(samples) => longest(samples.as_ref()),
        EvalData::Preferences(samples) => longest_preference(samples),
    };
    warn_of_evaluation(longest, decoder.config().max_positions);
}

fn decoder(model: &mut AnyModel) -> &mut Decoder {
    match model {
        AnyModel::Causal(model) => &mut model.model,
        AnyModel::Reward(model) => &mut model.model,
    }
}

/// Says that evaluation data has documents of more positions than the model is made for.
pub(crate) fn warn_of_evaluation(longest: usize, limit: usize) {
    if longest > limit {
        eprintln!(
            "warning: a document of the evaluation data has {longest} tokens, more than \
             max_position_embeddings of the model, {limit}: it was not made for so many positions"
        );
    }
}

/// Raises the limit of the model beneath an adapter to what the adapter was trained on, as
/// far as the configuration tells.
pub(crate) fn raise_by_keys(config: &Config, model: &mut Decoder) {
    if let Some(trained) = Trained::by_keys(config) {
        model.raise_position_limit(trained.positions);
    }
}

fn longest(samples: &dyn SampleSource) -> usize {
    let lengths = (0..samples.len()).filter_map(|index| samples.length(index));
    lengths.max().unwrap_or(0)
}

pub(crate) fn longest_preference(samples: &Preferences) -> usize {
    let longest = match samples {
        Preferences::Pairs(samples) => samples.iter().map(|sample| sample.len()).max(),
        Preferences::Kto(samples) => samples.iter().map(|sample| sample.len()).max(),
        Preferences::Steps(samples) => samples.iter().map(|sample| sample.len()).max(),
    };
    longest.unwrap_or(0)
}
