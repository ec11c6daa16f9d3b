//! Which contents go when space or time is up: a pure plan, with the order spelled out.
//!
//! 1. Never: contents in use, and contents whose pin holds (unless their explicit expiry has passed).
//! 2. First, whatever has expired.
//! 3. Then, while the unpinned bytes are over the quota: least recently used first.
//! 4. Then, while the disk has less free space than is to be kept free: least recently used first, leaving out those
//!    whose removal frees nothing (their storage is shared with a delivered file).
//!
//! Microsoft does not document its order (download-modes, section 8); this is ours.

use crate::{ContentInfo, ContentKey};
use std::time::{Duration, SystemTime};

/// The limits of the cache, from the policies in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// Most bytes of unpinned content; `None` for no limit.
    pub bytes_max: Option<u64>,
    /// How long content is kept after it was completed (unfinished: after it was last used); `None` for no limit.
    pub age_max: Option<Duration>,
    /// Bytes that must stay free on the disk.
    pub keep_free_bytes: u64,
    /// The present time.
    pub now: SystemTime,
}

/// What the plan needs to know of one content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The content.
    pub info: ContentInfo,
    /// Bytes that the disk would gain by its removal.
    pub frees_bytes: u64,
}

/// Why a content was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvictReason {
    /// Its age or expiry had passed.
    Expired,
    /// The cache was over its quota.
    Quota,
    /// The disk was short of free space.
    LowSpace,
}

/// A content that was removed, or is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evicted {
    /// The content.
    pub key: ContentKey,
    /// Its bytes in the cache.
    pub bytes: u64,
    /// Why it went.
    pub reason: EvictReason,
}

/// Chooses what goes, in the order in which it goes (see the module's documentation). `free_bytes` is what the disk
/// has free now.
pub fn plan_eviction(
    candidates: &[Candidate],
    limits: &CacheLimits,
    free_bytes: u64,
) -> Vec<Evicted> {
    let evicted = |c: &Candidate, reason| Evicted {
        key: c.info.key,
        bytes: c.info.bytes_have,
        reason,
    };
    let mut plan = Vec::new();
    let mut quota_bytes = 0u64;
    let mut free_bytes = free_bytes;
    let mut rest: Vec<&Candidate> = Vec::new();
    for candidate in candidates {
        let pinned = candidate.info.is_pinned(limits.now);
        if !candidate.info.in_use && has_expired(&candidate.info, limits) {
            free_bytes = free_bytes.saturating_add(candidate.frees_bytes);
            plan.push(evicted(candidate, EvictReason::Expired));
            continue;
        }
        if !pinned {
            quota_bytes = quota_bytes.saturating_add(candidate.info.bytes_have);
            if !candidate.info.in_use {
                rest.push(candidate);
            }
        }
    }
    // The key breaks ties so that the same input gives the same plan.
    rest.sort_by_key(|c| (c.info.last_used, c.info.key));
    let over_quota = |bytes: u64| limits.bytes_max.is_some_and(|max| bytes > max);
    rest.retain(|c| {
        let goes = over_quota(quota_bytes) && c.info.bytes_have > 0;
        if goes {
            quota_bytes -= c.info.bytes_have;
            free_bytes = free_bytes.saturating_add(c.frees_bytes);
            plan.push(evicted(c, EvictReason::Quota));
        }
        !goes
    });
    for candidate in rest {
        if free_bytes >= limits.keep_free_bytes {
            break;
        }
        if candidate.frees_bytes > 0 {
            free_bytes = free_bytes.saturating_add(candidate.frees_bytes);
            plan.push(evicted(candidate, EvictReason::LowSpace));
        }
    }
    plan
}

/// An explicit expiry counts alone; without one, a pin that holds stops the clock of the age limit.
fn has_expired(info: &ContentInfo, limits: &CacheLimits) -> bool {
    if let Some(expires) = info.expires {
        return expires <= limits.now;
    }
    let kept_since = info.completed.unwrap_or(info.last_used);
    !info.is_pinned(limits.now)
        && limits.age_max.is_some_and(|age_max| {
            limits
                .now
                .duration_since(kept_since)
                .is_ok_and(|age| age >= age_max)
        })
}

#[cfg(test)]
mod tests;
