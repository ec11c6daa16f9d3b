//! Where things lie in the state folder, and the compact form of the hash file.
//!
//! `cache` may be another folder, on a disk of its own; it has a `lock` of its own then.
//!
//! ```text
//! lock            names the process that has the folder (flock)
//! state.redb      records and committed bitfields
//! cache/<key>/    one folder per content, private (0700)
//!     data        the content's bytes in place, sparse
//!     hashes      the hash file, binary
//!     mode-limit  the download mode that a caller limited it to
//!     *.new       half written, removed when the content is opened
//! cache/.removed-*  being deleted, removed when the store is opened
//! ```

use crate::{ContentKey, StoreError};
use dosvc_content::{PieceHash, PieceLengths, PiecesHashFile};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Begins the name of a content's folder that is being deleted.
pub(crate) const REMOVED_PREFIX: &str = ".removed-";
const HASHES_MAGIC: [u8; 8] = *b"DOPHASH\x01";
const HASHES_HEADER_BYTES: usize = 20;

/// Paths inside one state folder, and inside the cache.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    cache: PathBuf,
}

impl Layout {
    /// `cache_dir`: the cache's folder if it is not the one in the state folder.
    pub(crate) fn new(dir: PathBuf, cache_dir: Option<PathBuf>) -> Self {
        let cache = cache_dir.unwrap_or_else(|| default_cache(&dir));
        Self { dir, cache }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join("state.redb")
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether the cache lies elsewhere than in the state folder.
    pub(crate) fn has_own_cache(&self) -> bool {
        self.cache != default_cache(&self.dir)
    }

    pub(crate) fn cache_lock(&self) -> PathBuf {
        self.cache.join("lock")
    }

    /// Names the cache's folder that was used last, if it was not the one in the state folder.
    pub(crate) fn cache_place(&self) -> PathBuf {
        self.dir.join("cache-folder")
    }

    pub(crate) fn content(&self, key: &ContentKey) -> PathBuf {
        self.cache.join(key.to_string())
    }

    pub(crate) fn mode_limit(&self, key: &ContentKey) -> PathBuf {
        self.content(key).join("mode-limit")
    }
}

/// Where the cache lies unless it is told to lie elsewhere.
pub(crate) fn default_cache(dir: &Path) -> PathBuf {
    dir.join("cache")
}

/// The data file in a content's folder.
pub(crate) fn data_path(content_dir: &Path) -> PathBuf {
    content_dir.join("data")
}

/// A data file on its way to replace [`data_path`].
pub(crate) fn new_data_path(content_dir: &Path) -> PathBuf {
    content_dir.join("data.new")
}

/// The hash file in a content's folder.
pub(crate) fn hashes_path(content_dir: &Path) -> PathBuf {
    content_dir.join("hashes")
}

/// Makes a folder that only its owner can enter; one that exists is left as it is.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| match e.kind() {
            // A file in the way: "not found" would say that something vanished.
            io::ErrorKind::NotFound => StoreError::Io {
                path: path.to_path_buf(),
                source: e,
            },
            _ => StoreError::io(path, e),
        })
}

/// Opens a file of the store for reading and writing, never through a symbolic link.
pub(crate) fn open_file(path: &Path, extra: OFlags) -> Result<File, StoreError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | extra;
    openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(StoreError::at(path))
}

/// Makes a data file of this length without storage behind it, in place of whatever has the name.
pub(crate) fn create_data(path: &Path, len: u64) -> Result<File, StoreError> {
    remove_if_there(path)?;
    let file = open_file(path, OFlags::CREATE | OFlags::EXCL)?;
    file.set_len(len).map_err(StoreError::at(path))?;
    Ok(file)
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, e)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::at(path))
}

/// Writes the hash file of a content: magic and version, content length (u64), piece size (u32), raw piece hashes;
/// little-endian. Atomic and durable.
pub(crate) fn write_hashes(
    content_dir: &Path,
    hash_file: &PiecesHashFile,
) -> Result<(), StoreError> {
    let temp = content_dir.join("hashes.new");
    remove_if_there(&temp)?;
    let file = open_file(&temp, OFlags::CREATE | OFlags::EXCL)?;
    let write = || {
        let lengths = hash_file.lengths();
        let mut out = io::BufWriter::new(&file);
        out.write_all(&HASHES_MAGIC)?;
        out.write_all(&lengths.content_length().to_le_bytes())?;
        out.write_all(&lengths.piece_size().to_le_bytes())?;
        for hash in hash_file.piece_hashes() {
            out.write_all(hash.as_bytes())?;
        }
        out.flush()?;
        file.sync_all()
    };
    write().map_err(StoreError::at(&temp))?;
    let path = hashes_path(content_dir);
    fs::rename(&temp, &path).map_err(StoreError::at(&path))?;
    sync_dir(content_dir)
}

/// Reads a content's hash file and proves that it is the one for this key.
pub(crate) fn read_hashes(
    content_dir: &Path,
    key: &ContentKey,
) -> Result<PiecesHashFile, StoreError> {
    let path = hashes_path(content_dir);
    let corrupt = |what: &str| StoreError::Corrupt {
        path: path.clone(),
        what: what.to_owned(),
    };
    let mut file = File::open(&path).map_err(StoreError::at(&path))?;
    let size = file.metadata().map_err(StoreError::at(&path))?.len();
    let mut header = [0; HASHES_HEADER_BYTES];
    file.read_exact(&mut header)
        .map_err(|_| corrupt("shorter than its header"))?;
    let (magic, rest) = header.split_at(8);
    let (length, piece_size) = rest.split_at(8);
    if magic != HASHES_MAGIC {
        return Err(corrupt("not a hash file of this version"));
    }
    let length = u64::from_le_bytes(length.try_into().expect("split at 8"));
    let piece_size = u32::from_le_bytes(piece_size.try_into().expect("4 of 20 are left"));
    let lengths =
        PieceLengths::new(length, piece_size.into()).map_err(|e| corrupt(&e.to_string()))?;
    // Before anything is allocated: the file is as long as its header says.
    let hashes_bytes = u64::from(lengths.piece_count()) * 32;
    if size != HASHES_HEADER_BYTES as u64 + hashes_bytes {
        return Err(corrupt("its length does not fit its header"));
    }
    let mut raw = Vec::new();
    file.take(hashes_bytes)
        .read_to_end(&mut raw)
        .map_err(StoreError::at(&path))?;
    let hashes: Arc<[PieceHash]> = raw
        .as_chunks::<32>()
        .0
        .iter()
        .map(|&hash| PieceHash::from(hash))
        .collect();
    PiecesHashFile::new(lengths, hashes)
        .ok()
        .filter(|file| ContentKey::Hashed(file.hash_of_hashes()) == *key)
        .ok_or_else(|| corrupt("its hashes do not match its name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_file(pieces: u8) -> PiecesHashFile {
        let lengths = PieceLengths::new(u64::from(pieces) << 16, 1 << 16).unwrap();
        let hashes: Vec<_> = (0..pieces).map(|i| PieceHash::from([i; 32])).collect();
        PiecesHashFile::new(lengths, hashes).unwrap()
    }

    #[test]
    fn hash_file_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        for pieces in [0, 1, 200] {
            let file = hash_file(pieces);
            write_hashes(dir.path(), &file).unwrap();
            let read = read_hashes(dir.path(), &file.hash_of_hashes().into()).unwrap();
            assert_eq!(read, file);
        }
    }

    #[test]
    fn damaged_hash_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = hash_file(3);
        write_hashes(dir.path(), &file).unwrap();
        let path = hashes_path(dir.path());
        let right = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_hashes(dir.path(), &file.hash_of_hashes().into())
        };
        for at in 0..right.len() {
            let mut bytes = right.clone();
            bytes[at] ^= 0x10;
            assert!(
                matches!(read(&bytes), Err(StoreError::Corrupt { .. })),
                "byte {at}"
            );
        }
        for len in [0, 19, 20, right.len() - 1] {
            assert!(matches!(
                read(&right[..len]),
                Err(StoreError::Corrupt { .. })
            ));
        }
        assert!(read(&right).is_ok());
    }
}
