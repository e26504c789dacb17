//! Preferences: the length rules, the account, and the messages.

use proptest::prelude::*;
use serde_json::{Value, json};
use trainer_config::{Config, ExcessLength};
use trainer_data::{DropReason, PreferenceObjective};

use crate::preferences::{BYTES, pairs, prepare, steps, strategy, texts};

#[test]
fn steps_are_judged_at_their_last_token() {
    let row = json!({"prompt": "P", "completions": ["ab", "c"], "labels": [true, false]});
    let run = |change: fn(&mut Config)| {
        let name = strategy("stepwise_supervised");
        let objective = PreferenceObjective::ProcessRewardModel;
        prepare(name, std::slice::from_ref(&row), objective, change)
    };
    let labels = |change| steps(&run(change).unwrap())[0].labels.clone();
    assert_eq!(labels(|_| {}), [-100, -100, -100, -100, 1, -100, 0]);
    assert_eq!(
        labels(|c| c.datasets[0].train_on_last_step_only = Some(true)),
        [-100, -100, -100, -100, -100, -100, 0]
    );
    assert_eq!(
        labels(|c| c.datasets[0].step_separator = Some(" +".into())).len(),
        9
    );
    // Cut after the first step; the ledger says so.
    let cut = run(|c| c.sequence_len = 6).unwrap();
    assert_eq!(steps(&cut)[0].labels, [-100, -100, -100, -100, 1, -100]);
    let cut = run(|c| c.datasets[0].max_completion_length = Some(3)).unwrap();
    assert_eq!(steps(&cut)[0].labels, [-100, -100, -100, -100, 1]);
    assert_eq!(cut.ledger.datasets[0].truncated.tokens, 2);
    // Axolotl keeps a row in which nothing is judged.
    assert_eq!(
        run(|c| c.sequence_len = 3).unwrap_err(),
        "all 1 rows of data set data.jsonl were dropped: 1 cut off before the trained part; the longest has 7 tokens, and the cut at `sequence_len` (now 3 tokens) takes away what would be trained: raise it"
    );
}

#[test]
fn long_rows_are_dropped_cut_or_refused() {
    // With `<s>` and `</s>`: prompt 4, answers 9 and 3.
    let row = json!({"prompt": "PPP", "chosen": "abcdefgh", "rejected": "xy"});
    let short = json!({"prompt": "P", "chosen": "a", "rejected": "b"});
    let run = |limit: usize, how: ExcessLength| {
        let rows = [row.clone(), short.clone()];
        prepare(
            strategy("passthrough.default"),
            &rows,
            PreferenceObjective::Pairwise,
            |config| {
                config.sequence_len = limit;
                config.excess_length_strategy = how;
            },
        )
    };
    assert_eq!(run(13, ExcessLength::Drop).unwrap().train.len(), 2);
    let dropped = run(12, ExcessLength::Drop).unwrap();
    assert_eq!(texts(&dropped), [["<s>P", "a</s>", "b</s>"]]);
    let account = &dropped.ledger.datasets[0];
    assert_eq!(account.dropped[&DropReason::TooLong].tokens, 20);
    assert_eq!(
        (account.rows, account.made.tokens, account.kept.tokens),
        (2, 28, 8)
    );
    // The prompt stays, and so does the end of the answer.
    let cut = run(8, ExcessLength::Truncate).unwrap();
    assert_eq!(texts(&cut)[0], ["<s>PPP", "abc</s>", "xy</s>"]);
    assert_eq!(cut.ledger.datasets[0].truncated.tokens, 5);
    // Only the ends are left, which are the same; then not even these.
    let dropped = |limit| {
        let prepared = run(limit, ExcessLength::Truncate).unwrap();
        assert_eq!(prepared.train.len(), 1);
        prepared.ledger.datasets[0]
            .dropped
            .keys()
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(dropped(5), [DropReason::CutOff]);
    assert_eq!(dropped(4), [DropReason::TooLong]);
    assert_eq!(
        run(12, ExcessLength::Raise).unwrap_err(),
        "data.jsonl, line 1: 13 tokens are more than the limit of 12; raise `sequence_len`, or set `excess_length_strategy` to drop or truncate"
    );
    // KTO likewise.
    let row = json!({"prompt": "PPP", "completion": "abcdefgh", "label": true});
    let prepared = prepare(
        strategy("passthrough.default"),
        &[row],
        PreferenceObjective::Kto,
        |config| {
            config.sequence_len = 8;
            config.excess_length_strategy = ExcessLength::Truncate;
        },
    );
    assert_eq!(texts(&prepared.unwrap())[0], ["<s>PPP", "abc</s>", "true"]);
}

#[test]
fn samples_are_ordered_split_and_told_apart() {
    let rows: Vec<Value> = (0..10)
        .map(|i| json!({"prompt": format!("p{}", i % 8), "chosen": "a", "rejected": "b", "margin": i % 8}))
        .collect();
    let prepared = prepare(
        strategy("passthrough.default"),
        &rows,
        PreferenceObjective::Pairwise,
        |config| {
            config.dataset_exact_deduplication = true;
            config.shuffle_merged_datasets = true;
            config.val_set_size = 3.0;
        },
    )
    .unwrap();
    assert_eq!((prepared.train.len(), prepared.eval.len()), (5, 3));
    assert_eq!(
        prepared.ledger.datasets[0].dropped[&DropReason::Duplicate].samples,
        2
    );
    let margins: Vec<f32> = pairs(&prepared)
        .iter()
        .filter_map(|pair| pair.margin)
        .collect();
    assert_eq!(margins.len(), 5);
    assert!(!margins.is_sorted());
    assert_eq!(prepared.ledger.train.samples, 5);
    assert_eq!(prepared.ledger.train.trained_tokens, 5 * 4);
}

#[test]
fn rows_that_hold_no_text_are_counted() {
    let rows = [
        json!({"prompt": "p", "chosen": "", "rejected": "b"}),
        json!({"prompt": "", "chosen": "a", "rejected": "b"}),
        json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
    ];
    let prepared = prepare(
        strategy("passthrough.default"),
        &rows,
        PreferenceObjective::Pairwise,
        |_| {},
    );
    let prepared = prepared.unwrap();
    assert_eq!(prepared.train.len(), 1);
    assert_eq!(
        prepared.ledger.datasets[0].dropped[&DropReason::Empty].samples,
        2
    );
}

#[test]
fn what_does_not_fit() {
    use PreferenceObjective as O;
    let message = |name: &str, objective, row: Value| {
        prepare(strategy(name), &[row], objective, |_| {}).unwrap_err()
    };
    let talk = |question: &str, answer: &str| json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
    let cases = [
        (
            "chatml.intel",
            O::Pairwise,
            json!({"input": "P", "chosen": "C", "rejected": "R"}),
            "no column `question`, which `type: chatml.intel` needs; the row has `input`, `chosen`, `rejected`; the layout reads `question`, `chosen`, `rejected` and an optional `system`; the columns fit `type: chatml.icr`",
        ),
        (
            "chatml.default",
            O::Pairwise,
            json!({"prompt": "P", "chosen": "C"}),
            "no column `rejected`, which `type: chatml.default` needs; the row has `prompt`, `chosen`; the layout reads `prompt` or `input` or `question` or `instruction`, `chosen`, `rejected` and an optional `system`",
        ),
        (
            "chatml.intel",
            O::Kto,
            json!({"question": "P", "completion": "C"}),
            "no column `label`, which `type: chatml.intel` needs; the row has `question`, `completion`; the layout reads `question`, `completion`, `label` and an optional `system`",
        ),
        (
            "chatml.intel",
            O::Kto,
            json!({"question": "P", "completion": "C", "label": "yes"}),
            "`label` has to be true (or 1) for a good answer, false (or 0) for a bad one, not text",
        ),
        (
            "passthrough.default",
            O::Pairwise,
            json!({"prompt": "P", "chosen": talk("P", "C"), "rejected": "R"}),
            "`chosen` has to be text, not a list",
        ),
        (
            "passthrough.default",
            O::Pairwise,
            json!({"prompt": "P", "chosen": "C", "rejected": "R", "margin": "1"}),
            "`margin` has to be a number, not text",
        ),
        (
            "passthrough.default",
            O::Pairwise,
            json!({"prompt": "P", "chosen": "C", "rejected": "R", "margin": -1e39}),
            "`margin` is -1e+39, beyond what 32 bits hold (3.4e38)",
        ),
        (
            "chatml.argilla_chat",
            O::Pairwise,
            json!({"chosen": talk("P", "C"), "rejected": talk("Q", "R")}),
            "`chosen` and `rejected` differ before their last message, so they are no answers to the same prompt",
        ),
        (
            "chat_template.argilla_chat",
            O::Pairwise,
            json!({"chosen": talk("P", "C"), "rejected": talk("Q", "R")}),
            "`chosen` and `rejected` differ before their last message, so they are no answers to the same prompt",
        ),
        (
            "chatml.argilla_chat",
            O::Pairwise,
            json!({"chosen": [], "rejected": []}),
            "`chosen` has to be a list of messages that ends with the answer, not an empty list",
        ),
        (
            "chatml.ultra",
            O::Pairwise,
            json!({"prompt": "P", "chosen": [{"role": "assistant"}], "rejected": "R"}),
            "`chosen[0].content` has to be text, not null",
        ),
        (
            "chat_template.default",
            O::Pairwise,
            json!({"question": "P", "chosen": "C", "rejected": "R"}),
            "no column `messages`, which `type: chat_template.default` needs; the row has `question`, `chosen`, `rejected`; the layout reads `messages` (or `prompt`), `chosen`, `rejected`; the columns fit `type: chatml.intel`",
        ),
        (
            "chat_template.default",
            O::Pairwise,
            json!({"messages": [{"role": "user", "content": 7}], "chosen": "C", "rejected": "R"}),
            "`messages[0].content` has to be text or a list of parts, not a number",
        ),
        (
            "zephyr.nectar",
            O::Pairwise,
            json!({"prompt": "P", "answers": [{"rank": 1, "answer": "C"}]}),
            "no answer in `answers` is ranked above another",
        ),
        (
            "zephyr.nectar",
            O::Pairwise,
            json!({"prompt": "P", "answers": [{"rank": "1", "answer": "C"}]}),
            "`answers[0].rank` has to be a number, not text",
        ),
        (
            "stepwise_supervised",
            O::ProcessRewardModel,
            json!({"prompt": "P", "completions": ["a"], "labels": [true, false]}),
            "`completions` has 1 steps, `labels` has 2 verdicts",
        ),
        (
            "stepwise_supervised",
            O::ProcessRewardModel,
            json!({"prompt": "P", "completions": ["a"], "labels": [0.5]}),
            "`labels[0]` has to be true (or 1) for a right step, false (or 0) for a wrong one, not a number",
        ),
        (
            "stepwise_supervised",
            O::ProcessRewardModel,
            json!({"prompt": "P", "steps": ["a"]}),
            "no column `completions`, which `type: stepwise_supervised` needs; the row has `prompt`, `steps`; the layout reads `prompt`, `completions`, `labels`",
        ),
    ];
    for (name, objective, row, expected) in cases {
        assert_eq!(
            message(name, objective, row),
            format!("data.jsonl, line 1: {expected}"),
            "{name}"
        );
    }
    assert_eq!(
        message("stepwise_supervised", O::Pairwise, json!({})),
        "data set data.jsonl: `type: stepwise_supervised` does not fit training on preference pairs, which takes chatml.*, llama3.*, chat_template.default, chat_template.argilla_chat, zephyr.nectar, passthrough.default, or a mapping"
    );
    assert_eq!(
        message("zephyr.nectar", O::Kto, json!({})),
        "data set data.jsonl: `type: zephyr.nectar` does not fit training on KTO, which takes chat_template.default, chat_template.argilla_chat, chatml.argilla, chatml.argilla_chat, chatml.intel, chatml.prompt_pairs, chatml.ultra, the same of llama3, or a mapping"
    );
    assert_eq!(
        message("alpaca", O::ProcessRewardModel, json!({})),
        "data set data.jsonl: `type: alpaca` holds no judged steps; a process reward model takes `type: stepwise_supervised`"
    );
    let row = json!({"prompt": "P", "chosen": "C", "rejected": "R"});
    let untyped = prepare(strategy("alpaca"), &[row], O::Pairwise, |config| {
        config.datasets[0].strategy = None
    });
    assert_eq!(
        untyped.unwrap_err(),
        "data set data.jsonl: it has no `type`; training on preference pairs needs one (the columns fit `type: chatml.prompt_pairs`)"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the rows and the limit: every row and token is in the account, and
    /// what is kept fits and has its end.
    #[test]
    fn nothing_is_lost_and_everything_fits(
        rows in proptest::collection::vec(("[a-c]{0,6}", "[a-c]{0,9}", "[a-c]{0,9}"), 1..12),
        limit in 3usize..16,
        truncate in any::<bool>(),
    ) {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(p, c, r)| json!({"prompt": p, "chosen": c, "rejected": r}))
            .collect();
        let prepared = prepare(strategy("passthrough.default"), &rows, PreferenceObjective::Pairwise, |config| {
            config.sequence_len = limit;
            if truncate {
                config.excess_length_strategy = ExcessLength::Truncate;
            }
        });
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(message) => {
                prop_assert!(message.contains("rows of data set data.jsonl were dropped"), "{message}");
                return Ok(());
            }
        };
        let account = &prepared.ledger.datasets[0];
        let dropped = account.dropped.values();
        let (samples, tokens) = dropped.fold((0, 0), |(s, t), d| (s + d.samples, t + d.tokens));
        prop_assert_eq!(account.rows, rows.len());
        prop_assert_eq!(account.made.samples, account.kept.samples + samples);
        prop_assert_eq!(account.made.tokens, account.kept.tokens + account.truncated.tokens + tokens);
        prop_assert_eq!(account.kept.samples, prepared.train.len());
        for pair in pairs(&prepared) {
            prop_assert!(pair.len() <= limit);
            prop_assert_eq!(pair.prompt.first().copied(), BYTES.bos_id());
            for answer in [&pair.chosen, &pair.rejected] {
                prop_assert_eq!(answer.last().copied(), BYTES.eos_id());
            }
        }
    }
}
