//! Seeds and orders: which row comes when.
//!
//! Invariants: nothing here reads the clock, the thread or a global state; an
//! order is a function of its length and seed alone, and stays the same in
//! every version of this crate, because the generator is part of the contract
//! (the tests pin its values). An order holds each index exactly once.

use std::convert::Infallible;

use rand::{Rng, TryRng};

/// SplitMix64 (Steele, Lea and Flood 2014): a counter in steps of the golden
/// ratio, hashed by Stafford's 13th mixer. Passes BigCrush, has a period of
/// 2^64 and needs one word of state. Implements the traits of `rand`, so that
/// its distributions can draw from a [`SeedStream`] too.
///
/// Not for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMix64 {
    state: u64,
}

const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl SplitMix64 {
    /// A generator that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A uniform number in `0..=max`, without bias: Lemire's multiplication
    /// with rejection (arXiv 1805.10941).
    pub fn up_to(&mut self, max: u64) -> u64 {
        let Some(range) = max.checked_add(1) else {
            return self.next_u64();
        };
        let mut product = u128::from(self.next_u64()) * u128::from(range);
        if (product as u64) < range {
            // 2^64 mod range: the draws below it would be one too many.
            let threshold = range.wrapping_neg() % range;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(range);
            }
        }
        (product >> 64) as u64
    }
}

impl TryRng for SplitMix64 {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The upper half passes more tests than the lower one.
        self.try_next_u64().map(|word| (word >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.state = self.state.wrapping_add(GOLDEN_RATIO);
        Ok(mix(self.state))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

/// Derives independent seeds from the one seed of a run.
///
/// Each use of randomness names its purpose and an index (an epoch or a row),
/// so that adding one use does not shift the numbers of another, and any row
/// can be computed alone, on any thread.
///
/// ```
/// # use seqprep::SeedStream;
/// let seeds = SeedStream::new(42);
/// assert_ne!(seeds.derive("shuffle", 0), seeds.derive("shuffle", 1));
/// assert_ne!(seeds.derive("shuffle", 0), seeds.derive("split", 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedStream {
    seed: u64,
}

impl SeedStream {
    /// The streams of the run with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed for the `index`-th use (an epoch, a row) of a purpose.
    pub fn derive(self, purpose: &str, index: u64) -> u64 {
        // FNV-1a names the purpose; the mixer then separates near values.
        let purpose = purpose.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        let stream = mix(self.seed.wrapping_add(GOLDEN_RATIO)) ^ mix(purpose);
        mix(mix(stream).wrapping_add(index.wrapping_mul(GOLDEN_RATIO)))
    }

    /// A generator for the `index`-th use of a purpose.
    pub fn rng(self, purpose: &str, index: u64) -> SplitMix64 {
        SplitMix64::new(self.derive(purpose, index))
    }
}

/// A random order of `0..len`: Fisher-Yates from the back over
/// [`SplitMix64`], every order equally likely as far as 64 bits of seed reach.
pub fn permutation(len: u32, seed: u64) -> Vec<u32> {
    let mut order = sequential_order(len);
    let mut rng = SplitMix64::new(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, rng.up_to(i as u64) as usize);
    }
    order
}

/// The order `0, 1, ..., len − 1`: a curriculum, in which the file says what
/// comes first.
pub fn sequential_order(len: u32) -> Vec<u32> {
    (0..len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_gives_its_published_values() {
        // From the reference implementation (prng.di.unimi.it/splitmix64.c).
        let mut rng = SplitMix64::new(1_234_567);
        let values: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            values,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn bounded_draws_cover_their_range_evenly() {
        let mut rng = SplitMix64::new(0);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[rng.up_to(6) as usize] += 1;
        }
        assert!(
            counts.iter().all(|c| (9_500..=10_500).contains(c)),
            "{counts:?}"
        );
        assert_eq!(rng.up_to(0), 0);
        // A range of all 64 bits has no bound to reject at.
        assert_ne!(rng.up_to(u64::MAX), rng.up_to(u64::MAX));
    }
}
