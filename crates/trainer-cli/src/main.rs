//! `trainer`: one YAML file in, a fine-tuned model out.
//!
//! This crate only puts the others together: [`session`] goes from a
//! configuration to tokenizer, samples and model, [`commands`] has one module a
//! subcommand, [`preflight`] finds what would fail later, [`base`], [`folders`], [`limits`] and
//! [`vocabulary`] look at whether the parts fit one another, [`merge`] works adapters into
//! weights, [`failure`] is how commands end when they fail, [`fit`] says whether a run
//! fits into memory and onto the disk, [`out_of_memory`] what to change when it did
//! not, [`progress`] shows a run, [`report`] and [`trackers`] write it down, [`text`]
//! lets a model write.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the libraries do not print; this program is what does"
)]

mod args;
mod base;
mod commands;
#[cfg(test)]
mod documents;
mod failure;
mod fit;
mod folders;
mod limits;
mod merge;
mod out_of_memory;
mod preflight;
mod progress;
mod report;
mod session;
mod text;
mod trackers;
#[cfg(feature = "tui")]
mod tui;
mod vocabulary;
mod wishes;

use std::process::ExitCode;

use clap::Parser;

/// Exit code of a run that was asked to stop.
const EXIT_STOPPED: i32 = 130;

#[global_allocator]
static ALLOCATOR: trainer_core::Allocator =
    trainer_core::Allocator::telling(out_of_memory::refused);

fn main() -> ExitCode {
    trainer_core::keep_freed_memory();
    match args::Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
