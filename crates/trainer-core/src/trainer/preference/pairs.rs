//! Learning from pairs of answers: DPO and its relatives, ORPO, SimPO, CPO.

use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use seqprep::PreferencePair;
use serde_json::Value;
use trainer_config::{Config, DpoLossType, FDivergence, Rl};
use trainer_model::{Activations, CausalLm, Targets};

use super::answers::{Scored, answers_of, likeliest};
use super::reference::{Compared, LogProbs, Reference};
use super::{Evaluated, Ids, Split, count_tokens, evaluate, watch_balance};
use crate::batches::BatchSource;
use crate::checkpoint::SaveModel;
use crate::error::{Result, TrainerError};
use crate::generation::Sampler;
use crate::history::{LogRow, Observer};
use crate::losses::{
    Answer, Divergence, DpoOptions, Pair, PairGradient, PairLoss, cpo, dpo, log_odds, nll, orpo,
    simpo, token_weight, wpo_weight,
};
use crate::preference_batches::{PairBatch, PairBatches};
use crate::trainer::causal::activations;
use crate::trainer::objective::{Accumulated, Metrics, Objective, Precision, StepSeed};
use crate::trainer::weights::Weights;

/// The loss.
enum Method {
    Dpo(DpoOptions),
    Orpo,
    Simpo { gamma: f64, alpha: f64 },
    Cpo { alpha: f64 },
}

/// Learns which of two answers is the better one.
pub(super) struct Pairs {
    method: Method,
    beta: f64,
    /// Weight of tokens beyond the shorter answer, where it is not 1.
    ld_alpha: Option<f64>,
    /// Whether pairs are weighted (WPO).
    weighted: bool,
    reference: Reference,
    eval: Option<PairBatches>,
    activations: Activations,
    weights: Weights,
}

/// The targets of a batch.
struct Parts {
    targets: Targets,
    chosen: Vec<Range<usize>>,
    rejected: Vec<Range<usize>>,
    /// The prompts of the chosen answers, where they are trained.
    prompts: Vec<Range<usize>>,
}

/// A batch after its forward pass.
struct Step {
    /// Mean loss of the pairs.
    loss: f64,
    /// Derivative of that with respect to the log-probability of each target.
    weights: Vec<f64>,
    metrics: Metrics,
}

/// Pairs as batches.
///
/// # Errors
/// When there are none, the model does not have their tokens, or they cannot share
/// their prompts as the configuration says.
pub(super) fn batches(
    config: &Config,
    pairs: Vec<PreferencePair>,
    split: Split,
    ids: Ids,
) -> Result<PairBatches> {
    let forked = match (config.preference.share_prompts, ids.balances) {
        (Some(true), true) => {
            return Err(TrainerError::Setup(
                "share_prompts: true does not go with the load-balancing loss of this model's \
                 experts, which counts tokens: remove the key, or set output_router_logits: \
                 false under model_config"
                    .into(),
            ));
        }
        (asked, balances) => asked.unwrap_or(!balances),
    };
    let options = split.options(config, ids)?;
    PairBatches::new(pairs, options, forked, ids.vocab_size, split.name())
}

impl Pairs {
    pub(super) fn new(
        config: &Config,
        rl: Rl,
        eval: Option<PairBatches>,
        second: Option<CausalLm>,
        weights: Weights,
    ) -> Self {
        let keys = &config.preference;
        let beta = keys.beta();
        let method = match rl {
            Rl::Orpo => Method::Orpo,
            Rl::Simpo => Method::Simpo {
                gamma: keys.simpo_gamma.unwrap_or(0.5),
                alpha: keys.cpo_alpha.unwrap_or(0.0),
            },
            Rl::Cpo => Method::Cpo {
                alpha: keys.cpo_alpha.unwrap_or(1.0),
            },
            Rl::Dpo | Rl::Ipo | Rl::Kto => Method::Dpo(DpoOptions {
                types: keys.dpo_losses(),
                beta,
                label_smoothing: keys.dpo_label_smoothing.unwrap_or(0.0),
                discopop_tau: keys.discopop_tau.unwrap_or(0.05),
                divergence: match keys.f_divergence_type {
                    None | Some(FDivergence::ReverseKl) => Divergence::ReverseKl,
                    Some(FDivergence::ForwardKl) => Divergence::ForwardKl,
                    Some(FDivergence::JsDivergence) => Divergence::JensenShannon,
                    Some(FDivergence::AlphaDivergence) => {
                        Divergence::Alpha(keys.f_alpha_divergence_coef.unwrap_or(0.5))
                    }
                },
            }),
        };
        Self {
            reference: match method {
                Method::Dpo(_) => Reference::new(config, second, weights.adapter.as_ref()),
                _ => Reference::None,
            },
            method,
            beta,
            ld_alpha: keys.dpo_ld_alpha.filter(|alpha| *alpha != 1.0),
            weighted: keys.dpo_use_weighting,
            eval,
            activations: activations(config),
            weights,
        }
    }

    fn parts(&self, batch: &PairBatch) -> Parts {
        let mut targets = Targets::default();
        let chosen = answers_of(batch.chosen.iter(), &batch.tokens, &mut targets);
        let rejected = answers_of(batch.rejected.iter(), &batch.tokens, &mut targets);
        // The part of ORPO that is supervised fine-tuning takes prompts too.
        let prompts = match self.method {
            Method::Orpo => {
                let documents = batch.chosen.iter();
                documents
                    .map(|document| document.prompt(&batch.tokens, &mut targets))
                    .collect()
            }
            _ => Vec::new(),
        };
        Parts {
            targets,
            chosen,
            rejected,
            prompts,
        }
    }

    fn step(&self, scored: &Scored, parts: &Parts, reference: LogProbs) -> Step {
        let both = || parts.chosen.iter().zip(&parts.rejected);
        let pairs: Vec<Pair> = both()
            .zip(reference)
            .map(|((chosen, rejected), reference)| self.pair(scored, chosen, rejected, reference))
            .collect();
        let mut metrics = Metrics::default();
        let outcome = self.outcome(&pairs, scored, &parts.prompts, &mut metrics);
        let count = pairs.len().max(1) as f64;
        let mut weights = vec![0.0; parts.targets.len()];
        for ((gradient, pair), (chosen, rejected)) in
            outcome.gradients.iter().zip(&pairs).zip(both())
        {
            let shorter = pair.chosen.tokens.min(pair.rejected.tokens);
            for (answer, gradient) in [(chosen, gradient.chosen), (rejected, gradient.rejected)] {
                for (index, weight) in weights[answer.clone()].iter_mut().enumerate() {
                    let share = self
                        .ld_alpha
                        .map_or(1.0, |alpha| token_weight(index, shorter, alpha));
                    *weight = (share * gradient.policy + gradient.plain) / count;
                }
            }
        }
        for prompt in &parts.prompts {
            weights[prompt.clone()].fill(outcome.prompt / count);
        }
        self.watch(&pairs, scored, parts, &mut metrics);
        Step {
            loss: outcome.sum / count,
            weights,
            metrics,
        }
    }

    fn pair(
        &self,
        scored: &Scored,
        chosen: &Range<usize>,
        rejected: &Range<usize>,
        reference: [f64; 2],
    ) -> Pair {
        let shorter = chosen.len().min(rejected.len());
        let answer = |targets: &Range<usize>, reference| Answer {
            policy: scored.weighted_log_prob(targets, shorter, self.ld_alpha),
            reference,
            plain: scored.log_prob(targets),
            tokens: targets.len(),
        };
        let weight = |targets: &Range<usize>| {
            let squares = scored.sum(targets, |token| token.log_squares);
            wpo_weight(scored.log_prob(targets), squares, targets.len())
        };
        Pair {
            chosen: answer(chosen, reference[0]),
            rejected: answer(rejected, reference[1]),
            weight: match self.weighted {
                true => weight(chosen) * weight(rejected),
                false => 1.0,
            },
        }
    }

    /// The loss of a batch.
    fn outcome(
        &self,
        pairs: &[Pair],
        scored: &Scored,
        prompts: &[Range<usize>],
        metrics: &mut Metrics,
    ) -> Outcome {
        let count = pairs.len() as f64;
        let mut outcome = Outcome::default();
        // Supervised fine-tuning on the chosen answers, for each pair of the batch once.
        let prompt_tokens: usize = prompts.iter().map(Range::len).sum();
        let prompt_sum: f64 = prompts.iter().map(|prompt| scored.log_prob(prompt)).sum();
        let tokens = pairs.iter().map(|pair| pair.chosen.tokens).sum::<usize>() + prompt_tokens;
        let sum = pairs.iter().map(|pair| pair.chosen.plain).sum::<f64>() + prompt_sum;
        let tuning = nll(sum, tokens);
        let alpha = match &self.method {
            Method::Dpo(options) => {
                let loss = dpo(pairs, options);
                outcome.sum = loss.sum;
                outcome.gradients = loss.gradients;
                if options.types.iter().any(|(t, _)| *t == DpoLossType::Sft) {
                    metrics.add("nll_loss", tuning.value, count);
                }
                return outcome;
            }
            Method::Orpo => {
                outcome.add(pairs, true, |c, r| orpo(c, r, self.beta));
                for pair in pairs {
                    let odds = |answer: &Answer| log_odds(mean(answer)).value;
                    let ratio = odds(&pair.chosen) - odds(&pair.rejected);
                    let loss = orpo(mean(&pair.chosen), mean(&pair.rejected), 1.0);
                    metrics.add("log_odds_chosen", ratio, 1.0);
                    metrics.add("log_odds_ratio", -loss.value, 1.0);
                }
                1.0
            }
            Method::Simpo { gamma, alpha } => {
                outcome.add(pairs, true, |c, r| simpo(c, r, self.beta, *gamma));
                *alpha
            }
            Method::Cpo { alpha } => {
                outcome.add(pairs, false, |c, r| cpo(c, r, self.beta));
                *alpha
            }
        };
        metrics.add("nll_loss", tuning.value, count);
        outcome.sum += alpha * count * tuning.value;
        outcome.prompt = alpha * count * tuning.slope;
        for gradient in &mut outcome.gradients {
            gradient.chosen.plain += outcome.prompt;
        }
        outcome
    }

    /// Numbers to watch, as TRL calls them.
    fn watch(&self, pairs: &[Pair], scored: &Scored, parts: &Parts, metrics: &mut Metrics) {
        let (chosen, rejected) = (&parts.chosen, &parts.rejected);
        let log_prob = |answer: &Answer| match self.method {
            Method::Orpo | Method::Simpo { .. } => mean(answer),
            Method::Dpo(_) | Method::Cpo { .. } => answer.policy,
        };
        // Without a reference, that of the answer is zero.
        let reward = |answer: &Answer| self.beta * (log_prob(answer) - answer.reference);
        for pair in pairs {
            let (c, r) = (reward(&pair.chosen), reward(&pair.rejected));
            metrics.add("rewards/chosen", c, 1.0);
            metrics.add("rewards/rejected", r, 1.0);
            metrics.add("rewards/accuracies", f64::from(u8::from(c > r)), 1.0);
            metrics.add("rewards/margins", c - r, 1.0);
            metrics.add("logps/chosen", log_prob(&pair.chosen), 1.0);
            metrics.add("logps/rejected", log_prob(&pair.rejected), 1.0);
        }
        let count = pairs.len() as f64;
        let all = chosen.iter().chain(rejected);
        for (name, value) in [
            ("entropy", scored.mean(all, |token| token.entropy)),
            (
                "logits/chosen",
                scored.mean(chosen.iter(), |token| token.mean_logit),
            ),
            (
                "logits/rejected",
                scored.mean(rejected.iter(), |token| token.mean_logit),
            ),
            ("mean_token_accuracy", scored.mean(chosen.iter(), likeliest)),
        ] {
            if let Some(value) = value {
                metrics.add(name, value, count);
            }
        }
    }
}

/// A loss with its derivatives.
#[derive(Default)]
struct Outcome {
    /// Sum over the pairs.
    sum: f64,
    gradients: Vec<PairGradient>,
    /// With respect to each token of a prompt.
    prompt: f64,
}

impl Outcome {
    /// A loss of log-probabilities, of means over tokens where `means`.
    fn add(&mut self, pairs: &[Pair], means: bool, loss: impl Fn(f64, f64) -> PairLoss) {
        for pair in pairs {
            let share = |answer: &Answer| match means {
                true => 1.0 / answer.tokens.max(1) as f64,
                false => 1.0,
            };
            let (c, r) = (share(&pair.chosen), share(&pair.rejected));
            let loss = loss(c * pair.chosen.plain, r * pair.rejected.plain);
            self.sum += loss.value;
            let mut gradient = PairGradient::default();
            gradient.chosen.plain = c * loss.chosen;
            gradient.rejected.plain = r * loss.rejected;
            self.gradients.push(gradient);
        }
    }
}

/// Mean log-probability of the tokens of an answer.
fn mean(answer: &Answer) -> f64 {
    answer.plain / answer.tokens.max(1) as f64
}

impl Compared for PairBatches {
    fn items(batch: &PairBatch) -> &[u32] {
        &batch.items
    }

    fn log_probs(batch: &PairBatch, model: &CausalLm, ld_alpha: Option<f64>) -> LogProbs {
        let mut targets = Targets::default();
        let chosen = answers_of(batch.chosen.iter(), &batch.tokens, &mut targets);
        let rejected = answers_of(batch.rejected.iter(), &batch.tokens, &mut targets);
        let scored = Scored::new(model, &batch.tokens, &batch.forks, &targets);
        let both = chosen.iter().zip(&rejected);
        both.map(|(chosen, rejected)| {
            let shorter = chosen.len().min(rejected.len());
            [chosen, rejected].map(|answer| scored.weighted_log_prob(answer, shorter, ld_alpha))
        })
        .collect()
    }
}

impl Objective for Pairs {
    type Model = CausalLm;
    type Batch = PairBatch;

    fn compares_with_start(&self) -> bool {
        self.reference.is_ahead()
    }

    fn prepare(
        &mut self,
        model: &CausalLm,
        train: Option<&dyn BatchSource<Batch = PairBatch>>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let eval = self.eval.as_ref();
        self.reference
            .prepare(model, train, eval, self.ld_alpha, observer)
    }

    fn accumulate(
        &mut self,
        model: &CausalLm,
        window: &[PairBatch],
        seed: StepSeed,
    ) -> Result<Accumulated> {
        let plain = model.valid();
        let all: usize = window.iter().map(|batch| batch.items.len()).sum();
        let mut sum = Accumulated::default();
        for (index, batch) in window.iter().enumerate() {
            let parts = self.parts(batch);
            let reference =
                self.reference
                    .log_probs::<PairBatches>(&plain, batch, Split::Train, self.ld_alpha);
            let (tokens, targets) = (&batch.tokens, &parts.targets);
            let learnt = Scored::learn(
                model,
                tokens,
                &batch.forks,
                seed.batch(index),
                targets,
                self.activations,
                |scored| {
                    let mut step = self.step(scored, &parts, reference);
                    (std::mem::take(&mut step.weights), step)
                },
            );
            let share = batch.items.len() as f64 / all.max(1) as f64;
            sum.add(share, learnt.output.loss + learnt.balance, learnt.gradients);
            sum.metrics.merge(learnt.output.metrics);
            watch_balance(model, learnt.balance, batch.items.len(), &mut sum.metrics);
            sum.forward_seconds += learnt.forward_seconds;
            sum.see(tokens);
            sum.share(batch.shared_tokens());
            let answers = parts.chosen.iter().chain(&parts.rejected);
            sum.trained_tokens += answers.map(Range::len).sum::<usize>();
        }
        Ok(sum)
    }

    fn evaluate(&mut self, model: &CausalLm) -> Result<LogRow> {
        let Some(batches) = &self.eval else {
            return Ok(LogRow::new());
        };
        evaluate(batches, |batch| {
            let parts = self.parts(batch);
            let reference =
                self.reference
                    .log_probs::<PairBatches>(model, batch, Split::Eval, self.ld_alpha);
            let scored = Scored::new(model, &batch.tokens, &batch.forks, &parts.targets);
            let step = self.step(&scored, &parts, reference);
            Ok(Evaluated {
                loss: step.loss,
                samples: batch.items.len(),
                metrics: step.metrics,
            })
        })
    }

    fn samples(&self, model: &CausalLm, sampler: &Sampler) -> Result<Value> {
        let eval = self.eval.as_ref();
        sampler.write(
            model,
            eval.map_or_else(Vec::new, |eval| eval.prompts(sampler.count)),
        )
    }

    fn eval_samples(&self) -> usize {
        self.eval.as_ref().map_or(0, BatchSource::len)
    }

    fn describe(&self, _loss: f64, row: &mut LogRow) {
        count_tokens(row);
    }

    fn saver(&self, model: CausalLm, precision: Precision) -> SaveModel {
        self.weights.saver(model, precision)
    }

    fn restore(&self, model: CausalLm, folder: &Path) -> Result<CausalLm> {
        self.weights.restore(model, folder)
    }
}
