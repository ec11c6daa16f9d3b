//! What a file looks like from outside, to notice that somebody changed it.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

/// Longer than the tick of any file system's clock (a jiffy is at most 10 ms).
const CLOCK_TICK: Duration = Duration::from_millis(20);

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
        let stat = file.metadata()?;
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        let stamp = Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            mtime_ns: ns(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: ns(stat.ctime(), stat.ctime_nsec()),
        };
        Ok((stamp, stat.nlink()))
    }

    /// The same file with the same bytes, though its names, owner or mode may have changed.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        Self {
            ctime_ns: other.ctime_ns,
            ..*self
        } == *other
    }

    /// Waits until a write would give the file another mtime. Needed before its owner gets a name for it.
    pub(crate) fn wait_until_past(&self) {
        let written = SystemTime::UNIX_EPOCH
            + Duration::from_nanos(u64::try_from(self.mtime_ns).unwrap_or_default());
        if let Ok(age) = SystemTime::now().duration_since(written)
            && age < CLOCK_TICK
        {
            std::thread::sleep(CLOCK_TICK.saturating_sub(age));
        }
    }

    /// The same file with the same length, whatever was written into it.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size) == (other.device, other.inode, other.size)
    }
}
