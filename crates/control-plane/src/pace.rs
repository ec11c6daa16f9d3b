//! How fast one address, or one token, may ask.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Places of a row; addresses beyond that share some.
const WIDTH: usize = 1 << 16;

/// Seconds' worth of requests that may come at once.
const BURST_SECONDS: u64 = 4;

/// A limit for each address in memory that does not grow: two rows of the generic cell rate algorithm (ITU-T I.371) with
/// secret hashes. A request is refused when both of its places say so, so that somebody who asks too much seldom takes
/// others with it. A network of 64 bits of IPv6 counts as an address.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Nanoseconds between two requests; 0: no limit.
    interval: u64,
    rows: [(RandomState, Box<[AtomicU64]>); 2],
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        let row = || {
            let width = if per_second == 0 { 1 } else { WIDTH };
            let places = (0..width).map(|_| AtomicU64::new(0)).collect();
            (RandomState::new(), places)
        };
        Self {
            interval: match per_second {
                0 => 0,
                rate => 1_000_000_000 / u64::from(rate),
            },
            rows: [row(), row()],
        }
    }

    /// Whether this address may ask at this moment, in nanoseconds since any fixed one.
    pub(crate) fn admits(&self, address: IpAddr, now: u64) -> bool {
        let key = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits() >> 64,
        };
        self.admits_key(key, now)
    }

    /// The same for whoever has this key.
    pub(crate) fn admits_key(&self, key: u128, now: u64) -> bool {
        if self.interval == 0 {
            return true;
        }
        // Both are charged: `|`, not `||`.
        self.charge(0, key, now) | self.charge(1, key, now)
    }

    fn charge(&self, row: usize, key: u128, now: u64) -> bool {
        let (hasher, places) = &self.rows[row];
        let at = usize::try_from(hasher.hash_one(key)).unwrap_or(0) % places.len();
        let latest = now + BURST_SECONDS * 1_000_000_000;
        let next = |due: u64| {
            let due = due.max(now) + self.interval;
            (due <= latest).then_some(due)
        };
        places[at].fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_address_gets_its_rate_and_a_burst() {
        let pace = Pace::new(10);
        let address = "192.0.2.1".parse().unwrap();
        let mut now = 5 * SECOND;
        let admitted = (0..1000).filter(|_| pace.admits(address, now)).count();
        assert_eq!(admitted, 40);
        now += 2 * SECOND;
        let admitted = (0..1000).filter(|_| pace.admits(address, now)).count();
        assert_eq!(admitted, 20);
        assert!(
            pace.admits("192.0.2.2".parse().unwrap(), now),
            "others are not touched"
        );
        assert!(pace.admits("2001:db8::1".parse().unwrap(), now));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let pace = Pace::new(1);
        let admitted = (1..100_u128)
            .filter(|n| pace.admits(IpAddr::V6((0x2001_0db8 << 96 | n).into()), 0))
            .count();
        assert_eq!(admitted, 4);
    }

    #[test]
    fn zero_is_no_limit() {
        let pace = Pace::new(0);
        assert!((0..10_000).all(|_| pace.admits("192.0.2.1".parse().unwrap(), 0)));
    }
}
