//! The messages of an Arrow file or stream, checked before they are decoded.
//!
//! Invariant: nothing is allocated that is larger than the file, or than what
//! a compressed buffer of its size can sensibly hold; the decoder itself takes
//! the lengths that a message gives on trust.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, StreamDecoder};
use arrow_ipc::{Block, root_as_footer, root_as_message};

/// A buffer may unpack to this many bytes, whatever its size.
const FREE_BYTES: u64 = 64 << 20;

/// Beyond [`FREE_BYTES`], most bytes that one byte of a buffer may become.
const MAX_RATIO: u64 = 500;

/// A message may claim this many rows, whatever its size.
const FREE_ROWS: u64 = 1 << 20;

const START: &[u8; 6] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The batches of a file, one at a time.
pub(super) struct Batches {
    file: BufReader<File>,
    size: u64,
    kind: Kind,
}

enum Kind {
    /// Messages one after the other.
    Stream(Box<StreamDecoder>),
    /// Messages at the places that the end of the file lists.
    File {
        decoder: Box<FileDecoder>,
        blocks: std::vec::IntoIter<Block>,
    },
    Done,
}

impl Batches {
    pub(super) fn open(file: File) -> Result<Self, Problem> {
        let size = file.metadata()?.len();
        // Enough for a head; bodies are read past the buffer.
        let mut file = BufReader::with_capacity(1 << 13, file);
        let mut start = Vec::new();
        file.by_ref().take(6).read_to_end(&mut start)?;
        file.seek(SeekFrom::Start(0))?;
        let kind = if start == START {
            open_file(&mut file, size)?
        } else {
            let mut decoder = Box::<StreamDecoder>::default();
            let Some(head) = Head::next(&mut file, size)? else {
                return Err("the file is empty".into());
            };
            decoder.decode(&mut head.message(&mut file)?)?;
            Kind::Stream(decoder)
        };
        Ok(Self { file, size, kind })
    }

    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>, Problem> {
        match &mut self.kind {
            Kind::Done => Ok(None),
            Kind::File { decoder, blocks } => {
                for block in blocks {
                    let bytes = Head::at(&mut self.file, self.size, &block)?;
                    let bytes = bytes.message(&mut self.file)?;
                    if let Some(batch) = decoder.read_record_batch(&block, &bytes)? {
                        return Ok(Some(batch));
                    }
                }
                Ok(None)
            }
            Kind::Stream(decoder) => {
                while let Some(head) = Head::next(&mut self.file, self.size)? {
                    let mut message = head.message(&mut self.file)?;
                    if let Some(batch) = decoder.decode(&mut message)? {
                        return Ok(Some(batch));
                    }
                }
                // The end is also what makes the decoder give out a message
                // without a body.
                let batch = decoder.decode(&mut Buffer::from(&END[..]))?;
                self.kind = Kind::Done;
                Ok(batch)
            }
        }
    }

    /// Passes over batches that lie within the next `rows` rows, of which only
    /// the heads are read. Returns the number of their rows.
    pub(super) fn pass(&mut self, rows: usize) -> Result<usize, Problem> {
        let mut passed = 0;
        loop {
            let here = self.file.stream_position()?;
            let head = match &mut self.kind {
                Kind::Done => None,
                Kind::File { blocks, .. } => match blocks.as_slice().first() {
                    Some(block) => Some(Head::at(&mut self.file, self.size, block)?),
                    None => None,
                },
                Kind::Stream(_) => Head::next(&mut self.file, self.size)?,
            };
            let Some(head) = head else { return Ok(passed) };
            let batch = head.rows()?;
            // Not beyond what can be counted, whatever a damaged file claims.
            let after = usize::try_from(batch.unwrap_or(0))
                .ok()
                .and_then(|batch| passed.checked_add(batch))
                .filter(|after| *after <= rows);
            let (Some(after), true) = (after, rows > passed) else {
                self.file.seek(SeekFrom::Start(here))?;
                return Ok(passed);
            };
            passed = after;
            match &mut self.kind {
                Kind::File { blocks, .. } => {
                    blocks.next();
                }
                Kind::Stream(decoder) if batch.is_none() => {
                    // A dictionary, which batches to come may need.
                    decoder.decode(&mut head.message(&mut self.file)?)?;
                }
                Kind::Stream(_) | Kind::Done => head.pass(&mut self.file)?,
            }
        }
    }
}

/// Reads what an Arrow file lists at its end, and its dictionaries.
fn open_file(file: &mut BufReader<File>, size: u64) -> Result<Kind, Problem> {
    let mut tail = [0; 10];
    let cut = || Problem::from("the file was cut off");
    let end = size.checked_sub(10).ok_or_else(cut)?;
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let length = arrow_ipc::reader::read_footer_length(tail)? as u64;
    let start = end.checked_sub(length).ok_or_else(cut)?;
    file.seek(SeekFrom::Start(start))?;
    let footer = read(file, length)?;
    let footer = root_as_footer(&footer).map_err(|error| error.to_string())?;
    let schema = footer.schema().ok_or("the file holds no schema")?;
    let mut decoder = FileDecoder::new(Arc::new(try_fb_to_schema(schema)?), footer.version());
    for block in footer.dictionaries().into_iter().flatten() {
        let bytes = Head::at(file, size, block)?.message(file)?;
        decoder.read_dictionary(block, &bytes)?;
    }
    let blocks: Vec<Block> = footer
        .recordBatches()
        .map(|blocks| blocks.iter().copied().collect())
        .unwrap_or_default();
    Ok(Kind::File {
        decoder: Box::new(decoder),
        blocks: blocks.into_iter(),
    })
}

/// The head of a message, which says what its body holds. The file is at the
/// beginning of the body.
struct Head {
    /// With the length in front.
    bytes: Vec<u8>,
    /// Bytes of the length in front.
    prefix: usize,
    /// Bytes of the body, which the file has.
    body: u64,
}

impl Head {
    /// The one at a place of the file.
    fn at(file: &mut BufReader<File>, size: u64, block: &Block) -> Result<Self, Problem> {
        let outside = || Problem::from("a message lies outside of the file");
        let of = |length: i64| u64::try_from(length).map_err(|_| outside());
        let (start, head, body) = (
            of(block.offset())?,
            of(i64::from(block.metaDataLength()))?,
            of(block.bodyLength())?,
        );
        let length = head.checked_add(body).filter(|n| *n <= size);
        let length = length.ok_or_else(outside)?;
        if start > size - length || head < 8 {
            return Err(outside());
        }
        file.seek(SeekFrom::Start(start))?;
        let bytes = read(file, head)?;
        let prefix = if bytes[..4] == CONTINUATION { 8 } else { 4 };
        Ok(Self {
            bytes,
            prefix,
            body,
        })
    }

    /// The next one of a stream; none at its end.
    fn next(file: &mut BufReader<File>, size: u64) -> Result<Option<Self>, Problem> {
        let mut word = [0; 4];
        let mut bytes = Vec::new();
        for _ in 0..2 {
            match file.read_exact(&mut word) {
                Ok(()) => bytes.extend(word),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && bytes.is_empty() => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            if word != CONTINUATION {
                break;
            }
        }
        let length = u32::from_le_bytes(word);
        if length == 0 {
            return Ok(None);
        }
        let left = size.saturating_sub(file.stream_position()?);
        let outside = || Problem::from("a message ends outside of the file");
        if u64::from(length) > left {
            return Err(outside());
        }
        let prefix = bytes.len();
        bytes.extend(read(file, u64::from(length))?);
        let message = root_as_message(&bytes[prefix..]).map_err(|error| error.to_string())?;
        let body = u64::try_from(message.bodyLength()).map_err(|_| outside())?;
        if body > left - u64::from(length) {
            return Err(outside());
        }
        Ok(Some(Self {
            bytes,
            prefix,
            body,
        }))
    }

    /// The whole message, whose body is read.
    fn message(mut self, file: &mut BufReader<File>) -> Result<Buffer, Problem> {
        let head = self.bytes.len();
        self.bytes.extend(read(file, self.body)?);
        let (message, body) = self.bytes.split_at(head);
        check(&message[self.prefix..], body)?;
        Ok(Buffer::from(self.bytes))
    }

    /// Number of rows; none of a message that is no batch.
    fn rows(&self) -> Result<Option<u64>, Problem> {
        let message =
            root_as_message(&self.bytes[self.prefix..]).map_err(|error| error.to_string())?;
        let Some(batch) = message.header_as_record_batch() else {
            return Ok(None);
        };
        let rows = u64::try_from(batch.length())?;
        sensible(rows, self.body)?;
        Ok(Some(rows))
    }

    /// Passes over the body.
    fn pass(self, file: &mut BufReader<File>) -> Result<(), Problem> {
        file.seek_relative(i64::try_from(self.body)?)?;
        Ok(())
    }
}

/// Reads bytes of which the file is known to have so many.
fn read(file: &mut BufReader<File>, length: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; usize::try_from(length)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Checks the lengths that a message claims against those of its body.
fn check(message: &[u8], body: &[u8]) -> Result<(), Problem> {
    let message = root_as_message(message).map_err(|error| error.to_string())?;
    let batch = match message.header_as_dictionary_batch() {
        Some(dictionary) => dictionary.data(),
        None => message.header_as_record_batch(),
    };
    let Some(batch) = batch else { return Ok(()) };
    sensible(u64::try_from(batch.length())?, body.len() as u64)?;
    if batch.compression().is_none() {
        return Ok(());
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let start = usize::try_from(buffer.offset())?;
        let length = u64::try_from(buffer.length())?;
        let Some(prefix) = body.get(start..).and_then(|bytes| bytes.first_chunk::<8>()) else {
            continue;
        };
        // -1 stands for a buffer that is not compressed.
        let claimed = u64::try_from(i64::from_le_bytes(*prefix)).unwrap_or(0);
        if claimed > FREE_BYTES && claimed / MAX_RATIO > length {
            return Err(format!("{length} bytes claim to unpack to {claimed}").into());
        }
    }
    Ok(())
}

/// Checks the number of rows that a batch claims against the bytes of its body.
fn sensible(rows: u64, bytes: u64) -> Result<(), Problem> {
    if rows > FREE_ROWS && rows / 8 / MAX_RATIO > bytes {
        return Err(format!("a batch claims {rows} rows in {bytes} bytes").into());
    }
    Ok(())
}
