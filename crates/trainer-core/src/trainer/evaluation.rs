//! Loss on held-back samples.

use std::time::Instant;

use seqprep::Sample;
use serde_json::json;
use trainer_config::Config;
use trainer_model::{CausalLm, Targets};

use super::causal::tokens;
use crate::batch_plan::BatchOptions;
use crate::batches::{BatchSource, Batches};
use crate::error::{GivenUp, Result, TrainerError};
use crate::history::LogRow;

/// Evaluates a model on samples, in the batches that the configuration asks for
/// and with the values that a training run logs. Rows are filled up with `pad_id`.
///
/// # Errors
/// When there are no samples, or they hold ids that the model does not have; when a value
/// is not finite.
pub fn evaluate_samples(
    config: &Config,
    samples: Vec<Sample>,
    model: &CausalLm,
    pad_id: u32,
) -> Result<LogRow> {
    let batches = Batches::new(samples, BatchOptions::evaluation(config, pad_id))?;
    batches.check_vocabulary(model.config().vocab_size, "evaluation")?;
    evaluate(model, &batches)
}

/// Evaluates a model that records no gradients.
///
/// `eval_loss` is the mean over rows of the token mean of their batch, as Hugging
/// Face computes it, so that it can be compared; it changes with the batch size
/// and with packing. `eval_loss_per_token`, the mean over all trained tokens, does
/// not.
pub(super) fn evaluate(model: &CausalLm, batches: &Batches) -> Result<LogRow> {
    let started = Instant::now();
    let plan = batches.plan(0)?;
    let (mut row_sum, mut rows_seen) = (0.0, 0_u32);
    let (mut token_sum, mut tokens_seen) = (0.0, 0_usize);
    for rows in plan.batches() {
        let batch = batches.collate(&rows)?;
        let targets = Targets::from_labels(&batch.labels, batch.width);
        if targets.is_empty() {
            continue;
        }
        let hidden_btd = model.hidden(&model.input(&tokens(&batch)));
        let loss = f64::from(model.loss_sum(hidden_btd, &targets).into_scalar::<f32>());
        row_sum += loss / targets.len() as f64 * rows.len() as f64;
        rows_seen += rows.len() as u32;
        token_sum += loss;
        tokens_seen += targets.len();
    }
    let loss = row_sum / f64::from(rows_seen.max(1));
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let mut row = LogRow::new();
    insert_finite(&mut row, "eval_loss", loss)?;
    // Of a large loss it is infinite.
    row.insert("eval_ppl".into(), json!(loss.exp()));
    let token_loss = token_sum / tokens_seen.max(1) as f64;
    insert_finite(&mut row, "eval_loss_per_token", token_loss)?;
    row.insert("eval_runtime".into(), json!(seconds));
    row.insert(
        "eval_samples_per_second".into(),
        json!(batches.len() as f64 / seconds),
    );
    row.insert(
        "eval_steps_per_second".into(),
        json!(plan.num_batches() as f64 / seconds),
    );
    Ok(row)
}

/// Enters a value of an evaluation.
///
/// # Errors
/// When it is not finite: JSON has no such numbers, and a comparison with one says nothing.
pub(super) fn insert_finite(row: &mut LogRow, name: &str, value: f64) -> Result<()> {
    if !value.is_finite() {
        return Err(TrainerError::NonFiniteEvaluation {
            step: None,
            name: name.to_owned(),
            value,
            given_up: GivenUp::AtOnce,
        });
    }
    row.insert(name.into(), json!(value));
    Ok(())
}
