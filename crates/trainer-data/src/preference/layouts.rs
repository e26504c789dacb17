//! Layouts: the columns of a row and the texts around them.

use std::borrow::Cow;

use serde_json::Value;
use trainer_config::{Config, Dataset, Format, PreferenceLayout, PromptStrategy};

use super::PreferenceObjective;
use super::chat::{ChatLayout, Shape};
use super::messages::{ANSWER, Messages, System, row_error};
use crate::ledger::Note;
use crate::source::Row;
use crate::strategy::chat::Turn;
use crate::strategy::plain::Plain;
use crate::strategy::user_defined::{NOT_ASKED, check_read, format};
use crate::{DataError, Tokenizer};

/// Text, and the bytes of it at which no special token may be made of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) cuts: Vec<usize>,
}

impl Text {
    pub(super) const EMPTY: Self = Self {
        text: String::new(),
        cuts: Vec::new(),
    };

    /// Text in which special tokens are tokens.
    pub(super) fn whole(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            cuts: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// A prompt and its answers as text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Texts {
    pub(super) prompt: Text,
    /// The better answer and the worse one; for KTO the first is the answer.
    pub(super) answers: [Text; 2],
    /// Whether prompt and answers are one rendered conversation each, which has
    /// its end already.
    pub(super) rendered: bool,
    /// What is to be said about the row.
    pub(super) notes: Vec<Note>,
}

/// Texts of a fixed chat format.
struct Fixed {
    /// Around the content of a message: `[before the role, after it, end]`.
    turn: [&'static str; 3],
    /// After the end of a message that is not the last.
    next: &'static str,
}

const CHATML: Fixed = Fixed {
    turn: ["<|im_start|>", "\n", "<|im_end|>"],
    next: "\n",
};
const LLAMA3: Fixed = Fixed {
    turn: ["<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"],
    next: "",
};

impl Fixed {
    fn message(&self, role: &str, content: &str) -> String {
        let [open, close, end] = self.turn;
        format!("{open}{role}{close}{content}{end}{}", self.next)
    }

    fn answer_header(&self) -> String {
        let [open, close, _] = self.turn;
        format!("{open}assistant{close}")
    }

    fn end(&self) -> &'static str {
        self.turn[2]
    }
}

enum Kind<'a> {
    /// A prompt column (the first of these that a row has) and answers.
    Columns(&'static Fixed, &'static [&'static str]),
    /// The answers are whole conversations.
    Conversations(&'static Fixed),
    Nectar,
    Passthrough,
    Chat(Box<ChatLayout<'a>>),
    Own(Box<Own<'a>>),
}

struct Own<'a> {
    system: &'a str,
    prompt: &'a str,
    answers: [&'a str; 2],
    label: &'a str,
    prompt_format: Format,
    answer_formats: [(Format, &'static str); 2],
}

/// How the rows of a data set are read.
pub(crate) struct Layout<'a> {
    pub(super) name: &'static str,
    kind: Kind<'a>,
    messages: Messages,
    plain: Plain,
    objective: PreferenceObjective,
}

impl<'a> Layout<'a> {
    pub(super) fn new(
        config: &'a Config,
        dataset: &'a Dataset,
        first: &Row,
        tokenizer: &'a Tokenizer,
        objective: PreferenceObjective,
    ) -> Result<Self, DataError> {
        use PreferenceLayout as L;
        let wrong = |message| DataError::Dataset {
            path: dataset.path.clone(),
            message,
        };
        let Some(strategy) = &dataset.strategy else {
            let fits = nearest(first, objective);
            let fits = fits.map(|name| format!(" (the columns fit `type: {name}`)"));
            return Err(wrong(format!(
                "it has no `type`; training on {} needs one{}",
                objective.name(),
                fits.unwrap_or_default()
            )));
        };
        let chat = |shape| {
            ChatLayout::new(config, dataset, tokenizer, shape, objective)
                .map(|chat| Kind::Chat(Box::new(chat)))
        };
        let judged = objective.pairs() || objective == PreferenceObjective::Kto;
        let any: &[&str] = &["prompt", "input", "question", "instruction"];
        let kind = match strategy {
            PromptStrategy::Preference(layout) => match layout {
                L::ChatmlDefault => Kind::Columns(&CHATML, any),
                L::Llama3Default => Kind::Columns(&LLAMA3, any),
                L::ChatmlArgilla => Kind::Columns(&CHATML, &["instruction"]),
                L::Llama3Argilla => Kind::Columns(&LLAMA3, &["instruction"]),
                L::ChatmlIcr => Kind::Columns(&CHATML, &["input"]),
                L::Llama3Icr | L::BradleyTerryLlama3Icr => Kind::Columns(&LLAMA3, &["input"]),
                L::ChatmlIntel => Kind::Columns(&CHATML, &["question"]),
                L::Llama3Intel => Kind::Columns(&LLAMA3, &["question"]),
                L::ChatmlPromptPairs | L::ChatmlUltra => Kind::Columns(&CHATML, &["prompt"]),
                L::Llama3PromptPairs | L::Llama3Ultra => Kind::Columns(&LLAMA3, &["prompt"]),
                L::ChatmlArgillaChat => Kind::Conversations(&CHATML),
                L::Llama3ArgillaChat => Kind::Conversations(&LLAMA3),
                L::Passthrough => Kind::Passthrough,
                L::ZephyrNectar if objective.pairs() => Kind::Nectar,
                L::ChatTemplateDefault if judged => chat(Shape::Messages)?,
                L::ChatTemplateArgillaChat if judged => chat(Shape::Conversations)?,
                L::ChatTemplateArgilla | L::OrpoChatTemplate if objective.pairs() => {
                    chat(Shape::Whole)?
                }
                L::BradleyTerryChatTemplate if objective.pairs() => chat(Shape::SystemAndInput)?,
                L::ZephyrNectar
                | L::ChatTemplateDefault
                | L::ChatTemplateArgillaChat
                | L::ChatTemplateArgilla
                | L::OrpoChatTemplate
                | L::BradleyTerryChatTemplate
                | L::StepwiseSupervised => {
                    return Err(wrong(unfit(strategy, objective)));
                }
            },
            PromptStrategy::ChatTemplate | PromptStrategy::MessagesChat if judged => {
                chat(Shape::Messages)?
            }
            PromptStrategy::UserDefined(own) => {
                let column = |name: &'a Option<String>, default| name.as_deref().unwrap_or(default);
                let kto = objective == PreferenceObjective::Kto;
                let answers = if kto {
                    [column(&own.field_completion, "completion"), ""]
                } else {
                    [
                        column(&own.field_chosen, "chosen"),
                        column(&own.field_rejected, "rejected"),
                    ]
                };
                let first = if kto {
                    let key = "completion_format";
                    (
                        format(dataset, key, &own.completion_format, "{completion}")?,
                        "completion",
                    )
                } else {
                    let key = "chosen_format";
                    (
                        format(dataset, key, &own.chosen_format, "{chosen}")?,
                        "chosen",
                    )
                };
                let key = "rejected_format";
                let second = format(dataset, key, &own.rejected_format, "{rejected}")?;
                let prompt_format =
                    format(dataset, "prompt_format", &own.prompt_format, "{prompt}")?;
                let (first_asks, second_asks) =
                    (first.0.asks_for(first.1), second.asks_for("rejected"));
                let is = |text: &Option<String>| text.is_some();
                check_read(
                    dataset,
                    "it is for answers of the other kind; pairs read `chosen` and `rejected`, KTO a `completion` and its `label`: set `rl` accordingly",
                    &[
                        ("field_chosen", is(&own.field_chosen), !kto),
                        ("field_rejected", is(&own.field_rejected), !kto),
                        ("chosen_format", is(&own.chosen_format), !kto),
                        ("rejected_format", is(&own.rejected_format), !kto),
                        ("field_completion", is(&own.field_completion), kto),
                        ("field_label", is(&own.field_label), kto),
                        ("completion_format", is(&own.completion_format), kto),
                    ],
                )?;
                check_read(
                    dataset,
                    NOT_ASKED,
                    &[
                        (
                            "field_prompt",
                            is(&own.field_prompt),
                            prompt_format.asks_for("prompt"),
                        ),
                        (
                            "field_system",
                            is(&own.field_system),
                            prompt_format.asks_for("system"),
                        ),
                        ("field_chosen", is(&own.field_chosen), first_asks),
                        ("field_completion", is(&own.field_completion), first_asks),
                        ("field_rejected", is(&own.field_rejected), second_asks),
                    ],
                )?;
                Kind::Own(Box::new(Own {
                    system: column(&own.field_system, "system"),
                    prompt: column(&own.field_prompt, "prompt"),
                    answers,
                    label: column(&own.field_label, "label"),
                    prompt_format,
                    answer_formats: [first, (second, "rejected")],
                }))
            }
            other => return Err(wrong(unfit(other, objective))),
        };
        Ok(Self {
            name: strategy.as_str(),
            kind,
            messages: Messages::new(config, dataset, System::Column)?,
            plain: Plain::new(config, tokenizer),
            objective,
        })
    }

    /// The texts of a row.
    pub(super) fn texts(&self, row: &Row) -> Result<Texts, DataError> {
        self.read(row).map_err(|mut error| {
            if let DataError::MissingColumn { hint, .. } = &mut error
                && hint.is_empty()
            {
                *hint = self.hint(row);
            }
            error
        })
    }

    fn read(&self, row: &Row) -> Result<Texts, DataError> {
        let texts = |prompt: Text, answers: [String; 2]| Texts {
            prompt,
            answers: answers.map(Text::whole),
            rendered: false,
            notes: Vec::new(),
        };
        match &self.kind {
            Kind::Columns(style, prompts) => {
                self.no_tools(row)?;
                let prompt = prompts.iter().find(|name| row.columns.contains_key(name));
                let prompt = row.text(prompt.unwrap_or(&prompts[0]), self.name, "")?;
                let mut text = String::new();
                let system = row.optional_text("system")?;
                if !system.is_empty() {
                    text.push_str(&style.message("system", &self.mark(row, system)?));
                }
                text.push_str(&style.message("user", &self.mark(row, prompt)?));
                text.push_str(&style.answer_header());
                let end = style.end();
                let answers = self
                    .answers(row)?
                    .map(|answer| answer.map_or_else(String::new, |a| format!("{a}{end}")));
                Ok(texts(self.unmark(&text), answers))
            }
            Kind::Conversations(style) => {
                self.no_tools(row)?;
                let columns = self.answer_columns(row);
                let mut before = Vec::new();
                let mut answers = [const { String::new() }; 2];
                for (answer, column) in answers.iter_mut().zip(columns.into_iter().flatten()) {
                    let mut turns = self.conversation(row, column)?;
                    let last = self.messages.last(row, column, &mut turns)?;
                    *answer = format!("{}{}", last.content().unwrap_or_default(), style.end());
                    before.push(turns);
                }
                let mut text = String::new();
                for turn in self.messages.shared(row, before)? {
                    let content = turn.content().unwrap_or_default();
                    text.push_str(&style.message(&turn.role, &self.mark(row, content)?));
                }
                text.push_str(&style.answer_header());
                Ok(texts(self.unmark(&text), answers))
            }
            Kind::Nectar => {
                self.no_tools(row)?;
                let prompt = row.text("prompt", self.name, "")?;
                let (prompt, answers) = nectar(row, self.name, &self.mark(row, prompt)?)?;
                Ok(texts(self.unmark(&prompt), answers))
            }
            Kind::Passthrough => {
                let prompt = row.text("prompt", self.name, "")?;
                let answers = self.answers(row)?.map(Option::unwrap_or_default);
                Ok(texts(Text::whole(prompt), answers))
            }
            Kind::Chat(chat) => chat.texts(row, self.name),
            Kind::Own(own) => {
                let text = |column, key: &str| {
                    let hint = format!("; `{key}` of the `type` names the column");
                    row.text(column, self.name, hint)
                };
                let values = [
                    ("prompt", text(own.prompt, "field_prompt")?),
                    ("system", row.optional_text(own.system)?),
                ];
                let mut answers = [const { String::new() }; 2];
                let formats = own.answer_formats.iter().zip(own.answers);
                for (answer, ((format, name), column)) in answers.iter_mut().zip(formats) {
                    if !column.is_empty() {
                        let value = text(column, &format!("field_{name}"))?;
                        *answer = format.fill(&[(*name, value)]);
                    }
                }
                Ok(texts(Text::whole(own.prompt_format.fill(&values)), answers))
            }
        }
    }

    /// A text of the prompt, with names of special tokens marked.
    fn mark<'r>(&self, row: &Row, text: &'r str) -> Result<Cow<'r, str>, DataError> {
        self.plain.mark(text).map_err(|error| error.at(&row.at))
    }

    fn unmark(&self, marked: &str) -> Text {
        let (text, cuts) = self.plain.unmark(marked);
        Text {
            text: text.into_owned(),
            cuts,
        }
    }

    /// A fixed format has no place for tools.
    fn no_tools(&self, row: &Row) -> Result<(), DataError> {
        match self.messages.tools(row) {
            None => Ok(()),
            Some(column) => Err(row_error(
                row,
                format!(
                    "`{column}` would be left out by `type: {}`, which prints texts alone; use `type: chat_template.default`, or take the column out",
                    self.name
                ),
            )),
        }
    }

    /// The messages of a column, of which a fixed format prints role and content.
    fn conversation(&self, row: &Row, column: &str) -> Result<Vec<Turn>, DataError> {
        let value = row.column(column, self.name, "")?;
        let list = match value {
            Value::Array(list) => list.as_slice(),
            Value::Object(_) => std::slice::from_ref(value),
            other => return Err(row.wrong_type(column, ANSWER, other)),
        };
        for (index, message) in list.iter().enumerate() {
            let there = |property| message.get(property).is_some_and(|value| !value.is_null());
            // A call stands in the place of a content, and is refused below.
            let calls = there("tool_calls") || there("function_call");
            for property in ["role", "content"]
                .into_iter()
                .take(if calls { 1 } else { 2 })
            {
                // Of other properties, the reader says what is wrong with them.
                let value = message.get(property).unwrap_or(&Value::Null);
                if value.is_null() && message.is_object() {
                    let place = format!("{column}[{index}].{property}");
                    return Err(row.wrong_type(place, "text", value));
                }
            }
        }
        let turns = self.messages.list(row, column, list)?;
        for turn in &turns {
            let printed = ["role", "content"];
            let lost = ["tool_calls", "function_call", self.messages.thinking_key()];
            let found = turn.message.iter().find(|(key, value)| {
                let empty = matches!(value, Value::String(text) if text.trim().is_empty());
                lost.contains(&key.as_str()) && !printed.contains(&key.as_str()) && !empty
            });
            if let Some((property, _)) = found {
                return Err(row_error(
                    row,
                    format!(
                        "`{property}` of `{}` would be left out by `type: {}`, which prints role and content alone; use `type: chat_template.default`, or take it out",
                        turn.place, self.name
                    ),
                ));
            }
        }
        Ok(turns)
    }

    /// The columns of the answers: two, or the one of KTO.
    fn answer_columns(&self, row: &Row) -> [Option<&'static str>; 2] {
        if self.objective == PreferenceObjective::Kto {
            return [Some("completion"), None];
        }
        let named = |name, other| {
            if row.columns.contains_key(other) && !row.columns.contains_key(name) {
                Some(other)
            } else {
                Some(name)
            }
        };
        [
            named("chosen", "chosen_response"),
            named("rejected", "rejected_response"),
        ]
    }

    /// The answers, which may be texts, messages, or conversations that end with
    /// them.
    fn answers(&self, row: &Row) -> Result<[Option<String>; 2], DataError> {
        let read = |column: Option<&'static str>| {
            let Some(column) = column else {
                return Ok(None);
            };
            let value = row.column(column, self.name, "")?;
            match (value, &self.kind) {
                (Value::String(text), _) => Ok(Some(text.clone())),
                // What is passed through is text already.
                (_, Kind::Passthrough) => Err(row.wrong_type(column, "text", value)),
                _ => {
                    let mut turns = self.conversation(row, column)?;
                    let answer = self.messages.last(row, column, &mut turns)?;
                    Ok(Some(answer.content().unwrap_or_default().to_owned()))
                }
            }
        };
        let [first, second] = self.answer_columns(row);
        Ok([read(first)?, read(second)?])
    }

    /// Whether the answer is a good one (KTO).
    pub(super) fn verdict(&self, row: &Row) -> Result<bool, DataError> {
        let column = match &self.kind {
            Kind::Own(own) => own.label,
            _ => "label",
        };
        let value = row.column(column, self.name, self.hint(row))?;
        match value {
            Value::Bool(verdict) => Ok(*verdict),
            Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
            Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
            other => Err(row.wrong_type(
                column,
                "true (or 1) for a good answer, false (or 0) for a bad one",
                other,
            )),
        }
    }

    /// What the layout reads, and which one the row fits.
    fn hint(&self, row: &Row) -> String {
        let answers = if self.objective == PreferenceObjective::Kto {
            "`completion`, `label`"
        } else {
            "`chosen`, `rejected`"
        };
        let mut hint = match &self.kind {
            Kind::Columns(_, prompts) => {
                let prompts: Vec<String> = prompts.iter().map(|p| format!("`{p}`")).collect();
                format!(
                    "; the layout reads {}, {answers} and an optional `system`",
                    prompts.join(" or ")
                )
            }
            Kind::Conversations(_) => format!("; the layout reads {answers}, conversations"),
            Kind::Nectar => "; the layout reads `prompt` and `answers`".to_owned(),
            Kind::Passthrough => format!("; the layout reads `prompt`, {answers}"),
            Kind::Chat(chat) => format!("; the layout reads {}", chat.columns(row)),
            Kind::Own(_) => String::new(),
        };
        if let Some(nearest) = nearest(row, self.objective)
            && nearest != self.name
        {
            hint.push_str(&format!("; the columns fit `type: {nearest}`"));
        }
        hint
    }
}

fn unfit(strategy: &PromptStrategy, objective: PreferenceObjective) -> String {
    let takes = match objective {
        PreferenceObjective::Kto => {
            "chat_template.default, chat_template.argilla_chat, chatml.argilla, chatml.argilla_chat, chatml.intel, chatml.prompt_pairs, chatml.ultra, the same of llama3, or a mapping"
        }
        PreferenceObjective::ProcessRewardModel => "stepwise_supervised",
        PreferenceObjective::Orpo => "chat_template.argilla, or another layout of pairs",
        PreferenceObjective::RewardModel => {
            "bradley_terry.chat_template, bradley_terry.llama3.icr, or another layout of pairs"
        }
        PreferenceObjective::Pairwise | PreferenceObjective::Cpo => {
            "chatml.*, llama3.*, chat_template.default, chat_template.argilla_chat, zephyr.nectar, passthrough.default, or a mapping"
        }
    };
    format!(
        "`type: {strategy}` does not fit training on {}, which takes {takes}",
        objective.name()
    )
}

/// Columns of the layouts that are worth suggesting, of pairs and of single
/// answers.
const PAIRS: [(&str, &[&str]); 9] = [
    ("chat_template.default", &["messages", "chosen", "rejected"]),
    ("zephyr.nectar", &["prompt", "answers"]),
    ("chatml.prompt_pairs", &["prompt", "chosen", "rejected"]),
    ("chatml.icr", &["input", "chosen", "rejected"]),
    ("chatml.intel", &["question", "chosen", "rejected"]),
    ("chatml.default", &["instruction", "chosen", "rejected"]),
    (
        "chatml.default",
        &["instruction", "chosen_response", "rejected_response"],
    ),
    ("chat_template.argilla_chat", &["chosen", "rejected"]),
    (
        "chat_template.default",
        &["chosen_messages", "rejected_messages"],
    ),
];
const SINGLE: [(&str, &[&str]); 5] = [
    ("chat_template.default", &["messages", "label"]),
    ("chatml.prompt_pairs", &["prompt", "completion", "label"]),
    ("chatml.intel", &["question", "completion", "label"]),
    ("chatml.argilla", &["instruction", "completion", "label"]),
    ("chatml.argilla_chat", &["completion", "label"]),
];

fn nearest(row: &Row, objective: PreferenceObjective) -> Option<&'static str> {
    let layouts: &[(&str, &[&str])] = match objective {
        PreferenceObjective::Kto => &SINGLE,
        PreferenceObjective::ProcessRewardModel => {
            &[("stepwise_supervised", &["prompt", "completions", "labels"])]
        }
        _ => &PAIRS,
    };
    let fits = |columns: &[&str]| columns.iter().all(|name| row.columns.contains_key(name));
    layouts
        .iter()
        .find(|(_, columns)| fits(columns))
        .map(|(name, _)| *name)
}

/// The best answer and the worst.
fn nectar(row: &Row, name: &'static str, prompt: &str) -> Result<(String, [String; 2]), DataError> {
    let value = row.column("answers", name, "")?;
    let Value::Array(answers) = value else {
        return Err(row.wrong_type("answers", "a list of answers", value));
    };
    let mut ranked = Vec::with_capacity(answers.len());
    for (index, answer) in answers.iter().enumerate() {
        let part = |key: &str| answer.get(key).unwrap_or(&Value::Null);
        let Some(rank) = part("rank").as_f64() else {
            return Err(row.wrong_type(format!("answers[{index}].rank"), "a number", part("rank")));
        };
        let Value::String(text) = part("answer") else {
            return Err(row.wrong_type(format!("answers[{index}].answer"), "text", part("answer")));
        };
        ranked.push((rank, text));
    }
    // Of equals the first; rank 1 is the best.
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(best), Some(worst)) = (ranked.first(), ranked.last()) else {
        return Err(row.wrong_type("answers", "a list of two answers or more", value));
    };
    if best.0 == worst.0 {
        return Err(DataError::Row {
            at: row.at.clone(),
            message: "no answer in `answers` is ranked above another".to_owned(),
        });
    }
    Ok((
        format!("<|system|>\n</s>\n<|user|>\n{prompt}</s>\n<|assistant|>\n"),
        [best.1.clone(), worst.1.clone()],
    ))
}
