//! When a search asks.

use std::time::{Duration, Instant};

/// From the first question to the second; each further gap is three times as long (RFC 6762, section 5.2 wants a
/// second at least and a factor of two at least).
const FIRST_GAP: Duration = Duration::from_secs(1);
const GAP_FACTOR: u32 = 3;
/// The longest gap: half the life of our records, so that who stays is asked for before it is forgotten.
const GAP_MAX: Duration = Duration::from_secs(60);

/// The moments of asking: at once, then 1 s, 3 s, 9 s, 27 s and ever again 60 s apart.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    next: Instant,
    gap: Duration,
}

impl Schedule {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: now,
            gap: FIRST_GAP,
        }
    }

    /// When to ask next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A question has been sent now.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.next = now + self.gap;
        self.gap = GAP_MAX.min(self.gap * GAP_FACTOR);
    }

    /// Begins anew, for the link has changed; a second apart from the last question all the same.
    pub(crate) fn restart(&mut self, now: Instant, last_asked: Option<Instant>) {
        *self = Self::new(last_asked.map_or(now, |last| now.max(last + FIRST_GAP)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_thin_out_to_one_a_minute() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let mut at = Vec::new();
        for _ in 0..7 {
            at.push((schedule.next() - start).as_secs());
            schedule.asked(schedule.next());
        }
        assert_eq!(at, [0, 1, 4, 13, 40, 100, 160]);
    }

    #[test]
    fn a_late_question_shifts_the_following() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.asked(start + Duration::from_secs(5));
        assert_eq!(schedule.next(), start + Duration::from_secs(6));
    }

    #[test]
    fn a_restart_asks_at_once_but_never_twice_in_a_second() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.asked(start);
        let soon = start + Duration::from_millis(300);
        schedule.restart(soon, Some(start));
        assert_eq!(schedule.next(), start + FIRST_GAP);
        let later = start + Duration::from_secs(50);
        schedule.restart(later, Some(start));
        assert_eq!(schedule.next(), later);
        schedule.restart(later, None);
        assert_eq!(schedule.next(), later);
    }
}
