//! `inference` and `chat` on the model of the examples.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::{PREPARED, repository, stderr, stdout};

/// Runs a command on the examples with this text on standard input.
fn run(arguments: &[&str], input: &str) -> Output {
    let prepared = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(arguments)
        .env(PREPARED, prepared.path())
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut pipe = child.stdin.take().unwrap();
    // A command that ends before it has read everything closes the pipe.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    child.wait_with_output().unwrap()
}

/// `command examples/glossary.yaml`, with an output folder in which nothing is
/// trained.
fn glossary(command: &str, folder: &Path, extra: &[&str], input: &str) -> Output {
    let output = folder.to_str().unwrap();
    let mut arguments = vec![
        command,
        "examples/glossary.yaml",
        "--output_dir",
        output,
        "--max_new_tokens",
        "12",
    ];
    arguments.extend(extra);
    run(&arguments, input)
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

#[test]
fn a_prompt_comes_from_the_command_line_a_file_or_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let question = "What is a learning rate?";
    let infer = |extra: &[&str], input: &str| glossary("inference", folder.path(), extra, input);
    let output = infer(&["--greedy", "--prompt", question], "");
    assert!(
        stderr(&output).contains("nothing is trained in"),
        "{}",
        stderr(&output)
    );
    let answer = text(&output);
    assert!(!answer.trim().is_empty());
    assert_eq!(
        text(&infer(&["--greedy"], &format!("{question}\n"))),
        answer
    );
    let file = folder.path().join("prompt.txt");
    fs::write(&file, question).unwrap();
    assert_eq!(
        text(&infer(&["--greedy", "--file", file.to_str().unwrap()], "")),
        answer
    );
    // Without the chat template it is another prompt.
    assert_ne!(
        text(&infer(&["--greedy", "--raw", "--prompt", question], "")),
        answer
    );

    // Rows come back in their order, the same in whichever batch.
    let rows = folder.path().join("rows.jsonl");
    let lines = [
        json!({"id": 7, "prompt": question}),
        json!({"messages": [{"role": "user", "content": "What is LoRA?"}]}),
        json!({"prompt": question}),
    ];
    fs::write(&rows, lines.map(|line| line.to_string()).join("\n\n")).unwrap();
    let many = |size: &str, extra: &[&str]| -> Vec<Value> {
        let mut arguments = vec!["--file", rows.to_str().unwrap(), "--micro_batch_size", size];
        arguments.extend(extra);
        let lines = text(&infer(&arguments, ""));
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let greedy = many("3", &["--greedy"]);
    assert_eq!(greedy.len(), 3);
    assert_eq!(greedy[0]["id"], 7);
    assert_eq!(
        greedy[0]["completion"].as_str().unwrap(),
        answer.trim_end_matches('\n')
    );
    assert!(["stop", "length"].contains(&greedy[1]["finish_reason"].as_str().unwrap()));
    assert_eq!(many("1", &["--greedy"]), greedy);
    let drawn = many("3", &["--temperature", "1.5", "--seed", "5"]);
    assert_ne!(
        drawn[0]["completion"], drawn[2]["completion"],
        "rows draw apart"
    );
    assert_eq!(many("2", &["--temperature", "1.5", "--seed", "5"]), drawn);
    assert_ne!(many("2", &["--temperature", "1.5", "--seed", "6"]), drawn);
}

#[test]
fn stop_strings_end_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = ["--greedy", "--prompt", "What is a learning rate?"];
    let whole = text(&glossary("inference", folder.path(), &prompt, ""));
    let stop: String = whole.chars().skip(3).take(4).collect();
    let strings = json!([stop]).to_string();
    let mut extra = prompt.to_vec();
    extra.extend(["--generation_stop_strings", &strings]);
    let cut = text(&glossary("inference", folder.path(), &extra, ""));
    let end = whole.find(&stop).unwrap();
    assert_eq!(cut.trim_end_matches('\n'), &whole[..end]);
}

#[test]
fn a_conversation_goes_on_until_it_is_reset() {
    let folder = tempfile::tempdir().unwrap();
    let chat = |input: &str| text(&glossary("chat", folder.path(), &["--greedy"], input));
    let first = chat("What is a learning rate?\n");
    let one = ["--greedy", "--prompt", "What is a learning rate?"];
    assert_eq!(first, text(&glossary("inference", folder.path(), &one, "")));
    // The second question is answered in view of the first, unless that is forgotten.
    let ask = "What is a learning rate?\n";
    assert_eq!(
        chat(&format!("{ask}/reset\n{ask}/exit\nnot read\n")),
        format!("{first}{first}")
    );
    let twice = chat(&format!("{ask}\n{ask}"));
    assert!(
        twice.starts_with(&first) && twice != format!("{first}{first}"),
        "{twice}"
    );
    assert_ne!(chat(&format!("/system Answer in French.\n{ask}")), first);
    let output = glossary("chat", folder.path(), &["--greedy"], "/what\n//exit\n");
    assert!(
        stderr(&output).contains("there is no /what: /exit ends"),
        "{}",
        stderr(&output)
    );
    assert!(!text(&output).trim().is_empty());
}

#[test]
fn the_trained_model_answers_once_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let question = ["--greedy", "--prompt", "What is a learning rate?"];
    let before = text(&glossary("inference", &out, &question, ""));
    let output = run(
        &[
            "train",
            "examples/glossary.yaml",
            "--output_dir",
            out.to_str().unwrap(),
            "--max_steps",
            "3",
            "--learning_rate",
            "0.01",
        ],
        "",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let output = glossary("inference", &out, &question, "");
    assert!(
        stderr(&output).starts_with("model of "),
        "{}",
        stderr(&output)
    );
    assert_ne!(text(&output), before);
}

#[test]
fn what_cannot_be_asked_for_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    let rows = rows.to_str().unwrap();
    for (extra, message) in [
        (
            &["--prompt", "a", "--file", "b"][..],
            "--prompt and --file are two places",
        ),
        (&["--file", "nowhere.txt"], "nowhere.txt: No such file"),
        (
            &["--file", rows],
            "rows.jsonl, line 2: expected `prompt`, a text, or `messages`",
        ),
        (
            &["--temperature", "0", "--prompt", "a"],
            "generation_temperature",
        ),
        (&["--top_p", "2", "--prompt", "a"], "generation_top_p"),
        (&["--raw", "--prompt", ""], "the prompt is empty"),
        (
            &[
                "--generation_do_sample",
                "false",
                "--top_k",
                "5",
                "--prompt",
                "a",
            ],
            "`generation_top_k` has no effect with `generation_do_sample: false`",
        ),
    ] {
        let output = glossary("inference", folder.path(), extra, "");
        assert!(!output.status.success(), "{extra:?}");
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}

/// A GGUF file is the model: imported again it writes the same text, tokens and
/// template included.
#[test]
fn a_model_goes_through_gguf_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let file = file.to_str().unwrap();
    let question = ["--greedy", "--prompt", "What is a learning rate?"];
    let before = text(&glossary("inference", folder.path(), &question, ""));
    let export = |extra: &[&str]| {
        let output = folder.path().to_str().unwrap();
        let mut arguments = vec!["export", "examples/glossary.yaml", "--output_dir", output];
        arguments.extend(extra);
        run(&arguments, "")
    };
    let output = export(&["--gguf", file, "--dtype", "f32"]);
    assert_eq!(text(&output), format!("{file}\n"));
    let model = folder.path().join("imported");
    let model = model.to_str().unwrap();
    let output = run(&["import", file, model, "--dtype", "f32"], "");
    assert_eq!(text(&output), format!("{model}: llama, 4 layers\n"));
    let mut extra = question.to_vec();
    extra.extend(["--base_model", model]);
    assert_eq!(
        text(&glossary("inference", folder.path(), &extra, "")),
        before
    );
    let tokenizer = |folder: &str| -> Value {
        let path = repository().join(folder).join("tokenizer.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let (ours, theirs) = (tokenizer(model), tokenizer("examples/base-model"));
    assert_eq!(ours["model"]["vocab"], theirs["model"]["vocab"]);
    assert_eq!(ours["added_tokens"], theirs["added_tokens"]);

    // A model is never written over, and what is no GGUF file is said to be none.
    let output = run(&["import", file, model], "");
    assert!(
        stderr(&output).contains("holds a model already"),
        "{}",
        stderr(&output)
    );
    let other = folder.path().join("other");
    let output = run(
        &["import", "examples/glossary.yaml", other.to_str().unwrap()],
        "",
    );
    assert_eq!(
        stderr(&output),
        "error: examples/glossary.yaml: not a GGUF file: it does not begin with the letters GGUF\n"
    );
    let output = export(&["--gguf", file, "--dtype", "q4_k"]);
    assert!(
        stderr(&output).contains(
            "--dtype q4_k is not a format that is written; there are f32, f16, bf16, q8_0"
        ),
        "{}",
        stderr(&output)
    );
    let output = export(&[]);
    assert!(
        stderr(&output).contains("--gguf FILE"),
        "{}",
        stderr(&output)
    );
}

/// New tokens are in the tokenizer, in the rows of the model, and in what is
/// trained and saved.
#[test]
fn new_tokens_are_trained_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = run(
        &[
            "train",
            "examples/glossary.yaml",
            "--output_dir",
            out.to_str().unwrap(),
            "--max_steps",
            "2",
            "--tokens",
            "[\"<note>\", \"</note>\"]",
            "--special_tokens.additional_special_tokens",
            "[\"<|call|>\"]",
            "--resize_token_embeddings_to_32x",
            "true",
            "--max_shard_size",
            "1MB",
        ],
        "",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the vocabulary has 2080 rows, 2048 in the base model"),
        "{}",
        stderr(&output)
    );
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("config.json")["vocab_size"], 2080);
    let index = read("model.safetensors.index.json");
    assert!(!out.join("model.safetensors").exists());
    let shards = index["weight_map"].as_object().unwrap();
    assert!(
        shards
            .values()
            .any(|shard| shard.as_str().unwrap().starts_with("model-00003-of-"))
    );
    let added = read("tokenizer.json")["added_tokens"].clone();
    let ids: Vec<(&str, u64)> = added
        .as_array()
        .unwrap()
        .iter()
        .map(|token| {
            (
                token["content"].as_str().unwrap(),
                token["id"].as_u64().unwrap(),
            )
        })
        .filter(|(_, id)| *id >= 2048)
        .collect();
    assert_eq!(
        ids,
        [("<|call|>", 2048), ("<note>", 2049), ("</note>", 2050)]
    );
    // The trained folder is loaded as it is, without the keys.
    let question = ["--greedy", "--prompt", "What is a <note>?"];
    text(&glossary("inference", &out, &question, ""));
}
