//! A preview as one file for the browser: no scripts, nothing loaded.

use std::fmt::Write;

use super::{PreviewReport, PreviewRow, shown};

const STYLE: &str = "\
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid #8886; padding: .3rem .8rem; margin: .5rem 0 }
pre span:hover { outline: 1px solid }
.t { background: #2a84 }
.m { opacity: .65 }
.p { opacity: .5 }
td, th { text-align: left; padding: 0 1rem 0 0; font-weight: normal; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { display: inline-block; height: .7em; background: #48c }
";

/// Rows and the report as an HTML page; pointing at a token shows its id,
/// position and role.
#[must_use]
pub fn to_html(title: &str, rows: &[PreviewRow], report: &PreviewReport) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>",
    );
    escape(&mut out, title);
    let _ = write!(
        out,
        "</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>"
    );
    escape(&mut out, title);
    out.push_str(
        "</h1>\n<p><span class=\"t\">trained</span> <span class=\"m\">masked</span></p>\n",
    );
    report_tables(&mut out, report);
    row_blocks(&mut out, rows);
    out.push_str("</body>\n</html>\n");
    out
}

/// Rows as part of a page of the caller's: trained tokens have the class `t`,
/// masked ones `m`, padding `p`.
#[must_use]
pub fn rows_to_html(rows: &[PreviewRow]) -> String {
    let mut out = String::new();
    row_blocks(&mut out, rows);
    out
}

fn row_blocks(out: &mut String, rows: &[PreviewRow]) {
    for row in rows {
        let heading = row.heading();
        let (number, rest) = heading.split_once(": ").unwrap_or((&heading, ""));
        let name = if row.parts.is_empty() {
            "Row"
        } else {
            "Sample"
        };
        let _ = writeln!(out, "<h2>{name} {number}</h2>\n<p>{rest}</p>");
        let documents = row.tokens.chunk_by(|a, b| a.document == b.document);
        for document in documents {
            if document[0].document == 0 {
                let _ = writeln!(out, "<p class=\"p\">{} padding</p>", document.len());
                continue;
            }
            if let (Some(title), false) = (row.title(document[0].document), row.parts.is_empty()) {
                out.push_str("<h3>");
                escape(out, &title);
                out.push_str("</h3>\n");
            }
            out.push_str("<pre>");
            for token in document {
                let class = if token.trained { 't' } else { 'm' };
                let _ = write!(
                    out,
                    "<span class=\"{class}\" title=\"id {}, position {}",
                    token.id, token.position
                );
                if let Some(role) = &token.role {
                    out.push_str(", ");
                    escape(out, role);
                }
                out.push_str("\">");
                escape(out, &token.text);
                out.push_str("</span>");
            }
            out.push_str("</pre>\n");
        }
    }
}

fn report_tables(out: &mut String, report: &PreviewReport) {
    out.push_str("<table>\n");
    for (name, value) in report.lines() {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{value}</td></tr>");
    }
    out.push_str("</table>\n<h2>Lengths of the samples, in tokens</h2>\n<table>\n");
    for (name, count, part) in report.bars() {
        let _ = writeln!(
            out,
            "<tr><td class=\"n\">{name}</td><td><span class=\"bar\" style=\"width:{:.0}px\"></span> {count}</td></tr>",
            part * 300.0
        );
    }
    out.push_str("</table>\n");
    if !report.roles.is_empty() {
        out.push_str(
            "<h2>Roles</h2>\n<table>\n<tr><th>role</th><th>tokens</th><th>trained</th></tr>\n",
        );
        for count in &report.roles {
            out.push_str("<tr><td>");
            escape(out, &count.role);
            let _ = writeln!(
                out,
                "</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                count.tokens, count.trained
            );
        }
        out.push_str("</table>\n");
    }
}

/// Text of the data as text of the page.
fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match (character, shown(character)) {
            ('&', _) => out.push_str("&amp;"),
            ('<', _) => out.push_str("&lt;"),
            ('>', _) => out.push_str("&gt;"),
            ('"', _) => out.push_str("&quot;"),
            ('\'', _) => out.push_str("&#39;"),
            ('\n', _) => out.push_str("↵\n"),
            (_, Some(name)) => out.push_str(&name),
            (other, None) => out.push(other),
        }
    }
}
