//! `trainer schema`.

use crate::session::Failure;

pub(crate) fn run() -> Result<(), Failure> {
    println!("{:#}", trainer_config::json_schema());
    Ok(())
}
