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
//! - [`source`] finds the files of a data set and reads json, jsonl, csv, text,
//!   parquet and Arrow into rows, each of which knows its file and its line or
//!   row number;
//! - [`strategy`] turns a row into samples, one module for each `type:` of the
//!   configuration;
//! - [`ChatTemplate`] renders conversations in the dialect of Hugging Face;
//! - [`Tokenizer`] is a Hugging Face tokenizer folder;
//! - [`prepare_preferences`] is the same for preferences, rewards and judged steps;
//! - [`prepare`] is the pipeline, [`Ledger`] its account of every row and token;
//! - [`prepare_cached`] keeps samples in files and finds them again by the content
//!   of everything they depend on; [`explain_cache`] says why not;
//! - [`mod@stream`] gives rows without end, in bounded memory, from any place on;
//! - [`mod@preview`] shows what is trained, masked and padded, [`export_jsonl`]
//!   writes samples for other tools.
//!
//! Invariants: rows keep the order of their files, whatever the number of
//! threads; nothing is dropped without a line in the ledger; every error names
//! the file, and the line or row where there is one.

mod cache;
mod check;
mod error;
mod export;
mod ledger;
mod order;
mod pipeline;
mod preference;
mod prepare;
pub mod preview;
mod saved;
pub mod source;
pub mod strategy;
pub mod stream;
mod template;
mod tokenizer;
mod values;

pub use cache::{
    CacheOutcome, Difference, Explanation, Fingerprint, PreparedData, Samples, Search,
    explain_cache, find_prepared, find_prepared_preferences, prepare_cached,
    prepare_preferences_cached,
};
pub use check::check_data;
pub use error::{DataError, Place};
pub use export::export_jsonl;
pub use ledger::{
    Count, DatasetLedger, DropReason, Ledger, Note, SkipReason, SplitCount, Totals, Warning,
};
pub use preference::{PreferenceObjective, PreparedPreferences, plain_prompt, prepare_preferences};
pub use prepare::{BuildStrategy, Prepared, prepare, prepare_with};
pub use saved::save_to_disk;
pub use strategy::{Asked, ChatPrompts};
pub use template::ChatTemplate;
pub use tokenizer::{Encoded, GgufVocabulary, TextStream, Tokenizer};
pub use values::to_json;
