#![doc = include_str!("../README.md")]
//!
//! # The way of a row
//!
//! ```text
//! file ──source──▶ Row ──strategy──▶ Sample(s) ──length rule──▶ kept or counted
//!                        (template, tokenizer)                       │
//!         concatenate ◀───────────────────────────────────────────────┘
//!         shuffle, split ──▶ Prepared { train, eval, ledger }
//! ```
//!
//! - [`source`] reads json, jsonl, csv, text and parquet into rows, each of
//!   which knows its file and its line or row number;
//! - [`strategy`] turns a row into samples, one module for each `type:` of the
//!   configuration;
//! - [`ChatTemplate`] renders conversations in the dialect of Hugging Face;
//! - [`Tokenizer`] is a Hugging Face tokenizer folder;
//! - [`prepare`] is the pipeline, [`Ledger`] its account of every row and token,
//!   [`export_jsonl`] the way to look at the result.
//!
//! Invariants: rows keep the order of their files, whatever the number of
//! threads; nothing is dropped without a line in the ledger; every error names
//! the file, and the line or row where there is one.

mod error;
mod export;
mod ledger;
mod prepare;
pub mod source;
pub mod strategy;
mod template;
mod tokenizer;

pub use error::{DataError, Place};
pub use export::export_jsonl;
pub use ledger::{Count, DatasetLedger, DropReason, Ledger, Totals};
pub use prepare::{Prepared, prepare};
pub use template::ChatTemplate;
pub use tokenizer::{Encoded, Tokenizer};
