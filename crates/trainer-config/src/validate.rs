//! One layer against the schema: every value is checked and put into its type.
//!
//! What passes becomes a [`config::Value`] whose origin is the number of its
//! [`Site`]; what does not pass is left out, reported, and remembered as failed,
//! so that the rules between keys say nothing about it.

use std::collections::BTreeSet;
use std::rc::Rc;

use config::{Map, Value, ValueKind};

use crate::diagnostic::{Diagnostic, Label};
use crate::keys::{Entry, Kind as Known, TABLE, nearest};
use crate::scalar::{self, Scalar};
use crate::shape::{ROOT, Range, Shape, known_words};
use crate::source::{Site, Source, SourceKind, Span};
use crate::yaml::{Key, Kind, Node};

/// What all layers together have found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) sites: Vec<Site>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Dotted paths of values that were given but are unusable.
    pub(crate) failed: BTreeSet<String>,
}

pub(crate) struct Validator<'a> {
    pub(crate) source: &'a Rc<Source>,
    pub(crate) findings: &'a mut Findings,
}

/// `datasets.0.path` as the table of known keys has it: `datasets[].path`.
fn table_path(path: &str) -> String {
    let mut result = String::new();
    for segment in path.split('.') {
        if segment.bytes().all(|b| b.is_ascii_digit()) {
            result.push_str("[]");
        } else {
            if !result.is_empty() {
                result.push('.');
            }
            result.push_str(if segment == "test_datasets" {
                "datasets"
            } else {
                segment
            });
        }
    }
    result
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl Validator<'_> {
    fn label(&self, span: Span, note: impl Into<String>) -> Label {
        self.source.label(span, note)
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.findings.diagnostics.push(diagnostic);
    }

    /// Reports a value that cannot be used.
    fn fail(&mut self, path: &str, diagnostic: Diagnostic) -> Option<Value> {
        self.findings.failed.insert(path.to_owned());
        self.report(diagnostic);
        None
    }

    fn value(&mut self, key: Span, value: Span, kind: impl Into<ValueKind>) -> Value {
        let id = self.findings.sites.len().to_string();
        self.findings.sites.push(Site {
            source: Rc::clone(self.source),
            key,
            value,
        });
        Value::new(Some(&id), kind)
    }

    /// Checks the value of `path`; `key` is where its name stands.
    pub(crate) fn check(
        &mut self,
        node: &Node,
        shape: &Shape,
        path: &str,
        key: Span,
    ) -> Option<Value> {
        if node.is_null() && *shape != Shape::Any {
            return Some(self.value(key, node.span, ValueKind::Nil));
        }
        match (shape, &node.kind) {
            (Shape::Any, _) => self.any(node, key),
            (Shape::Struct { .. }, Kind::Mapping(entries)) => {
                self.fields(entries, shape, node, path, key)
            }
            (Shape::Map(values), Kind::Mapping(entries)) => {
                let mut table = Map::new();
                for (name, entry) in entries {
                    if let Some(value) =
                        self.check(entry, values, &join(path, &name.name), name.span)
                    {
                        table.insert(name.name.clone(), value);
                    }
                }
                Some(self.value(key, node.span, table))
            }
            (Shape::List { items, min }, Kind::Sequence(entries)) => {
                self.list(entries, items, *min, node, path, key)
            }
            (Shape::OneOf(shapes), Kind::Scalar { text, .. }) => {
                // `y` may be a name where one is as welcome.
                let text_as_well = shapes.contains(&Shape::Text);
                let fitting = shapes.iter().find(|shape| match shape {
                    Shape::Bool if text_as_well => scalar::boolean(text).is_some(),
                    Shape::Bool => scalar::flag(text).is_some(),
                    Shape::Names(names) => names.contains(text),
                    _ => false,
                });
                // Where a name is all that a scalar can be, it is a wrong name.
                let only = match shapes.as_slice() {
                    [names @ Shape::Names(_), Shape::Struct { .. }] => Some(names),
                    _ => None,
                };
                let text_too = || shapes.iter().find(|shape| **shape == Shape::Text);
                match fitting.or(only).or_else(text_too) {
                    Some(fitting) => self.scalar(text, node, fitting, path, key),
                    None => self.wrong_type(node, shape, path),
                }
            }
            (Shape::OneOf(shapes), Kind::Mapping(_)) => {
                let fits = |s: &&Shape| matches!(s, Shape::Struct { .. } | Shape::Map(_));
                match shapes.iter().find(fits) {
                    Some(fitting) => self.check(node, fitting, path, key),
                    None => self.wrong_type(node, shape, path),
                }
            }
            (Shape::OneOf(shapes), Kind::Sequence(_)) => {
                match shapes.iter().find(|s| matches!(s, Shape::List { .. })) {
                    Some(fitting) => self.check(node, fitting, path, key),
                    None => self
                        .known_value(node, path, key)
                        .unwrap_or_else(|| self.wrong_type(node, shape, path)),
                }
            }
            (_, Kind::Scalar { text, .. }) => self.scalar(text, node, shape, path, key),
            _ => self
                .known_value(node, path, key)
                .unwrap_or_else(|| self.wrong_type(node, shape, path)),
        }
    }

    fn list(
        &mut self,
        entries: &[Node],
        items: &Shape,
        min: u64,
        node: &Node,
        path: &str,
        key: Span,
    ) -> Option<Value> {
        if (entries.len() as u64) < min {
            let error = Diagnostic::error(format!("`{path}` is empty"))
                .label(self.label(node.span, format!("needs at least {min} entry")));
            return self.fail(path, error);
        }
        let mut list = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let path = join(path, &index.to_string());
            let checked = if entry.is_null() && *items != Shape::Any {
                self.wrong_type(entry, items, &path)
            } else {
                self.check(entry, items, &path, entry.span)
            };
            // An unusable entry leaves its place, so that the others keep theirs.
            list.push(checked.unwrap_or_else(|| Value::new(None, placeholder(items))));
        }
        Some(self.value(key, node.span, list))
    }

    fn fields(
        &mut self,
        entries: &[(Key, Node)],
        shape: &Shape,
        node: &Node,
        path: &str,
        key: Span,
    ) -> Option<Value> {
        let mut table = Map::new();
        for (name, entry) in entries {
            let inner = join(path, &name.name);
            let checked = match shape.property(&name.name) {
                Some(property) => self.check(entry, property, &inner, name.span),
                None => {
                    self.other_key(name, entry, shape, path);
                    None
                }
            };
            if let Some(value) = checked {
                table.insert(name.name.clone(), value);
            }
        }
        Some(self.value(key, node.span, table))
    }

    fn scalar(
        &mut self,
        text: &str,
        node: &Node,
        shape: &Shape,
        path: &str,
        key: Span,
    ) -> Option<Value> {
        match shape {
            Shape::Bool => match scalar::flag(text) {
                Some(value) => Some(self.value(key, node.span, value)),
                None => self.wrong_type(node, shape, path),
            },
            Shape::Integer(range) => self.whole(text, node, range, path, key),
            Shape::Number(range) => match scalar::integer(text.trim())
                .map(|n| n as f64)
                .or_else(|| scalar::number(text.trim()))
            {
                None => self.wrong_type(node, shape, path),
                Some(value) if range.contains(value) => Some(self.value(key, node.span, value)),
                Some(_) => self.out_of_range(node, range, path),
            },
            Shape::Names(names) => {
                if names.iter().any(|name| name == text) {
                    Some(self.value(key, node.span, text))
                } else {
                    self.known_value(node, path, key)
                        .unwrap_or_else(|| self.unknown_name(text, names, node, path))
                }
            }
            Shape::Text => self.text(text, node, path, key),
            _ => self
                .known_value(node, path, key)
                .unwrap_or_else(|| self.wrong_type(node, shape, path)),
        }
    }

    fn whole(
        &mut self,
        text: &str,
        node: &Node,
        range: &Range,
        path: &str,
        key: Span,
    ) -> Option<Value> {
        let shape = Shape::Integer(range.clone());
        let text = text.trim();
        // `2.0` and `1e3` are whole numbers too.
        let whole = |n: f64| (n.fract() == 0.0 && n.abs() < 2f64.powi(64)).then_some(n as i128);
        let Some(value) = scalar::integer(text).or_else(|| scalar::number(text).and_then(whole))
        else {
            return self.wrong_type(node, &shape, path);
        };
        let kind = if let Ok(value) = i64::try_from(value) {
            ValueKind::I64(value)
        } else if let Ok(value) = u64::try_from(value) {
            ValueKind::U64(value)
        } else {
            return self.out_of_range(node, range, path);
        };
        if range.contains(value as f64) {
            Some(self.value(key, node.span, kind))
        } else {
            self.out_of_range(node, range, path)
        }
    }

    fn text(&mut self, text: &str, node: &Node, path: &str, key: Span) -> Option<Value> {
        if let Some(known) = self.known_value(node, path, key) {
            return known;
        }
        // A number or `true` where a name belongs is more likely a slip; on the
        // command line and in the environment there are no quotes to tell by.
        let plain = matches!(node.kind, Kind::Scalar { plain: true, .. });
        if plain
            && matches!(self.source.kind, SourceKind::File(_))
            && scalar::resolve(text) != Scalar::Text
        {
            let error = Diagnostic::error(format!("`{path}` must be text"))
                .label(self.label(node.span, format!("this is {}", node.describe())))
                .help(format!(
                    "if it is meant as text, put it in quotes: \"{text}\""
                ));
            return self.fail(path, error);
        }
        Some(self.value(key, node.span, text))
    }

    /// A value where the schema leaves the type open.
    fn any(&mut self, node: &Node, key: Span) -> Option<Value> {
        let kind = match &node.kind {
            Kind::Scalar { text, plain: false } => ValueKind::String(text.clone()),
            Kind::Scalar { text, .. } => match scalar::resolve(text) {
                Scalar::Null => ValueKind::Nil,
                Scalar::Bool(value) => ValueKind::Boolean(value),
                Scalar::Integer(value) => match i64::try_from(value) {
                    Ok(value) => ValueKind::I64(value),
                    Err(_) => ValueKind::Float(value as f64),
                },
                Scalar::Float(value) => ValueKind::Float(value),
                Scalar::Text => ValueKind::String(text.clone()),
            },
            Kind::Sequence(items) => ValueKind::Array(
                items
                    .iter()
                    .filter_map(|item| self.any(item, item.span))
                    .collect(),
            ),
            Kind::Mapping(entries) => ValueKind::Table(
                entries
                    .iter()
                    .filter_map(|(name, entry)| {
                        Some((name.name.clone(), self.any(entry, name.span)?))
                    })
                    .collect(),
            ),
        };
        Some(self.value(key, node.span, kind))
    }

    fn wrong_type(&mut self, node: &Node, shape: &Shape, path: &str) -> Option<Value> {
        let name = path.rsplit('.').next().unwrap_or(path);
        let mut error = Diagnostic::error(format!("`{path}` must be {}", shape.describe()))
            .label(self.label(node.span, format!("this is {}", node.describe())));
        match (shape, &node.kind) {
            (Shape::List { items, .. }, Kind::Mapping(_))
                if matches!(**items, Shape::Struct { .. }) =>
            {
                error = error.help("start the entry with `- `");
            }
            (Shape::List { items, .. }, Kind::Scalar { text, .. }) if **items == Shape::Text => {
                error = error.help(format!("write a list: [{text}]"));
            }
            (Shape::Struct { properties, .. }, Kind::Scalar { .. }) => {
                if let Some((name, _)) = properties.first() {
                    error = error.help(format!("write `{name}: ...` and further keys here"));
                }
            }
            (Shape::Integer(_), Kind::Scalar { text, .. }) if scalar::number(text).is_some() => {
                error = error.help("give a number without a fraction");
            }
            (_, Kind::Scalar { text, .. }) => {
                let words = shape.words().unwrap_or_default();
                if let Some(word) = nearest(text, words.into_iter().map(|word| (word, true))) {
                    error = error.help(suggestion(word, None));
                }
                error = error.help(shape.advice(name));
            }
            _ => error = error.help(shape.advice(name)),
        }
        self.fail(path, error)
    }

    fn out_of_range(&mut self, node: &Node, range: &Range, path: &str) -> Option<Value> {
        let error = Diagnostic::error(format!("`{path}` is out of range"))
            .label(self.label(node.span, format!("must be {}", range.describe())));
        self.fail(path, error)
    }

    fn unknown_name(
        &mut self,
        text: &str,
        names: &[String],
        node: &Node,
        path: &str,
    ) -> Option<Value> {
        let table = table_path(path);
        let ours = names.iter().map(|name| (name.as_str(), true));
        let theirs = TABLE.values(&table).map(|(name, _)| (name, false));
        let mut error = Diagnostic::error(format!("unknown value for `{path}`"))
            .label(self.label(node.span, "not a known value"));
        if let Some(name) = nearest(text, ours.chain(theirs)) {
            error = error.help(suggestion(name, TABLE.get(&format!("{table}={name}"))));
        }
        self.fail(path, error.help(known_words(names)))
    }

    /// What the table of Axolotl's values says about a value, if it is in it.
    fn known_value(&mut self, node: &Node, path: &str, key: Span) -> Option<Option<Value>> {
        let text = match &node.kind {
            Kind::Scalar { text, .. } => text.as_str(),
            Kind::Mapping(_) => "{}",
            Kind::Sequence(_) => "[]",
        };
        let entry = TABLE.get(&format!("{}={text}", table_path(path)))?;
        let written = match &node.kind {
            Kind::Scalar { .. } => format!("`{path}: {text}`"),
            _ => format!("{} for `{path}`", node.describe()),
        };
        let diagnostic = describe(
            entry,
            "value",
            &written,
            self.label(node.span, note(entry.kind)),
        );
        if entry.kind == Known::Ignored {
            self.report(diagnostic);
            return Some(Some(self.value(key, node.span, ValueKind::Nil)));
        }
        Some(self.fail(path, diagnostic))
    }

    /// A key that is not in the schema: in the table of Axolotl's keys, or unknown.
    pub(crate) fn other_key(&mut self, key: &Key, node: &Node, shape: &Shape, path: &str) {
        let full = join(path, &key.name);
        let table = table_path(&full);
        let Some(entry) = TABLE.get(&table) else {
            return self.unknown_key(key, shape, path);
        };
        let asks_for_nothing = node.is_null()
            || match &node.kind {
                Kind::Scalar { text, .. } => {
                    scalar::boolean(text) == Some(false) || entry.accepts(text)
                }
                Kind::Sequence(items) => items.is_empty(),
                Kind::Mapping(entries) => entries.is_empty(),
            };
        if asks_for_nothing && entry.kind != Known::Alias {
            return;
        }
        let diagnostic = describe(
            entry,
            "key",
            &format!("`{full}`"),
            self.label(key.span, note(entry.kind)),
        );
        if matches!(entry.kind, Known::Renamed | Known::Alias) {
            self.findings.failed.insert(join(path, entry.hint));
        }
        self.report(diagnostic);
    }

    fn unknown_key(&mut self, key: &Key, shape: &Shape, path: &str) {
        let full = join(path, &key.name);
        let mut error = Diagnostic::error(format!("unknown key `{full}`"))
            .label(self.label(key.span, "not a known key"));
        let Shape::Struct { properties, .. } = shape else {
            return self.report(error);
        };
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{}.", table_path(path))
        };
        let ours = properties.iter().map(|(name, _)| (name.as_str(), true));
        let theirs = TABLE.names(&prefix).map(|(name, _)| (name, false));
        let entry_shape = match ROOT.property("datasets") {
            Some(Shape::List { items, .. }) => Some(&**items),
            _ => None,
        };
        if path.is_empty() && entry_shape.is_some_and(|entry| entry.property(&key.name).is_some()) {
            error = error.help(format!(
                "`{}` belongs inside an entry of `datasets`",
                key.name
            ));
        } else if !path.is_empty() && ROOT.property(&key.name).is_some() {
            error = error.help(format!(
                "`{}` belongs at the top level of the file",
                key.name
            ));
        } else if let Some(name) = nearest(&key.name, ours.chain(theirs)) {
            error = error.help(suggestion(name, TABLE.get(&format!("{prefix}{name}"))));
            self.findings.failed.insert(join(path, name));
        } else if !path.is_empty() {
            let names: Vec<String> = properties
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            error = error.help(format!("known keys here: {}", names.join(", ")));
        } else {
            error = error.help("`trainer schema` prints the JSON schema with every key");
        }
        self.report(error);
    }
}

/// Stands in for an unusable entry of a list.
fn placeholder(items: &Shape) -> ValueKind {
    match items {
        Shape::Text | Shape::Names(_) => ValueKind::String(String::new()),
        _ => ValueKind::Table(Map::new()),
    }
}

/// A help line that offers a name.
pub(crate) fn suggestion(name: &str, entry: Option<&Entry>) -> String {
    match entry.map(|entry| entry.kind) {
        None => format!("did you mean `{name}`?"),
        Some(Known::Later) => format!("did you mean `{name}`? (which is not supported yet)"),
        Some(_) => format!("did you mean `{name}`? (which has no equivalent here)"),
    }
}

fn note(kind: Known) -> &'static str {
    match kind {
        Known::Later => "Axolotl has this; it is still to come here",
        Known::Python => "about a Python or CUDA library",
        Known::Ignored => "ignored",
        Known::Renamed => "an old name",
        Known::Removed => "no longer taken by Axolotl either",
        Known::Alias => "not a name of this project",
    }
}

fn describe(entry: &Entry, what: &str, written: &str, label: Label) -> Diagnostic {
    let hint = entry.hint;
    match entry.kind {
        Known::Later => Diagnostic::error(format!("{written} is not supported yet"))
            .label(label)
            .help(hint),
        Known::Python => Diagnostic::error(format!("{written} has no meaning here"))
            .label(label)
            .help(hint),
        Known::Ignored => Diagnostic::warning(format!("{written} has no effect"))
            .label(label)
            .help(hint),
        Known::Removed => Diagnostic::error(format!("{written} was removed"))
            .label(label)
            .help(hint),
        Known::Renamed => Diagnostic::error(format!("{written} was renamed"))
            .label(label)
            .help(format!("write `{hint}`")),
        Known::Alias => Diagnostic::error(format!("unknown {what} {written}"))
            .label(label)
            .help(format!("it is called `{hint}` here")),
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
