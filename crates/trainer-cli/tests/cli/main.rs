//! Whole-process tests of `trainer`: what a user types, what comes out.

mod adapters;
mod bad_input;
mod check;
mod checkpoints;
mod commands;
mod frozen;
mod generation;
mod parity;
mod preferences;
mod reports;
mod training;
mod trajectories;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// The recorded runs and their models and data.
fn parity_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the tests keep prepared data sets: none that an earlier build made, since
/// the code that makes samples may be another now.
fn prepared() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prepared");
        let _ = std::fs::remove_dir_all(&folder);
        folder
    });
    &FOLDER
}

fn trainer(folder: &Path, arguments: &[&str]) -> Output {
    trainer_with(folder, arguments, &[])
}

/// The same with variables in the environment.
fn trainer_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(arguments)
        .envs(variables.iter().copied())
        // Prepared data sets belong neither into the sources nor into examples.
        .env("TRAINER__DATASET_PREPARED_PATH", prepared())
        .current_dir(folder)
        .output()
        .expect("the binary starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
