//! How connections treat others on the way, by a switch that may change at any time.
//!
//! In the foreground a connection takes its share, by CUBIC. In the background it gives way: on the line of who sends, together
//! with all its other connections ([`OwnLine`]), and everywhere else by LEDBAT++, unless somebody waits at the other end:
//! then by CUBIC.

use dosvc_polite::{Ack, Ledbat, Line, Member};
use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

/// Packets in the first window (RFC 9002 §7.2).
const INITIAL_PACKETS: u64 = 10;
/// QUIC's least, until more is known (RFC 9000 §14).
const FIRST_PACKET: u32 = 1200;
/// What is less than this part of a packet carries no content, and may be no more than an acknowledgement.
const CONTROL_PART: u64 = 4;

/// How a connection treats others on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Manner {
    /// Takes its share.
    Foreground,
    /// Takes what others leave.
    Background,
    /// Takes what others leave on the sender's line, and its share elsewhere: somebody waits at the other end.
    WaitedFor,
}

/// The line by which a machine's connections leave. Those in the background share what others leave of it: one for all
/// endpoints that use the same.
#[derive(Clone, Debug)]
pub struct OwnLine(Arc<Mutex<Line>>);

impl Default for OwnLine {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Line::new(FIRST_PACKET))))
    }
}

impl OwnLine {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's switch between the manners.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    manner: Arc<AtomicU8>,
    line: OwnLine,
}

impl Switch {
    pub(super) fn new(manner: Manner, line: &OwnLine) -> Self {
        Self {
            manner: Arc::new(AtomicU8::new(manner as u8)),
            line: line.clone(),
        }
    }

    pub(super) fn set(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Manner {
        const ALL: [Manner; 3] = [Manner::Foreground, Manner::Background, Manner::WaitedFor];
        ALL[usize::from(self.manner.load(Ordering::Relaxed))]
    }

    fn build(&self, manner: Manner, window: u64, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let elsewhere = match manner {
            Manner::Foreground => return cubic(window, now, mtu),
            Manner::WaitedFor => Elsewhere::Cubic(cubic(window, now, mtu)),
            Manner::Background => Elsewhere::Ledbat(Box::new(Ledbat::new(mtu.into(), window))),
        };
        Box::new(Background::new(self.line.clone(), elsewhere, mtu))
    }
}

impl ControllerFactory for Switch {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let initial = INITIAL_PACKETS * u64::from(current_mtu);
        let manner = self.get();
        Box::new(Switched {
            inner: Self::build(&self, manner, initial, now, current_mtu),
            manner,
            switch: (*self).clone(),
            mtu: current_mtu,
            initial,
        })
    }
}

fn cubic(window: u64, now: Instant, mtu: u16) -> Box<dyn Controller> {
    let mut config = CubicConfig::default();
    config.initial_window(window);
    Arc::new(config).build(now, mtu)
}

/// The one that is in force. Who follows begins with the window that the other had.
struct Switched {
    inner: Box<dyn Controller>,
    manner: Manner,
    switch: Switch,
    mtu: u16,
    initial: u64,
}

impl Switched {
    fn follow(&mut self, now: Instant) {
        let manner = self.switch.get();
        if std::mem::replace(&mut self.manner, manner) != manner {
            let window = self.inner.window();
            self.inner = self.switch.build(manner, window, now, self.mtu);
        }
    }
}

impl Controller for Switched {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.follow(now);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &quinn_proto::RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let window = self.inner.window();
        match self.manner {
            Manner::Foreground => window,
            // What is under way stays below what is said here, and two packets must fit, or the second is waited for.
            Manner::Background | Manner::WaitedFor => window.saturating_add(1),
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            switch: self.switch.clone(),
            ..*self
        })
    }

    fn initial_window(&self) -> u64 {
        self.initial
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What a connection does about queues that are not on its sender's line.
enum Elsewhere {
    Cubic(Box<dyn Controller>),
    Ledbat(Box<Ledbat>),
}

impl Elsewhere {
    fn window(&self) -> u64 {
        match self {
            Self::Cubic(cubic) => cubic.window(),
            Self::Ledbat(ledbat) => ledbat.window().unwrap_or(u64::MAX),
        }
    }
}

/// A connection in the background.
struct Background {
    line: OwnLine,
    member: Member,
    elsewhere: Elsewhere,
    mtu: u16,
    /// What the acknowledgements say that came together.
    acked: u64,
    rtt: Option<Duration>,
}

impl Background {
    fn new(line: OwnLine, elsewhere: Elsewhere, mtu: u16) -> Self {
        line.lock().on_packet(mtu.into());
        Self {
            line,
            member: Member::default(),
            elsewhere,
            mtu,
            acked: 0,
            rtt: None,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.line.lock().leave(&mut self.member);
    }
}

impl Controller for Background {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        // Acknowledgements are never acknowledged.
        if bytes > u64::from(self.mtu) / CONTROL_PART {
            self.line.lock().on_sent(now, &mut self.member, bytes);
        }
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &quinn_proto::RttEstimator,
    ) {
        self.acked += bytes;
        if let Elsewhere::Cubic(cubic) = &mut self.elsewhere {
            // A window that the line does not let it use must not grow.
            let limited = app_limited || self.member.in_flight() < cubic.window() / 4 * 3;
            cubic.on_ack(now, sent, bytes, limited, rtt);
        }
        // Of several packets the last one waited least for its acknowledgement.
        let rtt = now.saturating_duration_since(sent);
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        let bytes = std::mem::take(&mut self.acked);
        if bytes == 0 {
            return;
        }
        // A packet that comes alone is acknowledged late, by 25 ms (RFC 9000, max_ack_delay), the second one at once.
        let at_once = bytes > self.mtu.into();
        let rtt = self.rtt.take().filter(|_| at_once);
        let queue = self
            .line
            .lock()
            .on_ack(now, &mut self.member, bytes, rtt, in_flight);
        if let Elsewhere::Ledbat(ledbat) = &mut self.elsewhere {
            let ack = Ack {
                bytes,
                rtt: rtt.map(|rtt| rtt.saturating_sub(queue)),
                in_flight: in_flight + bytes,
            };
            ledbat.on_ack(now, ack);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.line.lock().on_loss(now, &mut self.member, lost);
        match &mut self.elsewhere {
            Elsewhere::Cubic(cubic) => cubic.on_congestion_event(now, sent, persistent, lost),
            Elsewhere::Ledbat(ledbat) => ledbat.on_loss(now),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.line.lock().on_packet(new_mtu.into());
        match &mut self.elsewhere {
            Elsewhere::Cubic(cubic) => cubic.on_mtu_update(new_mtu),
            Elsewhere::Ledbat(ledbat) => ledbat.on_packet(new_mtu.into()),
        }
    }

    fn window(&self) -> u64 {
        let line = self.line.lock().window(&self.member);
        line.min(self.elsewhere.window())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let elsewhere = match &self.elsewhere {
            Elsewhere::Cubic(cubic) => Elsewhere::Cubic(cubic.clone_box()),
            Elsewhere::Ledbat(ledbat) => Elsewhere::Ledbat(ledbat.clone()),
        };
        // Another path: what is under way on this one stays this one's.
        Box::new(Self::new(self.line.clone(), elsewhere, self.mtu))
    }

    fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * u64::from(self.mtu)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1200;

    #[test]
    fn who_follows_begins_with_the_window_that_the_other_had() {
        let switch = Switch::new(Manner::Foreground, &OwnLine::default());
        let now = Instant::now();
        let mut controller = ControllerFactory::build(Arc::new(switch.clone()), now, MTU);
        let first = controller.window();
        assert_eq!(first, 10 * u64::from(MTU));
        controller.on_sent(now, first, 1);
        controller.on_congestion_event(now + Duration::from_millis(20), now, false, 1);
        let reduced = controller.window();
        assert!(reduced < first, "a loss counts: {reduced}");
        let manners = [Manner::Background, Manner::WaitedFor, Manner::Foreground];
        for (manner, number) in manners.into_iter().zip(2..) {
            switch.set(manner);
            controller.on_sent(now, 0, number);
            let more = u64::from(manner != Manner::Foreground);
            assert_eq!(controller.window(), reduced + more, "{manner:?}");
        }
    }

    #[test]
    fn connections_in_the_background_have_one_window_on_their_line() {
        const FIRST: u64 = 10 * 1200 + 1;
        let (line, now) = (OwnLine::default(), Instant::now());
        let build = |manner| {
            let switch = Switch::new(manner, &line);
            ControllerFactory::build(Arc::new(switch), now, MTU)
        };
        let mut one = build(Manner::Background);
        let two = build(Manner::WaitedFor);
        let three = build(Manner::Foreground);
        assert_eq!((one.window(), two.window()), (FIRST, FIRST));
        one.on_sent(now, FIRST - 1, 1);
        assert_eq!((one.window(), two.window()), (FIRST, FIRST / 2 + 1));
        assert_eq!(three.window(), FIRST - 1, "no part of it");
        // An acknowledgement is not under way.
        one.on_sent(now, 60, 2);
        assert_eq!(one.window(), FIRST);
        drop(one);
        assert_eq!(two.window(), FIRST);
    }
}
