//! Numbers in JSON that come back to the bit.
//!
//! A decimal text is read with an error of one unit in the last place by fast
//! parsers, and infinities have no JSON form. Numbers with a fraction are written
//! as the bits of the `f64`, in hexadecimal, wherever a run must go on exactly.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

const PREFIX: &str = "f64:";

/// An `f64` that is written as its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Exact(pub(crate) f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_text(self.0))
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_text(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("\"{text}\" is not the bits of a number")))
    }
}

fn to_text(value: f64) -> String {
    format!("{PREFIX}{:016x}", value.to_bits())
}

fn from_text(text: &str) -> Option<f64> {
    let bits = u64::from_str_radix(text.strip_prefix(PREFIX)?, 16).ok()?;
    Some(f64::from_bits(bits))
}

/// Log rows, with fractions as bits.
pub(super) mod rows {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::{Number, Value};

    use super::{from_text, to_text};
    use crate::history::LogRow;

    pub(in super::super) fn serialize<S: Serializer>(
        rows: &[Arc<LogRow>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(rows.iter().map(|row| encode(row)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<LogRow>>, D::Error> {
        let rows = Vec::<LogRow>::deserialize(deserializer)?;
        Ok(rows.into_iter().map(|row| Arc::new(decode(row))).collect())
    }

    fn encode(row: &LogRow) -> LogRow {
        row.iter()
            .map(|(key, value)| {
                let value = match value {
                    Value::Number(n) if n.is_f64() => {
                        n.as_f64().map_or(Value::Null, |x| to_text(x).into())
                    }
                    other => other.clone(),
                };
                (key.clone(), value)
            })
            .collect()
    }

    fn decode(row: LogRow) -> LogRow {
        row.into_iter()
            .map(|(key, value)| {
                let number = value
                    .as_str()
                    .and_then(from_text)
                    .and_then(Number::from_f64);
                (key, number.map_or(value, Value::Number))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    #[test]
    fn rows_come_back_to_the_bit() {
        let Value::Object(row) = json!({
            "loss": 0.1 + 0.2, "tiny": 5e-324, "step": 3, "name": "f64 is not a prefix",
            "none": null, "learning_rate": 2.718_281_828_459_045e-5,
        }) else {
            unreachable!("the literal above is an object");
        };
        let rows = [Arc::new(row)];
        let mut text = Vec::new();
        rows::serialize(&rows, &mut serde_json::Serializer::new(&mut text)).unwrap();
        let back = rows::deserialize(&mut serde_json::Deserializer::from_slice(&text)).unwrap();
        assert_eq!(back, rows);
    }

    #[test]
    fn numbers_that_json_lacks_come_back() {
        for value in [f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE] {
            let text = serde_json::to_string(&Exact(value)).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), value.to_bits());
        }
        assert!(serde_json::from_str::<Exact>("\"1.5\"").is_err());
    }
}
