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
