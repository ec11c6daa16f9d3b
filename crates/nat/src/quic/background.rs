//! LEDBAT++ as a congestion controller of QUIC.

use dosvc_polite::{Ack, Ledbat};
use quinn::congestion::{Controller, ControllerFactory};
use std::{any::Any, sync::Arc, time::Duration, time::Instant};

/// Packets in the first window (RFC 9002 §7.2).
const INITIAL_PACKETS: u64 = 10;

/// Makes controllers for connections that give way to everybody else.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedbatConfig;

impl ControllerFactory for LedbatConfig {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Background::new(current_mtu))
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
    fn new(mtu: u16) -> Self {
        let initial = INITIAL_PACKETS * u64::from(mtu);
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
