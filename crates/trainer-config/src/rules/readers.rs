//! Which keys are read, by what the rows of a data set are.
//!
//! What a row holds follows from the `type` of its data set and from the objective of
//! the run: `chat_template` gives conversations to supervised fine-tuning and pairs of
//! answers to `rl: dpo`. [`rows`] is the one place that says so; [`KEYS`] says which
//! rows have a use for a key. A key that nothing reads is an error.

use super::Rules;
use super::preference::key_of;
use crate::schema::{Config, Dataset, Rl, Task};
use crate::strategy::{PreferenceLayout as L, PromptStrategy as S};

/// What the rows of a data set are, as far as keys matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// A prompt and a response in a fixed layout.
    Instruct,
    /// The same in columns that hold the special tokens of the layout.
    Marked,
    /// A prompt and a response in a layout of one's own.
    Own,
    Text,
    /// Segments, each trained or not.
    Segments,
    Tokens,
    Random,
    /// Conversations, rendered by a chat template.
    Chats,
    /// Messages and two answers to them, rendered by a chat template.
    ChatPairs,
    /// Two whole conversations, rendered by a chat template.
    TwoChats,
    /// Messages and a judged answer to them, rendered by a chat template.
    JudgedChats,
    /// A judged answer that is a whole conversation, rendered by a chat template.
    JudgedChat,
    /// One message and two answers to it, rendered by a chat template.
    InputPairs,
    /// A prompt and one or two answers in a fixed layout.
    Answers,
    /// A prompt and one or two answers as they are.
    Plain,
    /// A prompt and two answers in a layout of one's own.
    OwnPairs,
    /// A prompt and a judged answer in a layout of one's own.
    OwnAnswers,
    /// Judged steps.
    Steps,
}

use Rows::{
    Answers, ChatPairs, Chats, InputPairs, Instruct, JudgedChat, JudgedChats, Marked, Own,
    OwnAnswers, OwnPairs, Plain, Random, Segments, Steps, Text, Tokens, TwoChats,
};

const RENDERED: &[Rows] = &[
    Chats,
    ChatPairs,
    TwoChats,
    InputPairs,
    JudgedChats,
    JudgedChat,
];
const RENDERED_PAIRS: &[Rows] = &[ChatPairs, TwoChats, InputPairs];
const IN_FILES: &[Rows] = &[
    Instruct,
    Marked,
    Own,
    Text,
    Segments,
    Tokens,
    Chats,
    ChatPairs,
    TwoChats,
    InputPairs,
    JudgedChats,
    JudgedChat,
    Answers,
    Plain,
    OwnPairs,
    OwnAnswers,
    Steps,
];
const OWN: &[Rows] = &[Own];
const OWN_PREFERENCES: &[Rows] = &[OwnPairs, OwnAnswers];

/// Keys of a data set, and the rows that have a use for each. All rows have one for the
/// keys that are not here.
const KEYS: [(&str, &[Rows]); 35] = [
    ("ds_type", IN_FILES),
    ("data_files", IN_FILES),
    ("name", IN_FILES),
    ("revision", IN_FILES),
    ("field", &[Text]),
    ("field_messages", &[Chats, ChatPairs, JudgedChats]),
    ("field_system", RENDERED),
    ("field_tools", RENDERED),
    ("field_thinking", RENDERED),
    ("template_thinking_key", RENDERED),
    ("split_thinking", RENDERED),
    ("message_property_mappings", RENDERED),
    ("message_field_training", &[Chats]),
    ("message_field_training_detail", &[Chats]),
    ("roles", RENDERED),
    ("roles_to_train", &[Chats]),
    ("train_on_eos", &[Chats]),
    ("train_on_eot", &[Chats]),
    ("drop_system_message", RENDERED),
    ("chat_template", RENDERED),
    ("chat_template_jinja", RENDERED),
    ("field_chosen", RENDERED_PAIRS),
    ("field_rejected", RENDERED_PAIRS),
    ("step_separator", &[Steps]),
    ("max_completion_length", &[Steps]),
    ("train_on_last_step_only", &[Steps]),
    ("length", &[Random]),
    ("sequence_length", &[Random]),
    ("min_input_id", &[Random]),
    ("max_input_id", &[Random]),
    ("seed", &[Random]),
    ("min_turns", &[Random]),
    ("max_turns", &[Random]),
    ("min_turn_length", &[Random]),
    ("input_fraction", &[Random]),
];

/// Keys of a mapping as `type`, and the rows that have a use for each.
const OWN_KEYS: [(&str, &[Rows]); 17] = [
    ("system_prompt", OWN),
    ("system_format", OWN),
    ("field_system", &[Own, OwnPairs, OwnAnswers]),
    ("field_instruction", OWN),
    ("field_input", OWN),
    ("field_output", OWN),
    ("format", OWN),
    ("no_input_format", OWN),
    ("field_prompt", OWN_PREFERENCES),
    ("field_chosen", &[OwnPairs]),
    ("field_rejected", &[OwnPairs]),
    ("field_completion", &[OwnAnswers]),
    ("field_label", &[OwnAnswers]),
    ("prompt_format", OWN_PREFERENCES),
    ("chosen_format", &[OwnPairs]),
    ("rejected_format", &[OwnPairs]),
    ("completion_format", &[OwnAnswers]),
];

/// Keys of the file that are about rows, and the rows that have a use for each.
/// `chat_template` is not among them: it is saved with the tokenizer, whatever the rows.
const TOP: [(&str, &[Rows]); 5] = [
    ("default_system_message", RENDERED),
    ("eot_tokens", &[Chats]),
    ("chat_template_kwargs", RENDERED),
    ("train_on_inputs", &[Instruct, Marked, Own, Segments, Chats]),
    (
        "allow_special_tokens_in_content",
        &[
            Instruct,
            Chats,
            ChatPairs,
            TwoChats,
            InputPairs,
            JudgedChats,
            JudgedChat,
            Answers,
        ],
    ),
];

/// What the rows of a `type` are for an objective; none where they do not fit it.
pub(super) fn rows(task: Task, strategy: Option<&S>) -> Option<Rows> {
    match task {
        Task::Sft => of_sft(strategy),
        Task::Rl(Rl::Kto) => match strategy? {
            S::UserDefined(_) => Some(OwnAnswers),
            S::ChatTemplate | S::MessagesChat => Some(JudgedChats),
            S::Preference(layout) => match layout {
                L::ChatTemplateDefault => Some(JudgedChats),
                L::ChatTemplateArgillaChat => Some(JudgedChat),
                L::ZephyrNectar => None,
                layout => of_pairs(*layout).filter(|rows| matches!(rows, Answers | Plain)),
            },
            _ => None,
        },
        Task::Rl(_) | Task::RewardModel => match strategy? {
            S::UserDefined(_) => Some(OwnPairs),
            S::ChatTemplate | S::MessagesChat => Some(ChatPairs),
            S::Preference(layout) => of_pairs(*layout),
            _ => None,
        },
        Task::ProcessRewardModel => {
            let steps = S::Preference(L::StepwiseSupervised);
            (strategy? == &steps).then_some(Steps)
        }
    }
}

fn of_sft(strategy: Option<&S>) -> Option<Rows> {
    let Some(strategy) = strategy else {
        return Some(Tokens);
    };
    Some(match strategy {
        S::Preference(_) => return None,
        S::UserDefined(_) => Own,
        S::ChatTemplate | S::MessagesChat => Chats,
        S::Completion | S::Pretrain => Text,
        S::InputOutput => Segments,
        S::Pretokenized => Tokens,
        S::Synthetic => Random,
        S::Metharme => Marked,
        _ => Instruct,
    })
}

fn of_pairs(layout: L) -> Option<Rows> {
    Some(match layout {
        L::StepwiseSupervised => return None,
        L::ChatTemplateDefault => ChatPairs,
        L::ChatTemplateArgillaChat | L::ChatTemplateArgilla | L::OrpoChatTemplate => TwoChats,
        L::BradleyTerryChatTemplate => InputPairs,
        L::Passthrough => Plain,
        _ => Answers,
    })
}

impl Rows {
    /// A `type` that gives such rows.
    fn example(self) -> &'static str {
        match self {
            Instruct => "alpaca",
            Marked => "metharme",
            Own | OwnPairs | OwnAnswers => "{...}",
            Text => "completion",
            Segments => "input_output",
            Tokens => "pretokenized",
            Random => "_synthetic",
            Chats => "chat_template",
            ChatPairs | JudgedChats => "chat_template.default",
            TwoChats | JudgedChat => "chat_template.argilla_chat",
            InputPairs => "bradley_terry.chat_template",
            Answers => "chatml.intel",
            Plain => "passthrough.default",
            Steps => "stepwise_supervised",
        }
    }

    fn is_sft(self) -> bool {
        matches!(
            self,
            Instruct | Marked | Own | Text | Segments | Tokens | Random | Chats
        )
    }
}

/// Who reads a key, for messages: the rows of the objective, else whoever.
fn readers(readers: &[Rows], task: Task) -> String {
    let sft = task == Task::Sft;
    let wanted = readers.iter().find(|rows| rows.is_sft() == sft);
    let kind = |rows: &Rows| format!("`type: {}`", rows.example());
    match (wanted, readers.first()) {
        (Some(rows), _) => kind(rows),
        (None, Some(rows)) if rows.is_sft() => {
            format!("{} in supervised fine-tuning", kind(rows))
        }
        (None, Some(Steps)) => format!("{} and `process_reward_model: true`", kind(&Steps)),
        (None, Some(rows)) => format!("{} and `rl`", kind(rows)),
        (None, None) => "nothing".to_owned(),
    }
}

/// The lists of data sets, with their names.
pub(super) fn lists(config: &Config) -> impl Iterator<Item = (String, &Dataset)> {
    let lists = [
        ("datasets", Some(&config.datasets)),
        ("test_datasets", config.test_datasets.as_ref()),
    ];
    lists.into_iter().flat_map(|(list, entries)| {
        let entries = entries.into_iter().flatten().enumerate();
        entries.map(move |(index, entry)| (format!("{list}.{index}"), entry))
    })
}

impl Rules<'_> {
    /// Keys of data sets that their rows have no use for.
    pub(super) fn datasets(&mut self) {
        let c = self.config;
        let task = c.preference.task();
        for (place, entry) in lists(c) {
            let kind = format!("{place}.type");
            let strategy = entry.strategy.as_ref();
            let Some(rows) = rows(task, strategy) else {
                continue; // which has been reported
            };
            if !self.usable(&[&kind, "rl", "reward_model", "process_reward_model"]) {
                continue;
            }
            for (key, of) in KEYS {
                let full = format!("{place}.{key}");
                if of.contains(&rows) || !self.is_set(&full) || !self.usable(&[&full]) {
                    continue;
                }
                let fits = of.iter().any(|rows| rows.is_sft() == (task == Task::Sft));
                self.unread(&full, &kind, (&readers(of, task), fits), strategy);
            }
            if matches!(strategy, Some(S::UserDefined(_))) {
                self.system_of_own(&kind, rows, strategy);
                for (key, of) in OWN_KEYS {
                    let full = format!("{kind}.{key}");
                    if !of.contains(&rows) && self.is_set(&full) && self.usable(&[&full]) {
                        self.unread_of_own(&full, rows);
                    }
                }
            }
        }
    }

    /// `wanted`: who reads the key, and whether such rows fit the objective.
    fn unread(
        &mut self,
        full: &str,
        kind: &str,
        (wanted, fits): (&str, bool),
        strategy: Option<&S>,
    ) {
        let key = full.rsplit('.').next().unwrap_or(full);
        let task = self.config.preference.task();
        let labels = [
            self.key(full, &format!("nothing reads it: only {wanted} does")),
            self.value(kind, "another type"),
        ];
        let found = match strategy {
            None => "no `type`".to_owned(),
            Some(S::UserDefined(_)) => "a `type` of your own".to_owned(),
            Some(kind) => format!("`type: {kind}`"),
        };
        let of_task = match task {
            Task::Sft => String::new(),
            task => format!(" and `{}`", key_of(task)),
        };
        let help = match strategy {
            _ if !fits => format!("remove `{key}`"),
            Some(_) => format!("remove `{key}`, or use {wanted}"),
            None => format!("add {wanted} to the entry"),
        };
        let message = format!("`{full}` has no effect with {found}{of_task}");
        self.error(&message, labels, &help);
    }

    /// The column of a system message that no format asks for.
    fn system_of_own(&mut self, kind: &str, rows: Rows, strategy: Option<&S>) {
        let Some(S::UserDefined(own)) = strategy else {
            return;
        };
        let asked = own.prompt_format.as_deref().unwrap_or_default();
        let full = format!("{kind}.field_system");
        if rows != Own && own.field_system.is_some() && !asked.contains("{system}") {
            let prompt = format!("{kind}.prompt_format");
            let labels = [
                self.key(&full, "has no effect"),
                self.value(&prompt, "asks for no system message"),
            ];
            self.error(
                &format!("`{full}` needs `{{system}}` in `prompt_format`"),
                labels,
                "write it where the system message belongs, or remove `field_system`",
            );
        }
    }

    fn unread_of_own(&mut self, full: &str, rows: Rows) {
        let known: Vec<&str> = OWN_KEYS
            .iter()
            .filter(|(_, of)| of.contains(&rows))
            .map(|(key, _)| *key)
            .collect();
        let of_preferences = OWN_KEYS
            .iter()
            .any(|(key, of)| full.ends_with(&format!(".{key}")) && !of.contains(&Own));
        let note = match (rows, of_preferences) {
            (Own, _) => "a key of preferences",
            (OwnAnswers, true) => "a key of pairs",
            (_, true) => "a key of `rl: kto`",
            _ => "a key of supervised fine-tuning",
        };
        let label = self.key(full, note);
        self.error(
            &format!("`{full}` does not fit the objective"),
            [label],
            &format!("the keys that fit are {}", known.join(", ")),
        );
    }

    /// Keys of the file that no data set reads.
    pub(super) fn read_by_rows(&mut self) {
        let c = self.config;
        let task = c.preference.task();
        let kinds: Option<Vec<Rows>> = lists(c)
            .map(|(_, entry)| rows(task, entry.strategy.as_ref()))
            .chain(c.pretraining_dataset.iter().flatten().map(|_| Some(Text)))
            .collect();
        // Where a type is wrong, nobody knows what would read what.
        let Some(kinds) = kinds.filter(|kinds| !kinds.is_empty()) else {
            return;
        };
        let places = ["datasets", "test_datasets", "pretraining_dataset", "rl"];
        if !self.usable(&places) {
            return;
        }
        for (key, of) in TOP {
            let asked = match key {
                // False asks for nothing, and has its own message with preferences.
                "train_on_inputs" => c.train_on_inputs && task == Task::Sft,
                "allow_special_tokens_in_content" => c.allow_special_tokens_in_content,
                "chat_template_kwargs" => c.chat_template_kwargs.is_some(),
                "eot_tokens" => c.eot_tokens.is_some(),
                _ => c.default_system_message.is_some(),
            };
            if asked && self.usable(&[key]) && !kinds.iter().any(|rows| of.contains(rows)) {
                let wanted = readers(of, task);
                let note = "nothing reads it";
                let label = self.key(key, note).or_else(|| self.key_inside(key, note));
                self.error(
                    &format!("`{key}` has no effect"),
                    [label],
                    &format!("remove it: only data sets of {wanted} read it"),
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "readers_tests.rs"]
mod tests;
