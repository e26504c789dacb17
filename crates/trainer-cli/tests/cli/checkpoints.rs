//! Runs that are interrupted, in every way, and go on to the bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::{PREPARED, parity_root, stderr, trainer};

/// Settings whose runs are compared, beside the recorded case they start from.
const PLAIN: &[&str] = &[
    "--micro_batch_size=2",
    "--gradient_accumulation_steps=2",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--val_set_size=4",
    "--eval_steps=5",
    // Five steps an epoch.
    "--datasets.0.split=train[:24]",
    "--num_epochs=3",
    "--max_steps=~",
    "--logging_steps=2",
];
const PACKED: &[&str] = &[
    "--sample_packing=true",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--gradient_accumulation_steps=2",
    "--micro_batch_size=1",
    "--max_steps=9",
    "--lr_scheduler=reduce_lr_on_plateau",
    "--val_set_size=4",
    "--eval_steps=2",
];
const STREAM: &[&str] = &[
    "--streaming=true",
    "--sample_packing=true",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--streaming_multipack_buffer_size=20",
    "--max_steps=9",
];
/// An adapter with dropout, and a module trained as a whole.
const ADAPTER: &[&str] = &[
    "--adapter=lora",
    "--lora_r=4",
    "--lora_alpha=8",
    "--lora_dropout=0.2",
    "--lora_target_linear=true",
    "--lora_modules_to_save=[lm_head]",
    "--gradient_accumulation_steps=2",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--max_steps=9",
];

/// Most of the model frozen, and noise on the embeddings.
const FROZEN: &[&str] = &[
    "--unfrozen_parameters=['^lm_head.weight$[5:900]', '^model.layers.1.mlp']",
    "--neftune_noise_alpha=5",
    "--gradient_accumulation_steps=2",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--max_steps=9",
];

const PREFERENCES: &[&str] = &[
    "--neftune_noise_alpha=5",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--gradient_accumulation_steps=2",
    "--micro_batch_size=4",
    "--max_steps=10",
    "--val_set_size=8",
    "--eval_steps=3",
];
const PACKED_PREFERENCES: &[&str] = &[
    "--sample_packing=true",
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--micro_batch_size=1",
    "--max_steps=10",
];

const CASE: &str = "cases/sft-full-llama.yaml";

fn command(out: &Path, extra: &[&str]) -> Command {
    command_for(CASE, out, extra)
}

fn command_for(case: &str, out: &Path, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command
        .args(["train", case, "--output_dir"])
        .arg(out)
        .args(extra)
        // The runs of a test share it, as those of a person do.
        .env(PREPARED, out.with_file_name("prepared"))
        .current_dir(parity_root())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn run(out: &Path, extra: &[&str]) {
    run_for(CASE, out, extra);
}

fn run_for(case: &str, out: &Path, extra: &[&str]) {
    let output = command_for(case, out, extra).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Everything that a run leaves behind, without times.
#[derive(Debug, PartialEq)]
struct Result {
    rows: Vec<Map<String, Value>>,
    model: Vec<u8>,
}

fn result(out: &Path) -> Result {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|line| {
        let mut row: Map<String, Value> = serde_json::from_str(line).unwrap();
        row.retain(|key, _| {
            !["per_sec", "runtime", "memory/"]
                .iter()
                .any(|it| key.contains(it))
        });
        row
    });
    Result {
        rows: rows.collect(),
        model: fs::read(out.join("model.safetensors"))
            .or_else(|_| fs::read(out.join("adapter_model.safetensors")))
            .unwrap(),
    }
}

fn steps(out: &Path) -> Vec<usize> {
    let mut steps: Vec<usize> = fs::read_dir(out)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_prefix("checkpoint-")?.parse().ok()
        })
        .collect();
    steps.sort_unstable();
    steps
}

/// From every checkpoint of a run, the rest of the run is the same: the weights,
/// the optimizer's state and the log, to the bit.
#[test]
fn a_run_goes_on_from_each_of_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    for (name, case, settings) in [
        ("plain", CASE, PLAIN),
        ("packed", CASE, PACKED),
        ("stream", CASE, STREAM),
        ("adapter", CASE, ADAPTER),
        ("frozen", CASE, FROZEN),
        ("dpo", "cases/dpo-full.yaml", PREFERENCES),
        ("dpo-packed", "cases/dpo-full.yaml", PACKED_PREFERENCES),
        ("kto", "cases/kto-full.yaml", PREFERENCES),
    ] {
        let whole = folder.path().join(name);
        let keys = [
            "--save_strategy=steps",
            "--save_steps=1",
            "--save_total_limit=100",
        ];
        run_for(case, &whole, &[settings, &keys[..]].concat());
        let expected = result(&whole);
        let all = steps(&whole);
        assert!(all.len() >= 9, "{name}: {all:?}");
        let last = format!("checkpoint-{}", all[all.len() - 1]);
        // The first, the last, and every third between.
        for step in all.iter().filter(|step| *step % 3 == 1) {
            let out = folder.path().join(format!("{name}-{step}"));
            let from = whole.join(format!("checkpoint-{step}"));
            let from = from.to_str().unwrap();
            let resume = ["--resume_from_checkpoint", from];
            run_for(case, &out, &[settings, &keys, &resume].concat());
            assert!(result(&out) == expected, "{name}, from step {step}");
            if *step != all[all.len() - 1] {
                let state = |out: &Path| fs::read(out.join(&last).join("optimizer.safetensors"));
                assert!(state(&out).unwrap() == state(&whole).unwrap(), "{name}");
            }
        }
    }
}

/// A stream whose file was copied to another machine, or written anew, goes on as
/// well, and says so.
#[test]
fn a_file_with_another_time_is_named_when_a_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("alpaca.jsonl");
    fs::copy(parity_root().join("data/alpaca.jsonl"), &data).unwrap();
    let path = format!("--datasets.0.path={}", data.display());
    let keys = [STREAM, &[&path, "--save_strategy=steps", "--save_steps=4"]].concat();
    let whole = folder.path().join("whole");
    run(&whole, &keys);
    let file = fs::File::options().write(true).open(&data).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let out = folder.path().join("resumed");
    let from = whole.join("checkpoint-4");
    let from = format!("--resume_from_checkpoint={}", from.display());
    let output = command(&out, &[&keys[..], &[&from]].concat()).output();
    let text = stderr(&output.unwrap());
    assert!(
        text.contains(&format!(
            "warning: {} was modified after the checkpoint was written",
            data.display()
        )),
        "{text}"
    );
    assert!(result(&out) == result(&whole));
}

/// The number of threads changes no bit: every sum is taken in the same order.
#[test]
fn threads_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let results: Vec<Result> = ["1", "2", "3"]
        .iter()
        .map(|threads| {
            let out = folder.path().join(threads);
            let output = command(&out, PACKED)
                .env("RAYON_NUM_THREADS", threads)
                .output();
            assert!(output.unwrap().status.success());
            result(&out)
        })
        .collect();
    assert!(results[0] == results[1], "1 and 2 threads differ");
    assert!(results[0] == results[2], "1 and 3 threads differ");
}

/// A generator for moments to kill at; the test prints its seed when it fails.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

/// Forty runs are killed at random moments, most of them while a checkpoint is
/// being written, and each goes on to the same end.
#[test]
fn forty_killed_runs_end_like_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let keys = [
        PLAIN,
        &[
            "--save_strategy=steps",
            "--save_steps=1",
            "--auto_resume_from_checkpoints=true",
            "--save_total_limit=2",
        ],
    ]
    .concat();
    let whole = folder.path().join("whole");
    let started = Instant::now();
    run(&whole, &keys);
    let length = started.elapsed().as_millis() as u64;
    let expected = result(&whole);

    let seed = u64::from(std::process::id()) | 1 << 40;
    let mut moments = Moments(seed);
    let mut interrupted = 0;
    for index in 0..40 {
        let out = folder.path().join(format!("killed-{index}"));
        let mut child = command(&out, &keys).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(moments.next(length)));
        let _ = child.kill();
        let status = child.wait().unwrap();
        interrupted += usize::from(!status.success());
        run(&out, &keys);
        assert!(result(&out) == expected, "seed {seed}, run {index}");
        fs::remove_dir_all(&out).unwrap();
    }
    assert!(interrupted > 20, "only {interrupted} runs were interrupted");
}

fn wait_for(child: &mut Child, what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "nothing happened"
        );
        sleep(Duration::from_millis(5));
    }
}

/// A request to stop ends the run after the step, with a checkpoint to go on from.
#[test]
fn a_run_that_is_asked_to_stop_can_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let long = [
        PLAIN,
        &[
            "--num_epochs=20",
            "--auto_resume_from_checkpoints=true",
            "--save_strategy=no",
        ],
    ]
    .concat();
    let whole = folder.path().join("whole");
    run(&whole, &long);

    for wish in ["SIGTERM", "STOP"] {
        let out = folder.path().join(wish);
        let mut child = command(&out, &long).spawn().unwrap();
        wait_for(&mut child, || {
            fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() > 3)
        });
        match wish {
            "STOP" => fs::write(out.join("STOP"), "").unwrap(),
            _ => {
                let pid = child.id().to_string();
                let sent = Command::new("kill").args(["-TERM", &pid]).status();
                assert!(sent.unwrap().success());
            }
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        let message = stderr(&output);
        assert!(message.contains("to go on, run it again with --resume_from_checkpoint"));
        assert_eq!(steps(&out).len(), 1, "{message}");
        run(&out, &long);
        assert!(result(&out) == result(&whole), "{wish}");
    }
}

#[test]
fn another_configuration_is_refused_key_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let keys = [PLAIN, &["--save_strategy=steps", "--save_steps=5"]].concat();
    run(&out, &keys);
    let changed = [
        &keys[..],
        &[
            "--auto_resume_from_checkpoints=true",
            "--learning_rate=0.5",
            "--weight_decay=0.25",
        ],
    ]
    .concat();
    let output = command(&out, &changed).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    for line in [
        "the run was begun with another configuration:",
        "  weight_decay: ",
        "  learning_rate: ",
        ", 0.25 now",
        ", 0.5 now",
        "put these back, or begin anew from the model of the checkpoint (base_model)",
    ] {
        assert!(message.contains(line), "{line}\nis missing in\n{message}");
    }
    assert_eq!(message.matches(" now").count(), 2, "{message}");
}

/// Early stopping ends the run; the best model is the one that is saved.
#[test]
fn the_best_model_is_kept_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let keys = [
        PLAIN,
        &[
            // So large that the loss on other rows rises again soon.
            "--learning_rate=0.02",
            "--lr_scheduler=constant",
            "--num_epochs=20",
            "--eval_steps=2",
            "--early_stopping_patience=3",
            "--load_best_model_at_end=true",
            "--save_strategy=best",
            "--save_total_limit=1",
        ],
    ]
    .concat();
    run(&out, &keys);
    let state = fs::read_to_string(out.join("trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let log = state["log_history"].as_array().unwrap();
    let evaluations: Vec<f64> = log
        .iter()
        .filter_map(|row| row["eval_loss"].as_f64())
        .collect();
    let best = evaluations.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(state["best_metric"].as_f64(), Some(best));
    let place = evaluations.iter().position(|loss| *loss == best).unwrap();
    assert_eq!(evaluations.len(), place + 4, "{evaluations:?}");
    let checkpoint = state["best_model_checkpoint"].as_str().map(PathBuf::from);
    let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&out) == weights(&checkpoint.expect("the best is not at the start")));
}

#[test]
fn a_loss_that_stays_high_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let keys = [
        PLAIN,
        &[
            "--loss_watchdog_threshold=0.5",
            "--loss_watchdog_patience=2",
        ],
    ]
    .concat();
    let output = command(&out, &keys).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains("step 2: the loss was above loss_watchdog_threshold (0.5) for 2 steps"),
        "{message}"
    );
}

/// Damaged checkpoints are named and passed over.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let keys = [
        PLAIN,
        &[
            "--save_strategy=steps",
            "--save_steps=4",
            "--auto_resume_from_checkpoints=true",
        ],
    ]
    .concat();
    run(&out, &keys);
    let expected = result(&out);
    let newest = steps(&out).pop().unwrap();
    let weights = out.join(format!("checkpoint-{newest}/model.safetensors"));
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let arguments = [
        &["train", CASE, "--output_dir", out.to_str().unwrap()],
        &keys[..],
    ]
    .concat();
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success());
    let message = stderr(&output);
    assert!(
        message.contains("model.safetensors is damaged: its hash differs"),
        "{message}"
    );
    assert!(message.contains("going on after step"), "{message}");
    assert!(result(&out) == expected);
}

/// The checkpoints of an earlier run are neither deleted nor gone on from, and those of
/// this run are not deleted in favour of them.
#[test]
fn two_runs_in_one_folder_keep_their_checkpoints_apart() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let save = ["--save_strategy=steps", "--save_total_limit=1"];
    run(
        &out,
        &[&save[..], &["--max_steps=6", "--save_steps=3"]].concat(),
    );
    let anew = [&save[..], &["--max_steps=5", "--save_steps=2", "--seed=7"]].concat();
    let output = command(&out, &anew).output().unwrap();
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    let told = message.contains("checkpoints of an earlier run");
    assert!(told, "{message}");
    assert_eq!(steps(&out), [4, 6]);
    let expected = result(&out);
    let again = [&anew[..], &["--auto_resume_from_checkpoints=true"]].concat();
    run(&out, &again);
    assert!(result(&out) == expected);
}

/// The library that makes calls fail.
#[cfg(target_os = "linux")]
fn faults(folder: &Path) -> PathBuf {
    let shim = folder.join("faults.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/faults.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&shim, &source])
        .args(["-ldl"])
        .status()
        .expect("a C compiler, which building the dependencies takes too");
    assert!(built.success());
    shim
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = command(&out, &["--max_steps=1", "--save_strategy=no"])
        .env("LD_PRELOAD", faults(folder.path()))
        .env("FAULT_PATH", "model.safetensors")
        .env("FAULT_AT", "2")
        .env("FAULT_ERRNO", "28")
        .env("FAULT_MARK", folder.path().join("mark"))
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let end = message.split("error: ").last().unwrap();
    let (file, what) = end.split_once(": ").unwrap();
    assert!(Path::new(file).starts_with(&out), "{message}");
    insta::assert_snapshot!(what);
    assert!(!out.join("model.safetensors").exists());
}

/// Every call that writes a checkpoint fails once, for want of space and for a
/// broken disk: the run goes on, and the checkpoint before can be gone on from.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_that_cannot_be_written_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shim = faults(folder.path());
    // Nothing of the second checkpoint may touch the first.
    let keys = [
        "--max_steps=4",
        "--save_strategy=steps",
        "--save_steps=2",
        "--save_total_limit=1",
        "--auto_resume_from_checkpoints=true",
    ];
    let whole = folder.path().join("whole");
    run(&whole, &keys);
    let expected = result(&whole);

    let fail = |call: usize, errno: &str| -> bool {
        let out = folder.path().join(format!("{errno}-{call}"));
        let mark = folder.path().join(format!("mark-{errno}-{call}"));
        let output = command(&out, &keys)
            .env("LD_PRELOAD", &shim)
            .env("FAULT_PATH", "checkpoint-4")
            .env("FAULT_AT", call.to_string())
            .env("FAULT_ERRNO", errno)
            .env("FAULT_MARK", &mark)
            .output()
            .unwrap();
        let message = stderr(&output);
        assert!(
            output.status.success(),
            "call {call}, errno {errno}: {message}"
        );
        if !mark.exists() {
            return false;
        }
        let written = steps(&out);
        if written == [2] {
            assert!(
                message.contains("a checkpoint could not be written"),
                "{message}"
            );
        } else {
            // What failed is a sync that some systems do not have, or came after.
            assert_eq!(written, [4], "call {call}, errno {errno}: {message}");
        }
        // As if the process had died here: from what is on the disk to the end.
        run(&out, &keys);
        assert!(result(&out) == expected, "call {call}, errno {errno}");
        fs::remove_dir_all(&out).unwrap();
        true
    };
    let calls: Vec<usize> = std::thread::scope(|scope| {
        let no_space = scope.spawn(|| (1..).take_while(|call| fail(*call, "28")).count());
        let broken = scope.spawn(|| (1..).take_while(|call| fail(*call, "5")).count());
        [no_space, broken]
            .map(|thread| thread.join().unwrap())
            .to_vec()
    });
    assert!(
        calls.iter().all(|calls| *calls > 20),
        "only {calls:?} calls were seen"
    );
}
