//! Delays that differ between machines.

use std::{ops::RangeInclusive, time::Duration};

/// Enough to keep machines from speaking all at once; no secret.
#[derive(Debug)]
pub(crate) struct Random(fastrand::Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A duration of a whole number of milliseconds in the range.
    pub(crate) fn milliseconds(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.0.u64(range))
    }

    /// A duration that is up to a quarter shorter or longer.
    pub(crate) fn around(&mut self, duration: Duration) -> Duration {
        duration * 3 / 4 + self.up_to(duration / 2)
    }

    /// A duration of whole milliseconds, this one at most.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        self.milliseconds(0..=u64::try_from(most.as_millis()).unwrap_or(u64::MAX))
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u32 {
        self.0.u32(..)
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
