//! Frozen weights in 4 or 8 bits a number, which are numbers again only where a
//! product needs them, some rows at a time.
//!
//! Codes and their meaning are those of bitsandbytes, so that an adapter that is
//! trained here on quantized weights meets the same weights there: [`nf4`] with
//! scales that are quantized themselves, and [`int8`] with a scale a row.
//!
//! Codes stay in the memory of the host on every backend. On a GPU the numbers of
//! some rows at a time are sent to it.

mod dynamic;
mod int8;
mod nf4;

pub use dynamic::dynamic_map;
use int8::Int8;
use nf4::Nf4;

/// Numbers that are made at a time where a product needs a whole matrix.
const BLOCK_ELEMENTS: usize = 1 << 22;

/// How the weights of a frozen map are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 4 bits a number and a half a hundredth: NF4 in blocks of 64 (arXiv 2305.14314).
    Nf4,
    /// 8 bits a number, a scale a row (arXiv 2208.07339, without its treatment of
    /// activations).
    Int8,
}

impl Quantization {
    /// Bytes of a matrix of this shape, its scales included.
    #[must_use]
    pub fn bytes(self, shape: [usize; 2]) -> usize {
        let [rows, columns] = shape;
        let n = rows * columns;
        match self {
            Self::Nf4 => nf4::bytes_of(n),
            Self::Int8 => n + 4 * rows,
        }
    }
}

/// A matrix in few bits a number, row by row.
#[derive(Debug, Clone)]
pub struct QuantizedMatrix {
    shape: [usize; 2],
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Nf4(Nf4),
    Int8(Int8),
}

impl QuantizedMatrix {
    /// Quantizes `values`, row-major, of a matrix of this shape. Of numbers that are not
    /// finite come none that are: those of the row are NaN in 8 bits, all of them in 4.
    #[must_use]
    pub fn new(values: &[f32], shape: [usize; 2], quantization: Quantization) -> Self {
        debug_assert_eq!(values.len(), shape[0] * shape[1]);
        let values = match quantization {
            Quantization::Nf4 => Values::Nf4(Nf4::new(values)),
            Quantization::Int8 => Values::Int8(Int8::new(values, shape[1])),
        };
        Self { shape, values }
    }

    /// Rows and columns.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The numbers of `rows` rows from `start` on, row-major.
    ///
    /// # Panics
    /// When there are not as many rows.
    #[must_use]
    pub fn rows(&self, start: usize, rows: usize) -> Vec<f32> {
        let columns = self.shape[1];
        assert!(start + rows <= self.shape[0], "rows of the matrix");
        let mut out = vec![0.0; rows * columns];
        if columns == 0 {
            return out;
        }
        in_parts(&mut out, columns, |row, out| match &self.values {
            Values::Nf4(values) => values.read((start + row) * columns, out),
            Values::Int8(values) => values.read(start + row, columns, out),
        });
        out
    }

    /// First row and number of rows of each block that is made at a time.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let [rows, columns] = self.shape;
        let most = (BLOCK_ELEMENTS / columns.max(1)).max(1);
        (0..rows)
            .step_by(most)
            .map(move |start| (start, most.min(rows - start)))
    }

    /// Bytes of the codes and their scales.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.values {
            Values::Nf4(values) => values.bytes(),
            Values::Int8(values) => values.bytes(),
        }
    }
}

/// Calls `f` with parts of `out` of whole rows and the number of the first, on all
/// threads where there are some.
fn in_parts(out: &mut [f32], columns: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    // Enough for a part to be worth a task.
    let rows = (1_usize << 15).div_ceil(columns);
    #[cfg(feature = "flex")]
    {
        use rayon::prelude::*;
        let parts = out.par_chunks_mut(rows * columns).enumerate();
        parts.for_each(|(index, part)| f(index * rows, part));
    }
    #[cfg(not(feature = "flex"))]
    for (index, part) in out.chunks_mut(rows * columns).enumerate() {
        f(index * rows, part);
    }
}

/// The largest magnitude; NaN where a number is not finite, which would pass for less.
fn peak(values: &[f32]) -> f32 {
    let most = values
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    match values.iter().all(|value| value.is_finite()) {
        true => most,
        false => f32::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_bound(values: &[f32], columns: usize, quantization: Quantization) -> f32 {
        match quantization {
            // Half the widest gap between levels, and what the scale's own code loses.
            Quantization::Nf4 => peak(values) * (0.5 * 0.304 + 0.02),
            Quantization::Int8 => {
                let peaks = values.chunks(columns).map(peak);
                peaks.fold(0.0, f32::max) * (0.5 / 127.0 + 1e-6)
            }
        }
    }

    proptest! {
        /// What comes back is near what went in, rows read alone are those read
        /// together, and quantizing again changes nothing that is seen.
        #[test]
        fn round_trip(
            rows in 1_usize..9,
            columns in 1_usize..150,
            seed: u64,
            size in -12_i32..12,
        ) {
            let number = |i: u64| {
                let word = (i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
                (word as f32 / (1 << 23) as f32 - 1.0) * 2_f32.powi(size)
            };
            let values: Vec<f32> = (0..(rows * columns) as u64).map(number).collect();
            for quantization in [Quantization::Nf4, Quantization::Int8] {
                let matrix = QuantizedMatrix::new(&values, [rows, columns], quantization);
                prop_assert_eq!(matrix.bytes(), quantization.bytes([rows, columns]));
                let back = matrix.rows(0, rows);
                let most = error_bound(&values, columns, quantization);
                for (a, b) in values.iter().zip(&back) {
                    prop_assert!((a - b).abs() <= most, "{a} {b} {most} {quantization:?}");
                }
                let single: Vec<f32> = (0..rows).flat_map(|row| matrix.rows(row, 1)).collect();
                prop_assert_eq!(&single, &back);
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for quantization in [Quantization::Nf4, Quantization::Int8] {
            let matrix = QuantizedMatrix::new(&[0.0; 300], [3, 100], quantization);
            assert_eq!(matrix.rows(0, 3), [0.0; 300]);
        }
        assert!(
            QuantizedMatrix::new(&[], [0, 7], Quantization::Nf4)
                .rows(0, 0)
                .is_empty()
        );
    }

    /// A number that is not finite leaves none in its place that passes for one.
    #[test]
    fn what_is_not_finite_stays_so() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.5; 3 * 100];
            values[150] = wrong;
            for quantization in [Quantization::Nf4, Quantization::Int8] {
                let matrix = QuantizedMatrix::new(&values, [3, 100], quantization);
                assert!(
                    matrix.rows(1, 1).iter().all(|x| x.is_nan()),
                    "{quantization:?}"
                );
            }
        }
    }

    #[test]
    fn sizes() {
        let values = vec![1.0; 64 * 256 * 4];
        let shape = [256, 256];
        let bits = |quantization| {
            let matrix = QuantizedMatrix::new(&values, shape, quantization);
            matrix.bytes() as f64 * 8.0 / values.len() as f64
        };
        assert!((bits(Quantization::Nf4) - 4.127).abs() < 1e-3);
        assert!((bits(Quantization::Int8) - 8.125).abs() < 1e-3);
    }
}
