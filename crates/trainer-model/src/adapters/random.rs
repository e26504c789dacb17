//! Numbers that are a function of a seed and a place.

/// SplitMix64 (Steele, Lea and Flood 2014) as a hash: independent numbers for
/// different words.
pub(crate) fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A seed for one of the uses of `seed`, by its name: FNV-1a of the name, mixed.
pub(crate) fn seed_of(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    mix(mix(seed) ^ hash)
}

/// Number `index` of `seed`, uniform in [0, 1).
pub(crate) fn uniform(seed: u64, index: u64) -> f64 {
    (mix(seed.wrapping_add(mix(index))) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Number `index` of `seed`, from N(0, 1), by the transform of Box and Muller.
pub(crate) fn normal(seed: u64, index: u64) -> f64 {
    // 1 - u is never zero.
    let radius = (-2.0 * (1.0 - uniform(seed, 2 * index)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(seed, 2 * index + 1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of many draws are those of the distribution.
    #[test]
    fn moments() {
        let n = 100_000;
        let moments = |draw: &dyn Fn(u64) -> f64| {
            let values: Vec<f64> = (0..n).map(draw).collect();
            let mean = values.iter().sum::<f64>() / n as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            (mean, variance)
        };
        let (mean, variance) = moments(&|i| uniform(7, i));
        assert!((mean - 0.5).abs() < 5e-3 && (variance - 1.0 / 12.0).abs() < 2e-3);
        let (mean, variance) = moments(&|i| normal(seed_of(7, "a"), i));
        assert!(mean.abs() < 2e-2 && (variance - 1.0).abs() < 2e-2);
    }
}
