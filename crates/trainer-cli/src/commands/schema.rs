//! `trainer schema`.

use std::io::{Write as _, stdout};

use crate::failure::Failure;

pub(crate) fn run() -> Result<(), Failure> {
    writeln!(stdout(), "{:#}", trainer_config::json_schema())?;
    Ok(())
}
