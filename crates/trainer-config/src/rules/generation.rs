//! Rules about generated text.

use super::Rules;
use crate::schema::{EvalStrategy, Task};

impl Rules<'_> {
    /// Samples at evaluations, and the keys that belong to them.
    pub(super) fn samples(&mut self) {
        let wanted = self.config.generation.generate_samples;
        if !self.usable(&["generate_samples"]) {
            return;
        }
        if !wanted || !self.usable(&["val_set_size", "test_datasets", "eval_strategy"]) {
            return;
        }
        let c = self.config;
        if matches!(
            c.preference.task(),
            Task::RewardModel | Task::ProcessRewardModel
        ) {
            let label = self.value("generate_samples", "asks for text");
            self.error(
                "a reward model writes no text",
                [label],
                "remove `generate_samples`",
            );
        } else if !self.has_evaluation_data() {
            let label = self.value("generate_samples", "takes prompts of the evaluation data");
            self.error(
                "`generate_samples` needs evaluation data, and there is none",
                [label],
                "add `val_set_size` or `test_datasets`, or remove the key",
            );
        } else if c.eval_strategy == Some(EvalStrategy::No) {
            let labels = [
                self.value("generate_samples", "shows samples at each evaluation"),
                self.value("eval_strategy", "there is no evaluation"),
            ];
            self.error(
                "`generate_samples` needs evaluations, and `eval_strategy: no` has none",
                labels,
                "remove one of them",
            );
        }
    }

    /// Keys that say how tokens are drawn, where none are.
    pub(super) fn generation(&mut self) {
        if self.config.generation.generation_do_sample {
            return;
        }
        for key in [
            "generation_temperature",
            "generation_top_k",
            "generation_top_p",
            "generation_min_p",
        ] {
            if self.is_set(key) && self.usable(&["generation_do_sample", key]) {
                let labels = [
                    self.key(
                        "generation_do_sample",
                        "takes the likeliest token each time",
                    ),
                    self.key(key, "says how tokens are drawn"),
                ];
                self.error(
                    &format!("`{key}` has no effect with `generation_do_sample: false`"),
                    labels,
                    "keep one of them",
                );
            }
        }
    }
}
