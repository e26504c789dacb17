//! Bytes of text files: opened, unpacked, cut into lines.
//!
//! Invariants: memory is bound by the longest row, and no row may be longer
//! than [`MAX_ROW`]; a compressed file that swells beyond measure is an error
//! before it fills anything; raw NUL bytes, which no text file holds, are an
//! error.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Spot;
use crate::{DataError, Place};

/// Most bytes in one row of a text file.
pub(super) const MAX_ROW: usize = 1 << 30;

/// A compressed file may unpack to this many bytes, whatever its size.
const FREE_BYTES: u64 = 64 << 20;

/// Beyond [`FREE_BYTES`], most bytes that one byte of a compressed file may
/// become. Text compresses to a tenth; what a gzip file can reach is 1032.
const MAX_RATIO: u64 = 500;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// The end of a file name stands for a compression: what it is, and the
    /// name without it.
    pub(super) fn of(path: &Path) -> Option<(Self, &Path)> {
        let packing = match path.extension()?.to_string_lossy().to_lowercase().as_str() {
            "gz" | "gzip" => Self::Gzip,
            "zst" | "zstd" => Self::Zstd,
            _ => return None,
        };
        Some((packing, Path::new(path.file_stem()?)))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// The unpacked bytes of a file.
pub(super) enum Input {
    /// Those of the file itself, which can be read from any place on.
    Plain(Box<dyn Plain>),
    /// What its bytes unpack to.
    Packed(Box<dyn BufRead + Send>),
}

/// Bytes that can be read from any place on.
pub(super) trait Plain: BufRead + Seek + Send {}

impl<R: BufRead + Seek + Send> Plain for R {}

impl Input {
    /// Whether [`Seek`] works.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    fn inner(&mut self) -> &mut dyn BufRead {
        match self {
            Self::Plain(inner) => inner,
            Self::Packed(inner) => inner,
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner().read(buffer)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner().fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner().consume(amount);
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Plain(inner) => inner.seek(to),
            Self::Packed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Opens a text file and unpacks it as it is read. What it is packed with is
/// told from its first bytes.
pub(super) fn open(path: &Path) -> Result<Input, DataError> {
    let read = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        inner: super::open_file(path)?,
        read: Arc::clone(&read),
    };
    let mut reader = BufReader::with_capacity(1 << 16, counted);
    let head = reader.fill_buf().map_err(|error| convert(path, error))?;
    let packing = if head.starts_with(b"\x1f\x8b") {
        Some(Packing::Gzip)
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        Some(Packing::Zstd)
    } else {
        None
    };
    let unpacked: Box<dyn Read + Send> = match packing {
        None => {
            if let Some((packing, _)) = Packing::of(path)
                && !head.is_empty()
            {
                return Err(DataError::Compressed {
                    path: path.to_owned(),
                    message: format!(
                        "its name says {0}, its first bytes do not; if it is not compressed, rename it",
                        packing.name()
                    ),
                });
            }
            return Ok(Input::Plain(Box::new(reader)));
        }
        Some(Packing::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Some(Packing::Zstd) => Box::new(
            zstd::stream::read::Decoder::with_buffer(reader)
                .map_err(|error| convert(path, error))?,
        ),
    };
    Ok(Input::Packed(Box::new(BufReader::with_capacity(
        1 << 16,
        Guarded {
            inner: unpacked,
            read,
            written: 0,
        },
    ))))
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Unpacked bytes, as long as there are not too many for the packed ones.
struct Guarded {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    written: u64,
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.inner.read(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(io::Error::other(Broken::Damaged(error.to_string()))),
        };
        self.written += n as u64;
        let read = self.read.load(Ordering::Relaxed);
        if self.written > FREE_BYTES && self.written / MAX_RATIO > read {
            return Err(io::Error::other(Broken::Bomb {
                read,
                written: self.written,
            }));
        }
        Ok(n)
    }
}

/// Fails once more than [`MAX_ROW`] bytes were read since the last row, for
/// parsers that collect a row themselves.
pub(super) struct Limited<R> {
    inner: R,
    since: Arc<AtomicU64>,
    limit: u64,
}

impl<R> Limited<R> {
    /// The reader, and the counter that has to be set to 0 after each row.
    pub(super) fn new(inner: R) -> (Self, Arc<AtomicU64>) {
        Self::with_limit(inner, MAX_ROW as u64)
    }

    fn with_limit(inner: R, limit: u64) -> (Self, Arc<AtomicU64>) {
        let since = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&since);
        (
            Self {
                inner,
                since,
                limit,
            },
            counter,
        )
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if self.since.fetch_add(n as u64, Ordering::Relaxed) > self.limit {
            return Err(io::Error::other(Broken::LongRow));
        }
        Ok(n)
    }
}

impl<R: Seek> Seek for Limited<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// What a reader says through an [`io::Error`].
#[derive(Debug)]
enum Broken {
    Damaged(String),
    Bomb { read: u64, written: u64 },
    LongRow,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(message) => f.write_str(message),
            Self::Bomb { read, written } => write!(
                f,
                "{} MiB unpack to more than {} MiB, over {MAX_RATIO} times as much, as in a file made to fill the memory; if it is what you want, unpack it first",
                read >> 20,
                written >> 20
            ),
            Self::LongRow => f.write_str("a row is longer than 1 GiB"),
        }
    }
}

impl std::error::Error for Broken {}

/// An error of a reader of this module, for a file.
pub(super) fn convert(path: &Path, error: io::Error) -> DataError {
    let broken = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Broken>());
    match broken {
        Some(Broken::Damaged(_) | Broken::Bomb { .. }) => DataError::Compressed {
            path: path.to_owned(),
            message: error.to_string(),
        },
        _ => DataError::Io {
            action: "read",
            path: path.to_owned(),
            source: error,
        },
    }
}

/// Whether a parser stopped because a row is too long.
pub(super) fn is_long_row(error: &io::Error) -> bool {
    let broken = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(broken, Some(Broken::LongRow))
}

/// A raw NUL byte in a line is an error.
pub(super) fn no_nul(
    path: &Path,
    line: usize,
    before: usize,
    bytes: &[u8],
) -> Result<(), DataError> {
    match memchr::memchr(0, bytes) {
        None => Ok(()),
        Some(position) => Err(DataError::NulByte {
            path: path.to_owned(),
            line,
            byte: before + position + 1,
        }),
    }
}

/// The bytes as text; `before` is the number of bytes in front of them on
/// their first line.
pub(super) fn utf8<'a>(
    path: &Path,
    line: usize,
    before: usize,
    bytes: &'a [u8],
) -> Result<&'a str, DataError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let (line, byte) = match memchr::memrchr(b'\n', valid) {
            None => (line, before + valid.len() + 1),
            Some(end) => (
                line + memchr::memchr_iter(b'\n', valid).count(),
                valid.len() - end,
            ),
        };
        DataError::InvalidUtf8 {
            path: path.to_owned(),
            line,
            byte,
        }
    })
}

/// The lines of a file as bytes, without their ends and without a byte order
/// mark; each with the place it is at, counted from 1, and the spot where it
/// begins, if it can be read from there on.
pub(super) struct Lines {
    path: Arc<PathBuf>,
    reader: Input,
    /// Where the next line begins.
    next: Spot,
    limit: usize,
    failed: bool,
}

/// A line of a file.
pub(super) type Line = (Place, Vec<u8>, Option<Spot>);

impl Lines {
    /// The lines from `next` on, which is where the reader is.
    pub(super) fn new(path: &Arc<PathBuf>, reader: Input, next: Spot) -> Self {
        Self {
            path: Arc::clone(path),
            reader,
            next,
            limit: MAX_ROW,
            failed: false,
        }
    }

    /// Goes to another place of a file that is not packed.
    pub(super) fn go_to(&mut self, spot: Spot) -> Result<(), DataError> {
        let sought = self.reader.seek(SeekFrom::Start(spot.byte));
        sought.map_err(|error| convert(&self.path, error))?;
        self.next = spot;
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Line>, DataError> {
        let spot = self.next;
        let mut line = Vec::new();
        let mut ended = false;
        while !ended {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(convert(&self.path, error)),
            };
            if chunk.is_empty() {
                if line.is_empty() {
                    return Ok(None);
                }
                break;
            }
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            // Looked for here, so that a line of NULs does not fill the memory.
            no_nul(&self.path, spot.line, line.len(), part)?;
            if line.len() + part.len() > self.limit {
                return Err(DataError::RowTooLong {
                    path: self.path.to_path_buf(),
                    line: spot.line,
                });
            }
            line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.next.byte += used as u64;
            ended = end.is_some();
        }
        self.next.line += 1;
        if line.last() == Some(&b'\r') && ended {
            line.pop();
        }
        if spot.line == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let at = Place {
            path: Arc::clone(&self.path),
            unit: "line",
            number: spot.line,
        };
        let spot = self.reader.is_plain().then_some(spot);
        Ok(Some((at, line, spot)))
    }
}

impl Iterator for Lines {
    type Item = Result<Line, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let line = self.read().transpose();
        self.failed = !matches!(line, Some(Ok(_)));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_beyond_the_limit_is_an_error_and_not_read() {
        let path = Arc::new(PathBuf::from("a.txt"));
        let endless = io::repeat(b'a').take(1 << 40);
        let input = Input::Packed(Box::new(BufReader::new(endless)));
        let mut lines = Lines::new(&path, input, Spot::START);
        lines.limit = 1 << 20;
        assert_eq!(
            lines.next().unwrap().unwrap_err().to_string(),
            "a.txt, line 1: the row is longer than 1 GiB; split it into several rows"
        );
        assert!(lines.next().is_none());
    }

    #[test]
    fn a_parser_that_finds_no_end_is_stopped() {
        let (mut limited, counter) = Limited::with_limit(io::repeat(b'a'), 1 << 20);
        let mut buffer = vec![0; 1 << 16];
        let reads = (0..1000)
            .take_while(|_| limited.read(&mut buffer).is_ok())
            .count();
        assert!(reads < 20);
        counter.store(0, Ordering::Relaxed);
        assert!(limited.read(&mut buffer).is_ok());
    }
}
