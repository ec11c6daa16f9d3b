//! The congestion window of one direction of a connection: slow start, CUBIC, and what idleness does to it, as Linux
//! has it.

use crate::queue::Nanos;

/// Bytes of one segment.
const MSS: f64 = 1448.0;
/// The window that a connection begins with.
const INITIAL: f64 = 10.0 * MSS;
/// CUBIC's β and C (RFC 9438).
const BETA: f64 = 0.7;
const C: f64 = 0.4;
/// HyStart looks at the delay from this window on …
const HYSTART_LOW: f64 = 16.0 * MSS;
/// … and ends slow start when the round trip grew by an eighth, at least and at most this, …
const HYSTART_DELAY: [Nanos; 2] = [4_000_000, 16_000_000];
/// … by the least of so many bytes' in a round.
const HYSTART_SAMPLES: f64 = 8.0 * MSS;
/// The least retransmission timeout.
const RTO_MIN: Nanos = 200_000_000;
/// A window in memory is about six times as large as its bytes: what Linux lets a send buffer grow to.
const BUFFER_PER_WINDOW: f64 = 6.0;
/// The largest send buffer (tcp_wmem).
const BUFFER_MAX: f64 = 4_194_304.0;

#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Bytes; `fixed`: for ever.
    size: f64,
    fixed: bool,
    threshold: f64,
    /// The window before the last loss.
    peak: f64,
    epoch: Option<Nanos>,
    /// A loss counts once for all that was sent before this moment.
    recovered_at: Nanos,
    round_trip: Nanos,
    round_trip_min: Nanos,
    /// When the current round of HyStart began, its least round trip, and the bytes that it was measured over.
    round: (Nanos, Nanos, f64),
    sent_at: Nanos,
    buffer: f64,
}

impl Window {
    pub(super) fn cubic() -> Self {
        Self {
            size: INITIAL,
            fixed: false,
            threshold: f64::INFINITY,
            peak: 0.0,
            epoch: None,
            recovered_at: 0,
            round_trip: 0,
            round_trip_min: Nanos::MAX,
            round: (0, Nanos::MAX, 0.0),
            sent_at: 0,
            buffer: INITIAL * BUFFER_PER_WINDOW,
        }
    }

    pub(super) fn fixed(bytes: u32) -> Self {
        Self {
            size: f64::from(bytes),
            fixed: true,
            ..Self::cubic()
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size"
    )]
    pub(super) fn bytes(&self) -> u64 {
        self.size as u64
    }

    /// What the send buffer holds, when nobody set it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size"
    )]
    pub(super) fn buffer(&self) -> u64 {
        self.buffer as u64
    }

    /// Two round trips: when a lost end of the stream is noticed.
    pub(super) fn probe_after(&self) -> Nanos {
        (self.round_trip * 2).clamp(10_000_000, RTO_MIN)
    }

    /// Something is sent: after a pause the window is smaller.
    pub(super) fn sending(&mut self, idle: bool, now: Nanos) {
        if idle && !self.fixed && self.sent_at > 0 {
            let timeout = RTO_MIN + self.round_trip;
            let mut pause = now.saturating_sub(self.sent_at);
            if pause > timeout {
                self.threshold = self.threshold.max(self.size * 0.75);
                self.epoch = None;
            }
            while pause > timeout && self.size > INITIAL {
                pause -= timeout;
                self.size = (self.size / 2.0).max(INITIAL);
            }
        }
        self.sent_at = now;
    }

    /// `bytes` that were sent at `sent` are acknowledged; `used`: the window limited what was sent.
    pub(super) fn acknowledged(&mut self, bytes: u32, sent: Nanos, used: bool, now: Nanos) {
        let trip = now - sent;
        self.round_trip = match self.round_trip {
            0 => trip,
            usual => (usual * 7 + trip) / 8,
        };
        self.round_trip_min = self.round_trip_min.min(trip);
        if self.fixed || sent < self.recovered_at {
            return;
        }
        if self.size < self.threshold {
            self.hystart(bytes, trip, sent, now);
            if used {
                self.size += f64::from(bytes);
            }
        } else if used {
            self.avoid(bytes, now);
        } else {
            // CUBIC's clock stands still while the window is not used.
            self.epoch = None;
        }
        self.buffer = (self.size * BUFFER_PER_WINDOW).clamp(self.buffer, BUFFER_MAX);
    }

    fn hystart(&mut self, bytes: u32, trip: Nanos, sent: Nanos, now: Nanos) {
        if sent >= self.round.0 {
            self.round = (now, trip, 0.0);
        } else {
            self.round.1 = self.round.1.min(trip);
        }
        self.round.2 += f64::from(bytes);
        let [least, most] = HYSTART_DELAY;
        let grown = self.round_trip_min + (self.round_trip_min / 8).clamp(least, most);
        let measured = self.round.2 >= HYSTART_SAMPLES;
        if measured && self.size >= HYSTART_LOW && self.round.1 >= grown {
            self.threshold = self.size;
        }
    }

    fn avoid(&mut self, bytes: u32, now: Nanos) {
        let begun = *self.epoch.get_or_insert_with(|| {
            self.peak = self.peak.max(self.size);
            now
        });
        let origin = self.peak / MSS;
        let from = origin * BETA;
        let k = if self.size >= self.peak {
            0.0
        } else {
            ((origin - from) / C).cbrt()
        };
        let t = (now - begun + self.round_trip) as f64 / 1e9 - k;
        let target = (C * t * t * t + origin) * MSS;
        let acked = f64::from(bytes);
        let cubic = (target - self.size).max(0.0) / self.size * acked;
        // Never slower than Reno would be with the same β.
        let reno = 3.0 * (1.0 - BETA) / (1.0 + BETA) * MSS * acked / self.size;
        self.size += cubic.max(reno).min(acked / 2.0);
    }

    /// Something that was sent at `sent` is lost.
    pub(super) fn lost(&mut self, sent: Nanos, now: Nanos) {
        if self.fixed || sent < self.recovered_at {
            return;
        }
        self.recovered_at = now;
        self.peak = self.size;
        self.size = (self.size * BETA).max(2.0 * MSS);
        self.threshold = self.size;
        self.epoch = None;
    }
}
