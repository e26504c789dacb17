//! New tokens: changes to the JSON of a tokenizer folder, made before it is
//! loaded, so that what is saved is what was used.
//!
//! Ids are those that the tokenizers library would give: a token that the model
//! of the tokenizer knows keeps its id, others follow the highest one.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use trainer_config::SpecialTokens;

use super::{MODEL, ROLES, token_text};
use crate::DataError;

/// What transformers' tokenizer class of Qwen 2 takes for the end of a sequence,
/// for padding and for unknown text where the files of the tokenizer name nothing,
/// and adds to a vocabulary that lacks it. It goes by the family of the model, not by
/// the class that the files name.
pub(super) const QWEN2_TOKEN: &str = "<|endoftext|>";

/// What a configuration changes about a vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changes<'a> {
    pub(super) special: &'a SpecialTokens,
    pub(super) tokens: &'a [String],
    /// Texts by the ids of reserved tokens.
    pub(super) overrides: &'a BTreeMap<String, String>,
}

impl Changes<'_> {
    /// Whether there may be something to change.
    pub(super) fn any(&self, id_of: impl Fn(&str) -> Option<u32>) -> bool {
        let mut roles = self.roles().into_iter().flatten();
        !self.overrides.is_empty()
            || !self.tokens.is_empty()
            || !self.special.additional_special_tokens.is_empty()
            || roles.any(|text| id_of(text).is_none())
    }

    /// Texts of the special tokens that play a part, in the order of `ROLES`.
    pub(super) fn roles(&self) -> [Option<&str>; 4] {
        [
            self.special.bos_token.as_deref(),
            self.special.eos_token.as_deref(),
            self.special.pad_token.as_deref(),
            self.special.unk_token.as_deref(),
        ]
    }
}

/// The JSON files of a folder.
pub(super) struct Files<'a> {
    /// `tokenizer.json`.
    pub(super) model: Value,
    /// `tokenizer_config.json`.
    pub(super) config: &'a mut Map<String, Value>,
    /// `special_tokens_map.json`.
    pub(super) special: Option<&'a mut Map<String, Value>>,
    /// The folder, for messages.
    pub(super) folder: &'a Path,
}

/// A vocabulary that was changed.
pub(super) struct Changed {
    /// `tokenizer.json`.
    pub(super) model: Value,
    /// Texts and ids of tokens that are new to the vocabulary.
    pub(super) new: Vec<(String, u32)>,
}

/// Applies changes; nothing where there are none to make.
///
/// # Errors
/// An override of a token that is not reserved, or with a text that is taken.
pub(super) fn apply(
    mut files: Files<'_>,
    changes: Changes<'_>,
    id_of: impl Fn(&str) -> Option<u32>,
    model_size: usize,
) -> Result<Option<Changed>, DataError> {
    let mut changed = false;
    for (id, text) in changes.overrides {
        changed = true;
        replace(&mut files, id, text, &id_of)?;
    }
    // An override may be what a later name stands for.
    let overridden: BTreeMap<&str, u32> = changes
        .overrides
        .iter()
        .filter_map(|(id, text)| Some((text.as_str(), id.parse().ok()?)))
        .collect();
    let known = |text: &str| overridden.get(text).copied().or_else(|| id_of(text));
    let roles = changes.roles();
    let special = roles.into_iter().flatten().map(|text| (text, true));
    let further = &changes.special.additional_special_tokens;
    let further = further.iter().map(|text| (text.as_str(), true));
    let plain = changes.tokens.iter().map(|text| (text.as_str(), false));
    let mut new: Vec<(String, u32)> = Vec::new();
    for (place, (text, is_special)) in special.chain(further).chain(plain).enumerate() {
        let by_role = place < roles.iter().flatten().count();
        let id = match known(text) {
            // It has its id, and plays a part without further ado.
            Some(_) if by_role => continue,
            Some(id) => id,
            None => match new.iter().find(|(other, _)| other == text) {
                Some(_) => continue,
                None => next_id(&files.model, model_size),
            },
        };
        changed |= add(&mut files, id, text, is_special)?;
        if known(text).is_none() {
            new.push((text.to_owned(), id));
        }
    }
    let further = &changes.special.additional_special_tokens;
    if !further.is_empty() {
        name_special(files.config, further);
        if let Some(map) = files.special {
            name_special(map, further);
        }
    }
    Ok(changed.then_some(Changed {
        model: files.model,
        new,
    }))
}

/// Tokens that `added_tokens_decoder` or `added_tokens.json` declare and that
/// `tokenizer.json` does not know as added ones, by their ids.
pub(super) fn declared(
    inner: &tokenizers::Tokenizer,
    config: &Map<String, Value>,
    listed: Option<&Map<String, Value>>,
) -> BTreeMap<u32, Value> {
    let known: std::collections::BTreeSet<&str> = inner
        .get_added_vocabulary()
        .get_added_tokens_decoder()
        .values()
        .map(|token| token.content.as_str())
        .collect();
    let mut declared = BTreeMap::new();
    for (text, id) in listed.into_iter().flatten() {
        if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            declared.insert(id, json!({"content": text, "special": false}));
        }
    }
    let decoder = config.get("added_tokens_decoder");
    for (id, token) in decoder.and_then(Value::as_object).into_iter().flatten() {
        if let (Ok(id), Some(_)) = (id.parse(), token_text(token)) {
            declared.insert(id, token.clone());
        }
    }
    declared.retain(|_, token| {
        let text = token_text(token).unwrap_or_default();
        !text.is_empty() && !known.contains(text)
    });
    declared
}

/// Adds declared tokens to `tokenizer.json`, as transformers does when it loads the
/// folder. Returns those that are new to its vocabulary.
///
/// # Errors
/// A token that would get another id than the one it is declared with.
pub(super) fn declare(
    model: &mut Value,
    declared: BTreeMap<u32, Value>,
    inner: &tokenizers::Tokenizer,
    folder: &Path,
) -> Result<Vec<(String, u32)>, DataError> {
    let size = inner.get_vocab_size(false);
    let mut new = Vec::new();
    for (wanted, token) in declared {
        let text = token_text(&token).unwrap_or_default().to_owned();
        let known = inner.token_to_id(&text);
        let id = known.unwrap_or_else(|| next_id(model, size));
        if id != wanted {
            return Err(DataError::Tokenizer {
                path: folder.to_owned(),
                message: format!(
                    "tokenizer_config.json or added_tokens.json declares the token {text:?} with the id {wanted}; tokenizer.json does not have it there, and would make it token {id}. Save the tokenizer again with transformers, or correct the files"
                ),
            });
        }
        let flag = |name: &str| token.get(name) == Some(&Value::Bool(true));
        let entry = json!({
            "id": id,
            "content": text,
            "single_word": flag("single_word"),
            "lstrip": flag("lstrip"),
            "rstrip": flag("rstrip"),
            "normalized": flag("normalized"),
            "special": flag("special"),
        });
        let list = added(model).ok_or_else(|| damaged(folder))?;
        let after = list
            .iter()
            .position(|other| other["id"].as_u64() > Some(u64::from(id)));
        list.insert(after.unwrap_or(list.len()), entry);
        if known.is_none() {
            new.push((text, id));
        }
    }
    Ok(new)
}

fn added(model: &mut Value) -> Option<&mut Vec<Value>> {
    let object = model.as_object_mut()?;
    let list = object.entry("added_tokens").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()
}

/// As the tokenizers library counts.
fn next_id(model: &Value, model_size: usize) -> u32 {
    let size = u32::try_from(model_size).unwrap_or(u32::MAX);
    let ids = model["added_tokens"].as_array().into_iter().flatten();
    let last = ids.filter_map(|token| token["id"].as_u64()).max();
    let after = last.and_then(|id| u32::try_from(id + 1).ok());
    after.map_or(size, |after| after.max(size))
}

/// Adds a token, or makes one that is there special; whether that was needed.
fn add(files: &mut Files<'_>, id: u32, text: &str, special: bool) -> Result<bool, DataError> {
    let Some(list) = added(&mut files.model) else {
        return Err(damaged(files.folder));
    };
    let token = match list.iter_mut().find(|token| token["id"] == id) {
        Some(token) if !special || token["special"] == true => return Ok(false),
        Some(token) => {
            token["special"] = Value::Bool(true);
            token.clone()
        }
        None => {
            let token = json!({
                "id": id,
                "content": text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            });
            let after = list
                .iter()
                .position(|other| other["id"].as_u64() > Some(u64::from(id)));
            list.insert(after.unwrap_or(list.len()), token.clone());
            token
        }
    };
    describe(files.config, id, token);
    Ok(true)
}

/// Puts a token into `added_tokens_decoder`, where there is one.
fn describe(config: &mut Map<String, Value>, id: u32, mut token: Value) {
    let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder") else {
        return;
    };
    if let Some(token) = token.as_object_mut() {
        token.shift_remove("id");
    }
    decoder.insert(id.to_string(), token);
}

/// Gives a reserved token another text.
fn replace(
    files: &mut Files<'_>,
    id_text: &str,
    text: &str,
    id_of: impl Fn(&str) -> Option<u32>,
) -> Result<(), DataError> {
    let folder = files.folder;
    let wrong = |message: String| DataError::TokenOverride {
        id: id_text.to_owned(),
        path: folder.to_owned(),
        message,
    };
    let id: u32 = id_text
        .parse()
        .map_err(|_| wrong("it is no token id".to_owned()))?;
    if let Some(other) = id_of(text).filter(|other| *other != id) {
        return Err(wrong(format!("\"{text}\" is token {other} already")));
    }
    let list = added(&mut files.model).ok_or_else(|| damaged(folder))?;
    let found = list.iter_mut().find(|token| token["id"] == id);
    let Some(token) = found else {
        let reserved = |token: &&Value| {
            let content = token["content"].as_str().unwrap_or_default();
            content.contains("reserved") || content.contains("unused")
        };
        let reserved: Vec<String> = list
            .iter()
            .filter(reserved)
            .take(3)
            .map(|token| token["id"].to_string())
            .collect();
        let hint = match reserved.is_empty() {
            true => "it has no reserved ones; add the text to `tokens`".to_owned(),
            false => format!("reserved are {}, ...", reserved.join(", ")),
        };
        return Err(wrong(format!(
            "it is none of the tokens that were added to the vocabulary; {hint}"
        )));
    };
    let old = token["content"].as_str().unwrap_or_default().to_owned();
    let role = ROLES
        .into_iter()
        .find(|role| files.config.get(*role).and_then(token_text) == Some(old.as_str()));
    if let Some(role) = role {
        return Err(wrong(format!(
            "\"{old}\" is the tokenizer's {role}, which other files name"
        )));
    }
    token["content"] = Value::from(text);
    let token = token.clone();
    if let Some(Value::Object(vocabulary)) = files.model.pointer_mut("/model/vocab")
        && vocabulary.get(&old) == Some(&Value::from(id))
    {
        vocabulary.shift_remove(&old);
        vocabulary.insert(text.to_owned(), Value::from(id));
    }
    describe(files.config, id, token);
    Ok(())
}

/// Lists further special tokens under the name that the folder uses.
fn name_special(config: &mut Map<String, Value>, tokens: &[String]) {
    let key = match config.get("extra_special_tokens") {
        Some(Value::Array(_)) => "extra_special_tokens",
        _ => "additional_special_tokens",
    };
    let list = config.entry(key).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    if let Value::Array(list) = list {
        for token in tokens {
            if !list
                .iter()
                .any(|other| token_text(other) == Some(token.as_str()))
            {
                list.push(Value::from(token.as_str()));
            }
        }
    }
}

fn damaged(folder: &Path) -> DataError {
    DataError::Tokenizer {
        path: folder.join(MODEL),
        message: "`added_tokens` is no list".to_owned(),
    }
}

/// The special tokens of a configuration together with those that the family of the
/// model (`config.json`) implies; nothing where it implies none. A name that the files
/// of the tokenizer give as null is given.
pub(super) fn implied(
    chosen: &SpecialTokens,
    model: Option<&Map<String, Value>>,
    config: &Map<String, Value>,
    special: Option<&Map<String, Value>>,
) -> Option<SpecialTokens> {
    if model?.get("model_type")? != "qwen2" {
        return None;
    }
    let named =
        |role: &str| config.contains_key(role) || special.is_some_and(|map| map.contains_key(role));
    let mut all = chosen.clone();
    for (role, slot) in [
        ("eos_token", &mut all.eos_token),
        ("pad_token", &mut all.pad_token),
        ("unk_token", &mut all.unk_token),
    ] {
        if slot.is_none() && !named(role) {
            *slot = Some(QWEN2_TOKEN.to_owned());
        }
    }
    (all != *chosen).then_some(all)
}
