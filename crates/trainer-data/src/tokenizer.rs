//! A tokenizer folder in Hugging Face's layout.
//!
//! Read: `tokenizer.json` (the tokenizer), `tokenizer_config.json` and
//! `special_tokens_map.json` (which tokens play which part; the first wins),
//! `chat_template.jinja` and `additional_chat_templates`, or else `chat_template` in
//! the configuration, which may be several templates by name.
//!
//! Invariants: offsets are bytes of the text as given, whitespace included;
//! truncation and padding stored in the file are ignored, both belong to the
//! data path; a special token that is named exists in the vocabulary.

mod around;
mod escape;
mod fast;
mod files;
mod gguf;
mod probes;
mod stream;
mod vocabulary;
mod words;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tokenizers::PostProcessorWrapper;
use trainer_config::{Config, SpecialTokens};

use crate::DataError;
use crate::error::nearest;
use crate::template::DEFAULT_NAME;
use around::Around;
use fast::Fast;
use files::{Files, json_bytes, json_value, object_bytes, write, write_object};
pub use gguf::GgufVocabulary;
pub use stream::TextStream;
use vocabulary::{Changed, Changes, QWEN2_TOKEN, implied};

const MODEL: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const ADDED: &str = "added_tokens.json";
const MODEL_CONFIG: &str = "config.json";

/// The parts that special tokens play, and the variables of chat templates.
const ROLES: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// A text as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The bytes of the text that each token stands for. Tokens that share a
    /// character of several bytes all cover the whole of it.
    pub offsets: Vec<Range<usize>>,
}

/// A tokenizer, its special tokens and its chat template.
#[derive(Debug)]
pub struct Tokenizer {
    /// Those that are saved as they are here: as they were read, but for the
    /// vocabulary where that is not the folder's.
    files: Files,
    /// Hash and size of the folder's files that decide on tokens.
    contents: Vec<(&'static str, String)>,
    inner: tokenizers::Tokenizer,
    /// Gives the same tokens as `inner` in less time, where there is such a way.
    fast: Option<Fast>,
    vocab_size: usize,
    config: Map<String, Value>,
    special: Option<Map<String, Value>>,
    /// Tokens that the folder's vocabulary lacks.
    new_tokens: Vec<(String, u32)>,
    /// What it puts around every sequence.
    around: Around,
    /// Whether special tokens play a part that nothing but the family gives them.
    implied: bool,
    /// Text and id of each of `ROLES`.
    tokens: [Option<(String, u32)>; 4],
    overrides: Map<String, Value>,
    /// Names and texts.
    chat_templates: Vec<(String, String)>,
    /// Whether the template is another one than the folder's.
    new_template: bool,
    /// `inner` with a token that divides texts, and the id of that token; made
    /// when it is first needed.
    splitting: OnceLock<Option<(tokenizers::Tokenizer, u32)>>,
}

impl Tokenizer {
    /// Loads a folder; `special_tokens` take the place of the folder's own, and
    /// are added to the vocabulary where it lacks them. Where there is a configuration,
    /// [`Tokenizer::from_config`] is the one to use: this one knows nothing of its
    /// `tokens` and `added_tokens_overrides`.
    ///
    /// # Errors
    /// A missing or malformed file.
    pub fn from_dir(
        folder: impl AsRef<Path>,
        special_tokens: &SpecialTokens,
    ) -> Result<Self, DataError> {
        let changes = Changes {
            special: special_tokens,
            tokens: &[],
            overrides: &BTreeMap::new(),
        };
        Self::load(folder.as_ref(), changes)
    }

    /// The tokenizer that a configuration names, with its special tokens, its
    /// `tokens` and `added_tokens_overrides`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`]; a token that cannot be overridden.
    pub fn from_config(config: &Config) -> Result<Self, DataError> {
        let folder = config
            .tokenizer_config
            .as_ref()
            .unwrap_or(&config.base_model);
        let changes = Changes {
            special: &config.special_tokens,
            tokens: &config.vocabulary.tokens,
            overrides: &config.vocabulary.added_tokens_overrides,
        };
        Self::load(folder, changes)
    }

    fn load(folder: &Path, changes: Changes<'_>) -> Result<Self, DataError> {
        if folder.is_file() {
            return Err(DataError::Tokenizer {
                path: folder.to_owned(),
                message: "this is a file; name the folder that holds tokenizer.json".to_owned(),
            });
        }
        if !folder.is_dir() {
            return Err(DataError::Missing {
                what: "tokenizer folder",
                path: folder.to_owned(),
                hint: match crate::source::is_hub_id(folder) {
                    true => format!(
                        "; it reads like a model of the Hugging Face hub, which is not downloaded: `base_model` and `tokenizer_config` are folders here. Get one with `hf download {0} --local-dir {1}` and name {1}",
                        folder.display(),
                        folder.file_name().unwrap_or_default().display()
                    ),
                    false => nearest(folder),
                },
            });
        }
        let path = folder.join(MODEL);
        let mut files = Files::read(folder)?;
        let bytes = files.get(MODEL).ok_or_else(|| DataError::Tokenizer {
            path: folder.to_owned(),
            message: if files.get("tokenizer.model").is_some() {
                "there is a tokenizer.model (SentencePiece) but no tokenizer.json; save the tokenizer with a recent transformers to get one".to_owned()
            } else {
                "there is no tokenizer.json".to_owned()
            },
        })?;
        let parse = |bytes: &[u8]| {
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| DataError::Tokenizer {
                path: path.clone(),
                message: error.to_string(),
            })
        };
        let mut inner = parse(bytes)?;
        let mut config = files.object(CONFIG)?.unwrap_or_default();
        let mut special = files.object(SPECIAL)?;
        let model = files::read(&folder.join(MODEL_CONFIG))?
            .map(|bytes| files::object(&folder.join(MODEL_CONFIG), &bytes))
            .transpose()?;
        let contents = files.contents();
        let mut new_tokens = Vec::new();
        let declared = vocabulary::declared(&inner, &config, files.object(ADDED)?.as_ref());
        if !declared.is_empty() {
            let mut json = json_value(&path, bytes)?;
            let new = vocabulary::declare(&mut json, declared, &inner, folder)?;
            let bytes = json_bytes(&path, &json)?;
            inner = parse(&bytes)?;
            files.replace(MODEL, bytes);
            // The model may have rows for them.
            let rows = model.as_ref().and_then(|model| model.get("vocab_size"));
            let rows = rows.and_then(Value::as_u64).unwrap_or(0);
            new_tokens.extend(new.into_iter().filter(|(_, id)| u64::from(*id) >= rows));
        }
        let bytes = files.get(MODEL).unwrap_or_default();
        let own = implied(changes.special, model.as_ref(), &config, special.as_ref());
        let changes = Changes {
            special: own.as_ref().unwrap_or(changes.special),
            ..changes
        };
        if changes.any(|text| inner.token_to_id(text)) {
            let json = vocabulary::Files {
                model: json_value(&path, bytes)?,
                config: &mut config,
                special: special.as_mut(),
                folder,
            };
            let id_of = |text: &str| inner.token_to_id(text);
            let size = inner.get_vocab_size(false);
            if let Some(Changed { model, new }) = vocabulary::apply(json, changes, id_of, size)? {
                let bytes = json_bytes(&path, &model)?;
                inner = parse(&bytes)?;
                files.replace(MODEL, bytes);
                if let Some(old) = files.object(ADDED)? {
                    let listed = relisted(old, &new, changes.overrides);
                    files.replace(ADDED, object_bytes(&folder.join(ADDED), &listed)?);
                }
                new_tokens.extend(new);
            }
        }
        inner.with_padding(None);
        let untruncated = inner.with_truncation(None).map(|_| ());
        untruncated.map_err(|error| encode_error(&*error))?;
        keep_whitespace_offsets(&mut inner);

        let mut chat_templates = files.templates()?;
        if chat_templates.is_empty() {
            chat_templates = templates_of(config.get("chat_template")).map_err(|message| {
                let path = folder.join(CONFIG);
                DataError::Tokenizer { path, message }
            })?;
        }
        // Both are kept as objects, to which `save` adds.
        files.remove(CONFIG);
        files.remove(SPECIAL);

        let mut overrides = Map::new();
        let mut tokens = [None, None, None, None];
        for ((slot, role), chosen) in tokens.iter_mut().zip(ROLES).zip(changes.roles()) {
            if let Some(token) = chosen
                && let Some(id) = inner.token_to_id(token)
            {
                overrides.insert(role.to_owned(), Value::from(token));
                *slot = Some((token.to_owned(), id));
                continue;
            }
            let named = config
                .get(role)
                .and_then(token_text)
                .or_else(|| special.as_ref()?.get(role).and_then(token_text));
            // A token that the folder names but the vocabulary lacks plays no part.
            *slot = named.and_then(|token| Some((token.to_owned(), inner.token_to_id(token)?)));
        }
        let vocab_size = inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1);
        Ok(Self {
            files,
            contents,
            fast: Fast::new(&inner),
            around: Around::of(&inner),
            inner,
            vocab_size,
            config,
            special,
            new_tokens,
            implied: own.is_some(),
            tokens,
            overrides,
            chat_templates,
            new_template: false,
            splitting: OnceLock::new(),
        })
    }

    /// The ids of a text; with `add_special_tokens`, whatever the tokenizer
    /// puts around every sequence is included.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, DataError> {
        if let Some(encoded) = self.encode_here(text, add_special_tokens, false) {
            return Ok(encoded.ids);
        }
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding
            .map_err(|error| encode_error(&*error))?
            .get_ids()
            .to_vec())
    }

    /// As [`Tokenizer::encode`], with the bytes of the text that each token
    /// stands for (none for tokens that the tokenizer adds).
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn encode_with_offsets(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Encoded, DataError> {
        if let Some(encoded) = self.encode_here(text, add_special_tokens, true) {
            return Ok(encoded);
        }
        let encoding = self
            .inner
            .encode(text, add_special_tokens)
            .map_err(|error| encode_error(&*error))?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().iter().map(|(a, b)| *a..*b).collect(),
        })
    }

    /// Whether most texts take the fast path of byte-level BPE, which is used
    /// where its tokens were found to be those of the tokenizers library for a
    /// built-in corpus of probes.
    #[must_use]
    pub fn has_fast_path(&self) -> bool {
        self.fast.is_some()
    }

    fn encode_here(&self, text: &str, special: bool, offsets: bool) -> Option<Encoded> {
        let fast = self.fast.as_ref()?;
        fast.encode(self.inner.get_model(), text, special, offsets)
    }

    /// The text of ids; unknown ids are left out.
    ///
    /// # Errors
    /// [`DataError::Encode`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DataError> {
        let text = self.inner.decode(ids, skip_special_tokens);
        text.map_err(|error| encode_error(&*error))
    }

    /// Id of the token that opens a sequence: the one that the files name, else the one
    /// that the tokenizer puts in front of every sequence.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.id(0).or_else(|| self.opening().first().copied())
    }

    /// Id of the token that ends a sequence.
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.id(1)
    }

    /// Id of the padding token; the end of a sequence stands in where there is
    /// none, which is safe as padding is never a target nor attended to.
    #[must_use]
    pub fn pad_id(&self) -> Option<u32> {
        self.id(2).or_else(|| self.eos_id())
    }

    /// Id of a token by its text in the vocabulary.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether an id is a special token, one that no ordinary text becomes.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|token| token.special)
    }

    /// The largest id plus one, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Texts and ids of the tokens that were added to the folder's vocabulary.
    #[must_use]
    pub fn new_tokens(&self) -> &[(String, u32)] {
        &self.new_tokens
    }

    /// Whether all of [`new_tokens`](Self::new_tokens) are there because of the
    /// model's family alone, and none was asked for.
    #[must_use]
    pub fn new_tokens_are_implied(&self) -> bool {
        let mut texts = self.new_tokens.iter().map(|(text, _)| text);
        self.implied && texts.all(|text| text == QWEN2_TOKEN)
    }

    /// Whether the model's family gives special tokens parts that no file names.
    pub(crate) fn is_implied(&self) -> bool {
        self.implied
    }

    /// The tokenizer's own chat template: of several, the one named `default`.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.named_chat_template(DEFAULT_NAME)
    }

    /// The chat template of a name, such as `tool_use`.
    #[must_use]
    pub fn named_chat_template(&self, name: &str) -> Option<&str> {
        let mut templates = self.chat_templates();
        templates
            .find(|(other, _)| *other == name)
            .map(|(_, source)| source)
    }

    /// Names and texts of the tokenizer's chat templates.
    pub fn chat_templates(&self) -> impl Iterator<Item = (&str, &str)> {
        let templates = self.chat_templates.iter();
        templates.map(|(name, source)| (name.as_str(), source.as_str()))
    }

    /// Sets the chat template, which [`Tokenizer::save`] then writes in place of those
    /// that were there.
    pub fn set_chat_template(&mut self, source: impl Into<String>) {
        self.chat_templates = vec![(DEFAULT_NAME.to_owned(), source.into())];
        self.files.remove_templates();
        self.new_template = true;
    }

    /// The folder it was loaded from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.files.folder()
    }

    /// The files that decide on tokens, each by name with hash and size, as they
    /// were when they were loaded.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (&str, &str)> {
        let contents = self.contents.iter();
        contents.map(|(name, content)| (*name, content.as_str()))
    }

    /// Part and text of the special tokens: (`bos_token`, `<s>`), ...
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        ROLES
            .into_iter()
            .zip(&self.tokens)
            .filter_map(|(role, token)| Some((role, token.as_ref()?.0.as_str())))
    }

    /// Writes the tokenizer's files into a folder, which exists, so that
    /// transformers loads them from there: the originals as they were when they
    /// were loaded, with the special tokens and the chat template that were set here.
    /// Files of a tokenizer that was saved there before and that this one lacks are
    /// removed.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), DataError> {
        let folder = folder.as_ref();
        self.files.write(folder)?;
        let mut config = self.config.clone();
        config.extend(self.overrides.clone());
        if let (Some(template), true) = (self.chat_template(), self.new_template) {
            config.shift_remove("chat_template");
            write(&folder.join(TEMPLATE), template.as_bytes())?;
        }
        write_object(&folder.join(CONFIG), &config)?;
        if let Some(special) = &self.special {
            let mut special = special.clone();
            special.extend(self.overrides.clone());
            write_object(&folder.join(SPECIAL), &special)?;
        }
        Ok(())
    }

    fn id(&self, role: usize) -> Option<u32> {
        self.tokens[role].as_ref().map(|(_, id)| *id)
    }
}

/// `added_tokens.json` of a changed vocabulary.
fn relisted(
    mut listed: Map<String, Value>,
    new: &[(String, u32)],
    overrides: &BTreeMap<String, String>,
) -> Map<String, Value> {
    for (id, text) in overrides {
        if let Ok(id) = id.parse::<u32>() {
            listed.retain(|_, other| *other != id);
            listed.insert(text.clone(), Value::from(id));
        }
    }
    for (text, id) in new {
        listed.insert(text.clone(), Value::from(*id));
    }
    listed
}

/// Byte-level tokenizers may cut whitespace off the offsets of a token. Masks
/// need to know which bytes a token really stands for, so this is turned off;
/// ids are not affected.
fn keep_whitespace_offsets(tokenizer: &mut tokenizers::Tokenizer) {
    fn rewrite(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    if key == "trim_offsets" {
                        *value = Value::Bool(false);
                    } else {
                        rewrite(value);
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(rewrite),
            _ => {}
        }
    }
    let Some(Ok(mut json)) = tokenizer.get_post_processor().map(serde_json::to_value) else {
        return;
    };
    rewrite(&mut json);
    if let Ok(processor) = serde_json::from_value::<PostProcessorWrapper>(json) {
        tokenizer.with_post_processor(Some(processor));
    }
}

/// A token entry: text, or an object with the text in `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A template entry: text, or several by name, as a list of `{name, template}` or as
/// an object.
fn templates_of(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let text = |name: &str, value: Option<&Value>| match value {
        Some(Value::String(text)) => Ok((name.to_owned(), text.clone())),
        _ => Err(format!(
            "`chat_template`: the template `{name}` is not text"
        )),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        value @ Some(Value::String(_)) => Ok(vec![text(DEFAULT_NAME, value)?]),
        Some(Value::Array(list)) => {
            let entries = list.iter().map(|entry| {
                let name = entry.get("name").and_then(Value::as_str).ok_or(
                    "`chat_template` is a list, whose entries have to be {\"name\": ..., \"template\": ...}",
                )?;
                text(name, entry.get("template"))
            });
            entries.collect()
        }
        Some(Value::Object(object)) => {
            let entries = object.iter();
            entries
                .map(|(name, value)| text(name, Some(value)))
                .collect()
        }
        Some(_) => Err("`chat_template` has to be text, or templates by name".to_owned()),
    }
}

fn encode_error(error: &(dyn std::error::Error + Send + Sync)) -> DataError {
    DataError::Encode {
        message: error.to_string(),
    }
}
