//! A batch of tokens as the decoder takes it: ids, rotary tables and the first
//! token that each token sees, built from plain slices of the host.
//!
//! Invariant: a token attends to itself at least, so no softmax row is empty.
//!
//! Shape suffixes: `b` rows, `t` query tokens, `s` key tokens.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::config::ModelConfig;
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

impl Tokens<'_> {
    /// Flat index (`row · width + token`) of the last token of each document, in
    /// order: runs of one segment id other than 0.
    #[must_use]
    pub fn document_ends(&self) -> Vec<u32> {
        let width = self.width.max(1);
        let mut ends = Vec::new();
        for (row, segments) in self.segment_ids.chunks(width).enumerate() {
            for (token, &segment) in segments.iter().enumerate() {
                if segment != 0 && segments.get(token + 1) != Some(&segment) {
                    ends.push((row * width + token) as u32);
                }
            }
        }
        ends
    }
}

/// Tokens of a batch on the device.
#[derive(Debug, Clone)]
pub struct ModelInput {
    pub(crate) ids_bt: Tensor<2, Int>,
    /// One for each of [`ModelConfig::ropes`].
    pub(crate) ropes: Vec<RopeTables>,
    /// First token that each token sees, by the window of a layer.
    starts_bt: Vec<(Option<usize>, Tensor<2, Int>)>,
    /// Which tokens are no padding, row-major.
    pub(crate) real: Vec<bool>,
    /// Length of each token's document, row-major; 0 for padding.
    pub(crate) lengths: Vec<u32>,
    /// Seed of this forward pass's dropout and noise; `None` turns both off.
    pub(crate) dropout_seed: Option<u64>,
}

impl ModelInput {
    /// Moves a batch to `device`.
    #[must_use]
    pub fn new(tokens: &Tokens<'_>, config: &ModelConfig, device: &Device) -> Self {
        let width = tokens.width;
        // Documents are runs of one segment id; padding is one of them.
        let mut starts = Vec::with_capacity(tokens.rows * width);
        let mut lengths = Vec::with_capacity(tokens.rows * width);
        for segments in tokens.segment_ids.chunks(width.max(1)) {
            let mut start = 0;
            for document in segments.chunk_by(|a, b| a == b) {
                let length = document.len();
                starts.extend(std::iter::repeat_n(start, length));
                start += length as u32;
                let real = if document[0] == 0 { 0 } else { length as u32 };
                lengths.extend(std::iter::repeat_n(real, length));
            }
        }
        Self {
            lengths,
            ..Self::build(tokens, &starts, 0, config, device)
        }
    }

    /// The batch for a forward pass in training: dropout, and noise on embeddings, are
    /// on where the model has them, and follow from `seed` alone.
    #[must_use]
    pub fn with_dropout(mut self, seed: u64) -> Self {
        self.dropout_seed = Some(seed);
        self
    }

    /// One more token for every row, at place `past` among the cached ones, which
    /// it sees from its `start`: those before it are padding.
    #[must_use]
    pub(crate) fn step(
        next_ids: &[u32],
        positions: &[u32],
        starts: &[u32],
        past: usize,
        config: &ModelConfig,
        device: &Device,
    ) -> Self {
        let tokens = Tokens {
            rows: next_ids.len(),
            width: 1,
            input_ids: next_ids,
            position_ids: positions,
            segment_ids: &vec![1; next_ids.len()],
        };
        Self::build(&tokens, starts, past, config, device)
    }

    /// `starts` holds where each token's document starts; `past` tokens of each
    /// row come before those given.
    fn build(
        tokens: &Tokens<'_>,
        starts: &[u32],
        past: usize,
        config: &ModelConfig,
        device: &Device,
    ) -> Self {
        let (rows, width) = (tokens.rows, tokens.width);
        let mut starts_bt: Vec<(Option<usize>, _)> = Vec::new();
        for window in config.layers.iter().map(|layer| layer.window) {
            if starts_bt.iter().any(|(known, _)| *known == window) {
                continue;
            }
            let seen = starts.iter().enumerate().map(|(index, &start)| {
                let place = past + index % width;
                match window {
                    Some(window) => start.max((place + 1).saturating_sub(window) as u32),
                    None => start,
                }
            });
            starts_bt.push((window, ids(seen, rows, width, device)));
        }
        let table = |rope| RopeTables::new(tokens.position_ids, rows, width, rope, device);
        Self {
            ids_bt: ids(tokens.input_ids.iter().copied(), rows, width, device),
            ropes: config.ropes.iter().map(table).collect(),
            starts_bt,
            real: tokens.segment_ids.iter().map(|&id| id != 0).collect(),
            lengths: Vec::new(),
            dropout_seed: None,
        }
    }

    /// The batch as constants to operations that are recorded.
    pub(crate) fn without_autodiff(self) -> Self {
        let tables = self.ropes.into_iter().map(RopeTables::without_autodiff);
        let starts = self.starts_bt.into_iter();
        Self {
            ids_bt: self.ids_bt.without_autodiff(),
            ropes: tables.collect(),
            starts_bt: starts
                .map(|(window, starts_bt)| (window, starts_bt.without_autodiff()))
                .collect(),
            real: self.real,
            lengths: self.lengths,
            dropout_seed: self.dropout_seed,
        }
    }

    /// First token that each token sees through a window.
    pub(crate) fn starts(&self, window: Option<usize>) -> Tensor<2, Int> {
        let found = self.starts_bt.iter().find(|(known, _)| *known == window);
        let (_, starts_bt) = found.expect("made for the window of every layer");
        starts_bt.clone()
    }
}

fn ids(
    ids: impl Iterator<Item = u32>,
    rows: usize,
    width: usize,
    device: &Device,
) -> Tensor<2, Int> {
    let ids: Vec<i64> = ids.map(i64::from).collect();
    Tensor::from_data(TensorData::new(ids, [rows, width]), device)
}
