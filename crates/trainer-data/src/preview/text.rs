//! A preview for the terminal.

use std::fmt::Write;

use super::{PreviewReport, PreviewRow, PreviewToken, shown};

const TRAINED: &str = "\x1b[32m";
const MASKED: &str = "\x1b[2m";
const HEADING: &str = "\x1b[1m";
const END: &str = "\x1b[0m";

/// How a preview looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextStyle {
    /// Colours (ANSI), in place of brackets around what is trained.
    pub color: bool,
    /// One line a token, with position, id and role.
    pub tokens: bool,
}

/// Rows and the report as text.
///
/// In colour, trained text is green and masked text dim; without, trained text
/// is in ⟦ ⟧. A line end of the data is shown as ↵ and ends the line.
#[must_use]
pub fn to_text(rows: &[PreviewRow], report: &PreviewReport, style: TextStyle) -> String {
    let mut out = String::new();
    match style.color {
        true => {
            let _ = writeln!(out, "{TRAINED}trained{END} {MASKED}masked{END}\n");
        }
        false => out.push_str("⟦trained⟧ masked\n\n"),
    }
    for row in rows {
        let name = if row.parts.is_empty() {
            "row"
        } else {
            "sample"
        };
        let head = format!("{name} {}", row.heading());
        heading(&mut out, &head, style);
        match style.tokens {
            true => token_lines(&mut out, row, style),
            false => running_text(&mut out, row, style),
        }
        out.push('\n');
    }
    let _ = write!(out, "{report}");
    out
}

fn heading(out: &mut String, text: &str, style: TextStyle) {
    let _ = match style.color {
        true => writeln!(out, "{HEADING}{text}{END}"),
        false => writeln!(out, "{text}"),
    };
}

fn running_text(out: &mut String, row: &PreviewRow, style: TextStyle) {
    let mut document = 0;
    for run in row.runs() {
        let first = &run[0];
        if first.document != document {
            if !out.ends_with('\n') {
                out.push('\n');
            }
            document = first.document;
            if document == 0 {
                let _ = writeln!(out, "-- {} padding --", run.len());
                continue;
            }
            if let Some(title) = row.title(document) {
                let _ = writeln!(out, "-- {title} --");
            }
        }
        let text: String = run.iter().map(|token| token.text.as_str()).collect();
        let (open, close) = match (style.color, first.trained) {
            (true, true) => (TRAINED, END),
            (true, false) => (MASKED, END),
            (false, true) => ("⟦", "⟧"),
            (false, false) => ("", ""),
        };
        out.push_str(open);
        for character in text.chars() {
            match (character, shown(character)) {
                // Colours end with the line, so that a pager keeps them apart.
                ('\n', _) if style.color => {
                    let _ = write!(out, "↵{END}\n{open}");
                }
                ('\n', _) => out.push_str("↵\n"),
                (_, Some(name)) => out.push_str(&name),
                (other, None) => out.push(other),
            }
        }
        out.push_str(close);
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

fn token_lines(out: &mut String, row: &PreviewRow, style: TextStyle) {
    let wide = row.tokens.iter().filter_map(|token| token.role.as_ref());
    let wide = wide.map(|role| role.chars().count()).max().unwrap_or(0);
    let mut part = 0;
    for token in &row.tokens {
        if token.document != part && !row.parts.is_empty() {
            part = token.document;
            if let Some(title) = row.title(part) {
                let _ = writeln!(out, "-- {title} --");
            }
        }
        let kind = match (token.document, token.trained) {
            (0, _) => "padding",
            (_, true) => "trained",
            (_, false) => "masked",
        };
        let role = token.role.as_deref().unwrap_or_default();
        let line = format!(
            "{:>3} {:>6} {:>7}  {kind:<7}  {role:<wide$}{}{}",
            token.document,
            token.position,
            token.id,
            if wide == 0 { "" } else { "  " },
            quoted(token)
        );
        let color = match (style.color, kind) {
            (false, _) => "",
            (true, "trained") => TRAINED,
            (true, _) => MASKED,
        };
        let end = if style.color { END } else { "" };
        let _ = writeln!(out, "{color}{}{end}", line.trim_end());
    }
}

/// The text of a token on one line.
fn quoted(token: &PreviewToken) -> String {
    if token.document == 0 {
        return String::new();
    }
    let mut out = String::from("\"");
    for character in token.text.chars() {
        match (character, shown(character)) {
            ('\n', _) => out.push_str("\\n"),
            ('\t', _) => out.push_str("\\t"),
            ('"', _) => out.push_str("\\\""),
            ('\\', _) => out.push_str("\\\\"),
            (_, Some(name)) => out.push_str(&name),
            (other, None) => out.push(other),
        }
    }
    out + "\""
}
