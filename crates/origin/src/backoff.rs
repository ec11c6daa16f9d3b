//! How long to wait after a failure: exponential, with jitter. Pure; the seed is an argument.

use std::time::Duration;

/// The waits of one URL: 1 s, doubling to 30 s by default (client workflow, section 7.2), each drawn from the
/// upper half of its step so that machines that failed together don't come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// Waits between `min / 2` and `max`; the same seed gives the same waits.
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self {
            min,
            max: max.max(min),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The wait after the `failures`-th failure in a row (1 is the first).
    pub(crate) fn delay(&mut self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let step = self.min.saturating_mul(1 << doublings).min(self.max);
        let half = step / 2;
        half + half.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn steps_double_to_the_maximum() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        for (failures, step) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (40, 30)] {
            let delay = backoff.delay(failures);
            let step = Duration::from_secs(step);
            assert!(delay >= step / 2 && delay <= step, "{failures}: {delay:?}");
        }
    }

    #[test]
    fn machines_with_different_seeds_do_not_come_back_together() {
        let mut delays: Vec<_> = (0..100)
            .map(|seed| Backoff::new(MIN, MAX, seed).delay(6))
            .collect();
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 95, "{} different waits", delays.len());
    }

    proptest! {
        #[test]
        fn same_seed_same_waits_and_all_within_bounds(seed: u64, failures in proptest::collection::vec(any::<u32>(), 1..20)) {
            let mut one = Backoff::new(MIN, MAX, seed);
            let mut other = Backoff::new(MIN, MAX, seed);
            for n in failures {
                let delay = one.delay(n);
                prop_assert_eq!(delay, other.delay(n));
                prop_assert!(delay >= MIN / 2 && delay <= MAX);
            }
        }
    }
}
