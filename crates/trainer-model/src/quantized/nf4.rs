//! NF4 with double quantization (arXiv 2305.14314, section 3): blocks of 64 numbers
//! share a scale, their largest magnitude; a code of 4 bits stands for one of 16
//! quantiles of a normal distribution, times the scale. The scales of 256 blocks,
//! less the mean of all of them, are codes of the dynamic map of 8 bits, times their
//! own largest magnitude.
//!
//! Blocks follow one another through the rows of a matrix; one may hold the end of a
//! row and the beginning of the next.

use super::dynamic::Signed;
use super::peak;

/// Numbers that share a scale.
const BLOCK: usize = 64;

/// Scales that share a scale.
const SCALES: usize = 256;

/// What is taken for the scale of a block of zeros when dividing by it.
const TINY: f32 = 1e-38;

/// Quantiles of the normal distribution, from the paper's appendix E: what each
/// code stands for in a block whose scale is 1.
const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Bytes of `n` numbers with their scales.
pub(super) fn bytes_of(n: usize) -> usize {
    let scales = n.div_ceil(BLOCK);
    n.div_ceil(2) + scales + 4 * (scales.div_ceil(SCALES) + 1)
}

/// Numbers in 4 bits.
#[derive(Debug, Clone)]
pub(super) struct Nf4 {
    /// Two a byte, the first in the high half.
    codes: Vec<u8>,
    /// A code for the scale of each block.
    scales: Vec<u8>,
    /// The largest magnitude of the scales of 256 blocks, less the mean.
    peaks: Vec<f32>,
    /// The mean of all scales.
    mean: f32,
}

impl Nf4 {
    pub(super) fn new(values: &[f32]) -> Self {
        let scales: Vec<f32> = values.chunks(BLOCK).map(peak).collect();
        let mut middles = [0.0; 15];
        for (middle, pair) in middles.iter_mut().zip(LEVELS.windows(2)) {
            *middle = (pair[0] + pair[1]) / 2.0;
        }
        let code = |scaled: f32| middles.iter().filter(|middle| scaled > **middle).count() as u8;
        let mut codes = vec![0; values.len().div_ceil(2)];
        let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2));
        for ((values, codes), scale) in blocks.zip(&scales) {
            let scale = scale.max(TINY);
            let inverse = 1.0 / scale;
            // bitsandbytes multiplies, and divides in a block that is not whole.
            let scaled = |value: f32| match values.len() {
                BLOCK => (value * inverse).clamp(-1.0, 1.0),
                _ => (value / scale).clamp(-1.0, 1.0),
            };
            for (pair, both) in values.chunks(2).zip(codes) {
                let second = pair.get(1).copied().unwrap_or(0.0);
                *both = code(scaled(pair[0])) << 4 | code(scaled(second));
            }
        }

        let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
        let mean = (sum / scales.len().max(1) as f64) as f32;
        let map = Signed::get();
        let mut peaks = Vec::with_capacity(scales.len().div_ceil(SCALES));
        let mut scale_codes = Vec::with_capacity(scales.len());
        for scales in scales.chunks(SCALES) {
            let centred: Vec<f32> = scales.iter().map(|scale| scale - mean).collect();
            let peak = peak(&centred);
            peaks.push(peak);
            // All scales alike: none is away from the mean.
            let divisor = if peak > 0.0 { peak } else { 1.0 };
            scale_codes.extend(centred.iter().map(|scale| map.code(scale / divisor)));
        }
        Self {
            codes,
            scales: scale_codes,
            peaks,
            mean,
        }
    }

    fn scale(&self, block: usize) -> f32 {
        Signed::get().value(self.scales[block]) * self.peaks[block / SCALES] + self.mean
    }

    /// The numbers from `start` on.
    pub(super) fn read(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / BLOCK;
            let n = ((block + 1) * BLOCK - at).min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            let scale = self.scale(block);
            let levels = LEVELS.map(|level| level * scale);
            if at.is_multiple_of(2) {
                let pairs = now.chunks_mut(2).zip(&self.codes[at / 2..]);
                for (pair, both) in pairs {
                    pair[0] = levels[usize::from(both >> 4)];
                    if let Some(second) = pair.get_mut(1) {
                        *second = levels[usize::from(both & 15)];
                    }
                }
            } else {
                for (index, value) in (at..).zip(now) {
                    let both = self.codes[index / 2];
                    let code = if index % 2 == 0 { both >> 4 } else { both & 15 };
                    *value = levels[usize::from(code)];
                }
            }
            at += n;
            rest = later;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len() + 4 * (self.peaks.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::quantized::int8::Int8;

    fn bytes(value: &Value) -> Vec<u8> {
        let text = value.as_str().unwrap();
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    fn numbers(value: &Value) -> Vec<f32> {
        let items = value.as_array().unwrap().iter();
        items.map(|x| x.as_f64().unwrap() as f32).collect()
    }

    /// The weights that `scripts/record_quantization.py` quantizes.
    fn weights(n: usize) -> Vec<f32> {
        let number = |i: u64| {
            let word = (i * 2_654_435_761) % (1 << 32);
            let uniform = word as f64 / f64::from(1 << 16).powi(2) - 0.5;
            (uniform * (1.0 + (i / 64 % 37) as f64) * 0.01) as f32
        };
        (0..n as u64).map(number).collect()
    }

    /// Codes and numbers are those of bitsandbytes on the CPU, to the bit; but the mean
    /// of all scales may differ by its rounding, and what depends on it likewise.
    #[test]
    fn codes_are_those_of_bitsandbytes() {
        let recorded = include_str!("../../tests/quantized/bitsandbytes.json");
        let recorded: Value = serde_json::from_str(recorded).unwrap();
        let values = weights(recorded["numbers"].as_u64().unwrap() as usize);
        let nf4 = Nf4::new(&values);
        assert!(nf4.codes == bytes(&recorded["nf4"]["codes"]));
        assert!(nf4.scales == bytes(&recorded["nf4"]["scales"]));
        let mean = recorded["nf4"]["mean"].as_f64().unwrap() as f32;
        assert!((nf4.mean - mean).abs() <= mean * f32::EPSILON);
        for (ours, theirs) in nf4.peaks.iter().zip(numbers(&recorded["nf4"]["peaks"])) {
            assert!((ours - theirs).abs() <= 2.0 * mean * f32::EPSILON);
        }
        let sample = recorded["sample"].as_u64().unwrap() as usize;
        let every = |values: &[f32]| values.iter().copied().step_by(sample).collect::<Vec<_>>();
        let mut back = vec![0.0; values.len()];
        nf4.read(0, &mut back);
        let theirs = numbers(&recorded["nf4"]["values"]);
        for (ours, theirs) in every(&back).iter().zip(&theirs) {
            assert!((ours - theirs).abs() <= 4.0 * mean * f32::EPSILON);
        }

        let columns = recorded["columns"].as_u64().unwrap() as usize;
        let whole = values.len() - values.len() % columns;
        let int8 = Int8::new(&values[..whole], columns);
        let codes: Vec<u8> = int8
            .codes()
            .iter()
            .map(|code| code.cast_unsigned())
            .collect();
        assert!(codes == bytes(&recorded["int8"]["codes"]));
        let mut back = vec![0.0; whole];
        int8.read(0, columns, &mut back);
        assert_eq!(every(&back), numbers(&recorded["int8"]["values"]));
    }
}
