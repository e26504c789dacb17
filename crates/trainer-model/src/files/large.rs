//! Files of weights: written once, from beginning to end, and hashed on the way.
//!
//! Where the system can (Linux, most file systems), whole blocks go to the disk past
//! its cache: the copy and the pages would take more of the processor than all the
//! rest of writing, and would push what others use out of memory for a file that is
//! not read soon. Elsewhere the same bytes go the ordinary way.
//!
//! Invariant: what has been appended is the file's contents followed by the filled part
//! of the buffer; the file holds whole blocks until it is finished.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;

use super::digest::{Digest, Hasher};

/// Beginning and length of what goes past the cache are multiples of it, in the file
/// and in memory. A disk with larger blocks refuses them, and gets them the ordinary way.
const BLOCK: usize = 4096;

/// Bytes that are handed over at a time.
const BUFFER: usize = 1 << 20;

/// A large file in the making. It is not durable before it is synced.
pub(super) struct LargeFile {
    file: File,
    /// One block longer than what is used of it, which begins at a multiple of a block.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    past_the_cache: bool,
    hasher: Hasher,
}

impl LargeFile {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let (file, past_the_cache) = match create_past_the_cache(path) {
            Some(file) => (file, true),
            None => (File::create(path)?, false),
        };
        let buffer = vec![0; BUFFER + BLOCK];
        let start = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
        Ok(Self {
            file,
            buffer,
            start,
            filled: 0,
            past_the_cache,
            hasher: Hasher::default(),
        })
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.filled));
            let at = self.start + self.filled;
            self.buffer[at..at + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == BUFFER {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Size and hash of the whole.
    pub(super) fn finish(mut self) -> Result<Digest> {
        if !self.filled.is_multiple_of(BLOCK) {
            self.through_the_cache()?;
        }
        self.hand_over()?;
        Ok(self.hasher.finish())
    }

    fn hand_over(&mut self) -> Result<()> {
        let mut done = 0;
        while done < self.filled {
            let rest = self.start + done..self.start + self.filled;
            match self.file.write(&self.buffer[rest]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A file system that takes only some blocks this way, or a part of one
                // was written.
                Err(error) if self.past_the_cache && is_refusal(&error) => {
                    self.through_the_cache()?;
                }
                Err(error) => return Err(error),
            }
        }
        self.filled = 0;
        Ok(())
    }

    /// Lets what follows be written the ordinary way.
    fn through_the_cache(&mut self) -> Result<()> {
        if std::mem::take(&mut self.past_the_cache) {
            #[cfg(target_os = "linux")]
            {
                use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
                let flags = fcntl_getfl(&self.file)?;
                fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn create_past_the_cache(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    // What else may be wrong shows where the file is created the ordinary way.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(direct)
        .open(path)
        .ok()
}

#[cfg(not(target_os = "linux"))]
fn create_past_the_cache(_: &Path) -> Option<File> {
    None
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::properties::cases(24))]

        #[test]
        fn pieces_of_any_size_are_one_file(
            sizes in prop::collection::vec(prop_oneof![0..9_usize, 0..3 * BLOCK, 0..2 * BUFFER], 0..6),
            whole_blocks in any::<bool>(),
            past_the_cache in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let mut file = LargeFile::create(&path).unwrap();
            if !past_the_cache {
                file.through_the_cache().unwrap();
            }
            let mut all = Vec::new();
            for size in sizes {
                let size = if whole_blocks { size.next_multiple_of(BLOCK) } else { size };
                let piece: Vec<u8> = (0..size).map(|i| (((all.len() + i) * 31) >> 3) as u8).collect();
                file.append(&piece).unwrap();
                all.extend(piece);
            }
            let digest = file.finish().unwrap();
            prop_assert!(std::fs::read(&path).unwrap() == all);
            prop_assert_eq!(digest, Digest::of(&path).unwrap());
            prop_assert_eq!(digest.bytes(), all.len() as u64);
        }
    }
}
