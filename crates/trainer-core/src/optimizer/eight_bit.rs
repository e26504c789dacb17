//! State in 8 bits: blocks of 256 values with one scale each, and codes that are
//! dense near zero.
//!
//! The codes are bitsandbytes' dynamic map (arXiv 2110.02861, section 2.2): seven
//! decades below the largest value of a block, each with twice as many codes as
//! the one below, and codes for zero and the largest value itself. A value takes
//! the code nearest to it. One thing differs: a positive second moment never
//! becomes zero, since the step divides by its root; it takes the smallest code.

use std::sync::LazyLock;

use trainer_model::dynamic_map;

/// Values that share a scale.
pub(super) const BLOCK: usize = 256;

/// Values in 8 bits.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    signed: bool,
    pub(super) codes: Vec<u8>,
    /// The largest magnitude of each block.
    pub(super) scales: Vec<f32>,
}

/// Whole blocks out of [`Codes`].
#[derive(Debug)]
pub(super) struct Part<'a> {
    map: &'static Map,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Codes {
    pub(super) fn zeros(n: usize, signed: bool) -> Self {
        let zero = if signed { SIGNED.zero } else { UNSIGNED.zero };
        Self {
            signed,
            codes: vec![zero; n],
            scales: vec![0.0; n.div_ceil(BLOCK)],
        }
    }

    /// Bytes of `n` values.
    pub(super) fn bytes(n: usize) -> u64 {
        (n + 4 * n.div_ceil(BLOCK)) as u64
    }

    /// Parts of `size` values each, whole blocks; the last may be shorter.
    pub(super) fn chunks_mut(&mut self, size: usize) -> impl Iterator<Item = Part<'_>> {
        let map: &'static Map = if self.signed { &SIGNED } else { &UNSIGNED };
        let scales = self.scales.chunks_mut(size / BLOCK);
        let parts = self.codes.chunks_mut(size).zip(scales);
        parts.map(move |(codes, scales)| Part { map, codes, scales })
    }
}

impl Part<'_> {
    pub(super) fn unpack(&self) -> Vec<f32> {
        let blocks = self.codes.chunks(BLOCK).zip(self.scales.iter());
        let values = blocks.flat_map(|(codes, &scale)| {
            codes
                .iter()
                .map(move |&code| self.map.values[usize::from(code)] * scale)
        });
        values.collect()
    }

    pub(super) fn pack(&mut self, values: &[f32]) {
        let blocks = self.codes.chunks_mut(BLOCK).zip(self.scales.iter_mut());
        for ((codes, scale), values) in blocks.zip(values.chunks(BLOCK)) {
            // By their bits magnitudes are in order, and NaN is the largest: a comparison of
            // numbers would leave it out, and a code would make a number of it.
            let magnitudes = values.iter().map(|value| value.abs().to_bits());
            *scale = f32::from_bits(magnitudes.max().unwrap_or(0));
            if *scale == 0.0 {
                codes.fill(self.map.zero);
                continue;
            }
            for (code, value) in codes.iter_mut().zip(values) {
                *code = self.map.nearest(value / *scale);
            }
        }
    }
}

static SIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(true));
static UNSIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(false));

/// The value of each code, and the way back.
#[derive(Debug)]
struct Map {
    /// Ascending, from -1 or 0 to 1.
    values: Vec<f32>,
    /// The code of zero.
    zero: u8,
    /// Midpoints between neighbours from zero up; infinite after the last.
    middles: Vec<f32>,
    /// Midpoints at or below the smallest number that begins with these 16 bits:
    /// sign, exponent and 7 bits of the fraction. No such interval holds two.
    below: Vec<u8>,
    signed: bool,
}

impl Map {
    fn new(signed: bool) -> Self {
        let values = dynamic_map(signed);
        let zero = values.iter().take_while(|value| **value < 0.0).count();
        let mut middles: Vec<f32> = values[zero..]
            .windows(2)
            .map(|pair| (pair[0] + pair[1]) / 2.0)
            .collect();
        middles.push(f32::INFINITY);
        let last = 1f32.to_bits() >> 16;
        let below = (0..=last).map(|head| {
            let smallest = f32::from_bits(head << 16);
            middles.partition_point(|middle| *middle <= smallest) as u8
        });
        Self {
            below: below.collect(),
            zero: zero as u8,
            values,
            middles,
            signed,
        }
    }

    /// The code nearest to a number from -1 to 1.
    fn nearest(&self, number: f32) -> u8 {
        let magnitude = number.abs();
        let head = (magnitude.to_bits() >> 16) as usize;
        let below = self.below[head.min(self.below.len() - 1)];
        let steps = below + u8::from(magnitude > self.middles[usize::from(below)]);
        if !self.signed {
            return steps.max(u8::from(magnitude > 0.0));
        }
        if number < 0.0 {
            // There is one code fewer on this side: none for -1.
            self.zero - steps.min(self.zero)
        } else {
            self.zero + steps
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_those_of_bitsandbytes() {
        let recorded: std::collections::BTreeMap<String, Vec<f32>> =
            serde_json::from_str(include_str!("golden/dynamic_map.json")).unwrap();
        assert_eq!(SIGNED.values, recorded["signed"]);
        assert_eq!(UNSIGNED.values, recorded["unsigned"]);
        assert_eq!((SIGNED.zero, UNSIGNED.zero), (127, 0));
    }

    #[test]
    fn no_interval_holds_two_midpoints() {
        for map in [&SIGNED, &UNSIGNED] {
            for pair in map.below.windows(2) {
                assert!(pair[1] - pair[0] <= 1);
            }
        }
    }

    /// A positive value stays positive, whatever shares its block.
    #[test]
    fn a_second_moment_does_not_vanish() {
        let mut codes = Codes::zeros(300, false);
        let mut values = vec![0.0; 300];
        (values[0], values[1], values[299]) = (1e3, 1e-12, 1e-30);
        for mut part in codes.chunks_mut(2 * BLOCK) {
            part.pack(&values);
            let back = part.unpack();
            assert_eq!((back[0], back[2]), (1e3, 0.0));
            assert!(back[1] > 0.0 && back[299] > 0.0);
        }
    }

    /// What is not finite does not become a number.
    #[test]
    fn a_nan_stays_one() {
        for signed in [true, false] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let mut codes = Codes::zeros(BLOCK, signed);
                let mut values = vec![0.5; BLOCK];
                values[7] = bad;
                for mut part in codes.chunks_mut(BLOCK) {
                    part.pack(&values);
                    assert!(!part.unpack()[7].is_finite(), "{bad}");
                }
            }
        }
    }

    /// Any number takes the nearest code, and codes take themselves.
    #[test]
    fn nearest() {
        for map in [&SIGNED, &UNSIGNED] {
            for (code, value) in map.values.iter().enumerate() {
                assert_eq!(usize::from(map.nearest(*value)), code);
            }
            let numbers = (0..=1f32.to_bits()).step_by(9973).map(f32::from_bits);
            let negative = numbers.clone().filter(|_| map.signed).map(|x| -x);
            for number in numbers.chain(negative) {
                let found = map.values[usize::from(map.nearest(number))];
                let distance = |value: &f32| (value - number).abs();
                let best = map.values.iter().map(distance).fold(1.0, f32::min);
                let lifted = !map.signed && number > 0.0 && found == map.values[1];
                assert!(
                    distance(&found) <= best * 1.000_001 || lifted,
                    "{number}: {found}"
                );
            }
        }
    }
}
