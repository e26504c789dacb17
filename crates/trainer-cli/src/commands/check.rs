//! `trainer check`: is the file right, and what is in force? Loads no model.

use crate::args::Run;
use crate::session::{Failure, load_config};

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    print!("{}", load_config(run)?.render());
    Ok(())
}
