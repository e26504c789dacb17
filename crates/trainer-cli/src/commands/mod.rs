//! One module a subcommand; each has a `run`.

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod merge_lora;
pub(crate) mod preprocess;
pub(crate) mod preview;
pub(crate) mod schema;
pub(crate) mod train;
