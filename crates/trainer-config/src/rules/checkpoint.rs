//! Rules about when checkpoints are written, and from which one a run goes on.

use super::Rules;
use crate::schema::{NonFinitePolicy, SaveStrategy};

impl Rules<'_> {
    /// Going back takes whole checkpoints.
    pub(super) fn rolling_back(&mut self) {
        let keys = ["on_nonfinite", "save_strategy", "save_only_model"];
        if self.config.guard.on_nonfinite != NonFinitePolicy::Rollback || !self.usable(&keys) {
            return;
        }
        let c = &self.config.checkpoint;
        let (key, value, note, remedy) = if c.save_strategy == Some(SaveStrategy::No) {
            let remedy = "write `save_strategy: steps` with `save_steps`, or `on_nonfinite: skip`";
            ("save_strategy", "no", "writes none", remedy)
        } else if c.save_only_model {
            let remedy = "remove `save_only_model`, or write `on_nonfinite: skip`";
            ("save_only_model", "true", "writes weights alone", remedy)
        } else {
            return;
        };
        let labels = [
            self.value("on_nonfinite", "goes back to a checkpoint"),
            self.key(key, note),
        ];
        self.error(
            &format!(
                "`on_nonfinite: rollback` has no checkpoint to go back to with `{key}: {value}`"
            ),
            labels,
            remedy,
        );
    }

    pub(super) fn saving_times(&mut self) {
        let c = &self.config.checkpoint;
        self.exclusive(
            "save_steps",
            "saves_per_epoch",
            "keep one: both say how often to write checkpoints",
        );
        if c.save_steps
            .is_some_and(|steps| steps > 1.0 && steps.fract() != 0.0)
        {
            let label = self.value(
                "save_steps",
                "neither a fraction below 1 nor a whole number",
            );
            self.error(
                "`save_steps` above 1 must be a whole number of steps",
                [label],
                "below 1 it is a fraction of all steps (0.1), above 1 a number of steps (50)",
            );
        }
        if !self.usable(&["save_strategy", "save_steps", "saves_per_epoch"]) {
            return;
        }
        let cadence = ["save_steps", "saves_per_epoch"]
            .into_iter()
            .find(|key| self.is_set(key));
        let strategy = match c.save_strategy {
            Some(SaveStrategy::Steps) if cadence.is_none() => {
                let label = self.value("save_strategy", "every how many steps?");
                self.error(
                    "`save_strategy: steps` needs `save_steps` or `saves_per_epoch`",
                    [label],
                    "add a line such as `save_steps: 50`",
                );
                return;
            }
            None | Some(SaveStrategy::Steps) => return,
            Some(strategy) => strategy,
        };
        if let Some(key) = cadence {
            let when = match strategy {
                SaveStrategy::No => "writes none",
                SaveStrategy::Best => "writes them after the best evaluations",
                SaveStrategy::Epoch | SaveStrategy::Steps => "writes them after each epoch",
            };
            let labels = [
                self.value("save_strategy", when),
                self.key(key, "asks for checkpoints during the epoch"),
            ];
            self.error(
                &format!("`{key}` and `save_strategy: {strategy}` contradict each other"),
                labels,
                "remove one of them, or write `save_strategy: steps`",
            );
        }
    }

    pub(super) fn resuming(&mut self) {
        let c = &self.config.checkpoint;
        let keys = ["resume_from_checkpoint", "auto_resume_from_checkpoints"];
        if c.auto_resume_from_checkpoints
            && c.resume_from_checkpoint.is_some()
            && self.usable(&keys)
        {
            let labels = [
                self.key(keys[0], "names a checkpoint"),
                self.key(keys[1], "takes the newest one in `output_dir`"),
            ];
            self.error(
                "`resume_from_checkpoint` and `auto_resume_from_checkpoints` contradict each other",
                labels,
                "keep one of them",
            );
        }
    }
}
