//! A batch of tokens as the decoder takes it: ids, rotary tables and the mask
//! that keeps documents apart, built from plain slices of the host.
//!
//! Invariant: a token attends to itself at least, so no softmax row is empty.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::rope::RopeTables;

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
    /// True where a token must not look; `[b or 1, 1, t, s]`.
    pub(crate) mask_b1ts: Tensor<4, Bool>,
}

impl ModelInput {
    /// Moves a batch to `device`.
    #[must_use]
    pub fn new(tokens: &Tokens<'_>, frequencies: &[f32], device: &Device) -> Self {
        let (rows, width) = (tokens.rows, tokens.width);
        // With one document a row, padded on the right, causality alone keeps
        // real tokens from padding: one mask serves all rows.
        let plain = tokens.segment_ids.chunks(width.max(1)).all(|row| {
            let length = row.iter().take_while(|&&s| s == 1).count();
            row[length..].iter().all(|&s| s == 0)
        });
        let masked_rows = if plain { 1 } else { rows };
        let mut mask = vec![true; masked_rows * width * width];
        for (row, mask) in mask.chunks_mut((width * width).max(1)).enumerate() {
            let segments = &tokens.segment_ids[row * width..(row + 1) * width];
            for query in 0..width {
                for key in 0..=query {
                    mask[query * width + key] = !plain && segments[query] != segments[key];
                }
            }
        }
        Self {
            ids_bt: ids(tokens.input_ids, rows, width, device),
            rope: RopeTables::new(tokens.position_ids, rows, width, frequencies, device),
            mask_b1ts: Tensor::from_data(
                TensorData::new(mask, [masked_rows, 1, width, width]),
                device,
            ),
        }
    }

    /// One more token for every row, after `past` cached ones of which the
    /// first `padding[row]` are padding.
    #[must_use]
    pub(crate) fn step(
        next_ids: &[u32],
        positions: &[u32],
        padding: &[usize],
        past: usize,
        frequencies: &[f32],
        device: &Device,
    ) -> Self {
        let rows = next_ids.len();
        let keys = past + 1;
        let mask: Vec<bool> = padding
            .iter()
            .flat_map(|&padding| (0..keys).map(move |key| key < padding))
            .collect();
        Self {
            ids_bt: ids(next_ids, rows, 1, device),
            rope: RopeTables::new(positions, rows, 1, frequencies, device),
            mask_b1ts: Tensor::from_data(TensorData::new(mask, [rows, 1, 1, keys]), device),
        }
    }
}

fn ids(ids: &[u32], rows: usize, width: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(ids, [rows, width]), device)
}
