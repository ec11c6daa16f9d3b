//! Delays that differ between machines.

use std::{ops::RangeInclusive, time::Duration};

/// SplitMix64 (Steele, Lea and Flood, 2014): enough to keep machines from speaking all at once; no secret.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration of a whole number of milliseconds in the range.
    pub(crate) fn milliseconds(&mut self, range: RangeInclusive<u64>) -> Duration {
        let width = range.end() - range.start() + 1;
        Duration::from_millis(range.start() + self.next() % width)
    }

    /// A duration that is up to a quarter shorter or longer.
    pub(crate) fn around(&mut self, duration: Duration) -> Duration {
        duration * 3 / 4 + self.up_to(duration / 2)
    }

    /// A duration of whole milliseconds, this one at most.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        self.milliseconds(0..=u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1))
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).expect("32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fill_their_range() {
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..2000)
            .map(|_| random.milliseconds(20..=120).as_millis())
            .collect();
        assert_eq!(drawn.iter().min(), Some(&20));
        assert_eq!(drawn.iter().max(), Some(&120));
    }
}
