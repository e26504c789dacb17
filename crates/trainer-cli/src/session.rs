//! From a configuration file to everything that a run needs.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::Map;
use trainer_config::{Config, Dataset, Examined, Layers, Loaded, SpecialTokens, Task};
use trainer_core::{Adapter, AnyModel, TrainerTokenizer, backend, quantization, unfreeze};
use trainer_data::stream::{SampleStream, StreamCursor, StreamOptions};
use trainer_data::{
    CacheOutcome, ChatTemplate, DataError, Ledger, PreferenceObjective, PreparedData,
    PreparedPreferences, Search, Tokenizer,
};
use trainer_model::{
    CausalLm, LoraAdapter, ModelConfig, Pretrained, RewardModel, RewardTask, has_own_head,
    has_score, has_weights, load_causal_lm, load_reward_model,
};

use crate::args::{Overrides, Shown};
use crate::base::{base_config, own_head};
use crate::failure::Failure;
use crate::folders;
use crate::limits::{self, Trained};
use crate::merge::{Merged, merge};
use crate::vocabulary::{fitted, pad_id, vocabulary_of, vocabulary_rows};

/// Reads a configuration with the layers of this process.
pub(crate) fn examine_layers(file: &Path, overrides: Overrides) -> Examined {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    trainer_config::examine(&Layers {
        file: Some(file.to_path_buf()),
        env,
        cli: overrides,
    })
}

/// Loads a configuration with the layers of this process and prints warnings.
pub(crate) fn load_layers(file: &Path, overrides: Overrides) -> Result<Loaded, Failure> {
    let loaded = examine_layers(file, overrides).into_result()?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

/// The tokenizer of a configuration, with the chat template it names: what is
/// saved beside the model is what the model was trained with.
pub(crate) fn load_tokenizer(config: &Config) -> Result<Tokenizer, Failure> {
    folders::check_tokenizer(config)?;
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
    let objective = PreferenceObjective::of(config).unwrap_or(PreferenceObjective::Pairwise);
    let (prepared, outcome) =
        trainer_data::prepare_preferences_cached(config, tokenizer, objective)?;
    say_damaged(&outcome);
    say_warnings(&prepared.ledger);
    Ok((prepared, outcome))
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
    search: Search,
) -> Result<Option<Found>, DataError> {
    if is_streamed(config) {
        return Ok(None);
    }
    Ok(match PreferenceObjective::of(config) {
        None => trainer_data::find_prepared(config, tokenizer, search)?.map(Found::Samples),
        Some(objective) => {
            trainer_data::find_prepared_preferences(config, tokenizer, objective, search)?
                .map(Found::Preferences)
        }
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
    with_adapter(config, load_base_model(config, tokenizer, device)?)
}

/// A model with the adapter that the configuration asks for.
fn with_adapter<M: Pretrained>(config: &Config, model: M) -> Result<(M, Option<Adapter>), Failure> {
    let (model, adapter) = Adapter::attach(config, model)?;
    let (model, _) = unfreeze(config, model)?;
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
    let model_config = base_config(config, config.model_config.as_ref())?;
    let model = if config.reinit_weights {
        CausalLm::new(&model_config, &device)
    } else {
        let model = load_causal_lm(&config.base_model, &model_config, &device)?;
        if model_config.tie_word_embeddings && !model.config().tie_word_embeddings {
            eprintln!("warning: {}", own_head(config));
        }
        model
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
    let (model, adapter) = with_adapter(config, model)?;
    Ok((model.into(), adapter))
}

/// The head that the objective of a configuration needs, and how many numbers it
/// gives; none for language models.
pub(crate) fn head_of(config: &Config) -> Option<(RewardTask, usize)> {
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
    let model_config = base_config(config, Some(&overrides))?;
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
    folders::check_base(config)?;
    folders::check_adapter(config)?;
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
    // Weights that are not there yet have no head to look at.
    shape.tie_word_embeddings &= !has_own_head(&config.base_model).unwrap_or(false);
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

/// A trained model and its tokenizer, ready to be used.
pub(crate) struct TrainedModel<M = CausalLm> {
    /// Records no gradients.
    pub(crate) model: M,
    pub(crate) tokenizer: Tokenizer,
}

/// What a run has left in `output_dir`.
enum Output {
    Model,
    Adapter,
    Nothing,
}

impl Output {
    fn of(config: &Config) -> Self {
        let folder = &config.output_dir;
        let adapter = folder.join("adapter_config.json").is_file();
        // Where there are both, other runs have written there too.
        if adapter && (config.adapters.adapter.is_some() || !has_weights(folder)) {
            Self::Adapter
        } else if folder.join("config.json").is_file() {
            Self::Model
        } else {
            Self::Nothing
        }
    }
}

/// The folder of the adapter that a configuration has trained, or that it begins with;
/// nothing where there is none.
pub(crate) fn adapter_folder(config: &Config) -> Option<&Path> {
    match Output::of(config) {
        Output::Adapter => Some(&config.output_dir),
        Output::Model => None,
        Output::Nothing => config.adapters.lora_model_dir.as_deref(),
    }
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
        |tokenizer| {
            let mut model = load_base_model(config, tokenizer, device)?;
            limits::raise_by_keys(config, &mut model.model);
            Ok(model)
        },
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

/// As [`load_trained_model`], as one model: an adapter is merged with the weights that it
/// was trained on.
pub(crate) fn load_whole_model(
    config: &Config,
    device: &Device,
    shown: Shown,
) -> Result<TrainedModel, Failure> {
    let Some(folder) = adapter_folder(config) else {
        // Where nothing is trained yet, a new adapter would change nothing.
        let mut whole = config.clone();
        whole.adapters.adapter = None;
        (whole.adapters.load_in_4bit, whole.adapters.load_in_8bit) = (false, false);
        return load_trained_model(&whole, device, shown);
    };
    let tokenizer = load_tokenizer(config)?;
    let model = merged_causal(config, &tokenizer, device, folder)?.model;
    let tokenizer = tokenizer_of(folder, tokenizer)?;
    Ok(TrainedModel { model, tokenizer })
}

/// The tokenizer in the folder of an adapter. One that another program made may have come
/// without.
fn tokenizer_of(folder: &Path, of_base: Tokenizer) -> Result<Tokenizer, Failure> {
    Ok(match folder.join("tokenizer.json").is_file() {
        true => Tokenizer::from_dir(folder, &SpecialTokens::default())?,
        false => of_base,
    })
}

/// The model of a configuration, with the adapter of a folder merged into its weights.
///
/// Factors are added to the weights that quantization was made of, as Axolotl does: nothing
/// is lost to it twice.
pub(crate) fn merged_causal(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
    folder: &Path,
) -> Result<Merged<CausalLm>, Failure> {
    let config = &unquantized(config);
    let mut base = load_base_model(config, tokenizer, device)?;
    Trained::of_finished(config, tokenizer).raise(&mut base.model);
    eprintln!("adapter of {}", folder.display());
    // Nothing is trained: no gradients are recorded.
    merge(base.valid(), folder)
}

/// As [`merged_causal`], with a head for rewards.
pub(crate) fn merged_reward(
    config: &Config,
    tokenizer: &Tokenizer,
    device: &Device,
    folder: &Path,
) -> Result<Merged<RewardModel>, Failure> {
    let config = &unquantized(config);
    let Some((task, labels)) = head_of(config) else {
        return Err(Failure::new("this configuration trains no reward model"));
    };
    let mut base = load_base_reward(config, tokenizer, device, task, labels)?;
    Trained::of_finished(config, tokenizer).raise(&mut base.model);
    eprintln!("adapter of {}", folder.display());
    merge(base.valid(), folder)
}

fn unquantized(config: &Config) -> Config {
    let mut config = config.clone();
    (config.adapters.load_in_4bit, config.adapters.load_in_8bit) = (false, false);
    config
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
    match Output::of(config) {
        Output::Model => {
            shown.note(format!("model of {}", output.display()));
            return Ok(TrainedModel {
                model: load(output)?,
                tokenizer: Tokenizer::from_dir(output, &SpecialTokens::default())?,
            });
        }
        Output::Adapter => {
            shown.note(format!("adapter of {}", output.display()));
            let of_base = load_tokenizer(config)?;
            let base = base(&of_base)?.valid();
            let tokenizer = tokenizer_of(output, of_base)?;
            let (model, adapter) = LoraAdapter::load(base, output)?;
            let norms = adapter.config().use_dora && quantization(config).is_none();
            return Ok(TrainedModel {
                // The norms of DoRA would be taken anew with every token.
                model: if norms { adapter.merged(model) } else { model },
                tokenizer,
            });
        }
        Output::Nothing => {}
    }
    if config.reinit_weights {
        return Err(Failure::new(format!(
            "{} holds no trained model, and `reinit_weights` leaves none to begin with; \
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
        model: with_adapter(config, base(&tokenizer)?)?.0.valid(),
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
pub(crate) struct SavedTokenizer {
    tokenizer: Tokenizer,
    pad_id: u32,
}

impl SavedTokenizer {
    /// For training a model.
    pub(crate) fn new(tokenizer: Tokenizer, model: &AnyModel) -> Self {
        let pad_id = pad_id(&tokenizer, vocabulary_of(model));
        Self { tokenizer, pad_id }
    }
}

impl TrainerTokenizer for SavedTokenizer {
    fn pad_id(&self) -> u32 {
        self.pad_id
    }

    fn end_ids(&self) -> Vec<u32> {
        self.tokenizer.eos_id().into_iter().collect()
    }

    fn decode(&self, ids: &[u32]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.tokenizer.decode(ids, false)?)
    }

    fn save(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.tokenizer.save(folder)?)
    }
}
