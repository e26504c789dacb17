//! `trainer compare`: the curves of several runs in one page.

use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::report;

pub(crate) fn run(runs: &[PathBuf], out: &Path) -> Result<(), Failure> {
    let page = report::comparison(runs)?;
    report::save(out, &page)?;
    let count = match runs.len() {
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    };
    writeln!(stdout(), "{count} compared in {}", out.display())?;
    Ok(())
}
