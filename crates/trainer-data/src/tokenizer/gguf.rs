//! Tokenizers as the metadata of GGUF files describe them, both ways.
//!
//! GGUF has no rules for splitting text, only names of rules that llama.cpp has in
//! its code: [`splitters`] says which are known here. A vocabulary of
//! SentencePiece is merged by scores there, by a list of merges in
//! `tokenizer.json`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::{json_bytes, json_value, write, write_templates};
use super::{CONFIG, MODEL, ROLES, TEMPLATE, Tokenizer};
use crate::DataError;
use crate::template::DEFAULT_NAME;

/// What a space is in vocabularies of SentencePiece.
const SPACE: &str = "\u{2581}";

/// What GGUF calls kinds of tokens.
mod kind {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// A tokenizer as GGUF has it.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocabulary {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// Name of the rules that split text.
    pub pre: String,
    /// Texts by their ids.
    pub tokens: Vec<String>,
    /// Kinds of the tokens.
    pub types: Vec<i32>,
    /// Which merges come first, for `llama`.
    pub scores: Option<Vec<f32>>,
    /// Merges, for `gpt2`.
    pub merges: Vec<String>,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// End of a sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
    /// Whether sequences begin with `bos`.
    pub add_bos: bool,
    /// Whether sequences end with `eos`.
    pub add_eos: bool,
    /// Whether a space goes before a text, for `llama`.
    pub add_space_prefix: bool,
    /// The chat template.
    pub chat_template: Option<String>,
    /// Further chat templates, such as `tool_use`, and their names.
    pub named_templates: Vec<(String, String)>,
}

/// Names of rules, and the rules as `tokenizer.json` has them; fields that change
/// no token are left out.
fn splitters() -> [(&'static str, Value); 4] {
    let words = |digits: &str| {
        format!(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{digits}| \
             ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        )
    };
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
    let sequence = |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]});
    let split = |pattern: String| {
        json!({
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": false,
        })
    };
    [
        ("gpt-2", byte_level(true)),
        (
            "smollm",
            sequence(json!({"type": "Digits", "individual_digits": true}), true),
        ),
        ("llama-bpe", sequence(split(words("{1,3}")), false)),
        ("qwen2", sequence(split(words("")), false)),
    ]
}

/// Whether a value has all that another has.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| found.get(key).is_some_and(|found| covers(found, wanted))),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| covers(a, b))
        }
        (found, wanted) => found == wanted,
    }
}

fn error(path: &Path, message: impl Into<String>) -> DataError {
    DataError::GgufTokenizer {
        path: path.to_owned(),
        message: message.into(),
    }
}

impl Tokenizer {
    /// The tokenizer as GGUF has it, for a model of so many rows: ids without a
    /// token are filled.
    ///
    /// # Errors
    /// A tokenizer that GGUF has no description of, or that has more tokens than
    /// rows.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufVocabulary, DataError> {
        let path = self.folder().join(MODEL);
        let json = json_value(&path, self.files.get(MODEL).unwrap_or_default())?;
        let wrong = |message: &str| error(&path, message);
        let model = &json["model"];
        let vocabulary = match &model["vocab"] {
            Value::Object(vocabulary) if model["type"] == "BPE" => vocabulary,
            _ => {
                return Err(wrong(
                    "GGUF describes BPE vocabularies; this is another kind",
                ));
            }
        };
        if self.vocab_size > rows {
            return Err(wrong(&format!(
                "the tokenizer has {} tokens, the model {rows} rows",
                self.vocab_size
            )));
        }
        let sentencepiece = model["byte_fallback"] == true;
        let pre = match sentencepiece {
            true => "default",
            false => {
                let found = &json["pre_tokenizer"];
                let known = splitters();
                let name = known.iter().find(|(_, wanted)| covers(found, wanted));
                name.map(|(name, _)| *name).ok_or_else(|| {
                    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                    wrong(&format!(
                        "GGUF has no name for the way in which it splits text; known are those of {}",
                        names.join(", ")
                    ))
                })?
            }
        };
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![kind::UNUSED; rows];
        let id_of = |value: &Value| value.as_u64().and_then(|id| usize::try_from(id).ok());
        for (text, id) in vocabulary {
            if let Some(id) = id_of(id).filter(|id| *id < rows) {
                tokens[id].clone_from(text);
                types[id] = match sentencepiece && is_byte(text) {
                    true => kind::BYTE,
                    false => kind::NORMAL,
                };
            }
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(text)) = (id_of(&token["id"]), token["content"].as_str())
                && id < rows
            {
                text.clone_into(&mut tokens[id]);
                types[id] = match token["special"] == true {
                    true => kind::CONTROL,
                    false => kind::USER_DEFINED,
                };
            }
        }
        let unk = self.id(3);
        if let (true, Some(unk)) = (sentencepiece, unk) {
            types[unk as usize] = kind::UNKNOWN;
        }
        let merges = merges(&model["merges"]).ok_or_else(|| wrong("the merges are no pairs"))?;
        let scores = sentencepiece.then(|| scores(&merges, &tokens, &types));
        // What the tokenizer does counts, not what its files call the tokens.
        let one = |around: &[u32], role: Option<u32>, place: &str| match around {
            [] => Ok((role, false)),
            [id] => Ok((Some(*id), true)),
            several => Err(wrong(&format!(
                "it puts {} tokens {place} every sequence, GGUF describes one",
                several.len()
            ))),
        };
        let (bos, add_bos) = one(self.opening(), self.id(0), "in front of")?;
        let (eos, add_eos) = one(self.closing(), self.id(1), "behind")?;
        Ok(GgufVocabulary {
            model: if sentencepiece { "llama" } else { "gpt2" }.to_owned(),
            pre: pre.to_owned(),
            tokens,
            types,
            scores,
            merges: match sentencepiece {
                true => Vec::new(),
                false => merges.iter().map(|(a, b)| format!("{a} {b}")).collect(),
            },
            bos,
            eos,
            pad: self.id(2),
            unk,
            add_bos,
            add_eos,
            add_space_prefix: sentencepiece && puts_space_before(&json),
            chat_template: self.chat_template().map(str::to_owned),
            named_templates: self
                .chat_templates()
                .filter(|(name, _)| *name != DEFAULT_NAME)
                .map(|(name, source)| (gguf_name(name), source.to_owned()))
                .collect(),
        })
    }
}

/// The name of a chat template as GGUF's keys have it.
fn gguf_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

/// Whether the files say that a space goes before a text.
fn puts_space_before(json: &Value) -> bool {
    fn any(value: &Value) -> bool {
        match value {
            Value::Object(object) => {
                let prepends = object.get("type") == Some(&Value::from("Prepend"));
                let scheme = object.get("prepend_scheme");
                prepends
                    || scheme.is_some_and(|scheme| scheme != "never")
                    || object.values().any(any)
            }
            Value::Array(values) => values.iter().any(any),
            _ => false,
        }
    }
    any(&json["normalizer"]) || any(&json["pre_tokenizer"])
}

/// `<0x0A>`
fn is_byte(text: &str) -> bool {
    let digits = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Merges, which are texts or pairs.
fn merges(list: &Value) -> Option<Vec<(String, String)>> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => {
            let (a, b) = text.split_once(' ')?;
            Some((a.to_owned(), b.to_owned()))
        }
        Value::Array(parts) => match &parts[..] {
            [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
            _ => None,
        },
        _ => None,
    };
    list.as_array()?.iter().map(pair).collect()
}

/// SentencePiece merges the pair whose result has the highest score: earlier
/// merges have higher ones.
fn scores(merges: &[(String, String)], tokens: &[String], types: &[i32]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    let score = |(id, text): (usize, &String)| match (types[id], ranks.get(text)) {
        (kind::NORMAL, Some(rank)) => -(*rank as f32),
        (kind::NORMAL, None) => -((merges.len() + id) as f32),
        _ => 0.0,
    };
    tokens.iter().enumerate().map(score).collect()
}

impl GgufVocabulary {
    /// Writes `tokenizer.json`, `tokenizer_config.json` and the chat templates into a
    /// folder. `path` is the GGUF file, for messages.
    ///
    /// # Errors
    /// A vocabulary of another kind than `gpt2` and `llama`, unknown rules for splitting,
    /// ids out of range; [`DataError::Io`].
    pub fn write(&self, folder: &Path, path: &Path) -> Result<(), DataError> {
        let wrong = |message: String| error(path, message);
        if self.types.len() != self.tokens.len() {
            return Err(wrong(format!(
                "{} tokens have {} types",
                self.tokens.len(),
                self.types.len()
            )));
        }
        let sentencepiece = self.is_sentencepiece();
        let mut vocabulary = Map::new();
        let (mut added, mut decoder) = (Vec::new(), Map::new());
        for (id, (text, kind)) in self.tokens.iter().zip(&self.types).enumerate() {
            // Tokens that text is searched for have plain spaces.
            let text = match sentencepiece {
                true => &text.replace(' ', SPACE),
                false => text,
            };
            if vocabulary.insert(text.clone(), Value::from(id)).is_some() {
                return Err(wrong(format!("the token {text:?} is there twice")));
            }
            let special = *kind == kind::CONTROL || *kind == kind::UNKNOWN;
            if special || *kind == kind::USER_DEFINED {
                let token = json!({
                    "content": text,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": special,
                });
                decoder.insert(id.to_string(), token.clone());
                let mut token = token.as_object().cloned().unwrap_or_default();
                token.insert("id".to_owned(), Value::from(id));
                added.push(Value::Object(token));
            }
        }
        let mut config = Map::new();
        config.insert("added_tokens_decoder".to_owned(), Value::Object(decoder));
        config.insert(
            "clean_up_tokenization_spaces".to_owned(),
            Value::from(false),
        );
        config.insert(
            "tokenizer_class".to_owned(),
            "PreTrainedTokenizerFast".into(),
        );
        for (role, id) in ROLES
            .into_iter()
            .zip([self.bos, self.eos, self.pad, self.unk])
        {
            let Some(id) = id else { continue };
            let text = self.tokens.get(id as usize).ok_or_else(|| {
                wrong(format!(
                    "the {role} is {id}, of {} tokens",
                    self.tokens.len()
                ))
            })?;
            config.insert(role.to_owned(), Value::from(text.as_str()));
        }
        let processor = self.processor();
        let rules = match sentencepiece {
            true => self.sentencepiece(&vocabulary),
            false => self.byte_level(),
        };
        let rules = rules.map_err(wrong)?;
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": rules.normalizer,
            "pre_tokenizer": rules.pre_tokenizer,
            "post_processor": processor,
            "decoder": rules.decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": rules.unknown,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": sentencepiece,
                "byte_fallback": sentencepiece,
                "ignore_merges": self.pre == "llama-bpe",
                "vocab": vocabulary,
                "merges": rules.merges,
            },
        });
        let target = folder.join(MODEL);
        let bytes = json_bytes(&target, &json)?;
        // What transformers would not load is found here.
        tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| wrong(e.to_string()))?;
        write(&target, &bytes)?;
        if let Some(template) = &self.chat_template {
            write(&folder.join(TEMPLATE), template.as_bytes())?;
        }
        // The names become names of files.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if let Some((name, _)) = self
            .named_templates
            .iter()
            .find(|(name, _)| name.is_empty() || !name.chars().all(plain))
        {
            return Err(wrong(format!(
                "the name {name:?} of a chat template cannot be used: it has to be letters, digits, `_` and `-`"
            )));
        }
        write_templates(folder, &self.named_templates)?;
        let target = folder.join(CONFIG);
        write(&target, &json_bytes(&target, &Value::Object(config))?)
    }
}

impl GgufVocabulary {
    /// What puts tokens around sequences, as `tokenizer.json` has it.
    fn processor(&self) -> Value {
        let token = |id: Option<u32>, added: bool| {
            let id = id.filter(|_| added)?;
            Some((id, self.tokens.get(id as usize)?))
        };
        let (bos, eos) = (token(self.bos, self.add_bos), token(self.eos, self.add_eos));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let mut special = Map::new();
        for (id, text) in bos.into_iter().chain(eos) {
            special.insert(
                text.clone(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            );
        }
        let around = |name: &str| {
            let token = |token: Option<(u32, &String)>| {
                token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": 0}}))
            };
            let sequence = json!({"Sequence": {"id": name, "type_id": 0}});
            let parts = token(bos).into_iter().chain([sequence]).chain(token(eos));
            parts.collect::<Vec<Value>>()
        };
        let pair = [around("A"), around("B")].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A"),
            "pair": pair,
            "special_tokens": special,
        })
    }
}

/// How text becomes tokens and tokens text.
struct Rules {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    unknown: Value,
    merges: Value,
}

impl GgufVocabulary {
    fn is_sentencepiece(&self) -> bool {
        self.model == "llama"
    }

    fn byte_level(&self) -> Result<Rules, String> {
        if self.model != "gpt2" {
            return Err(format!(
                "tokenizers of kind \"{}\" are not imported, only \"gpt2\" and \"llama\"; take the \
                 tokenizer's files from the folder of the original model",
                self.model
            ));
        }
        let known = splitters();
        let splitter = known.iter().find(|(name, _)| *name == self.pre);
        let Some((_, splitter)) = splitter else {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "the rules \"{}\" for splitting text are not known; known are {}",
                self.pre,
                names.join(", ")
            ));
        };
        Ok(Rules {
            normalizer: match self.pre == "qwen2" {
                true => json!({"type": "NFC"}),
                false => Value::Null,
            },
            pre_tokenizer: with_offsets(splitter),
            decoder: json!({
                "type": "ByteLevel",
                "add_prefix_space": true,
                "trim_offsets": true,
                "use_regex": true,
            }),
            unknown: Value::Null,
            merges: json!(self.merges),
        })
    }

    /// The rules that `tokenizer.json` files of such models have.
    fn sentencepiece(&self, vocabulary: &Map<String, Value>) -> Result<Rules, String> {
        let scores = self.scores.as_deref().unwrap_or_default();
        if scores.len() != self.tokens.len() {
            return Err(format!(
                "{} tokens have {} scores",
                self.tokens.len(),
                scores.len()
            ));
        }
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let normalizer = match self.add_space_prefix {
            false => spaces,
            true => {
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                let before = json!({"type": "Prepend", "prepend": SPACE});
                json!({"type": "Sequence", "normalizers": [before, spaces]})
            }
        };
        let unknown = self.unk.and_then(|id| self.tokens.get(id as usize));
        Ok(Rules {
            normalizer,
            // No text has a space left to split at: the whole is one word.
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoders}),
            unknown: unknown.map_or(Value::Null, |text| Value::from(text.as_str())),
            merges: json!(self.merges_by_score(scores, vocabulary)),
        })
    }

    /// SentencePiece merges the pair whose result has the highest score; here a merge
    /// comes before another. Tokens that text is searched for come first, longer ones
    /// before shorter ones (`SentencePieceExtractor` of transformers).
    fn merges_by_score<'a>(
        &self,
        scores: &[f32],
        vocabulary: &'a Map<String, Value>,
    ) -> Vec<[&'a str; 2]> {
        let mut merges = Vec::new();
        for ((text, kind), score) in self.tokens.iter().zip(&self.types).zip(scores) {
            let score = match *kind {
                kind::NORMAL => *score,
                kind::USER_DEFINED => f32::INFINITY,
                _ => continue,
            };
            let text = text.replace(' ', SPACE);
            let length = text.chars().count();
            let known = |part: &str| {
                let (part, id) = vocabulary.get_key_value(part)?;
                Some((part.as_str(), id.as_u64()))
            };
            let places = text.char_indices().enumerate().skip(1);
            let mut of_text: Vec<_> = places
                .filter_map(|(letters, (at, _))| {
                    let (left, right) = (known(&text[..at])?, known(&text[at..])?);
                    Some((left, right, (score, letters, length - letters)))
                })
                .collect();
            of_text.sort_by_key(|((_, left), (_, right), _)| (*left, *right));
            merges.extend(of_text);
        }
        // Stable, so that equal ones stay in the order of their tokens.
        merges.sort_by(|(_, _, a), (_, _, b)| {
            let letters = (b.1, b.2).cmp(&(a.1, a.2));
            b.0.total_cmp(&a.0).then(letters)
        });
        let pairs = merges.into_iter();
        pairs
            .map(|((left, _), (right, _), _)| [left, right])
            .collect()
    }
}

/// Byte-level rules need a field that changes no token.
fn with_offsets(rules: &Value) -> Value {
    let mut rules = rules.clone();
    let put = |value: &mut Value| {
        if value["type"] == "ByteLevel" {
            value["trim_offsets"] = Value::Bool(true);
        }
    };
    put(&mut rules);
    for part in rules["pretokenizers"].as_array_mut().into_iter().flatten() {
        put(part);
    }
    rules
}
