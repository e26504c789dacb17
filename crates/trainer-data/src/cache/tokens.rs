//! Samples on disk, compact: about 4.2 bytes a token.
//!
//! ```text
//! header   8 bytes: MAGIC
//! samples  one after the other: ids (4 bytes each, little endian),
//!          mask (1 bit a token, set where the label is not -100),
//!          extra (labels that are trained but not the id; runs of positions)
//! index    for each sample a varint of tokens << 2 | flags,
//!          and with flags a varint of the bytes of `extra`
//! footer   24 bytes: place of the index, number of samples, MAGIC
//! ```
//!
//! The footer is written last, so that a file without one is known to be cut.
//! A [`TokenFile`] holds the index in memory (12 bytes a sample) and reads each
//! sample by its place, so that any number of samples can be opened.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use seqprep::{IGNORE_INDEX, Sample};

const MAGIC: [u8; 8] = *b"TOKENS01";
const FOOTER: u64 = 24;
/// The labels of trained tokens differ from their ids somewhere.
const LABELS: u64 = 1;
/// The sample brings its own positions.
const POSITIONS: u64 = 2;

/// Writes samples one at a time; memory holds one sample and the index.
pub(crate) struct TokenWriter<W: Write> {
    out: W,
    place: u64,
    index: Vec<u8>,
    count: u64,
    record: Vec<u8>,
}

impl<W: Write> TokenWriter<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Self {
            out,
            place: MAGIC.len() as u64,
            index: Vec::new(),
            count: 0,
            record: Vec::new(),
        })
    }

    pub(crate) fn push(&mut self, sample: &Sample) -> io::Result<()> {
        // No `..`: a new field has to be stored too.
        let Sample {
            input_ids,
            labels,
            position_ids,
        } = sample;
        let tokens = input_ids.len();
        if labels.len() != tokens || position_ids.as_ref().is_some_and(|p| p.len() != tokens) {
            return Err(invalid("a sample whose fields differ in length"));
        }
        let record = &mut self.record;
        record.clear();
        record.extend(input_ids.iter().flat_map(|id| id.to_le_bytes()));
        record.extend(labels.chunks(8).map(|labels| {
            let bits = labels.iter().enumerate();
            bits.fold(0u8, |byte, (bit, label)| {
                byte | u8::from(*label != IGNORE_INDEX) << bit
            })
        }));
        let start_of_extra = record.len();
        let mut flags = 0;
        let others = || {
            (0u64..)
                .zip(input_ids.iter().zip(labels))
                .filter(|(_, (id, label))| {
                    **label != IGNORE_INDEX && i64::from(**label) != i64::from(**id)
                })
                .map(|(place, (_, label))| (place, *label))
        };
        let count = others().count();
        if count > 0 {
            flags |= LABELS;
            varint(record, count as u64);
            let mut last = 0;
            for (place, label) in others() {
                varint(record, place - last);
                record.extend(label.to_le_bytes());
                last = place;
            }
        }
        if let Some(positions) = position_ids {
            flags |= POSITIONS;
            let runs = positions.chunk_by(|a, b| a.checked_add(1) == Some(*b));
            varint(record, runs.clone().count() as u64);
            for run in runs {
                varint(record, u64::from(run[0]));
                varint(record, run.len() as u64);
            }
        }
        varint(&mut self.index, (tokens as u64) << 2 | flags);
        if flags != 0 {
            varint(&mut self.index, (record.len() - start_of_extra) as u64);
        }
        self.out.write_all(record)?;
        self.place += record.len() as u64;
        self.count += 1;
        Ok(())
    }

    /// Writes the index and the footer; gives back what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&self.index)?;
        self.out.write_all(&self.place.to_le_bytes())?;
        self.out.write_all(&self.count.to_le_bytes())?;
        self.out.write_all(&MAGIC)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The samples of a file, read by their place.
#[derive(Debug)]
pub struct TokenFile {
    file: File,
    entries: Vec<Entry>,
    end: u64,
    tokens: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    place: u64,
    /// Tokens << 2 | flags.
    tokens: u32,
}

impl TokenFile {
    /// Opens a file and reads its index.
    ///
    /// # Errors
    /// What the file system reports, and `InvalidData` where the file is cut or
    /// another format.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        let last = size.checked_sub(FOOTER).ok_or_else(cut)?;
        file.seek(SeekFrom::Start(last))?;
        let mut footer = [0; FOOTER as usize];
        file.read_exact(&mut footer)?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&footer[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (end, count) = (number(0), number(8));
        if magic != MAGIC || footer[16..] != MAGIC || end > last {
            return Err(cut());
        }
        file.seek(SeekFrom::Start(end))?;
        let mut index = Vec::new();
        Read::by_ref(&mut file)
            .take(last - end)
            .read_to_end(&mut index)?;
        let mut index = index.as_slice();
        // Each entry takes a byte or more, so a damaged count asks for no more
        // memory than the file has bytes.
        let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(index.len()));
        let mut place = MAGIC.len() as u64;
        let mut total = 0;
        for _ in 0..count {
            let word = read_varint(&mut index)?;
            let extra = match word & (LABELS | POSITIONS) {
                0 => 0,
                _ => read_varint(&mut index)?,
            };
            let tokens = u32::try_from(word).map_err(|_| cut())?;
            let count = u64::from(tokens >> 2);
            entries.push(Entry { place, tokens });
            let size = 4 * count + count.div_ceil(8);
            place = place
                .checked_add(size)
                .and_then(|p| p.checked_add(extra))
                .ok_or_else(cut)?;
            total += count;
        }
        if place != end || !index.is_empty() {
            return Err(cut());
        }
        Ok(Self {
            file,
            entries,
            end,
            tokens: total,
        })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of tokens in all samples.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Number of tokens of a sample, or `None` past the last; reads nothing.
    #[must_use]
    pub fn length(&self, index: usize) -> Option<usize> {
        Some((self.entries.get(index)?.tokens >> 2) as usize)
    }

    /// One sample, from the file. Threads may read at the same time.
    ///
    /// # Errors
    /// What the file system reports, `InvalidInput` past the last sample, and
    /// `InvalidData` where the file is damaged.
    pub fn get(&self, index: usize) -> io::Result<Sample> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "no such sample");
        let entry = *self.entries.get(index).ok_or_else(outside)?;
        let next = self.entries.get(index + 1).map_or(self.end, |e| e.place);
        let mut record = vec![0; usize::try_from(next - entry.place).map_err(|_| cut())?];
        read_at(&self.file, &mut record, entry.place)?;
        decode(&record, entry.tokens)
    }
}

fn decode(record: &[u8], word: u32) -> io::Result<Sample> {
    let tokens = (word >> 2) as usize;
    let flags = u64::from(word) & (LABELS | POSITIONS);
    let (ids, rest) = record.split_at_checked(tokens * 4).ok_or_else(cut)?;
    let (mask, mut extra) = rest.split_at_checked(tokens.div_ceil(8)).ok_or_else(cut)?;
    let input_ids: Vec<u32> = ids
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let mut labels: Vec<i32> = input_ids
        .iter()
        .enumerate()
        .map(|(place, id)| {
            if mask[place / 8] >> (place % 8) & 1 == 1 {
                // An id beyond `i32` never equals its label, which is then in `extra`.
                *id as i32
            } else {
                IGNORE_INDEX
            }
        })
        .collect();
    if flags & LABELS != 0 {
        let mut place = 0;
        for _ in 0..read_varint(&mut extra)? {
            place += read_varint(&mut extra)?;
            let (bytes, rest) = extra.split_first_chunk::<4>().ok_or_else(cut)?;
            extra = rest;
            let label = usize::try_from(place).ok().and_then(|p| labels.get_mut(p));
            *label.ok_or_else(cut)? = i32::from_le_bytes(*bytes);
        }
    }
    let mut position_ids = None;
    if flags & POSITIONS != 0 {
        let mut positions: Vec<u32> = Vec::with_capacity(tokens);
        for _ in 0..read_varint(&mut extra)? {
            let start = u32::try_from(read_varint(&mut extra)?).map_err(|_| cut())?;
            let length = u32::try_from(read_varint(&mut extra)?).map_err(|_| cut())?;
            if positions.len() + length as usize > tokens {
                return Err(cut());
            }
            positions.extend((0..length).map(|i| start.wrapping_add(i)));
        }
        if positions.len() != tokens {
            return Err(cut());
        }
        position_ids = Some(positions);
    }
    if !extra.is_empty() {
        return Err(cut());
    }
    Ok(Sample {
        input_ids,
        labels,
        position_ids,
    })
}

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn read_varint(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(cut())
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, place)
}

#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut place: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, place)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                place += read as u64;
            }
        }
    }
    Ok(())
}

fn cut() -> io::Error {
    invalid("the file is cut or damaged")
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(samples: &[Sample]) -> Vec<u8> {
        let mut writer = TokenWriter::new(Vec::new()).unwrap();
        for sample in samples {
            writer.push(sample).unwrap();
        }
        writer.finish().unwrap()
    }

    fn open(bytes: &[u8]) -> (tempfile::TempDir, io::Result<TokenFile>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        let file = TokenFile::open(&path);
        (folder, file)
    }

    fn masked(tokens: u32, trained_from: u32) -> Sample {
        Sample {
            input_ids: (0..tokens).collect(),
            labels: (0..tokens as i32)
                .map(|i| if i < trained_from as i32 { -100 } else { i })
                .collect(),
            position_ids: None,
        }
    }

    #[test]
    fn takes_at_most_five_bytes_a_token() {
        for tokens in [2, 3, 9, 100, 4096] {
            let samples = vec![masked(tokens, 1); 1000];
            let size = bytes(&samples).len() as f64 / f64::from(tokens * 1000);
            assert!(size <= 5.02, "{size} bytes a token with {tokens} tokens");
        }
        let size = bytes(&vec![masked(500, 100); 100]).len();
        assert!(size < 500 * 100 * 42 / 10, "{size}");
    }

    #[test]
    fn samples_whose_fields_differ_in_length_are_refused() {
        let mut sample = masked(3, 1);
        sample.labels.pop();
        let mut writer = TokenWriter::new(Vec::new()).unwrap();
        assert!(writer.push(&sample).is_err());
    }

    #[test]
    fn every_cut_is_found() {
        let mut pose = masked(9, 2);
        pose.position_ids = Some(vec![0, 1, 2, 7, 8, 9, 10, 20, 21]);
        let whole = bytes(&[masked(5, 2), pose, masked(1, 0)]);
        for length in 0..whole.len() {
            let (_folder, file) = open(&whole[..length]);
            assert!(file.is_err(), "{length} of {} bytes", whole.len());
        }
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let token = (
            any::<u32>(),
            prop_oneof![Just(-100), any::<i32>(), Just(i32::MIN)],
            any::<bool>(),
            0u32..50,
        );
        let sample =
            (prop::collection::vec(token, 0..40), any::<bool>()).prop_map(|(tokens, own)| {
                let mut position = 0u32;
                Sample {
                    input_ids: tokens.iter().map(|t| t.0).collect(),
                    labels: tokens
                        .iter()
                        .map(|t| {
                            if t.2 {
                                i32::try_from(t.0).unwrap_or(t.1)
                            } else {
                                t.1
                            }
                        })
                        .collect(),
                    position_ids: own.then(|| {
                        tokens
                            .iter()
                            .map(|t| {
                                position =
                                    position.wrapping_add(if t.2 { 1 } else { t.3 * 50_000_000 });
                                position
                            })
                            .collect()
                    }),
                }
            });
        prop::collection::vec(sample, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(samples in samples()) {
            let (_folder, file) = open(&bytes(&samples));
            let file = file.unwrap();
            prop_assert_eq!(file.len(), samples.len());
            prop_assert_eq!(file.tokens(), samples.iter().map(|s| s.len() as u64).sum::<u64>());
            for (index, sample) in samples.iter().enumerate().rev() {
                prop_assert_eq!(file.length(index), Some(sample.len()));
                prop_assert_eq!(&file.get(index).unwrap(), sample);
            }
            prop_assert!(file.get(samples.len()).is_err());
        }

        /// Damage gives an error or other samples, never a panic.
        #[test]
        fn damage_does_no_harm(samples in samples(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = bytes(&samples);
            for (place, byte) in places {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let (_folder, Ok(file)) = open(&bytes) {
                for index in 0..file.len().min(20) {
                    let _ = file.get(index);
                }
            }
        }
    }
}
