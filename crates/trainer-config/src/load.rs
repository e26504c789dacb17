//! From the layers to a [`Config`]: read, check, merge, apply the rules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::diagnostic::{ConfigErrors, Diagnostic, Origin, Severity};
use crate::layers::{self, Layer};
use crate::rules;
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
}

impl Loaded {
    /// The resolved configuration as YAML, with the origin of each value in a
    /// comment. Loading this text gives the same configuration.
    #[must_use]
    pub fn render(&self) -> String {
        render::render(&self.config, &self.origins)
    }
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

/// Loads and checks a configuration.
///
/// # Errors
/// Everything that is wrong in any layer: an unreadable file, YAML that is not
/// YAML, unknown and unsupported keys, types, ranges, and rules between keys.
pub fn load(layers: &Layers) -> Result<Loaded, ConfigErrors> {
    let text = match &layers.file {
        None => None,
        Some(path) => Some((
            path.as_path(),
            read(path).map_err(|error| ConfigErrors::new(vec![error]))?,
        )),
    };
    let file = text.as_ref().map(|(path, text)| (*path, text.as_str()));
    assemble(file, &layers.env, &layers.cli)
}

/// Loads a configuration from a text; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn load_str(name: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    assemble(Some((Path::new(name), text)), &[], &[])
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
) -> Result<Loaded, ConfigErrors> {
    let mut findings = Findings::default();
    let mut all: Vec<Layer> = vec![layers::defaults()];
    if let Some((path, text)) = file {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Rc::new(Source::new(SourceKind::File(path.to_path_buf()), text));
        match layers::file(&source, text, &mut findings) {
            Some(layer) => all.push(layer),
            // Without a tree nothing can be said about what it holds.
            None => return Err(ConfigErrors::new(findings.diagnostics)),
        }
    }
    all.extend(layers::environment(env, &mut findings));
    all.extend(layers::command_line(cli, &mut findings));
    let internal = |message: String| ConfigErrors::new(vec![Diagnostic::error(message)]);
    let merged = layers::merge(all, &mut findings).map_err(|error| internal(error.to_string()))?;
    let config: Config = match serde_json::from_value(merged.json) {
        Ok(config) => config,
        // A value was left out that nothing else can stand in for.
        Err(_) if !findings.diagnostics.is_empty() => {
            return Err(ConfigErrors::new(findings.diagnostics));
        }
        Err(error) => return Err(internal(error.to_string())),
    };
    let mut origins = Origins::default();
    for (key, site) in &merged.sites {
        origins.set(key, site.origin());
    }
    let file = file.map(|(path, _)| path.to_path_buf());
    let config = rules::apply(config, &merged.sites, &mut origins, file, &mut findings);
    if findings
        .diagnostics
        .iter()
        .any(|d| d.severity == Severity::Error)
    {
        return Err(ConfigErrors::new(findings.diagnostics));
    }
    let mut warnings = findings.diagnostics;
    warnings.sort_by_key(Diagnostic::sort_key);
    Ok(Loaded {
        config,
        origins,
        warnings,
    })
}
