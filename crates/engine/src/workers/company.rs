//! Whether a few pieces wait for company.
//!
//! On a busy machine the pieces of one download come apart, and hashed one by one they take twice the processor time
//! that they take together. Nobody can use them earlier for that, because everybody waits for a processor. On a machine
//! with a processor to spare they are passed on at once, unless they come so fast that the largest batch gathers in no
//! time: sixteen together take three quarters of the time of eight and eight more.

use super::Batch;
use std::time::{Duration, Instant};

/// Pieces wait no longer than this, and only where a batch is expected to gather meanwhile.
const COMPANY_WAIT: Duration = Duration::from_millis(60);
/// The same where the largest batch is expected: sixteen take three quarters of the processor time of eight and eight.
const FULL_COMPANY_WAIT: Duration = Duration::from_millis(160);
/// On any machine the largest batch is waited for where it gathers in as much, and no longer.
const FULL_WAIT: Duration = Duration::from_millis(20);
/// Timers are no finer.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Pieces that come faster gather by themselves while others are hashed, and who receives them may lack the buffers.
const INTERVAL_MIN: Duration = Duration::from_millis(2);
/// A longer pause between two pieces counts as no more.
const INTERVAL_MAX: Duration = Duration::from_millis(100);

/// How fast pieces come, and whether who works on them has a processor all the time.
#[derive(Debug)]
pub(super) struct Company {
    came_at: Option<Instant>,
    /// Between two pieces, in the mean.
    interval: Duration,
    /// How long the last batches took …
    wall: Duration,
    /// … and what they had of a processor.
    processor: Duration,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            came_at: None,
            interval: INTERVAL_MAX,
            wall: Duration::ZERO,
            processor: Duration::ZERO,
        }
    }
}

impl Company {
    /// A piece has come in.
    pub(super) fn came(&mut self, now: Instant) {
        if let Some(before) = self.came_at.replace(now) {
            let interval = now.saturating_duration_since(before).min(INTERVAL_MAX);
            self.interval = (self.interval * 7 + interval) / 8;
        }
    }

    /// A batch took this long, with so much of a processor.
    pub(super) fn worked(&mut self, wall: Duration, processor: Duration) {
        self.wall = self.wall * 7 / 8 + wall;
        self.processor = self.processor * 7 / 8 + processor;
    }

    /// How many pieces are to be hashed together: as many as can be, where these come in no time, or soon enough for a
    /// busy machine.
    pub(super) fn wanted(&self, batch: Batch) -> usize {
        if self.fills(batch.full) || self.gathers(batch.full, FULL_COMPANY_WAIT) {
            batch.full
        } else {
            batch.half()
        }
    }

    /// How long so many pieces wait for more of them, with nobody at work, if they do.
    pub(super) fn wait(&self, waiting: usize, batch: Batch) -> Option<Duration> {
        if self.fills(batch.full) {
            let lacking = count(batch.full.saturating_sub(waiting));
            // The next ones may come as fast, or there are no more.
            let twice = self.interval * lacking * 2;
            return Some(twice.clamp(WAIT_MIN, FULL_WAIT));
        }
        let waits = [(batch.full, FULL_COMPANY_WAIT), (batch.worth, COMPANY_WAIT)];
        let gathers = |&(pieces, wait): &(usize, Duration)| self.gathers(pieces, wait);
        waits.into_iter().find(gathers).map(|(_, wait)| wait)
    }

    /// Whether so many pieces come in this time, on a machine where nobody can use them earlier.
    fn gathers(&self, pieces: usize, wait: Duration) -> bool {
        self.interval >= INTERVAL_MIN
            && self.interval.saturating_mul(count(pieces)) <= wait
            && self.is_machine_busy()
    }

    /// Whether so many pieces come in no time.
    fn fills(&self, pieces: usize) -> bool {
        self.interval.saturating_mul(count(pieces)) <= FULL_WAIT
    }

    /// Whether a quarter of the time of the last batches went by in waiting for a processor, or for a disk.
    fn is_machine_busy(&self) -> bool {
        self.processor * 4 < self.wall * 3
    }
}

fn count(pieces: usize) -> u32 {
    u32::try_from(pieces).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// After many pieces, one each `interval`, and batches of 4 ms with so much of a processor.
    fn company(interval: Duration, processor: Duration) -> Company {
        let mut company = Company::default();
        let begin = Instant::now();
        for number in 0..100 {
            company.came(begin + interval * number);
            company.worked(4 * MILLI, processor);
        }
        company
    }

    const BATCH: Batch = Batch {
        full: 16,
        worth_full: 11,
        worth: 5,
    };

    fn waits(company: &Company) -> bool {
        company.wait(1, BATCH).is_some()
    }

    #[test]
    fn pieces_wait_on_a_busy_machine_where_a_batch_gathers_soon() {
        for (interval, wait, wanted) in [(7, FULL_COMPANY_WAIT, 16), (11, COMPANY_WAIT, 8)] {
            let company = company(interval * MILLI, MILLI);
            assert_eq!(company.wait(1, BATCH), Some(wait));
            assert_eq!(company.wanted(BATCH), wanted);
        }
    }

    #[test]
    fn nothing_waits_while_a_processor_is_free_or_where_pieces_come_slowly_or_gather_by_themselves()
    {
        assert!(!waits(&company(7 * MILLI, 4 * MILLI)));
        assert!(!waits(&company(40 * MILLI, MILLI)));
        assert!(!waits(&company(3 * MILLI / 2, MILLI)));
        assert!(!waits(&Company::default()));
    }

    #[test]
    fn the_largest_batch_is_waited_for_where_it_is_there_in_no_time() {
        let company = company(MILLI / 2, 4 * MILLI);
        assert_eq!(company.wanted(BATCH), 16);
        let waits = [0, 8, 12, 15].map(|waiting| {
            let wait = company.wait(waiting, BATCH).expect("it waits");
            // The mean is not exact.
            (wait + MILLI / 10).as_millis()
        });
        assert_eq!(waits, [16, 8, 4, 1]);
    }

    #[test]
    fn a_pause_is_forgotten() {
        let mut company = company(7 * MILLI, MILLI);
        let later = company.came_at.expect("many came") + Duration::from_secs(3600);
        company.came(later);
        for number in 1..20 {
            company.came(later + 7 * MILLI * number);
        }
        assert!(waits(&company));
    }
}
