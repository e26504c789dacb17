//! From the tokens of a tokenizer to the rows of a model: new tokens get theirs, and
//! those that no training reaches are told apart from those that the data has.

use std::collections::BTreeMap;

use burn::module::Module;
use seqprep::{Preferences, SampleSource};
use trainer_config::{Config, Dataset, PromptStrategy};
use trainer_core::{AnyModel, EvalData, TrainData, unfreeze};
use trainer_data::{ChatPrompts, Tokenizer};
use trainer_model::{
    CausalLm, Decoder, LoraConfig, NewRows, RewardModel, parameters, untrained_rows,
};

use crate::failure::Failure;
use crate::session::head_of;

/// A model with a row for every token, and all weights drawn.
pub(crate) fn fitted<M: Vocabulary>(
    config: &Config,
    tokenizer: &Tokenizer,
    model: M,
) -> Result<M, Failure> {
    let model = fit_vocabulary(config, tokenizer, model)?;
    // Random weights are drawn now and in order, so that the seed decides each.
    Ok(model.materialize())
}

/// A model whose vocabulary can grow.
pub(crate) trait Vocabulary: Module {
    fn decoder(&mut self) -> &mut Decoder;

    fn resized(self, rows: usize, new: NewRows) -> Self;
}

impl Vocabulary for CausalLm {
    fn decoder(&mut self) -> &mut Decoder {
        &mut self.model
    }

    fn resized(self, rows: usize, new: NewRows) -> Self {
        self.resize_vocabulary(rows, new)
    }
}

impl Vocabulary for RewardModel {
    fn decoder(&mut self) -> &mut Decoder {
        &mut self.model
    }

    fn resized(self, rows: usize, new: NewRows) -> Self {
        self.resize_vocabulary(rows, new)
    }
}

/// Rows that the vocabulary of a model of `old` rows will have.
pub(crate) fn vocabulary_rows(config: &Config, tokenizer: &Tokenizer, old: usize) -> usize {
    let keys = &config.vocabulary;
    let mut rows = tokenizer.vocab_size();
    if keys.resize_token_embeddings_to_32x {
        rows = rows.next_multiple_of(32);
    }
    // A token that nobody asked for needs no row that an adapter would not train.
    let unneeded = tokenizer.new_tokens_are_implied()
        && config.adapters.adapter.is_some()
        && !saves_embedding(config);
    let wanted =
        !(tokenizer.new_tokens().is_empty() || unneeded) || keys.resize_token_embeddings_to_32x;
    match (rows > old && wanted) || (rows < old && keys.shrink_embeddings) {
        true => rows,
        false => old,
    }
}

/// Whether an adapter trains the embedding as a whole.
fn saves_embedding(config: &Config) -> bool {
    let keys = &config.adapters;
    let of_folder = || {
        let folder = keys.lora_model_dir.as_ref()?;
        // What is wrong with it is said when it is loaded.
        Some(LoraConfig::from_folder(folder).ok()?.modules_to_save)
    };
    let saved = keys.lora_modules_to_save.clone().or_else(of_folder);
    let embedding = |module: &String| module.ends_with("embed_tokens");
    saved.is_some_and(|modules| modules.iter().any(embedding))
}

/// Gives new tokens their rows, and the model's files the ids of the special
/// tokens that the configuration names.
fn fit_vocabulary<M: Vocabulary>(
    config: &Config,
    tokenizer: &Tokenizer,
    mut model: M,
) -> Result<M, Failure> {
    let keys = &config.vocabulary;
    let old = model.decoder().config().vocab_size;
    let rows = vocabulary_rows(config, tokenizer, old);
    if rows != old {
        let new = match keys.mean_resizing_embeddings && !config.reinit_weights {
            true => NewRows::Mean,
            false => NewRows::Random,
        };
        model = model.resized(rows, new);
        eprintln!("the vocabulary has {rows} rows, {old} in the base model");
    }
    let named = &config.special_tokens;
    for (role, token, id) in [
        ("bos_token_id", &named.bos_token, tokenizer.bos_id()),
        ("eos_token_id", &named.eos_token, tokenizer.eos_id()),
        ("pad_token_id", &named.pad_token, tokenizer.pad_id()),
    ] {
        if let (Some(_), Some(id)) = (token, id) {
            model.decoder().set_token_id(role, id);
        }
    }
    let chats = |dataset: &Dataset| {
        dataset
            .strategy
            .as_ref()
            .is_some_and(PromptStrategy::is_chat)
    };
    if config.datasets.iter().any(chats) && head_of(config).is_none() {
        // So that other programs end an answer where it was trained to end.
        model
            .decoder()
            .add_end_tokens(ChatPrompts::new(config, tokenizer)?.stop_ids());
    }
    Ok(model)
}

/// Rows of the vocabulary of a model.
pub(crate) fn vocabulary_of(model: &AnyModel) -> usize {
    match model {
        AnyModel::Causal(model) => model.config().vocab_size,
        AnyModel::Reward(model) => model.config().vocab_size,
    }
}

/// The token that rows are filled up with, one that a model of `rows` has. Which it is
/// changes nothing: it is never a target nor attended to.
pub(crate) fn pad_id(tokenizer: &Tokenizer, rows: usize) -> u32 {
    let own = tokenizer.pad_id();
    own.filter(|id| (*id as usize) < rows).unwrap_or(0)
}

/// New tokens whose rows training leaves as they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct UntrainedTokens {
    /// By id: the text, and the parts of the model where the row is left as it is.
    tokens: BTreeMap<u32, (String, Vec<&'static str>)>,
    /// The one that pads, which needs no meaning.
    padding: Option<u32>,
}

impl UntrainedTokens {
    /// Those of a model that is to be trained.
    pub(crate) fn of(
        config: &Config,
        tokenizer: &Tokenizer,
        model: &AnyModel,
    ) -> Result<Self, Failure> {
        let new = tokenizer.new_tokens();
        let ids: Vec<u32> = new.iter().map(|(_, id)| *id).collect();
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let parts = match model {
            AnyModel::Causal(model) => {
                let (model, rows) = unfreeze(config, model.clone())?;
                untrained_rows(&ids, &parameters(&model), &rows)
            }
            AnyModel::Reward(model) => {
                let (model, rows) = unfreeze(config, model.clone())?;
                untrained_rows(&ids, &parameters(&model), &rows)
            }
        };
        let mut tokens: BTreeMap<u32, (String, Vec<&'static str>)> = BTreeMap::new();
        for part in parts {
            for id in part.ids {
                let text = new.iter().find(|(_, other)| *other == id);
                let text = text.map_or_else(String::new, |(text, _)| text.clone());
                tokens
                    .entry(id)
                    .or_insert((text, Vec::new()))
                    .1
                    .push(part.part);
            }
        }
        Ok(Self {
            tokens,
            padding: tokenizer.pad_id(),
        })
    }

    /// Checks data that is there as a whole, and says which tokens need no training since
    /// it does not have them.
    pub(crate) fn check(&self, train: &TrainData, eval: &EvalData) -> Result<(), Failure> {
        self.find(train, eval).map_err(Failure::new)
    }

    fn find(&self, train: &TrainData, eval: &EvalData) -> Result<(), String> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        let streamed = match train {
            TrainData::Samples(samples) => {
                self.check_samples("training", samples.as_ref())?;
                false
            }
            TrainData::Preferences(samples) => {
                self.check_preferences("training", samples)?;
                false
            }
            TrainData::Stream(_) => true,
        };
        match eval {
            EvalData::Samples(samples) => self.check_samples("evaluation", samples.as_ref())?,
            EvalData::Preferences(samples) => self.check_preferences("evaluation", samples)?,
        }
        if !streamed {
            for (id, (text, parts)) in &self.tokens {
                if self.padding != Some(*id) {
                    eprintln!(
                        "warning: nothing trains the row of the new token \"{text}\" in {}; no row \
                         of the data has the token",
                        parts.join(" and ")
                    );
                }
            }
        }
        Ok(())
    }

    /// Checks the ids of one sample of the `what` data.
    ///
    /// # Errors
    /// The message for a token that nothing trains.
    pub(crate) fn check_ids(&self, what: &str, ids: &[u32]) -> Result<(), String> {
        let used = ids.iter().find_map(|id| Some((id, self.tokens.get(id)?)));
        let Some((id, (text, parts))) = used else {
            return Ok(());
        };
        let parts = parts.join(" and ");
        Err(format!(
            "the {what} data has the token \"{text}\" ({id}), which is new to the model, and \
             nothing trains its row in {parts}: it would never mean anything; add {parts} to \
             `lora_modules_to_save` (without an adapter, to `unfrozen_parameters`), or write the data \
             with tokens that the model has"
        ))
    }

    fn check_samples(&self, what: &str, samples: &dyn SampleSource) -> Result<(), String> {
        let (first, largest) = (self.tokens.keys().next(), samples.largest_id());
        if largest.is_some_and(|largest| first.is_none_or(|first| largest < *first)) {
            return Ok(());
        }
        for index in 0..samples.len() {
            let sample = samples.sample(index);
            let sample =
                sample.map_err(|error| format!("sample {index} of the {what} data: {error}"))?;
            self.check_ids(what, &sample.input_ids)?;
        }
        Ok(())
    }

    fn check_preferences(&self, what: &str, samples: &Preferences) -> Result<(), String> {
        let check = |ids: &[u32]| self.check_ids(what, ids);
        match samples {
            Preferences::Pairs(pairs) => pairs.iter().try_for_each(|pair| {
                check(&pair.prompt)?;
                check(&pair.chosen)?;
                check(&pair.rejected)
            }),
            Preferences::Kto(samples) => samples.iter().try_for_each(|sample| {
                check(&sample.prompt)?;
                check(&sample.completion)
            }),
            Preferences::Steps(samples) => samples
                .iter()
                .try_for_each(|sample| check(&sample.input_ids)),
        }
    }
}
