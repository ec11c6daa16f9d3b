//! Byte counters by kind of source.

use crate::api::SourceBytes;
use dosvc_scheduler::SourceKind;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

impl SourceBytes {
    /// The counter of one kind.
    pub(crate) fn of(&mut self, kind: SourceKind) -> &mut u64 {
        match kind {
            SourceKind::LanPeer => &mut self.lan,
            SourceKind::LinkLocalPeer => &mut self.link_local,
            SourceKind::GroupPeer => &mut self.group,
            SourceKind::InternetPeer => &mut self.internet,
            SourceKind::CacheHost => &mut self.cache_server,
            SourceKind::Origin => &mut self.http,
        }
    }

    /// The sum, kind by kind.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            http: self.http + other.http,
            cache_server: self.cache_server + other.cache_server,
            lan: self.lan + other.lan,
            link_local: self.link_local + other.link_local,
            group: self.group + other.group,
            internet: self.internet + other.internet,
        }
    }

    /// What was added since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            http: self.http - earlier.http,
            cache_server: self.cache_server - earlier.cache_server,
            lan: self.lan - earlier.lan,
            link_local: self.link_local - earlier.link_local,
            group: self.group - earlier.group,
            internet: self.internet - earlier.internet,
        }
    }
}

/// Sums over all swarms since the engine started.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    downloaded: [AtomicU64; 6],
    uploaded: [AtomicU64; 6],
}

impl Totals {
    pub(crate) fn add_downloaded(&self, kind: SourceKind, bytes: u64) {
        self.downloaded[slot(kind)].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_uploaded(&self, kind: SourceKind, bytes: u64) {
        self.uploaded[slot(kind)].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn downloaded(&self) -> SourceBytes {
        sums(&self.downloaded)
    }

    pub(crate) fn uploaded(&self) -> SourceBytes {
        sums(&self.uploaded)
    }
}

const KINDS: [SourceKind; 6] = [
    SourceKind::LanPeer,
    SourceKind::LinkLocalPeer,
    SourceKind::GroupPeer,
    SourceKind::InternetPeer,
    SourceKind::CacheHost,
    SourceKind::Origin,
];

fn slot(kind: SourceKind) -> usize {
    KINDS.iter().position(|k| *k == kind).unwrap_or(0)
}

fn sums(counters: &[AtomicU64; 6]) -> SourceBytes {
    let mut bytes = SourceBytes::default();
    for (kind, counter) in KINDS.into_iter().zip(counters) {
        *bytes.of(kind) = counter.load(Ordering::Relaxed);
    }
    bytes
}

/// How long a rate looks back.
const WINDOW: Duration = Duration::from_secs(3);
/// The grain of the window.
const STEP: Duration = Duration::from_millis(250);

/// Bytes a second over the last three seconds (since the first byte, when that is less long ago).
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    /// Oldest first; at most WINDOW / STEP + 1 entries.
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Step {
    start: Instant,
    /// What was here at the start: it came in the time before that.
    first: u64,
    /// All bytes of the step.
    sum: u64,
}

impl RateMeter {
    pub(crate) fn add(&mut self, bytes: u64, now: Instant) {
        match self.steps.back_mut() {
            Some(step) if now.saturating_duration_since(step.start) < STEP => step.sum += bytes,
            _ => {
                self.forget(now);
                self.steps.push_back(Step {
                    start: now,
                    first: bytes,
                    sum: bytes,
                });
            }
        }
    }

    pub(crate) fn bps(&mut self, now: Instant) -> u64 {
        self.forget(now);
        let Some(oldest) = self.steps.front() else {
            return 0;
        };
        let span = now.saturating_duration_since(oldest.start).max(STEP);
        let sum: u64 = self.steps.iter().map(|step| step.sum).sum();
        // Of a download that has just begun nothing else is known.
        let before = if self.steps.len() > 1 {
            oldest.first
        } else {
            0
        };
        let sum = sum - before;
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
        sum.saturating_mul(1000) / millis
    }

    fn forget(&mut self, now: Instant) {
        while self
            .steps
            .front()
            .is_some_and(|step| now.saturating_duration_since(step.start) > WINDOW)
        {
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_the_average_of_the_last_seconds() {
        let start = Instant::now();
        let mut meter = RateMeter::default();
        assert_eq!(meter.bps(start), 0);
        for i in 0..100 {
            meter.add(1000, start + Duration::from_millis(100 * i));
        }
        let rate = meter.bps(start + Duration::from_secs(10));
        assert!((9_000..=10_100).contains(&rate), "{rate}");
        assert_eq!(meter.bps(start + Duration::from_secs(20)), 0);
    }

    /// Looked at whenever something has come, a rate of large lumps was as many of them too high as stand at both ends.
    #[test]
    fn lumps_make_no_rate_too_high() {
        let start = Instant::now();
        let mut meter = RateMeter::default();
        for i in 0..100 {
            let now = start + Duration::from_millis(400 * i);
            meter.add(400_000, now);
            if i > 0 {
                assert_eq!(meter.bps(now), 1_000_000, "{i}");
            }
        }
    }

    #[test]
    fn totals_are_kept_by_kind() {
        let totals = Totals::default();
        totals.add_downloaded(SourceKind::LanPeer, 5);
        totals.add_downloaded(SourceKind::Origin, 7);
        totals.add_uploaded(SourceKind::GroupPeer, 3);
        let down = totals.downloaded();
        assert_eq!(
            (down.lan, down.http, down.peers(), down.total()),
            (5, 7, 5, 12)
        );
        assert_eq!(totals.uploaded().group, 3);
    }
}
