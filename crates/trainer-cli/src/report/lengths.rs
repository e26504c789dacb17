//! How many samples are how long: bars of equal width between round numbers.

/// Bars at most, so that the shape is seen at a glance.
const BARS: usize = 16;

/// Lengths from the first to the second, and how many samples have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) samples: usize,
}

/// Bars for all lengths between the shortest and the longest; widths are 1, 2 or 5
/// times a power of ten.
pub(super) fn bars(lengths: &[usize]) -> Vec<Bar> {
    let (Some(&shortest), Some(&longest)) = (lengths.iter().min(), lengths.iter().max()) else {
        return Vec::new();
    };
    let groups = |width: usize| (longest / width - shortest / width).saturating_add(1);
    let powers = (0..usize::BITS).map_while(|power| 10_usize.checked_pow(power));
    let mut widths = powers.flat_map(|power| [1, 2, 5].map(|of| power.saturating_mul(of)));
    let width = widths.find(|width| groups(*width) <= BARS);
    let width = width.unwrap_or(longest.max(1));
    let start = shortest / width;
    let mut bars: Vec<Bar> = (start..start + groups(width))
        .map(|group| Bar {
            first: group * width,
            last: (group * width).saturating_add(width - 1),
            samples: 0,
        })
        .collect();
    for length in lengths {
        bars[length / width - start].samples += 1;
    }
    bars
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widths_are_round() {
        let of = |lengths: &[usize]| -> Vec<(usize, usize, usize)> {
            let bars = bars(lengths);
            bars.iter()
                .map(|bar| (bar.first, bar.last, bar.samples))
                .collect()
        };
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[7, 7]), [(7, 7, 2)]);
        assert_eq!(of(&[7, 9]), [(7, 7, 1), (8, 8, 0), (9, 9, 1)]);
        let wide = of(&[84, 138, 256]);
        assert_eq!((wide[0], wide.len()), ((80, 99, 1), 9));
        assert!(of(&[0, usize::MAX]).len() <= BARS);
    }

    proptest! {
        #[test]
        fn every_sample_is_in_its_bar(lengths in prop::collection::vec(0..100_000_usize, 1..200)) {
            let bars = bars(&lengths);
            prop_assert!(bars.len() <= BARS);
            for bar in &bars {
                let range = bar.first..=bar.last;
                let inside = lengths.iter().filter(|length| range.contains(length)).count();
                prop_assert_eq!(inside, bar.samples);
            }
            let samples: usize = bars.iter().map(|bar| bar.samples).sum();
            prop_assert_eq!(samples, lengths.len());
        }
    }
}
