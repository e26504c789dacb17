//! Which maps of a model an adapter's settings speak of.
//!
//! The rules are PEFT's: a text is a regular expression for a whole name, an entry
//! of a list is a name or its end from a dot on. Unlike PEFT, an entry that
//! matches nothing is an error, since it is a misspelling or meant for a model of
//! another family.

use std::collections::{BTreeMap, BTreeSet};

use fancy_regex::Regex;
use serde_json::{Value, json};

use super::config::{LoraConfig, TargetModules};
use crate::error::{ModelError, Result};
use crate::linear::Linear;

/// Modules that hold linear maps, which adapters and quantization change.
pub trait Linears {
    /// Calls `f` with the name and the map of each, in the order of the fields.
    ///
    /// # Errors
    /// The first error that `f` returns.
    fn each_linear(
        &mut self,
        name: &str,
        f: &mut dyn FnMut(&str, &mut Linear) -> Result<()>,
    ) -> Result<()>;
}

/// Implements [`Linears`] for a module by the fields that hold maps.
macro_rules! linears {
    ($module:ty: $($field:ident),+ $(,)?) => {
        impl crate::adapters::Linears for $module {
            fn each_linear(
                &mut self,
                name: &str,
                f: &mut dyn FnMut(&str, &mut crate::linear::Linear) -> crate::error::Result<()>,
            ) -> crate::error::Result<()> {
                $(
                    let field = stringify!($field);
                    let path = if name.is_empty() { field.to_owned() } else { format!("{name}.{field}") };
                    self.$field.each_linear(&path, f)?;
                )+
                Ok(())
            }
        }
    };
}
pub(crate) use linears;

impl Linears for Linear {
    fn each_linear(
        &mut self,
        name: &str,
        f: &mut dyn FnMut(&str, &mut Linear) -> Result<()>,
    ) -> Result<()> {
        f(name, self)
    }
}

impl<M: Linears> Linears for Option<M> {
    fn each_linear(
        &mut self,
        name: &str,
        f: &mut dyn FnMut(&str, &mut Linear) -> Result<()>,
    ) -> Result<()> {
        self.as_mut()
            .map_or(Ok(()), |module| module.each_linear(name, f))
    }
}

impl<M: Linears> Linears for Vec<M> {
    fn each_linear(
        &mut self,
        name: &str,
        f: &mut dyn FnMut(&str, &mut Linear) -> Result<()>,
    ) -> Result<()> {
        for (index, module) in self.iter_mut().enumerate() {
            module.each_linear(&format!("{name}.{index}"), f)?;
        }
        Ok(())
    }
}

/// The maps that get factors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved {
    /// Their full names.
    pub(super) names: BTreeSet<String>,
    /// `target_modules` by which PEFT finds the same ones.
    pub(super) written: Value,
}

/// The last part of a name.
fn leaf(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether `name` is `end` or ends in it from a dot on.
fn ends(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A map of "every linear map": not the output head, which has a name without a
/// dot, and not an expert, whose weights PEFT sees as one tensor for all.
fn is_inner(name: &str) -> bool {
    name.contains('.') && !name.contains(".experts.")
}

/// A regular expression for a whole text.
fn whole(setting: &'static str, pattern: &str) -> Result<Regex> {
    regex(setting, pattern, &format!(r"\A(?:{pattern})\z"))
}

/// The expression `full`, in which the user wrote `pattern`.
fn regex(setting: &'static str, pattern: &str, full: &str) -> Result<Regex> {
    Regex::new(full).map_err(|error| ModelError::Adapter {
        setting,
        message: format!("\"{pattern}\" is not a regular expression: {error}"),
    })
}

/// Whether an expression matches. One that gives up (too much backtracking) is an
/// error.
fn matches(setting: &'static str, regex: &Regex, text: &str) -> Result<bool> {
    regex
        .is_match(text)
        .map_err(|error| gave_up(setting, regex, text, &error))
}

fn gave_up(
    setting: &'static str,
    regex: &Regex,
    text: &str,
    error: &fancy_regex::Error,
) -> ModelError {
    ModelError::Adapter {
        setting,
        message: format!("\"{}\" on {text}: {error}", regex.as_str()),
    }
}

const TARGETS: &str = "target_modules";

/// Finds the maps among `linears` that `config` speaks of.
pub(super) fn resolve(config: &LoraConfig, linears: &[String]) -> Result<Resolved> {
    let saved = |name: &str| {
        let mut parts = name.match_indices('.').map(|(dot, _)| &name[..dot]);
        let is_saved = |module: &str| config.modules_to_save.iter().any(|end| ends(module, end));
        parts.any(is_saved) || is_saved(name)
    };
    // The loss multiplies by the head's weight itself.
    let is_head = |name: &str| !name.contains('.');
    let candidates: Vec<&String> = linears
        .iter()
        .filter(|name| !saved(name) && !is_head(name))
        .collect();
    let nothing = |what: String| ModelError::Adapter {
        setting: TARGETS,
        message: format!(
            "{what} matches no linear map of the model; it has {}",
            known(linears)
        ),
    };
    match &config.target_modules {
        TargetModules::Pattern(_) if !config.layers_to_transform.is_empty() => {
            Err(ModelError::Adapter {
                setting: "layers_to_transform",
                message: "needs a list of names as target_modules; a regular expression can say \
                          the layers itself"
                    .into(),
            })
        }
        TargetModules::Pattern(pattern) => {
            let regex = whole(TARGETS, pattern)?;
            let mut names = BTreeSet::new();
            for name in candidates {
                if matches(TARGETS, &regex, name)? {
                    names.insert(name.clone());
                }
            }
            if names.is_empty() {
                return Err(nothing(format!("\"{pattern}\"")));
            }
            let written = json!(pattern);
            Ok(Resolved { names, written })
        }
        TargetModules::Names { names, all_linear } => {
            let mut found = BTreeSet::new();
            let mut written: BTreeSet<String> = BTreeSet::new();
            for entry in names {
                let is_pattern = entry
                    .contains(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-')));
                let regex = whole(TARGETS, entry)?;
                let mut matched = false;
                for name in &candidates {
                    if ends(name, entry) || (is_pattern && matches(TARGETS, &regex, name)?) {
                        matched = true;
                        found.insert((*name).clone());
                        if is_pattern {
                            written.insert((*name).clone());
                        }
                    }
                }
                if !matched {
                    return Err(nothing(format!("\"{entry}\"")));
                }
                if !is_pattern {
                    written.insert(entry.clone());
                }
            }
            if *all_linear {
                for name in candidates.iter().filter(|name| is_inner(name)) {
                    found.insert((*name).clone());
                    written.insert(leaf(name).to_owned());
                }
            }
            if found.is_empty() {
                return Err(ModelError::Adapter {
                    setting: TARGETS,
                    message: format!(
                        "no linear map of the model gets factors; it has {}",
                        known(linears)
                    ),
                });
            }
            keep_layers(config, &mut found)?;
            Ok(Resolved {
                names: found,
                written: json!(written),
            })
        }
    }
}

/// Leaves the maps of the layers that `layers_to_transform` lists.
fn keep_layers(config: &LoraConfig, found: &mut BTreeSet<String>) -> Result<()> {
    const SETTING: &str = "layers_to_transform";
    const PATTERN: &str = "layers_pattern";
    if config.layers_to_transform.is_empty() {
        return Ok(());
    }
    // The number of a layer is the first number in a name: experts have one too.
    let any = [r"[^.]*".to_owned()];
    let lists = match config.layers_pattern.as_slice() {
        [] => &any,
        patterns => patterns,
    };
    let lists = lists
        .iter()
        .map(|list| regex(PATTERN, list, &format!(r"\A(?:.*?\.)?(?:{list})\.(\d+)\.")))
        .collect::<Result<Vec<_>>>()?;
    let mut kept = BTreeSet::new();
    let mut layers = BTreeSet::new();
    for name in found.iter() {
        let mut layer: Option<usize> = None;
        for list in &lists {
            let captures = list
                .captures(name)
                .map_err(|e| gave_up(PATTERN, list, name, &e))?;
            if let Some(number) = captures.and_then(|captures| captures.get(1)) {
                layer = number.as_str().parse().ok();
                break;
            }
        }
        layers.extend(layer);
        if layer.is_some_and(|layer| config.layers_to_transform.contains(&layer)) {
            kept.insert(name.clone());
        }
    }
    for layer in &config.layers_to_transform {
        if !layers.contains(layer) {
            return Err(ModelError::Adapter {
                setting: SETTING,
                message: match (layers.first(), layers.last()) {
                    (Some(first), Some(last)) => {
                        format!("there is no layer {layer}: they are numbered {first} to {last}")
                    }
                    _ => "no layer has a number under this layers_pattern".into(),
                },
            });
        }
    }
    *found = kept;
    Ok(())
}

/// The value of the first pattern that matches a name, from its start or a dot on.
pub(super) fn by_pattern<T: Copy>(
    setting: &'static str,
    patterns: &[(String, T)],
    name: &str,
) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if ends_like(setting, pattern, name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Whether a name or its end from a dot on is what a pattern describes.
fn ends_like(setting: &'static str, pattern: &str, name: &str) -> Result<bool> {
    let full = format!(r"\A(?:.*\.)?(?:{pattern})\z");
    matches(setting, &regex(setting, pattern, &full)?, name)
}

/// Refuses a pattern that is about none of the maps that get factors: a rank that is
/// given to nothing is a misspelling.
pub(super) fn check_patterns<T>(
    setting: &'static str,
    patterns: &[(String, T)],
    adapted: &BTreeMap<String, (usize, f64)>,
) -> Result<()> {
    for (pattern, _) in patterns {
        let mut used = false;
        for name in adapted.keys() {
            used |= ends_like(setting, pattern, name)?;
        }
        if !used {
            let names: Vec<String> = adapted.keys().cloned().collect();
            return Err(ModelError::Adapter {
                setting,
                message: format!(
                    "\"{pattern}\" matches none of the maps that get factors; these are {}",
                    known(&names)
                ),
            });
        }
    }
    Ok(())
}

/// The last parts of the names of maps that can get factors, each once, for
/// messages.
fn known(linears: &[String]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let inner = linears.iter().filter(|name| name.contains('.'));
    for name in inner.map(|name| leaf(name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// The parameters among `parameters` that belong to the modules of
/// `modules_to_save`, given by ends of their names.
pub(super) fn saved_parameters(
    modules: &[String],
    parameters: &[String],
) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for end in modules {
        let before = found.len();
        found.extend(
            parameters
                .iter()
                // PEFT compares ends of names, from any letter on.
                .filter(|name| {
                    name.match_indices('.')
                        .any(|(dot, _)| name[..dot].ends_with(end.as_str()))
                })
                .cloned(),
        );
        if found.len() == before {
            let mut modules: Vec<&str> = Vec::new();
            for name in parameters {
                let module = name.rsplit('.').nth(1).unwrap_or(name);
                if !modules.contains(&module) && !module.chars().all(|c| c.is_ascii_digit()) {
                    modules.push(module);
                }
            }
            return Err(ModelError::Adapter {
                setting: "modules_to_save",
                message: format!(
                    "\"{end}\" is not a module of the model; it has {}",
                    modules.join(", ")
                ),
            });
        }
    }
    Ok(found)
}
