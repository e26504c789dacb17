//! The losses of `rl: dpo` together: several types with weights, a divergence,
//! weights of tokens and of pairs.

use trainer_config::DpoLossType;

use super::{
    Divergence, PairLoss, aot, aot_unpaired, apo_down, apo_zero, bco_pair, discopop, exo_pair,
    hinge, ipo, nca_pair, nll, robust, sigmoid, sigmoid_norm, sppo_hard,
};

/// Numbers of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Answer {
    /// Log-probability under the policy, tokens weighted by
    /// [`token_weight`](super::token_weight).
    pub policy: f64,
    /// The same under the reference model.
    pub reference: f64,
    /// Log-probability under the policy, all tokens alike.
    pub plain: f64,
    /// Tokens of the answer.
    pub tokens: usize,
}

impl Answer {
    /// `log π − log π_ref`.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.policy - self.reference
    }
}

/// Two answers to one prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pair {
    /// The better one.
    pub chosen: Answer,
    /// The worse one.
    pub rejected: Answer,
    /// Weight of the pair: 1, or that of WPO.
    pub weight: f64,
}

/// Derivatives of a loss with respect to an [`Answer`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AnswerGradient {
    /// With respect to `policy`.
    pub policy: f64,
    /// With respect to `plain`.
    pub plain: f64,
}

/// Derivatives of a loss with respect to both answers of a pair.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairGradient {
    /// Of the better one.
    pub chosen: AnswerGradient,
    /// Of the worse one.
    pub rejected: AnswerGradient,
}

/// The settings of `rl: dpo` and `rl: ipo`.
#[derive(Debug, Clone, PartialEq)]
pub struct DpoOptions {
    /// Loss types and the weight of each.
    pub types: Vec<(DpoLossType, f64)>,
    /// β.
    pub beta: f64,
    /// ε.
    pub label_smoothing: f64,
    /// τ of DiscoPOP.
    pub discopop_tau: f64,
    /// The divergence from the reference.
    pub divergence: Divergence,
}

/// The loss of a batch of pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DpoLoss {
    /// Sum over the pairs; divided by their number it is the batch's loss.
    pub sum: f64,
    /// Derivatives of the sum, a pair each.
    pub gradients: Vec<PairGradient>,
}

/// The weighted sum of the loss types over a batch of pairs.
///
/// `sft` is the mean over all tokens of the chosen answers, and counts once for each
/// pair of the batch.
#[must_use]
pub fn dpo(pairs: &[Pair], options: &DpoOptions) -> DpoLoss {
    let mut total = DpoLoss {
        sum: 0.0,
        gradients: vec![PairGradient::default(); pairs.len()],
    };
    for &(loss_type, weight) in &options.types {
        total.add(loss_type, weight, pairs, options);
    }
    total
}

impl DpoLoss {
    fn add(&mut self, loss_type: DpoLossType, weight: f64, pairs: &[Pair], options: &DpoOptions) {
        use DpoLossType as T;
        let (beta, epsilon) = (options.beta, options.label_smoothing);
        let losses = match loss_type {
            T::Sigmoid => scored(pairs, options, |c, r, _| sigmoid(c, r, beta, epsilon)),
            T::Hinge => scored(pairs, options, |c, r, _| hinge(c, r, beta)),
            T::Ipo => scored(pairs, options, |c, r, lengths| ipo(c, r, lengths, beta)),
            T::ExoPair => scored(pairs, options, |c, r, _| exo_pair(c, r, beta, epsilon)),
            T::Robust => scored(pairs, options, |c, r, _| robust(c, r, beta, epsilon)),
            T::Discopop => {
                let tau = options.discopop_tau;
                scored(pairs, options, |c, r, _| discopop(c, r, beta, tau))
            }
            T::SigmoidNorm => scored(pairs, options, |c, r, lengths| {
                sigmoid_norm(c, r, lengths, beta)
            }),
            T::NcaPair => plain(pairs, |c, r| nca_pair(c, r, beta)),
            T::BcoPair => plain(pairs, |c, r| bco_pair(c, r, beta)),
            T::SppoHard => plain(pairs, |c, r| sppo_hard(c, r, beta)),
            T::ApoZero => plain(pairs, |c, r| apo_zero(c, r, beta)),
            T::ApoDown => plain(pairs, |c, r| apo_down(c, r, beta)),
            T::Aot => aot(
                &both(pairs, |answer| answer.policy),
                &both(pairs, |answer| answer.reference),
                beta,
                epsilon,
            ),
            T::AotUnpaired => aot_unpaired(&both(pairs, Answer::ratio), beta, epsilon),
            T::Sft => return self.add_nll(weight, pairs),
        };
        for ((loss, pair), gradient) in losses.iter().zip(pairs).zip(&mut self.gradients) {
            let weight = weight * pair.weight;
            self.sum += weight * loss.value;
            gradient.chosen.policy += weight * loss.chosen;
            gradient.rejected.policy += weight * loss.rejected;
        }
    }

    fn add_nll(&mut self, weight: f64, pairs: &[Pair]) {
        let tokens = pairs.iter().map(|pair| pair.chosen.tokens).sum();
        let log_probs = pairs.iter().map(|pair| pair.chosen.plain).sum();
        let loss = nll(log_probs, tokens);
        let counted = weight * pairs.iter().map(|pair| pair.weight).sum::<f64>();
        self.sum += counted * loss.value;
        for gradient in &mut self.gradients {
            gradient.chosen.plain += counted * loss.slope;
        }
    }
}

/// The numbers of both answers of each pair, chosen first.
fn both(pairs: &[Pair], of: impl Fn(&Answer) -> f64) -> Vec<[f64; 2]> {
    let sides = |pair: &Pair| [of(&pair.chosen), of(&pair.rejected)];
    pairs.iter().map(sides).collect()
}

/// A loss of the log-ratios.
fn plain(pairs: &[Pair], loss: impl Fn(f64, f64) -> PairLoss) -> Vec<PairLoss> {
    let ratios = both(pairs, Answer::ratio).into_iter();
    ratios.map(|[c, r]| loss(c, r)).collect()
}

/// A loss of what the divergence makes of the log-ratios, and of the lengths.
fn scored(
    pairs: &[Pair],
    options: &DpoOptions,
    loss: impl Fn(f64, f64, [usize; 2]) -> PairLoss,
) -> Vec<PairLoss> {
    let of_pair = |pair: &Pair| {
        let c = options.divergence.score(pair.chosen.ratio());
        let r = options.divergence.score(pair.rejected.ratio());
        let loss = loss(c.value, r.value, [pair.chosen.tokens, pair.rejected.tokens]);
        PairLoss {
            value: loss.value,
            chosen: loss.chosen * c.slope,
            rejected: loss.rejected * r.slope,
        }
    };
    pairs.iter().map(of_pair).collect()
}
