//! How connections treat others on the way: CUBIC, or LEDBAT++ in the background, by a switch that may change at any time.

use dosvc_polite::{Ack, Ledbat};
use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
    time::Instant,
};

/// Packets in the first window (RFC 9002 §7.2).
const INITIAL_PACKETS: u64 = 10;

/// How a connection treats others on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes its share.
    Foreground,
    /// Takes what others leave (LEDBAT++).
    Background,
}

/// One connection's switch between the two.
#[derive(Clone, Debug)]
pub(super) struct Switch(Arc<AtomicBool>);

impl Switch {
    pub(super) fn new(manner: Manner) -> Self {
        Self(Arc::new(AtomicBool::new(manner == Manner::Background)))
    }

    pub(super) fn set(&self, manner: Manner) {
        self.0
            .store(manner == Manner::Background, Ordering::Relaxed);
    }

    fn get(&self) -> Manner {
        match self.0.load(Ordering::Relaxed) {
            true => Manner::Background,
            false => Manner::Foreground,
        }
    }
}

impl ControllerFactory for Switch {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let initial = INITIAL_PACKETS * u64::from(current_mtu);
        let manner = self.get();
        Box::new(Switched {
            inner: build(manner, initial, now, current_mtu),
            manner,
            switch: (*self).clone(),
            mtu: current_mtu,
            initial,
        })
    }
}

fn build(manner: Manner, window: u64, now: Instant, mtu: u16) -> Box<dyn Controller> {
    match manner {
        Manner::Background => Box::new(Background::new(mtu, window)),
        Manner::Foreground => {
            let mut config = CubicConfig::default();
            config.initial_window(window);
            Arc::new(config).build(now, mtu)
        }
    }
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
            self.inner = build(manner, self.inner.window(), now, self.mtu);
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
        self.inner.window()
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

#[derive(Clone)]
struct Background {
    ledbat: Ledbat,
    initial: u64,
    /// What the acknowledgements say that came together.
    acked: u64,
    rtt: Option<Duration>,
}

impl Background {
    fn new(mtu: u16, initial: u64) -> Self {
        Self {
            ledbat: Ledbat::new(mtu.into(), initial),
            initial,
            acked: 0,
            rtt: None,
        }
    }
}

impl Controller for Background {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &quinn_proto::RttEstimator,
    ) {
        self.acked += bytes;
        // Of several packets the last one waited least for its acknowledgement.
        let rtt = now.saturating_duration_since(sent);
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        let bytes = std::mem::take(&mut self.acked);
        if bytes > 0 {
            let ack = Ack {
                bytes,
                rtt: self.rtt.take(),
                in_flight: in_flight + bytes,
            };
            self.ledbat.on_ack(now, ack);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, _: Instant, _: bool, _: u64) {
        self.ledbat.on_loss(now);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.ledbat.on_packet(new_mtu.into());
    }

    fn window(&self) -> u64 {
        self.ledbat.window().unwrap_or(self.initial)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial
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
        let switch = Switch::new(Manner::Foreground);
        let now = Instant::now();
        let mut controller = Arc::new(switch.clone()).build(now, MTU);
        let first = controller.window();
        assert_eq!(first, 10 * u64::from(MTU));
        controller.on_sent(now, first, 1);
        controller.on_congestion_event(now + Duration::from_millis(20), now, false, 1);
        let reduced = controller.window();
        assert!(reduced < first, "a loss counts: {reduced}");
        for (manner, number) in [(Manner::Background, 2), (Manner::Foreground, 3)] {
            switch.set(manner);
            controller.on_sent(now, 0, number);
            assert_eq!(controller.window(), reduced, "{manner:?}");
        }
    }
}
