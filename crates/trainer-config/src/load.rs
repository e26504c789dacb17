//! From the layers to a [`Config`]: read, check, merge, apply the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::diagnostic::{ConfigErrors, Diagnostic, Label, Origin, Severity};
use crate::layers::{self, Layer};
use crate::rules::{self, Given};
use crate::source::{Source, SourceKind, Span};
use crate::validate::Findings;
use crate::{Config, render};

/// Where a configuration is read from, from the lowest layer to the highest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// The YAML file.
    pub file: Option<PathBuf>,
    /// Environment variables. Those that start with `TRAINER__` count: the rest
    /// of the name is a key in any case, with `__` between levels
    /// (`TRAINER__DATASETS__0__PATH`).
    pub env: Vec<(String, String)>,
    /// Overrides: a dotted key (`datasets.0.path`) and a value, which is read as
    /// YAML unless the key wants text.
    pub cli: Vec<(String, String)>,
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where each value comes from.
    pub origins: Origins,
    /// What is accepted but does not do all that it says.
    pub warnings: Vec<Diagnostic>,
    places: Places,
}

/// Where the keys of a configuration stand, for what is found out about them later.
#[derive(Debug, Clone, Default, PartialEq)]
struct Places {
    file: Option<PathBuf>,
    keys: BTreeMap<String, Label>,
    /// Keys whose values are unusable.
    failed: BTreeSet<String>,
}

impl Places {
    /// The place of a key, else of the first thing inside it, else of what is around it.
    fn label(&self, key: &str) -> Option<&Label> {
        let prefix = format!("{key}.");
        let inside = || {
            let mut keys = self.keys.range(prefix.clone()..);
            let first = keys.next().filter(|(key, _)| key.starts_with(&prefix));
            first.map(|(_, label)| label)
        };
        let around = || {
            key.rsplit_once('.')
                .and_then(|(outer, _)| self.label(outer))
        };
        self.keys.get(key).or_else(inside).or_else(around)
    }
}

impl Loaded {
    /// An error about a key that only what lies outside of the configuration tells, such
    /// as a file that is not there. It points at the line of the key, or of the smallest
    /// part of the configuration around it that was set; `note` stands beside the mark.
    #[must_use]
    pub fn error(&self, key: &str, message: &str, note: &str, help: &str) -> Diagnostic {
        let mut diagnostic = Diagnostic::error(message).in_file(self.places.file.clone());
        if let Some(label) = self.places.label(key) {
            let note = note.to_owned();
            diagnostic.labels.push(Label {
                note,
                ..label.clone()
            });
        }
        if !help.is_empty() {
            diagnostic.help.push(help.to_owned());
        }
        diagnostic
    }

    /// As [`error`](Self::error), of what the run can do without.
    #[must_use]
    pub fn warning(&self, key: &str, message: &str, note: &str, help: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..self.error(key, message, note, help)
        }
    }

    /// Whether no error is about the values of these keys.
    #[must_use]
    pub fn is_usable(&self, keys: &[&str]) -> bool {
        usable(&self.places.failed, keys)
    }

    /// The resolved configuration as YAML, with the origin of each value in a
    /// comment. Loading this text gives the same configuration.
    #[must_use]
    pub fn render(&self) -> String {
        render::render(&self.config, &self.origins)
    }
}

/// Whether none of these keys, nothing inside them and nothing around them has failed.
pub(crate) fn usable(failed: &BTreeSet<String>, keys: &[&str]) -> bool {
    let inside = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let one = |key: &&str| !failed.iter().any(|it| inside(it, key) || inside(key, it));
    keys.iter().all(one)
}

/// Where each value comes from, by dotted key (`datasets.0.path`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// The origin of a value, or of the smallest part of the configuration
    /// around it that was set as a whole.
    #[must_use]
    pub fn get(&self, key: &str) -> &Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.0.get(key) {
                return origin;
            }
            match key.rsplit_once('.') {
                Some((outer, _)) => key = outer,
                None => return &Origin::Default,
            }
        }
    }

    /// Every value that was set, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().map(|(key, origin)| (key.as_str(), origin))
    }

    pub(crate) fn set(&mut self, key: &str, origin: Origin) {
        self.0.insert(key.to_owned(), origin);
    }
}

/// What is found out about a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// The configuration as far as it could be read: absent where a file is no YAML, and
    /// with the default in place of each value that cannot be used.
    pub loaded: Option<Loaded>,
    /// Everything that is wrong.
    pub errors: Vec<Diagnostic>,
}

impl Examined {
    /// The configuration, if nothing is wrong with it.
    ///
    /// # Errors
    /// What is, with the warnings.
    pub fn into_result(self) -> Result<Loaded, ConfigErrors> {
        match self.loaded {
            Some(loaded) if self.errors.is_empty() => Ok(loaded),
            loaded => {
                let warnings = loaded.into_iter().flat_map(|loaded| loaded.warnings);
                Err(ConfigErrors::new(
                    self.errors.into_iter().chain(warnings).collect(),
                ))
            }
        }
    }
}

/// Loads and checks a configuration.
///
/// # Errors
/// Everything that is wrong in any layer: an unreadable file, YAML that is not
/// YAML, unknown and unsupported keys, types, ranges, and rules between keys.
pub fn load(layers: &Layers) -> Result<Loaded, ConfigErrors> {
    examine(layers).into_result()
}

/// Loads a configuration even if something is wrong with it, so that what its files hold
/// can be looked at as well.
#[must_use]
pub fn examine(layers: &Layers) -> Examined {
    let text = match &layers.file {
        None => None,
        Some(path) => match read(path) {
            Ok(text) => Some((path.as_path(), text)),
            Err(error) => {
                return Examined {
                    loaded: None,
                    errors: vec![error],
                };
            }
        },
    };
    let file = text.as_ref().map(|(path, text)| (*path, text.as_str()));
    assemble(file, &layers.env, &layers.cli)
}

/// Loads a configuration from a text; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn load_str(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    assemble(Some((Path::new(name), text)), &[], &[]).into_result()
}

pub(crate) fn read(path: &Path) -> Result<String, Diagnostic> {
    let bytes = std::fs::read(path).map_err(|error| {
        Diagnostic::error(format!("cannot read the configuration: {error}"))
            .in_file(Some(path.to_path_buf()))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let start = bytes[..at]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |newline| newline + 1);
        let span = Span {
            line: bytes[..at].iter().filter(|b| **b == b'\n').count() + 1,
            column: String::from_utf8_lossy(&bytes[start..at]).chars().count() + 1,
            width: 1,
        };
        let source = Source::new(
            SourceKind::File(path.to_path_buf()),
            &String::from_utf8_lossy(bytes),
        );
        Diagnostic::error("the configuration is not UTF-8 text")
            .label(source.label(span, format!("byte 0x{:02x}", bytes[at])))
            .help("save the file in the UTF-8 encoding")
    })
}

fn assemble(
    file: Option<(&Path, &str)>,
    env: &[(String, String)],
    cli: &[(String, String)],
) -> Examined {
    let mut findings = Findings::default();
    let nothing = |diagnostics| Examined {
        loaded: None,
        errors: diagnostics,
    };
    let mut all: Vec<Layer> = vec![layers::defaults()];
    if let Some((path, text)) = file {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Rc::new(Source::new(SourceKind::File(path.to_path_buf()), text));
        match layers::file(&source, text, &mut findings) {
            Some(layer) => all.push(layer),
            // Without a tree nothing can be said about what it holds.
            None => return nothing(findings.diagnostics),
        }
    }
    all.extend(layers::environment(env, &mut findings));
    all.extend(layers::command_line(cli, &mut findings));
    let merged = match layers::merge(all, &mut findings) {
        Ok(merged) => merged,
        Err(error) => return nothing(vec![Diagnostic::error(error.to_string())]),
    };
    let mut config: Config = match serde_json::from_value(merged.json) {
        Ok(config) => config,
        // A value was left out that nothing else can stand in for.
        Err(_) if !findings.diagnostics.is_empty() => return nothing(findings.diagnostics),
        Err(error) => return nothing(vec![Diagnostic::error(error.to_string())]),
    };
    let mut origins = Origins::default();
    for (key, site) in &merged.sites {
        origins.set(key, site.origin());
    }
    let file = file.map(|(path, _)| path.to_path_buf());
    let given = Given::Layers(&merged.sites);
    rules::apply(&config, &given, file.clone(), &mut findings);
    let mut keys: BTreeMap<String, Label> = merged
        .sites
        .iter()
        .map(|(key, site)| (key.clone(), site.at_key("")))
        .collect();
    rules::derive(&mut config, &given, |key, from| {
        if let Some(site) = merged.sites.get(from) {
            origins.set(key, site.origin());
            keys.insert(key.to_owned(), site.at_key(""));
        }
    });
    let (errors, mut warnings): (Vec<_>, Vec<_>) = findings
        .diagnostics
        .into_iter()
        .partition(|diagnostic| diagnostic.severity == Severity::Error);
    warnings.sort_by_key(Diagnostic::sort_key);
    Examined {
        loaded: Some(Loaded {
            config,
            origins,
            warnings,
            places: Places {
                file,
                keys,
                failed: findings.failed,
            },
        }),
        errors,
    }
}
