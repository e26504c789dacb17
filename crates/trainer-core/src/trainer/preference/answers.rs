//! Log-probabilities of the answers in a batch.

use std::ops::Range;

use seqprep::Batch;
use trainer_model::{
    Activations, CausalLm, Fork, ParameterGradients, Targets, TokenScore, backward,
};

use super::super::causal::tokens;
use crate::losses::token_weight;
use crate::preference_batches::Document;

/// What a model says of the targets of a batch.
pub(super) struct Scored(Vec<TokenScore>);

/// What is learnt from a batch.
pub(super) struct Learnt<T> {
    /// What the judge returned beside the weights.
    pub(super) output: T,
    /// The load-balancing loss of experts, where the model has one.
    pub(super) balance: f64,
    /// Gradients of the loss with that balance; none without targets.
    pub(super) gradients: Option<ParameterGradients>,
    /// Seconds until the loss was known.
    pub(super) forward_seconds: f64,
}

impl Scored {
    /// A forward pass; `model` records no gradients.
    pub(super) fn new(model: &CausalLm, batch: &Batch, forks: &[Fork], targets: &Targets) -> Self {
        if targets.is_empty() {
            return Self(Vec::new());
        }
        let hidden_btd = model.hidden(&model.forked_input(&tokens(batch), forks));
        Self(model.token_scores(hidden_btd, targets).read())
    }

    /// A pass forward and back. `judge` makes of the scores the derivative of the loss
    /// with respect to the log-probability of each target, and whatever else is
    /// wanted.
    pub(super) fn learn<T>(
        model: &CausalLm,
        batch: &Batch,
        forks: &[Fork],
        dropout: u64,
        targets: &Targets,
        activations: Activations,
        judge: impl FnOnce(&Self) -> (Vec<f64>, T),
    ) -> Learnt<T> {
        if targets.is_empty() {
            return Learnt {
                output: judge(&Self(Vec::new())).1,
                balance: 0.0,
                gradients: None,
                forward_seconds: 0.0,
            };
        }
        let input = model.forked_input(&tokens(batch), forks);
        let input = input.with_dropout(dropout);
        let back = backward(model, &input, activations, |hidden_btd| {
            let scores = model.token_scores(hidden_btd, targets);
            let (weights, output) = judge(&Self(scores.read()));
            (scores.weighted_sum(&weights), output)
        });
        Learnt {
            output: back.output,
            balance: back.balance,
            gradients: Some(back.gradients),
            forward_seconds: back.forward_seconds,
        }
    }

    /// Number of targets.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sum of a number over some of the targets.
    pub(super) fn sum(&self, targets: &Range<usize>, of: impl Fn(&TokenScore) -> f64) -> f64 {
        self.0[targets.clone()].iter().map(of).sum()
    }

    /// Sum of the log-probabilities.
    pub(super) fn log_prob(&self, targets: &Range<usize>) -> f64 {
        self.sum(targets, |token| token.log_prob)
    }

    /// Sum of the log-probabilities, weighted beyond the length `shorter`.
    pub(super) fn weighted_log_prob(
        &self,
        targets: &Range<usize>,
        shorter: usize,
        alpha: Option<f64>,
    ) -> f64 {
        match alpha {
            None => self.log_prob(targets),
            Some(alpha) => self.0[targets.clone()]
                .iter()
                .enumerate()
                .map(|(index, token)| token_weight(index, shorter, alpha) * token.log_prob)
                .sum(),
        }
    }

    /// Mean of a number over the tokens of several answers; none without tokens.
    pub(super) fn mean<'a>(
        &self,
        answers: impl Iterator<Item = &'a Range<usize>> + Clone,
        of: impl Fn(&TokenScore) -> f64,
    ) -> Option<f64> {
        let tokens: usize = answers.clone().map(ExactSizeIterator::len).sum();
        let sum: f64 = answers.map(|targets| self.sum(targets, &of)).sum();
        (tokens > 0).then(|| sum / tokens as f64)
    }
}

/// Targets of the answers of several documents, and which of them belong to each.
pub(super) fn answers_of<'a>(
    documents: impl Iterator<Item = &'a Document>,
    batch: &Batch,
    targets: &mut Targets,
) -> Vec<Range<usize>> {
    documents
        .map(|document| document.answer(batch, targets))
        .collect()
}

/// 1 where a token is the likeliest of all at its place, else 0.
pub(super) fn likeliest(token: &TokenScore) -> f64 {
    if token.gap <= 0.0 { 1.0 } else { 0.0 }
}
