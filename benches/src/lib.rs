//! Criterion benches of the workspace's crates, and the data they work on.

use rand::Rng;
use seqprep::{Sample, SplitMix64};

/// Tokens in a packed row.
pub const CAPACITY: u32 = 4096;

/// `exp(N(6, 1))`, clipped to 16..=4096: a mean of about 645 tokens.
#[must_use]
pub fn log_normal_lengths(count: usize) -> Vec<u32> {
    let mut rng = SplitMix64::new(0);
    let mut unit = move || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    (0..count)
        .map(|_| {
            // Box-Muller; 1 − u is never 0.
            let radius = (-2.0 * (1.0 - unit()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * unit()).cos();
            (6.0 + normal).exp().clamp(16.0, f64::from(CAPACITY)) as u32
        })
        .collect()
}

/// Samples of these lengths, of which the first third is masked.
#[must_use]
pub fn samples(lengths: &[u32]) -> Vec<Sample> {
    let sample = |&len: &u32| {
        let mut sample = Sample::all_trained((0..len).collect());
        sample.labels[..len as usize / 3].fill(seqprep::IGNORE_INDEX);
        sample
    };
    lengths.iter().map(sample).collect()
}
