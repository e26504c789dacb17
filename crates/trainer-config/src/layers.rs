//! The layers of a configuration, and what comes of putting them on each other:
//! defaults < file < environment < command line.
//!
//! Each layer is a [`config::Source`] of checked values. Tables merge key by key,
//! everything else (lists too) is replaced; an override of one list entry
//! (`datasets.0.path`) changes that entry alone. A null stands for the default and
//! is taken out after the merge, so it also undoes what a lower layer set.

use std::collections::BTreeMap;
use std::rc::Rc;

use config::{ConfigError, Map, Value, ValueKind};
use serde_json::Value as Json;

use crate::Config;
use crate::diagnostic::Diagnostic;
use crate::shape::{ROOT, Shape};
use crate::source::{Site, Source, SourceKind, Span};
use crate::validate::{Findings, Validator, join};
use crate::yaml::{self, Key, Kind, Node};

/// Where prepared data sets are kept when a configuration of files names no folder.
pub(crate) const PREPARED_FOLDER: &str = "last_run_prepared";

/// Environment variables that start with this are part of the configuration.
const PREFIX: &str = "TRAINER__";

/// One checked layer: expressions of the `config` crate (`datasets[0].path`)
/// with their values.
#[derive(Debug, Clone)]
pub(crate) struct Layer(Vec<(String, Value)>);

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.iter().cloned().collect())
    }
}

/// The lowest layer: [`Config::default`], with the values that only a configuration of
/// files has, since a library writes nothing where nobody told it to.
pub(crate) fn defaults() -> Layer {
    let config = Config {
        dataset_prepared_path: Some(PREPARED_FOLDER.into()),
        ..Config::default()
    };
    let json = serde_json::to_value(config).unwrap_or_default();
    Layer(table(&json).into_iter().collect())
}

fn table(json: &Json) -> Map<String, Value> {
    let entries = json.as_object().into_iter().flatten();
    entries
        .map(|(key, json)| (key.clone(), from_json(json)))
        .collect()
}

fn from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => ValueKind::Boolean(*value),
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => ValueKind::I64(n),
            (None, n) => ValueKind::Float(n.unwrap_or_default()),
        },
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Array(items) => ValueKind::Array(items.iter().map(from_json).collect()),
        Json::Object(_) => ValueKind::Table(table(json)),
    };
    Value::new(None, kind)
}

/// The layer of a YAML file.
pub(crate) fn file(source: &Rc<Source>, text: &str, findings: &mut Findings) -> Option<Layer> {
    let root = match yaml::parse(source, text) {
        Ok((root, errors)) => {
            findings.diagnostics.extend(errors);
            root.filter(|root| !root.is_null())
        }
        Err(error) => {
            findings.diagnostics.push(error);
            return None;
        }
    };
    let Some(root) = root else {
        return Some(Layer(Vec::new()));
    };
    let Kind::Mapping(entries) = &root.kind else {
        let error = Diagnostic::error("the configuration must be a mapping of keys to values")
            .label(source.label(root.span, format!("this is {}", root.describe())))
            .help("write one `key: value` a line");
        findings.diagnostics.push(error);
        return None;
    };
    let mut validator = Validator { source, findings };
    let mut values = Vec::new();
    for (key, node) in entries {
        match ROOT.property(&key.name) {
            Some(shape) => {
                let value = validator.check(node, shape, &key.name, key.span);
                values.extend(value.map(|value| (key.name.clone(), value)));
            }
            None => validator.other_key(key, node, &ROOT, ""),
        }
    }
    Some(Layer(values))
}

/// One layer for each environment variable with our prefix, sorted by name.
pub(crate) fn environment(variables: &[(String, String)], findings: &mut Findings) -> Vec<Layer> {
    let mut ours: Vec<_> = variables
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    ours.sort();
    ours.iter()
        .filter_map(|(variable, value)| {
            let path: Vec<&str> = variable[PREFIX.len()..].split("__").collect();
            let text = format!("{variable}={value}");
            let source = Rc::new(Source::new(
                SourceKind::Environment(variable.clone()),
                &text,
            ));
            let columns = (1, variable.chars().count(), 1);
            override_layer(&source, &path, value, columns, findings)
        })
        .collect()
}

/// One layer for each override of the command line, in its order.
pub(crate) fn command_line(overrides: &[(String, String)], findings: &mut Findings) -> Vec<Layer> {
    overrides
        .iter()
        .filter_map(|(key, value)| {
            let key = key.trim_start_matches('-');
            let flag = format!("--{key}");
            let path: Vec<&str> = key.split('.').collect();
            let source = Rc::new(Source::new(
                SourceKind::CommandLine(flag.clone()),
                &format!("{flag} {value}"),
            ));
            let columns = (3, key.chars().count(), 1);
            override_layer(&source, &path, value, columns, findings)
        })
        .collect()
}

/// Checks one override and puts it where its path says.
///
/// `columns`: where the name starts, how long it is, how long the separator is.
fn override_layer(
    source: &Rc<Source>,
    path: &[&str],
    text: &str,
    (start, width, separator): (usize, usize, usize),
    findings: &mut Findings,
) -> Option<Layer> {
    let name = Span {
        line: 1,
        column: start,
        width,
    };
    let place = Span {
        line: 1,
        column: start + width + separator,
        width: text.chars().count(),
    };
    let mut validator = Validator { source, findings };
    let mut shape: &Shape = &ROOT;
    let mut dotted = String::new();
    let mut expression = String::new();
    for (depth, segment) in path.iter().enumerate() {
        // A key inside a value that may be a mapping.
        if let Shape::OneOf(shapes) = shape
            && let Some(fields) = shapes
                .iter()
                .find(|s| matches!(s, Shape::Struct { .. } | Shape::Map(_)))
        {
            shape = fields;
        }
        match shape {
            Shape::Struct { properties, .. } => {
                let wanted = segment.replace('-', "_");
                let found = properties
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(&wanted));
                let Some((property, inner)) = found else {
                    let node = parse_value(source, text, place, None, validator.findings)?;
                    let key = Key {
                        name: if matches!(source.kind, SourceKind::Environment(_)) {
                            segment.to_lowercase()
                        } else {
                            (*segment).to_owned()
                        },
                        span: name,
                    };
                    validator.other_key(&key, &node, shape, &dotted);
                    return None;
                };
                dotted = join(&dotted, property);
                expression = join(&expression, property);
                shape = inner;
            }
            Shape::List { items, .. } => {
                let Ok(index) = segment.parse::<u16>() else {
                    let error = Diagnostic::error(format!("`{dotted}` is a list"))
                        .label(source.label(name, "needs the number of an entry"))
                        .help(format!("the first entry is `{dotted}.0`"));
                    validator.findings.diagnostics.push(error);
                    return None;
                };
                dotted = join(&dotted, segment);
                expression = format!("{expression}[{index}]");
                shape = items;
            }
            // Keys of the user's own: what is left of the path becomes a table.
            Shape::Map(values) => {
                let rest = &path[depth..];
                let leaf = if rest.len() == 1 {
                    &**values
                } else {
                    &Shape::Any
                };
                let mut node = parse_value(source, text, place, Some(leaf), validator.findings)?;
                for segment in rest.iter().rev() {
                    let key = Key {
                        name: (*segment).to_owned(),
                        span: name,
                    };
                    node = Node::new(Kind::Mapping(vec![(key, node)]), place);
                }
                let value = validator.check(&node, shape, &dotted, name)?;
                return Some(Layer(vec![(expression, value)]));
            }
            _ => {
                let error = Diagnostic::error(format!("`{dotted}` has no keys of its own"))
                    .label(source.label(name, format!("`{dotted}` is {}", shape.describe())));
                validator.findings.diagnostics.push(error);
                return None;
            }
        }
    }
    let node = parse_value(source, text, place, Some(shape), validator.findings)?;
    let value = validator.check(&node, shape, &dotted, name)?;
    Some(Layer(vec![(expression, value)]))
}

/// Reads the text of an override: as it stands where the schema wants text
/// (`<pad>`, `[PAD]`), else as YAML (`1e-4`, `[a, b]`, `{a: 1}`).
fn parse_value(
    source: &Rc<Source>,
    text: &str,
    place: Span,
    shape: Option<&Shape>,
    findings: &mut Findings,
) -> Option<Node> {
    let literal = |text: &str| {
        let kind = Kind::Scalar {
            text: text.to_owned(),
            plain: true,
        };
        Node::new(kind, place)
    };
    let raw =
        matches!(shape, Some(Shape::Text | Shape::Names(_))) && !text.starts_with(['"', '\'']);
    if raw {
        return Some(literal(text));
    }
    let inner = Rc::new(Source::new(source.kind.clone(), text));
    match yaml::parse(&inner, text) {
        Ok((node, errors)) if errors.is_empty() => {
            Some(node.map_or_else(|| literal(""), |node| moved(node, place)))
        }
        _ => {
            let error = Diagnostic::error("the value is not valid YAML")
                .label(source.label(place, "cannot be read"));
            findings.diagnostics.push(error);
            None
        }
    }
}

/// Every part of the value of an override is marked as a whole.
fn moved(node: Node, place: Span) -> Node {
    let kind = match node.kind {
        Kind::Sequence(items) => {
            Kind::Sequence(items.into_iter().map(|item| moved(item, place)).collect())
        }
        Kind::Mapping(entries) => Kind::Mapping(
            entries
                .into_iter()
                .map(|(key, entry)| (Key { span: place, ..key }, moved(entry, place)))
                .collect(),
        ),
        scalar => scalar,
    };
    Node::new(kind, place)
}

/// The merged layers: the values, and where each that was set comes from.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) json: Json,
    pub(crate) sites: BTreeMap<String, Site>,
}

/// Puts the layers on each other, the lowest first.
pub(crate) fn merge(layers: Vec<Layer>, findings: &mut Findings) -> Result<Merged, ConfigError> {
    let mut builder = config::Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    let merged = config::Source::collect(&builder.build()?)?;
    let root = Value::new(None, ValueKind::Table(merged));
    let mut sites = BTreeMap::new();
    let json = resolve(&root, &ROOT, "", &mut sites, findings);
    Ok(Merged { json, sites })
}

fn resolve(
    value: &Value,
    shape: &Shape,
    path: &str,
    sites: &mut BTreeMap<String, Site>,
    findings: &mut Findings,
) -> Json {
    let site = value
        .origin()
        .and_then(|id| id.parse::<usize>().ok())
        .and_then(|id| findings.sites.get(id))
        .cloned();
    if let Some(site) = site {
        sites.insert(path.to_owned(), site);
    }
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(value) => Json::Bool(*value),
        ValueKind::I64(n) => Json::from(*n),
        ValueKind::U64(n) => Json::from(*n),
        ValueKind::I128(n) => Json::from(*n as f64),
        ValueKind::U128(n) => Json::from(*n as f64),
        ValueKind::Float(n) => Json::from(*n),
        ValueKind::String(text) => Json::from(text.as_str()),
        ValueKind::Array(items) => {
            let inner = match shape {
                Shape::List { items, .. } => items,
                _ => &Shape::Any,
            };
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let path = join(path, &index.to_string());
                if matches!(item.kind, ValueKind::Nil) && *inner != Shape::Any {
                    findings.failed.insert(path);
                    list.push(serde_json::json!({}));
                } else {
                    list.push(resolve(item, inner, &path, sites, findings));
                }
            }
            gap(items, inner, path, sites, findings);
            Json::Array(list)
        }
        ValueKind::Table(entries) => {
            let mut object = serde_json::Map::new();
            // The table of the `config` crate has no order.
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, entry) in entries {
                let inner = match shape {
                    Shape::Map(values) => values,
                    other => other.property(key).unwrap_or(&Shape::Any),
                };
                if matches!(entry.kind, ValueKind::Nil) && *inner != Shape::Any {
                    continue;
                }
                let json = resolve(entry, inner, &join(path, key), sites, findings);
                object.insert(key.clone(), json);
            }
            Json::Object(object)
        }
    }
}

/// An override of entry 5 of a list of two leaves entries 2 to 4 without a value.
fn gap(
    items: &[Value],
    inner: &Shape,
    path: &str,
    sites: &BTreeMap<String, Site>,
    findings: &mut Findings,
) {
    if *inner == Shape::Any {
        return;
    }
    let Some(first) = items
        .iter()
        .position(|item| matches!(item.kind, ValueKind::Nil))
    else {
        return;
    };
    let prefixes: Vec<String> = (first + 1..items.len())
        .map(|index| format!("{path}.{index}"))
        .collect();
    let site = sites
        .iter()
        .find(|(key, _)| {
            prefixes
                .iter()
                .any(|p| *key == p || key.starts_with(&format!("{p}.")))
        })
        .map(|(_, site)| site);
    let mut error = Diagnostic::error(format!("`{path}` has no entry {first}"));
    if let Some(site) = site {
        error = error.label(site.at_key("leaves a gap in the list"));
    }
    findings
        .diagnostics
        .push(error.help(format!("the next entry is `{path}.{first}`")));
}
