//! What `trainer preview` shows.

use std::sync::Arc;

use seqprep::{
    Batch, CollateOptions, KtoSample, PadTo, PaddingSide, PreferencePair, Preferences, Sample,
    StepSample, collate_packed,
};
use serde_json::json;
use trainer_config::PromptStrategy;
use trainer_data::prepare;
use trainer_data::preview::{
    PreviewReport, PreviewRow, RoleCount, Roles, TextStyle, to_html, to_text,
};

use crate::support::{Lab, config};

fn sample(lab: &Lab, masked: &str, trained: &str) -> Sample {
    let tokenizer = lab.tokenizer();
    let prompt = tokenizer.encode(masked, false).unwrap();
    let answer = tokenizer.encode(trained, false).unwrap();
    let labels = vec![-100; prompt.len()];
    Sample {
        labels: labels
            .into_iter()
            .chain(answer.iter().map(|id| *id as i32))
            .collect(),
        input_ids: prompt.into_iter().chain(answer).collect(),
        position_ids: None,
    }
}

fn batch(rows: &[Vec<&Sample>], width: usize) -> Batch {
    let options = CollateOptions {
        pad_token_id: 258,
        padding_side: PaddingSide::Right,
        pad_to: PadTo::Fixed(width),
    };
    collate_packed(rows, &options).unwrap()
}

/// Two documents and padding, with what has to be escaped.
fn packed(lab: &Lab) -> (Vec<PreviewRow>, PreviewReport) {
    let first = sample(lab, "<|im_start|>q\n", "é<|im_end|>");
    let second = sample(lab, "\x1b[31m\u{202E}\"", "&\\\n</s>");
    let mut roles = Roles::default();
    let user: Arc<str> = "user".into();
    let said = (0..first.len()).map(|i| (i == 1).then(|| Arc::clone(&user)));
    roles.insert(first.input_ids.clone(), said.collect());
    let batch = batch(&[vec![&first, &second]], 24);
    let rows = PreviewRow::from_batch(&batch, 1, &lab.tokenizer(), &roles).unwrap();
    let plan = [vec![vec![0, 1]]];
    let batches = plan.iter().map(Vec::as_slice);
    let lengths = [first.len(), second.len()];
    let mut report = PreviewReport::new(&lengths, 7, batches, PadTo::Fixed(24), true);
    report.roles.push(RoleCount {
        role: "user".into(),
        tokens: 1,
        trained: 0,
    });
    (rows, report)
}

#[test]
fn plain_text_marks_what_is_trained() {
    let lab = Lab::new("</s>");
    let (rows, report) = packed(&lab);
    assert_eq!(
        to_text(&rows, &report, TextStyle::default()),
        "\
⟦trained⟧ masked

row 1: 2 documents, 19 tokens, 7 trained, 5 padding
-- document 1 --
<|im_start|>q↵
⟦é<|im_end|>⟧
-- document 2 --
\\u{1B}[31m\\u{202E}\"⟦&\\↵
</s>⟧
-- 5 padding --

rows        1 packed of 2 samples
tokens      19, 7 of them trained (36.8%)
efficiency  19 of 24 places hold a token (79.2%)
lengths     6 to 13 tokens, median 13
         1  0
         2  0
       3-4  0
       5-8  ######################################## 1
      9-16  ######################################## 1
role            tokens     trained
user                 1           0
"
    );
}

#[test]
fn colours_end_with_each_line() {
    let lab = Lab::new("</s>");
    let (rows, report) = packed(&lab);
    let style = TextStyle {
        color: true,
        tokens: false,
    };
    let text = to_text(&rows, &report, style);
    assert!(
        text.contains("\x1b[2m<|im_start|>\x1b[0m\x1b[2mq\x1b[0m\x1b[2m↵\x1b[0m\n\x1b[2m\x1b[0m\x1b[32mé<|im_end|>\x1b[0m\n"),
        "{text:?}"
    );
    assert!(!text.contains('⟧'));
    // Nothing of the data reaches the terminal as a command.
    assert!(!text.contains("\x1b[31m"));
}

#[test]
fn one_line_a_token() {
    let lab = Lab::new("</s>");
    let (rows, report) = packed(&lab);
    let style = TextStyle {
        color: false,
        tokens: true,
    };
    let text = to_text(&rows, &report, style);
    let lines: Vec<&str> = text.lines().skip(2).take(25).collect();
    assert_eq!(
        lines[..7],
        [
            "row 1: 2 documents, 19 tokens, 7 trained, 5 padding",
            "  1      0     259  masked         \"<|im_start|>\"",
            "  1      1     113  masked   user  \"q\"",
            "  1      2      10  masked         \"\\n\"",
            "  1      3     195  trained        \"\"",
            "  1      4     169  trained        \"é\"",
            "  1      5     260  trained        \"<|im_end|>\"",
        ]
    );
    assert_eq!(lines[15], "  2      8      34  masked         \"\\\"\"");
    assert_eq!(lines[17], "  2     10      92  trained        \"\\\\\"");
    assert_eq!(lines[20], "  0      0     258  padding");
}

#[test]
fn the_page_is_complete_and_escaped() {
    let lab = Lab::new("</s>");
    let (rows, report) = packed(&lab);
    let page = to_html("run <1>", &rows, &report);
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.contains("<title>run &lt;1&gt;</title>"));
    assert!(page.contains("<span class=\"m\" title=\"id 113, position 1, user\">q</span>"));
    assert!(page.contains("<span class=\"t\" title=\"id 38, position 9\">&amp;</span>"));
    assert!(page.contains("&lt;/s&gt;"));
    assert!(page.contains("<p class=\"p\">5 padding</p>"));
    assert!(page.contains("<td class=\"n\">9-16</td>"));
    // Nothing is loaded and nothing runs.
    for forbidden in ["<script", "http", "src=", "\x1b", "\u{202E}"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn bytes_that_are_no_text_are_shown() {
    let lab = Lab::new("</s>");
    let sample = Sample::all_trained(vec![65, 0xC3, 66, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0xFF]);
    let batch = batch(&[vec![&sample]], 9);
    let rows = PreviewRow::from_batch(&batch, 1, &lab.tokenizer(), &Roles::default()).unwrap();
    let texts: Vec<&str> = rows[0].tokens.iter().map(|t| t.text.as_str()).collect();
    assert_eq!(texts[0], "A");
    assert_eq!(texts[6], "😀");
    assert_eq!(texts.concat(), "A\u{FFFD}B😀\u{FFFD}\u{FFFD}");
    assert!(
        !rows[0].tokens[0].trained,
        "the first token has no predecessor"
    );
}

#[test]
fn roles_of_a_conversation() {
    let lab = Lab::new("<|im_end|>");
    let rows = [
        json!({"messages": [{"role": "user", "content": "hey"}, {"role": "assistant", "content": "ok"}]}),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "bc"}, {"role": "assistant", "content": "d"}]}),
    ];
    let mut config = config(lab.rows(PromptStrategy::ChatTemplate, &rows));
    config.chat_template = Some("chatml".to_owned());
    let tokenizer = lab.tokenizer();
    let roles = Roles::read(&config, &tokenizer, 10).unwrap();
    let counts: Vec<_> = roles
        .counts()
        .into_iter()
        .filter(|count| count.role != "(template)")
        .map(|count| (count.role, count.tokens, count.trained))
        .collect();
    // Contents and the ends of their turns.
    assert_eq!(
        counts,
        [
            ("user".to_owned(), 3 + 1 + 1 + 1, 0),
            ("assistant".to_owned(), 2 + 1 + 1 + 1, 5),
            ("tool".to_owned(), 2 + 1, 0),
        ]
    );
    let sample = &prepare(&config, &tokenizer).unwrap().train[0];
    let said = roles.get(&sample.input_ids).unwrap();
    let ids: Vec<u32> = said
        .iter()
        .zip(&sample.input_ids)
        .filter(|(role, _)| role.as_deref() == Some("user"))
        .map(|(_, id)| *id)
        .collect();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "hey<|im_end|>");
    assert_eq!(
        Roles::read(&config, &tokenizer, 1).unwrap().counts().len(),
        3
    );
}

#[test]
fn preferences_are_shown_with_what_is_learned_of_them() {
    let lab = Lab::new("</s>");
    let tokenizer = lab.tokenizer();
    let ids = |text: &str| tokenizer.encode(text, false).unwrap();
    let pair = PreferencePair {
        prompt: ids("<s>q\n"),
        chosen: ids("\u{e9}</s>"),
        rejected: ids("<b></s>"),
        margin: Some(2.5),
    };
    let single = KtoSample {
        prompt: ids("q "),
        completion: ids("a</s>"),
        desirable: false,
    };
    let mut labels = vec![-100; 6];
    (labels[3], labels[4]) = (1, 0);
    let steps = StepSample {
        input_ids: ids("q1\n2\n3"),
        labels,
    };
    let cases = [
        (
            Preferences::Pairs(vec![pair.clone(), pair]),
            "\
⟦trained⟧ masked

sample 1: 10 tokens, 7 trained
-- prompt, 3 tokens --
<s>q↵
-- chosen, better by 2.5, 3 tokens --
⟦é</s>⟧
-- rejected, 4 tokens --
⟦<b></s>⟧

samples     2 pairs
tokens      26, 14 of them trained (53.8%)
lengths     13 to 13 tokens, median 13
         1  0
         2  0
       3-4  0
       5-8  0
      9-16  ######################################## 2
",
        ),
        (
            Preferences::Kto(vec![single]),
            "\
⟦trained⟧ masked

sample 1: 4 tokens, 2 trained
-- prompt, 2 tokens --
q 
-- bad answer (label false), 2 tokens --
⟦a</s>⟧

samples     1 answer
tokens      4, 2 of them trained (50.0%)
lengths     4 to 4 tokens, median 4
         1  0
         2  0
       3-4  ######################################## 1
",
        ),
        (
            Preferences::Steps(vec![steps]),
            "\
⟦trained⟧ masked

sample 1: 6 tokens, 2 trained
-- up to verdict 1: right (label 1), 4 tokens --
q1↵
⟦2⟧
-- up to verdict 2: wrong (label 0), 1 token --
⟦↵
⟧
-- without a verdict, 1 token --
3

samples     1 row of steps
tokens      6, 2 of them trained (33.3%)
lengths     6 to 6 tokens, median 6
         1  0
         2  0
       3-4  0
       5-8  ######################################## 1
",
        ),
    ];
    for (samples, expected) in cases {
        let rows = PreviewRow::from_preferences(&samples, 1, &tokenizer).unwrap();
        let report = PreviewReport::of_preferences(&samples);
        assert_eq!(to_text(&rows, &report, TextStyle::default()), expected);
        let style = TextStyle {
            tokens: true,
            color: false,
        };
        let parts = |text: &str| text.lines().filter(|line| line.starts_with("-- ")).count();
        assert_eq!(parts(&to_text(&rows, &report, style)), parts(expected));
        let page = to_html("pairs", &rows, &report);
        for part in &rows[0].parts {
            assert!(page.contains(&format!("<h3>{part}, ")), "{page}");
        }
        assert!(page.contains("<h2>Sample 1</h2>"), "{page}");
    }
    // The answers of a pair stand at the same positions, each behind the prompt.
    let rows = PreviewRow::from_preferences(
        &Preferences::Pairs(vec![PreferencePair {
            prompt: ids("ab"),
            chosen: ids("c"),
            rejected: ids("d"),
            margin: None,
        }]),
        9,
        &tokenizer,
    )
    .unwrap();
    let positions: Vec<u32> = rows[0].tokens.iter().map(|token| token.position).collect();
    assert_eq!(positions, [0, 1, 2, 2]);
}
