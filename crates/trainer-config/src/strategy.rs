//! The values of `type:`: how a row of a data set becomes tokens and labels.
//!
//! A name stands for a layout that is known beforehand; a mapping gives the
//! columns and the texts of a layout of one's own ([`UserDefined`]).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! strategies {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// How a row becomes tokens and labels.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum PromptStrategy {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
            /// A layout of preferences, rewards or steps.
            #[serde(untagged)]
            Preference(PreferenceLayout),
            /// Columns and texts of one's own.
            #[serde(untagged)]
            UserDefined(Box<UserDefined>),
        }

        impl PromptStrategy {
            /// The names of layouts for supervised fine-tuning, as written in the
            /// YAML file.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name as written in the YAML file; `user_defined` where it is
            /// a mapping there.
            #[must_use]
            pub fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Preference(layout) => layout.as_str(),
                    Self::UserDefined(_) => "user_defined",
                }
            }
        }
    };
}

strategies! {
    /// `instruction`, `input`, `output` in the Alpaca layout.
    Alpaca = "alpaca",
    /// The same as `alpaca`.
    AlpacaStyleInstruct = "alpaca:instruct",
    /// Alpaca's columns, with USER: and ASSISTANT:.
    AlpacaStyleChat = "alpaca:chat",
    /// Alpaca's columns, in ChatML.
    AlpacaStyleChatml = "alpaca:chatml",
    /// Alpaca's columns, as Phi-3 is prompted.
    AlpacaStylePhi = "alpaca:phi",
    /// The same as `alpaca:chat`.
    AlpacaChat = "alpaca_chat",
    /// Alpaca's columns, with a system message that asks to be concise.
    AlpacaChatConcise = "alpaca_chat.load_concise",
    /// `question`, `answer`, with USER: and ASSISTANT:.
    AlpacaChatQa = "alpaca_chat.load_qa",
    /// `message_1`, `message_2`, with USER: and ASSISTANT:.
    AlpacaChatCamelAi = "alpaca_chat.load_camel_ai",
    /// Alpaca's columns, with USER: and ASSISTANT: and no system message.
    AlpacaChatNoPrompt = "alpaca_chat.load_no_prompt",
    /// The same as `alpaca`.
    AlpacaInstruct = "alpaca_instruct",
    /// `alpaca` without the sentence in front.
    AlpacaInstructNoPrompt = "alpaca_instruct.load_no_prompt",
    /// The same as `alpaca_w_system.load_chat`.
    AlpacaWithSystem = "alpaca_w_system",
    /// Alpaca's columns and `system`, with ### headings.
    AlpacaWithSystemInstruct = "alpaca_w_system.load_instruct",
    /// Alpaca's columns and `system`, with SYSTEM:, USER: and ASSISTANT:.
    AlpacaWithSystemChat = "alpaca_w_system.load_chat",
    /// `system_prompt`, `question`, `response`, with ### headings.
    OpenOrca = "alpaca_w_system.load_open_orca",
    /// `system_prompt`, `question`, `response`, in ChatML.
    OpenOrcaChatml = "alpaca_w_system.load_open_orca_chatml",
    /// `messages` rendered by a chat template.
    ChatTemplate = "chat_template",
    /// The same as `chat_template`, in ChatML where no template is chosen.
    MessagesChat = "messages.chat",
    /// `text`, trained from its first token to its last.
    Completion = "completion",
    /// `text` in windows that overlap, so that a window starts with context;
    /// every token is trained once.
    Pretrain = "pretrain",
    /// `segments`, each with a `text` and a `label` that says whether it is trained.
    InputOutput = "input_output",
    /// `article`, `question`, `answer`.
    ContextQa = "context_qa",
    /// `article`, `unanswerable_question`, answered with a refusal.
    ContextQa404 = "context_qa.load_404",
    /// `context`, `question`, `answer`, without a system message.
    ContextQaV2 = "context_qa.load_v2",
    /// `instruction`, `revision`: a creative answer.
    CreativeAnswer = "creative_acr.load_answer",
    /// `instruction`, `answer`, `scores`, `critiques`: the critique of an answer.
    CreativeCritique = "creative_acr.load_critique",
    /// `instruction`, `answer`, `scores`, `critiques`, `revision`: a revised answer.
    CreativeRevise = "creative_acr.load_revise",
    /// `conversations` of `human` and `gpt`, as Llama 2 is prompted.
    Llama2Chat = "llama2_chat",
    /// `prompt`, `generation`, as Metharme is prompted.
    Metharme = "metharme",
    /// `conversations` of `system`, `human` and `bot`, as Pygmalion is prompted.
    Pygmalion = "pygmalion",
    /// `system`, `instruction`, `output`, as Orca Mini is prompted.
    OrcaMini = "orcamini",
    /// `question`, `choices`, `solution` or `explanation`: choose and explain.
    ExplainChoice = "explainchoice",
    /// The same as `explainchoice`.
    ExplainChoiceInstruct = "explainchoice:instruct",
    /// `explainchoice` with USER: and ASSISTANT:.
    ExplainChoiceChat = "explainchoice:chat",
    /// `explainchoice` in ChatML.
    ExplainChoiceChatml = "explainchoice:chatml",
    /// `explainchoice` as Phi-3 is prompted.
    ExplainChoicePhi = "explainchoice:phi",
    /// `question`, `choices`, `solution` or `explanation`: choose and be concise.
    ConciseChoice = "concisechoice",
    /// `article`, `summary`.
    SummarizeTldr = "summarizetldr",
    /// `question`, `category`, `answer`.
    Jeopardy = "jeopardy",
    /// The same as `jeopardy`.
    JeopardyInstruct = "jeopardy:instruct",
    /// `jeopardy` with USER: and ASSISTANT:.
    JeopardyChat = "jeopardy:chat",
    /// `jeopardy` in ChatML.
    JeopardyChatml = "jeopardy:chatml",
    /// `jeopardy` as Phi-3 is prompted.
    JeopardyPhi = "jeopardy:phi",
    /// `INSTRUCTION`, `RESPONSE`.
    Oasst = "oasst",
    /// The same as `oasst`.
    OasstInstruct = "oasst:instruct",
    /// `oasst` with USER: and ASSISTANT:.
    OasstChat = "oasst:chat",
    /// `oasst` in ChatML.
    OasstChatml = "oasst:chatml",
    /// `oasst` as Phi-3 is prompted.
    OasstPhi = "oasst:phi",
    /// `instruction`, `input`, `response`.
    GpTeacher = "gpteacher",
    /// The same as `gpteacher`.
    GpTeacherInstruct = "gpteacher:instruct",
    /// `gpteacher` with USER: and ASSISTANT:.
    GpTeacherChat = "gpteacher:chat",
    /// `gpteacher` in ChatML.
    GpTeacherChatml = "gpteacher:chatml",
    /// `gpteacher` as Phi-3 is prompted.
    GpTeacherPhi = "gpteacher:phi",
    /// `instruction`, `input`, `output`, `reflection`, `corrected`.
    Reflection = "reflection",
    /// The same as `reflection`.
    ReflectionInstruct = "reflection:instruct",
    /// `reflection` with USER: and ASSISTANT:.
    ReflectionChat = "reflection:chat",
    /// Rows that hold `input_ids` and `labels` already.
    Pretokenized = "pretokenized",
    /// Random ids, without any file: for measuring speed and memory.
    Synthetic = "_synthetic",
}

impl PromptStrategy {
    /// Whether rows are conversations that a chat template renders.
    #[must_use]
    pub fn is_chat(&self) -> bool {
        use PreferenceLayout as L;
        matches!(
            self,
            Self::ChatTemplate
                | Self::MessagesChat
                | Self::Preference(
                    L::ChatTemplateDefault
                        | L::ChatTemplateArgillaChat
                        | L::ChatTemplateArgilla
                        | L::OrpoChatTemplate
                        | L::BradleyTerryChatTemplate
                )
        )
    }
}

impl std::fmt::Display for PromptStrategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

crate::schema::names! {
    /// Layouts of preferences, rewards and steps. In all layouts of pairs,
    /// `chosen` is the better answer and a column `margin` may say by how much.
    PreferenceLayout {
        /// `prompt`, `input`, `question` or `instruction`, and an optional
        /// `system`, in ChatML.
        ChatmlDefault = "chatml.default",
        /// `instruction`, `completion`, `label`, in ChatML.
        ChatmlArgilla = "chatml.argilla",
        /// Answers that are whole conversations, in ChatML.
        ChatmlArgillaChat = "chatml.argilla_chat",
        /// `system`, `input`, in ChatML.
        ChatmlIcr = "chatml.icr",
        /// `system`, `question`, in ChatML.
        ChatmlIntel = "chatml.intel",
        /// `system`, `prompt`, in ChatML.
        ChatmlPromptPairs = "chatml.prompt_pairs",
        /// `system`, `prompt`, and answers that are conversations, in ChatML.
        ChatmlUltra = "chatml.ultra",
        /// `chatml.default` as Llama 3 is prompted.
        Llama3Default = "llama3.default",
        /// `chatml.argilla` as Llama 3 is prompted.
        Llama3Argilla = "llama3.argilla",
        /// `chatml.argilla_chat` as Llama 3 is prompted.
        Llama3ArgillaChat = "llama3.argilla_chat",
        /// `chatml.icr` as Llama 3 is prompted.
        Llama3Icr = "llama3.icr",
        /// `chatml.intel` as Llama 3 is prompted.
        Llama3Intel = "llama3.intel",
        /// `chatml.prompt_pairs` as Llama 3 is prompted.
        Llama3PromptPairs = "llama3.prompt_pairs",
        /// `chatml.ultra` as Llama 3 is prompted.
        Llama3Ultra = "llama3.ultra",
        /// `prompt`, and `answers` with a `rank` each, as Zephyr is prompted.
        ZephyrNectar = "zephyr.nectar",
        /// `messages`, `chosen`, `rejected`, rendered by a chat template.
        ChatTemplateDefault = "chat_template.default",
        /// `chosen` and `rejected` are conversations, rendered by a chat template.
        ChatTemplateArgillaChat = "chat_template.argilla_chat",
        /// The same, rendered as a whole (`rl: orpo`).
        ChatTemplateArgilla = "chat_template.argilla",
        /// The same as `chat_template.argilla`.
        OrpoChatTemplate = "orpo.chat_template",
        /// `prompt` and the answers as they are.
        Passthrough = "passthrough.default",
        /// `system`, `input`, `chosen`, `rejected`, rendered by a chat template
        /// (reward models).
        BradleyTerryChatTemplate = "bradley_terry.chat_template",
        /// The same as Llama 3 is prompted.
        BradleyTerryLlama3Icr = "bradley_terry.llama3.icr",
        /// `prompt`, `completions`, `labels` (process reward models).
        StepwiseSupervised = "stepwise_supervised",
    }
}

/// A layout of one's own: the columns and the texts around them. A format is
/// text with names in braces, `[INST] {instruction} [/INST]`; `{{` and `}}`
/// stand for braces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserDefined {
    /// The system message of rows without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Text in front where there is a system message: `{system}` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_format: Option<String>,
    /// Column of the system message: `system` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_system: Option<String>,
    /// Column of the instruction: `instruction` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_instruction: Option<String>,
    /// Column of the further input: `input` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_input: Option<String>,
    /// Column of the response: `output` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_output: Option<String>,
    /// The prompt of a row with input: `{instruction} {input} ` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The prompt of a row without input: `{instruction} ` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_input_format: Option<String>,
    /// Column of the prompt (preferences): `prompt` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_prompt: Option<String>,
    /// Column of the better answer (pairs): `chosen` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_chosen: Option<String>,
    /// Column of the worse answer (pairs): `rejected` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_rejected: Option<String>,
    /// Column of the answer (KTO): `completion` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_completion: Option<String>,
    /// Column that says whether the answer is good (KTO): `label` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_label: Option<String>,
    /// The prompt (preferences), of `{prompt}` and `{system}`: `{prompt}` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_format: Option<String>,
    /// The better answer (pairs): `{chosen}` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_format: Option<String>,
    /// The worse answer (pairs): `{rejected}` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_format: Option<String>,
    /// The answer (KTO): `{completion}` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_format: Option<String>,
}

/// Names that may stand in a format of [`UserDefined`], by the key of the format.
pub const FORMAT_NAMES: [(&str, &[&str]); 7] = [
    ("system_format", &["system"]),
    ("format", &["instruction", "input", "system"]),
    ("no_input_format", &["instruction", "system"]),
    ("prompt_format", &["prompt", "system"]),
    ("chosen_format", &["chosen"]),
    ("rejected_format", &["rejected"]),
    ("completion_format", &["completion"]),
];

impl UserDefined {
    /// The keys that are set, in the order of the fields.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        let set = [
            ("system_prompt", &self.system_prompt),
            ("system_format", &self.system_format),
            ("field_system", &self.field_system),
            ("field_instruction", &self.field_instruction),
            ("field_input", &self.field_input),
            ("field_output", &self.field_output),
            ("format", &self.format),
            ("no_input_format", &self.no_input_format),
            ("field_prompt", &self.field_prompt),
            ("field_chosen", &self.field_chosen),
            ("field_rejected", &self.field_rejected),
            ("field_completion", &self.field_completion),
            ("field_label", &self.field_label),
            ("prompt_format", &self.prompt_format),
            ("chosen_format", &self.chosen_format),
            ("rejected_format", &self.rejected_format),
            ("completion_format", &self.completion_format),
        ];
        let set = set.into_iter().filter(|(_, value)| value.is_some());
        set.map(|(key, _)| key).collect()
    }

    /// The formats that are set, by key.
    pub fn formats(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("system_format", &self.system_format),
            ("format", &self.format),
            ("no_input_format", &self.no_input_format),
            ("prompt_format", &self.prompt_format),
            ("chosen_format", &self.chosen_format),
            ("rejected_format", &self.rejected_format),
            ("completion_format", &self.completion_format),
        ];
        all.into_iter()
            .filter_map(|(key, format)| Some((key, format.as_deref()?)))
    }

    /// Parses every format that is set.
    ///
    /// # Errors
    /// The key of the first format that is malformed, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, FormatError)> {
        for (key, format) in self.formats() {
            let names = FORMAT_NAMES.iter().find(|(name, _)| *name == key);
            let names = names.map_or(&[][..], |(_, names)| names);
            Format::parse(format, names).map_err(|error| (key, error))?;
        }
        Ok(())
    }
}

/// A format that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// A name in braces that has no value.
    UnknownName {
        /// The name.
        name: String,
        /// The names that have one.
        known: &'static [&'static str],
    },
    /// A brace without its other half.
    Brace {
        /// The brace.
        brace: char,
    },
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownName { name, known } => {
                let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
                write!(
                    f,
                    "there is nothing to put in place of {{{name}}}; what can be filled in is {}; braces that are meant as text are doubled: {{{{ and }}}}",
                    known.join(", ")
                )
            }
            Self::Brace { brace } => write!(
                f,
                "a {brace} stands alone; braces that are meant as text are doubled: {{{{ and }}}}"
            ),
        }
    }
}

impl std::error::Error for FormatError {}

/// A text with places to fill in, as Python's `str.format` writes them: `{name}`,
/// with `{{` and `}}` for braces.
///
/// ```
/// # use trainer_config::Format;
/// let format = Format::parse("{{{a}}} and {b}", &["a", "b"]).unwrap();
/// assert_eq!(format.fill(&[("a", "1"), ("b", "{a}")]), "{1} and {a}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Text, and the name that follows it.
    parts: Vec<(String, Option<&'static str>)>,
}

impl Format {
    /// Reads a format; `names` are those that may be filled in.
    ///
    /// # Errors
    /// A name that is not among them, or a brace that stands alone.
    pub fn parse(text: &str, names: &'static [&'static str]) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = if rest[at..].starts_with('{') {
                '{'
            } else {
                '}'
            };
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                plain.push(brace);
                rest = after;
                continue;
            }
            let end = after.find('}').filter(|_| brace == '{');
            let end = end.ok_or(FormatError::Brace { brace })?;
            let written = &after[..end];
            let name = names.iter().find(|name| **name == written);
            let name = name.ok_or_else(|| FormatError::UnknownName {
                name: written.to_owned(),
                known: names,
            })?;
            parts.push((std::mem::take(&mut plain), Some(*name)));
            rest = &after[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push((plain, None));
        }
        Ok(Self { parts })
    }

    /// The text with values in the place of their names; a name without a value
    /// leaves nothing. Braces in values are text.
    #[must_use]
    pub fn fill(&self, values: &[(&str, &str)]) -> String {
        let mut out = String::new();
        for (text, name) in &self.parts {
            out.push_str(text);
            let value = values.iter().find(|(key, _)| Some(*key) == *name);
            out.push_str(value.map_or("", |(_, value)| value));
        }
        out
    }

    /// Whether the text asks for this name.
    #[must_use]
    pub fn asks_for(&self, name: &str) -> bool {
        self.parts.iter().any(|(_, asked)| *asked == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_cannot_be_used() {
        let parse = |text| Format::parse(text, &["a", "b"]).unwrap_err().to_string();
        assert_eq!(
            parse("x {c}"),
            "there is nothing to put in place of {c}; what can be filled in is {a}, {b}; braces that are meant as text are doubled: {{ and }}"
        );
        assert_eq!(
            parse("x { c"),
            "a { stands alone; braces that are meant as text are doubled: {{ and }}"
        );
        assert_eq!(
            parse("x } {a}"),
            "a } stands alone; braces that are meant as text are doubled: {{ and }}"
        );
        assert!(parse("{}").contains("place of {}"));
        assert!(parse("{a!r}").contains("place of {a!r}"));
    }

    #[test]
    fn names_are_filled_in_once() {
        let format = Format::parse("é{a}{b}{a}\n", &["a", "b"]).unwrap();
        assert_eq!(format.fill(&[("a", "{b}"), ("b", "")]), "é{b}{b}\n");
        assert!(format.asks_for("b") && !format.asks_for("c"));
        assert_eq!(Format::parse("", &[]).unwrap().fill(&[]), "");
    }

    #[test]
    fn every_name_is_read_as_itself() {
        let all = PromptStrategy::NAMES.iter().chain(PreferenceLayout::NAMES);
        for name in all {
            let json = serde_json::Value::from(*name);
            let strategy: PromptStrategy = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(strategy.as_str(), *name);
            assert_eq!(serde_json::to_value(&strategy).unwrap(), json);
        }
        let own = serde_json::json!({"format": "{instruction}", "field_output": "o"});
        let strategy: PromptStrategy = serde_json::from_value(own.clone()).unwrap();
        let PromptStrategy::UserDefined(fields) = &strategy else {
            panic!("{strategy:?}");
        };
        assert_eq!(fields.keys(), ["field_output", "format"]);
        assert_eq!(serde_json::to_value(&strategy).unwrap(), own);
    }
}
