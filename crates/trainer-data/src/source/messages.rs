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
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut start = Vec::new();
        file.by_ref().take(6).read_to_end(&mut start)?;
        file.seek(SeekFrom::Start(0))?;
        let kind = if start == START {
            open_file(&mut file, size)?
        } else {
            let mut decoder = Box::<StreamDecoder>::default();
            let Some(mut schema) = read_message(&mut file, size)? else {
                return Err("the file is empty".into());
            };
            decoder.decode(&mut schema)?;
            Kind::Stream(decoder)
        };
        Ok(Self { file, size, kind })
    }

    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>, Problem> {
        match &mut self.kind {
            Kind::Done => Ok(None),
            Kind::File { decoder, blocks } => {
                for block in blocks {
                    let bytes = read_block(&mut self.file, self.size, &block)?;
                    if let Some(batch) = decoder.read_record_batch(&block, &bytes)? {
                        return Ok(Some(batch));
                    }
                }
                Ok(None)
            }
            Kind::Stream(decoder) => {
                while let Some(mut message) = read_message(&mut self.file, self.size)? {
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
        let bytes = read_block(file, size, block)?;
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

/// The message at a place of the file.
fn read_block(file: &mut BufReader<File>, size: u64, block: &Block) -> Result<Buffer, Problem> {
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
    let bytes = read(file, length)?;
    let prefix = if bytes[..4] == CONTINUATION { 8 } else { 4 };
    let (message, body) = bytes.split_at(usize::try_from(head)?);
    check(&message[prefix..], body)?;
    Ok(Buffer::from(bytes))
}

/// The next message of a stream with its length in front; none at its end.
fn read_message(file: &mut BufReader<File>, size: u64) -> Result<Option<Buffer>, Problem> {
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
    let head = bytes.len();
    bytes.extend(read(file, u64::from(length))?);
    let body = {
        let message = root_as_message(&bytes[head..]).map_err(|error| error.to_string())?;
        u64::try_from(message.bodyLength()).map_err(|_| outside())?
    };
    if body > left - u64::from(length) {
        return Err(outside());
    }
    let body = read(file, body)?;
    check(&bytes[head..], &body)?;
    bytes.extend(body);
    Ok(Some(Buffer::from(bytes)))
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
    let (rows, size) = (u64::try_from(batch.length())?, body.len() as u64);
    if rows > FREE_ROWS && rows / 8 / MAX_RATIO > size {
        return Err(format!("a batch claims {rows} rows in {size} bytes").into());
    }
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
