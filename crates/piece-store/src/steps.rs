//! How many bytes are written to a file at a time.
//!
//! The page cache takes memory in runs of as many bytes. Long runs cost less: pwrite(2) alone, on ext4, took 0.20
//! processor seconds for a GiB with 64 KiB at a time, and 0.27 with 16 KiB. But on a virtual machine whose host takes free
//! memory back, long runs are the ones that it has taken: a whole download of a GiB, which otherwise takes about 1.0
//! processor second with either, took 2.2 then with long steps, and still 1.0 with short ones. Which it is can't be asked,
//! so it is measured, in processor time: on a busy machine a write takes as long as others let it, however long its steps.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Bytes at a time where memory is cheap.
const LONG: usize = 64 << 10;
/// Bytes at a time where long runs of memory are dear.
const SHORT: usize = 16 << 10;
/// Every so many writes the length is tried that was slower.
const TRY_EVERY: u32 = 128;
/// What a write weighs in the mean.
const WEIGHT: f64 = 0.25;

/// What writes have cost so far, for all contents of a store.
#[derive(Debug, Default)]
pub(crate) struct WriteSteps(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    /// Nanoseconds a byte in the mean; `None` before the first write.
    long: Option<f64>,
    short: Option<f64>,
    writes: u32,
}

impl WriteSteps {
    /// How many bytes the next write does at a time.
    pub(crate) fn next(&self) -> usize {
        self.with(Measured::next)
    }

    /// So many bytes were written with this step, in this much processor time. Less than a long step tells nothing.
    pub(crate) fn note(&self, step: usize, bytes: usize, time: Duration) {
        if bytes >= LONG {
            self.with(|measured| measured.note(step, bytes, time));
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Measured) -> T) -> T {
        // Numbers only; nothing can be half done.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Measured {
    fn next(&mut self) -> usize {
        let (Some(long), Some(short)) = (self.long, self.short) else {
            return if self.long.is_none() { LONG } else { SHORT };
        };
        self.writes = self.writes.wrapping_add(1);
        let tries = self.writes.is_multiple_of(TRY_EVERY);
        if (long <= short) == tries {
            SHORT
        } else {
            LONG
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean need not be exact")]
    fn note(&mut self, step: usize, bytes: usize, time: Duration) {
        let cost = time.as_nanos() as f64 / bytes as f64;
        let mean = if step == LONG {
            &mut self.long
        } else {
            &mut self.short
        };
        *mean = Some(mean.map_or(cost, |mean| mean + (cost - mean) * WEIGHT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 1 << 20;

    /// Writes so often with these costs, and says how often with long steps.
    fn long_ones(steps: &WriteSteps, writes: u32, long: u64, short: u64) -> u32 {
        (0..writes)
            .filter(|_| {
                let step = steps.next();
                let micros = if step == LONG { long } else { short };
                steps.note(step, BYTES, Duration::from_micros(micros));
                step == LONG
            })
            .count()
            .try_into()
            .expect("as few as writes")
    }

    #[test]
    fn long_steps_are_taken_where_they_cost_less_or_the_same() {
        for long in [200, 270] {
            let steps = WriteSteps::default();
            let count = long_ones(&steps, 1024, long, 270);
            assert!(count >= 1024 - 1024 / TRY_EVERY - 1, "{count}");
        }
    }

    #[test]
    fn dear_memory_is_noticed_at_once_and_tried_now_and_then() {
        let steps = WriteSteps::default();
        let count = long_ones(&steps, 1024, 2200, 270);
        assert!((2..=1024 / TRY_EVERY + 1).contains(&count), "{count}");
    }

    #[test]
    fn what_changes_is_followed() {
        let steps = WriteSteps::default();
        long_ones(&steps, 100, 200, 270);
        assert!(long_ones(&steps, 100, 2200, 270) < 5);
        long_ones(&steps, 20 * TRY_EVERY, 200, 270);
        assert!(long_ones(&steps, 100, 200, 270) > 95);
    }

    #[test]
    fn short_writes_tell_nothing() {
        let steps = WriteSteps::default();
        steps.note(LONG, 100, Duration::from_secs(1));
        assert_eq!(steps.next(), LONG);
    }
}
