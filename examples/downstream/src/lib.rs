//! What a project that builds on these crates writes itself: the tokenizer of one crate as
//! the trainer of another takes it. Neither knows the other, so this stands where both meet.
//!
//! `tests/alone` has one module for each crate, which uses nothing of the workspace but that
//! crate.

use std::error::Error;
use std::path::Path;

use trainer_core::TrainerTokenizer;
use trainer_data::Tokenizer;

/// A tokenizer of `trainer-data` beside a trainer of `trainer-core`.
#[derive(Debug)]
pub struct SavedTokenizer(pub Tokenizer);

impl TrainerTokenizer for SavedTokenizer {
    fn pad_id(&self) -> u32 {
        self.0.pad_id().unwrap_or(0)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, Box<dyn Error + Send + Sync>> {
        Ok(self.0.decode(ids, false)?)
    }

    fn save(&self, folder: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.0.save(folder)?)
    }
}
