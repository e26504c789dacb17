//! What can be known without weights: `check` and `train` say the same, all at once, each
//! at its line, before anything is read or written.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::{parity_root, stderr, stdout, trainer};

const RIGHT: &str = "\
base_model: model
output_dir: out
learning_rate: 0.001
max_steps: 1
datasets:
  - path: rows.jsonl
    type: alpaca
";

/// A folder with a model and a data set. The weights are cut short behind their names, so
/// that whoever reads them fails.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(parity_root().join("models/llama")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let row = r#"{"instruction": "Say hi.", "input": "", "output": "hi"}"#;
    write("rows.jsonl", &format!("{row}\n{row}\n"));
    let pair = r#"{"messages": [{"role": "user", "content": "a"}], "chosen": {"role": "assistant", "content": "b"}, "rejected": {"role": "assistant", "content": "c"}}"#;
    write("pairs.jsonl", &format!("{pair}\n{pair}\n"));
    write("file", "");
    folder
}

/// Both messages of a file that must be refused.
fn refused(folder: &Path, yaml: &str) -> String {
    fs::write(folder.join("run.yaml"), yaml).unwrap();
    let run = |verb: &str| {
        let output = trainer(folder, &[verb, "run.yaml"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{verb}: {text}\n{yaml}");
        assert_eq!(stdout(&output), "", "{verb}: {yaml}");
        assert!(!folder.join("out").exists(), "{verb}: {yaml}");
        text
    };
    let (checked, trained) = (run("check"), run("train"));
    assert_eq!(checked, trained, "{yaml}");
    checked
}

/// What is wrong, and the place that the message points at.
#[test]
fn what_train_refuses_check_refuses_with_the_same_words() {
    let folder = folder();
    let mut problems = String::new();
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\n";
    let kto = "rl: kto\nchat_template: chatml\n";
    for (change, wrong, line) in [
        ("base_model: nowhere", "nowhere", 1),
        ("base_model: org/name", "org/name", 1),
        ("base_model: file", "file", 1),
        ("output_dir: file", "file is a file, not a folder", 2),
        ("+tokenizer_config: nowhere", "nowhere", 8),
        ("path: gone.jsonl", "gone.jsonl", 6),
        (
            "path: s3://bucket/rows.jsonl",
            "`s3` addresses cannot be read",
            6,
        ),
        ("path: pairs.jsonl", "column", 6),
        ("type: chat_template", "no column `messages`", 6),
        ("type: completion", "column `text`", 6),
        ("type: chatml.intel", "is for training on preferences", 7),
        ("+rl: dpo", "holds no preferences", 7),
        ("+process_reward_model: true", "holds no preferences", 7),
        (
            "+test_datasets: [{path: gone.jsonl, type: alpaca}]",
            "gone.jsonl",
            8,
        ),
        ("+backend: cuda", "not compiled into this build", 8),
        ("+load_best_model_at_end: true", "needs evaluations", 8),
        ("+early_stopping_patience: 3", "needs evaluations", 8),
        ("+save_strategy: best", "needs evaluations", 8),
        (
            "+lr_scheduler: cosine_with_min_lr",
            "needs min_lr or min_lr_rate",
            8,
        ),
        (
            "+lr_scheduler: warmup_stable_decay",
            "needs num_decay_steps",
            8,
        ),
        (
            "+lr_scheduler: linear\nlr_scheduler_kwargs: {power: 2}",
            "does not take power",
            9,
        ),
        ("+resume_from_checkpoint: nowhere", "nowhere", 8),
        ("+unfrozen_parameters: [nothing]", "nothing", 8),
        (
            "+lr_groups: [{name: a, modules: [nothing], lr: 1}]",
            "nothing",
            8,
        ),
        (
            "+optimizer: sgd\noptim_args: {momentun: 0.9}",
            "does not take momentun",
            9,
        ),
        ("+model_config: {model_type: gpt9}", "gpt9", 1),
    ] {
        let yaml = match change.strip_prefix('+') {
            Some(lines) => format!("{RIGHT}{lines}\n"),
            None => {
                let (key, _) = change.split_once(": ").unwrap();
                let lines = RIGHT
                    .lines()
                    .map(|line| match line.find(&format!("{key}: ")) {
                        Some(at) => format!("{}{change}\n", &line[..at]),
                        None => format!("{line}\n"),
                    });
                lines.collect()
            }
        };
        let text = refused(folder.path(), &yaml);
        let right = text.contains(wrong)
            && text.contains(&format!("run.yaml:{line}:"))
            && text.ends_with("\n1 error in the configuration\n");
        if !right {
            problems += &format!("{change}, {wrong}, line {line}:\n{text}\n");
        }
    }
    for (lines, wrong) in [
        (format!("{lora}lora_target_modules: [nothing]\n"), "nothing"),
        (
            format!("{lora}lora_target_linear: true\nlora_modules_to_save: [nothing]\n"),
            "nothing",
        ),
        (
            format!("{lora}lora_target_linear: true\nembedding_lr: 1e-4\n"),
            "no embedding",
        ),
        (
            "adapter: lora\nlora_model_dir: nowhere\n".to_owned(),
            "nowhere",
        ),
    ] {
        let text = refused(folder.path(), &format!("{RIGHT}{lines}"));
        if !text.contains(wrong) || !text.contains("run.yaml:") {
            problems += &format!("{lines}, {wrong}:\n{text}\n");
        }
    }
    assert_eq!(problems, "");
    let pairs = RIGHT.replace("rows.jsonl", "pairs.jsonl");
    let chats = pairs.replace("alpaca", "chat_template.argilla");
    let text = refused(folder.path(), &format!("{chats}{kto}"));
    assert!(text.contains("does not fit `rl: kto`"), "{text}");
    let text = refused(
        folder.path(),
        &format!("{}{kto}", pairs.replace("alpaca", "chatml.argilla")),
    );
    assert!(text.contains("column"), "{text}");
}

/// Mistakes of the file, of the folders that it names and of their contents come at once.
#[test]
fn all_mistakes_at_once() {
    let folder = folder();
    let yaml = format!("{RIGHT}learnig_rate: 1\nbackend: cuda\nresume_from_checkpoint: nowhere\n")
        .replace("base_model: model", "base_model: nowhere")
        .replace("rows.jsonl", "gone.jsonl");
    let text = refused(folder.path(), &yaml);
    for part in [
        "error: `base_model`: ",
        "gone.jsonl",
        "unknown key `learnig_rate`",
        "error: backend: cuda: not compiled",
        "error: nowhere: there is no such folder",
        "\n5 errors in the configuration\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("error: warning:"), "{text}");
}

/// float32 is the more exact of the two.
#[test]
fn what_a_cpu_computes_more_exactly_is_a_warning() {
    let folder = folder();
    fs::write(
        folder.path().join("run.yaml"),
        format!("{RIGHT}tf32: true\n"),
    )
    .unwrap();
    for verb in ["check", "train"] {
        let output = trainer(folder.path(), &[verb, "run.yaml"]);
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(
            text.starts_with("warning: `tf32` has no effect on the backend"),
            "{text}"
        );
        assert!(text.contains("run.yaml:8:"), "{text}");
    }
}

/// A data file of which only the beginning can be read is as good as any for `check`.
#[test]
fn data_is_not_read() {
    let folder = folder();
    let path = folder.path().join("rows.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("this is no row\n");
    fs::write(&path, text).unwrap();
    fs::write(folder.path().join("run.yaml"), RIGHT).unwrap();
    let checked = trainer(folder.path(), &["check", "run.yaml"]);
    assert!(checked.status.success(), "{}", stderr(&checked));
    let trained = trainer(folder.path(), &["train", "run.yaml"]);
    assert!(
        stderr(&trained).contains("rows.jsonl, line 3"),
        "{}",
        stderr(&trained)
    );
}
