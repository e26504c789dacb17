//! `trainer completions` and `trainer man`.

use std::io::{Write as _, stdout};

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::Failure;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Into memory, which takes all of it: `generate` panics where a write fails.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut text);
    stdout().write_all(&text)?;
    Ok(())
}

/// The page of the program, then those of its commands.
pub(crate) fn manual() -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut stdout())?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        clap_mangen::Man::new(sub.clone()).render(&mut stdout())?;
    }
    Ok(())
}
