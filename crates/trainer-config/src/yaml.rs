//! YAML text to a tree in which every key and value knows its place.
//!
//! Scalars stay text (see `scalar`), mapping keys are strings in the order of the
//! file, aliases are expanded within a budget, and `<<` merges as in YAML 1.1. A
//! syntax error ends the parse; repeated keys are all collected.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan, Tag};

use crate::diagnostic::Diagnostic;
use crate::scalar;
use crate::source::{Source, Span};

/// Most nodes of a document after aliases are expanded.
const MAX_NODES: usize = 100_000;
/// Deepest nesting after aliases are expanded.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
    nodes: usize,
    depth: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// `plain`: written without quotes, so that it may be a number or a word
    /// such as `true`.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) span: Span,
}

impl Node {
    pub(crate) fn new(kind: Kind, span: Span) -> Self {
        let (nodes, depth) = match &kind {
            Kind::Scalar { .. } => (1, 1),
            Kind::Sequence(items) => size(items.iter()),
            Kind::Mapping(entries) => size(entries.iter().map(|(_, node)| node)),
        };
        Self {
            kind,
            span,
            nodes,
            depth,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if scalar::is_null(text))
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
            Kind::Scalar { plain: false, .. } => "text",
            Kind::Scalar { text, .. } => match scalar::resolve(text) {
                scalar::Scalar::Null => "empty",
                scalar::Scalar::Bool(_) => "a truth value",
                scalar::Scalar::Integer(_) | scalar::Scalar::Float(_) => "a number",
                scalar::Scalar::Text => "text",
            },
        }
    }
}

fn size<'a>(children: impl Iterator<Item = &'a Node>) -> (usize, usize) {
    children.fold((1, 1), |(nodes, depth), child| {
        (nodes + child.nodes, depth.max(child.depth + 1))
    })
}

enum Frame {
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>, Option<Key>),
}

struct Open {
    frame: Frame,
    span: Span,
    anchor: usize,
}

struct Builder<'a> {
    source: &'a Rc<Source>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    diagnostics: Vec<Diagnostic>,
}

/// Parses one document; an empty one gives no node.
///
/// Beside the node come errors that do not stop the parse (repeated keys).
///
/// # Errors
/// What stopped the parse.
pub(crate) fn parse(
    source: &Rc<Source>,
    text: &str,
) -> Result<(Option<Node>, Vec<Diagnostic>), Diagnostic> {
    let mut builder = Builder {
        source,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
        diagnostics: Vec::new(),
    };
    let mut options = granit_parser::options! {};
    options.set_emit_comments(false);
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let mark = error.marker();
                let span = Span {
                    line: mark.line().max(1),
                    column: mark.col() + 1,
                    width: 1,
                };
                let info = error.info();
                let mut diagnostic = builder.error(span, "this is not valid YAML", info.as_str());
                if source
                    .line(span.line)
                    .trim_start_matches(' ')
                    .starts_with('\t')
                {
                    diagnostic = diagnostic.help("YAML is indented with spaces, never with tabs");
                } else if info.contains("block collection") || info.contains("block mapping") {
                    diagnostic = diagnostic
                        .help("compare the indentation of this line with the lines above it");
                }
                return Err(diagnostic);
            }
        };
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                let error = builder
                    .error(
                        one_line(span),
                        "more than one YAML document",
                        "a second one starts here",
                    )
                    .help("keep one configuration per file");
                return Err(error);
            }
        }
        builder.event(event, span)?;
    }
    Ok((builder.root, builder.diagnostics))
}

fn one_line(span: ParserSpan) -> Span {
    let width = if span.end.line() == span.start.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        usize::MAX
    };
    Span {
        line: span.start.line().max(1),
        column: span.start.col() + 1,
        width,
    }
}

impl Builder<'_> {
    fn error(&self, span: Span, message: &str, note: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).label(self.source.label(span, note))
    }

    fn event(&mut self, event: Event<'_>, place: ParserSpan) -> Result<(), Diagnostic> {
        let tag_span = one_line(place.tag_span().unwrap_or(place));
        let span = one_line(place);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = self.check_tag(tag.as_deref(), tag_span)?;
                let plain = style == ScalarStyle::Plain && tag != Some("str");
                let text = text.into_owned();
                self.finish(Node::new(Kind::Scalar { text, plain }, span), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_span)?;
                self.start(Frame::Sequence(Vec::new()), span, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_span)?;
                self.start(Frame::Mapping(Vec::new(), None), span, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(mut open) = self.open.pop() else {
                    return Ok(());
                };
                // The end of `[...]` and `{...}` has a width; that of a block has none.
                if !place.is_empty() && place.end.line() == open.span.line {
                    open.span.width = (place.end.col() + 1).saturating_sub(open.span.column);
                }
                let kind = match open.frame {
                    Frame::Sequence(items) => Kind::Sequence(items),
                    Frame::Mapping(entries, _) => Kind::Mapping(self.close_mapping(entries)),
                };
                self.finish(Node::new(kind, open.span), open.anchor)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => {
                    let node = node.clone();
                    self.finish(node, 0)
                }
                None => Err(self.error(
                    span,
                    "an alias inside of its own anchor",
                    "refers to itself",
                )),
            },
            _ => Ok(()),
        }
    }

    /// The suffix of a YAML core tag; any other tag is an error.
    fn check_tag<'t>(
        &self,
        tag: Option<&'t Tag>,
        span: Span,
    ) -> Result<Option<&'t str>, Diagnostic> {
        match tag {
            None => Ok(None),
            Some(tag) => match tag.core_suffix() {
                Some(suffix) => Ok(Some(suffix)),
                None => Err(self
                    .error(span, "YAML tags are not supported", "a tag")
                    .help("values are plain text, numbers, lists and mappings; remove the tag")),
            },
        }
    }

    fn start(&mut self, frame: Frame, span: Span, anchor: usize) -> Result<(), Diagnostic> {
        if let Some(Open {
            frame: Frame::Mapping(_, None),
            ..
        }) = self.open.last()
        {
            return Err(self.error(
                span,
                "a key must be a word",
                "this key is a list or a mapping",
            ));
        }
        self.open.push(Open {
            frame,
            span,
            anchor,
        });
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Diagnostic> {
        self.nodes += node.nodes;
        if self.nodes > MAX_NODES || self.open.len() + node.depth > MAX_DEPTH {
            return Err(self.error(
                node.span,
                "the YAML is too large or too deeply nested",
                format!("at most {MAX_NODES} values and {MAX_DEPTH} levels, aliases included"),
            ));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open {
                frame: Frame::Sequence(items),
                ..
            }) => items.push(node),
            Some(Open {
                frame: Frame::Mapping(entries, key),
                ..
            }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => match node.kind {
                    Kind::Scalar { text, .. } => {
                        *key = Some(Key {
                            name: text,
                            span: node.span,
                        });
                    }
                    _ => {
                        return Err(self.error(
                            node.span,
                            "a key must be a word",
                            "this key is a list or a mapping",
                        ));
                    }
                },
            },
        }
        Ok(())
    }

    /// Reports repeated keys and puts in what `<<` brings.
    fn close_mapping(&mut self, entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
        let mut seen: HashMap<String, Span> = HashMap::new();
        let mut result = Vec::with_capacity(entries.len());
        let mut merged = Vec::new();
        for (key, node) in entries {
            if key.name == "<<" {
                match node.kind {
                    Kind::Mapping(inner) => merged.extend(inner),
                    Kind::Sequence(items)
                        if items
                            .iter()
                            .all(|item| matches!(item.kind, Kind::Mapping(_))) =>
                    {
                        for item in items {
                            if let Kind::Mapping(inner) = item.kind {
                                merged.extend(inner);
                            }
                        }
                    }
                    _ => {
                        let error = self.error(node.span, "`<<` merges mappings", "not a mapping");
                        self.diagnostics.push(error);
                    }
                }
                continue;
            }
            if let Some(first) = seen.get(&key.name) {
                let error = self
                    .error(
                        key.span,
                        &format!("the key `{}` appears twice", key.name),
                        "again here",
                    )
                    .label(self.source.label(*first, "first here"))
                    .help("keep one of the two");
                self.diagnostics.push(error);
                continue;
            }
            seen.insert(key.name.clone(), key.span);
            result.push((key, node));
        }
        for (key, node) in merged {
            if !seen.contains_key(&key.name) {
                seen.insert(key.name.clone(), key.span);
                result.push((key, node));
            }
        }
        result
    }
}
