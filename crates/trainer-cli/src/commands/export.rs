//! `trainer export` and `trainer import`: models as GGUF files, and back.

use std::collections::HashMap;
use std::io::{Write as _, stdout};
use std::path::Path;

use trainer_data::GgufVocabulary;
use trainer_model::{GgufExport, GgufType, GgufValue, SaveDtype, export_gguf, open_gguf};

use crate::args::{Run, Shown};
use crate::failure::Failure;
use crate::session::{head_of, load_layers, load_whole_model, select_device};

/// Writes the trained model of a configuration.
pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([file, dtype], overrides) = run.flags(["gguf", "dtype"])?;
    let file = file.ok_or_else(|| {
        Failure::new("name the file to write: `trainer export CONFIG --gguf FILE`")
    })?;
    let dtype = dtype.unwrap_or_else(|| "f16".to_owned());
    let known = GgufType::WRITTEN.iter().find(|(name, _)| *name == dtype);
    let Some((_, format)) = known else {
        let names = GgufType::WRITTEN.map(|(name, _)| name).join(", ");
        return Err(Failure::new(format!(
            "--dtype {dtype} is not a format that is written; there are {names}"
        )));
    };
    let config = load_layers(&run.config, overrides)?.config;
    if head_of(&config).is_some() {
        return Err(Failure::new(
            "this configuration trains a model with a head for rewards, which GGUF files do \
             not hold; a folder of it (`trainer merge-lora` where it is an adapter) is what \
             transformers loads",
        ));
    }
    let device = select_device(&config)?.device;
    let trained = load_whole_model(&config, &device, Shown::default())?;
    let vocabulary = trained
        .tokenizer
        .to_gguf(trained.model.config().vocab_size)?;
    let name = config.output_dir.file_name().unwrap_or_default();
    let export = GgufExport {
        name: name.to_string_lossy().into_owned(),
        format: *format,
        tokenizer: metadata(vocabulary),
    };
    for note in export_gguf(&trained.model, &export, Path::new(&file))? {
        eprintln!("note: {note}");
    }
    writeln!(stdout(), "{file}")?;
    Ok(())
}

/// Makes a model folder of a GGUF file.
pub(crate) fn import(file: &Path, folder: &Path, dtype: &str) -> Result<(), Failure> {
    let dtype = match dtype {
        "f32" => SaveDtype::F32,
        "bf16" => SaveDtype::Bf16,
        other => {
            return Err(Failure::new(format!(
                "--dtype {other} is not a format of model folders; there are bf16, f32"
            )));
        }
    };
    if folder.join("config.json").exists() {
        return Err(Failure::new(format!(
            "{} holds a model already; name another folder",
            folder.display()
        )));
    }
    let model = open_gguf(file)?;
    let vocabulary = vocabulary(model.metadata());
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    vocabulary.write(folder, file)?;
    let config = model.config();
    let (kind, layers) = (config.model_type.clone(), config.num_hidden_layers);
    model.write(folder, dtype)?;
    writeln!(stdout(), "{}: {kind}, {layers} layers", folder.display())?;
    Ok(())
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const TEMPLATE: &str = "tokenizer.chat_template";
/// Names of the templates beside that; each stands under the key of [`TEMPLATE`], a
/// dot and its name.
const TEMPLATES: &str = "tokenizer.chat_templates";

fn metadata(vocabulary: GgufVocabulary) -> Vec<(String, GgufValue)> {
    let llama = vocabulary.scores.is_some();
    let id = |id: Option<u32>| id.map(GgufValue::U32);
    let entries = [
        (MODEL, Some(GgufValue::Text(vocabulary.model))),
        (PRE, Some(GgufValue::Text(vocabulary.pre))),
        (TOKENS, Some(GgufValue::Texts(vocabulary.tokens))),
        (SCORES, vocabulary.scores.map(GgufValue::F32s)),
        (TYPES, Some(GgufValue::I32s(vocabulary.types))),
        (
            MERGES,
            (!llama).then_some(GgufValue::Texts(vocabulary.merges)),
        ),
        (BOS, id(vocabulary.bos)),
        (EOS, id(vocabulary.eos)),
        (PADDING, id(vocabulary.pad)),
        (UNKNOWN, id(vocabulary.unk)),
        (ADD_BOS, Some(GgufValue::Bool(vocabulary.add_bos))),
        (ADD_EOS, Some(GgufValue::Bool(vocabulary.add_eos))),
        (
            ADD_SPACE,
            llama.then_some(GgufValue::Bool(vocabulary.add_space_prefix)),
        ),
        (TEMPLATE, vocabulary.chat_template.map(GgufValue::Text)),
    ];
    let present = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let mut all: Vec<(String, GgufValue)> = present.collect();
    if !vocabulary.named_templates.is_empty() {
        let named = vocabulary.named_templates.iter();
        let names = named.map(|(name, _)| name.clone()).collect();
        all.push((TEMPLATES.to_owned(), GgufValue::Texts(names)));
    }
    for (name, template) in vocabulary.named_templates {
        all.push((format!("{TEMPLATE}.{name}"), GgufValue::Text(template)));
    }
    all
}

fn vocabulary(metadata: &HashMap<String, GgufValue>) -> GgufVocabulary {
    let text = |key: &str| {
        metadata
            .get(key)
            .and_then(GgufValue::text)
            .map(str::to_owned)
    };
    let id = |key: &str| {
        let id = metadata.get(key).and_then(GgufValue::size);
        id.and_then(|id| u32::try_from(id).ok())
    };
    let flag = |key: &str| metadata.get(key) == Some(&GgufValue::Bool(true));
    let texts = |key: &str| match metadata.get(key) {
        Some(GgufValue::Texts(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let (model, pre) = (
        text(MODEL).unwrap_or_default(),
        text(PRE).unwrap_or_default(),
    );
    // Where a file does not say, these do so in llama.cpp.
    let opens = model == "llama" || pre == "llama-bpe";
    GgufVocabulary {
        tokens: texts(TOKENS),
        types: match metadata.get(TYPES) {
            Some(GgufValue::I32s(types)) => types.clone(),
            _ => Vec::new(),
        },
        scores: match metadata.get(SCORES) {
            Some(GgufValue::F32s(scores)) => Some(scores.clone()),
            _ => None,
        },
        merges: texts(MERGES),
        bos: id(BOS),
        eos: id(EOS),
        pad: id(PADDING),
        unk: id(UNKNOWN),
        add_bos: flag(ADD_BOS) || (opens && !metadata.contains_key(ADD_BOS)),
        add_eos: flag(ADD_EOS),
        // As llama.cpp reads files that do not say.
        add_space_prefix: !metadata.contains_key(ADD_SPACE) || flag(ADD_SPACE),
        chat_template: text(TEMPLATE),
        model,
        pre,
        named_templates: {
            let mut named: Vec<(String, String)> = metadata
                .iter()
                .filter_map(|(key, value)| {
                    let name = key.strip_prefix(TEMPLATE)?.strip_prefix('.')?;
                    Some((name.to_owned(), value.text()?.to_owned()))
                })
                .collect();
            named.sort_unstable();
            named
        },
    }
}
