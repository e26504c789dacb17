//! Arguments by name (`lr_scheduler_kwargs`, `optim_args`); names that nobody asked
//! for are errors.

use serde_json::{Map, Value};

use crate::error::{Result, TrainerError};

pub(crate) struct Kwargs<'a> {
    key: &'static str,
    owner: String,
    values: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Kwargs<'a> {
    /// The values of `key`, which `owner` takes.
    pub(crate) fn new(
        key: &'static str,
        owner: impl ToString,
        values: Option<&'a Map<String, Value>>,
    ) -> Self {
        Self {
            key,
            owner: owner.to_string(),
            values,
            known: Vec::new(),
        }
    }

    fn error(&self, message: String) -> TrainerError {
        TrainerError::setting(self.key, message)
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.values?.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn optional_number(&mut self, name: &'static str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64().filter(|x| x.is_finite() && *x >= 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error(format!(
                "{name}: expected a number of at least 0, found {value}"
            ))),
        }
    }

    pub(crate) fn number(&mut self, name: &'static str, default: f64) -> Result<f64> {
        Ok(self.optional_number(name)?.unwrap_or(default))
    }

    pub(crate) fn negative_number(&mut self, name: &'static str, default: f64) -> Result<f64> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let number = value.as_f64().filter(|x| x.is_finite() && *x <= 0.0);
        number.ok_or_else(|| {
            self.error(format!(
                "{name}: expected a number of at most 0, found {value}"
            ))
        })
    }

    pub(crate) fn needed_number(&mut self, name: &'static str) -> Result<f64> {
        self.optional_number(name)?
            .ok_or_else(|| self.error(format!("{} needs {name}", self.owner)))
    }

    pub(crate) fn count(&mut self, name: &'static str, default: usize) -> Result<usize> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
                .ok_or_else(|| {
                    self.error(format!("{name}: expected a whole number, found {value}"))
                }),
        }
    }

    /// A number from 0 to below 1.
    pub(crate) fn shrinking(&mut self, name: &'static str, default: f64) -> Result<f64> {
        let factor = self.number(name, default)?;
        if factor < 1.0 {
            Ok(factor)
        } else {
            Err(self.error(format!("{name}: expected a number below 1, found {factor}")))
        }
    }

    pub(crate) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(self.error(format!("{name}: expected true or false, found {other}")))
            }
        }
    }

    /// One of some names, each of which stands for a value.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let chosen = choices
            .iter()
            .find(|(text, _)| value.as_str() == Some(text));
        chosen.map(|(_, chosen)| *chosen).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(text, _)| *text).collect();
            self.error(format!(
                "{name}: expected {}, found {value}",
                names.join(" or ")
            ))
        })
    }

    pub(crate) fn finish(self) -> Result<()> {
        let keys = self.values.into_iter().flat_map(Map::keys);
        let keys = keys.map(String::as_str);
        let unknown: Vec<&str> = keys.filter(|key| !self.known.contains(key)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let takes = match self.known.as_slice() {
            [] => "nothing".to_owned(),
            known => known.join(", "),
        };
        Err(self.error(format!(
            "{} does not take {}; it takes {takes}",
            self.owner,
            unknown.join(", ")
        )))
    }
}
