//! `trainer check`: is the file right, what is in force, does it fit into memory, and
//! how long will it take?

use std::io::{Write as _, stdout};
use std::path::PathBuf;

use trainer_config::Loaded;
use trainer_core::memory;
use trainer_data::Search;

use super::train::ready;
use crate::args::{Check, Shown};
use crate::failure::Failure;
use crate::fit::{Fit, size};
use crate::preflight;
use crate::progress::{clock, grouped};
use crate::session::{find_prepared, load_tokenizer};

pub(crate) fn run(arguments: &Check) -> Result<(), Failure> {
    let ([probed], overrides) = arguments.run.flags(["probe"])?;
    let loaded = preflight::load(&arguments.run.config, overrides)?;
    // What cannot be estimated cannot be trained either.
    let fit = Fit::of(&loaded.config)?;
    // Comments, so that all of it is a configuration still.
    write!(stdout(), "{}{fit}", loaded.render())?;
    if let Some(warning) = fit.warning() {
        eprint!("{warning}");
    }
    if arguments.probe || probed.is_some() {
        probe(loaded)?;
    }
    Ok(())
}

/// Times a few batches and prints what they tell.
fn probe(mut loaded: Loaded) -> Result<(), Failure> {
    let config = &mut loaded.config;
    if find_prepared(config, &load_tokenizer(config)?, Search::Content)?.is_none() {
        // Prepared in memory: nothing is written.
        config.dataset_prepared_path = Some(PathBuf::new());
    }
    config.checkpoint.resume_from_checkpoint = None;
    config.checkpoint.auto_resume_from_checkpoints = false;
    let quiet = Shown {
        quiet: true,
        json: false,
    };
    let found = ready(&loaded, quiet)?.trainer.probe()?;
    let accumulation = loaded.config.gradient_accumulation_steps;
    writeln!(
        stdout(),
        "\n# Probe: {} micro-batches, after one to warm up",
        found.timed
    )?;
    let line = |what: &str, value: String| writeln!(stdout(), "#   {what:<16} {value}");
    line(
        "steps",
        format!(
            "{} of {accumulation} micro-batch{}",
            grouped(found.total_steps),
            if accumulation == 1 { "" } else { "es" }
        ),
    )?;
    line(
        "tokens",
        format!("about {}", grouped(found.total_tokens.round() as usize)),
    )?;
    line(
        "micro-batch",
        format!(
            "{:.3} s for {:.0} tokens",
            found.batch_seconds, found.tokens
        ),
    )?;
    line("optimizer step", format!("{:.3} s", found.step_seconds))?;
    line(
        "speed",
        format!("{:.0} tokens/s", found.tokens_per_second()),
    )?;
    line(
        "whole run",
        format!(
            "about {}, evaluations and checkpoints left out",
            clock(found.total_seconds())
        ),
    )?;
    if let Some(resident) = memory::resident() {
        line("peak memory", size(resident.peak))?;
    }
    Ok(())
}
