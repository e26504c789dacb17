//! Characters that stand for places of a conversation while it is rendered.
//!
//! A rendering with marks says where the parts of the messages came to stand:
//! templates copy them as they copy any other character. They are private-use
//! characters (planes 15 and 16), chosen so that the conversation holds none of
//! them.

use serde_json::Value;

use super::conversation::Conversation;

/// A place of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    ContentStart,
    ContentEnd,
    ThinkingStart,
    ThinkingEnd,
    /// Behind the name of a tool that is called.
    Call,
}

const PLACES: u32 = 5;
/// Marks that belong to no turn: of a cut, and around a generation block.
const OTHERS: u32 = 3;

/// First and last private-use characters of planes 15 and 16.
const PLANES: [(u32, u32); 2] = [(0xF_0000, 0xF_FFFD), (0x10_0000, 0x10_FFF0)];

/// The marks of one conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    base: u32,
    turns: u32,
}

/// What a rendering without its marks looks like, and where they were.
#[derive(Debug, Default)]
pub(super) struct Stripped {
    pub(super) text: String,
    /// Bytes of `text` at which a special token's name is cut.
    pub(super) cuts: Vec<usize>,
    /// Of each turn, bytes of `text` where its marks stood.
    pub(super) turns: Vec<Seen>,
    /// Generation blocks, in order.
    pub(super) blocks: Vec<(usize, usize)>,
}

/// Where the marks of a turn stood.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    places: [Option<usize>; PLACES as usize],
    pub(super) first: Option<usize>,
    pub(super) last: Option<usize>,
    /// Whether a place was printed twice, so that it is not one place.
    twice: [bool; PLACES as usize],
}

impl Seen {
    /// Where a place is, if it is in one place.
    pub(super) fn at(&self, place: Place) -> Option<usize> {
        let place = place as usize;
        self.places[place].filter(|_| !self.twice[place])
    }

    pub(super) fn has(&self, place: Place) -> bool {
        self.places[place as usize].is_some()
    }

    fn add(&mut self, place: usize, at: usize) {
        self.twice[place] |= self.places[place].replace(at).is_some();
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
    }
}

impl Marks {
    /// Marks that a conversation does not hold; none if there is no room for
    /// them, which takes thousands of turns.
    pub(super) fn new(conversation: &Conversation) -> Option<Self> {
        let turns = u32::try_from(conversation.turns.len()).ok()?;
        let size = turns.checked_mul(PLACES)?.checked_add(OTHERS)?;
        let base = free(conversation, size)?;
        Some(Self { base, turns })
    }

    /// The mark of a place of a turn.
    pub(super) fn place(self, turn: usize, place: Place) -> char {
        self.code(turn as u32 * PLACES + place as u32)
    }

    /// The mark of a cut.
    pub(super) fn cut(self) -> char {
        self.code(self.turns * PLACES)
    }

    /// The marks around a generation block.
    pub(super) fn block(self) -> (char, char) {
        (
            self.code(self.turns * PLACES + 1),
            self.code(self.turns * PLACES + 2),
        )
    }

    fn code(self, index: u32) -> char {
        // Within the two planes, which are all characters.
        char::from_u32(self.base + index).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// Takes the marks out of a rendering.
    pub(super) fn strip(self, marked: &str) -> Stripped {
        let mut out = Stripped {
            text: String::with_capacity(marked.len()),
            turns: vec![Seen::default(); self.turns as usize],
            ..Stripped::default()
        };
        let mut open = Vec::new();
        let mut rest = marked;
        // The first byte of every character of planes 15 and 16 is at least 0xF3.
        while let Some(at) = rest.bytes().position(|byte| byte >= 0xF3) {
            out.text.push_str(&rest[..at]);
            rest = &rest[at..];
            let Some(c) = rest.chars().next() else {
                break;
            };
            rest = &rest[c.len_utf8()..];
            let here = out.text.len();
            let code = u32::from(c)
                .checked_sub(self.base)
                .filter(|code| *code < self.turns * PLACES + OTHERS);
            let Some(code) = code else {
                out.text.push(c);
                continue;
            };
            if let Some(seen) = out.turns.get_mut((code / PLACES) as usize) {
                seen.add((code % PLACES) as usize, here);
                continue;
            }
            match code - self.turns * PLACES {
                0 => out.cuts.push(here),
                1 => open.push(here),
                _ => {
                    if let Some(start) = open.pop() {
                        out.blocks.push((start, here));
                    }
                }
            }
        }
        out.text.push_str(rest);
        out
    }
}

/// The first of so many private-use characters in a row that a conversation does not
/// hold.
pub(super) fn free(conversation: &Conversation, size: u32) -> Option<u32> {
    let mut used = Vec::new();
    for turn in &conversation.turns {
        turn.message
            .values()
            .for_each(|value| collect(value, &mut used));
    }
    conversation
        .tools
        .iter()
        .for_each(|tools| collect(tools, &mut used));
    used.sort_unstable();
    for (first, last) in PLANES {
        let mut base = first;
        while base.checked_add(size)? <= last {
            let next = used.partition_point(|code| *code < base);
            match used.get(next) {
                Some(code) if *code < base + size => base = code + 1,
                _ => return Some(base),
            }
        }
    }
    None
}

/// Private-use characters of the upper planes in a value.
fn collect(value: &Value, used: &mut Vec<u32>) {
    let mut text = |text: &str| {
        if text.bytes().any(|byte| byte >= 0xF3) {
            let codes = text.chars().map(u32::from);
            used.extend(codes.filter(|code| *code >= PLANES[0].0));
        }
    };
    match value {
        Value::String(value) => text(value),
        Value::Array(values) => values.iter().for_each(|value| collect(value, used)),
        Value::Object(object) => {
            object.keys().for_each(|key| text(key));
            object.values().for_each(|value| collect(value, used));
        }
        _ => {}
    }
}
