//! Reasoning that a content holds between tags.

/// Pairs of tags, in the order in which they are tried.
const TAGS: [(&str, &str); 3] = [
    ("<think>", "</think>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
];

/// Tags around what follows a thought.
const SOLUTION: (&str, &str) = ("<|begin_of_solution|>", "<|end_of_solution|>");

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) thinking: String,
    pub(super) content: String,
}

/// Takes the first block of reasoning out of a content; text around it is
/// stripped of white space.
pub(super) fn split(content: &str) -> Option<Parts> {
    let (before, thinking, after) = TAGS.into_iter().find_map(|(open, close)| {
        let (before, rest) = content.split_once(open)?;
        let (thinking, after) = rest.split_once(close)?;
        Some((before, thinking, after))
    })?;
    let after = after.trim();
    let after = after
        .strip_prefix(SOLUTION.0)
        .and_then(|rest| rest.strip_suffix(SOLUTION.1))
        .unwrap_or(after);
    Some(Parts {
        thinking: thinking.trim().to_owned(),
        content: format!("{}{}", before.trim(), after.trim()),
    })
}

/// The length of a content up to the last character of reasoning that is written
/// into it, if there is any.
pub(super) fn end_of_inline(content: &str) -> Option<usize> {
    let (before, _) = content.split_once("</think>")?;
    let before = before.trim_end();
    let thinking = before.rsplit("<think>").next().unwrap_or(before);
    (!thinking.trim().is_empty()).then_some(before.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_that_are_known() {
        let parts = |thinking: &str, content: &str| {
            Some(Parts {
                thinking: thinking.into(),
                content: content.into(),
            })
        };
        for (content, expected) in [
            ("<think>\nr\n</think>\n\na", parts("r", "a")),
            ("<reasoning>r</reasoning>a ", parts("r", "a")),
            (
                "<|begin_of_thought|>r<|end_of_thought|> <|begin_of_solution|>\na<|end_of_solution|>",
                parts("r", "a"),
            ),
            (" x <think></think>", parts("", "x")),
            ("<think>r", None),
            ("r</think>a", None),
        ] {
            assert_eq!(split(content), expected, "{content}");
        }
    }

    #[test]
    fn reasoning_inside_a_content() {
        assert_eq!(end_of_inline("<think>\nr\n</think>\n\na"), Some(9));
        assert_eq!(end_of_inline("r \n</think>a"), Some(1));
        assert_eq!(end_of_inline("<think>\n\n</think>\n\na"), None);
        assert_eq!(end_of_inline("a"), None);
    }
}
