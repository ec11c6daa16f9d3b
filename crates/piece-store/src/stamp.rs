//! What a file looks like from outside, to notice that somebody changed it.

use rustix::time::{ClockId, clock_gettime};
use std::{fs::File, io, os::unix::fs::MetadataExt as _, time::Duration};

/// How often the clock is looked at that files' times are taken from; it ticks every 1 to 10 ms.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Looks at it before a time that is later still is taken for one that somebody set.
const LOOKS_MAX: u32 = 20;

/// Identity, size, times and attributes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileStamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Nanoseconds since 1970. Changes with every write; whoever may write may also set it.
    pub(crate) mtime_ns: i64,
    /// Nanoseconds since 1970. Changes with every write, and with owner, mode and names. Nobody can set it.
    pub(crate) ctime_ns: i64,
    /// How many names the file has.
    pub(crate) names: u64,
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
}

impl FileStamp {
    /// The file's stamp now.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            mtime_ns: nanoseconds(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: nanoseconds(stat.ctime(), stat.ctime_nsec()),
            names: stat.nlink(),
            mode: stat.mode(),
            owner: stat.uid(),
            group: stat.gid(),
        })
    }

    /// Whether somebody may have written to the file since it had the stamp `before`.
    ///
    /// A link, chmod or chown moves ctime without touching a byte, and shows as what it is. A ctime that moved with
    /// nothing to show for it is taken for a write whose mtime was set back.
    pub(crate) fn may_differ_from(&self, before: &Self) -> bool {
        let unexplained =
            self.ctime_ns != before.ctime_ns && self.attributes() == before.attributes();
        !self.same_bytes(before) || unexplained
    }

    /// Whether only one of ctime and attributes moved since `before`. File systems change one after the other, and a
    /// look takes no lock: it can fall in between, and another one a moment later tells.
    pub(crate) fn may_be_half_of_a_change(&self, before: &Self) -> bool {
        self.same_bytes(before)
            && (self.ctime_ns == before.ctime_ns) != (self.attributes() == before.attributes())
    }

    fn attributes(&self) -> (u64, u32, u32, u32) {
        (self.names, self.mode, self.owner, self.group)
    }

    /// The same file, not written to as far as mtime tells, whatever became of its names, owner and mode.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        self.same_file(other) && self.mtime_ns == other.mtime_ns
    }

    /// Waits until a write would give the file another mtime, a few milliseconds at most. Needed before its owner gets a
    /// name for it.
    pub(crate) fn wait_until_past(&self) {
        for _ in 0..LOOKS_MAX {
            let now = clock_gettime(ClockId::RealtimeCoarse);
            if nanoseconds(now.tv_sec, now.tv_nsec) > self.mtime_ns {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The same file with the same length, whatever was written into it.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size) == (other.device, other.inode, other.size)
    }
}

/// A time since 1970.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn a_write_after_the_wait_shows() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("file")).unwrap();
        for round in 0..50u8 {
            file.write_all_at(&[round], 0).unwrap();
            let before = FileStamp::of(&file).unwrap();
            before.wait_until_past();
            file.write_all_at(&[round], 0).unwrap();
            let after = FileStamp::of(&file).unwrap();
            assert!(!after.same_bytes(&before), "round {round}: {before:?}");
        }
    }

    #[test]
    fn a_time_that_somebody_set_is_not_waited_for() {
        let far = FileStamp {
            mtime_ns: i64::MAX,
            ..stamp()
        };
        far.wait_until_past();
    }

    fn stamp() -> FileStamp {
        FileStamp {
            device: 1,
            inode: 2,
            size: 3,
            mtime_ns: 4,
            ctime_ns: 5,
            names: 1,
            mode: 0o100_600,
            owner: 7,
            group: 8,
        }
    }

    #[test]
    fn only_what_may_have_touched_bytes_counts_as_a_change() {
        let before = stamp();
        let after = |change: fn(&mut FileStamp)| {
            let mut stamp = stamp();
            stamp.ctime_ns += 1;
            change(&mut stamp);
            stamp.may_differ_from(&before)
        };
        assert!(!before.may_differ_from(&before));
        assert!(!after(|s| s.names = 2), "a link");
        assert!(!after(|s| s.mode = 0o100_644), "a chmod");
        assert!(!after(|s| s.owner = 9), "a chown");
        assert!(!after(|s| s.group = 9), "a chgrp");
        assert!(after(|_| {}), "a write whose mtime was set back");
        assert!(after(|s| s.mtime_ns = 6), "a write");
        assert!(after(|s| (s.mtime_ns, s.names) = (6, 2)), "both");
        assert!(after(|s| (s.size, s.names) = (4, 2)), "a longer file");
        assert!(after(|s| (s.inode, s.names) = (3, 2)), "another file");
    }

    #[test]
    fn a_look_in_the_middle_of_a_link_is_told_from_the_whole() {
        let before = stamp();
        let after = |change: fn(&mut FileStamp)| {
            let mut stamp = stamp();
            change(&mut stamp);
            stamp.may_be_half_of_a_change(&before)
        };
        assert!(after(|s| s.ctime_ns = 6), "the link's ctime");
        assert!(after(|s| s.names = 2), "the link's name");
        assert!(!after(|s| (s.ctime_ns, s.names) = (6, 2)), "both");
        assert!(!after(|_| {}), "nothing");
        assert!(!after(|s| (s.ctime_ns, s.mtime_ns) = (6, 6)), "a write");
    }
}
