//! Rules about the `type` of a data set and the keys that it reads.

use super::Rules;
use super::preference::key_of;
use crate::diagnostic::Diagnostic;
use crate::schema::{Rl, Task};
use crate::strategy::{PreferenceLayout, PromptStrategy};

/// Keys of a `type:` mapping that belong to preferences.
const OF_PREFERENCES: [&str; 9] = [
    "field_prompt",
    "field_chosen",
    "field_rejected",
    "field_completion",
    "field_label",
    "prompt_format",
    "chosen_format",
    "rejected_format",
    "completion_format",
];

/// Keys of a data set that some strategies read, besides those of
/// `chat_template`; the strategy that each is named for.
pub(super) const OTHERS: [(&str, &str); 15] = [
    ("field", "completion"),
    ("field_chosen", "chat_template.default"),
    ("field_rejected", "chat_template.default"),
    ("step_separator", "stepwise_supervised"),
    ("max_completion_length", "stepwise_supervised"),
    ("train_on_last_step_only", "stepwise_supervised"),
    ("length", "_synthetic"),
    ("sequence_length", "_synthetic"),
    ("min_input_id", "_synthetic"),
    ("max_input_id", "_synthetic"),
    ("seed", "_synthetic"),
    ("min_turns", "_synthetic"),
    ("max_turns", "_synthetic"),
    ("min_turn_length", "_synthetic"),
    ("input_fraction", "_synthetic"),
];

/// Whether a strategy reads a key that is named for the strategy `wanted`.
pub(super) fn reads(strategy: Option<&PromptStrategy>, key: &str, wanted: &str) -> bool {
    use PreferenceLayout as L;
    match strategy {
        None => false,
        Some(strategy) if strategy.as_str() == wanted => true,
        Some(PromptStrategy::Pretrain) => key == "field",
        Some(PromptStrategy::MessagesChat) => wanted == "chat_template",
        Some(PromptStrategy::Preference(layout)) => match layout {
            L::ChatTemplateDefault | L::ChatTemplateArgillaChat => {
                wanted == "chat_template" || wanted == L::ChatTemplateDefault.as_str()
            }
            L::ChatTemplateArgilla | L::OrpoChatTemplate | L::BradleyTerryChatTemplate => {
                matches!(key, "chat_template" | "chat_template_jinja")
            }
            _ => false,
        },
        Some(_) => false,
    }
}

impl Rules<'_> {
    /// Layouts that do not fit the objective, and formats that cannot be filled in.
    pub(super) fn strategies(&mut self) {
        let c = self.config;
        for (list, entries) in [
            ("datasets", Some(&c.datasets)),
            ("test_datasets", c.test_datasets.as_ref()),
        ] {
            for (index, entry) in entries.into_iter().flatten().enumerate() {
                let kind = format!("{list}.{index}.type");
                if !self.usable(&[&kind, "rl", "reward_model", "process_reward_model"]) {
                    continue;
                }
                if let Some(strategy) = &entry.strategy {
                    self.objective_of(&kind, strategy);
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
    }

    /// Whether a `type` is one of preferences exactly where the run learns from them.
    /// Which layout fits which method is known once the columns are read.
    fn objective_of(&mut self, kind: &str, strategy: &PromptStrategy) {
        let task = self.config.preference.task();
        let sft = task == Task::Sft;
        match strategy {
            PromptStrategy::Preference(layout) if sft => {
                let label = self.value(kind, "a layout of preferences");
                let help = asks_for(*layout);
                self.error(
                    &format!("`{kind}: {layout}` is for training on preferences"),
                    [label],
                    &format!("add {help}, or use `chat_template`, `alpaca` or `completion`"),
                );
            }
            PromptStrategy::Preference(_) => {}
            chat if chat.is_chat() && task != Task::ProcessRewardModel => {}
            PromptStrategy::UserDefined(own) => {
                let keys = own.keys();
                let of_preferences = |key: &&&str| OF_PREFERENCES.contains(key);
                let shared = |key: &&&str| **key == "field_system";
                let foreign = match sft {
                    true => keys.iter().find(of_preferences),
                    false => keys.iter().find(|key| !of_preferences(key) && !shared(key)),
                };
                let Some(key) = foreign else {
                    return;
                };
                let (note, help) = if sft {
                    (
                        "a key of preferences",
                        "set `rl`, or use the keys of supervised fine-tuning: field_instruction, field_input, field_output, field_system, format, no_input_format, system_format and system_prompt",
                    )
                } else {
                    (
                        "a key of supervised fine-tuning",
                        "the keys of preferences are field_system, field_prompt, field_chosen, field_rejected, field_completion, field_label, prompt_format, chosen_format, rejected_format and completion_format",
                    )
                };
                let label = self.key(&format!("{kind}.{key}"), note);
                self.error(
                    &format!("`{kind}.{key}` does not fit the objective"),
                    [label],
                    help,
                );
            }
            other if !sft => {
                let label = self.value(kind, "a layout of supervised fine-tuning");
                let objective = key_of(task);
                self.error(
                    &format!("`{kind}: {other}` holds no preferences"),
                    [label],
                    &format!("`{objective}` takes {}", layouts_of(task)),
                );
            }
            _ => {}
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
