//! `lr_scheduler_kwargs`, read by name; names that nobody asked for are errors.

use serde_json::{Map, Value};
use trainer_config::LrScheduler;

use super::Curve;
use crate::error::{Result, TrainerError};

pub(super) struct Kwargs<'a> {
    scheduler: LrScheduler,
    values: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

fn error(message: String) -> TrainerError {
    TrainerError::schedule("lr_scheduler_kwargs", message)
}

impl<'a> Kwargs<'a> {
    pub(super) fn new(scheduler: LrScheduler, values: &'a Map<String, Value>) -> Self {
        Self {
            scheduler,
            values,
            known: Vec::new(),
        }
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.values.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn optional_number(&mut self, name: &'static str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64().filter(|x| x.is_finite() && *x >= 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(error(format!(
                "{name}: expected a number of at least 0, found {value}"
            ))),
        }
    }

    pub(super) fn number(&mut self, name: &'static str, default: f64) -> Result<f64> {
        Ok(self.optional_number(name)?.unwrap_or(default))
    }

    pub(super) fn needed_number(&mut self, name: &'static str) -> Result<f64> {
        self.optional_number(name)?
            .ok_or_else(|| error(format!("{} needs {name}", self.scheduler)))
    }

    pub(super) fn count(&mut self, name: &'static str, default: usize) -> Result<usize> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
                .ok_or_else(|| error(format!("{name}: expected a whole number, found {value}"))),
        }
    }

    /// A factor below one.
    pub(super) fn shrinking(&mut self, name: &'static str, default: f64) -> Result<f64> {
        let factor = self.number(name, default)?;
        if factor < 1.0 {
            Ok(factor)
        } else {
            Err(error(format!(
                "{name}: expected a factor below 1, found {factor}"
            )))
        }
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(error(format!(
                "{name}: expected true or false, found {other}"
            ))),
        }
    }

    pub(super) fn curve(&mut self, name: &'static str, default: Curve) -> Result<Curve> {
        match self.get(name).map(|value| (value, value.as_str())) {
            None => Ok(default),
            Some((_, Some("linear"))) => Ok(Curve::Linear),
            Some((_, Some("cosine"))) => Ok(Curve::Cosine),
            Some((_, Some("1-sqrt"))) => Ok(Curve::OneMinusSqrt),
            Some((other, _)) => Err(error(format!(
                "{name}: expected linear, cosine or 1-sqrt, found {other}"
            ))),
        }
    }

    /// `min_lr` over the peak, or `min_lr_rate`; one of the two is needed.
    pub(super) fn min_ratio(&mut self, peak: f64) -> Result<f64> {
        match (
            self.optional_number("min_lr")?,
            self.optional_number("min_lr_rate")?,
        ) {
            (Some(min), None) => Ok(min / peak),
            (None, Some(rate)) => Ok(rate),
            _ => Err(error(format!(
                "{} needs min_lr or min_lr_rate, and not both",
                self.scheduler
            ))),
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        let keys = self.values.keys().map(String::as_str);
        let unknown: Vec<&str> = keys.filter(|key| !self.known.contains(key)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let takes = match self.known.as_slice() {
            [] => "nothing".to_owned(),
            known => known.join(", "),
        };
        Err(error(format!(
            "{} does not take {}; it takes {takes}",
            self.scheduler,
            unknown.join(", ")
        )))
    }
}
