//! From the logits of a row to its next token.
//!
//! The steps, and their order, are those of transformers: repetition penalty;
//! then, where tokens are drawn, temperature, top-k, top-p, min-p. References:
//! arXiv 1909.05858 (repetition penalty), 1805.04833 (top-k), 1904.09751
//! (top-p), 2407.01082 (min-p).

use super::random::RowRandom;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; above 0.
    pub temperature: f64,
    /// Only so many of the most likely tokens; those as likely as the last of
    /// them too.
    pub top_k: Option<usize>,
    /// The fewest most likely tokens whose probabilities sum to this; above 0,
    /// at most 1.
    pub top_p: Option<f64>,
    /// Only tokens of at least this part of the likeliest one's probability;
    /// from 0 to 1.
    pub min_p: Option<f64>,
}

impl Default for Sampling {
    /// The model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
        }
    }
}

/// Makes the tokens that are in `seen` less likely: positive logits are divided
/// by `penalty`, negative ones multiplied. A token counts once however often it
/// occurs.
pub(super) fn penalize(logits: &mut [f32], seen: &[bool], penalty: f64) {
    let penalty = penalty as f32;
    for (logit, _) in logits.iter_mut().zip(seen).filter(|(_, seen)| **seen) {
        *logit = if *logit < 0.0 {
            *logit * penalty
        } else {
            *logit / penalty
        };
    }
}

/// The likeliest token, the first of equals.
pub(super) fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

/// Draws a token. One random number is used, whatever the settings.
pub(super) fn draw(logits: &[f32], sampling: &Sampling, random: &mut RowRandom) -> usize {
    let kept = distribution(logits, sampling);
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let mut left = random.uniform() * total;
    for &(id, weight) in &kept {
        left -= weight;
        if left < 0.0 {
            return id;
        }
    }
    // Rounding can leave a remainder behind the last token.
    kept.last().map_or(0, |(id, _)| *id)
}

/// The tokens that may be drawn, in the order of their ids, with weights in
/// proportion to their probabilities. Never empty if `logits` is not.
fn distribution(logits: &[f32], sampling: &Sampling) -> Vec<(usize, f64)> {
    let max = f64::from(logits[likeliest(logits)]);
    let mut kept: Vec<(usize, f64)> = logits
        .iter()
        .map(|&logit| ((f64::from(logit) - max) / sampling.temperature).exp())
        .enumerate()
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    if let Some(k) = sampling.top_k
        && k < kept.len()
    {
        let mut weights: Vec<f64> = kept.iter().map(|(_, weight)| *weight).collect();
        let (_, least, _) = weights.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let least = *least;
        kept.retain(|(_, weight)| *weight >= least);
    }
    if let Some(p) = sampling.top_p
        && p < 1.0
    {
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
        let limit = p * kept.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut above = 0.0;
        let n = kept
            .iter()
            .take_while(|(_, weight)| {
                let keep = above < limit;
                above += weight;
                keep
            })
            .count();
        kept.truncate(n.max(1));
        kept.sort_by_key(|(id, _)| *id);
    }
    if let Some(p) = sampling.min_p {
        // The likeliest has weight 1.
        kept.retain(|(_, weight)| *weight >= p);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.4, 0.3, 0.2, 0.1 for ids 2, 0, 3, 1.
    fn logits() -> Vec<f32> {
        [0.3_f32, 0.1, 0.4, 0.2].iter().map(|p| p.ln()).collect()
    }

    fn ids(sampling: Sampling) -> Vec<usize> {
        let kept = distribution(&logits(), &sampling);
        kept.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        let plain = Sampling::default();
        let top_k = |k| Sampling {
            top_k: Some(k),
            ..plain
        };
        let top_p = |p| Sampling {
            top_p: Some(p),
            ..plain
        };
        let min_p = |p| Sampling {
            min_p: Some(p),
            ..plain
        };
        assert_eq!(ids(plain), [0, 1, 2, 3]);
        assert_eq!(ids(top_k(1)), [2]);
        assert_eq!(ids(top_k(3)), [0, 2, 3]);
        assert_eq!(ids(top_k(9)), [0, 1, 2, 3]);
        // The token that reaches p is the last.
        assert_eq!(ids(top_p(1e-9)), [2]);
        assert_eq!(ids(top_p(0.39)), [2]);
        assert_eq!(ids(top_p(0.41)), [0, 2]);
        assert_eq!(ids(top_p(0.95)), [0, 1, 2, 3]);
        assert_eq!(ids(min_p(0.26)), [0, 2, 3]);
        assert_eq!(ids(min_p(0.6)), [0, 2]);
        assert_eq!(ids(min_p(1.0)), [2]);
        // top-p counts what top-k left: 0.4 and 0.3 are 4/7 and 3/7.
        let both = Sampling {
            top_k: Some(2),
            top_p: Some(0.56),
            ..plain
        };
        assert_eq!(ids(both), [2]);
        // Temperature comes first: 0.4² : 0.3² : 0.2² : 0.1² = 16 : 9 : 4 : 1.
        let cold = Sampling {
            temperature: 0.5,
            top_p: Some(0.54),
            ..plain
        };
        assert_eq!(ids(cold), [0, 2]);
    }

    #[test]
    fn equals_of_the_last_of_top_k_are_kept() {
        let sampling = Sampling {
            top_k: Some(2),
            ..Sampling::default()
        };
        let kept = distribution(&[1.0, 0.0, 0.0, -1.0], &sampling);
        assert_eq!(
            kept.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
            [0, 1, 2]
        );
    }

    /// What is left, and how likely, after the processors of transformers 5.23
    /// (the repetition penalty first, for ids 3, 17, 30 and 8).
    #[test]
    fn the_distribution_is_that_of_transformers() {
        let logits: Vec<f32> = (0..40)
            .map(|i| (3.0 * (1.7 * f64::from(i)).sin() + f64::from(i % 5) * 0.4) as f32)
            .collect();
        type Case = (f64, Sampling, &'static [usize], [f64; 4]);
        let with = |temperature, top_k, top_p, min_p| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
        };
        let cases: [Case; 5] = [
            (
                1.0,
                with(1.5, Some(6), None, None),
                &[8, 12, 19, 23, 34, 38],
                [0.13811, 0.14014, 0.15187, 0.17784],
            ),
            (
                1.2,
                with(0.8, None, Some(0.9), None),
                &[1, 4, 8, 12, 16, 19, 23, 27, 34, 38],
                [0.05804, 0.04026, 0.0437, 0.09866],
            ),
            (
                1.0,
                with(1.0, Some(12), Some(0.7), None),
                &[8, 12, 19, 23, 34, 38],
                [0.12451, 0.12726, 0.14357, 0.18194],
            ),
            (
                1.1,
                with(1.2, None, None, Some(0.2)),
                &[1, 4, 8, 9, 12, 16, 19, 23, 27, 34, 38],
                [0.06808, 0.05334, 0.07151, 0.04182],
            ),
            (
                1.3,
                with(0.9, Some(15), Some(0.85), Some(0.15)),
                &[1, 4, 12, 16, 19, 23, 27, 34, 38],
                [0.06586, 0.04758, 0.10555, 0.04528],
            ),
        ];
        for (penalty, sampling, ids, first) in cases {
            let mut logits = logits.clone();
            let seen: Vec<bool> = (0..40).map(|id| [3, 17, 30, 8].contains(&id)).collect();
            penalize(&mut logits, &seen, penalty);
            let kept = distribution(&logits, &sampling);
            let got: Vec<usize> = kept.iter().map(|(id, _)| *id).collect();
            assert_eq!(got, ids, "{sampling:?}");
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            for ((_, weight), want) in kept.iter().zip(first) {
                assert!((weight / total - want).abs() < 2e-5, "{sampling:?}");
            }
        }
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        let mut random = RowRandom::new(1, 0);
        let mut counts = [0_u32; 4];
        for _ in 0..20_000 {
            counts[draw(&logits(), &Sampling::default(), &mut random)] += 1;
        }
        for (count, p) in counts.iter().zip([0.3, 0.1, 0.4, 0.2]) {
            let share = f64::from(*count) / 20_000.0;
            assert!((share - p).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn a_cold_distribution_is_the_likeliest_token() {
        let sampling = Sampling {
            temperature: 1e-6,
            ..Sampling::default()
        };
        let mut random = RowRandom::new(1, 0);
        for _ in 0..50 {
            assert_eq!(draw(&logits(), &sampling, &mut random), 2);
        }
    }

    #[test]
    fn a_penalty_lowers_either_sign() {
        let mut logits = [2.0, -2.0, 2.0];
        penalize(&mut logits, &[true, true, false], 2.0);
        assert_eq!(logits, [1.0, -4.0, 2.0]);
    }
}
