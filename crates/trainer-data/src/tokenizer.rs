//! A tokenizer folder in Hugging Face's layout.
//!
//! Read: `tokenizer.json` (the tokenizer), `tokenizer_config.json` and
//! `special_tokens_map.json` (which tokens play which part; the first wins),
//! `chat_template.jinja`, or `chat_template` in the configuration.
//!
//! Invariants: offsets are bytes of the text as given, whitespace included;
//! truncation and padding stored in the file are ignored, both belong to the
//! data path; a special token that is named exists in the vocabulary.

mod escape;
mod fast;
mod gguf;
mod probes;
mod stream;
mod vocabulary;
mod words;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tokenizers::PostProcessorWrapper;
use trainer_config::{Config, SpecialTokens};

use crate::DataError;
use crate::error::nearest;
use fast::Fast;
pub use gguf::GgufVocabulary;
pub use stream::TextStream;
use vocabulary::{Changed, Changes, Files, QWEN2_TOKEN, implied};

const MODEL: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const ADDED: &str = "added_tokens.json";

/// Files that some tokenizers have beside `tokenizer.json`.
const EXTRA: [&str; 5] = [
    ADDED,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
];

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

/// Bytes of a `tokenizer.json`, and an `added_tokens.json` where there is one.
type ChangedFiles = (Vec<u8>, Option<Map<String, Value>>);

/// A tokenizer, its special tokens and its chat template.
#[derive(Debug)]
pub struct Tokenizer {
    folder: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Gives the same tokens as `inner` in less time, where there is such a way.
    fast: Option<Fast>,
    vocab_size: usize,
    config: Map<String, Value>,
    special: Option<Map<String, Value>>,
    /// `tokenizer.json` and `added_tokens.json`, where the vocabulary is not the
    /// folder's.
    changed: Option<ChangedFiles>,
    /// Tokens that the folder's vocabulary lacks.
    new_tokens: Vec<(String, u32)>,
    /// Whether special tokens play a part that nothing but the family gives them.
    implied: bool,
    /// Text and id of each of `ROLES`.
    tokens: [Option<(String, u32)>; 4],
    overrides: Map<String, Value>,
    chat_template: Option<String>,
    /// Whether the template is another one than the folder's.
    new_template: bool,
    /// `inner` with a token that divides texts, and the id of that token; made
    /// when it is first needed.
    splitting: OnceLock<Option<(tokenizers::Tokenizer, u32)>>,
}

impl Tokenizer {
    /// Loads a folder; `special_tokens` take the place of the folder's own, and
    /// are added to the vocabulary where it lacks them.
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
                hint: nearest(folder),
            });
        }
        let path = folder.join(MODEL);
        let bytes = read(&path)?.ok_or_else(|| DataError::Tokenizer {
            path: folder.to_owned(),
            message: if folder.join("tokenizer.model").exists() {
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
        let mut inner = parse(&bytes)?;
        let mut config = object(&folder.join(CONFIG))?.unwrap_or_default();
        let mut special = object(&folder.join(SPECIAL))?;
        let model = object(&folder.join("config.json"))?;
        let own = implied(changes.special, model.as_ref(), &config, special.as_ref());
        let changes = Changes {
            special: own.as_ref().unwrap_or(changes.special),
            ..changes
        };
        let (mut changed, mut new_tokens) = (None, Vec::new());
        if changes.any(|text| inner.token_to_id(text)) {
            let files = Files {
                model: json_value(&path, &bytes)?,
                config: &mut config,
                special: special.as_mut(),
                folder,
            };
            let id_of = |text: &str| inner.token_to_id(text);
            let size = inner.get_vocab_size(false);
            if let Some(Changed { model, new }) = vocabulary::apply(files, changes, id_of, size)? {
                let bytes = json_bytes(&path, &model)?;
                inner = parse(&bytes)?;
                let listed = object(&folder.join(ADDED))?;
                let listed = listed.map(|old| relisted(old, &new, changes.overrides));
                changed = Some((bytes, listed));
                new_tokens = new;
            }
        }
        inner.with_padding(None);
        let untruncated = inner.with_truncation(None).map(|_| ());
        untruncated.map_err(|error| encode_error(&*error))?;
        keep_whitespace_offsets(&mut inner);

        let chat_template = match read(&folder.join(TEMPLATE))? {
            Some(bytes) => Some(utf8(&folder.join(TEMPLATE), bytes)?),
            None => template_of(config.get("chat_template")),
        };

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
            folder: folder.to_owned(),
            fast: Fast::new(&inner),
            inner,
            vocab_size,
            config,
            special,
            changed,
            new_tokens,
            implied: own.is_some(),
            tokens,
            overrides,
            chat_template,
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

    /// Id of the token that opens a sequence.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.id(0)
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

    /// The tokenizer's own chat template.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Sets the chat template, which [`Tokenizer::save`] then writes.
    pub fn set_chat_template(&mut self, source: impl Into<String>) {
        self.chat_template = Some(source.into());
        self.new_template = true;
    }

    /// The folder it was loaded from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Part and text of the special tokens: (`bos_token`, `<s>`), ...
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        ROLES
            .into_iter()
            .zip(&self.tokens)
            .filter_map(|(role, token)| Some((role, token.as_ref()?.0.as_str())))
    }

    /// Writes the tokenizer's files into a folder, which exists, so that
    /// transformers loads them from there: the originals, with the special
    /// tokens and the chat template that were set here.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), DataError> {
        let folder = folder.as_ref();
        for name in [MODEL, TEMPLATE].into_iter().chain(EXTRA) {
            if let Some(bytes) = read(&self.folder.join(name))? {
                write(&folder.join(name), &bytes)?;
            }
        }
        if let Some((model, listed)) = &self.changed {
            write(&folder.join(MODEL), model)?;
            if let Some(listed) = listed {
                write_object(&folder.join(ADDED), listed)?;
            }
        }
        let mut config = self.config.clone();
        config.extend(self.overrides.clone());
        if let (Some(template), true) = (&self.chat_template, self.new_template) {
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

/// A template entry: text, or a list of `{name, template}` with a `default`.
fn template_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(templates) => templates
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .or(templates.first())
            .and_then(|entry| entry.get("template")?.as_str())
            .map(str::to_owned),
        _ => None,
    }
}

fn encode_error(error: &(dyn std::error::Error + Send + Sync)) -> DataError {
    DataError::Encode {
        message: error.to_string(),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid];
        let start = before
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |i| i + 1);
        DataError::InvalidUtf8 {
            path: path.to_owned(),
            line: before.iter().filter(|b| **b == b'\n').count() + 1,
            byte: valid - start + 1,
        }
    })
}

fn json_value(path: &Path, bytes: &[u8]) -> Result<Value, DataError> {
    serde_json::from_slice(bytes).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// Indented, as the tokenizers library writes it.
fn json_bytes(path: &Path, value: &Value) -> Result<Vec<u8>, DataError> {
    serde_json::to_vec_pretty(value).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

fn object(path: &Path) -> Result<Option<Map<String, Value>>, DataError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| DataError::Tokenizer {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    std::fs::write(path, bytes).map_err(|source| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_object(path: &Path, object: &Map<String, Value>) -> Result<(), DataError> {
    let mut bytes = serde_json::to_vec_pretty(object).map_err(|error| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source: error.into(),
    })?;
    bytes.push(b'\n');
    write(path, &bytes)
}
