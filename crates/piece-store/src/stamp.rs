//! What a file looks like from outside, to notice that somebody changed it.

use rustix::fs::Stat;
use std::{fs::File, io};

/// Identity, size and times of a file. Two equal stamps mean that nobody wrote to the file in between, as far as the
/// file system's clock can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileStamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// Nanoseconds since 1970. Changes with every write, and with owner, mode and number of names.
    pub(crate) ctime_ns: i64,
}

impl FileStamp {
    /// The file's stamp now, and how many names it has.
    pub(crate) fn of(file: &File) -> io::Result<(Self, u64)> {
        let stat = rustix::fs::fstat(file)?;
        Ok((Self::from_stat(&stat), u64::from(stat.st_nlink)))
    }

    // The fields' types differ between architectures.
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        clippy::cast_possible_wrap
    )]
    pub(crate) fn from_stat(stat: &Stat) -> Self {
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// The same file with the same bytes, though its names, owner or mode may have changed.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        Self {
            ctime_ns: other.ctime_ns,
            ..*self
        } == *other
    }

    /// The same file with the same length, whatever was written into it.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size) == (other.device, other.inode, other.size)
    }
}
