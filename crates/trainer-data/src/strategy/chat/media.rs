//! Pictures, sound and video, which a model of text does not see: an answer about
//! them must not be trained as if it did.

use serde_json::Value;

use super::conversation::{Turn, row_error};
use crate::DataError;
use crate::ledger::Note;
use crate::source::Row;

/// Names of columns, and of properties of messages, that hold the media of a row.
const HOLDERS: [&str; 3] = ["images", "videos", "audios"];

/// Names of columns that may hold them, or something that has nothing to do with the
/// conversation.
const PERHAPS: [&str; 3] = ["image", "video", "audio"];

/// Marks that stand for media in texts.
const MARKS: [&str; 3] = ["<image>", "<video>", "<audio>"];

/// Refuses a row that holds media, and notes what may be one.
pub(super) fn check(row: &Row, turns: &[Turn]) -> Result<Option<Note>, DataError> {
    let mark = turns.iter().find_map(|turn| {
        let mark = turn.content().and_then(first_mark)?;
        Some((turn, mark))
    });
    for name in HOLDERS.into_iter().chain(PERHAPS) {
        for turn in turns {
            if turn.message.get(name).is_some_and(holds) {
                return Err(refused(row, &format!("{}.{name}", turn.place)));
            }
        }
        if !row.columns.get(name).is_some_and(holds) {
            continue;
        }
        if HOLDERS.contains(&name) || mark.is_some() {
            return Err(refused(row, name));
        }
        let message = format!(
            "the column `{name}` is not read, as the model reads text alone: the answers are trained without it"
        );
        return Ok(Some(Note::new(message, name)));
    }
    Ok(mark.map(|(turn, mark)| {
        let message = format!(
            "messages hold the mark `{mark}`, but rows have no column of media: it is trained as the text it is"
        );
        Note::new(message, &turn.place)
    }))
}

fn refused(row: &Row, place: &str) -> DataError {
    row_error(
        row,
        format!(
            "`{place}` holds media, which the model would not see, as it reads text alone: take the row out, or remove `{place}` if the text stands by itself"
        ),
    )
}

fn holds(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(values) => values.iter().any(holds),
        // Bytes and path of a file, either of which may be null.
        Value::Object(object) => object.values().any(|value| match value {
            Value::Number(_) => true,
            other => holds(other),
        }),
    }
}

fn first_mark(text: &str) -> Option<&'static str> {
    let at = |mark: &&str| text.find(*mark);
    let found = MARKS.into_iter().filter(|mark| text.contains(mark));
    found.min_by_key(|mark| at(mark))
}
