//! 8 bits a number: whole numbers from -127 to 127, times the largest magnitude of
//! their row over 127.

use super::peak;

/// Rows of whole numbers.
#[derive(Debug, Clone)]
pub(super) struct Int8 {
    codes: Vec<i8>,
    /// The largest magnitude of each row.
    peaks: Vec<f32>,
}

impl Int8 {
    pub(super) fn new(values: &[f32], columns: usize) -> Self {
        let mut codes = Vec::with_capacity(values.len());
        let rows = values.chunks(columns.max(1));
        let mut peaks = Vec::with_capacity(rows.len());
        for row in rows {
            let peak = peak(row);
            peaks.push(peak);
            let factor = if peak > 0.0 { 127.0 / peak } else { 0.0 };
            codes.extend(row.iter().map(|x| (x * factor).round_ties_even() as i8));
        }
        Self { codes, peaks }
    }

    /// Whole rows from `row` on.
    pub(super) fn read(&self, row: usize, columns: usize, out: &mut [f32]) {
        let codes = self.codes[row * columns..].chunks(columns);
        let rows = out.chunks_mut(columns).zip(codes).zip(&self.peaks[row..]);
        for ((out, codes), peak) in rows {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = f32::from(*code) * peak * (1.0 / 127.0);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.peaks.len()
    }

    #[cfg(test)]
    pub(super) fn codes(&self) -> &[i8] {
        &self.codes
    }
}
