//! Rules about the `type` of a data set and the keys that it reads.

use super::Rules;
use crate::diagnostic::Diagnostic;
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
pub(super) const OTHERS: [(&str, &str); 6] = [
    ("field", "completion"),
    ("field_chosen", "chat_template.default"),
    ("field_rejected", "chat_template.default"),
    ("step_separator", "stepwise_supervised"),
    ("max_completion_length", "stepwise_supervised"),
    ("train_on_last_step_only", "stepwise_supervised"),
];

/// Whether a strategy reads a key that is named for the strategy `wanted`.
pub(super) fn reads(strategy: Option<&PromptStrategy>, key: &str, wanted: &str) -> bool {
    use PreferenceLayout as L;
    match strategy {
        None => false,
        Some(strategy) if strategy.as_str() == wanted => true,
        Some(PromptStrategy::Pretrain) => key == "field",
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
    /// Layouts that no trainer reads yet, and formats that cannot be filled in.
    pub(super) fn strategies(&mut self) {
        let c = self.config;
        for (list, entries) in [
            ("datasets", Some(&c.datasets)),
            ("test_datasets", c.test_datasets.as_ref()),
        ] {
            for (index, entry) in entries.into_iter().flatten().enumerate() {
                let kind = format!("{list}.{index}.type");
                if !self.usable(&[&kind]) {
                    continue;
                }
                match &entry.strategy {
                    Some(PromptStrategy::Preference(layout)) => {
                        let label = self.value(&kind, "Axolotl has this; it is still to come here");
                        self.error(
                            &format!("`{kind}: {layout}` is not supported yet"),
                            [label],
                            still_to_come(*layout),
                        );
                    }
                    Some(PromptStrategy::UserDefined(own)) => {
                        let keys = own.keys();
                        let foreign = keys.iter().find(|key| OF_PREFERENCES.contains(key));
                        if let Some(key) = foreign {
                            let label = self.key(
                                &format!("{kind}.{key}"),
                                "Axolotl has this; it is still to come here",
                            );
                            self.error(
                                &format!("`{kind}.{key}` is not supported yet"),
                                [label],
                                "preference training (`rl`) is still to come; for supervised fine-tuning the keys are field_instruction, field_input, field_output, field_system, format, no_input_format, system_format and system_prompt",
                            );
                        }
                        if let Err((key, error)) = own.check() {
                            let key = format!("{kind}.{key}");
                            let label = self.value(&key, "cannot be filled in");
                            let diagnostic =
                                Diagnostic::error(format!("`{key}` is no usable format"));
                            self.report(diagnostic, [label], &error.to_string());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn still_to_come(layout: PreferenceLayout) -> &'static str {
    match layout {
        PreferenceLayout::BradleyTerryChatTemplate
        | PreferenceLayout::BradleyTerryLlama3Icr
        | PreferenceLayout::StepwiseSupervised => {
            "reward models are still to come; for supervised fine-tuning use `chat_template`, `alpaca` or `completion`"
        }
        _ => {
            "preference training (`rl`) is still to come; for supervised fine-tuning use `chat_template`, `alpaca` or `completion`"
        }
    }
}
