//! How much somebody may ask for.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// So many a second, and as many at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    per_second: u32,
    /// When everything that was taken so far would have been allowed, one after the other.
    paid_until: Option<Instant>,
}

impl Rate {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            paid_until: None,
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let paid_until = self.paid_until.map_or(now, |paid| paid.max(now));
        let allowed = paid_until.saturating_duration_since(now) < Duration::from_secs(1);
        if allowed {
            self.paid_until = Some(paid_until + Duration::from_secs(1) / self.per_second.max(1));
        }
        allowed
    }
}

/// Places in a table of rates.
const PLACES: usize = 4096;

/// A rate for each IPv4 address, in a table that never grows: addresses that fall on the same place share it.
#[derive(Debug)]
pub(crate) struct Rates {
    places: Vec<Rate>,
    seed: u64,
}

impl Rates {
    pub(crate) fn new(per_second: u32, seed: u64) -> Self {
        Self {
            places: vec![Rate::new(per_second); PLACES],
            seed,
        }
    }

    /// Takes one for this address, if there is one.
    pub(crate) fn take(&mut self, now: Instant, ip: Ipv4Addr) -> bool {
        // SplitMix64's mixing (Steele, Lea and Flood, 2014), keyed.
        let mut hash = u64::from(u32::from(ip)) ^ self.seed;
        for factor in [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB_u64] {
            hash = (hash ^ (hash >> 29)).wrapping_mul(factor);
        }
        let place = usize::try_from(hash >> 32).unwrap_or(0) % PLACES;
        self.places[place].take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(10);
        let taken = |rate: &mut Rate, now| (0..100).filter(|_| rate.take(now)).count();
        assert_eq!(taken(&mut rate, start), 10);
        assert_eq!(taken(&mut rate, start + Duration::from_millis(500)), 5);
        assert_eq!(taken(&mut rate, start + Duration::from_secs(60)), 10);
    }

    #[test]
    fn one_address_does_not_use_up_anothers() {
        let now = Instant::now();
        let mut rates = Rates::new(10, 7);
        let [one, other] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
        assert_eq!((0..100).filter(|_| rates.take(now, one)).count(), 10);
        assert_eq!((0..100).filter(|_| rates.take(now, other)).count(), 10);
    }
}
