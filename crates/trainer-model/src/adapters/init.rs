//! First values of the factors.

use super::config::LoraInit;
use super::random::{normal, seed_of, uniform};

/// `A`, `[rank, in]`, and `B`, `[out, rank]`, for `[out, rank, in]`: drawn from a
/// seed and the name of the map, so that they do not depend on the other maps.
pub(super) fn factors(
    init: LoraInit,
    [output, rank, input]: [usize; 3],
    seed: u64,
    name: &str,
) -> (Vec<f32>, Vec<f32>) {
    let seed = seed_of(seed, name);
    let draw: Box<dyn Fn(u64) -> f64> = match init {
        LoraInit::Default => {
            let bound = 1.0 / (input as f64).sqrt();
            Box::new(move |index| (2.0 * uniform(seed, index) - 1.0) * bound)
        }
        LoraInit::Gaussian => Box::new(move |index| normal(seed, index) / rank as f64),
    };
    let a = (0..(rank * input) as u64).map(|index| draw(index) as f32);
    (a.collect(), vec![0.0; output * rank])
}
