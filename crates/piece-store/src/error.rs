//! Errors, split by whose fault they are: the disk's, the caller's, or a change behind the store's back.

use crate::ContentKey;
use dosvc_content::{HashFileError, PieceIndex};
use rustix::io::Errno;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the state folder could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process (or this one) has the folder open.
    #[error(
        "folder {dir} is in use by another dosvc{who}; stop it, or choose another state_dir (the cache's: modify_cache_drive)",
        dir = dir.display(),
        who = pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// Who has it, if the lock file says so.
        pid: Option<u32>,
    },
    /// The folder that the cache is to lie in does not exist.
    #[error(
        "the cache's folder {dir} does not exist: make it, owned by the user that dosvc runs as, or mount its disk (modify_cache_drive)",
        dir = dir.display()
    )]
    NoCacheFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the store could not do what it was asked to. Nothing that was had is lost by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No space or no quota left.
    #[error("no space left for {path}: free some space or lower the cache size; what was stored is kept", path = path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("{path} is on a read-only file system: mount it writable or choose another state_dir", path = path.display())]
    ReadOnly {
        /// What was being written.
        path: PathBuf,
    },
    /// Permissions do not allow it.
    #[error("not permitted to use {path}: it must belong to the user that dosvc runs as", path = path.display())]
    Denied {
        /// What was being opened or written.
        path: PathBuf,
    },
    /// The content is longer than this file system or a limit of the process allows files to be.
    #[error("{path} would be too large for its file system or for the process's file size limit", path = path.display())]
    FileTooLarge {
        /// What was being written.
        path: PathBuf,
    },
    /// A folder or file of the store was removed or replaced while it was in use.
    #[error("{path} has vanished while it was in use: restart dosvc, or add the content again", path = path.display())]
    Vanished {
        /// What is gone.
        path: PathBuf,
    },
    /// A file of the store does not read as it was written.
    #[error("{path} is damaged ({what}): restart dosvc to rebuild the state, or delete the content and download it again", path = path.display())]
    Corrupt {
        /// What is damaged.
        path: PathBuf,
        /// How it shows.
        what: String,
    },
    /// The content cannot be removed while somebody uses it.
    #[error("content {key} is in use: pause or cancel its downloads first")]
    InUse {
        /// The content.
        key: ContentKey,
    },
    /// The content is pinned.
    #[error("content {key} is pinned: unpin it, or ask for pinned content to be deleted too")]
    Pinned {
        /// The content.
        key: ContentKey,
    },
    /// The store does not hold the content.
    #[error("content {key} is not in the cache")]
    Unknown {
        /// The content.
        key: ContentKey,
    },
    /// The piece that was to be read is not had.
    #[error("piece {piece} is not in the cache")]
    Missing {
        /// The piece.
        piece: PieceIndex,
    },
    /// Content without a hash file cannot be pinned: it is never shared.
    #[error("content {key} has no hash file and is not shared, so it cannot be pinned")]
    NotShared {
        /// The content.
        key: ContentKey,
    },
    /// A pin or expiry lies too far ahead.
    #[error("a pin or expiry may lie at most one year ahead")]
    TooFarAhead,
    /// The caller's bytes do not have the length of the piece or block that they are for, or the dimensions differ
    /// from those that the content has.
    #[error("caller's mistake: {got} bytes where {want} were expected")]
    WrongLength {
        /// Bytes given.
        got: u64,
        /// Bytes expected.
        want: u64,
    },
    /// A file that was to be imported is not the content that the hash file describes.
    #[error("{path} is not the content that its hash file describes ({bad} pieces differ)", path = path.display())]
    NotTheContent {
        /// The file.
        path: PathBuf,
        /// Number of pieces that are wrong.
        bad: usize,
    },
    /// Anything else that the operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was being used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Sorts an error of the operating system by its cause.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::DiskFull { path },
            Some(Errno::ROFS) => Self::ReadOnly { path },
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied { path },
            Some(Errno::FBIG) => Self::FileTooLarge { path },
            Some(Errno::NOENT | Errno::STALE | Errno::NODEV) => Self::Vanished { path },
            _ => Self::Io { path, source },
        }
    }

    /// For `map_err`: sorts an error about this path.
    pub(crate) fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::io(path, source.into())
    }
}

/// Why a range cannot be served now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The piece is not had.
    #[error("the piece is missing")]
    Missing,
    /// The piece must be hashed first: [`crate::Content::check_piece`].
    #[error("the piece was not checked since it was loaded or changed")]
    Unchecked,
    /// The file was changed by somebody else. Every piece is unchecked from now on.
    #[error("the file was changed by somebody else")]
    Changed,
    /// The file cannot be looked at.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a file was not handed over. Nothing half written stays behind, and what was at the destination is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// Pieces are missing.
    #[error("the content is not complete: {missing} pieces are missing")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// Pieces were found damaged on disk. They are no longer had: fetch them again, then deliver.
    #[error("{} pieces are damaged on disk and must be downloaded again", pieces.len())]
    Damaged {
        /// Which ones.
        pieces: Vec<PieceIndex>,
    },
    /// The content's file was changed while it was handed over.
    #[error("the cached file was changed by somebody else while it was handed over: try again")]
    Changed,
    /// The destination's folder does not exist.
    #[error("folder {path} does not exist: create it first", path = path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The destination is a folder, or has no file name.
    #[error("{path} is a folder: name a file in it", path = path.display())]
    IsFolder {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is a device, a pipe or a socket.
    #[error("{path} is not a regular file and is not replaced", path = path.display())]
    NotAFile {
        /// The destination.
        path: PathBuf,
    },
    /// No space or no quota left at the destination.
    #[error("no space left for {path}: free some space or choose another folder", path = path.display())]
    DiskFull {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is on a read-only file system.
    #[error("{path} is on a read-only file system", path = path.display())]
    ReadOnly {
        /// The destination.
        path: PathBuf,
    },
    /// Permissions of the destination's folder do not allow it.
    #[error("not permitted to write {path}", path = path.display())]
    Denied {
        /// The destination.
        path: PathBuf,
    },
    /// The destination's file system does not take files of this size.
    #[error("{path} would be too large for its file system", path = path.display())]
    FileTooLarge {
        /// The destination.
        path: PathBuf,
    },
    /// Anything else that the operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The destination.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cache's side failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeliverError {
    /// Sorts an error of the operating system about the destination.
    pub(crate) fn at<E: Into<io::Error>>(dest: &Path) -> impl FnOnce(E) -> Self {
        move |source| match StoreError::io(dest, source.into()) {
            StoreError::DiskFull { path } => Self::DiskFull { path },
            StoreError::ReadOnly { path } => Self::ReadOnly { path },
            StoreError::Denied { path } => Self::Denied { path },
            StoreError::FileTooLarge { path } => Self::FileTooLarge { path },
            StoreError::Io { path, source } => Self::Io { path, source },
            _ => Self::NoFolder {
                path: dest.parent().map(Path::to_path_buf).unwrap_or_default(),
            },
        }
    }
}

/// Why a file could not be hashed or verified (`publish`, `verify`).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file has another length than its hash file says.
    #[error("{path} has {got} bytes where the hash file says {want}", path = path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        got: u64,
        /// The length that the hash file names.
        want: u64,
    },
    /// The file changed while it was read.
    #[error("{path} changed while it was read: try again when nobody writes to it", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The path names no regular file.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// No hash file can describe this file, or not with this piece size.
    #[error(transparent)]
    HashFile(#[from] HashFileError),
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source: source.into(),
        }
    }
}
