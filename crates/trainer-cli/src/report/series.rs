//! Log rows to curves.
//!
//! Invariants: every numeric key of a log row is in a chart, except counters and
//! the values of the summary; a curve has at most [`MOST_POINTS`] points and keeps
//! its first, last, lowest and highest one, so that no spike is lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainer_core::LogRow;

/// Most points of one curve: more than a chart has pixels.
const MOST_POINTS: usize = 1200;

/// Most means of one curve.
const MEANS: usize = 200;

/// A run of which curves are drawn.
pub(crate) struct RunLog {
    /// Name in the legend.
    pub(crate) name: String,
    /// Its log.
    pub(crate) rows: Vec<LogRow>,
}

/// Curves that share a pair of axes; x is the optimizer step.
#[derive(Debug, PartialEq)]
pub(crate) struct Chart {
    title: String,
    note: &'static str,
    series: Vec<Series>,
}

#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    color: usize,
    dash: bool,
    points: Vec<(f64, f64)>,
    /// Means of a long curve, by which noisy ones can be told apart.
    means: Vec<(f64, f64)>,
}

/// Charts of known values in their order: title, keys, and what to expect.
const KNOWN: &[(&str, &[&str], &str)] = &[
    ("loss", &["loss", "eval_loss", "eval_loss_per_token"], ""),
    ("perplexity", &["ppl", "eval_ppl"], ""),
    ("learning rate", &["learning_rate"], ""),
    (
        "gradient norm",
        &["grad_norm"],
        "Before clipping. It should stay in one order of magnitude after warmup.",
    ),
    ("tokens per second", &["tokens/train_per_sec_per_gpu"], ""),
    (
        "memory in GiB",
        &["memory/max_active (GiB)", "memory/device_reserved (GiB)"],
        "Resident memory of the process: the highest so far, and now.",
    ),
    (
        "rewards",
        &[
            "rewards/chosen",
            "rewards/rejected",
            "eval_rewards/chosen",
            "eval_rewards/rejected",
        ],
        "Chosen should end above rejected; both falling far below 0 means that the model moves \
         away from all answers.",
    ),
    (
        "rewards/accuracies",
        &["rewards/accuracies", "eval_rewards/accuracies"],
        "Part of the pairs ranked as the data ranks them: 0.5 is chance, 0.65 to 0.95 on \
         held-back pairs is healthy; 1.0 from the start means that the pairs are too easy to \
         tell apart. Ties count as wrong, so that DPO starts at 0.",
    ),
    (
        "rewards/margins",
        &["rewards/margins", "eval_rewards/margins"],
        "Should rise above 0 and level off, as a rule between 0.5 and 5; one that rises without \
         end, or on training data alone, is overfitting: raise rl_beta or lower the rate.",
    ),
    (
        "log probabilities",
        &[
            "logps/chosen",
            "logps/rejected",
            "eval_logps/chosen",
            "eval_logps/rejected",
        ],
        "Of whole answers (ORPO and SimPO: of their tokens, on the mean). With DPO both may \
         fall; rejected should fall further. A steep fall of chosen calls for a higher rl_beta, a \
         lower rate, or rpo_alpha.",
    ),
    (
        "logits",
        &[
            "logits/chosen",
            "logits/rejected",
            "eval_logits/chosen",
            "eval_logits/rejected",
        ],
        "Mean over the vocabulary at each token of the answers. Both should stay near where they \
         began; a drift by more than a few units is a sign of too high a rate.",
    ),
    (
        "kl",
        &["kl", "eval_kl"],
        "Distance from the reference model in nats an answer, estimated on mismatched answers and \
         never below 0: below about 20 is healthy. Constantly 0 with falling rewards/chosen means \
         that every answer becomes less likely: lower rl_beta or the rate, or weigh the classes.",
    ),
    (
        "loss on chosen answers",
        &["nll_loss", "eval_nll_loss"],
        "The part that is supervised fine-tuning; it should fall, or at least not rise.",
    ),
    (
        "token accuracy",
        &["mean_token_accuracy", "eval_mean_token_accuracy"],
        "Part of the tokens of chosen answers that the model finds likeliest: 0.4 to 0.8 is \
         common. A fall below where it began means that the model unlearns its language.",
    ),
    (
        "balance of experts",
        &["aux_loss", "eval_aux_loss"],
        "The load-balancing loss, before its coefficient: the number of experts a token is sent \
         to where they are used alike; above twice that some are never used.",
    ),
    (
        "log odds ratio",
        &[
            "log_odds_ratio",
            "log_odds_chosen",
            "eval_log_odds_ratio",
            "eval_log_odds_chosen",
        ],
        "The ratio is -0.69 where both answers are as likely, and rises towards 0; the odds of \
         the chosen answer should rise above 0.",
    ),
    (
        "entropy",
        &["entropy", "eval_entropy"],
        "Uncertainty about the next token, in nats: 0.5 to 3 is common. Near 0 the model repeats \
         itself; a steady rise means that it forgets its language.",
    ),
    (
        "accuracy",
        &["accuracy", "eval_accuracy"],
        "Part of the pairs or steps that are judged right: 0.5 is chance, 0.65 to 0.95 on \
         held-back ones is healthy.",
    ),
    (
        "reward",
        &[
            "mean_reward",
            "min_reward",
            "max_reward",
            "eval_mean_reward",
            "eval_min_reward",
            "eval_max_reward",
        ],
        "Only differences count. The mean should stay within a few units of 0: one that drifts \
         calls for center_rewards_coefficient.",
    ),
    (
        "reward margin",
        &["margin", "eval_margin"],
        "Reward of the better answer less that of the worse: should rise above 0 and level off, \
         as a rule between 1 and 5.",
    ),
];

/// Values that say nothing as a curve.
fn is_left_out(key: &str) -> bool {
    matches!(
        key,
        "step" | "epoch" | "tokens/trainable" | "tokens/total" | "num_tokens" | "total_flos"
    ) || key.starts_with("train_")
        || key.starts_with("eval_") && (key.ends_with("_per_second") || key.ends_with("_runtime"))
}

/// The charts of some runs. With one run, colours tell values apart; with several,
/// runs, and evaluation curves are dashed.
pub(crate) fn charts(runs: &[RunLog]) -> Vec<Chart> {
    let curves: Vec<BTreeMap<&str, Vec<(f64, f64)>>> =
        runs.iter().map(|run| curves(&run.rows)).collect();
    let mut groups: Vec<(String, Vec<String>, &str)> = KNOWN
        .iter()
        .map(|(title, keys, note)| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            ((*title).to_owned(), keys, *note)
        })
        .collect();
    let mut others: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for key in curves.iter().flat_map(BTreeMap::keys) {
        if !KNOWN.iter().any(|(_, keys, _)| keys.contains(key)) {
            let keys = others
                .entry(key.strip_prefix("eval_").unwrap_or(key))
                .or_default();
            if !keys.iter().any(|known| known == key) {
                keys.push((*key).to_owned());
            }
        }
    }
    groups.extend(
        others
            .into_iter()
            .map(|(title, keys)| (title.to_owned(), keys, "")),
    );
    let mut charts = Vec::new();
    for (title, keys, note) in groups {
        let mut series = Vec::new();
        for (run, curves) in curves.iter().enumerate() {
            for (place, key) in keys.iter().enumerate() {
                let Some(points) = curves.get(key.as_str()) else {
                    continue;
                };
                let single = runs.len() == 1;
                series.push(Series {
                    name: match (single, keys.len()) {
                        (true, _) => key.clone(),
                        (false, 1) => runs[run].name.clone(),
                        (false, _) => format!("{} {key}", runs[run].name),
                    },
                    color: if single { place } else { run } % 8,
                    dash: !single && place > 0,
                    points: thin(points, MOST_POINTS),
                    means: means(points),
                });
            }
        }
        if !series.is_empty() {
            charts.push(Chart {
                title,
                note,
                series,
            });
        }
    }
    charts
}

/// The finite numbers of each key, by step.
fn curves(rows: &[LogRow]) -> BTreeMap<&str, Vec<(f64, f64)>> {
    let mut curves: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        let Some(step) = row.get("step").and_then(Value::as_f64) else {
            continue;
        };
        for (key, value) in row {
            if let Some(value) = value.as_f64()
                && value.is_finite()
                && !is_left_out(key)
            {
                curves.entry(key).or_default().push((step, value));
            }
        }
    }
    curves
}

/// At most `most` points: of each of equally many points in a row, the lowest and
/// the highest, and the first and the last of all.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most.max(4) {
        return points.to_vec();
    }
    let groups = (most.max(4) - 2) / 2;
    let mut kept = vec![points[0]];
    let inner = &points[1..points.len() - 1];
    for group in inner.chunks(inner.len().div_ceil(groups)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) =
            (group.iter().min_by(by_value), group.iter().max_by(by_value))
        else {
            continue;
        };
        if low.0 <= high.0 {
            kept.push(*low);
        }
        if high != low {
            kept.push(*high);
        }
        if low.0 > high.0 {
            kept.push(*low);
        }
    }
    kept.push(points[points.len() - 1]);
    kept
}

/// The means of groups of points in a row, where there are many points.
fn means(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() < 2 * MEANS {
        return Vec::new();
    }
    let groups = points.chunks(points.len().div_ceil(MEANS));
    groups
        .map(|group| {
            let count = group.len() as f64;
            let sum = group
                .iter()
                .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
            (sum.0 / count, sum.1 / count)
        })
        .collect()
}

/// The charts as the page's script reads them.
pub(crate) fn to_json(charts: &[Chart]) -> Value {
    let charts = charts.iter().map(|chart| {
        let series = chart.series.iter().map(|series| {
            let columns = |points: &[(f64, f64)]| -> (Vec<Value>, Vec<Value>) {
                points.iter().map(|(x, y)| (number(*x), number(*y))).unzip()
            };
            let ((x, y), (mx, my)) = (columns(&series.points), columns(&series.means));
            let (name, color, dash) = (&series.name, series.color, series.dash);
            json!({
                "name": name, "color": color, "dash": dash, "x": x, "y": y, "mx": mx, "my": my
            })
        });
        json!({
            "title": chart.title,
            "note": chart.note,
            "series": series.collect::<Vec<_>>(),
        })
    });
    json!({"charts": charts.collect::<Vec<_>>()})
}

/// Six digits are more than a chart can show.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return json!(value as i64);
    }
    let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    json!(rounded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(step: usize, key: &str, value: f64) -> LogRow {
        let Value::Object(row) = json!({"step": step, "epoch": 0.5, key: value}) else {
            unreachable!("it is written as an object");
        };
        row
    }

    fn run(name: &str, rows: Vec<LogRow>) -> RunLog {
        RunLog {
            name: name.into(),
            rows,
        }
    }

    fn titles(charts: &[Chart]) -> Vec<(&str, Vec<&str>)> {
        charts
            .iter()
            .map(|chart| {
                let names = chart.series.iter().map(|it| it.name.as_str());
                (chart.title.as_str(), names.collect())
            })
            .collect()
    }

    #[test]
    fn every_value_has_its_chart() {
        let rows = vec![
            row(1, "loss", 2.0),
            row(1, "eval_loss", 2.5),
            row(1, "tokens/total", 100.0),
            row(2, "odd", 1.0),
            row(2, "eval_odd", 1.0),
            row(3, "train_loss", 1.0),
        ];
        let one = charts(&[run("a", rows.clone())]);
        assert_eq!(
            titles(&one),
            [
                ("loss", vec!["loss", "eval_loss"]),
                ("odd", vec!["eval_odd", "odd"])
            ]
        );
        let two = charts(&[run("a", rows), run("b", vec![row(1, "loss", 3.0)])]);
        assert_eq!(
            titles(&two)[0],
            ("loss", vec!["a loss", "a eval_loss", "b loss"])
        );
        assert_eq!((two[0].series[1].dash, two[0].series[2].color), (true, 1));
    }

    /// Every value of TRL's trainers of preferences and rewards says what is healthy.
    #[test]
    fn values_of_preferences_are_explained() {
        let families: [&[&str]; 8] = [
            &["rewards/chosen", "rewards/rejected"],
            &["rewards/accuracies"],
            &["rewards/margins"],
            &["logps/chosen", "logps/rejected"],
            &["logits/chosen", "logits/rejected"],
            &["log_odds_ratio", "log_odds_chosen"],
            &["min_reward", "mean_reward", "max_reward"],
            &["margin"],
        ];
        let single = [
            "kl",
            "nll_loss",
            "entropy",
            "mean_token_accuracy",
            "accuracy",
            "aux_loss",
        ];
        let singles = single.iter().map(std::slice::from_ref);
        for keys in families.into_iter().chain(singles) {
            let rows = keys
                .iter()
                .flat_map(|key| [row(1, key, 0.5), row(1, &format!("eval_{key}"), 0.5)]);
            let drawn = charts(&[run("a", rows.collect())]);
            assert_eq!(drawn.len(), 1, "{keys:?} belong together");
            assert!(drawn[0].note.len() > 40, "{keys:?}");
        }
        assert!(charts(&[run("a", vec![row(1, "num_tokens", 9.0)])]).is_empty());
    }

    /// Twenty values of each of 10,000 steps, all of them logged and none of them round.
    #[test]
    fn a_long_run_has_a_small_page() {
        let keys: Vec<String> = KNOWN
            .iter()
            .flat_map(|(_, keys, _)| keys.iter().map(|key| (*key).to_owned()))
            .chain((0..10).map(|i| format!("other/{i}")))
            .collect();
        assert!(keys.len() > 20);
        let rows = (1..=10_000_usize).map(|step| {
            let values = keys.iter().enumerate();
            let values = values
                .map(|(at, key)| (key.clone(), json!(-(step as f64 + at as f64).sqrt().sin())));
            let mut row: LogRow = values.collect();
            row.insert("step".into(), json!(step));
            row
        });
        let charts = charts(&[run("a", rows.collect())]);
        let bytes = to_json(&charts).to_string().len();
        // The rest of a page is some tens of kilobytes.
        assert!(bytes < 1_900_000, "{bytes}");
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let mut bad = row(1, "loss", 1.0);
        bad.insert("loss".into(), Value::Null);
        bad.insert("name".into(), json!("x"));
        assert!(charts(&[run("a", vec![bad])]).is_empty());
        assert_eq!(number(0.123_456_789), json!(0.123_457));
    }

    proptest! {
        #[test]
        fn thinning_keeps_order_ends_and_extremes(
            values in prop::collection::vec(-1e6..1e6, 1..3000_usize),
            most in 4..200_usize,
        ) {
            let points: Vec<(f64, f64)> =
                values.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
            let kept = thin(&points, most);
            prop_assert!(kept.len() <= most.max(4));
            prop_assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(kept.iter().all(|point| points.contains(point)));
            prop_assert_eq!(kept[0], points[0]);
            prop_assert_eq!(kept.last(), points.last());
            let extreme = |of: &[(f64, f64)]| {
                let ys = of.iter().map(|point| point.1);
                (ys.clone().fold(f64::INFINITY, f64::min), ys.fold(f64::NEG_INFINITY, f64::max))
            };
            prop_assert_eq!(extreme(&kept), extreme(&points));
            let means = means(&points);
            let (low, high) = extreme(&points);
            prop_assert!(means.len() <= MEANS);
            prop_assert!(means.iter().all(|mean| (low - 1e-6..=high + 1e-6).contains(&mean.1)));
        }
    }
}
