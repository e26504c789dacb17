//! The causal trainer: next-token prediction.
//!
//! The loss of a window is the mean over all its trained tokens, however they are
//! spread over its batches, so that accumulation changes nothing but memory.

use std::path::Path;

use seqprep::{Batch, SampleSource};
use serde_json::{Value, json};
use trainer_config::Config;
use trainer_model::{Activations, CausalLm, Targets, Tokens, backward};

use super::evaluation::evaluate;
use super::objective::{Accumulated, Objective, Precision, StepSeed};
use super::preference::Parts;
use super::run::Run;
use super::weights::Weights;
use crate::batch_plan::BatchOptions;
use crate::batches::{BatchSource, Batches};
use crate::checkpoint::SaveModel;
use crate::error::Result;
use crate::feed::{Feed, PackedRows, TrainData};
use crate::generation::Sampler;
use crate::history::LogRow;

/// Trains a causal language model on tokenized samples.
pub struct CausalTrainer(pub(super) Run<NextToken>);

impl CausalTrainer {
    pub(super) fn new(
        config: &Config,
        train: TrainData,
        eval: Box<dyn SampleSource>,
        model: CausalLm,
        parts: Parts,
    ) -> Result<Self> {
        let vocab_size = model.config().vocab_size;
        let Parts {
            tokenizer,
            total_steps,
            resume,
            weights,
            ..
        } = parts;
        let options = BatchOptions::training(config, tokenizer.pad_id())?;
        let feed = match train {
            TrainData::Samples(samples) => {
                let batches = Batches::new(samples, options)?;
                batches.check_vocabulary(vocab_size, "training")?;
                Feed::samples(batches)
            }
            TrainData::Stream(open) => {
                Feed::stream(PackedRows::new(open, resume.cursor(), options, vocab_size)?)
            }
            TrainData::Preferences(_) => return Err(super::setup::unfit()),
        };
        let eval = if eval.is_empty() {
            None
        } else {
            let eval = Batches::new(eval, BatchOptions::evaluation(config, tokenizer.pad_id()))?;
            eval.check_vocabulary(vocab_size, "evaluation")?;
            Some(eval)
        };
        let objective = NextToken {
            activations: activations(config),
            eval,
            weights,
        };
        let run = Run::new(
            config,
            objective,
            feed,
            model,
            tokenizer,
            total_steps,
            resume,
        )?;
        Ok(Self(run))
    }
}

/// Cross entropy of the token that follows.
pub(super) struct NextToken {
    activations: Activations,
    eval: Option<Batches>,
    weights: Weights,
}

impl Objective for NextToken {
    type Model = CausalLm;
    type Batch = Batch;

    fn accumulate(
        &mut self,
        model: &CausalLm,
        window: &[Batch],
        step: StepSeed,
    ) -> Result<Accumulated> {
        let trained_tokens = window.iter().map(Batch::trained_tokens).sum::<usize>();
        let mut sum = Accumulated {
            trained_tokens,
            ..Accumulated::default()
        };
        for (index, batch) in window.iter().enumerate() {
            sum.see(batch);
            let targets = Targets::from_labels(&batch.labels, batch.width);
            if targets.is_empty() {
                continue;
            }
            let input = model.input(&tokens(batch)).with_dropout(step.batch(index));
            // As in transformers, each batch adds a balance of experts of its own: it is
            // a property of the tokens that the experts of a layer see together.
            let back = backward(model, &input, self.activations, |hidden_btd| {
                let loss = model.loss_sum(hidden_btd, &targets) / trained_tokens as f64;
                (loss, ())
            });
            sum.loss += back.loss;
            sum.forward_seconds += back.forward_seconds;
            sum.gradients.add(back.gradients);
        }
        Ok(sum)
    }

    fn evaluate(&mut self, model: &CausalLm) -> Result<LogRow> {
        match &self.eval {
            Some(eval) => evaluate(model, eval),
            None => Ok(LogRow::new()),
        }
    }

    fn samples(&self, model: &CausalLm, sampler: &Sampler) -> Result<Value> {
        let prompts = match &self.eval {
            Some(eval) => eval.prompts(sampler.count, sampler.prompt_ratio)?,
            None => Vec::new(),
        };
        sampler.write(model, prompts)
    }

    fn eval_samples(&self) -> usize {
        self.eval.as_ref().map_or(0, Batches::len)
    }

    fn describe(&self, loss: f64, row: &mut LogRow) {
        row.insert("ppl".into(), json!(loss.exp()));
    }

    fn saver(&self, model: CausalLm, precision: Precision) -> SaveModel {
        self.weights.saver(model, precision)
    }

    fn restore(&self, model: CausalLm, folder: &Path) -> Result<CausalLm> {
        self.weights.restore(model, folder)
    }
}

/// The tokens of a batch as the model takes them.
pub(super) fn tokens(batch: &Batch) -> Tokens<'_> {
    Tokens {
        rows: batch.rows,
        width: batch.width,
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        segment_ids: &batch.segment_ids,
    }
}

pub(super) fn activations(config: &Config) -> Activations {
    match config.compute.gradient_checkpointing {
        true => Activations::Recomputed,
        false => Activations::Kept,
    }
}
