//! One module a subcommand; each has a `run`.

pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod export;
pub(crate) mod inference;
pub(crate) mod merge_lora;
pub(crate) mod preprocess;
pub(crate) mod preview;
pub(crate) mod schema;
pub(crate) mod train;
