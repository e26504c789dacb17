//! Sizes and hashes of files, by which damage is found.
//!
//! The hash is XXH3 in 128 bits, computed at the speed of memory. It finds any
//! damage; it is no proof against a forger, who could write another hash as well.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use twox_hash::xxhash3_128;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 18;

/// Size and hash of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    bytes: u64,
    xxh3: u128,
}

impl Digest {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Hasher::default();
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(n) => hasher.update(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A file that has been written, hashed on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Name in its folder.
    pub name: String,
    /// Size and hash.
    pub digest: Digest,
}

impl WrittenFile {
    pub(super) fn new(path: &Path, digest: Digest) -> Self {
        let name = path.file_name().unwrap_or_default();
        Self {
            name: name.to_string_lossy().into_owned(),
            digest,
        }
    }
}

/// The hash, as `xxh128sum` prints it.
impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.xxh3)
    }
}

/// Takes a file's contents piece by piece.
pub(super) struct Hasher {
    bytes: u64,
    hasher: xxhash3_128::Hasher,
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            bytes: 0,
            hasher: xxhash3_128::Hasher::new(),
        }
    }
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hasher.write(bytes);
    }

    pub(super) fn finish(self) -> Digest {
        Digest {
            bytes: self.bytes,
            xxh3: self.hasher.finish_128(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_other_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        // `printf abc | xxh128sum`.
        std::fs::write(&path, "abc").unwrap();
        let digest = Digest::of(&path).unwrap();
        assert_eq!(digest.to_string(), "06b05ab6733a618578af5f94892f3950");
        assert_eq!(digest.bytes(), 3);
    }
}
