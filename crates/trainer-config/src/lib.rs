#![doc = include_str!("../README.md")]

mod check;
mod diagnostic;
mod json_schema;
mod keys;
mod layers;
mod load;
mod render;
mod rules;
mod scalar;
mod schema;
mod shape;
mod source;
mod split;
mod strategy;
mod sweep;
mod validate;
mod yaml;

pub use diagnostic::{ConfigErrors, Diagnostic, Label, Origin, Severity};
pub use json_schema::json_schema;
pub use load::{Examined, Layers, Loaded, Origins, examine, load, load_str};
pub use schema::*;
pub use split::{Bound, SplitPart, SplitSpec};
pub use strategy::{
    FORMAT_NAMES, Format, FormatError, PreferenceLayout, PromptStrategy, UserDefined,
};
pub use sweep::{SweepRun, load_sweep};
