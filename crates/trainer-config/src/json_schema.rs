//! The JSON schema of the YAML file for editors: that of [`Config`](crate::Config), and
//! whatever else the program takes.
//!
//! A null means the default, numbers and truth values may be written as text, and keys of
//! Axolotl that have no effect, or that ask for nothing, are no mistakes. So whatever
//! `trainer check` accepts is valid; the reverse does not hold, since rules between keys
//! are not in the schema.

use serde_json::{Map, Value, json};

use crate::keys::{Entry, Kind, TABLE};
use crate::shape::full_schema;

/// Numbers as text: decimal with or without exponent, hexadecimal and octal, with `_`
/// between digits.
const NUMBER: &str =
    r"^\s*[+-]?(\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][+-]?[0-9_]+)?|0x[0-9a-fA-F_]+|0o[0-7_]+)\s*$";
/// Truth values as text.
const FLAG: &str = "^([Tt]([Rr][Uu][Ee])?|[Ff]([Aa][Ll][Ss][Ee])?|[Yy]([Ee][Ss])?|[Nn]([Oo])?|[Oo]([Nn]|[Ff][Ff])|[01](\\.0*)?)$";

/// The JSON schema of the YAML file (draft 2020-12), derived from
/// [`Config`](crate::Config), for editors and for `trainer schema`.
///
/// Keys of Axolotl that the program takes without an effect are marked `deprecated`.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = full_schema();
    // A rule for the loader, which gives a better message; a choice for editors.
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|key| key != "datasets");
    }
    widen(&mut schema);
    values_without_effect(&mut schema);
    with_other_keys(&mut schema, "");
    for (entry, prefix) in [
        ("Dataset", "datasets[]."),
        ("PretrainingDataset", "pretraining_dataset[]."),
    ] {
        if let Some(entry) = schema.pointer_mut(&format!("/$defs/{entry}")) {
            with_other_keys(entry, prefix);
        }
    }
    let choice = ["datasets", "pretraining_dataset"].map(|key| json!({"required": [key]}));
    schema["anyOf"] = json!(choice);
    schema
}

/// Takes other ways to write numbers and truth values, and a null for every property.
fn widen(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(widen),
        Value::Object(entries) => {
            for (key, inner) in entries.iter_mut() {
                if matches!(key.as_str(), "properties" | "$defs") {
                    let inner = inner.as_object_mut().into_iter().flatten();
                    for (_, inner) in inner {
                        widen(inner);
                        if key == "properties" {
                            take_null(inner);
                        }
                    }
                } else if !matches!(key.as_str(), "default" | "enum" | "const") {
                    widen(inner);
                }
            }
            as_text_too(entries);
        }
        _ => {}
    }
}

/// The names of the types of a schema.
fn types(entries: &Map<String, Value>) -> Vec<String> {
    match entries.get("type") {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn as_text_too(entries: &mut Map<String, Value>) {
    let mut types = types(entries);
    let has = |name: &str| types.iter().any(|it| it == name);
    let pattern = if has("boolean") {
        types.extend(["integer".to_owned(), "string".to_owned()]);
        entries.insert("minimum".to_owned(), 0.into());
        entries.insert("maximum".to_owned(), 1.into());
        FLAG
    } else if has("integer") || has("number") {
        types.push("string".to_owned());
        NUMBER
    } else {
        return;
    };
    entries.insert("type".to_owned(), json!(types));
    entries.insert("pattern".to_owned(), pattern.into());
}

fn take_null(schema: &mut Value) {
    let Some(entries) = schema.as_object_mut() else {
        return;
    };
    let mut types = types(entries);
    if !types.is_empty() && !entries.contains_key("enum") && !entries.contains_key("const") {
        if !types.iter().any(|name| name == "null") {
            types.push("null".to_owned());
            entries.insert("type".to_owned(), json!(types));
        }
        return;
    }
    let none = json!({"type": "null"});
    if let Some(Value::Array(choices)) = entries.get_mut("anyOf") {
        if !choices.contains(&none) {
            choices.push(none);
        }
        return;
    }
    // What says which values there are moves inside, what is said about the key stays.
    let mut choice = Map::new();
    for key in ["$ref", "oneOf", "enum", "const", "type"] {
        choice.extend(entries.remove(key).map(|value| (key.to_owned(), value)));
    }
    if !choice.is_empty() {
        entries.insert("anyOf".to_owned(), json!([choice, none]));
    }
}

/// Values of keys that are taken with a warning.
fn values_without_effect(schema: &mut Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let keys: Vec<String> = properties.keys().cloned().collect();
    for key in keys {
        let ignored = |(_, entry): &(&str, &Entry)| entry.kind == Kind::Ignored;
        let mut values: Vec<&str> = TABLE.values(&key).filter(ignored).map(|it| it.0).collect();
        values.sort_unstable();
        let patterns = TABLE.value_patterns(&key).filter(ignored);
        let mut more: Vec<Value> = patterns
            .map(|(pattern, entry)| {
                json!({"type": "string", "pattern": expression(pattern), "deprecated": true, "description": without_effect(entry)})
            })
            .collect();
        if !values.is_empty() {
            more.insert(0, json!({"enum": values, "deprecated": true}));
        }
        let property = &mut schema["properties"][key.as_str()];
        if let (false, Some(Value::Array(choices))) = (more.is_empty(), property.get_mut("anyOf")) {
            choices.extend(more);
        }
    }
}

/// Adds Axolotl's other keys below `prefix`.
fn with_other_keys(schema: &mut Value, prefix: &str) {
    let mut keys: Vec<(&str, &Entry)> = TABLE
        .below(prefix)
        .filter(|(_, entry)| entry.kind != Kind::Alias)
        .collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    for (key, entry) in keys {
        let property = property(entry);
        let (place, name) = match key.contains('*') {
            true => ("patternProperties", expression(key)),
            false => ("properties", key.to_owned()),
        };
        schema[place][name] = property;
    }
}

fn property(entry: &Entry) -> Value {
    let mut property = match entry.kind {
        Kind::Ignored => json!({"description": without_effect(entry)}),
        _ => {
            let hint = match entry.kind {
                Kind::Renamed => format!("write `{}`", entry.hint),
                _ => entry.hint.to_owned(),
            };
            let mut taken = json!({
                "description": format!("Not supported: {hint}."),
                "anyOf": [
                    {"enum": nothing(entry)},
                ],
            });
            if let Some(pattern) = words(entry) {
                let words = json!({"type": "string", "pattern": pattern});
                taken["anyOf"]
                    .as_array_mut()
                    .into_iter()
                    .for_each(|list| list.push(words.clone()));
            }
            taken
        }
    };
    property["deprecated"] = true.into();
    // Known to the language servers of VS Code.
    property["doNotSuggest"] = true.into();
    property
}

fn without_effect(entry: &Entry) -> String {
    format!("No effect: {}.", entry.hint)
}

/// Values that ask for nothing.
fn nothing(entry: &Entry) -> Vec<Value> {
    let mut values = vec![json!(null), json!(false), json!([]), json!({})];
    for accepted in entry.accepted() {
        match *accepted {
            "bool" => values.push(json!(0)),
            "true" => values.extend([json!(0), json!(true), json!(1)]),
            text => {
                values.push(json!(text));
                values.extend(text.parse::<f64>().ok().map(|number| json!(number)));
            }
        }
    }
    values
}

/// Texts that ask for nothing.
fn words(entry: &Entry) -> Option<&'static str> {
    match entry.accepted() {
        [.., "true"] | ["true", ..] => Some(FLAG),
        [.., "bool"] | ["bool", ..] => {
            Some("^([Ff]([Aa][Ll][Ss][Ee])?|[Nn]([Oo])?|[Oo][Ff][Ff]|0(\\.0*)?)$")
        }
        _ => Some("^([Ff]alse|FALSE|[Nn]o|NO|[Oo]ff|OFF)$"),
    }
}

/// A pattern with `*` as a regular expression.
fn expression(pattern: &str) -> String {
    format!("^{}$", pattern.replace('*', ".*"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::names;

    /// Names that a message offers are offered by editors too.
    #[test]
    fn names_stay_names() {
        let schema = json_schema();
        let scheduler = &schema["properties"]["lr_scheduler"];
        assert_eq!(scheduler["anyOf"][1]["type"], "null");
        assert_eq!(scheduler["anyOf"][0]["$ref"], "#/$defs/LrScheduler");
        assert_eq!(
            names(&schema["$defs"]["LrScheduler"]).map(|it| it.len()),
            Some(14)
        );
    }

    #[test]
    fn keys_without_effect_are_described() {
        let schema = json_schema();
        let properties = &schema["properties"];
        assert_eq!(properties["flash_attention"]["deprecated"], true);
        assert!(
            properties["gptq"]["anyOf"][0]["enum"]
                .as_array()
                .unwrap()
                .contains(&json!(false))
        );
        assert!(properties.get("dataset").is_none(), "no key of Axolotl");
        assert!(schema["patternProperties"]["^liger_.*$"].is_object());
        assert!(schema["$defs"]["Dataset"]["properties"]["trust_remote_code"].is_object());
    }
}
