//! Keys that need another key to have an effect.
//!
//! A key that would have changed what is learnt or kept is an error; one that is only
//! about time, memory or messages is a warning. The value of the default asks for
//! nothing, so that a complete configuration can be given back to the program.

use serde_json::Value;

use super::Rules;
use crate::diagnostic::Diagnostic;
use crate::schema::{
    Config, EvalStrategy, LrScheduler, NonFinitePolicy, PackingStrategy, SaveStrategy,
};

/// A key, when something reads it, and what has to be set for that.
struct Effect {
    key: &'static str,
    reads: fn(&Rules<'_>) -> bool,
    /// The key that decides.
    other: &'static str,
    /// What to write.
    needs: &'static str,
    /// Whether the run would be another one.
    matters: bool,
}

const fn error(
    key: &'static str,
    other: &'static str,
    needs: &'static str,
    reads: fn(&Rules<'_>) -> bool,
) -> Effect {
    Effect {
        key,
        reads,
        other,
        needs,
        matters: true,
    }
}

const fn warning(
    key: &'static str,
    other: &'static str,
    needs: &'static str,
    reads: fn(&Rules<'_>) -> bool,
) -> Effect {
    Effect {
        matters: false,
        ..error(key, other, needs, reads)
    }
}

const EVALUATION_DATA: &str = "val_set_size` or `test_datasets";

const EFFECTS: [Effect; 22] = [
    error("pose_max_context_len", "use_pose", "use_pose: true", |r| {
        r.config.use_pose
    }),
    error("pose_num_chunks", "use_pose", "use_pose: true", |r| {
        r.config.use_pose
    }),
    error(
        "pose_num_chunks",
        "pose_split_on_token_ids",
        "use_pose: true` without `pose_split_on_token_ids",
        |r| !r.config.use_pose || r.config.pose_split_on_token_ids.is_empty(),
    ),
    error(
        "pose_split_on_token_ids",
        "use_pose",
        "use_pose: true",
        |r| r.config.use_pose,
    ),
    error("pose_variant", "use_pose", "use_pose: true", |r| {
        r.config.use_pose
    }),
    error(
        "sample_packing_sequentially",
        "sample_packing",
        "sample_packing: true",
        packs,
    ),
    error(
        "packing_strategy",
        "sample_packing",
        "sample_packing: true",
        // What follows from `curriculum_sampling` is nobody's wish.
        |r| {
            let follows = r.config.packing_strategy == PackingStrategy::FirstFit
                && r.config.curriculum_sampling;
            packs(r) || follows || r.config.sample_packing_sequentially
        },
    ),
    warning(
        "sample_packing_bin_size",
        "sample_packing",
        "sample_packing: true",
        packs,
    ),
    warning(
        "sample_packing_group_size",
        "packing_strategy",
        "packing_strategy: first_fit",
        |r| {
            let c = r.config;
            let first_fit = c.packing_strategy == PackingStrategy::FirstFit
                || c.curriculum_sampling && !r.is_set("packing_strategy");
            packs(r) && first_fit && !c.sample_packing_sequentially
        },
    ),
    warning(
        "streaming_multipack_buffer_size",
        "streaming",
        "streaming: true",
        |r| r.config.streaming || r.config.pretraining_dataset.is_some(),
    ),
    warning("eval_batch_size", "val_set_size", EVALUATION_DATA, |r| {
        r.has_evaluation_data()
    }),
    warning("eval_sequence_len", "val_set_size", EVALUATION_DATA, |r| {
        r.has_evaluation_data()
    }),
    warning(
        "eval_sample_packing",
        "val_set_size",
        EVALUATION_DATA,
        |r| r.has_evaluation_data() || r.config.eval_sample_packing != Some(true),
    ),
    error(
        "greater_is_better",
        "metric_for_best_model",
        "metric_for_best_model: ...` with `load_best_model_at_end: true",
        |r| {
            let keys = &r.config.checkpoint;
            keys.load_best_model_at_end
                || keys.metric_for_best_model.is_some()
                || keys.early_stopping_patience.is_some()
                || keys.save_strategy == Some(SaveStrategy::Best)
        },
    ),
    error(
        "loss_watchdog_patience",
        "loss_watchdog_threshold",
        "loss_watchdog_threshold: ...",
        |r| r.config.checkpoint.loss_watchdog_threshold.is_some(),
    ),
    error(
        "on_nonfinite_limit",
        "on_nonfinite",
        "on_nonfinite: skip` or `rollback",
        |r| r.config.guard.on_nonfinite != NonFinitePolicy::Stop,
    ),
    warning(
        "save_total_limit",
        "save_strategy",
        "save_strategy: steps` or `epoch",
        |r| r.config.checkpoint.save_strategy != Some(SaveStrategy::No),
    ),
    error(
        "num_generation_samples",
        "generate_samples",
        "generate_samples: true",
        |r| r.config.generation.generate_samples,
    ),
    error(
        "generation_prompt_ratio",
        "generate_samples",
        "generate_samples: true",
        |r| r.config.generation.generate_samples,
    ),
    error("loraplus_lr_ratio", "adapter", "adapter: lora", |r| {
        r.config.adapters.adapter.is_some()
    }),
    warning(
        "warmup_steps",
        "lr_scheduler",
        "lr_scheduler: constant_with_warmup` or another schedule with a warmup",
        |r| warms_up(r.config) || r.config.warmup_steps == Some(0),
    ),
    warning(
        "warmup_ratio",
        "lr_scheduler",
        "lr_scheduler: constant_with_warmup` or another schedule with a warmup",
        |r| warms_up(r.config) || r.config.warmup_ratio == Some(0.0),
    ),
];

fn packs(rules: &Rules<'_>) -> bool {
    rules.config.sample_packing || rules.config.eval_sample_packing == Some(true)
}

/// Whether the schedule begins with a warmup.
fn warms_up(config: &Config) -> bool {
    use LrScheduler::{Constant, Greedy, ReduceLrOnPlateau};
    !matches!(config.lr_scheduler, Constant | Greedy | ReduceLrOnPlateau)
}

impl Rules<'_> {
    /// Keys that nothing reads because another key is absent.
    pub(super) fn effects(&mut self) {
        let json = |config: &Config| serde_json::to_value(config).unwrap_or_default();
        let (here, default) = (json(self.config), json(&Config::default()));
        self.best_by_evaluations();
        for effect in &EFFECTS {
            let Effect {
                key, other, needs, ..
            } = *effect;
            let asked = here[key] != default[key] && here[key] != Value::Null;
            if !asked || (effect.reads)(self) || !self.usable(&[key, other]) {
                continue;
            }
            let labels = [
                self.key(key, "nothing reads it"),
                self.value(other, "this one decides"),
            ];
            let message = format!("`{key}` needs `{needs}`");
            let diagnostic = match effect.matters {
                true => Diagnostic::error(message),
                false => Diagnostic::warning(message),
            };
            self.report(
                diagnostic,
                labels,
                &format!("add `{needs}`, or remove `{key}`"),
            );
        }
    }

    /// Keys about the best evaluation, where there is none.
    fn best_by_evaluations(&mut self) {
        let c = self.config;
        let keys = &c.checkpoint;
        let never = c.eval_strategy == Some(EvalStrategy::No)
            && c.eval_steps.is_none()
            && c.evals_per_epoch.is_none();
        if self.has_evaluation_data() && !never || !self.usable(&["eval_strategy"]) {
            return;
        }
        let (other, help) = match never && self.has_evaluation_data() {
            true => ("eval_strategy", "remove one of them"),
            false => (
                "val_set_size",
                "set `val_set_size` (such as 0.05) or `test_datasets`, or remove the key",
            ),
        };
        for (key, asked) in [
            ("load_best_model_at_end", keys.load_best_model_at_end),
            (
                "early_stopping_patience",
                keys.early_stopping_patience.is_some(),
            ),
            (
                "metric_for_best_model",
                keys.metric_for_best_model.is_some(),
            ),
            (
                "save_strategy",
                keys.save_strategy == Some(SaveStrategy::Best),
            ),
        ] {
            if asked && self.usable(&[key]) {
                let labels = [
                    self.key(key, "looks for the best evaluation"),
                    self.value(other, "there is none"),
                ];
                let written = match key {
                    "save_strategy" => "save_strategy: best",
                    key => key,
                };
                let message = format!("`{written}` needs evaluations, and there are none");
                self.error(&message, labels, help);
            }
        }
    }
}
