//! Samples on disk, compact: about 4.2 bytes a token.
//!
//! ```text
//! header   8 bytes: the kind of samples
//! samples  one after the other: ids (4 bytes each, little endian), and what
//!          else belongs to a sample of this kind (see `record`): where ids are
//!          trained on, 1 bit a token that says whether it is a target
//! index    for each sample a varint of tokens << 2 | flags,
//!          and with flags a varint of the bytes beyond those of a plain sample
//! footer   32 bytes: place of the index, number of samples, largest id, the kind
//! ```
//!
//! The footer is written last, so that a file without one is known to be cut.
//! A [`TokenFile`] holds the index in memory (16 bytes a sample) and reads each
//! sample by its place, so that any number of samples can be opened.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::Path;

use seqprep::Sample;

use super::record::Record;

const FOOTER: u64 = 32;
/// The bits of an entry that are flags.
const FLAGS: u64 = 3;

/// Writes samples one at a time; memory holds one sample and the index.
pub(crate) struct TokenWriter<W: Write, R> {
    out: W,
    place: u64,
    index: Vec<u8>,
    count: u64,
    largest_id: u32,
    record: Vec<u8>,
    kind: PhantomData<fn(R)>,
}

impl<W: Write, R: Record> TokenWriter<W, R> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&R::MAGIC)?;
        Ok(Self {
            out,
            place: R::MAGIC.len() as u64,
            index: Vec::new(),
            count: 0,
            largest_id: 0,
            record: Vec::new(),
            kind: PhantomData,
        })
    }

    pub(crate) fn push(&mut self, sample: &R) -> io::Result<()> {
        let record = &mut self.record;
        record.clear();
        let mut tokens = 0;
        for ids in sample.ids() {
            tokens += ids.len() as u64;
            record.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
            let largest = ids.iter().copied().max();
            self.largest_id = self.largest_id.max(largest.unwrap_or(0));
        }
        let ids_end = record.len();
        let flags = u64::from(sample.write(record)?);
        varint(&mut self.index, tokens << 2 | flags);
        if flags != 0 {
            let rest = (record.len() - ids_end) as u64;
            varint(&mut self.index, rest - R::plain(tokens));
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
        let largest_id = u64::from(self.largest_id);
        self.out.write_all(&largest_id.to_le_bytes())?;
        self.out.write_all(&R::MAGIC)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The samples of a file, read by their place.
#[derive(Debug)]
pub(super) struct TokenFile<R = Sample> {
    file: File,
    entries: Vec<Entry>,
    end: u64,
    largest_id: u32,
    kind: PhantomData<fn() -> R>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    place: u64,
    /// Tokens << 2 | flags.
    tokens: u32,
}

impl<R: Record> TokenFile<R> {
    /// Opens a file and reads its index.
    ///
    /// # Errors
    /// What the file system reports, and `InvalidData` where the file is cut or
    /// another format.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
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
        if magic != R::MAGIC || footer[24..] != R::MAGIC || end > last {
            return Err(cut());
        }
        let largest_id = u32::try_from(number(16)).map_err(|_| cut())?;
        file.seek(SeekFrom::Start(end))?;
        let mut index = Vec::new();
        Read::by_ref(&mut file)
            .take(last - end)
            .read_to_end(&mut index)?;
        let mut index = index.as_slice();
        // Each entry takes a byte or more, so a damaged count asks for no more
        // memory than the file has bytes.
        let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(index.len()));
        let mut place = R::MAGIC.len() as u64;
        for _ in 0..count {
            let word = read_varint(&mut index)?;
            let extra = match word & FLAGS {
                0 => 0,
                _ => read_varint(&mut index)?,
            };
            let tokens = u32::try_from(word).map_err(|_| cut())?;
            let count = u64::from(tokens >> 2);
            entries.push(Entry { place, tokens });
            let size = 4 * count + R::plain(count);
            place = place
                .checked_add(size)
                .and_then(|p| p.checked_add(extra))
                .ok_or_else(cut)?;
        }
        if place != end || !index.is_empty() {
            return Err(cut());
        }
        Ok(Self {
            file,
            entries,
            end,
            largest_id,
            kind: PhantomData,
        })
    }

    /// Number of samples.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The largest token id in any sample; 0 where there is no token.
    pub(super) fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Number of tokens of a sample, or `None` past the last; reads nothing.
    pub(super) fn length(&self, index: usize) -> Option<usize> {
        Some((self.entries.get(index)?.tokens >> 2) as usize)
    }

    /// One sample, from the file. Threads may read at the same time.
    ///
    /// # Errors
    /// What the file system reports, `InvalidInput` past the last sample, and
    /// `InvalidData` where the file is damaged.
    pub(super) fn get(&self, index: usize) -> io::Result<R> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "no such sample");
        let entry = *self.entries.get(index).ok_or_else(outside)?;
        let next = self.entries.get(index + 1).map_or(self.end, |e| e.place);
        let mut record = vec![0; usize::try_from(next - entry.place).map_err(|_| cut())?];
        read_at(&self.file, &mut record, entry.place)?;
        let tokens = (entry.tokens >> 2) as usize;
        let (ids, rest) = record.split_at_checked(tokens * 4).ok_or_else(cut)?;
        let ids = ids
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        R::read(ids, rest, (u64::from(entry.tokens) & FLAGS) as u8)
    }
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

pub(super) fn cut() -> io::Error {
    invalid("the file is cut or damaged")
}

pub(super) fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use seqprep::{KtoSample, PreferencePair, StepSample};

    fn bytes<R: Record>(samples: &[R]) -> Vec<u8> {
        let mut writer = TokenWriter::new(Vec::new()).unwrap();
        for sample in samples {
            writer.push(sample).unwrap();
        }
        writer.finish().unwrap()
    }

    fn open<R: Record>(bytes: &[u8]) -> (tempfile::TempDir, io::Result<TokenFile<R>>) {
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
            let (_folder, file) = open::<Sample>(&whole[..length]);
            assert!(file.is_err(), "{length} of {} bytes", whole.len());
        }
    }

    /// Writes and reads; whatever byte is damaged, nothing panics.
    fn there_and_back<R: Record + PartialEq + std::fmt::Debug>(samples: &[R]) {
        let whole = bytes(samples);
        let (_folder, file) = open::<R>(&whole);
        let file = file.unwrap();
        let back: Vec<R> = (0..file.len()).map(|i| file.get(i).unwrap()).collect();
        assert_eq!(back, samples);
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x55;
            if let (_folder, Ok(file)) = open::<R>(&damaged) {
                for index in 0..file.len().min(20) {
                    let _ = file.get(index);
                }
            }
        }
    }

    #[test]
    fn preferences_are_kept() {
        let pair = PreferencePair {
            prompt: vec![5; 40],
            chosen: vec![1, 2],
            rejected: vec![3],
            margin: None,
        };
        let margin = PreferencePair {
            margin: Some(-0.5),
            ..pair.clone()
        };
        // The prompt is there once.
        assert!(bytes(std::slice::from_ref(&pair)).len() < 43 * 4 + 50);
        there_and_back(&[pair, PreferencePair::default(), margin]);
        let kto = KtoSample {
            prompt: vec![1, 2],
            completion: vec![3],
            desirable: true,
        };
        let other = KtoSample {
            desirable: false,
            ..kto.clone()
        };
        there_and_back(&[kto, other]);
        there_and_back(&[StepSample {
            input_ids: vec![7, 8, 1, 9],
            labels: vec![-100, 0, 1, -100],
        }]);
        // One kind is not read as another.
        assert!(open::<PreferencePair>(&bytes(&[masked(2, 1)])).1.is_err());
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
            let (_folder, file) = open::<Sample>(&bytes(&samples));
            let file = file.unwrap();
            prop_assert_eq!(file.len(), samples.len());
            let ids = samples.iter().flat_map(|s| &s.input_ids);
            prop_assert_eq!(file.largest_id(), ids.copied().max().unwrap_or(0));
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
            if let (_folder, Ok(file)) = open::<Sample>(&bytes) {
                for index in 0..file.len().min(20) {
                    let _ = file.get(index);
                }
            }
        }
    }
}
