//! JSON: one object a line, or one array of objects.
//!
//! Both are read a row at a time. Which of the two a file is is told from its
//! first character. Rows are parsed later, so that all threads can take part.

use std::io::{BufRead, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::input::{Input, Lines, MAX_ROW, convert, no_nul, utf8};
use super::{Record, Records, Row, Spot, Start, wrapped};
use crate::error::kind;
use crate::{DataError, Place, values};

const LINES: &str = "the file holds one JSON object a line";
const ARRAY: &str = "the file holds one array of JSON objects";

pub(super) fn open(path: &Arc<PathBuf>, input: Input, start: Start) -> Result<Records, DataError> {
    let mut elements = Elements {
        path: Arc::clone(path),
        reader: input,
        byte: 0,
        line: 1,
        column: 0,
        rows: 0,
        state: State::Before,
    };
    if elements.peek()? == Some(b'[') {
        let elements = elements.map(|element| Ok((element?, None)));
        return Ok(Box::new(elements.skip(start.rows)));
    }
    // What was skipped is white space; the lines of it count.
    let (first, indent) = (elements.line, elements.column);
    let next = Spot {
        byte: elements.byte,
        line: first,
    };
    let mut lines = Lines::new(path, elements.reader, next);
    let rows = match start.spot {
        Some(spot) => lines.go_to(spot).map(|()| 0)?,
        None => start.rows,
    };
    let records = lines.filter_map(move |line| match line {
        Err(error) => Some(Err(error)),
        Ok((_, bytes, _)) if bytes.iter().all(u8::is_ascii_whitespace) => None,
        Ok((at, bytes, spot)) => {
            let record = Record::Json {
                line: at.number,
                column: if at.number == first { indent } else { 0 },
                at,
                bytes,
            };
            Some(Ok((record, spot)))
        }
    });
    Ok(Box::new(records.skip(rows)))
}

/// Parses the row that starts at a line, after `column` bytes of it.
pub(super) fn row(at: Place, line: usize, column: usize, bytes: &[u8]) -> Result<Row, DataError> {
    let text = utf8(&at.path, line, column, bytes)?;
    let value = values::parse(text).map_err(|error| DataError::Json {
        path: at.path.to_path_buf(),
        line: line + error.line().saturating_sub(1),
        column: match error.line() {
            0 | 1 => column + error.column(),
            _ => error.column(),
        }
        .max(1),
        message: {
            let lines = at.unit == "line";
            let mut message = message(&error, if lines { LINES } else { ARRAY });
            if lines
                && at.number == 1
                && error.is_eof()
                && let Some(key) = wrapped::key(&at.path)
            {
                message = format!("{message}; {}", wrapped::advice(&at.path, &key));
            }
            message
        },
    })?;
    match value {
        Value::Object(columns) => Ok(Row {
            at,
            columns: columns.into(),
        }),
        other => Err(DataError::NotAnObject {
            at,
            found: kind(&other),
        }),
    }
}

/// serde_json's message without its own position, and what the file should be.
pub(super) fn message(error: &serde_json::Error, expected: &str) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(&*text, |(text, _)| text);
    if error.is_data() {
        return text.to_owned();
    }
    if text.starts_with("recursion limit") {
        return "JSON nested deeper than 128 levels".to_owned();
    }
    if error.is_eof() {
        return format!("the JSON ends too early ({text}); {expected}");
    }
    if text.contains("surrogate") || text.starts_with("unexpected end of hex escape") {
        return "malformed JSON: a `\\u` escape of half a character (a lone surrogate), which no text can hold; write both halves, or take it out".to_owned();
    }
    format!("malformed JSON: {text}; {expected}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the opening bracket.
    Before,
    /// After the opening bracket.
    Open,
    /// After an element.
    After,
    /// After the closing bracket, or an error.
    Done,
}

/// The elements of an array, one at a time, not parsed.
struct Elements {
    path: Arc<PathBuf>,
    reader: Input,
    /// Bytes before the next one.
    byte: u64,
    /// Line of the next byte, from 1.
    line: usize,
    /// Bytes before it on this line.
    column: usize,
    rows: usize,
    state: State,
}

impl Elements {
    /// The next bytes that the reader has; none at the end.
    fn chunk(&mut self) -> Result<&[u8], DataError> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(convert(&self.path, error)),
            }
        }
        self.reader
            .fill_buf()
            .map_err(|error| convert(&self.path, error))
    }

    /// Takes bytes of the current chunk, and counts lines.
    fn advance(&mut self, used: usize) -> Result<(), DataError> {
        let (path, line, column) = (Arc::clone(&self.path), self.line, self.column);
        let bytes = &self.chunk()?[..used];
        no_nul(&path, line, column, bytes)?;
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        let rest = memchr::memrchr(b'\n', bytes).map(|end| used - end - 1);
        self.line += lines;
        self.column = rest.unwrap_or(self.column + used);
        self.byte += used as u64;
        self.reader.consume(used);
        Ok(())
    }

    /// The next byte that is not white space. A byte order mark at the very
    /// start is passed over.
    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let start = (self.line, self.column) == (1, 0);
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            if start && chunk.starts_with(b"\xef\xbb\xbf") {
                self.reader.consume(3);
                self.byte += 3;
                continue;
            }
            let white = chunk.iter().take_while(|byte| byte.is_ascii_whitespace());
            let white = white.count();
            let next = chunk.get(white).copied();
            self.advance(white)?;
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn read(&mut self) -> Result<Option<Record>, DataError> {
        if self.state == State::Before {
            self.peek()?;
            self.advance(1)?;
            self.state = State::Open;
        }
        let mut next = self.peek()?;
        if self.state == State::After {
            match next {
                Some(b',') => {
                    self.advance(1)?;
                    next = self.peek()?;
                    if next == Some(b']') {
                        return Err(self.malformed("trailing comma"));
                    }
                }
                Some(b']') | None => {}
                Some(_) => return Err(self.malformed("expected `,` or `]`")),
            }
        }
        match next {
            None => Err(DataError::JsonArray {
                path: self.path.to_path_buf(),
                line: self.line,
                column: self.column.max(1),
                message: format!("the JSON ends too early (EOF while parsing a list); {ARRAY}"),
            }),
            Some(b']') => {
                self.advance(1)?;
                match self.peek()? {
                    None => Ok(None),
                    Some(_) => Err(self.malformed("trailing characters after the array")),
                }
            }
            Some(_) => {
                let (line, column) = (self.line, self.column);
                let bytes = self.element()?;
                self.rows += 1;
                self.state = State::After;
                Ok(Some(Record::Json {
                    at: Place {
                        path: Arc::clone(&self.path),
                        unit: "row",
                        number: self.rows,
                    },
                    line,
                    column,
                    bytes,
                }))
            }
        }
    }

    /// The bytes of the value that starts here.
    fn element(&mut self) -> Result<Vec<u8>, DataError> {
        let line = self.line;
        let mut out = Vec::new();
        let mut scanner = Scanner::default();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(out);
            }
            let end = scanner.scan(chunk, out.is_empty());
            let used = end.unwrap_or(chunk.len());
            out.extend_from_slice(&chunk[..used]);
            self.advance(used)?;
            if end.is_some() {
                return Ok(out);
            }
            if out.len() > MAX_ROW {
                return Err(DataError::RowTooLong {
                    path: self.path.to_path_buf(),
                    line,
                });
            }
        }
    }

    fn malformed(&self, what: &str) -> DataError {
        DataError::JsonArray {
            path: self.path.to_path_buf(),
            line: self.line,
            column: self.column + 1,
            message: format!("malformed JSON: {what}; {ARRAY}"),
        }
    }
}

impl Iterator for Elements {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Done {
            return None;
        }
        let element = self.read().transpose();
        if !matches!(element, Some(Ok(_))) {
            self.state = State::Done;
        }
        element
    }
}

/// Finds the end of a JSON value without looking at what it holds.
#[derive(Default)]
struct Scanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// Number of bytes of the chunk that belong to the value, if it ends here.
    fn scan(&mut self, chunk: &[u8], first: bool) -> Option<usize> {
        let mut i = 0;
        while i < chunk.len() {
            if self.escaped {
                self.escaped = false;
                i += 1;
                continue;
            }
            if self.in_string {
                i += memchr::memchr2(b'"', b'\\', &chunk[i..])?;
                if chunk[i] == b'\\' {
                    self.escaped = true;
                } else {
                    self.in_string = false;
                    if self.depth == 0 {
                        return Some(i + 1);
                    }
                }
                i += 1;
                continue;
            }
            match chunk[i] {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // A bracket that opens nothing is handed on, to be complained of.
                b'}' | b']' if self.depth == 0 => return Some(if first { i.max(1) } else { i }),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(i + 1);
                    }
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                    return Some(if first { i.max(1) } else { i });
                }
                _ => {}
            }
            i += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use std::io::{BufReader, Cursor};

    /// Rows of a file that is read a few bytes at a time.
    fn rows(bytes: &[u8], capacity: usize) -> Result<Vec<Value>, String> {
        let path = Arc::new(PathBuf::from("a.json"));
        let reader = BufReader::with_capacity(capacity, Cursor::new(bytes.to_vec()));
        open(&path, Input::Plain(Box::new(reader)), Start::default())
            .and_then(|records| {
                records
                    .map(|record| Ok(Value::Object(record?.0.row()?.columns.into_map())))
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    proptest::proptest! {
        /// However an array is cut into chunks, its rows are those of serde_json,
        /// and what serde_json rejects is rejected.
        #[test]
        fn arrays_are_read_as_serde_json_reads_them(text in r#"\[ ?(\{"a": ?("([a-z"\\,{}\[\]]|\\")*"|[0-9\[\]{},]{0,6})\}[,\]} \n]{0,3}){0,3}\]?"#, capacity in 4usize..40) {
            let expected = serde_json::from_str::<Vec<Map<String, Value>>>(&text)
                .map(|rows| rows.into_iter().map(Value::Object).collect::<Vec<_>>());
            match (rows(text.as_bytes(), capacity), expected) {
                (Ok(rows), Ok(expected)) => proptest::prop_assert_eq!(rows, expected),
                (Err(_), Err(_)) => {}
                (rows, expected) => proptest::prop_assert!(false, "{:?} against {:?}", rows, expected),
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), capacity in 4usize..40) {
            let _ = rows(&bytes, capacity);
        }
    }
}
