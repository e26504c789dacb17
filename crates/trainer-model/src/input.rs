//! A batch of tokens as the decoder takes it: ids, rotary tables and where each
//! token's document starts, built from plain slices of the host.
//!
//! Invariant: a token attends to itself at least, so no softmax row is empty.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::rotary::RopeTables;

/// Tokens of a batch on the host, row-major `[rows, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row, padding included.
    pub width: usize,
    /// Token ids, each below the vocabulary size.
    pub input_ids: &'a [u32],
    /// Position of each token in its document.
    pub position_ids: &'a [u32],
    /// Document of each token within its row; 0 is padding. Tokens attend only
    /// within their document.
    pub segment_ids: &'a [u32],
}

/// Tokens of a batch on the device.
#[derive(Debug, Clone)]
pub struct ModelInput {
    pub(crate) ids_bt: Tensor<2, Int>,
    pub(crate) rope: RopeTables,
    /// First token that each token sees: where its document starts.
    pub(crate) starts_bt: Tensor<2, Int>,
}

impl ModelInput {
    /// Moves a batch to `device`.
    #[must_use]
    pub fn new(tokens: &Tokens<'_>, frequencies: &[f32], device: &Device) -> Self {
        let (rows, width) = (tokens.rows, tokens.width);
        // Documents are runs of one segment id; padding is one of them.
        let mut starts = Vec::with_capacity(rows * width);
        for segments in tokens.segment_ids.chunks(width.max(1)) {
            let mut start = 0;
            for (token, segment) in segments.iter().enumerate() {
                if token > 0 && *segment != segments[token - 1] {
                    start = token as u32;
                }
                starts.push(start);
            }
        }
        Self {
            ids_bt: ids(tokens.input_ids, rows, width, device),
            rope: RopeTables::new(tokens.position_ids, rows, width, frequencies, device),
            starts_bt: ids(&starts, rows, width, device),
        }
    }

    /// One more token for every row, which sees the cached ones from its
    /// `start`: those before it are padding.
    #[must_use]
    pub(crate) fn step(
        next_ids: &[u32],
        positions: &[u32],
        starts: &[u32],
        frequencies: &[f32],
        device: &Device,
    ) -> Self {
        let rows = next_ids.len();
        Self {
            ids_bt: ids(next_ids, rows, 1, device),
            rope: RopeTables::new(positions, rows, 1, frequencies, device),
            starts_bt: ids(starts, rows, 1, device),
        }
    }
}

fn ids(ids: &[u32], rows: usize, width: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(ids, [rows, width]), device)
}
