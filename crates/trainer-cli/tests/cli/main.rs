//! Whole-process tests of `trainer`: what a user types, what comes out.

mod adapters;
mod bad_input;
mod chats;
mod check;
mod checkpoints;
mod commands;
mod frozen;
mod generation;
mod models;
mod parity;
mod preferences;
mod preflight;
mod reports;
mod rollback;
mod training;
mod trajectories;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where prepared data is kept. It belongs neither into the sources nor into the
/// examples.
const PREPARED: &str = "TRAINER__DATASET_PREPARED_PATH";

/// The recorded runs and their models and data.
fn parity_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a command in a folder. Data that it prepares is kept in a folder of its own,
/// so that what it prints does not depend on what other tests have prepared; tests of
/// what is found again name one with `--dataset_prepared_path`.
fn trainer(folder: &Path, arguments: &[&str]) -> Output {
    trainer_with(folder, arguments, &[])
}

/// The same with variables in the environment.
fn trainer_with(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let prepared = tempfile::tempdir().expect("a folder");
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(arguments)
        .envs(variables.iter().copied())
        .env(PREPARED, prepared.path())
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
