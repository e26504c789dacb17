//! Number formats of GGUF's tensors: blocks of numbers that share scales.
//!
//! The formats are those of ggml (`ggml-quants.c`); Q8_0 is written bit for bit
//! as its reference implementation does.

use half::{bf16, f16};

use crate::finite::not_finite;

/// Numbers of a small block, of a large one, and of a group of the latter.
const SMALL: usize = 32;
const LARGE: usize = 256;

/// A number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GgufType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// 8 bits, one scale for 32 numbers.
    Q8_0,
    /// 4 bits, one scale for 32 numbers. Read only, as all that follow.
    Q4_0,
    /// 4 bits, scale and minimum for 32 numbers.
    Q4_1,
    /// 5 bits, one scale for 32 numbers.
    Q5_0,
    /// 5 bits, scale and minimum for 32 numbers.
    Q5_1,
    /// 4 bits in 256 numbers, scales and minima of 6 bits for 32 each.
    Q4K,
    /// 5 bits in 256 numbers, scales and minima of 6 bits for 32 each.
    Q5K,
    /// 6 bits in 256 numbers, scales of 8 bits for 16 each.
    Q6K,
}

impl GgufType {
    /// All of them.
    const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The formats that can be written, by the names of the command line.
    pub const WRITTEN: [(&'static str, Self); 4] = [
        ("f32", Self::F32),
        ("f16", Self::F16),
        ("bf16", Self::Bf16),
        ("q8_0", Self::Q8_0),
    ];

    /// Number in the file.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    pub(super) fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// `general.file_type` of a file whose weights have this format.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
            _ => 0,
        }
    }

    /// Numbers and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (SMALL, 2 + SMALL / 2),
            Self::Q4_1 => (SMALL, 4 + SMALL / 2),
            Self::Q5_0 => (SMALL, 2 + 4 + SMALL / 2),
            Self::Q5_1 => (SMALL, 4 + 4 + SMALL / 2),
            Self::Q8_0 => (SMALL, 2 + SMALL),
            Self::Q4K => (LARGE, 4 + 12 + LARGE / 2),
            Self::Q5K => (LARGE, 4 + 12 + LARGE / 8 + LARGE / 2),
            Self::Q6K => (LARGE, LARGE / 2 + LARGE / 4 + LARGE / 16 + 2),
        }
    }

    /// What is wrong with numbers that are not all finite, or too large to be written in
    /// this format; `None` where all can be.
    pub(super) fn unfit(self, values: &[f32]) -> Option<String> {
        if let Some(message) = not_finite(values) {
            return Some(message);
        }
        let largest = match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
            // Of the numbers of a block the largest is 127 times its scale.
            Self::Q8_0 => 127.0 * f16::MAX.to_f32(),
            _ => f32::MAX,
        };
        let too_large = values.iter().find(|value| value.abs() > largest)?;
        Some(format!(
            "has the number {too_large:e}, and {self:?} has none beyond {largest:e}; choose another \
             format"
        ))
    }

    /// Appends numbers, whole blocks of them. Formats that are only read append
    /// nothing.
    pub(super) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            Self::Bf16 => out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
            Self::Q8_0 => {
                for block in values.chunks_exact(SMALL) {
                    let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                    let step = largest / 127.0;
                    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
                    out.extend(f16::from_f32(step).to_le_bytes());
                    let quantized = block.iter().map(|x| (x * inverse).round() as i8);
                    out.extend(quantized.map(|q| q as u8));
                }
            }
            _ => {}
        }
    }

    /// Appends the numbers of whole blocks.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        let (_, size) = self.block();
        match self {
            Self::F32 => {
                let numbers = bytes.as_chunks::<4>().0;
                out.extend(numbers.iter().map(|&b| f32::from_le_bytes(b)));
            }
            Self::F16 => {
                let numbers = bytes.as_chunks::<2>().0;
                out.extend(numbers.iter().map(|&b| f16::from_le_bytes(b).to_f32()));
            }
            Self::Bf16 => {
                let numbers = bytes.as_chunks::<2>().0;
                out.extend(numbers.iter().map(|&b| bf16::from_le_bytes(b).to_f32()));
            }
            _ => {
                for block in bytes.chunks_exact(size) {
                    match self {
                        Self::Q8_0 => {
                            let step = half(block, 0);
                            out.extend(block[2..].iter().map(|&q| step * f32::from(q as i8)));
                        }
                        Self::Q4_0 => nibbles(&block[2..], None, half(block, 0), 8.0, 0.0, out),
                        Self::Q4_1 => {
                            let (step, least) = (half(block, 0), half(block, 2));
                            nibbles(&block[4..], None, step, 0.0, least, out);
                        }
                        Self::Q5_0 => {
                            let high = Some(&block[2..6]);
                            nibbles(&block[6..], high, half(block, 0), 16.0, 0.0, out);
                        }
                        Self::Q5_1 => {
                            let (step, least) = (half(block, 0), half(block, 2));
                            nibbles(&block[8..], Some(&block[4..8]), step, 0.0, least, out);
                        }
                        Self::Q6K => six_bits(block, out),
                        _ => groups(block, self == Self::Q5K, out),
                    }
                }
            }
        }
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// 32 numbers of 4 bits, the lower halves first, with a fifth bit each in `high`.
fn nibbles(low: &[u8], high: Option<&[u8]>, step: f32, zero: f32, least: f32, out: &mut Vec<f32>) {
    for index in 0..SMALL {
        let byte = low[index % (SMALL / 2)];
        let nibble = if index < SMALL / 2 {
            byte & 15
        } else {
            byte >> 4
        };
        let fifth = high.map_or(0, |bits| (bits[index / 8] >> (index % 8)) & 1);
        out.push(step * (f32::from(nibble | (fifth << 4)) - zero) + least);
    }
}

/// Scale and minimum of a group of 32: 6 bits each, packed into 12 bytes.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let both = packed[group + 4];
        (
            (both & 15) | ((packed[group - 4] >> 6) << 4),
            (both >> 4) | ((packed[group] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// Q4_K and Q5_K: eight groups of 32, two to a run of 32 bytes.
fn groups(block: &[u8], fifth: bool, out: &mut Vec<f32>) {
    let (step, least) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    let (high, low) = if fifth {
        block[16..].split_at(LARGE / 8)
    } else {
        (&[][..], &block[16..])
    };
    for group in 0..8 {
        let (scale, minimum) = scale_and_minimum(packed, group);
        let (scale, minimum) = (step * scale, least * minimum);
        let run = &low[group / 2 * 32..][..32];
        for (index, byte) in run.iter().enumerate() {
            let nibble = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
            let bit = high.get(index).map_or(0, |bits| (bits >> group) & 1);
            out.push(scale * f32::from(nibble | (bit << 4)) - minimum);
        }
    }
}

/// Q6_K: two halves of 128 numbers, four runs of 32 in each.
fn six_bits(block: &[u8], out: &mut Vec<f32>) {
    let step = half(block, 208);
    for part in 0..2 {
        let low = &block[part * 64..][..64];
        let high = &block[128 + part * 32..][..32];
        let scales = &block[192 + part * 8..][..8];
        for run in 0..4 {
            for index in 0..32 {
                let byte = low[(run % 2) * 32 + index];
                let nibble = if run < 2 { byte & 15 } else { byte >> 4 };
                let bits = (high[index] >> (2 * run)) & 3;
                let value = i32::from(nibble | (bits << 4)) - 32;
                let scale = f32::from(scales[run * 2 + index / 16] as i8);
                out.push(step * scale * value as f32);
            }
        }
    }
}
