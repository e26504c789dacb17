//! `trainer completions` and `trainer man`.

use std::io;

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::Failure;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut io::stdout());
    Ok(())
}

/// The page of the program, then those of its commands.
pub(crate) fn manual() -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut io::stdout())?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        clap_mangen::Man::new(sub.clone()).render(&mut io::stdout())?;
    }
    Ok(())
}
