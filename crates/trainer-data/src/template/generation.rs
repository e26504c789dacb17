//! `{% generation %}` blocks.
//!
//! Some templates say themselves which text the assistant generates. The engine
//! does not know the block, so it is rewritten as a condition that always holds
//! and that prints [`OPEN`] and [`CLOSE`] around the text. The variables are
//! empty unless a caller asks where the blocks are, so that ordinary renderings
//! do not show them.
//!
//! Invariant: whitespace control (`-`, `trim_blocks`, `lstrip_blocks`) acts as
//! on the block itself, since the outer sides of the tags stay what they were.

/// Variable printed where a block opens.
pub(super) const OPEN: &str = "__generation_open";
/// Variable printed where a block closes.
pub(super) const CLOSE: &str = "__generation_close";

/// The template with its generation blocks rewritten.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some((inner, after)) = rest[start + 2..].split_once("%}") else {
            break;
        };
        out.push_str(&rest[..start]);
        let control = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from);
        let left = control(inner.chars().next()).unwrap_or_default();
        let right = control(inner.chars().next_back()).unwrap_or_default();
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&format!(
                "{{%{left} if true %}}{{{{ {OPEN} }}}}{{% if true {right}%}}"
            )),
            "endgeneration" => out.push_str(&format!(
                "{{%{left} endif %}}{{{{ {CLOSE} }}}}{{% endif {right}%}}"
            )),
            _ => {
                // Not the whole tag: text such as '{%' may open inside a string.
                out.push_str("{%");
                rest = &rest[start + 2..];
                continue;
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn tags_keep_their_outer_sides() {
        assert_eq!(
            rewrite("a {%- generation +%} b {% endgeneration -%} c {{ '{%' }}"),
            "a {%- if true %}{{ __generation_open }}{% if true +%} b {% endif %}{{ __generation_close }}{% endif -%} c {{ '{%' }}"
        );
        for text in ["{%}", "{%}%}", "{% generation", "{%%}"] {
            assert_eq!(rewrite(text), text);
        }
        assert_eq!(rewrite("{% if generation %}x"), "{% if generation %}x");
    }
}
