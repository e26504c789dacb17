//! Random numbers of generation: SplitMix64 (Steele, Lea and Flood 2014), one
//! stream for each row, so that a row's draws do not depend on its neighbours.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(super) struct RowRandom {
    state: u64,
}

impl RowRandom {
    /// The stream of a row under a seed; streams of different rows have nothing
    /// in common.
    pub(super) fn new(seed: u64, row: u64) -> Self {
        let start = mix(seed.wrapping_add(GOLDEN));
        Self {
            state: mix(start ^ row.wrapping_add(1).wrapping_mul(GOLDEN)),
        }
    }

    /// A number from 0 (included) to 1 (not included), in steps of 2⁻⁵³.
    pub(super) fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(GOLDEN);
        (mix(self.state) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::RowRandom;

    #[test]
    fn streams_are_even_and_apart() {
        let draw = |seed, row| {
            let mut random = RowRandom::new(seed, row);
            (0..4000).map(|_| random.uniform()).collect::<Vec<f64>>()
        };
        for (seed, row) in [(0, 0), (0, 1), (42, 0), (u64::MAX, 7)] {
            let numbers = draw(seed, row);
            assert_eq!(numbers, draw(seed, row));
            assert_ne!(numbers, draw(seed, row + 1));
            assert_ne!(numbers, draw(seed.wrapping_add(1), row));
            let mean = numbers.iter().sum::<f64>() / 4000.0;
            assert!((mean - 0.5).abs() < 0.03, "{mean}");
            let low = numbers.iter().filter(|x| **x < 0.25).count();
            assert!((850..1150).contains(&low), "{low}");
            assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        }
    }
}
