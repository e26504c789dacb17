//! What a row holds and a template does not print.
//!
//! It is found out from the rendering, not from the template's text: each piece of a
//! conversation gets a mark, and a mark that comes out shows that the piece is
//! printed. Where one does not, the piece alone is changed: if the text changes with
//! it, or the template rejects it, the template reads it in a way of its own.
//!
//! What is trained and lost is an error, since the model would learn the turn without
//! it. What only stands before that (definitions of tools, system messages, results)
//! is noted, with the row.

use serde_json::{Map, Value};

use super::conversation::{Conversation, Turn, row_error};
use super::layout::{Renderer, trim};
use super::marks::{Place, Seen, free};
use crate::DataError;
use crate::ledger::Note;
use crate::source::Row;

/// Names under which some data sets give reasoning.
const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// Names under which some messages bring tools of their own.
const TOOLS: [&str; 2] = ["tools", "functions"];

/// A piece of a conversation that is not printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// The message it is of; none of the tools.
    turn: Option<usize>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Content,
    /// Name of a call, and what it is called with.
    Call(usize),
    Arguments(usize),
    /// A property of a message.
    Property(String),
    /// The tool of this number: its name, or something else that is said of it.
    Tool(usize),
    Described(usize, &'static str),
}

/// Pieces of a conversation that a template does not print. `seen` are the marks that
/// the contents had in a rendering already, `raw` is the text without any.
pub(super) fn find(
    renderer: &Renderer<'_>,
    conversation: &Conversation,
    seen: &[Seen],
    raw: &str,
    prompt: bool,
) -> Vec<Lost> {
    let mut pieces = pieces(renderer, conversation, seen);
    if pieces.is_empty() {
        return pieces;
    }
    let base = u32::try_from(pieces.len()).ok();
    let Some(base) = base.and_then(|size| free(conversation, size)) else {
        // Thousands of pieces, which is refused elsewhere.
        return Vec::new();
    };
    let mark = |index: usize| {
        // Within the two planes, as `free` found them.
        char::from_u32(base + index as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    let mut marked = conversation.clone();
    for (index, piece) in pieces.iter().enumerate() {
        piece.touch(&mut marked, mark(index));
    }
    let text = renderer.render(&marked, prompt).unwrap_or_default();
    let mut index = 0;
    let mut kinds: Vec<(What, &str, bool)> = Vec::new();
    pieces.retain(|piece| {
        let mark = mark(index);
        index += 1;
        if text.contains(mark) || text.contains(&escaped(mark)) {
            return false;
        }
        // The first of a kind stands for the others.
        let kind = piece.kind(conversation);
        if kinds.contains(&kind) {
            return false;
        }
        let mut changed = conversation.clone();
        piece.touch(&mut changed, mark);
        let lost = renderer
            .render(&changed, prompt)
            .is_ok_and(|text| text == raw);
        if lost {
            kinds.push(kind);
        }
        lost
    });
    // A tool of which nothing is printed lacks its description too.
    let lost = pieces.clone();
    pieces.retain(|piece| match piece.what {
        What::Arguments(_) => !lost.iter().any(|other| matches!(other.what, What::Call(_))),
        What::Described(..) => !lost.iter().any(|other| matches!(other.what, What::Tool(_))),
        _ => true,
    });
    pieces
}

/// A mark as JSON has it where only ASCII is written.
fn escaped(mark: char) -> String {
    let mut units = [0; 2];
    let units = mark.encode_utf16(&mut units).iter();
    units.map(|unit| format!("\\u{unit:04x}")).collect()
}

/// The pieces that have not been seen.
fn pieces(renderer: &Renderer<'_>, conversation: &Conversation, seen: &[Seen]) -> Vec<Lost> {
    let mut out = Vec::new();
    for (index, (turn, seen)) in conversation.turns.iter().zip(seen).enumerate() {
        let mut add = |what| {
            out.push(Lost {
                turn: Some(index),
                what,
            });
        };
        let content = turn.content().is_some_and(|text| !text.trim().is_empty());
        if content && !seen.has(Place::ContentEnd) {
            add(What::Content);
        }
        for (number, call) in turn.calls().iter().enumerate() {
            add(What::Call(number));
            if arguments(call).is_some_and(|arguments| !is_empty(arguments)) {
                add(What::Arguments(number));
            }
        }
        for name in properties(renderer, turn) {
            add(What::Property(name.to_owned()));
        }
    }
    let tools = conversation.tools.as_ref().and_then(Value::as_array);
    for (index, tool) in tools.into_iter().flatten().enumerate() {
        let mut add = |what| out.push(Lost { turn: None, what });
        let function = function(tool);
        if function.get("name").is_some_and(Value::is_string) {
            add(What::Tool(index));
        }
        for key in ["description", "parameters", "input_schema"] {
            if function.get(key).is_some_and(|value| !is_empty(value)) {
                add(What::Described(index, key));
            }
        }
    }
    out
}

/// Properties of a message that the configuration names, tools of its own, and
/// reasoning that the template does not ask for.
fn properties<'a>(renderer: &'a Renderer<'_>, turn: &'a Turn) -> impl Iterator<Item = &'a str> {
    const KNOWN: [&str; 3] = ["role", "content", "tool_calls"];
    let fields = renderer.fields;
    let named = fields.properties.keys().map(String::as_str);
    let key = fields.thinking_key.as_str();
    let named = named.filter(move |name| !KNOWN.contains(name) && *name != key);
    let unasked = renderer.thinking(turn).is_none() && turn.is_assistant();
    let reasoning = REASONING.into_iter().chain([key]);
    let reasoning = reasoning
        .filter(move |name| unasked && (*name == key || !fields.properties.contains_key(*name)));
    let mut names: Vec<&str> = Vec::new();
    for name in named.chain(TOOLS).chain(reasoning) {
        if !names.contains(&name) && turn.message.get(name).is_some_and(|value| !is_empty(value)) {
            names.push(name);
        }
    }
    names.into_iter()
}

/// What a tool or a call says of its function.
fn function(value: &Value) -> &Value {
    match value.get("function") {
        Some(function @ Value::Object(_)) => function,
        _ => value,
    }
}

fn function_mut(value: &mut Value) -> &mut Value {
    match value.get("function").is_some_and(Value::is_object) {
        true => &mut value["function"],
        false => value,
    }
}

fn arguments(call: &Value) -> Option<&Value> {
    function(call).get("arguments")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Puts a mark where it is printed with the value, if the value is.
fn touch(value: &mut Value, mark: char) {
    match value {
        Value::String(text) => {
            let (before, inner, after) = trim(text);
            *text = format!("{before}{inner}{mark}{after}");
        }
        Value::Array(values) => match values.first_mut() {
            Some(first) => touch(first, mark),
            None => values.push(Value::from(mark.to_string())),
        },
        Value::Object(object) => rename_first(object, mark),
        other => *other = Value::from(mark.to_string()),
    }
}

/// Marks the name of an object's first entry.
fn rename_first(object: &mut Map<String, Value>, mark: char) {
    let mut entries = std::mem::take(object).into_iter();
    if let Some((key, value)) = entries.next() {
        object.insert(format!("{key}{mark}"), value);
    }
    object.extend(entries);
}

/// Marks the name of a schema's first property, or what else there is.
fn touch_schema(schema: &mut Value, mark: char) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    match properties.filter(|properties| !properties.is_empty()) {
        Some(properties) => rename_first(properties, mark),
        None => touch(schema, mark),
    }
}

impl Lost {
    /// Puts a mark into the piece.
    fn touch(&self, conversation: &mut Conversation, mark: char) {
        let Some(index) = self.turn else {
            let tools = conversation.tools.as_mut().and_then(Value::as_array_mut);
            let (What::Tool(tool) | What::Described(tool, _)) = self.what else {
                return;
            };
            let Some(tool) = tools.and_then(|tools| tools.get_mut(tool)) else {
                return;
            };
            let tool = function_mut(tool);
            match self.what {
                What::Described(_, key @ ("parameters" | "input_schema")) => {
                    touch_schema(&mut tool[key], mark);
                }
                What::Described(_, key) => touch(&mut tool[key], mark),
                _ => touch(&mut tool["name"], mark),
            }
            return;
        };
        let message = &mut conversation.turns[index].message;
        let call = |message: &'_ mut Map<String, Value>, number: usize, key: &str| {
            let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
            if let Some(call) = calls.and_then(|calls| calls.get_mut(number))
                && let Some(value) = function_mut(call).get_mut(key)
            {
                // Some templates write values without their names.
                let values = value.as_object_mut().map(Map::values_mut);
                if let Some(first) = values.and_then(|mut values| values.next()) {
                    touch(first, mark);
                }
                touch(value, mark);
            }
        };
        let property = match &self.what {
            What::Call(number) => return call(message, *number, "name"),
            What::Arguments(number) => return call(message, *number, "arguments"),
            What::Content => "content",
            What::Property(name) => name,
            What::Tool(_) | What::Described(..) => return,
        };
        if let Some(value) = message.get_mut(property) {
            touch(value, mark);
        }
    }

    /// What the piece has in common with others that are lost for the same reason.
    fn kind<'c>(&self, conversation: &'c Conversation) -> (What, &'c str, bool) {
        let what = match &self.what {
            What::Call(_) => What::Call(0),
            What::Arguments(_) => What::Arguments(0),
            What::Tool(_) => What::Tool(0),
            What::Described(_, key) => What::Described(0, key),
            other => other.clone(),
        };
        let turn = self.turn.and_then(|turn| conversation.turns.get(turn));
        turn.map_or((what.clone(), "", false), |turn| {
            (what, turn.role.as_str(), turn.trained)
        })
    }

    /// Whether the piece is of what is trained.
    fn is_trained(&self, conversation: &Conversation, expects_thinking: bool) -> bool {
        let turn = self.turn.and_then(|turn| conversation.turns.get(turn));
        turn.is_some_and(|turn| turn.trained)
            && match &self.what {
                What::Property(name) => expects_thinking && REASONING.contains(&name.as_str()),
                _ => true,
            }
    }

    /// Where the piece is in the row.
    fn place(&self, conversation: &Conversation, tools: &str) -> String {
        let turn = self.turn.and_then(|turn| conversation.turns.get(turn));
        let turn = turn.map_or("", |turn| turn.place.as_str());
        match &self.what {
            What::Content if turn.ends_with(']') => format!("{turn}.content"),
            What::Content => turn.to_owned(),
            What::Call(_) => format!("{turn}.tool_calls"),
            What::Arguments(number) => format!("{turn}.tool_calls[{number}].arguments"),
            What::Property(name) => format!("{turn}.{name}"),
            What::Tool(_) => tools.to_owned(),
            What::Described(tool, key) => format!("{tools}[{tool}].{key}"),
        }
    }

    fn note(&self, conversation: &Conversation, template: &str, tools: &str) -> Note {
        let turn = self.turn.and_then(|turn| conversation.turns.get(turn));
        let role = turn.map_or("", |turn| turn.role.as_str());
        let what = match &self.what {
            What::Content => format!("messages of the role `{role}`"),
            What::Call(_) => "`tool_calls`, calls of tools".to_owned(),
            What::Arguments(_) => "the arguments in `tool_calls`".to_owned(),
            What::Property(name) => format!("the property `{name}`"),
            What::Tool(_) => format!("the definitions in `{tools}`"),
            What::Described(_, key) => format!("`{key}` of the definitions in `{tools}`"),
        };
        let out = match (&self.what, role) {
            (What::Content, "system") => {
                "; choose another template, or leave the message out with `drop_system_message: true`"
            }
            _ => "; choose another template, or take it out of the data",
        };
        Note::new(
            format!(
                "chat template {template} does not print {what}, so that the model does not see it{out}"
            ),
            &self.place(conversation, tools),
        )
    }
}

/// What is said about the pieces that a row loses.
///
/// # Errors
/// Something of a trained turn is lost.
pub(super) fn judge(
    renderer: &Renderer<'_>,
    row: &Row,
    conversation: &Conversation,
    lost: &[Lost],
) -> Result<Vec<Note>, DataError> {
    let template = renderer.template.name();
    let tools = renderer.fields.tools_column();
    let expects = renderer.fields.expects_thinking;
    let (trained, context): (Vec<&Lost>, Vec<&Lost>) = lost
        .iter()
        .partition(|piece| piece.is_trained(conversation, expects));
    if trained.is_empty() {
        let notes = context.into_iter();
        return Ok(notes
            .map(|piece| piece.note(conversation, template, tools))
            .collect());
    }
    let places = |pieces: &[&Lost]| {
        let mut places: Vec<String> = Vec::new();
        for piece in pieces {
            let place = format!("`{}`", piece.place(conversation, tools));
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places.join(", ")
    };
    let further = match context.is_empty() {
        true => String::new(),
        false => format!(" (nor {})", places(&context)),
    };
    let own = match renderer.template.is_of_tokenizer() {
        true => "",
        false => ", such as that of the model (`chat_template: tokenizer_default`)",
    };
    Err(row_error(
        row,
        format!(
            "chat template {template} does not print {}, which is trained{further}: the model would learn the turn without it; use a template that prints it{own}, leave the role out of `roles_to_train`, or take the row out",
            places(&trained)
        ),
    ))
}
