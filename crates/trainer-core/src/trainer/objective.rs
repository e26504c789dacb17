//! What a trainer learns: the one thing in which trainers differ.
//!
//! The loop ([`Run`](super::run::Run)) takes windows of batches, clips, steps,
//! logs, evaluates and saves; an [`Objective`] makes of a window a loss and a
//! gradient, and of the evaluation data a row of values.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use seqprep::Batch;
use serde::Serialize;
use serde_json::{Value, json};
use trainer_model::ParameterGradients;

use crate::batches::BatchSource;
use crate::checkpoint::{Exact, SaveModel};
use crate::error::Result;
use crate::generation::Sampler;
use crate::history::{LogRow, Observer};

/// A kind of training.
pub(crate) trait Objective {
    /// The model that is trained.
    type Model: Module + 'static;
    /// What one forward pass takes; it is written for someone who looks for the row that
    /// went wrong.
    type Batch: Serialize;

    /// Whether [`prepare`](Self::prepare) looks at the model.
    fn compares_with_start(&self) -> bool {
        false
    }

    /// What has to be done once, before the first step. `model` records no gradients
    /// and has the weights that training starts from: in a run that is resumed, those
    /// of the run's beginning. `train` is absent where the data is a stream.
    ///
    /// # Errors
    /// When a batch cannot be used.
    fn prepare(
        &mut self,
        _model: &Self::Model,
        _train: Option<&dyn BatchSource<Batch = Self::Batch>>,
        _observer: &mut dyn Observer,
    ) -> Result<()> {
        Ok(())
    }

    /// Mean loss and gradient over a window of batches, however it is divided
    /// into them. `model` records gradients.
    ///
    /// # Errors
    /// When a batch cannot be used.
    fn accumulate(
        &mut self,
        model: &Self::Model,
        window: &[Self::Batch],
        step: StepSeed,
    ) -> Result<Accumulated>;

    /// Values on the evaluation data, named `eval_...`. `model` records no
    /// gradients.
    ///
    /// # Errors
    /// When a batch cannot be used.
    fn evaluate(&mut self, model: &Self::Model) -> Result<LogRow>;

    /// What the model writes after prompts of the evaluation data. `model` records no
    /// gradients.
    ///
    /// # Errors
    /// When a sample cannot be read, or its text not be told.
    fn samples(&self, _model: &Self::Model, _sampler: &Sampler) -> Result<Value> {
        Ok(Value::Array(Vec::new()))
    }

    /// Samples to evaluate on; none when 0.
    fn eval_samples(&self) -> usize;

    /// Adds what follows from the mean `loss` of a log row.
    fn describe(&self, _loss: f64, _row: &mut LogRow) {}

    /// What writes the files of `model`, which records no gradients, into a
    /// folder; it may run in another thread.
    fn saver(&self, model: Self::Model, precision: Precision) -> SaveModel;

    /// `model` with the weights that a [`saver`](Self::saver) wrote exactly.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not fit the model.
    fn restore(&self, model: Self::Model, folder: &Path) -> Result<Self::Model>;
}

/// How weights are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// To the bit, for a run that goes on.
    Exact,
    /// In the format that the configuration asks for.
    Configured,
}

/// From what the random choices of a step are drawn, so that the same step of the
/// same run draws the same ones, whatever came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepSeed {
    /// Seed of the run.
    pub(crate) seed: u64,
    /// Steps taken before this one.
    pub(crate) step: usize,
}

impl StepSeed {
    /// The seed of one batch of the window.
    pub(crate) fn batch(self, index: usize) -> u64 {
        let steps = seqprep::SeedStream::new(self.seed).derive("step", self.step as u64);
        seqprep::SeedStream::new(steps).derive("batch", index as u64)
    }
}

/// The sum of a window.
#[derive(Debug, Default)]
pub(crate) struct Accumulated {
    /// Mean loss of the window.
    pub(crate) loss: f64,
    /// Its gradient.
    pub(crate) gradients: ParameterGradients,
    /// Tokens seen, padding left out.
    pub(crate) tokens: usize,
    /// Places for tokens, padding included; 0 where they are not counted.
    pub(crate) slots: usize,
    /// Tokens that the loss is taken over.
    pub(crate) trained_tokens: usize,
    /// Lengths of the documents seen.
    pub(crate) documents: Vec<u32>,
    /// Seconds until the losses of the batches were known.
    pub(crate) forward_seconds: f64,
    /// Other values to log.
    pub(crate) metrics: Metrics,
}

impl Accumulated {
    /// Counts the documents, tokens and slots of a batch.
    pub(crate) fn see(&mut self, batch: &Batch) {
        self.slots += batch.slots();
        for segments in batch.segment_ids.chunks(batch.width.max(1)) {
            let documents = segments.chunk_by(|a, b| a == b);
            for document in documents.filter(|document| document[0] != 0) {
                self.documents.push(document.len() as u32);
                self.tokens += document.len();
            }
        }
    }

    /// Counts tokens that stand for those of two documents once more: what is logged
    /// does not depend on the layout.
    pub(crate) fn share(&mut self, tokens: usize) {
        self.tokens += tokens;
        self.slots += tokens;
    }

    /// Adds a batch that has a `share` of the window, with the mean loss of its
    /// samples and the gradients of that.
    pub(crate) fn add(&mut self, share: f64, loss: f64, gradients: Option<ParameterGradients>) {
        self.loss += share * loss;
        if let Some(mut gradients) = gradients {
            if share != 1.0 {
                gradients.scale(share);
            }
            self.gradients.add(gradients);
        }
    }
}

/// Named values, each the mean of what was added under its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metrics(BTreeMap<String, (f64, f64)>);

impl Metrics {
    /// Adds the mean `value` of `weight` things.
    pub(crate) fn add(&mut self, name: &str, value: f64, weight: f64) {
        let (sum, weights) = self.0.entry(name.to_owned()).or_default();
        *sum += value * weight;
        *weights += weight;
    }

    /// Adds everything that `other` holds.
    pub(crate) fn merge(&mut self, other: Self) {
        for (name, (sum, weight)) in other.0 {
            let (own_sum, own_weight) = self.0.entry(name).or_default();
            *own_sum += sum;
            *own_weight += weight;
        }
    }

    /// The sums and weights, for a checkpoint.
    pub(crate) fn save(&self) -> BTreeMap<String, (Exact, Exact)> {
        let exact = |(name, (sum, weight)): (&String, &(f64, f64))| {
            (name.clone(), (Exact(*sum), Exact(*weight)))
        };
        self.0.iter().map(exact).collect()
    }

    /// What [`save`](Self::save) gave.
    pub(crate) fn restore(saved: &BTreeMap<String, (Exact, Exact)>) -> Self {
        let plain =
            |(name, (sum, weight)): (&String, &(Exact, Exact))| (name.clone(), (sum.0, weight.0));
        Self(saved.iter().map(plain).collect())
    }

    /// Writes the means into a row.
    pub(crate) fn write(&self, row: &mut LogRow) {
        for (name, mean) in self.means() {
            row.insert(name.to_owned(), json!(mean));
        }
    }

    /// Each name with its mean.
    pub(crate) fn means(&self) -> impl Iterator<Item = (&str, f64)> {
        let counted = self.0.iter().filter(|(_, (_, weight))| *weight != 0.0);
        counted.map(|(name, (sum, weight))| (name.as_str(), sum / weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_weighted_means() {
        let mut metrics = Metrics::default();
        metrics.add("accuracy", 1.0, 3.0);
        let mut more = Metrics::default();
        more.add("accuracy", 0.0, 1.0);
        more.add("margin", 2.0, 1.0);
        metrics.merge(more);
        let mut row = LogRow::new();
        metrics.write(&mut row);
        assert_eq!(
            serde_json::Value::Object(row),
            json!({"accuracy": 0.75, "margin": 2.0})
        );
    }

    #[test]
    fn every_batch_of_every_step_has_a_seed_of_its_own() {
        let seed = |seed, step, batch| StepSeed { seed, step }.batch(batch);
        let all = [seed(1, 0, 0), seed(1, 0, 1), seed(1, 1, 0), seed(2, 0, 0)];
        let different: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(seed(1, 1, 0), seed(1, 1, 0));
    }
}
