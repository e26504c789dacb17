//! How a sample of each kind stands in a file: its token ids, and what else
//! belongs to it.
//!
//! Invariant: reading what was written gives an equal sample; any other bytes
//! give an error or some sample, and no panic.

use std::io;

use seqprep::{IGNORE_INDEX, KtoSample, PreferencePair, Sample, StepSample};

use super::tokens::{cut, invalid, read_varint, varint};

/// A kind of samples that a file can hold.
pub(crate) trait Record: Sized {
    /// The beginning of a file of this kind.
    const MAGIC: [u8; 8];

    /// Lists of token ids, which stand one after the other.
    fn ids(&self) -> impl Iterator<Item = &[u32]>;

    /// Writes what stands behind the ids, and returns flags from 0 to 3.
    ///
    /// # Errors
    /// A sample that cannot be.
    fn write(&self, out: &mut Vec<u8>) -> io::Result<u8>;

    /// Bytes behind `tokens` ids where the flags are 0.
    fn plain(tokens: u64) -> u64;

    /// Makes the sample of its ids, of what stands behind them, and of the flags.
    ///
    /// # Errors
    /// Where the bytes are not those of a sample.
    fn read(ids: Vec<u32>, rest: &[u8], flags: u8) -> io::Result<Self>;
}

/// The labels of trained tokens differ from their ids somewhere.
const LABELS: u8 = 1;
/// The sample brings its own positions.
const POSITIONS: u8 = 2;

/// Writes labels: a bit for each, set where it is not -100, and those that are
/// not the id either.
fn write_labels(ids: &[u32], labels: &[i32], out: &mut Vec<u8>) -> io::Result<u8> {
    if labels.len() != ids.len() {
        return Err(invalid("a sample whose fields differ in length"));
    }
    out.extend(labels.chunks(8).map(|labels| {
        let bits = labels.iter().enumerate();
        bits.fold(0u8, |byte, (bit, label)| {
            byte | u8::from(*label != IGNORE_INDEX) << bit
        })
    }));
    let others = || {
        (0u64..)
            .zip(ids.iter().zip(labels))
            .filter(|(_, (id, label))| {
                **label != IGNORE_INDEX && i64::from(**label) != i64::from(**id)
            })
            .map(|(place, (_, label))| (place, *label))
    };
    let count = others().count();
    if count == 0 {
        return Ok(0);
    }
    varint(out, count as u64);
    let mut last = 0;
    for (place, label) in others() {
        varint(out, place - last);
        out.extend(label.to_le_bytes());
        last = place;
    }
    Ok(LABELS)
}

/// Reads what [`write_labels`] wrote; leaves `rest` behind it.
fn read_labels(ids: &[u32], rest: &mut &[u8], flags: u8) -> io::Result<Vec<i32>> {
    let (mask, mut extra) = rest
        .split_at_checked(ids.len().div_ceil(8))
        .ok_or_else(cut)?;
    let label = |(place, id): (usize, &u32)| {
        if mask[place / 8] >> (place % 8) & 1 == 1 {
            // An id beyond `i32` never equals its label, which is then in `extra`.
            *id as i32
        } else {
            IGNORE_INDEX
        }
    };
    let mut labels: Vec<i32> = ids.iter().enumerate().map(label).collect();
    if flags & LABELS != 0 {
        let mut place = 0u64;
        for _ in 0..read_varint(&mut extra)? {
            place = place
                .checked_add(read_varint(&mut extra)?)
                .ok_or_else(cut)?;
            let (bytes, behind) = extra.split_first_chunk::<4>().ok_or_else(cut)?;
            extra = behind;
            let label = usize::try_from(place).ok().and_then(|p| labels.get_mut(p));
            *label.ok_or_else(cut)? = i32::from_le_bytes(*bytes);
        }
    }
    *rest = extra;
    Ok(labels)
}

/// All bytes have to be used.
fn end(rest: &[u8]) -> io::Result<()> {
    match rest {
        [] => Ok(()),
        _ => Err(cut()),
    }
}

impl Record for Sample {
    const MAGIC: [u8; 8] = *b"TOKENS02";

    fn ids(&self) -> impl Iterator<Item = &[u32]> {
        std::iter::once(self.input_ids.as_slice())
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<u8> {
        // No `..`: a new field has to be stored too.
        let Self {
            input_ids,
            labels,
            position_ids,
        } = self;
        let mut flags = write_labels(input_ids, labels, out)?;
        if let Some(positions) = position_ids {
            if positions.len() != input_ids.len() {
                return Err(invalid("a sample whose fields differ in length"));
            }
            flags |= POSITIONS;
            let runs = positions.chunk_by(|a, b| a.checked_add(1) == Some(*b));
            varint(out, runs.clone().count() as u64);
            for run in runs {
                varint(out, u64::from(run[0]));
                varint(out, run.len() as u64);
            }
        }
        Ok(flags)
    }

    fn plain(tokens: u64) -> u64 {
        tokens.div_ceil(8)
    }

    fn read(ids: Vec<u32>, mut rest: &[u8], flags: u8) -> io::Result<Self> {
        let labels = read_labels(&ids, &mut rest, flags)?;
        let mut position_ids = None;
        if flags & POSITIONS != 0 {
            let mut positions: Vec<u32> = Vec::with_capacity(ids.len());
            for _ in 0..read_varint(&mut rest)? {
                let start = u32::try_from(read_varint(&mut rest)?).map_err(|_| cut())?;
                let length = u32::try_from(read_varint(&mut rest)?).map_err(|_| cut())?;
                if positions.len() + length as usize > ids.len() {
                    return Err(cut());
                }
                positions.extend((0..length).map(|i| start.wrapping_add(i)));
            }
            if positions.len() != ids.len() {
                return Err(cut());
            }
            position_ids = Some(positions);
        }
        end(rest)?;
        Ok(Self {
            input_ids: ids,
            labels,
            position_ids,
        })
    }
}

impl Record for StepSample {
    const MAGIC: [u8; 8] = *b"JUDGED02";

    fn ids(&self) -> impl Iterator<Item = &[u32]> {
        std::iter::once(self.input_ids.as_slice())
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<u8> {
        let Self { input_ids, labels } = self;
        write_labels(input_ids, labels, out)
    }

    fn plain(tokens: u64) -> u64 {
        tokens.div_ceil(8)
    }

    fn read(ids: Vec<u32>, mut rest: &[u8], flags: u8) -> io::Result<Self> {
        let labels = read_labels(&ids, &mut rest, flags)?;
        end(rest)?;
        Ok(Self {
            input_ids: ids,
            labels,
        })
    }
}

/// The number of tokens of a list, and then its margin or verdict, stand behind
/// the ids.
const ALWAYS: u8 = 1;
/// The pair has a margin.
const MARGIN: u8 = 2;
/// The answer is a good one.
const DESIRABLE: u8 = 2;

/// Splits a list of ids off the front, whose length is read from `rest`.
fn split(ids: &mut Vec<u32>, rest: &mut &[u8]) -> io::Result<Vec<u32>> {
    let length = usize::try_from(read_varint(rest)?).map_err(|_| cut())?;
    if length > ids.len() {
        return Err(cut());
    }
    let behind = ids.split_off(length);
    Ok(std::mem::replace(ids, behind))
}

/// The prompt stands there once.
impl Record for PreferencePair {
    const MAGIC: [u8; 8] = *b"PAIRS-02";

    fn ids(&self) -> impl Iterator<Item = &[u32]> {
        [&self.prompt, &self.chosen, &self.rejected]
            .into_iter()
            .map(Vec::as_slice)
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<u8> {
        let Self {
            prompt,
            chosen,
            rejected: _,
            margin,
        } = self;
        varint(out, prompt.len() as u64);
        varint(out, chosen.len() as u64);
        if let Some(margin) = margin {
            out.extend(margin.to_le_bytes());
            return Ok(ALWAYS | MARGIN);
        }
        Ok(ALWAYS)
    }

    fn plain(_: u64) -> u64 {
        0
    }

    fn read(mut ids: Vec<u32>, mut rest: &[u8], flags: u8) -> io::Result<Self> {
        let prompt = split(&mut ids, &mut rest)?;
        let chosen = split(&mut ids, &mut rest)?;
        let mut margin = None;
        if flags & MARGIN != 0 {
            let (bytes, behind) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            margin = Some(f32::from_le_bytes(*bytes));
            rest = behind;
        }
        end(rest)?;
        Ok(Self {
            prompt,
            chosen,
            rejected: ids,
            margin,
        })
    }
}

impl Record for KtoSample {
    const MAGIC: [u8; 8] = *b"ANSWER02";

    fn ids(&self) -> impl Iterator<Item = &[u32]> {
        [&self.prompt, &self.completion]
            .into_iter()
            .map(Vec::as_slice)
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<u8> {
        let Self {
            prompt,
            completion: _,
            desirable,
        } = self;
        varint(out, prompt.len() as u64);
        Ok(if *desirable {
            ALWAYS | DESIRABLE
        } else {
            ALWAYS
        })
    }

    fn plain(_: u64) -> u64 {
        0
    }

    fn read(mut ids: Vec<u32>, mut rest: &[u8], flags: u8) -> io::Result<Self> {
        let prompt = split(&mut ids, &mut rest)?;
        end(rest)?;
        Ok(Self {
            prompt,
            completion: ids,
            desirable: flags & DESIRABLE != 0,
        })
    }
}
