//! The crate from outside: samples against recorded ones, label masks, chat
//! templates, and the message of every error.

#[path = "cases/errors.rs"]
mod errors;
#[path = "cases/masks.rs"]
mod masks;
#[path = "cases/pipeline.rs"]
mod pipeline;
#[path = "cases/recorded.rs"]
mod recorded;
#[path = "cases/sources.rs"]
mod sources;
#[path = "cases/support.rs"]
mod support;
#[path = "cases/templates.rs"]
mod templates;
#[path = "cases/tokenizers.rs"]
mod tokenizers;
