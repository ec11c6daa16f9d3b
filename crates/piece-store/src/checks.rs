//! What was checked of contents that are closed: a content that is opened again need not be hashed again while its
//! file is as it was.

use crate::{ContentKey, limits::CHECKS_BYTES_MAX, stamp::FileStamp};
use dosvc_content::Bitfield;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Knowledge of this process's life, in memory; the oldest goes when there is too much.
#[derive(Debug, Default)]
pub(crate) struct Checks(Mutex<VecDeque<Checked>>);

#[derive(Debug)]
struct Checked {
    key: ContentKey,
    /// The file when its pieces were checked.
    stamp: FileStamp,
    pieces: Bitfield,
}

impl Checked {
    fn bytes(&self) -> usize {
        size_of::<Self>() + Bitfield::wire_len(self.pieces.piece_count())
    }
}

impl Checks {
    /// Remembers which pieces of a file that looks like this are right.
    pub(crate) fn remember(&self, key: ContentKey, stamp: FileStamp, pieces: Bitfield) {
        let mut all = self.lock();
        all.retain(|c| c.key != key);
        if !pieces.is_empty() {
            all.push_back(Checked { key, stamp, pieces });
        }
        let mut bytes: usize = all.iter().map(Checked::bytes).sum();
        while bytes > CHECKS_BYTES_MAX
            && let Some(oldest) = all.pop_front()
        {
            bytes -= oldest.bytes();
        }
    }

    /// The pieces that are right if the file looks like this now.
    pub(crate) fn take(&self, key: &ContentKey, stamp: &FileStamp) -> Option<Bitfield> {
        let mut all = self.lock();
        let at = all.iter().position(|c| c.key == *key)?;
        let known = all.remove(at)?;
        (!stamp.may_differ_from(&known.stamp)).then_some(known.pieces)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Checked>> {
        // Whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PlainKey;

    const STAMP: FileStamp = FileStamp {
        device: 1,
        inode: 2,
        size: 3,
        mtime_ns: 4,
        ctime_ns: 5,
        names: 1,
        mode: 0o100_644,
        owner: 0,
        group: 0,
    };

    fn key(n: usize) -> ContentKey {
        ContentKey::Plain(PlainKey::of_url(&n.to_string()))
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_not_known() {
        let checks = Checks::default();
        checks.remember(key(1), STAMP, Bitfield::full(9));
        checks.remember(key(2), STAMP, Bitfield::full(9));
        assert_eq!(checks.take(&key(1), &STAMP), Some(Bitfield::full(9)));
        let changed = FileStamp {
            ctime_ns: 6,
            ..STAMP
        };
        assert_eq!(checks.take(&key(2), &changed), None);
        assert_eq!(checks.take(&key(2), &STAMP), None, "forgotten");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes() {
        let checks = Checks::default();
        let pieces = 1 << 20;
        let room = CHECKS_BYTES_MAX / (pieces as usize / 8);
        for n in 0..=room {
            checks.remember(key(n), STAMP, Bitfield::full(pieces));
        }
        assert_eq!(checks.take(&key(0), &STAMP), None);
        assert!(checks.take(&key(room), &STAMP).is_some());
        let bytes: usize = checks.lock().iter().map(Checked::bytes).sum();
        assert!(bytes <= CHECKS_BYTES_MAX);
    }
}
