//! What a trainer needs of a tokenizer, whatever library it comes from.

use std::path::Path;

/// What a trainer needs of a tokenizer.
pub trait TrainerTokenizer: Send + Sync {
    /// Id that fills rows up; padded places are never read.
    fn pad_id(&self) -> u32;

    /// Ids that end a text besides those that the model's own files name: samples
    /// that are written while training end with the first of them.
    fn end_ids(&self) -> Vec<u32> {
        Vec::new()
    }

    /// The text of ids, special tokens included: what a sample shows.
    ///
    /// # Errors
    /// When the tokenizer cannot tell.
    fn decode(&self, ids: &[u32]) -> Result<String, Box<dyn std::error::Error + Send + Sync>>;

    /// Writes the tokenizer's files beside the trained model.
    ///
    /// # Errors
    /// What the file system reports.
    fn save(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// A tokenizer for data that is token ids and nothing else: the text of ids is the ids, and
/// there are no files to save.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdTokenizer {
    /// Id that fills rows up.
    pub pad_id: u32,
}

impl TrainerTokenizer for IdTokenizer {
    fn pad_id(&self) -> u32 {
        self.pad_id
    }

    fn decode(&self, ids: &[u32]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(format!("{ids:?}"))
    }

    fn save(&self, _: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}
