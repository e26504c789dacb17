//! How many floating-point operations training takes, by formula.
//!
//! Counted are the multiplications and additions of matrix products; norms,
//! activations and optimizers are nothing beside them. For a weight of `P` elements and
//! one token these are
//!
//! - `2 P` forward, `2 P` for the gradient of its input, and `2 P` for its own where it
//!   is trained: `6 P` in a full fine-tune, `4 P` under LoRA, whose factors have `6` times
//!   their own elements;
//! - for the output head, the same for the predicting tokens alone; for experts, the
//!   part of them that a token is sent to.
//!
//! Attention takes `4 h k` forward for each pair of a query and a key that it sees, with
//! `h` heads of width `k`, and twice that backward: `6 L² h k` for a document of `L`
//! tokens, in each layer. Windows see fewer pairs. What is computed twice to save memory
//! counts once, so that doing so lowers the rate.
//!
//! Reference: appendix B of arXiv 2204.02311, which counts the pairs that a causal mask
//! hides too.

use crate::parameters::ParameterInfo;
use crate::pretrained::Pretrained;
use crate::weight::Weight;

/// Operations of matrix products for one token, or one pair of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingWork {
    /// For each token.
    token: f64,
    /// For each predicting token.
    head: f64,
    /// For each pair of a query and a key, in each layer.
    pair: f64,
    /// Windows of the layers.
    windows: Vec<Option<usize>>,
}

impl TrainingWork {
    /// That of a model with these parameters, which say what is trained.
    #[must_use]
    pub fn new<M: Pretrained>(model: &M, parameters: &[ParameterInfo]) -> Self {
        let config = model.config();
        let experts = config.experts.as_ref();
        let sent = experts.map_or(1.0, |experts| {
            experts.per_token as f64 / experts.count as f64
        });
        let (mut token, mut head) = (0.0, 0.0);
        // Weights that are codes are no parameters.
        let counted = model.clone().each_linear("", &mut |name, linear| {
            if let Weight::Quantized(_) = &linear.weight {
                let elements: f64 = linear.weight.shape().iter().map(|&n| n as f64).product();
                let part = if name.contains(".experts.") {
                    sent
                } else {
                    1.0
                };
                token += part * 4.0 * elements;
            }
            Ok(())
        });
        debug_assert!(counted.is_ok(), "counting cannot fail");
        for info in parameters.iter().filter(|info| info.shape.len() == 2) {
            let elements: f64 = info.shape.iter().map(|&n| n as f64).product();
            let work = if info.trainable { 6.0 } else { 4.0 } * elements;
            let name = info.name.as_str();
            if name.contains("embed_tokens") {
                // Looking rows up is no product; as an output head it is one.
                head += if model.is_tied() { work } else { 0.0 };
            } else if name.starts_with("lm_head") || name.starts_with("score") {
                head += work;
            } else if name.contains(".experts.") {
                token += sent * work;
            } else {
                token += work;
            }
        }
        let heads = (config.num_attention_heads * config.head_dim) as f64;
        Self {
            token,
            head,
            pair: 12.0 * heads,
            windows: config.layers.iter().map(|layer| layer.window).collect(),
        }
    }

    /// Operations for documents of these lengths, with so many predicting tokens.
    #[must_use]
    pub fn of(&self, documents: &[u32], predicting: usize) -> f64 {
        let tokens: f64 = documents.iter().map(|&length| f64::from(length)).sum();
        let pairs: f64 = self
            .windows
            .iter()
            .flat_map(|&window| documents.iter().map(move |&length| pairs(length, window)))
            .sum();
        self.token * tokens + self.head * predicting as f64 + self.pair * pairs
    }
}

/// Pairs of a query and a key that it sees, itself included.
fn pairs(length: u32, window: Option<usize>) -> f64 {
    let length = f64::from(length);
    let window = window.map_or(length, |window| (window as f64).min(length));
    window * (window + 1.0) / 2.0 + (length - window) * window
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_within_windows() {
        for (length, window, expected) in [
            (4, None, 10.0),
            (4, Some(9), 10.0),
            (4, Some(2), 7.0),
            (1, None, 1.0),
            (0, Some(3), 0.0),
        ] {
            assert_eq!(pairs(length, window), expected);
        }
    }
}
