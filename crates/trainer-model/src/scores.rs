//! What a model says of given tokens: their log-probabilities, which a loss may be
//! made of, and numbers to watch.

use burn::prelude::*;
use burn::tensor::TensorData;

/// Scores of tokens, on the device.
#[derive(Debug, Clone)]
pub struct TokenScores {
    /// See [`crate::token_scores`].
    scores_n5: Tensor<2>,
}

/// The scores of one token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenScore {
    /// Log-probability of the token.
    pub log_prob: f64,
    /// Entropy of the distribution that it is drawn from, in nats.
    pub entropy: f64,
    /// Largest logit less that of the token: 0 where it is the likeliest.
    pub gap: f64,
    /// Mean of the logits.
    pub mean_logit: f64,
    /// `log Σ p²` over the vocabulary: the expected log-probability, roughly, of a
    /// token that the model draws itself.
    pub log_squares: f64,
}

impl TokenScores {
    pub(crate) fn new(scores_n5: Tensor<2>) -> Self {
        Self { scores_n5 }
    }

    /// The scores, in the order of the targets.
    #[must_use]
    pub fn read(&self) -> Vec<TokenScore> {
        let values = self.scores_n5.clone().into_data();
        let values: Vec<f64> = values.iter::<f64>().collect();
        let (tokens, _) = values.as_chunks::<5>();
        tokens
            .iter()
            .map(
                |&[log_prob, entropy, gap, mean_logit, log_squares]| TokenScore {
                    log_prob,
                    entropy,
                    gap,
                    mean_logit,
                    log_squares,
                },
            )
            .collect()
    }

    /// `Σ weight · log p`, `[1]`, over the tokens: with derivatives as weights, its
    /// gradient is that of any function of the log-probabilities.
    ///
    /// # Panics
    /// When there is not one weight for each token.
    #[must_use]
    pub fn weighted_sum(self, weights: &[f64]) -> Tensor<1> {
        let [n, _] = self.scores_n5.dims();
        assert_eq!(weights.len(), n, "one weight for each token");
        let weights: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
        let weights_n1 = Tensor::<2>::from_data(
            TensorData::new(weights, [n, 1]),
            (&self.scores_n5.device(), self.scores_n5.dtype()),
        );
        (self.scores_n5.narrow(1, 0, 1) * weights_n1).sum()
    }
}
