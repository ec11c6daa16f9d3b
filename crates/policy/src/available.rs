//! How much is available toward the sources, measured as downloads run.
//!
//! A share of the bandwidth needs to know the whole. Nobody but the download itself can tell: what a network card
//! could do says little of the way to a server. So every few minutes the limits that are shares are lifted for a few
//! seconds, and the rate that was sustained over three of them is what is available until the next time: the median of the
//! last such stretches, since one in which a busy machine noticed late what had come before shows more than there is. What
//! piled up in the system's buffers while a limit was in force does not count: the first half second is left out.
//!
//! Where most came from peers ([`Estimator::is_of_peers`]), it is what they had to give: they pass on what they get themselves.

use dosvc_content::ByteRate;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A rate counts when it was kept up for this long.
const SUSTAINED: Duration = Duration::from_secs(3);
/// The beginning of a measurement that does not count: full buffers, connections that start slowly.
const SETTLING: Duration = Duration::from_millis(500);
/// A measurement ends when the best rate has not grown by more than this (in parts of a hundred) …
const GROWTH_PERCENT: u64 = 3;
/// … in this time, …
const GROWTH_TIME: Duration = Duration::from_millis(750);
/// … or after this at the latest.
const MEASURING_MAX: Duration = Duration::from_secs(8);
/// How long a measurement holds while downloads run.
const HOLDS: Duration = Duration::from_secs(180);
/// A source that comes new makes for a new measurement when the last one is older than this.
const HOLDS_FOR_NEW_SOURCES: Duration = Duration::from_secs(30);
/// Without any bytes for so long a measurement begins anew.
const PAUSE: Duration = Duration::from_secs(1);
/// Without any bytes for so long what was measured is forgotten: the machine may be elsewhere.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Steps of the window; more feeds in it are added up.
const STEPS_MAX: usize = 64;

/// Measures what is available. Fed with the bytes that come from sources whose limits are shares, foreground and
/// background together, several times a second while any come.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    available: Option<ByteRate>,
    measured_at: Option<Instant>,
    /// At least half of what was measured came from peers.
    of_peers: bool,
    measuring: Option<Measurement>,
    last_bytes: Option<Instant>,
}

/// One measurement under way.
#[derive(Clone, Debug)]
struct Measurement {
    since: Instant,
    /// (end of the step, bytes in it), oldest first.
    steps: VecDeque<(Instant, u64)>,
    best_bps: u64,
    /// When the best rate was last clearly beaten.
    grown_at: Instant,
    /// Rates since then, that one included.
    rates_bps: Vec<u64>,
    /// All that came, and what of it was peers'.
    bytes: u64,
    of_peers: u64,
}

impl Estimator {
    /// Takes the bytes that came since the last call, `of_peers` of them from peers.
    pub fn feed(&mut self, bytes: u64, of_peers: u64, now: Instant) {
        if bytes == 0 {
            let quiet = self
                .last_bytes
                .map_or(Duration::MAX, |at| now.saturating_duration_since(at));
            if quiet >= PAUSE {
                self.measuring = None;
            }
            return;
        }
        let quiet = self
            .last_bytes
            .replace(now)
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if quiet >= PAUSE {
            self.measuring = None;
        }
        if quiet >= FORGOTTEN {
            *self = Self {
                last_bytes: self.last_bytes,
                ..Self::default()
            };
        }
        if self.measuring.is_none() && self.is_due(now, HOLDS) {
            // These bytes began to come before: they only start the clock.
            self.measuring = Some(Measurement::new(now));
            return;
        }
        if let Some(measurement) = &mut self.measuring
            && let Some(rate) = measurement.feed(bytes, of_peers, now)
        {
            self.available = Some(rate);
            self.of_peers = measurement.of_peers >= measurement.bytes.div_ceil(2);
            self.measured_at = Some(now);
            self.measuring = None;
        }
    }

    /// A download with sources of its own begins.
    pub fn new_source(&mut self, now: Instant) {
        if self.is_due(now, HOLDS_FOR_NEW_SOURCES) {
            self.measured_at = None;
        }
    }

    fn is_due(&self, now: Instant, holds: Duration) -> bool {
        self.measured_at
            .is_none_or(|at| now.saturating_duration_since(at) >= holds)
    }

    /// What is available; `None` while it is being measured, and before: limits that are shares are lifted then.
    pub fn available(&self) -> Option<ByteRate> {
        self.available
            .filter(|_| self.measuring.is_none() && self.measured_at.is_some())
    }

    /// Whether at least half of what was measured last came from peers. A swarm in which all take a share of that has less and
    /// less to give.
    pub fn is_of_peers(&self) -> bool {
        self.of_peers
    }

    /// What was measured last, for people.
    pub fn last(&self) -> Option<ByteRate> {
        self.available
    }
}

impl Measurement {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            steps: VecDeque::new(),
            best_bps: 0,
            grown_at: now,
            rates_bps: Vec::new(),
            bytes: 0,
            of_peers: 0,
        }
    }

    /// Takes bytes; answers when the measurement is over.
    fn feed(&mut self, bytes: u64, of_peers: u64, now: Instant) -> Option<ByteRate> {
        self.bytes += bytes;
        self.of_peers += of_peers;
        if now < self.since + SETTLING {
            return None;
        }
        let full = self.steps.len() >= STEPS_MAX;
        match self.steps.back_mut() {
            Some((end, sum)) if full => (*end, *sum) = (now, *sum + bytes),
            Some(_) => self.steps.push_back((now, bytes)),
            // The first step only marks where the window begins.
            None => self.steps.push_back((now, 0)),
        }
        while self
            .steps
            .get(1)
            .is_some_and(|(end, _)| now.saturating_duration_since(*end) >= SUSTAINED)
        {
            self.steps.pop_front();
        }
        let (begin, _) = self.steps.front()?;
        let span = now.saturating_duration_since(*begin);
        if span < SUSTAINED {
            return None;
        }
        let sum: u64 = self.steps.iter().skip(1).map(|(_, bytes)| bytes).sum();
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
        let bps = sum.saturating_mul(1000) / millis;
        if bps
            > self
                .best_bps
                .saturating_add(self.best_bps / 100 * GROWTH_PERCENT)
        {
            self.grown_at = now;
            self.rates_bps.clear();
        }
        self.best_bps = self.best_bps.max(bps);
        if self.rates_bps.len() < STEPS_MAX {
            self.rates_bps.push(bps);
        }
        let over = now >= self.grown_at + GROWTH_TIME || now >= self.since + MEASURING_MAX;
        over.then(|| self.median()).flatten()
    }

    /// The lower one, if there are two.
    fn median(&mut self) -> Option<ByteRate> {
        self.rates_bps.sort_unstable();
        let middle = self.rates_bps.len().checked_sub(1)? / 2;
        ByteRate::from_bps(self.rates_bps[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: Duration = Duration::from_millis(250);
    const MB: u64 = 1_000_000;

    /// A link that gives `link` bytes a second, and downloads that take a share of what is measured.
    struct Rig {
        estimator: Estimator,
        now: Instant,
        link: u64,
        share: u64,
        /// Left over in buffers by the limit, at most a tenth of a second's worth; comes at once when it is lifted.
        buffered: u64,
        /// Parts of a hundred that come from peers.
        of_peers: u64,
    }

    impl Rig {
        fn new(link: u64, share: u64) -> Self {
            Self {
                estimator: Estimator::default(),
                now: Instant::now(),
                link,
                share,
                buffered: 0,
                of_peers: 0,
            }
        }

        fn limit(&self) -> Option<u64> {
            self.estimator
                .available()
                .map(|a| a.bps() * self.share / 100)
        }

        /// Downloads for so long; returns the bytes.
        fn run(&mut self, time: Duration) -> u64 {
            let until = self.now + time;
            let mut total = 0;
            while self.now < until {
                self.now += STEP;
                let most = self.link / 4;
                let bytes = match self.limit() {
                    Some(limit) if limit / 4 < most => {
                        self.buffered = self.link / 2;
                        limit / 4
                    }
                    _ => most + std::mem::take(&mut self.buffered),
                };
                self.estimator
                    .feed(bytes, bytes * self.of_peers / 100, self.now);
                total += bytes;
            }
            total
        }

        fn pause(&mut self, time: Duration) {
            let until = self.now + time;
            while self.now < until {
                self.now += STEP;
                self.estimator.feed(0, 0, self.now);
            }
        }
    }

    #[test]
    fn first_seconds_are_measured_and_then_the_share_holds() {
        let mut rig = Rig::new(10 * MB, 45);
        rig.run(Duration::from_secs(6));
        assert_eq!(rig.estimator.available(), ByteRate::from_bps(10 * MB));
        let bytes = rig.run(Duration::from_secs(10));
        assert_eq!(bytes, 45 * MB);
    }

    /// Each measurement lifts the limit: without that the share of the share of the share would be left in the end.
    #[test]
    fn measuring_again_does_not_dwindle_nor_count_what_lay_in_buffers() {
        let mut rig = Rig::new(10 * MB, 45);
        rig.run(Duration::from_secs(3600));
        let available = rig.estimator.last().unwrap().bps();
        assert!(
            (10 * MB..=10 * MB + MB / 10).contains(&available),
            "{available}"
        );
        // Over the hour, measurements included.
        let mean = rig.run(Duration::from_secs(3600)) / 3600;
        assert!(mean < 10 * MB * 47 / 100, "{mean}");
    }

    #[test]
    fn changed_link_is_noticed_within_three_minutes() {
        for (before, after) in [(10 * MB, 2 * MB), (2 * MB, 10 * MB)] {
            let mut rig = Rig::new(before, 90);
            rig.run(Duration::from_secs(60));
            rig.link = after;
            rig.run(Duration::from_secs(190));
            assert_eq!(rig.estimator.available(), ByteRate::from_bps(after));
        }
    }

    #[test]
    fn slow_start_is_waited_for() {
        let mut rig = Rig::new(MB, 45);
        for link in [1, 2, 4, 8, 8, 8] {
            rig.link = link * MB;
            rig.run(Duration::from_secs(1));
        }
        rig.run(Duration::from_secs(5));
        let available = rig.estimator.available().unwrap().bps();
        assert!(available >= 78 * MB / 10, "{available}");
    }

    #[test]
    fn what_came_from_peers_is_told_from_what_servers_sent() {
        for (of_peers, told) in [(0, false), (49, false), (50, true), (100, true)] {
            let mut rig = Rig::new(10 * MB, 45);
            rig.of_peers = of_peers;
            assert!(!rig.estimator.is_of_peers(), "nothing is measured");
            rig.run(Duration::from_secs(6));
            assert_eq!(rig.estimator.available(), ByteRate::from_bps(10 * MB));
            assert_eq!(rig.estimator.is_of_peers(), told, "{of_peers}");
            // The next measurement is of a server alone.
            rig.of_peers = 0;
            rig.run(Duration::from_secs(200));
            assert!(!rig.estimator.is_of_peers());
        }
    }

    /// What came in a tenth of a second is noticed a step late, once.
    #[test]
    fn what_is_noticed_late_counts_for_nothing() {
        for late in 0..24 {
            let mut rig = Rig::new(10 * MB, 45);
            let mut held = 0;
            for step in 0..24 {
                rig.now += STEP;
                let bytes = 10 * MB / 4 + std::mem::take(&mut held);
                if step == late {
                    held = MB;
                }
                rig.estimator.feed(bytes - held, 0, rig.now);
            }
            let available = rig.estimator.last().unwrap().bps();
            assert!(
                (98 * MB / 10..=101 * MB / 10).contains(&available),
                "{late}: {available}"
            );
        }
    }

    #[test]
    fn download_too_short_to_measure_is_never_limited() {
        let mut rig = Rig::new(10 * MB, 45);
        for _ in 0..5 {
            assert_eq!(rig.run(Duration::from_secs(2)), 20 * MB);
            rig.pause(Duration::from_secs(5));
        }
        assert_eq!(rig.estimator.last(), None);
    }

    #[test]
    fn pause_keeps_what_is_known_for_ten_minutes() {
        let mut rig = Rig::new(10 * MB, 45);
        rig.run(Duration::from_secs(10));
        rig.pause(Duration::from_secs(60));
        assert_eq!(rig.estimator.available(), ByteRate::from_bps(10 * MB));
        rig.pause(Duration::from_secs(660));
        rig.run(STEP);
        assert_eq!(rig.estimator.available(), None);
        assert_eq!(rig.estimator.last(), None);
    }

    #[test]
    fn new_source_is_measured_unless_one_was_just_now() {
        let mut rig = Rig::new(10 * MB, 45);
        rig.run(Duration::from_secs(10));
        rig.estimator.new_source(rig.now);
        assert!(rig.estimator.available().is_some());
        rig.run(Duration::from_secs(30));
        rig.estimator.new_source(rig.now);
        assert_eq!(rig.estimator.available(), None);
        rig.link = 20 * MB;
        rig.run(Duration::from_secs(6));
        assert_eq!(rig.estimator.available(), ByteRate::from_bps(20 * MB));
    }

    proptest! {
        /// Whatever comes and whenever, what is said to be available was seen.
        #[test]
        fn estimate_never_exceeds_the_best_rate(
            feeds in prop::collection::vec((0u64..10 * MB, 1u64..3000), 1..300)
        ) {
            let mut estimator = Estimator::default();
            let mut now = Instant::now();
            let mut best = 0;
            for (bytes, millis) in feeds {
                now += Duration::from_millis(millis);
                best = best.max(bytes * 1000 / millis + 1);
                estimator.feed(bytes, bytes / 2, now);
                if let Some(available) = estimator.last() {
                    prop_assert!(available.bps() <= best);
                }
            }
        }
    }
}
