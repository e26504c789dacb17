//! What a run leaves for people and for other programs.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::{parity_root, stderr, stdout, trainer, trainer_with};

/// A short run in `out`, with evaluation.
fn run(out: &Path, extra: &[&str]) -> Output {
    run_with(out, extra, &[])
}

/// The same with variables in the environment.
fn run_with(out: &Path, extra: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut arguments = vec![
        "train",
        "cases/sft-full-llama.yaml",
        "--output_dir",
        out.to_str().unwrap(),
        "--max_steps=4",
        "--val_set_size=4",
        "--logging_steps=1",
    ];
    arguments.extend(extra);
    trainer_with(&parity_root(), &arguments, variables)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The data of a page's charts.
fn charts(page: &str) -> Value {
    let start = "<script type=\"application/json\" id=\"data\">";
    let data = page.split_once(start).unwrap().1;
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

fn headings(page: &str) -> Vec<&str> {
    let parts = page.split("<h2>").skip(1);
    parts
        .map(|part| part.split_once("</h2>").unwrap().0)
        .collect()
}

/// Samples are drawn before training and at each evaluation, and shown everywhere.
#[test]
fn samples_are_shown_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let sampled = |name: &str, case: &str, extra: &[&str]| {
        let out = folder.path().join(name);
        let mut arguments = vec![
            "train",
            case,
            "--output_dir",
            out.to_str().unwrap(),
            "--max_steps=4",
            "--val_set_size=4",
            "--generate_samples=true",
            "--num_generation_samples=2",
            "--generation_max_new_tokens=5",
            "--logging_steps=1",
        ];
        arguments.extend(extra);
        let output = trainer(&parity_root(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let rows: Vec<Value> = text(&out.join("metrics.jsonl"))
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let samples = rows.into_iter().filter_map(|mut row| {
            let samples = row["eval_generations"].take();
            (!samples.is_null()).then(|| (row["step"].clone(), samples))
        });
        (out.clone(), stderr(&output), samples.collect::<Vec<_>>())
    };
    let sft = "cases/sft-full-llama.yaml";
    let (out, shown, samples) = sampled("sft", sft, &["--eval_steps=2"]);
    assert_eq!(samples.len(), 3);
    assert_eq!((&samples[0].0, &samples[2].0), (&0.into(), &4.into()));
    let first = samples[0].1.as_array().unwrap();
    assert_eq!(first.len(), 2);
    for (sample, later) in first.iter().zip(samples[2].1.as_array().unwrap()) {
        let prompt = sample["prompt"].as_str().unwrap();
        assert!(prompt.trim_end().ends_with("### Response:"), "{prompt}");
        assert_eq!(sample["prompt"], later["prompt"]);
        assert!(!sample["expected"].as_str().unwrap().is_empty());
    }
    assert!(shown.contains("  sample after "), "{shown}");
    let page = text(&out.join("report.html"));
    assert!(headings(&page).contains(&"What the model writes"));
    assert!(page.contains("<th>step 0</th>") && page.contains("<th>step 4</th>"));

    // Without an evaluation at the start there are samples to compare with all the
    // same, and the same run draws the same ones.
    let (_, _, again) = sampled("again", sft, &["--eval_steps=2", "--eval_on_start=false"]);
    assert_eq!(again, samples);
    // They change nothing.
    let log = |folder: &Path| -> Vec<Value> {
        let rows = text(&folder.join("metrics.jsonl"));
        let rows = rows
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter_map(|row| row.get("loss").cloned()).collect()
    };
    let plain = folder.path().join("plain");
    assert!(run(&plain, &[]).status.success());
    assert_eq!(log(&plain), log(&out));

    for case in ["cases/dpo-full.yaml", "cases/kto-full.yaml"] {
        let (_, _, samples) = sampled(case.trim_start_matches("cases/"), case, &[]);
        assert_eq!(samples.len(), 2, "{case}");
        assert_eq!(samples[1].1.as_array().unwrap().len(), 2, "{case}");
    }
}

#[test]
fn a_run_is_reported_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let output = run(&a, &["--use_tensorboard", "--learning_rate", "2e-3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let page = text(&a.join("report.html"));
    assert_eq!(
        headings(&page),
        [
            "Results",
            "Curves",
            "Data",
            "Lengths of the samples, in tokens",
            "What is trained",
            "Row 1",
            "Row 2",
            "Row 3",
            "To run it again",
            "Environment",
            "Configuration",
        ]
    );
    for forbidden in ["http://", "https://", "src=", "@import", "url("] {
        assert!(
            !page.contains(forbidden),
            "the page loads something: {forbidden}"
        );
    }
    assert!(page.contains("<p>Finished.</p>"));
    assert!(page.contains("trainer train cases/sft-full-llama.yaml --output_dir"));
    assert!(page.contains("learning_rate: 0.002"));
    let charts = charts(&page);
    let titles: Vec<&str> = charts["charts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chart| chart["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        titles[..5],
        [
            "loss",
            "perplexity",
            "learning rate",
            "gradient norm",
            "tokens per second"
        ]
    );
    let loss = &charts["charts"][0]["series"];
    assert_eq!(loss[0]["x"], serde_json::json!([1, 2, 3, 4]));
    assert_eq!(loss[1]["name"], "eval_loss");

    let card = text(&a.join("README.md"));
    assert!(
        card.starts_with("---\nlibrary_name: transformers\n"),
        "{card}"
    );
    assert!(card.contains("| learning_rate | 0.002 |"), "{card}");
    assert!(card.contains("| evaluation loss | "), "{card}");

    let events: Vec<_> = fs::read_dir(a.join("runs")).unwrap().collect();
    assert_eq!(events.len(), 1);

    // A run that fails has a report that says why, and no card.
    let output = run(&b, &["--learning_rate=1e30", "--warmup_steps=0"]);
    assert!(!output.status.success());
    let page = text(&b.join("report.html"));
    assert!(page.contains("the step was not taken"), "{page}");
    assert!(!b.join("README.md").exists());

    let out = folder.path().join("both.html");
    let runs = [a.to_str().unwrap(), b.to_str().unwrap()];
    let arguments = ["compare", runs[0], runs[1], "--out", out.to_str().unwrap()];
    let output = trainer(folder.path(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let loss = &self::charts(&text(&out))["charts"][0]["series"];
    let names: Vec<_> = (0..4)
        .map(|at| loss[at]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["a loss", "a eval_loss", "a eval_loss_per_token", "b loss"]
    );

    let output = trainer(folder.path(), &["compare", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("nowhere/metrics.jsonl"),
        "{}",
        stderr(&output)
    );
}

/// Files of other programs; their own readers are tried by scripts/check_trackers.py.
#[test]
fn a_run_is_written_for_trackers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let store = folder.path().join("mlruns");
    let output = run(
        &out,
        &[
            "--wandb_project=glossary",
            "--wandb_run_id=abc",
            "--use_mlflow=true",
            "--mlflow_tracking_uri",
            store.to_str().unwrap(),
            "--mlflow_experiment_name=first",
        ],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let offline = fs::read_dir(out.join("wandb"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert!(offline.to_str().unwrap().ends_with("-abc"), "{offline:?}");
    let bytes = fs::read(offline.join("run-abc.wandb")).unwrap();
    assert!(bytes.starts_with(b":W&B"));
    let experiment = fs::read_dir(&store)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert!(text(&experiment.join("meta.yaml")).contains("name: \"first\""));
    let mut runs = fs::read_dir(&experiment)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let run = runs.find(|path| path.is_dir()).unwrap();
    let loss = text(&run.join("metrics/loss"));
    let steps: Vec<&str> = loss
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(steps, ["1", "2", "3", "4"]);
    assert!(text(&run.join("meta.yaml")).contains("status: 3"));
    assert_eq!(text(&run.join("params/max_steps")), "4");
}

/// Weights & Biases, MLflow and TensorBoard go on with the run that is resumed.
#[test]
fn runs_of_trackers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (out, store) = (folder.path().join("out"), folder.path().join("mlruns"));
    let folders = |folder: &Path| -> Vec<std::path::PathBuf> {
        let paths = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
        paths.filter(|path| path.is_dir()).collect()
    };
    let steps = |name: &str| -> Vec<String> {
        let experiments = folders(&store);
        let runs = folders(&experiments[0]);
        assert_eq!((experiments.len(), runs.len()), (1, 1));
        assert!(text(&runs[0].join("meta.yaml")).contains("\nstatus: 3\n"));
        let lines = text(&runs[0].join("metrics").join(name));
        let step = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
        lines.lines().map(step).collect()
    };
    // Rows of wandb are found by a key that each has once.
    let rows = || -> usize {
        let runs = folders(&out.join("wandb"));
        assert_eq!(runs.len(), 1);
        let files = fs::read_dir(&runs[0]).unwrap().map(|it| it.unwrap().path());
        let file = files
            .into_iter()
            .find(|it| it.extension().is_some_and(|it| it == "wandb"));
        let bytes = fs::read(file.unwrap()).unwrap();
        let key = b"_timestamp";
        bytes.windows(key.len()).filter(|it| it == key).count()
    };
    let go = |extra: &[&str]| {
        let store = format!("--mlflow_tracking_uri={}", store.display());
        let keys = [
            "--use_wandb",
            "--use_mlflow",
            "--use_tensorboard",
            "--save_strategy=steps",
            "--save_steps=2",
            &store,
        ];
        let output = run(&out, &[&keys, extra].concat());
        let shown = stderr(&output);
        assert!(output.status.success(), "{shown}");
        assert!(!shown.contains("nothing more is written"), "{shown}");
    };
    go(&[]);
    let logged = || text(&out.join("metrics.jsonl")).lines().count();
    let (before, evaluations) = (rows(), steps("eval_loss"));
    assert_eq!(before, logged());
    assert_eq!(steps("loss"), ["1", "2", "3", "4"]);
    fs::remove_dir_all(out.join("checkpoint-4")).unwrap();
    go(&["--auto_resume_from_checkpoints=true"]);
    assert_eq!((rows(), logged()), (before, before));
    assert_eq!(steps("loss"), ["1", "2", "3", "4"]);
    assert_eq!(steps("eval_loss"), evaluations);
    assert_eq!(fs::read_dir(out.join("runs")).unwrap().count(), 2);
    // The report is of both parts; its command makes both.
    let page = text(&out.join("report.html"));
    assert!(page.contains("went on after step 2"), "{page}");
    let command = page.split("To run it again").nth(1).unwrap();
    let (command, _) = command.split_once("</pre>").unwrap();
    assert!(command.contains("--save_steps=2"), "{command}");
    assert!(!command.contains("resume"), "{command}");
    assert_eq!(
        charts(&page)["charts"][0]["series"][0]["x"],
        serde_json::json!([1, 2, 3, 4])
    );
}

/// trackio has a row for each of metrics.jsonl, also when the run is stopped between
/// two checkpoints and goes on; a training that begins anew is a run of its own.
#[test]
#[cfg(feature = "trackio")]
fn a_run_of_trackio_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let home = folder.path().join("trackio");
    let variables = [("TRACKIO_DIR", home.to_str().unwrap())];
    let go = |extra: &[&str]| {
        let keys = [
            "--trackio_project_name=My glossary",
            "--trackio_space_id=team/runs",
            "--save_strategy=steps",
            "--save_steps=2",
        ];
        let output = run_with(&out, &[&keys, extra].concat(), &variables);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(
            !stderr(&output).contains("warning: trackio"),
            "{}",
            stderr(&output)
        );
        stderr(&output)
    };
    type Row = (i64, Value);
    let read = || -> (Vec<String>, Vec<Row>) {
        let path = home.join("Myglossary.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let texts = |sql: &str| -> Vec<String> {
            let mut select = connection.prepare(sql).unwrap();
            let rows = select.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let runs = texts("SELECT run_id FROM configs ORDER BY id");
        assert_eq!(
            texts("SELECT value FROM project_metadata WHERE key = 'space_id'"),
            ["team/runs"]
        );
        assert_eq!(
            texts("SELECT DISTINCT space_id FROM metrics"),
            ["team/runs"]
        );
        assert_eq!(texts("SELECT DISTINCT run_name FROM metrics"), ["out"]);
        let config: Vec<u8> = connection
            .query_row("SELECT config FROM configs", [], |row| row.get(0))
            .unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["save_steps"], 2.0);
        assert!(config["_Created"].as_str().unwrap().ends_with("+00:00"));
        let mut select = connection
            .prepare("SELECT step, metrics FROM metrics WHERE run_id = ? ORDER BY id")
            .unwrap();
        let rows = select.query_map([runs.last().unwrap()], |row| {
            let metrics: Vec<u8> = row.get(1)?;
            Ok((row.get(0)?, serde_json::from_slice(&metrics).unwrap()))
        });
        (runs, rows.unwrap().map(Result::unwrap).collect())
    };
    // What metrics.jsonl has, by the names of trackio.
    let logged = || -> Vec<Row> {
        let rows = text(&out.join("metrics.jsonl"));
        let row = |line: &str| {
            let row: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
            let step = row["step"].as_i64().unwrap();
            let named = row.into_iter().map(|(key, value)| match &*key {
                "step" => ("train/global_step".to_owned(), value),
                _ => match key.strip_prefix("eval_") {
                    Some(rest) => (format!("eval/{rest}"), value),
                    None => (format!("train/{key}"), value),
                },
            });
            (step, Value::Object(named.collect()))
        };
        rows.lines().map(row).collect()
    };
    let shown = go(&[]);
    let renamed = "warning: the project of trackio will be `Myglossary`";
    assert!(shown.contains(renamed), "{shown}");
    assert!(
        shown.contains("`trackio sync --project Myglossary`"),
        "{shown}"
    );
    let (first, rows) = read();
    assert_eq!((first.len(), &rows), (1, &logged()));

    // Back to the middle of the run, and on.
    let go_on = || {
        fs::remove_dir_all(out.join("checkpoint-4")).unwrap();
        go(&["--auto_resume_from_checkpoints=true"]);
    };
    go_on();
    let (runs, rows) = read();
    assert_eq!((&runs, &rows), (&first, &logged()));
    assert_eq!(rows.last().unwrap().0, 4);

    // Rows of the time without trackio are taken from the log.
    fs::remove_file(home.join("Myglossary.db")).unwrap();
    go_on();
    let (runs, rows) = read();
    assert_eq!((&runs, &rows), (&first, &logged()));

    fs::remove_dir_all(&out).unwrap();
    go(&[]);
    let (runs, rows) = read();
    assert_eq!((runs.len(), &rows), (2, &logged()));
    assert_ne!(runs[1], first[0]);

    // A folder that cannot be is no reason not to train.
    let file = out.join("metrics.jsonl");
    let variables = [("TRACKIO_DIR", file.to_str().unwrap())];
    let output = run_with(&folder.path().join("b"), &["--use_trackio"], &variables);
    assert!(output.status.success(), "{}", stderr(&output));
    let warning = format!("warning: trackio: {}: ", file.display());
    assert!(stderr(&output).contains(&warning), "{}", stderr(&output));
}

#[test]
fn quiet_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&folder.path().join("out"), &["--quiet", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let rows: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.iter().filter(|row| row["loss"].is_number()).count(), 4);
    assert!(rows[rows.len() - 1]["train_runtime"].is_number());
    let output = run(&folder.path().join("out"), &[]);
    assert_eq!(stdout(&output), "");
    let line = stderr(&output);
    let line = line
        .lines()
        .find(|line| line.starts_with("step     1  loss"))
        .unwrap();
    for part in ["grad norm", "lr ", "tokens/s", "padding 0%", "left "] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn evaluation_is_that_of_training() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = run(&out, &["--quiet"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let log = text(&out.join("metrics.jsonl"));
    let rows = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let trained = rows
        .filter_map(|row| row["eval_loss"].as_f64())
        .next_back()
        .unwrap();
    let case = [
        "evaluate",
        "cases/sft-full-llama.yaml",
        "--val_set_size=4",
        "--json",
    ];
    let evaluate = |extra: &[&str]| {
        let output = trainer(&parity_root(), &[&case[..], extra].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_str::<Value>(&stdout(&output)).unwrap()
    };
    let after = evaluate(&["--output_dir", out.to_str().unwrap()]);
    assert!(
        (after["eval_loss"].as_f64().unwrap() - trained).abs() < 1e-6,
        "{after}"
    );
    let before = evaluate(&["--model", "models/llama"]);
    assert!(before["eval_loss"].as_f64().unwrap() > trained, "{before}");

    let output = trainer(&parity_root(), &["evaluate", "cases/sft-full-llama.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("there is no evaluation data: set test_datasets or val_set_size"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_sweep_runs_every_combination() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let sweep = folder.path().join("sweep.yaml");
    let arguments = [
        "sweep",
        "--quiet",
        "cases/sft-full-llama.yaml",
        sweep.to_str().unwrap(),
        "--output_dir",
        out.to_str().unwrap(),
        "--val_set_size=4",
    ];
    fs::write(
        &sweep,
        "learning_rate: [1e-5, 2e-3]\n_:\n  - {max_steps: 2, weight_decay: 0.1}\n  - max_steps: 4\n",
    )
    .unwrap();
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = stdout(&output);
    assert_eq!(table.lines().count(), 5, "{table}");
    // The best is the one that learns most.
    let best = table.lines().nth(1).unwrap();
    assert!(best.starts_with("sweep-004") && best.contains("learning_rate=2e-3 max_steps=4"));
    let json: Value = serde_json::from_str(&text(&out.join("sweep.json"))).unwrap();
    assert_eq!(json["planned"], 4);
    assert_eq!(json["runs"][0]["values"]["weight_decay"], "0.1");
    assert_eq!(json["runs"][1]["results"]["steps"], 4.0);
    assert!(text(&out.join("sweep.html")).contains("4 runs compared"));

    // A mistake in any combination is found before the first run.
    fs::remove_dir_all(&out).unwrap();
    fs::write(&sweep, "learning_rate: [1e-5, -1]\n").unwrap();
    let output = trainer(&parity_root(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("--learning_rate"),
        "{}",
        stderr(&output)
    );
    assert!(!out.exists());
}

#[test]
fn shells_and_manual() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = trainer(folder.path(), &["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("preprocess"));
    }
    let output = trainer(folder.path(), &["man"]);
    let page = stdout(&output);
    assert!(
        page.contains(".TH trainer 1") && page.contains("trainer\\-sweep"),
        "{page}"
    );
    let output = trainer(folder.path(), &["--help"]);
    assert!(
        stdout(&output).contains("130 stopped"),
        "{}",
        stdout(&output)
    );
    assert_eq!(trainer(folder.path(), &["trian"]).status.code(), Some(2));
}
