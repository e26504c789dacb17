//! Rules about the `type` of a data set.

use super::Rules;
use super::preference::key_of;
use super::readers::{lists, rows};
use crate::diagnostic::Diagnostic;
use crate::schema::{Rl, Task};
use crate::strategy::{PreferenceLayout, PromptStrategy};

impl Rules<'_> {
    /// Layouts that do not fit the objective, and formats that cannot be filled in.
    pub(super) fn strategies(&mut self) {
        for (place, entry) in lists(self.config) {
            let kind = format!("{place}.type");
            if !self.usable(&[&kind, "rl", "reward_model", "process_reward_model"]) {
                continue;
            }
            if rows(self.config.preference.task(), entry.strategy.as_ref()).is_none() {
                self.unfit(&place, entry.strategy.as_ref());
                // Nothing more can be said about such rows.
                self.findings.failed.insert(kind.clone());
            }
            if let Some(PromptStrategy::UserDefined(own)) = &entry.strategy
                && let Err((key, error)) = own.check()
            {
                let key = format!("{kind}.{key}");
                let label = self.value(&key, "cannot be filled in");
                let diagnostic = Diagnostic::error(format!("`{key}` is no usable format"));
                self.report(diagnostic, [label], &error.to_string());
            }
        }
    }

    /// A `type` that does not fit the objective.
    fn unfit(&mut self, place: &str, strategy: Option<&PromptStrategy>) {
        let kind = format!("{place}.type");
        let task = self.config.preference.task();
        let objective = key_of(task);
        let takes = format!("`{objective}` takes {}", layouts_of(task));
        match strategy {
            None => {
                let label = self.key_inside(place, "this entry has none");
                let message = format!("`{kind}` is missing: training on preferences needs one");
                self.error(&message, [label], &takes);
            }
            Some(PromptStrategy::Preference(layout)) if task == Task::Sft => {
                let label = self.value(&kind, "a layout of preferences");
                let help = asks_for(*layout);
                self.error(
                    &format!("`{kind}: {layout}` is for training on preferences"),
                    [label],
                    &format!("add {help}, or use `chat_template`, `alpaca` or `completion`"),
                );
            }
            Some(PromptStrategy::Preference(layout)) => {
                let labels = [
                    self.value(&kind, "another kind of rows"),
                    self.task_label("the objective"),
                ];
                let message = format!("`{kind}: {layout}` does not fit `{objective}`");
                self.error(&message, labels, &takes);
            }
            Some(other) => {
                let label = self.value(&kind, "a layout of supervised fine-tuning");
                let message = format!("`{kind}: {other}` holds no preferences");
                self.error(&message, [label], &takes);
            }
        }
    }
}

/// The key that a layout asks for.
fn asks_for(layout: PreferenceLayout) -> &'static str {
    use PreferenceLayout as L;
    match layout {
        L::BradleyTerryChatTemplate | L::BradleyTerryLlama3Icr => "`reward_model: true`",
        L::StepwiseSupervised => "`process_reward_model: true`",
        L::ChatTemplateArgilla | L::OrpoChatTemplate => "`rl: orpo`",
        L::ChatmlArgilla | L::Llama3Argilla => "`rl: kto`",
        _ => "`rl` (such as `rl: dpo`)",
    }
}

/// Layouts that fit an objective, for messages.
fn layouts_of(task: Task) -> &'static str {
    match task {
        Task::Rl(Rl::Kto) => "`chatml.argilla` or another layout of single answers, or a mapping",
        Task::Rl(Rl::Orpo) => "`chat_template.argilla` or another layout of pairs",
        Task::RewardModel => "`bradley_terry.chat_template` or another layout of pairs",
        Task::ProcessRewardModel => "`stepwise_supervised`",
        Task::Sft | Task::Rl(_) => {
            "`chat_template.default` or another layout of pairs, or a mapping"
        }
    }
}
