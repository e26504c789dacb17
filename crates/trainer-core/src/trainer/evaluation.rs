//! Loss on held-back samples.

use std::time::Instant;

use serde_json::json;
use trainer_model::{CausalLm, Targets};

use super::causal::tokens;
use crate::batches::Batches;
use crate::error::Result;
use crate::history::LogRow;

/// Evaluates a model that records no gradients.
pub(super) fn evaluate(model: &CausalLm, batches: &Batches) -> Result<LogRow> {
    let started = Instant::now();
    let plan = batches.plan(0)?;
    let (mut sum, mut rows_seen) = (0.0, 0);
    for rows in plan.batches() {
        let batch = batches.collate(rows)?;
        let targets = Targets::from_labels(&batch.labels, batch.width);
        if targets.is_empty() {
            continue;
        }
        let hidden_btd = model.hidden(&model.input(&tokens(&batch)));
        let loss = f64::from(model.loss_sum(hidden_btd, &targets).into_scalar::<f32>());
        sum += loss / targets.len() as f64 * rows.len() as f64;
        rows_seen += rows.len();
    }
    let loss = sum / f64::from(rows_seen.max(1) as u32);
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let mut row = LogRow::new();
    row.insert("eval_loss".into(), json!(loss));
    row.insert("eval_ppl".into(), json!(loss.exp()));
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
