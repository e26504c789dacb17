//! `trainer check`: is the file right, what is in force, does it fit into memory, and
//! how long will it take?

use std::io::{Write as _, stdout};
use std::path::PathBuf;

use trainer_config::Loaded;
use trainer_core::memory;

use super::train::ready;
use crate::args::{Check, Shown};
use crate::failure::Failure;
use crate::fit::{Fit, size};
use crate::progress::{clock, grouped};
use crate::session::{find_prepared, load_layers, load_tokenizer};

pub(crate) fn run(arguments: &Check) -> Result<(), Failure> {
    let ([probed], overrides) = arguments.run.flags(["probe"])?;
    let loaded = load_layers(&arguments.run.config, overrides)?;
    write!(stdout(), "{}", loaded.render())?;
    // Comments, so that all of it is a configuration still.
    match Fit::of(&loaded.config) {
        Ok(fit) => {
            write!(stdout(), "{fit}")?;
            if let Some(warning) = fit.warning() {
                eprint!("{warning}");
            }
        }
        // A file can be checked where the model is not.
        Err(failure) => {
            let text = failure.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            writeln!(
                stdout(),
                "\n# Memory is not estimated: {}",
                text.replace('\n', "\n# ")
            )?;
        }
    }
    if arguments.probe || probed.is_some() {
        probe(loaded)?;
    }
    Ok(())
}

/// Times a few batches and prints what they tell.
fn probe(mut loaded: Loaded) -> Result<(), Failure> {
    let config = &mut loaded.config;
    if find_prepared(config, &load_tokenizer(config)?)?.is_none() {
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
