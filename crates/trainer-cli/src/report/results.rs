//! The numbers that a run comes down to.

use serde_json::Value;
use trainer_core::LogRow;

/// Results in their order: a name and a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Results(Vec<(String, f64)>);

/// The key of which the highest value is a result.
const PEAK: &str = "memory/max_active (GiB)";

/// Keys of which the last value is a result, and its name; of [`PEAK`], the highest.
const LAST: &[(&str, &str)] = &[
    ("step", "steps"),
    ("epoch", "epochs"),
    ("loss", "last training loss"),
    ("train_loss", "mean training loss"),
    ("eval_loss", "evaluation loss"),
    ("eval_ppl", "evaluation perplexity"),
    ("eval_rewards/accuracies", "evaluation reward accuracy"),
    ("eval_rewards/margins", "evaluation reward margin"),
    ("eval_accuracy", "evaluation accuracy"),
    ("tokens/total", "tokens"),
    ("tokens/trainable", "trained tokens"),
    (PEAK, "peak memory (GiB)"),
    ("train_runtime", "seconds"),
];

impl Results {
    /// The results of a log.
    pub(crate) fn of(rows: &[LogRow]) -> Self {
        let values = |key: &'static str| rows.iter().filter_map(|row| row.get(key)?.as_f64());
        let last = |key| match key {
            // Each process of a run that went on has its own.
            PEAK => values(key).max_by(f64::total_cmp),
            key => values(key).next_back(),
        };
        let mut results: Vec<(String, f64)> = Vec::new();
        for (key, name) in LAST {
            if let Some(value) = last(key) {
                results.push(((*name).to_owned(), value));
            }
            if *key == "eval_loss"
                && let Some(best) = values(key).min_by(f64::total_cmp)
            {
                results.push(("best evaluation loss".to_owned(), best));
            }
        }
        Self(results)
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    }

    /// Rows of a table.
    pub(crate) fn table(&self) -> Vec<Vec<String>> {
        let row = |(name, value): &(String, f64)| vec![name.clone(), number(*value)];
        self.0.iter().map(row).collect()
    }

    /// As JSON, by name.
    pub(crate) fn to_json(&self) -> Value {
        let entries = self.0.iter();
        Value::Object(
            entries
                .map(|(name, value)| (name.replace(' ', "_"), Value::from(*value)))
                .collect(),
        )
    }
}

/// One row for every name that some run has, one column a run.
pub(crate) fn side_by_side(runs: &[Results]) -> Vec<Vec<String>> {
    LAST.iter()
        .flat_map(|(_, name)| match *name {
            "evaluation loss" => vec![*name, "best evaluation loss"],
            name => vec![name],
        })
        .filter(|name| runs.iter().any(|run| run.get(name).is_some()))
        .map(|name| {
            let mut cells = vec![name.to_owned()];
            cells.extend(
                runs.iter()
                    .map(|run| run.get(name).map_or("".to_owned(), number)),
            );
            cells
        })
        .collect()
}

/// A number for people: five digits.
pub(crate) fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    match value.abs() {
        size if (1e-3..1e5).contains(&size) => {
            let digits = (4 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.4e}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(values: Value) -> Vec<LogRow> {
        serde_json::from_value(values).unwrap()
    }

    #[test]
    fn the_last_values_and_the_best() {
        let results = Results::of(&rows(json!([
            {"loss": 2.0, "step": 1, PEAK: 0.5},
            {"eval_loss": 1.5, "step": 1},
            {"loss": 1.0, "step": 2, PEAK: 0.25},
            {"eval_loss": 1.75, "step": 2},
        ])));
        assert_eq!(
            results.table(),
            [
                ["steps", "2"],
                ["last training loss", "1"],
                ["evaluation loss", "1.7500"],
                ["best evaluation loss", "1.5000"],
                ["peak memory (GiB)", "0.50000"]
            ]
        );
        let other = Results::of(&rows(json!([{"step": 7}])));
        assert_eq!(
            side_by_side(&[results, other])[..2],
            [vec!["steps", "2", "7"], vec!["last training loss", "1", ""]]
        );
    }

    #[test]
    fn numbers_have_five_digits() {
        let got = [0.5, 12.345_678, 1_234_567.0, 2e-5, f64::INFINITY].map(number);
        assert_eq!(got, ["0.50000", "12.346", "1234567", "2.0000e-5", "inf"]);
    }
}
