//! What a limited connection really costs where no socket tells: what was paid for content is held against what whoever
//! carries the bytes has counted on the network.

use dosvc_polite::{Throttle, on_wire};

/// One direction's balance with the limit.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The counter at the last look, while there is a limit.
    counted: Option<u64>,
    /// Bytes that were paid for and did not cross the network yet.
    ahead: u64,
}

impl Tally {
    /// So many bytes have moved, for which the limit was paid as for TCP; `counted`: bytes on the network so far.
    pub(super) fn moved(&mut self, counted: Option<u64>, gate: &dyn Throttle, bytes: usize) {
        let Some(counted) = counted.filter(|_| !gate.is_unlimited()) else {
            *self = Self::default();
            return;
        };
        // What came before there was a limit is not its business.
        let news = counted.saturating_sub(self.counted.replace(counted).unwrap_or(counted));
        self.ahead += on_wire(bytes as u64);
        let owed = news.saturating_sub(self.ahead);
        self.ahead = self.ahead.saturating_sub(news);
        if owed > 0 {
            gate.charge(owed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Future, ready};
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Gate {
        unlimited: bool,
        charged: AtomicU64,
    }

    impl Throttle for Gate {
        fn take(&self, _: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(ready(()))
        }

        fn charge(&self, bytes: u64) {
            self.charged.fetch_add(bytes, Ordering::Relaxed);
        }

        fn is_unlimited(&self) -> bool {
            self.unlimited
        }
    }

    #[test]
    fn what_crossed_the_network_beyond_what_was_paid_is_owed_once() {
        let (mut tally, gate) = (Tally::default(), Gate::default());
        tally.moved(Some(5_000), &gate, 0);
        let mut on_network = 5_000;
        let mut paid = 0;
        for _ in 0..100 {
            on_network += 11_000;
            paid += on_wire(10_000);
            tally.moved(Some(on_network), &gate, 10_000);
        }
        let charged = gate.charged.load(Ordering::Relaxed);
        assert_eq!(paid + charged, 100 * 11_000);
    }

    #[test]
    fn what_is_paid_ahead_of_the_network_is_not_lost() {
        let (mut tally, gate) = (Tally::default(), Gate::default());
        tally.moved(Some(0), &gate, 1_000_000);
        tally.moved(Some(on_wire(1_000_000)), &gate, 0);
        assert_eq!(gate.charged.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_a_limit_or_a_counter_nothing_is_owed() {
        let gate = Gate::default();
        let mut tally = Tally::default();
        tally.moved(None, &gate, 10);
        tally.moved(None, &gate, 10);
        let free = Gate {
            unlimited: true,
            ..Gate::default()
        };
        tally.moved(Some(10), &free, 0);
        tally.moved(Some(1_000_000), &free, 10);
        // The limit begins: only what follows counts.
        tally.moved(Some(2_000_000), &gate, 0);
        assert_eq!(gate.charged.load(Ordering::Relaxed), 0);
        assert_eq!(free.charged.load(Ordering::Relaxed), 0);
    }
}
