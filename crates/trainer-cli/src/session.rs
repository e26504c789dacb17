//! From a configuration file to everything that a run needs.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::Map;
use trainer_config::{Config, Dataset, Layers, Loaded, PromptStrategy, Rl, SpecialTokens, Task};
use trainer_core::{Adapter, AnyModel, TrainerTokenizer, backend, quantization, unfreeze};
use trainer_data::stream::{SampleStream, StreamCursor, StreamOptions};
use trainer_data::{
    CacheOutcome, ChatPrompts, ChatTemplate, DataError, Ledger, PreferenceObjective, PreparedData,
    PreparedPreferences, Tokenizer,
};
use trainer_model::{
    CausalLm, Decoder, LoraAdapter, ModelConfig, NewRows, Pretrained, RewardModel, RewardTask,
    check_new_rows_are_trained, has_score, load_causal_lm, load_reward_model, parameters,
};

use crate::args::{Overrides, Shown};
use crate::failure::Failure;

/// Loads a configuration with the layers of this process and prints warnings.
pub(crate) fn load_layers(file: &Path, overrides: Overrides) -> Result<Loaded, Failure> {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let layers = Layers {
        file: Some(file.to_path_buf()),
        env,
        cli: overrides,
    };
    let loaded = trainer_config::load(&layers)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

/// The tokenizer of a configuration, with the chat template it names: what is
/// saved beside the model is what the model was trained with.
pub(crate) fn load_tokenizer(config: &Config) -> Result<Tokenizer, Failure> {
    let mut tokenizer = Tokenizer::from_config(config)?;
    if config.chat_template.is_some() {
        let template = ChatTemplate::resolve(config, None, &tokenizer)?;
        // Those of the tokenizer stay what they are, under their names.
        if !template.is_of_tokenizer() && tokenizer.chat_template() != Some(template.source()) {
            tokenizer.set_chat_template(template.source());
        }
    }
    Ok(tokenizer)
}

/// The samples of a configuration, and where they come from.
pub(crate) fn load_samples(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(PreparedData, CacheOutcome), Failure> {
    let (prepared, outcome) = trainer_data::prepare_cached(config, tokenizer)?;
    say_damaged(&outcome);
    say_warnings(&prepared.ledger);
    Ok((prepared, outcome))
}

/// What the preparation found that is no error; prepared data keeps it.
fn say_warnings(ledger: &Ledger) {
    for warning in ledger.warnings() {
        eprintln!("warning: {warning}");
    }
}

fn say_damaged(outcome: &CacheOutcome) {
    if let CacheOutcome::Stored {
        entry,
        damaged: Some(reason),
    } = outcome
    {
        eprintln!(
            "warning: the prepared data in {} was damaged and is replaced: {reason}",
            entry.display()
        );
    }
}

/// The samples of a configuration that learns from preferences, and where they come
/// from.
pub(crate) fn load_preferences(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(PreparedPreferences, CacheOutcome), Failure> {
    // Anything else is pairs.
    let objective = preference_objective(config).unwrap_or(PreferenceObjective::Pairwise);
    let (prepared, outcome) =
        trainer_data::prepare_preferences_cached(config, tokenizer, objective)?;
    say_damaged(&outcome);
    say_warnings(&prepared.ledger);
    Ok((prepared, outcome))
}

/// What the samples of a configuration are for; none of supervised fine-tuning.
fn preference_objective(config: &Config) -> Option<PreferenceObjective> {
    Some(match config.preference.task() {
        Task::Sft => return None,
        Task::Rl(Rl::Kto) => PreferenceObjective::Kto,
        Task::Rl(Rl::Orpo) => PreferenceObjective::Orpo,
        Task::Rl(_) => PreferenceObjective::Pairwise,
        Task::RewardModel => PreferenceObjective::RewardModel,
        Task::ProcessRewardModel => PreferenceObjective::ProcessRewardModel,
    })
}

/// Data that was prepared before, of one kind or the other.
pub(crate) enum Found {
    Samples(PreparedData),
    Preferences(PreparedPreferences),
}

/// The data that was prepared for a configuration before, if it was.
pub(crate) fn find_prepared(
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<Option<Found>, DataError> {
    if is_streamed(config) {
        return Ok(None);
    }
    Ok(match preference_objective(config) {
        None => trainer_data::find_prepared(config, tokenizer)?.map(Found::Samples),
        Some(objective) => trainer_data::find_prepared_preferences(config, tokenizer, objective)?
            .map(Found::Preferences),
    })
}

/// A configuration that prepares `tests` as training data is prepared elsewhere:
/// evaluation data is finite.
pub(crate) fn test_config(config: &Config, tests: &[Dataset]) -> Config {
    Config {
        datasets: tests.to_vec(),
        test_datasets: None,
        pretraining_dataset: None,
        streaming: false,
        val_set_size: 0.0,
        sequence_len: config.eval_sequence_len.unwrap_or(config.sequence_len),
        shuffle_merged_datasets: false,
        ..config.clone()
    }
}

/// Whether the training data is read while training.
pub(crate) fn is_streamed(config: &Config) -> bool {
    config.streaming || config.pretraining_dataset.is_some()
}

/// The training data as a stream, from its beginning or from a cursor.
pub(crate) fn open_stream(
    config: &Config,
    cursor: Option<StreamCursor>,
) -> Result<SampleStream, Failure> {
    // The stream tokenizes in a thread of its own.
    let tokenizer = Arc::new(load_tokenizer(config)?);
    let options = StreamOptions::new(config);
    Ok(match cursor {
        Some(cursor) => SampleStream::resume(config, tokenizer, options, cursor)?,
        None => SampleStream::start(config, tokenizer, options)?,
    })
}

/// Prints why prepared data is used, or is not.
pub(crate) fn explain(config: &Config, tokenizer: &Tokenizer) -> Result<(), Failure> {
    eprint!("{}", trainer_data::explain_cache(config, tokenizer)?);
    Ok(())
}

/// The model of a configuration on `device`, recording gradients, and the adapter
/// that it carries, if any.
pub(crate) fn load_model(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<(CausalLm, Option<Adapter>), Failure> {
    with_adapter(
        config,
        tokenizer,
        load_base_model(config, tokenizer, device)?,
    )
}

/// A model with the adapter that the configuration asks for.
fn with_adapter<M: Pretrained>(
    config: &Config,
    tokenizer: &Tokenizer,
    model: M,
) -> Result<(M, Option<Adapter>), Failure> {
    let (model, adapter) = Adapter::attach(config, model)?;
    // Padding needs no meaning.
    let padding = config.special_tokens.pad_token.as_ref();
    let new = tokenizer.new_tokens().iter();
    let new = new.filter(|(text, _)| Some(text) != padding);
    let new: Vec<u32> = new.map(|(_, id)| *id).collect();
    let (model, rows) = unfreeze(config, model)?;
    check_new_rows_are_trained(&new, &parameters(&model), &rows)?;
    Ok((model, adapter))
}

/// The model that a configuration starts from, with a row for every token.
pub(crate) fn load_base_model(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<CausalLm, Failure> {
    let device = device.clone().autodiff();
    device.seed(config.seed);
    let overrides = config.model_config.as_ref();
    let mut model_config = ModelConfig::from_folder(&config.base_model, overrides)?;
    model_config.quantization = quantization(config);
    let model = if config.reinit_weights {
        CausalLm::new(&model_config, &device)
    } else {
        load_causal_lm(&config.base_model, &model_config, &device)?
    };
    fitted(config, tokenizer, model)
}

/// The model that the objective of a configuration trains, as [`load_model`] gives
/// it.
pub(crate) fn load_for_training(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<(AnyModel, Option<Adapter>), Failure> {
    let Some((task, labels)) = head_of(config) else {
        let (model, adapter) = load_model(config, tokenizer, device)?;
        return Ok((model.into(), adapter));
    };
    let model = load_base_reward(config, tokenizer, device, task, labels)?;
    let (model, adapter) = with_adapter(config, tokenizer, model)?;
    Ok((model.into(), adapter))
}

/// The head that the objective of a configuration needs, and how many numbers it
/// gives; none for language models.
fn head_of(config: &Config) -> Option<(RewardTask, usize)> {
    match config.preference.task() {
        Task::RewardModel => Some((RewardTask::Sequence, 1)),
        Task::ProcessRewardModel => Some((RewardTask::Token, 2)),
        Task::Sft | Task::Rl(_) => None,
    }
}

/// As [`load_base_model`], with a head for rewards.
fn load_base_reward(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
    task: RewardTask,
    labels: usize,
) -> Result<RewardModel, Failure> {
    let device = device.clone().autodiff();
    device.seed(config.seed);
    let mut overrides = config.model_config.clone().unwrap_or_default();
    overrides.insert("num_labels".to_owned(), labels.into());
    let folder = &config.base_model;
    let mut model_config = ModelConfig::from_folder(folder, Some(&overrides))?;
    model_config.quantization = quantization(config);
    let model = if config.reinit_weights {
        RewardModel::new(&model_config, task, &device)
    } else {
        if !has_score(folder)? {
            eprintln!(
                "{} has no head for rewards: a new one is drawn from `seed`",
                folder.display()
            );
        }
        load_reward_model(folder, &model_config, task, &device)?
    };
    fitted(config, tokenizer, model)
}

/// What [`load_for_training`] gives, without the values of its weights: shapes alone
/// take neither memory nor time.
pub(crate) fn shapes_for_training(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<(AnyModel, Option<Adapter>), Failure> {
    let device = device.clone().autodiff();
    let mut config = config.clone();
    if config.adapters.lora_model_dir.is_none() {
        // These look at the values of the weights, and change no size that matters.
        config.adapters.peft_init_lora_weights = None;
        config.adapters.peft_use_dora = false;
    }
    let config = &config;
    let mut shape = ModelConfig::from_folder(&config.base_model, config.model_config.as_ref())?;
    shape.vocab_size = vocabulary_rows(config, tokenizer, shape.vocab_size);
    let Some((task, labels)) = head_of(config) else {
        let (model, adapter) = Adapter::attach(config, CausalLm::new(&shape, &device))?;
        return Ok((model.into(), adapter));
    };
    shape.num_labels = labels;
    let (model, adapter) = Adapter::attach(config, RewardModel::new(&shape, task, &device))?;
    Ok((model.into(), adapter))
}

/// Whether a second model is the reference of a configuration.
pub(crate) fn has_second_model(config: &Config) -> bool {
    let keys = &config.preference;
    // A new adapter changes nothing: without it, the model is its own reference.
    let beneath = config.adapters.adapter.is_some() && config.adapters.lora_model_dir.is_none();
    keys.precompute_ref_log_probs == Some(false) && !beneath && keys.task().has_reference()
}

/// The reference model of a configuration that asks for a second one.
pub(crate) fn load_reference(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
) -> Result<Option<CausalLm>, Failure> {
    if !has_second_model(config) {
        return Ok(None);
    }
    Ok(Some(load_model(config, tokenizer, device)?.0.valid()))
}

/// A model with a row for every token, and all weights drawn.
fn fitted<M: Vocabulary>(config: &Config, tokenizer: &Tokenizer, model: M) -> Result<M, Failure> {
    let model = fit_vocabulary(config, tokenizer, model)?;
    // Random weights are drawn now and in order, so that the seed decides each.
    Ok(model.materialize())
}

/// A model whose vocabulary can grow.
trait Vocabulary: Module {
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
fn vocabulary_rows(config: &Config, tokenizer: &Tokenizer, old: usize) -> usize {
    let keys = &config.vocabulary;
    let mut rows = tokenizer.vocab_size();
    if keys.resize_token_embeddings_to_32x {
        rows = rows.next_multiple_of(32);
    }
    // A token that nobody asked for is in no data: an adapter need not train it.
    let unneeded = tokenizer.new_tokens_are_implied() && config.adapters.adapter.is_some();
    let wanted =
        !(tokenizer.new_tokens().is_empty() || unneeded) || keys.resize_token_embeddings_to_32x;
    match (rows > old && wanted) || (rows < old && keys.shrink_embeddings) {
        true => rows,
        false => old,
    }
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
    if config.datasets.iter().any(chats) {
        // So that other programs end an answer where it was trained to end.
        model
            .decoder()
            .add_end_tokens(ChatPrompts::new(config, tokenizer)?.stop_ids());
    }
    Ok(model)
}

/// A trained model and its tokenizer, ready to be used.
pub(crate) struct TrainedModel<M = CausalLm> {
    /// Records no gradients.
    pub(crate) model: M,
    pub(crate) tokenizer: Tokenizer,
}

/// The language model that a configuration has trained, from `output_dir`; the base
/// model where there is none yet. Says which, unless `shown` is quiet.
pub(crate) fn load_trained_model(
    config: &Config,
    device: &Device,
    shown: Shown,
) -> Result<TrainedModel, Failure> {
    load_output(
        config,
        shown,
        |folder| {
            let model_config = ModelConfig::from_folder(folder, None)?;
            Ok(load_causal_lm(folder, &model_config, device)?)
        },
        |tokenizer| load_base_model(config, tokenizer, device),
    )
}

/// As [`load_trained_model`], of the kind that the objective trains.
pub(crate) fn load_trained_any(
    config: &Config,
    device: &Device,
    shown: Shown,
) -> Result<TrainedModel<AnyModel>, Failure> {
    let Some((task, labels)) = head_of(config) else {
        let trained = load_trained_model(config, device, shown)?;
        return Ok(TrainedModel {
            model: trained.model.into(),
            tokenizer: trained.tokenizer,
        });
    };
    let trained = load_output(
        config,
        shown,
        |folder| {
            let overrides = Map::from_iter([("num_labels".to_owned(), labels.into())]);
            let model_config = ModelConfig::from_folder(folder, Some(&overrides))?;
            Ok(load_reward_model(folder, &model_config, task, device)?)
        },
        |tokenizer| load_base_reward(config, tokenizer, device, task, labels),
    )?;
    Ok(TrainedModel {
        model: trained.model.into(),
        tokenizer: trained.tokenizer,
    })
}

/// What is in `output_dir`: a whole model, by `load`, or an adapter on that of
/// `base`; else that of `base` alone.
fn load_output<M: Pretrained>(
    config: &Config,
    shown: Shown,
    load: impl FnOnce(&Path) -> Result<M, Failure>,
    base: impl FnOnce(&Tokenizer) -> Result<M, Failure>,
) -> Result<TrainedModel<M>, Failure> {
    let output = &config.output_dir;
    if output.join("config.json").is_file() {
        shown.note(format!("model of {}", output.display()));
        return Ok(TrainedModel {
            model: load(output)?,
            tokenizer: Tokenizer::from_dir(output, &SpecialTokens::default())?,
        });
    }
    if output.join("adapter_config.json").is_file() {
        shown.note(format!("adapter of {}", output.display()));
        let of_base = load_tokenizer(config)?;
        let base = base(&of_base)?.valid();
        // One that another program made may have come without.
        let tokenizer = match output.join("tokenizer.json").is_file() {
            true => Tokenizer::from_dir(output, &SpecialTokens::default())?,
            false => of_base,
        };
        let (model, adapter) = LoraAdapter::load(base, output)?;
        let norms = adapter.config().use_dora && quantization(config).is_none();
        return Ok(TrainedModel {
            // The norms of DoRA would be taken anew with every token.
            model: if norms { adapter.merged(model) } else { model },
            tokenizer,
        });
    }
    if config.reinit_weights {
        return Err(Failure::new(format!(
            "error: {} holds no trained model, and `reinit_weights` leaves none to begin with; \
             train it first",
            output.display()
        )));
    }
    shown.note(format!(
        "nothing is trained in {} yet: model of {}",
        output.display(),
        config.base_model.display()
    ));
    let tokenizer = load_tokenizer(config)?;
    // With an adapter that training would begin with, if there is one.
    Ok(TrainedModel {
        model: with_adapter(config, &tokenizer, base(&tokenizer)?)?
            .0
            .valid(),
        tokenizer,
    })
}

/// A working device that has what the configuration asks for.
pub(crate) fn select_device(config: &Config) -> Result<backend::Selected, Failure> {
    let selected = backend::select(config.backend)?;
    backend::compute_format(config, &selected.device)?;
    Ok(selected)
}

/// The tokenizer as the trainer uses it.
pub(crate) struct SavedTokenizer(pub(crate) Tokenizer);

impl TrainerTokenizer for SavedTokenizer {
    fn pad_id(&self) -> u32 {
        self.0.pad_id().unwrap_or(0)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.decode(ids, false)?)
    }

    fn save(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.save(folder)?)
    }
}
