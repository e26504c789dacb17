//! One module a subcommand.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod inference;
pub(crate) mod merge_lora;
pub(crate) mod preprocess;
pub(crate) mod preview;
pub(crate) mod schema;
pub(crate) mod shell;
pub(crate) mod sweep;
pub(crate) mod train;
