//! Noise on embeddings in training: NEFTune (arXiv 2310.05914, algorithm 1).
//!
//! `x + α / √(L · d) · ε`, with `ε` uniform in `[-1, 1)`, `d` the model width and `L`
//! the length of the document that a token belongs to: neither padding nor the other
//! documents of a packed row count, so that a document is disturbed as much in any
//! company. Padding gets none.
//!
//! The noise is a function of the seed of the forward pass and of the place in the
//! batch, so that a pass that is computed twice sees the same noise, and a resumed run
//! that of the uninterrupted one.
//!
//! Shape suffixes: `b` rows, `t` tokens, `d` model width.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::adapters::random::{seed_of, uniform};

/// `x_btd` with noise of strength `alpha`. `lengths` holds, row-major, the length of
/// each token's document, 0 for padding.
pub(crate) fn with_noise(x_btd: Tensor<3>, alpha: f64, seed: u64, lengths: &[u32]) -> Tensor<3> {
    let dims = x_btd.dims();
    let width = dims[2];
    let seed = seed_of(seed, "embedding noise");
    let mut noise = Vec::with_capacity(lengths.len() * width);
    for (token, &length) in lengths.iter().enumerate() {
        let largest = match length {
            0 => 0.0,
            length => alpha / (f64::from(length) * width as f64).sqrt(),
        };
        let first = (token * width) as u64;
        let ones = (first..first + width as u64).map(|index| 2.0 * uniform(seed, index) - 1.0);
        noise.extend(ones.map(|one| (largest * one) as f32));
    }
    let device = x_btd.device().without_autodiff();
    let dtype = x_btd.dtype();
    x_btd + Tensor::from_data(TensorData::new(noise, dims), (&device, dtype))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::ModelConfig;
    use crate::decoder::Decoder;
    use crate::input::{ModelInput, Tokens};

    const ALPHA: f64 = 5.0;

    /// What the first layer takes, for rows of documents and padding.
    fn embedded(decoder: &Decoder, segment_ids: &[u32], width: usize, seed: u64) -> Vec<f32> {
        let zeros = vec![0; segment_ids.len()];
        let tokens = Tokens {
            rows: segment_ids.len() / width,
            width,
            input_ids: &zeros,
            position_ids: &zeros,
            segment_ids,
        };
        let input: ModelInput = decoder.input(&tokens).with_dropout(seed);
        decoder.embed(&input).into_data().iter().collect()
    }

    /// Of each document the noise fills the interval that its own length gives,
    /// whatever shares its row; padding has none.
    #[test]
    fn each_document_has_the_noise_of_its_length() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = folder.join("../trainer-cli/tests/parity/models/llama");
        let config = ModelConfig::from_folder(&folder, None).unwrap();
        let d = config.hidden_size;
        let device = Device::default();
        let decoder = Decoder::new(&config, &device).with_embedding_noise(ALPHA);
        // Two documents of 4 and 9 tokens and padding; one of 16.
        let mut segment_ids = vec![1; 4];
        segment_ids.extend([2; 9]);
        segment_ids.extend([0; 3]);
        segment_ids.extend([1; 16]);
        let silent = decoder.clone().with_embedding_noise(0.0);
        let before = embedded(&silent, &segment_ids, 16, 1);
        let noise = |seed| -> Vec<f64> {
            let after = embedded(&decoder, &segment_ids, 16, seed);
            let pairs = after.iter().zip(&before);
            pairs.map(|(a, b)| f64::from(a - b)).collect()
        };
        let drawn = noise(1);
        for (tokens, length) in [(0..4, 4), (4..13, 9), (16..32, 16)] {
            let largest = ALPHA / f64::from(length * d as i32).sqrt();
            let part: Vec<f64> = drawn[tokens.start * d..tokens.end * d]
                .iter()
                .map(|x| x / largest)
                .collect();
            let n = part.len() as f64;
            let mean = part.iter().sum::<f64>() / n;
            let variance = part.iter().map(|x| x * x).sum::<f64>() / n;
            assert!(part.iter().all(|x| x.abs() <= 1.0 + 1e-5));
            // Of a uniform distribution on [-1, 1], within four standard errors.
            assert!(mean.abs() < 4.0 / (3.0 * n).sqrt(), "{length}: {mean}");
            assert!(
                (variance - 1.0 / 3.0).abs() < 4.0 * 0.3 / n.sqrt(),
                "{length}: {variance}"
            );
        }
        assert!(drawn[13 * d..16 * d].iter().all(|x| *x == 0.0));
        assert_eq!(noise(1), drawn);
        assert_ne!(noise(2), drawn);
    }
}
