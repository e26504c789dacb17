//! `trainer schema`.

use crate::failure::Failure;

pub(crate) fn run() -> Result<(), Failure> {
    println!("{:#}", trainer_config::json_schema());
    Ok(())
}
