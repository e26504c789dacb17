//! Training on preferences as a user runs it: evaluation, and data that is hardly any.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{parity_root, repository, stderr, stdout, trainer};

/// A verb on a recorded case with other data; the log rows that it prints.
fn run(verb: &str, case: &str, out: &Path, extra: &[&str]) -> (Vec<Value>, String) {
    let case = format!("cases/{case}.yaml");
    let out = out.to_str().unwrap();
    let mut arguments = vec![
        verb,
        &case,
        "--output_dir",
        out,
        "--json",
        "--warmup_steps=0",
    ];
    arguments.extend(extra);
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    let rows = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    (rows.collect(), stderr(&output))
}

fn write(folder: &Path, rows: &[Value]) -> String {
    let path = folder.join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": prompt, "chosen": chosen, "rejected": rejected})
}

/// One step on these rows: its log row, and what is said beside it.
fn step(case: &str, rows: &[Value], extra: &[&str]) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let data = write(folder.path(), rows);
    let mut arguments = vec!["--datasets.0.path", &data, "--max_steps=1"];
    arguments.extend(extra);
    let out = folder.path().join("out");
    let (rows, said) = run("train", case, &out, &arguments);
    let row = rows.into_iter().find(|row| row.get("loss").is_some());
    (row.unwrap(), said)
}

fn number(row: &Value, key: &str) -> f64 {
    row[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {row}"))
}

/// What `evaluate` prints is what the run logged; before training, the policy of DPO
/// is its reference, and every pair ties.
#[test]
fn preferences_are_evaluated_as_in_training() {
    for (case, accuracy) in [
        ("dpo-full", "eval_rewards/accuracies"),
        ("reward-model", "eval_accuracy"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let held_back = ["--val_set_size=8", "--max_steps=3"];
        let (rows, _) = run("train", case, &out, &held_back);
        let trained = rows.iter().rfind(|row| row.get("eval_loss").is_some());
        let trained = trained.unwrap();
        let (after, said) = run("evaluate", case, &out, &held_back);
        assert!(said.contains("model of "), "{said}");
        for key in ["eval_loss", accuracy] {
            let apart = (number(&after[0], key) - number(trained, key)).abs();
            assert!(apart < 1e-5, "{case}: {key}: {} {trained}", after[0]);
        }
        let (before, _) = run("evaluate", case, &folder.path().join("none"), &held_back);
        assert_ne!(
            number(&before[0], "eval_loss"),
            number(&after[0], "eval_loss")
        );
        if case == "dpo-full" {
            assert_eq!(number(&before[0], "eval_rewards/margins"), 0.0);
            assert_eq!(number(&before[0], accuracy), 0.0);
        }
    }
}

/// What `preprocess` prepares, training takes.
#[test]
fn preferences_are_prepared_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = folder.path().join("prepared");
    let out = folder.path().join("out");
    let run = |verb: &str, more: &[&str]| {
        let arguments = [
            verb,
            "examples/dpo.yaml",
            "--dataset_prepared_path",
            prepared.to_str().unwrap(),
            "--output_dir",
            out.to_str().unwrap(),
        ];
        trainer(&repository(), &[&arguments, more].concat())
    };
    let refused = run("preprocess", &["--export_jsonl", "rows.jsonl"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).starts_with("error: --export_jsonl writes rows of tokens"),
        "{}",
        stderr(&refused)
    );
    let done = run("preprocess", &[]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(
        stdout(&done).contains("prepared data in "),
        "{}",
        stdout(&done)
    );
    let trained = run("train", &["--max_steps=1"]);
    assert!(trained.status.success(), "{}", stderr(&trained));
    assert!(
        stderr(&trained).contains("prepared data from "),
        "{}",
        stderr(&trained)
    );
}

#[test]
fn equal_answers_teach_nothing() {
    let same = pair("Define 'a'.", "the same", "the same");
    let (row, _) = step("dpo-full", &[same.clone(), same], &[]);
    assert!((number(&row, "loss") - 2.0_f64.ln()).abs() < 1e-6);
    assert!(number(&row, "grad_norm") < 1e-6);
    assert_eq!(number(&row, "rewards/accuracies"), 0.0);
}

#[test]
fn an_empty_answer_is_its_end() {
    let rows = [
        pair("Define 'a'.", "", "something"),
        pair("Define 'b'.", "something", ""),
    ];
    for share in ["true", "false"] {
        let (row, _) = step("dpo-full", &rows, &["--share_prompts", share]);
        assert!(number(&row, "loss").is_finite() && number(&row, "grad_norm") > 0.0);
    }
}

#[test]
fn a_prompt_beyond_the_limit_drops_its_row() {
    let rows = [
        pair(&"long ".repeat(400), "a", "b"),
        pair("Define 'a'.", "one", "two"),
        pair("Define 'b'.", "three", "four"),
    ];
    let (_, said) = step("dpo-full", &rows, &[]);
    assert!(said.contains("1 dropped, too long"), "{said}");
}

#[test]
fn answers_of_one_class_train() {
    let answer = |word: &str| json!({"prompt": format!("Define '{word}'."), "completion": "a word", "label": true});
    let (row, _) = step("kto-full", &["a", "b", "c", "d"].map(answer), &[]);
    assert!((number(&row, "loss") - 0.5).abs() < 1e-6);
    assert!(row.get("rewards/chosen").is_some());
    assert!(row.get("rewards/rejected").is_none() && row.get("rewards/margins").is_none());
}

/// A margin below zero asks for less: the loss is lower, not wrong.
#[test]
fn a_margin_of_the_wrong_sign_asks_for_less() {
    let loss = |margin: f64| {
        let row = |word: &str| {
            let chosen = format!("a word {word}");
            json!({"input": "Define.", "chosen": chosen, "rejected": "no", "margin": margin})
        };
        number(&step("reward-model", &["a", "b"].map(row), &[]).0, "loss")
    };
    let [below, none, above] = [-2.0, 0.0, 2.0].map(loss);
    assert!(below < none && none < above, "{below} {none} {above}");
}

/// A language model gets a head for rewards, drawn from the seed.
#[test]
fn a_model_without_a_head_gets_one() {
    let rows = ["a", "b"].map(
        |word| json!({"input": "Define.", "chosen": format!("a word {word}"), "rejected": "no"}),
    );
    let step = |seed: &str| {
        let extra = ["--base_model", "models/llama", "--seed", seed];
        let (row, said) = step("reward-model", &rows, &extra);
        assert!(said.contains("head"), "{said}");
        number(&row, "loss")
    };
    assert_eq!(step("1"), step("1"));
    assert_ne!(step("1"), step("2"));
}

/// `preview` shows samples with their parts, as text and as a page.
#[test]
fn a_preview_shows_both_answers() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let page = page.to_str().unwrap();
    for (case, parts) in [
        (
            "dpo-full",
            &["-- prompt, ", "-- chosen, ", "-- rejected, "][..],
        ),
        (
            "orpo-full",
            &["-- prompt, ", "-- chosen, ", "-- rejected, "],
        ),
        ("kto-full", &["-- prompt, ", " answer (label "]),
        ("reward-model", &["-- chosen, ", "-- rejected, "]),
    ] {
        let case = format!("cases/{case}.yaml");
        let out = folder.path().join("out");
        let run = |extra: &[&str]| {
            let arguments = ["preview", &case, "--output_dir", out.to_str().unwrap()];
            let output = trainer(&parity_root(), &[&arguments, extra].concat());
            assert!(output.status.success(), "{case}: {}", stderr(&output));
            stdout(&output)
        };
        let text = run(&["--rows", "2"]);
        assert!(text.contains("\nsample 2: "), "{case}: {text}");
        assert!(!text.contains("\nsample 3: "), "{case}: {text}");
        for part in parts {
            assert_eq!(text.matches(part).count(), 2, "{case}, {part}: {text}");
        }
        assert!(run(&["--html", page]).contains(" rows written to "));
        let html = fs::read_to_string(page).unwrap();
        assert_eq!(html.matches("<h2>Sample ").count(), 3, "{case}");
    }
}
