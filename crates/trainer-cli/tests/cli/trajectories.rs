//! A hundred steps each of supervised fine-tuning, LoRA and DPO, as recorded: loss and
//! gradient norm of every step.
//!
//! On a processor with the features of the one that recorded them, numbers are the
//! same to the bit; elsewhere the kernels add in another order, and the numbers agree
//! up to rounding. To record them anew, after a change that is meant to change them:
//!
//!     RECORD_TRAJECTORIES=1 cargo test --release --test cli trajectories

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{parity_root, stderr, trainer};

/// What all runs have in common: random order, accumulation, clipping, a schedule.
const COMMON: [&str; 8] = [
    "--curriculum_sampling=false",
    "--shuffle_merged_datasets=true",
    "--max_steps=100",
    "--logging_steps=1",
    "--micro_batch_size=2",
    "--gradient_accumulation_steps=2",
    "--learning_rate=1e-4",
    "--warmup_steps=10",
];

const RUNS: [(&str, &str, &[&str]); 3] = [
    ("sft", "cases/sft-full-llama.yaml", &[]),
    (
        "lora",
        "cases/sft-full-llama.yaml",
        &[
            "--adapter=lora",
            "--lora_r=4",
            "--lora_alpha=8",
            "--lora_dropout=0.1",
            "--lora_target_linear=true",
        ],
    ),
    ("dpo", "cases/dpo-full.yaml", &[]),
];

/// Largest relative difference of loss and gradient norm on other processors. Another
/// backend, whose kernels have nothing in common with those of the recording, comes to
/// 5e-7 and 3e-6.
const CLOSE: [f64; 2] = [1e-6, 1e-5];

fn recorded(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trajectories");
    folder.join(format!("{name}.txt"))
}

/// What decides which kernels run.
fn features() -> String {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! add {
            ($($name:tt),+) => {
                $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })+
            };
        }
        add!("avx", "fma", "avx2", "avx512f", "avx512bw", "avx512vl");
    }
    found.join(" ")
}

/// A number of a log row as it stands there: reading it could change its last bit.
fn number<'a>(row: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = row.split_once(&format!("\"{key}\":"))?;
    rest.split([',', '}']).next()
}

/// A line a step: loss and gradient norm, in the shortest form that reads back as the
/// same bits.
fn trajectory(case: &str, keys: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    // Its own: what is kept of the reference there may come from rows in other company,
    // which changes the last bits.
    let prepared = folder.path().join("prepared");
    let prepared = format!("--dataset_prepared_path={}", prepared.display());
    let mut arguments = vec!["train", case, "--output_dir", out, &prepared];
    arguments.extend(COMMON);
    arguments.extend(keys);
    let output = trainer(&parity_root(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let log = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let mut lines = String::new();
    for line in log.lines() {
        if let (Some(loss), Some(norm)) = (number(line, "loss"), number(line, "grad_norm")) {
            writeln!(lines, "{loss} {norm}").unwrap();
        }
    }
    lines
}

#[test]
fn steps_are_those_that_were_recorded() {
    let here = features();
    for (name, case, keys) in RUNS {
        let found = trajectory(case, keys);
        assert_eq!(found.lines().count(), 100, "{name}");
        let path = recorded(name);
        if std::env::var_os("RECORD_TRAJECTORIES").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("{here}\n{found}")).unwrap();
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let (there, expected) = text.split_once('\n').unwrap();
        for (step, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
            let at = format!("{name}, step {}: {found}, recorded {expected}", step + 1);
            if there == here {
                assert_eq!(found, expected, "{at}");
                continue;
            }
            let pairs = found.split(' ').zip(expected.split(' '));
            for ((found, expected), close) in pairs.zip(CLOSE) {
                let [found, expected]: [f64; 2] = [found, expected].map(|it| it.parse().unwrap());
                let close = (found - expected).abs() <= close * expected.abs();
                assert!(close, "{at} (recorded on {there}, here {here})");
            }
        }
    }
}
