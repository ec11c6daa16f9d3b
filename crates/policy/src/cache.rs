//! How much of a disk the cache may take.

use crate::Percent;

/// The cache's limit as configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheLimit {
    /// `max_cache_size`: a share of the available space.
    Share(Percent),
    /// `absolute_max_cache_size`, in bytes.
    Bytes(u64),
    /// `absolute_max_cache_size` is 0: only the disk limits the cache.
    Disk,
}

/// The disk that the cache lies on, in bytes, as of one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskSpace {
    /// Its capacity.
    pub total: u64,
    /// What is free for us.
    pub available: u64,
}

/// The part of a disk that is left alone unless configured otherwise.
pub const KEEP_FREE_DEFAULT: Percent = Percent::of(10);

/// The most bytes that the cache may take now, given that it takes `cache_bytes`.
///
/// "Available" counts the cache's own bytes as available, so that a cache that fills does not shrink its own
/// limit. Whatever the policies say, the last `keep_free` of the disk's capacity stays free: when others fill the
/// disk, the limit falls below what the cache has and it must evict.
pub fn cache_bytes_max(
    limit: CacheLimit,
    disk: DiskSpace,
    cache_bytes: u64,
    keep_free: Percent,
) -> u64 {
    let available = disk.available.saturating_add(cache_bytes).min(disk.total);
    let allowed = match limit {
        CacheLimit::Share(share) => share.part_of(available),
        CacheLimit::Bytes(bytes) => bytes,
        CacheLimit::Disk => u64::MAX,
    };
    allowed.min(available.saturating_sub(keep_free.part_of(disk.total)))
}

/// How many more bytes may be written to this disk before its last `keep_free` is touched: for pinned content and
/// downloads under way, which the cache's limit does not count.
pub fn writable_bytes(disk: DiskSpace, keep_free: Percent) -> u64 {
    disk.available.saturating_sub(keep_free.part_of(disk.total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn share_of_the_available_space() {
        let disk = DiskSpace {
            total: 500 * GIB,
            available: 100 * GIB,
        };
        let share = CacheLimit::Share(Percent::of(10));
        assert_eq!(cache_bytes_max(share, disk, 0, KEEP_FREE_DEFAULT), 10 * GIB);
        // The same disk with 5 GiB of it in the cache: the limit stays.
        let filled = DiskSpace {
            available: 95 * GIB,
            ..disk
        };
        assert_eq!(
            cache_bytes_max(share, filled, 5 * GIB, KEEP_FREE_DEFAULT),
            10 * GIB
        );
    }

    #[test]
    fn absolute_size_stands_for_the_share_but_not_for_the_free_part() {
        let disk = DiskSpace {
            total: 100 * GIB,
            available: 30 * GIB,
        };
        for (limit, most) in [
            (CacheLimit::Bytes(15 * GIB), 15 * GIB),
            (CacheLimit::Bytes(25 * GIB), 20 * GIB),
            (CacheLimit::Disk, 20 * GIB),
        ] {
            assert_eq!(cache_bytes_max(limit, disk, 0, KEEP_FREE_DEFAULT), most);
        }
        assert_eq!(writable_bytes(disk, KEEP_FREE_DEFAULT), 20 * GIB);
    }

    #[test]
    fn others_filling_the_disk_push_the_cache_out() {
        let disk = DiskSpace {
            total: 100 * GIB,
            available: 8 * GIB,
        };
        assert_eq!(
            cache_bytes_max(CacheLimit::Disk, disk, 5 * GIB, KEEP_FREE_DEFAULT),
            3 * GIB
        );
        assert_eq!(writable_bytes(disk, KEEP_FREE_DEFAULT), 0);
    }

    proptest! {
        #[test]
        fn last_part_of_a_disk_is_never_planned_for(
            total: u64, available: u64, cache: u64, share in 0u8..=100, keep in 0u8..=100, bytes: u64, kind in 0..3
        ) {
            let limit = match kind {
                0 => CacheLimit::Share(Percent::of(share)),
                1 => CacheLimit::Bytes(bytes),
                _ => CacheLimit::Disk,
            };
            let keep = Percent::of(keep);
            let disk = DiskSpace { total, available: available.min(total) };
            let cache = cache.min(total - disk.available);
            let most = cache_bytes_max(limit, disk, cache, keep);
            // With the cache at its limit, what is free is at least what must stay free, or the cache is empty.
            let free = disk.available + cache - most;
            prop_assert!(most == 0 || free >= keep.part_of(total));
        }
    }
}
