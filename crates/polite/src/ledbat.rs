//! LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus on RFC 6817): a congestion window that shrinks as soon as others need
//! the link, which shows as queueing delay.
//!
//! Pure: `now` is an argument, integers only. It is fed with acknowledged bytes, round-trip times and losses
//! ([`Ledbat::on_ack`], [`Ledbat::on_loss`]) and says how many bytes may be under way ([`Ledbat::window`]). Who sends
//! limits what is in flight by it; who receives offers no larger window (rLEDBAT).
//!
//! What is beyond the drafts:
//! - [`Ledbat::open`] starts without a window, for TCP, whose sender does a slow start of its own: it is only watched
//!   until delay shows, so a path where none shows costs nothing.
//! - A link that has been free for some time ([`CALM_ROUNDS`], and no loss for [`LOSS_MEMORY`]) is taken by a slow
//!   start. At a gain of 1/16 packet a round trip it would take minutes to notice that the others have gone.

use std::time::{Duration, Instant};

/// The queueing delay that is aimed at: 60 ms (LEDBAT++, section 4).
pub const TARGET: Duration = Duration::from_millis(60);

/// Slow start ends past three quarters of [`TARGET`].
const SLOW_START_DELAY_MAX: Duration = Duration::from_millis(45);

/// A delay below this counts as a free link.
const CALM_DELAY_MAX: Duration = Duration::from_millis(15);
/// For so many round trips a link must be free before it is taken …
pub const CALM_ROUNDS: u32 = 8;
/// … and at least for this long.
const CALM_TIME_MIN: Duration = Duration::from_millis(250);
/// For so long after a loss a link does not count as free: queues shorter than [`TARGET`] show by losses alone.
pub const LOSS_MEMORY: Duration = Duration::from_secs(10);

/// The window's lower bound, in packets.
const WINDOW_PACKETS_MIN: u64 = 2;

/// The slowest growth is one packet in this many round trips.
const GAIN_DIVISOR_MAX: u128 = 16;

/// The window that takes a free link grows by this part of itself a round trip at most.
const FREE_LINK_DIVISOR_MIN: u128 = 4;

/// A slowdown keeps the window at its minimum for this many round trips.
const SLOWDOWN_ROUNDS: u32 = 2;
/// After a slowdown, ramp included, there is none for this many times as long.
const SLOWDOWN_PAUSE: u32 = 9;
/// A ramp that takes longer, for its flow has little to send, counts as this.
const SLOWDOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// The least round trip time of so many minutes is the base (RFC 6817, BASE_HISTORY).
const BASE_MINUTES: usize = 10;
/// The least of so many samples is the current round trip time (RFC 6817, CURRENT_FILTER).
const FILTER_SAMPLES: usize = 4;
/// Samples older than this say nothing about now.
const SAMPLES_VALID: Duration = Duration::from_secs(1);

/// What was under way counts for so long, at least and, at two calls a second or more, at most twice as long (RFC 7661,
/// pipeACK's sampling period): a flow that sends a block now and then has next to nothing under way in between, and
/// what was lost was part of a block.
const FLIGHT_TIME: Duration = Duration::from_secs(1);

/// No window.
const OPEN: u64 = u64::MAX;

/// What has been acknowledged (or, where the receiver steers, has arrived) since the last call.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// Bytes.
    pub bytes: u64,
    /// A round trip time, if one was measured.
    pub rtt: Option<Duration>,
    /// Bytes under way, as far as known. A window that is not half used does not grow.
    pub in_flight: u64,
}

/// One flow. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Ledbat {
    packet: u64,
    window: u64,
    /// Where slow start ends; [`OPEN`] while only delay or loss ends it.
    threshold: u64,
    phase: Phase,
    base: BaseDelay,
    recent: RecentDelay,
    /// Growth that does not make a byte yet, in bytes times packets.
    growth: u128,
    slowdowns: Slowdowns,
    /// Until then delays tell of the window that was, before it was cut.
    settled_at: Option<Instant>,
    calm_since: Option<Instant>,
    lost_at: Option<Instant>,
    in_flight: u64,
    flight: Flight,
    /// The latest time that was heard of.
    latest: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SlowStart,
    Avoidance,
    Slowdown { until: Instant },
}

impl Ledbat {
    /// A flow of packets of `packet` bytes that starts with a window of `window` bytes.
    pub fn new(packet: u32, window: u64) -> Self {
        let packet = u64::from(packet.max(1));
        Self {
            packet,
            window: window.max(WINDOW_PACKETS_MIN * packet),
            threshold: OPEN,
            phase: Phase::SlowStart,
            base: BaseDelay::default(),
            recent: RecentDelay::default(),
            growth: 0,
            slowdowns: Slowdowns::default(),
            settled_at: None,
            calm_since: None,
            lost_at: None,
            in_flight: 0,
            flight: Flight::default(),
            latest: None,
        }
    }

    /// A flow that has no window until delay or a loss is seen for the first time.
    pub fn open(packet: u32) -> Self {
        Self::new(packet, OPEN)
    }

    /// Packets turned out to be larger.
    pub fn on_packet(&mut self, bytes: u32) {
        self.packet = self.packet.max(bytes.into());
        self.window = self.window.max(self.window_min());
    }

    /// Bytes that may be under way; `None`: any number, nothing has shown yet that the flow is in anybody's way.
    pub fn window(&self) -> Option<u64> {
        (self.window < OPEN).then_some(self.window)
    }

    /// The least window there is, in bytes.
    pub fn window_min(&self) -> u64 {
        WINDOW_PACKETS_MIN * self.packet
    }

    /// The delay that queues add, as far as it is known.
    pub fn queueing_delay(&self) -> Option<Duration> {
        Some(self.recent.least()?.saturating_sub(self.base.least()?))
    }

    /// The round trip time, queues included, as far as it is known.
    pub fn rtt(&self) -> Option<Duration> {
        self.recent.least()
    }

    /// A round trip time that was measured earlier, on an empty path as likely as not: counts for the base alone.
    pub fn on_base_rtt(&mut self, now: Instant, rtt: Duration) {
        let now = self.advance(now);
        self.base.add(now, rtt);
    }

    /// Bytes were acknowledged. Times that go back count as standing still.
    pub fn on_ack(&mut self, now: Instant, ack: Ack) {
        let now = self.advance(now);
        self.in_flight = ack.in_flight;
        self.flight.add(now, ack.in_flight);
        if let Some(rtt) = ack.rtt {
            self.base.add(now, rtt);
            self.recent.add(rtt);
        }
        let (Some(rtt), Some(delay)) = (self.rtt(), self.queueing_delay()) else {
            return;
        };
        match self.phase {
            Phase::Slowdown { until } if now < until => {}
            Phase::Slowdown { .. } => self.phase = Phase::SlowStart,
            Phase::SlowStart => self.slow_start(now, ack.bytes, rtt, delay),
            Phase::Avoidance if self.slowdowns.is_due(now) => {
                self.begin_slowdown(now, rtt);
            }
            Phase::Avoidance => self.avoid(now, ack.bytes, rtt, delay),
        }
    }

    /// Something was lost. Halves the window, once in a round trip. Where there is no window yet and no delay, it is
    /// left to the sender to care.
    pub fn on_loss(&mut self, now: Instant) {
        let now = self.advance(now);
        let short = self.queueing_delay().unwrap_or_default() <= CALM_DELAY_MAX;
        if self.window == OPEN && short {
            return;
        }
        let rtt = self.rtt().unwrap_or(TARGET);
        let again = self
            .lost_at
            .is_some_and(|at| now.saturating_duration_since(at) < rtt);
        if again {
            return;
        }
        self.lost_at = Some(now);
        self.calm_since = None;
        if matches!(self.phase, Phase::Slowdown { .. }) {
            self.threshold = (self.threshold / 2).max(self.window_min());
            return;
        }
        self.set_window(self.used() / 2);
        if self.phase == Phase::SlowStart {
            self.end_slow_start(now);
        }
    }

    /// How much of the window is used when there is something to send.
    fn used(&self) -> u64 {
        self.window.min(self.flight.most())
    }

    /// Whether nearly all of the window is used, so that a larger one would be too.
    fn is_limited(&self) -> bool {
        self.in_flight >= self.window / 2
    }

    fn slow_start(&mut self, now: Instant, bytes: u64, rtt: Duration, delay: Duration) {
        if delay > SLOW_START_DELAY_MAX {
            // The delay is that of a round trip ago, when the window was smaller by the gain. What was too much for
            // the queue then goes at once, too.
            let divisor = self.ramp_divisor();
            let used = u128::from(self.used()) * divisor / (divisor + 1);
            let used = u64::try_from(used).unwrap_or(OPEN);
            self.set_window(scale(used, rtt - delay + SLOW_START_DELAY_MAX, rtt));
            self.end_slow_start(now);
            self.settled_at = Some(now + rtt);
        } else if self.is_limited() && self.window < self.threshold {
            let step = u128::from(bytes) / self.ramp_divisor();
            let step = u64::try_from(step).unwrap_or(OPEN);
            // No more than double: what came since the last call may be many round trips' worth.
            let grown = self.window.saturating_add(step.min(self.window));
            self.window = grown.min(self.threshold).min(OPEN - 1);
            if self.window >= self.threshold {
                self.end_slow_start(now);
            }
        }
    }

    fn end_slow_start(&mut self, now: Instant) {
        self.phase = Phase::Avoidance;
        self.threshold = self.window;
        self.calm_since = None;
        self.slowdowns.end(now);
    }

    /// Lets the queues run empty, so that the base delay is seen even by who came when they were full.
    fn begin_slowdown(&mut self, now: Instant, rtt: Duration) {
        self.threshold = self.window;
        self.window = self.window_min();
        self.phase = Phase::Slowdown {
            until: self.slowdowns.begin(now, rtt),
        };
        self.growth = 0;
    }

    fn avoid(&mut self, now: Instant, bytes: u64, rtt: Duration, delay: Duration) {
        let settling = self.settled_at.is_some_and(|at| now < at);
        if settling || self.take_free_link(now, rtt, delay) {
            return;
        }
        let window = self.window;
        let bytes = bytes.min(window);
        if delay < TARGET {
            if self.is_limited() {
                self.grow(bytes);
            }
            return;
        }
        // A window that is far from used would have to shrink for long before it is felt.
        let window = window.min(self.flight.most().saturating_mul(2));
        let excess = (delay - TARGET).min(TARGET / 2);
        self.set_window(window.saturating_sub(scale(bytes.min(window), excess, TARGET)));
        self.grow(bytes);
    }

    /// A packet times the gain for each round trip.
    fn grow(&mut self, bytes: u64) {
        let unit = u128::from(self.window) * self.gain_divisor();
        self.growth += u128::from(bytes) * u128::from(self.packet);
        let step = u64::try_from(self.growth / unit).unwrap_or(0);
        self.growth %= unit;
        self.window = self.window.saturating_add(step).min(OPEN - 1);
    }

    /// See the module's documentation.
    fn take_free_link(&mut self, now: Instant, rtt: Duration, delay: Duration) -> bool {
        let lossless = self
            .lost_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LOSS_MEMORY);
        if delay > CALM_DELAY_MAX || !lossless || !self.is_limited() {
            self.calm_since = None;
            return false;
        }
        let since = *self.calm_since.get_or_insert(now);
        let calm = now.saturating_duration_since(since) >= CALM_TIME_MIN.max(rtt * CALM_ROUNDS);
        if calm {
            self.calm_since = None;
            self.threshold = OPEN;
            self.phase = Phase::SlowStart;
        }
        calm
    }

    /// 1 / gain: twice the target in base round trip times, at most 16 (LEDBAT++, section 4.1).
    fn gain_divisor(&self) -> u128 {
        let base = self.base.least().unwrap_or_default().as_nanos().max(1);
        (2 * TARGET.as_nanos())
            .div_ceil(base)
            .clamp(1, GAIN_DIVISOR_MAX)
    }

    /// As [`Self::gain_divisor`], for slow start; slower where a free link is taken, for others may come.
    fn ramp_divisor(&self) -> u128 {
        let least = match self.threshold == OPEN && self.slowdowns.next_at.is_some() {
            true => FREE_LINK_DIVISOR_MIN,
            false => 1,
        };
        self.gain_divisor().max(least)
    }

    fn set_window(&mut self, bytes: u64) {
        self.window = bytes.clamp(self.window_min(), OPEN - 1);
    }

    fn advance(&mut self, now: Instant) -> Instant {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        if self
            .latest
            .is_some_and(|latest| now - latest > SAMPLES_VALID)
        {
            self.recent = RecentDelay::default();
            self.calm_since = None;
        }
        self.latest = Some(now);
        now
    }
}

/// `bytes` times `part` / `whole`.
pub(crate) fn scale(bytes: u64, part: Duration, whole: Duration) -> u64 {
    let scaled = u128::from(bytes) * part.as_nanos() / whole.as_nanos().max(1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// When slowdowns are: the first some time after the first slow start, and then a time after each that it decides itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slowdowns {
    first: Duration,
    /// Since when there is one, or the ramp after it.
    since: Option<Instant>,
    next_at: Option<Instant>,
}

impl Slowdowns {
    /// The first is so long after the first slow start.
    pub(crate) fn first_after(first: Duration) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|at| at <= now)
    }

    /// One begins, where round trips take so long. Says until when the window is kept at its least.
    pub(crate) fn begin(&mut self, now: Instant, rtt: Duration) -> Instant {
        (self.since, self.next_at) = (Some(now), None);
        now + rtt * SLOWDOWN_ROUNDS
    }

    /// A slow start has ended, which may have been the ramp after one.
    pub(crate) fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let took = now.saturating_duration_since(since).min(SLOWDOWN_TIME_MAX);
            self.next_at = Some(now + took * SLOWDOWN_PAUSE);
        }
        self.next_at.get_or_insert(now + self.first);
    }
}

/// The least of each of the last minutes.
#[derive(Debug, Clone, Default)]
pub(crate) struct BaseDelay {
    minutes: [Option<Duration>; BASE_MINUTES],
    /// The start of the minute that is first in `minutes`.
    began: Option<Instant>,
}

impl BaseDelay {
    const MINUTE: Duration = Duration::from_secs(60);

    pub(crate) fn add(&mut self, now: Instant, rtt: Duration) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began).as_secs() / Self::MINUTE.as_secs();
        if passed > 0 {
            let shift = usize::try_from(passed).map_or(BASE_MINUTES, |n| n.min(BASE_MINUTES));
            self.minutes.rotate_right(shift);
            self.minutes[..shift].fill(None);
            // Not a multiple of minutes after a long pause: nothing is left that it could matter to.
            self.began = Some(if shift == BASE_MINUTES {
                now
            } else {
                began + Self::MINUTE * u32::try_from(shift).unwrap_or(0)
            });
        }
        let least = self.minutes[0].map_or(rtt, |least| least.min(rtt));
        self.minutes[0] = Some(least);
    }

    pub(crate) fn least(&self) -> Option<Duration> {
        self.minutes.iter().flatten().min().copied()
    }
}

/// The most that was under way lately. Nothing is forgotten while nothing is acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Flight {
    began: Option<Instant>,
    most: u64,
    /// Of the [`FLIGHT_TIME`] before.
    before: u64,
}

impl Flight {
    fn add(&mut self, now: Instant, bytes: u64) {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= FLIGHT_TIME {
            self.before = std::mem::take(&mut self.most);
            self.began = Some(now);
        }
        self.most = self.most.max(bytes);
    }

    fn most(&self) -> u64 {
        self.most.max(self.before)
    }
}

/// The last few samples.
#[derive(Debug, Clone, Default)]
struct RecentDelay {
    samples: [Option<Duration>; FILTER_SAMPLES],
    next: usize,
}

impl RecentDelay {
    fn add(&mut self, rtt: Duration) {
        self.samples[self.next] = Some(rtt);
        self.next = (self.next + 1) % FILTER_SAMPLES;
    }

    fn least(&self) -> Option<Duration> {
        self.samples.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests;
