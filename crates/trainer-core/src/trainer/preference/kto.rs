//! Kahneman-Tversky optimization: learning from single answers with a verdict.
//!
//! How far the policy has gone from the reference altogether is estimated, batch by
//! batch, from the answers of the batch after other prompts than their own.

use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use seqprep::KtoSample;
use serde_json::Value;
use trainer_config::Config;
use trainer_model::{Activations, CausalLm, Targets};

use super::answers::{Scored, answers_of};
use super::reference::{Compared, LogProbs, Reference};
use super::{Evaluated, Ids, Split, count_tokens, evaluate, watch_balance};
use crate::batches::BatchSource;
use crate::checkpoint::SaveModel;
use crate::error::Result;
use crate::generation::Sampler;
use crate::history::{LogRow, Observer};
use crate::losses::{kto, kto_kl};
use crate::preference_batches::{JudgedBatch, JudgedBatches};
use crate::trainer::causal::activations;
use crate::trainer::objective::{Accumulated, Metrics, Objective, Precision, StepSeed};
use crate::trainer::weights::Weights;

/// Learns from answers that are good or bad.
pub(super) struct Kto {
    beta: f64,
    /// Weights of good and of bad answers.
    class_weights: [f64; 2],
    reference: Reference,
    eval: Option<JudgedBatches>,
    activations: Activations,
    weights: Weights,
}

/// A batch after its forward pass.
struct Step {
    /// Mean loss of the answers.
    loss: f64,
    /// Derivative of that with respect to the log-probability of each target.
    weights: Vec<f64>,
    metrics: Metrics,
}

/// Answers as batches.
///
/// # Errors
/// When there are fewer than two, or the model does not have their tokens.
pub(super) fn batches(
    config: &Config,
    answers: Vec<KtoSample>,
    split: Split,
    ids: Ids,
) -> Result<JudgedBatches> {
    let longest = match split {
        Split::Train => config.sequence_len,
        Split::Eval => config.eval_sequence_len.unwrap_or(config.sequence_len),
    };
    JudgedBatches::new(
        answers,
        split.options(config, ids)?,
        config.micro_batch_size,
        longest,
        ids.vocab_size,
        split.name(),
    )
}

impl Kto {
    pub(super) fn new(
        config: &Config,
        eval: Option<JudgedBatches>,
        second: Option<CausalLm>,
        weights: Weights,
    ) -> Self {
        let keys = &config.preference;
        Self {
            beta: keys.beta(),
            class_weights: [keys.kto_desirable_weight, keys.kto_undesirable_weight],
            reference: Reference::new(config, second, weights.adapter.as_ref()),
            eval,
            activations: activations(config),
            weights,
        }
    }

    /// The reference's log-probabilities of the answers, and the distance of the
    /// policy from it; `model` records no gradients.
    fn compare(&self, model: &CausalLm, batch: &JudgedBatch, split: Split) -> (LogProbs, f64) {
        let reference = self
            .reference
            .log_probs::<JudgedBatches>(model, batch, split, None);
        let mismatched = mismatched_log_probs(batch, model);
        let ratios: Vec<f64> = mismatched
            .iter()
            .zip(&reference)
            .map(|(policy, [_, reference])| policy - reference)
            .collect();
        (reference, kto_kl(&ratios))
    }

    fn step(
        &self,
        scored: &Scored,
        batch: &JudgedBatch,
        answers: &[Range<usize>],
        reference: &LogProbs,
        kl: f64,
    ) -> Step {
        let count = answers.len().max(1) as f64;
        let mut step = Step {
            loss: 0.0,
            weights: vec![0.0; scored.len()],
            metrics: Metrics::default(),
        };
        // As TRL, every batch counts once in the means of each class.
        step.metrics.add("kl", kl, 1.0);
        let mut classes = [Class::default(), Class::default()];
        for ((answer, [reference, _]), &desirable) in
            answers.iter().zip(reference).zip(&batch.desirable)
        {
            let log_prob = scored.log_prob(answer);
            let ratio = log_prob - reference;
            let class = usize::from(!desirable);
            let loss = kto(ratio, kl, desirable, self.beta, self.class_weights[class]);
            step.loss += loss.value / count;
            step.weights[answer.clone()].fill(loss.slope / count);
            classes[class].count += 1.0;
            classes[class].log_probs += log_prob;
            classes[class].rewards += self.beta * ratio;
            classes[class].answers.push(answer.clone());
        }
        let entropy = scored.mean(answers.iter(), |token| token.entropy);
        if let Some(entropy) = entropy {
            step.metrics.add("entropy", entropy, 1.0);
        }
        for (class, name) in classes.iter().zip(["chosen", "rejected"]) {
            class.watch(name, scored, &mut step.metrics);
        }
        if let [Some(chosen), Some(rejected)] = classes.each_ref().map(Class::reward) {
            step.metrics.add("rewards/margins", chosen - rejected, 1.0);
        }
        step
    }
}

/// Answers with the same verdict.
#[derive(Default)]
struct Class {
    count: f64,
    log_probs: f64,
    rewards: f64,
    answers: Vec<Range<usize>>,
}

impl Class {
    fn reward(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.rewards / self.count)
    }

    fn watch(&self, name: &str, scored: &Scored, metrics: &mut Metrics) {
        let Some(reward) = self.reward() else {
            return;
        };
        metrics.add(&format!("rewards/{name}"), reward, 1.0);
        metrics.add(&format!("logps/{name}"), self.log_probs / self.count, 1.0);
        if let Some(logits) = scored.mean(self.answers.iter(), |token| token.mean_logit) {
            metrics.add(&format!("logits/{name}"), logits, 1.0);
        }
    }
}

/// Log-probability of each mismatched answer.
fn mismatched_log_probs(batch: &JudgedBatch, model: &CausalLm) -> Vec<f64> {
    let tokens = &batch.mismatched_tokens;
    let mut targets = Targets::default();
    let answers = answers_of(batch.mismatched.iter(), tokens, &mut targets);
    let scored = Scored::new(model, tokens, &[], &targets);
    answers
        .iter()
        .map(|answer| scored.log_prob(answer))
        .collect()
}

impl Compared for JudgedBatches {
    fn items(batch: &JudgedBatch) -> &[u32] {
        &batch.items
    }

    fn log_probs(batch: &JudgedBatch, model: &CausalLm, _ld_alpha: Option<f64>) -> LogProbs {
        let mut targets = Targets::default();
        let answers = answers_of(batch.answers.iter(), &batch.tokens, &mut targets);
        let scored = Scored::new(model, &batch.tokens, &[], &targets);
        let matched = answers.iter().map(|answer| scored.log_prob(answer));
        let mismatched = mismatched_log_probs(batch, model);
        matched
            .zip(mismatched)
            .map(|(matched, mismatched)| [matched, mismatched])
            .collect()
    }
}

impl Objective for Kto {
    type Model = CausalLm;
    type Batch = JudgedBatch;

    fn compares_with_start(&self) -> bool {
        self.reference.is_ahead()
    }

    fn prepare(
        &mut self,
        model: &CausalLm,
        train: Option<&dyn BatchSource<Batch = JudgedBatch>>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let eval = self.eval.as_ref();
        self.reference.prepare(model, train, eval, None, observer)
    }

    fn accumulate(
        &mut self,
        model: &CausalLm,
        window: &[JudgedBatch],
        seed: StepSeed,
    ) -> Result<Accumulated> {
        let plain = model.valid();
        let all: usize = window.iter().map(|batch| batch.items.len()).sum();
        let mut sum = Accumulated::default();
        for (index, batch) in window.iter().enumerate() {
            let (reference, kl) = self.compare(&plain, batch, Split::Train);
            let mut targets = Targets::default();
            let answers = answers_of(batch.answers.iter(), &batch.tokens, &mut targets);
            let (tokens, activations) = (&batch.tokens, self.activations);
            let learnt = Scored::learn(
                model,
                tokens,
                &[],
                seed.batch(index),
                &targets,
                activations,
                |scored| {
                    let mut step = self.step(scored, batch, &answers, &reference, kl);
                    (std::mem::take(&mut step.weights), step)
                },
            );
            let share = batch.items.len() as f64 / all.max(1) as f64;
            sum.add(share, learnt.output.loss + learnt.balance, learnt.gradients);
            sum.metrics.merge(learnt.output.metrics);
            watch_balance(model, learnt.balance, batch.items.len(), &mut sum.metrics);
            sum.forward_seconds += learnt.forward_seconds;
            sum.see(tokens);
            sum.trained_tokens += targets.len();
        }
        Ok(sum)
    }

    fn evaluate(&mut self, model: &CausalLm) -> Result<LogRow> {
        let Some(batches) = &self.eval else {
            return Ok(LogRow::new());
        };
        evaluate(batches, |batch| {
            let (reference, kl) = self.compare(model, batch, Split::Eval);
            let mut targets = Targets::default();
            let answers = answers_of(batch.answers.iter(), &batch.tokens, &mut targets);
            let scored = Scored::new(model, &batch.tokens, &[], &targets);
            let step = self.step(&scored, batch, &answers, &reference, kl);
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
