//! Which parameters are trained, and which of their rows.
//!
//! Where only some rows of a parameter are trained, these rows are the parameter as far
//! as norm, clipping and optimizer are concerned: gradients are cut to them
//! ([`TrainedRows::narrow`]), the optimizer sees and keeps nothing of the others
//! ([`TrainedRows::update`]). So the others stay as they are to the bit, whatever the
//! optimizer's rule and weight decay.
//!
//! Invariant: the ranges of a parameter are in order, disjoint, not empty, and within
//! its first dimension.

use std::collections::BTreeSet;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use fancy_regex::Regex;

use crate::error::{ModelError, Result};
use crate::parameters::{ParameterGradients, ParameterInfo, parameters};

/// The output head of models that have one of their own.
const HEAD: &str = "lm_head.weight";

/// Names that a message suggests.
const SUGGESTIONS: usize = 3;

/// Which parameters and rows of a model are trained. The default leaves a model as it
/// is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainedRows {
    /// One for each parameter, in the order of [`parameters`]; empty leaves all as they
    /// are.
    parts: Vec<Part>,
}

/// What of a parameter is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    None,
    All,
    /// Some of `of` rows.
    Rows {
        ranges: Vec<Range<usize>>,
        of: usize,
    },
}

impl TrainedRows {
    /// Freezes all parameters but those that `patterns` match.
    ///
    /// A pattern is a regular expression for the beginning of a name. A dot in it is a
    /// dot, unless `+`, `*` or `?` follows. A range may come last: `[8]` is one row,
    /// `[2:8]` those from 2 to 7; either side of the colon may be left out. A parameter
    /// that several patterns match has the rows of all of them.
    ///
    /// # Errors
    /// When a pattern is malformed or matches nothing, and when a range is empty or goes
    /// beyond the rows of a parameter.
    pub fn unfreeze<M: Module>(model: M, patterns: &[String]) -> Result<(M, Self)> {
        let infos = parameters(&model);
        let mut parts = vec![Part::None; infos.len()];
        for pattern in patterns {
            let (expression, rows) = split(pattern);
            let regex = Regex::new(&format!(r"\A(?:{})", literal_dots(expression)));
            let regex = regex.map_err(|error| {
                problem(format!(
                    "\"{pattern}\" is not a regular expression: {error}"
                ))
            })?;
            let is_match = |name: &str| {
                regex
                    .is_match(name)
                    .map_err(|error| problem(format!("\"{pattern}\" on {name}: {error}")))
            };
            let mut matched = false;
            for (info, part) in infos.iter().zip(&mut parts) {
                if is_match(&info.name)? {
                    matched = true;
                    part.add(
                        rows.clone()
                            .map_or(Ok(None), |rows| rows.of(info, pattern))?,
                    );
                }
            }
            if !matched {
                let no_head = is_match(HEAD)? && infos.iter().all(|info| info.name != HEAD);
                return Err(no_match(pattern, expression, &infos, no_head));
            }
        }
        let rows = Self { parts };
        Ok((rows.apply(model), rows))
    }

    /// A model like the one that was [unfrozen](Self::unfreeze), with the same
    /// parameters trained.
    #[must_use]
    pub fn apply<M: Module>(&self, model: M) -> M {
        match self.parts.is_empty() {
            true => model,
            false => model.map(&mut Mark {
                parts: self.parts.iter(),
            }),
        }
    }

    /// The parameters of a model as an optimizer sees them: with the shapes of what of
    /// them is trained.
    #[must_use]
    pub fn parameters<M: Module>(&self, model: &M) -> Vec<ParameterInfo> {
        let mut infos = parameters(model);
        for (info, part) in infos.iter_mut().zip(&self.parts) {
            if let (Part::Rows { ranges, .. }, Some(rows)) = (part, info.shape.first_mut()) {
                *rows = ranges.iter().map(Range::len).sum();
            }
        }
        infos
    }

    /// Whether parameter `index` is trained, or some of its rows. Draws no values, as
    /// asking the parameter could.
    #[must_use]
    pub fn trains(&self, index: usize) -> bool {
        !matches!(self.parts.get(index), Some(Part::None))
    }

    /// Whether a row of parameter `index` is trained, if the parameter is.
    #[must_use]
    pub fn has(&self, index: usize, row: usize) -> bool {
        match self.parts.get(index) {
            Some(Part::Rows { ranges, .. }) => ranges.iter().any(|range| range.contains(&row)),
            _ => true,
        }
    }

    /// Cuts gradients to the trained rows.
    pub fn narrow(&self, gradients: &mut ParameterGradients) {
        for (gradient, part) in gradients.flat.iter_mut().zip(&self.parts) {
            if let Part::Rows { ranges, of } = part {
                *gradient = gradient.take().map(|whole| taken(&whole, ranges, *of));
            }
        }
    }

    /// The flattened value of parameter `index` with its trained rows as `f` makes them.
    #[must_use]
    pub fn update(
        &self,
        index: usize,
        value: Tensor<1>,
        f: impl FnOnce(Tensor<1>) -> Tensor<1>,
    ) -> Tensor<1> {
        let Some(Part::Rows { ranges, of }) = self.parts.get(index) else {
            return f(value);
        };
        let new = f(taken(&value, ranges, *of));
        let mut from = 0;
        let mut value = value;
        for range in elements(ranges, value.dims()[0], *of) {
            let part = new.clone().narrow(0, from, range.len());
            from += range.len();
            value = value.slice_assign([range], part);
        }
        value
    }
}

impl Part {
    /// Adds all rows, or a range of some.
    fn add(&mut self, more: Option<(Range<usize>, usize)>) {
        let Some((range, of)) = more else {
            *self = Self::All;
            return;
        };
        let mut all = match std::mem::replace(self, Self::None) {
            Self::All => {
                *self = Self::All;
                return;
            }
            Self::None => Vec::new(),
            Self::Rows { ranges, .. } => ranges,
        };
        all.push(range);
        all.sort_by_key(|range| range.start);
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(all.len());
        for range in all {
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        *self = Self::Rows { ranges, of };
    }
}

/// The elements of rows, of `total` elements in `of` rows.
fn elements(
    ranges: &[Range<usize>],
    total: usize,
    of: usize,
) -> impl Iterator<Item = Range<usize>> {
    let width = total / of.max(1);
    ranges
        .iter()
        .map(move |range| range.start * width..range.end * width)
}

fn taken(whole: &Tensor<1>, ranges: &[Range<usize>], of: usize) -> Tensor<1> {
    let parts = elements(ranges, whole.dims()[0], of);
    Tensor::cat(parts.map(|range| whole.clone().slice([range])).collect(), 0)
}

/// Makes parameters trainable or not.
struct Mark<'a> {
    parts: std::slice::Iter<'a, Part>,
}

impl ModuleMapper for Mark<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.parts.next() {
            Some(part) => param.set_require_grad(*part != Part::None),
            None => param,
        }
    }
}

/// Rows as a pattern names them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    from: Option<String>,
    to: Option<String>,
    one: bool,
}

impl Rows {
    /// The range among the rows of a parameter; `None` where it is all of them.
    fn of(self, info: &ParameterInfo, pattern: &str) -> Result<Option<(Range<usize>, usize)>> {
        let rows = info.shape.first().copied().unwrap_or(1);
        // Digits alone, so that what does not parse is beyond every row.
        let number = |text: Option<String>| text.map(|text| text.parse().unwrap_or(usize::MAX));
        let from = number(self.from).unwrap_or(0);
        let to = match self.one {
            true => from.saturating_add(1),
            false => number(self.to).unwrap_or(rows),
        };
        if from >= to || to > rows {
            return Err(problem(format!(
                "\"{pattern}\": {} has the rows [0:{rows}], of which these are {}",
                info.name,
                if from >= to { "none" } else { "not all" }
            )));
        }
        Ok(((from, to) != (0, rows)).then_some((from..to, rows)))
    }
}

/// A pattern and the rows at its end, if any.
fn split(pattern: &str) -> (&str, Option<Rows>) {
    let parsed = pattern.strip_suffix(']').and_then(|rest| {
        let (expression, rows) = rest.rsplit_once('[')?;
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let rows = match rows.split_once(':') {
            Some((from, to)) if digits(from) && digits(to) => Rows {
                from: given(from),
                to: given(to),
                one: false,
            },
            None if digits(rows) && !rows.is_empty() => Rows {
                from: given(rows),
                to: None,
                one: true,
            },
            _ => return None,
        };
        Some((expression, Some(rows)))
    });
    parsed.unwrap_or((pattern, None))
}

/// The expression in which a dot is a dot, unless it stands for something that is
/// repeated, in a class of characters, or behind a backslash.
fn literal_dots(expression: &str) -> String {
    let mut text = String::with_capacity(expression.len() + 8);
    let mut in_class = false;
    let mut chars = expression.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                text.push(c);
                text.extend(chars.next());
                continue;
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '.' if !in_class && !matches!(chars.peek(), Some('+' | '*' | '?')) => text.push('\\'),
            _ => {}
        }
        text.push(c);
    }
    text
}

fn problem(message: String) -> ModelError {
    ModelError::Unfrozen { message }
}

fn no_match(pattern: &str, expression: &str, infos: &[ParameterInfo], no_head: bool) -> ModelError {
    let wanted = pairs(expression);
    let likeness = |name: &str| {
        let found = pairs(name);
        let both = found.intersection(&wanted).count();
        2.0 * both as f64 / (found.len() + wanted.len()).max(1) as f64
    };
    let mut near: Vec<(f64, &str)> = infos
        .iter()
        .map(|info| (likeness(&info.name), info.name.as_str()))
        .collect();
    // Stable: the first of all layers is named.
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let mut kinds = BTreeSet::new();
    let names = near
        .into_iter()
        .map(|(_, name)| name)
        .filter(|name| kinds.insert(name.replace(|c: char| c.is_ascii_digit(), "")));
    let names: Vec<&str> = names.take(SUGGESTIONS).collect();
    let head = match no_head {
        true => "; the model has no output head of its own",
        false => "",
    };
    problem(format!(
        "\"{pattern}\" matches the beginning of no parameter's name{head}; near it are {}",
        names.join(", ")
    ))
}

/// Pairs of neighbouring letters.
fn pairs(text: &str) -> BTreeSet<[char; 2]> {
    let letters: Vec<char> = text.chars().filter(|c| c.is_alphabetic()).collect();
    letters.windows(2).map(|pair| [pair[0], pair[1]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_classes_of_characters() {
        let rows = |from: Option<&str>, to: Option<&str>, one| {
            Some(Rows {
                from: from.map(str::to_owned),
                to: to.map(str::to_owned),
                one,
            })
        };
        for (pattern, expression, expected) in [
            ("^a.b$[:32000]", "^a.b$", rows(None, Some("32000"), false)),
            ("a[2:]", "a", rows(Some("2"), None, false)),
            ("a[2:5]", "a", rows(Some("2"), Some("5"), false)),
            ("a[:]", "a", rows(None, None, false)),
            ("a[7]", "a", rows(Some("7"), None, true)),
            ("layers.2[0-9]", "layers.2[0-9]", None),
            ("layers.[a:b]", "layers.[a:b]", None),
            ("a[]", "a[]", None),
            ("a", "a", None),
        ] {
            assert_eq!(split(pattern), (expression, expected), "{pattern}");
        }
    }

    #[test]
    fn dots_are_dots() {
        for (pattern, expected) in [
            ("model.layers.2[0-9]+.mlp", r"model\.layers\.2[0-9]+\.mlp"),
            ("model.+proj", "model.+proj"),
            (r"a\.b.*c.?", r"a\.b.*c.?"),
            ("a[.]b.", r"a[.]b\."),
        ] {
            assert_eq!(literal_dots(pattern), expected);
        }
    }

    #[test]
    fn ranges_are_merged() {
        let mut part = Part::None;
        for range in [5..7, 0..2, 2..3, 6..9] {
            part.add(Some((range, 10)));
        }
        let ranges = vec![0..3, 5..9];
        assert_eq!(part, Part::Rows { ranges, of: 10 });
        part.add(None);
        part.add(Some((0..1, 10)));
        assert_eq!(part, Part::All);
    }
}
