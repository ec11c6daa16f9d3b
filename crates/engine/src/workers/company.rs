//! Whether a few pieces wait for company.
//!
//! On a busy machine the pieces of one download come apart, and hashed one by one they take twice the processor time
//! that they take together. Nobody can use them earlier for that, because everybody waits for a processor. On a machine
//! with a processor to spare they are passed on at once.

use std::time::{Duration, Instant};

/// Pieces wait no longer than this, and only where a batch is expected to gather meanwhile.
pub(super) const COMPANY_WAIT: Duration = Duration::from_millis(60);
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

    /// Whether to wait until as many are there as are worth hashing together.
    pub(super) fn is_worth_waiting_for(&self, pieces: usize) -> bool {
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        self.is_machine_busy()
            && self.interval >= INTERVAL_MIN
            && self.interval.saturating_mul(pieces) <= COMPANY_WAIT
    }

    /// Whether a quarter of the time of the last batches went by in waiting for a processor, or for a disk.
    fn is_machine_busy(&self) -> bool {
        self.processor * 4 < self.wall * 3
    }
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

    #[test]
    fn pieces_wait_on_a_busy_machine_where_a_batch_gathers_soon() {
        assert!(company(7 * MILLI, MILLI).is_worth_waiting_for(5));
    }

    #[test]
    fn nothing_waits_while_a_processor_is_free_or_where_pieces_come_slowly_or_gather_by_themselves()
    {
        assert!(!company(7 * MILLI, 4 * MILLI).is_worth_waiting_for(5));
        assert!(!company(40 * MILLI, MILLI).is_worth_waiting_for(5));
        assert!(!company(MILLI, MILLI / 4).is_worth_waiting_for(5));
        assert!(!Company::default().is_worth_waiting_for(5));
    }

    #[test]
    fn a_pause_is_forgotten() {
        let mut company = company(7 * MILLI, MILLI);
        let later = company.came_at.expect("many came") + Duration::from_secs(3600);
        company.came(later);
        for number in 1..20 {
            company.came(later + 7 * MILLI * number);
        }
        assert!(company.is_worth_waiting_for(5));
    }
}
