//! A page of one file: styles, script and data inside it, nothing loaded.
//!
//! Invariant: every text of a user or of the data goes through [`escaped`], and
//! the data of the script holds no `<`.

use std::fmt::Write;

use serde_json::Value;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Text as text of the page.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A page that is put together section by section.
pub(crate) struct Page {
    title: String,
    body: String,
}

impl Page {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: escaped(title),
            body: String::new(),
        }
    }

    /// Adds HTML under a heading; the class is for the style.
    pub(crate) fn section(&mut self, class: &str, heading: &str, html: &str) {
        let _ = writeln!(
            self.body,
            "<section class=\"{class}\">\n<h2>{}</h2>\n{html}\n</section>",
            escaped(heading)
        );
    }

    /// Adds HTML without a heading.
    pub(crate) fn lead(&mut self, html: &str) {
        self.body.push_str(html);
        self.body.push('\n');
    }

    /// The whole file, with the data of its charts.
    pub(crate) fn finish(self, charts: &Value) -> String {
        // In a script, `<` could end it; in JSON it only stands in texts.
        let data = charts.to_string().replace('<', "\\u003c");
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
             name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}\
             </style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}<script type=\"application/json\" \
             id=\"data\">{data}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
            title = self.title,
            body = self.body,
        )
    }
}

/// Where the script draws the charts.
pub(crate) const CHARTS: &str = "<div class=\"charts\" id=\"charts\"></div>\n<noscript><p \
                                 class=\"dim\">The curves need JavaScript.</p></noscript>";

/// A table. A column of numbers stands to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table>\n");
    let cell = |tag: &str, text: &str, number: bool| {
        let class = if number { " class=\"n\"" } else { "" };
        format!("<{tag}{class}>{}</{tag}>", escaped(text))
    };
    let numbers = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let mut cells = cells.filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some() && cells.all(|cell| is_number(cell))
    };
    if !head.is_empty() {
        let cells = head.iter().enumerate();
        let cells: String = cells
            .map(|(at, text)| cell("th", text, numbers(at)))
            .collect();
        let _ = writeln!(out, "<thead><tr>{cells}</tr></thead>");
    }
    for row in rows {
        let cells: String = row
            .iter()
            .enumerate()
            .map(|(at, text)| cell("td", text, numbers(at)))
            .collect();
        let _ = writeln!(out, "<tr>{cells}</tr>");
    }
    out.push_str("</table></div>");
    out
}

fn is_number(text: &str) -> bool {
    text.strip_prefix('-')
        .unwrap_or(text)
        .starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || "-+.,e".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_cannot_leave_their_place() {
        let mut page = Page::new("<b>");
        page.section(
            "",
            "a & b",
            &table(&["n", "x"], &[vec!["</td>".into(), "-1.5".into()]]),
        );
        let html = page.finish(&json!({"x": "</script>"}));
        assert!(html.contains("<title>&lt;b&gt;</title>"));
        assert!(
            html.contains("<td>&lt;/td&gt;</td>") && html.contains("<td class=\"n\">-1.5</td>")
        );
        assert!(html.contains(r#"{"x":"\u003c/script>"}"#));
    }
}
