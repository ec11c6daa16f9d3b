//! What several connections of one machine send in the background over its own line, together.
//!
//! A round trip sees every queue on the way, there and back. Who serves others sees theirs: their lines carry what they
//! fetch and what they pass on, and each connection for itself, steered by [`Ledbat`](crate::Ledbat), would yield to all of
//! that, and N of them would still take N flows' part of the sender's line. But the queue of the sender's own line is
//! part of every connection's delay. So the least delay that any of them saw lately bounds it from above, and one
//! congestion window counts for all, towards [`TARGET`] of that delay. What else is on a connection's way is for the
//! connection's own congestion control.
//!
//! Pure: `now` is an argument, integers only. A connection is a [`Member`], which says what it sends and hears
//! ([`Line::on_sent`], [`Line::on_ack`], [`Line::on_loss`]) and is told how many bytes it may have under way
//! ([`Line::window`]).
//!
//! As LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus) it leaves its queue alone from time to time, so that the base of the
//! delays stays true. Unlike it, it aims at a third of the delay: with the line's queue alone in sight there is no need for
//! more, and flows that keep queues short, as BBR does, stay below LEDBAT++'s 60 ms and would have to share the line. And it
//! grows by a part of itself, for a window that many share moves too slowly by packets.

use crate::ledbat::{BaseDelay, Slowdowns, scale};
use std::time::{Duration, Instant};

/// The queueing delay of the line that is aimed at.
pub const TARGET: Duration = Duration::from_millis(20);

/// Slow start ends past three quarters of [`TARGET`].
const START_DELAY_MAX: Duration = Duration::from_millis(15);

/// The window at first and after a rest, in packets (RFC 9002, section 7.2).
const FIRST_PACKETS: u64 = 10;
/// What one connection may always have under way: two are acknowledged at once, a single one later.
const MEMBER_PACKETS_MIN: u64 = 2;
/// A connection with more than this under way uses the line.
const ACTIVE_PACKETS: u64 = 4;

/// On an empty line the window grows by this part of itself in the time after which it is felt …
const GROWTH_DIVISOR: u64 = 2;
/// … unless something was lost so lately: then by a packet.
const LOSS_MEMORY: Duration = Duration::from_millis(500);
/// So much of what is under way counts as used, for the next acknowledgements bring more.
const USED_PERCENT: u64 = 125;

/// How long after the first slow start the first slowdown is. LEDBAT++ has it at once; but what one machine has, and many
/// wait for, has hardly begun to go out then.
const FIRST_SLOWDOWN: Duration = Duration::from_secs(5);

/// What was seen counts for so long: connections rest between two pieces, and see their own queues as well.
const DELAY_TIME: Duration = Duration::from_millis(SLOT_MS * SLOTS as u64);
const SLOT_MS: u64 = 10;
const SLOTS: usize = 20;
/// What was lost was lost in a queue that was long so lately: a line that many begin to send on runs full and empty again
/// within [`DELAY_TIME`].
const LOSS_SLOTS: usize = 5;
/// Who has sent nothing for so long knows nothing of the line any more.
const REST: Duration = Duration::from_secs(1);

/// All connections' window for one line. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Line {
    packet: u64,
    window: u64,
    /// Where slow start ends; `u64::MAX` while only delay or loss ends it.
    threshold: u64,
    phase: Phase,
    /// The line's delay, as far as it is known.
    delay: LeastDelay,
    /// What the members have on the line, in bytes.
    on_line: u64,
    /// Members that use it.
    active: u64,
    /// Growth that does not make a byte yet, in 1e-9 bytes.
    growth: u128,
    slowdowns: Slowdowns,
    /// Until then delays tell of the window that was.
    settled_at: Option<Instant>,
    lost_at: Option<Instant>,
    /// When something was on the line.
    used_at: Option<Instant>,
    /// The latest time that was heard of.
    latest: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SlowStart,
    /// Back to where the window was before a slowdown.
    Ramp,
    Avoidance,
    Slowdown {
        until: Instant,
    },
}

/// One connection's part. It belongs to one [`Line`], and leaves it at its end ([`Line::leave`]).
#[derive(Debug, Clone, Default)]
pub struct Member {
    base: BaseDelay,
    /// The last round trip time, …
    rtt: Duration,
    /// … the queues' part of it, …
    delay: Duration,
    /// … and what it would be with the line's queue alone.
    near: Duration,
    /// Bytes under way.
    in_flight: u64,
    /// Those of them that the line counts, …
    counted: u64,
    /// … and whether they are many.
    active: bool,
}

impl Member {
    /// Bytes under way, as far as the line was told.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that are on the line, of all that are under way: what waits in others' queues is not.
    fn on_line(&self) -> u64 {
        match self.rtt.is_zero() {
            true => self.in_flight,
            false => scale(self.in_flight, self.near, self.rtt),
        }
    }
}

impl Line {
    /// A line on which nothing was sent yet; `packet` is the size of a packet in bytes.
    pub fn new(packet: u32) -> Self {
        let packet = u64::from(packet.max(1));
        Self {
            packet,
            window: FIRST_PACKETS * packet,
            threshold: u64::MAX,
            phase: Phase::SlowStart,
            delay: LeastDelay::default(),
            on_line: 0,
            active: 0,
            growth: 0,
            slowdowns: Slowdowns::first_after(FIRST_SLOWDOWN),
            settled_at: None,
            lost_at: None,
            used_at: None,
            latest: None,
        }
    }

    /// Packets turned out to be larger.
    pub fn on_packet(&mut self, bytes: u32) {
        self.packet = self.packet.max(bytes.into());
    }

    /// A member has sent bytes that will be acknowledged.
    pub fn on_sent(&mut self, now: Instant, member: &mut Member, bytes: u64) {
        let rested = self.used_at.is_some_and(|at| now > at + REST);
        if rested && self.on_line == 0 {
            // Others may have the line now.
            if self.phase == Phase::Avoidance {
                self.threshold = self.window;
            }
            self.window = self.window.min(FIRST_PACKETS * self.packet);
            self.phase = Phase::SlowStart;
        }
        self.used_at = Some(now);
        member.in_flight += bytes;
        self.count(member);
    }

    /// Bytes of a member were acknowledged after `rtt`, if that was measured; `in_flight` are still under way. Says how
    /// long the line's queue is, as far as anybody knows: the rest of the delay is elsewhere. Times that go back count as
    /// standing still.
    pub fn on_ack(
        &mut self,
        now: Instant,
        member: &mut Member,
        bytes: u64,
        rtt: Option<Duration>,
        in_flight: u64,
    ) -> Duration {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(now);
        if self.on_line > 0 {
            self.used_at = Some(now);
        }
        member.in_flight = in_flight;
        if matches!(self.phase, Phase::Slowdown { until } if until <= now) {
            self.phase = Phase::Ramp;
            self.set_window(self.threshold.min(FIRST_PACKETS * self.packet));
        }
        let Some(rtt) = rtt else {
            self.count(member);
            return self.delay.least(now).unwrap_or_default();
        };
        member.base.add(now, rtt);
        member.rtt = rtt;
        member.delay = rtt.saturating_sub(member.base.least().unwrap_or(rtt));
        let (recent, delay) = self.delay.add(now, member.delay);
        member.near = rtt - member.delay + recent;
        let bytes = scale(bytes, member.near, rtt);
        self.count(member);
        let used = self.on_line + bytes;
        match self.phase {
            Phase::Slowdown { .. } => {}
            Phase::SlowStart => {
                let open = self.threshold == u64::MAX;
                let delay = if open { recent } else { delay };
                self.slow_start(now, bytes, used, member.near, delay);
            }
            // While so little is sent hardly anybody else's delay is seen, and a few receivers' queues look like the line's
            // own. If it is, what comes next cuts the window.
            Phase::Ramp => self.open(now, bytes, used),
            Phase::Avoidance if self.slowdowns.is_due(now) => {
                self.begin_slowdown(now, member.near);
            }
            Phase::Avoidance => self.avoid(now, bytes, used, member, delay),
        }
        delay
    }

    /// Bytes of a member were lost, or marked as if. Halves the window, once in a round trip, if it was here: where the
    /// longer queue is.
    pub fn on_loss(&mut self, now: Instant, member: &mut Member, bytes: u64) {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        member.in_flight = member.in_flight.saturating_sub(bytes);
        self.count(member);
        let lately = self.delay.least_of(now, LOSS_SLOTS);
        let delay = lately.or_else(|| self.delay.least(now)).unwrap_or_default();
        let elsewhere = member.delay.saturating_sub(delay);
        let again = self.lost_at.is_some_and(|at| now < at + member.near);
        if again || elsewhere > delay {
            return;
        }
        self.lost_at = Some(now);
        if matches!(self.phase, Phase::Slowdown { .. }) {
            self.threshold = (self.threshold / 2).max(self.window_min());
            return;
        }
        self.set_window(self.window / 2);
        if matches!(self.phase, Phase::SlowStart | Phase::Ramp) {
            self.end_slow_start(now);
        }
    }

    /// A member has ended, or is not in the background any more.
    pub fn leave(&mut self, member: &mut Member) {
        member.in_flight = 0;
        self.count(member);
    }

    /// Bytes that a member may have under way, as far as the line is concerned: an equal part, or what the others
    /// leave, but two packets always.
    pub fn window(&self, member: &Member) -> u64 {
        let others = self.active - u64::from(member.active);
        let equal = self.window / (others + 1);
        let left = (member.counted + self.window).saturating_sub(self.on_line);
        let bytes = equal.max(left);
        let bytes = match member.near.is_zero() {
            true => bytes,
            false => scale(bytes, member.rtt, member.near),
        };
        bytes.max(MEMBER_PACKETS_MIN * self.packet)
    }

    fn count(&mut self, member: &mut Member) {
        let now = member.on_line();
        let active = now > ACTIVE_PACKETS * self.packet;
        self.active = self.active - u64::from(member.active) + u64::from(active);
        self.on_line = self.on_line - member.counted + now;
        (member.counted, member.active) = (now, active);
    }

    fn slow_start(&mut self, now: Instant, bytes: u64, used: u64, near: Duration, delay: Duration) {
        if self.is_settling(now) {
            return;
        }
        if delay > START_DELAY_MAX {
            // The delay is that of a round trip ago, when the window was half of this.
            self.set_window(self.window.min(used) / 2);
            self.settle(now, near);
            self.end_slow_start(now);
        } else {
            self.open(now, bytes, used);
        }
    }

    /// Doubles the window in a round trip, up to the threshold.
    fn open(&mut self, now: Instant, bytes: u64, used: u64) {
        if self.is_limited(used) {
            let grown = self.window.saturating_add(bytes.min(self.window));
            self.set_window(grown.min(self.threshold));
            if self.window >= self.threshold {
                self.end_slow_start(now);
            }
        }
    }

    fn end_slow_start(&mut self, now: Instant) {
        self.phase = Phase::Avoidance;
        self.threshold = u64::MAX;
        self.slowdowns.end(now);
    }

    /// Lets the line's queue run empty, so that the base delays are seen even by who came when it was full.
    fn begin_slowdown(&mut self, now: Instant, near: Duration) {
        self.threshold = self.window;
        self.window = self.window_min();
        self.phase = Phase::Slowdown {
            until: self.slowdowns.begin(now, near),
        };
        self.growth = 0;
    }

    fn avoid(&mut self, now: Instant, bytes: u64, used: u64, member: &Member, delay: Duration) {
        let (near, base) = (member.near, member.rtt - member.delay);
        if self.is_settling(now) {
            return;
        }
        if delay > TARGET {
            // As much as fills the line and a queue of the target.
            let used = self.window.min(used.saturating_mul(USED_PERCENT) / 100);
            self.set_window(scale(used, base + TARGET, base + delay));
            self.settle(now, near);
        } else if self.is_limited(used) {
            let lost = self.lost_at.is_some_and(|at| now < at + LOSS_MEMORY);
            let a_round = match lost {
                true => self.packet,
                false => scale(self.window / GROWTH_DIVISOR, near, near + DELAY_TIME),
            };
            self.grow(bytes, a_round, TARGET - delay);
        }
    }

    /// Grows by `a_round` bytes in a round trip when the line's queue is empty, by less the less room is in it.
    fn grow(&mut self, bytes: u64, a_round: u64, room: Duration) {
        let bytes = u128::from(bytes.min(self.window)) * u128::from(a_round);
        let part = room.as_nanos() * 1_000_000_000 / TARGET.as_nanos();
        self.growth += bytes * part / u128::from(self.window);
        let whole = u64::try_from(self.growth / 1_000_000_000).unwrap_or(0);
        self.growth %= 1_000_000_000;
        self.set_window(self.window.saturating_add(whole));
    }

    /// Whether enough of the window is used that a larger one would be too.
    fn is_limited(&self, used: u64) -> bool {
        used >= self.window / 2
    }

    fn is_settling(&self, now: Instant) -> bool {
        self.settled_at.is_some_and(|at| now < at)
    }

    /// What is seen until a round trip has passed was caused before, and counts for [`DELAY_TIME`] more.
    fn settle(&mut self, now: Instant, near: Duration) {
        self.settled_at = Some(now + near + DELAY_TIME);
    }

    fn set_window(&mut self, bytes: u64) {
        self.window = bytes.max(self.window_min());
    }

    fn window_min(&self) -> u64 {
        MEMBER_PACKETS_MIN * self.packet
    }
}

/// The least delay of the last [`DELAY_TIME`].
#[derive(Debug, Clone, Default)]
struct LeastDelay {
    slots: [Option<Duration>; SLOTS],
    /// The slot that time has come to, and when it began.
    current: usize,
    began: Option<Instant>,
}

impl LeastDelay {
    /// The least of the last two slots, and of all.
    fn add(&mut self, now: Instant, delay: Duration) -> (Duration, Duration) {
        self.advance(now);
        let slot = &mut self.slots[self.current];
        *slot = Some(slot.map_or(delay, |least| least.min(delay)));
        let recent = self.least_of(now, 2).unwrap_or(delay);
        (recent, self.least(now).unwrap_or(delay))
    }

    fn least(&mut self, now: Instant) -> Option<Duration> {
        self.least_of(now, SLOTS)
    }

    /// The least of the last so many slots.
    fn least_of(&mut self, now: Instant, slots: usize) -> Option<Duration> {
        self.advance(now);
        let back = |i| self.slots[(self.current + SLOTS - i) % SLOTS];
        (0..slots).filter_map(back).min()
    }

    fn advance(&mut self, now: Instant) {
        const SLOT: Duration = Duration::from_millis(SLOT_MS);
        let mut began = *self.began.get_or_insert(now);
        for _ in 0..SLOTS {
            if now < began + SLOT {
                break;
            }
            began += SLOT;
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current] = None;
        }
        // After a pause everything is forgotten.
        self.began = Some(match now < began + SLOT {
            true => began,
            false => now,
        });
    }
}

#[cfg(test)]
mod tests;
