//! How much per second.

use std::time::{Duration, Instant};

/// A token bucket of `per_second` tokens that holds those of two seconds.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    /// When the bucket was, or will be, empty: everything that was taken, laid end to end in time.
    empty_at: Instant,
}

impl Budget {
    /// A full bucket.
    pub(crate) fn new(now: Instant, per_second: u32) -> Self {
        Self {
            per_second,
            empty_at: now,
        }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let empty_at = self.empty_at.max(now) + Duration::from_secs(1) / self.per_second;
        if empty_at > now + Duration::from_secs(2) {
            return false;
        }
        self.empty_at = empty_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seconds_worth_at_once_then_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(start, 20);
        assert_eq!((0..100).filter(|_| budget.take(start)).count(), 40);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| budget.take(later)).count(), 20);
        let much_later = start + Duration::from_secs(1000);
        assert_eq!((0..100).filter(|_| budget.take(much_later)).count(), 40);
    }
}
