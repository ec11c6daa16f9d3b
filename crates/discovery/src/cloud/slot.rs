//! When one question is asked: due, under way, or waiting after a failure.

use super::{
    failure::Failure,
    limits::{BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_PORTAL_MAX, HURRY_GAP},
};
use crate::random::Random;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due(Instant),
    Asking,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    state: State,
    failures: u32,
    /// What the last attempt failed with, and when; nothing after an answer.
    failure: Option<(Instant, Failure)>,
    last_asked: Option<Instant>,
}

impl Slot {
    /// Due at this time.
    pub(crate) fn new(due: Instant) -> Self {
        Self {
            state: State::Due(due),
            failures: 0,
            failure: None,
            last_asked: None,
        }
    }

    /// When it is to be asked; `None`: it is being asked.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) => Some(at),
            State::Asking => None,
        }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|at| at <= now)
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.state == State::Asking
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref().map(|(_, failure)| failure)
    }

    /// What an attempt that ended at `since` or later failed with.
    pub(crate) fn failure_since(&self, since: Instant) -> Option<&Failure> {
        let (at, failure) = self.failure.as_ref()?;
        (*at >= since).then_some(failure)
    }

    pub(crate) fn last_asked(&self) -> Option<Instant> {
        self.last_asked
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// It is being asked from here on.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.state = State::Asking;
        self.last_asked = Some(now);
    }

    /// It was answered, and is asked again at this time.
    pub(crate) fn answered(&mut self, due: Instant) {
        self.state = State::Due(due);
        self.failures = 0;
        self.failure = None;
    }

    /// Due at this time, whatever was before, unless it is being asked.
    pub(crate) fn answered_unless_asking(&mut self, due: Instant) {
        if !self.is_asking() {
            self.answered(due);
        }
    }

    /// It was not answered. `retry_after`: the service's own wish; it can't make the wait shorter.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        failure: Failure,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) {
        let max = match failure {
            Failure::CaptivePortal => BACKOFF_PORTAL_MAX,
            _ => BACKOFF_MAX,
        };
        let wait = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(20))
            .min(max);
        let wait = random.around(wait).max(retry_after.unwrap_or_default());
        self.state = State::Due(now + wait);
        self.failures = self.failures.saturating_add(1);
        self.failure = Some((now, failure));
    }

    /// Due at this time at the latest.
    pub(crate) fn at_most(&mut self, due: Instant) {
        if let State::Due(at) = &mut self.state {
            *at = (*at).min(due);
        }
    }

    /// Somebody waits for the answer: due as soon as may be.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let soonest = self.last_asked.map_or(now, |at| now.max(at + HURRY_GAP));
        self.at_most(soonest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> Failure {
        Failure::Unreachable("no route".to_owned())
    }

    #[test]
    fn waits_double_up_to_the_longest_and_differ_by_a_quarter() {
        let now = Instant::now();
        let mut random = Random::new(1);
        let mut slot = Slot::new(now);
        for attempt in 0..40_u32 {
            slot.asked(now);
            slot.failed(now, unreachable(), None, &mut random);
            let base = (BACKOFF_FIRST * 2_u32.pow(attempt.min(15))).min(BACKOFF_MAX);
            let wait = slot.due().unwrap() - now;
            assert!(
                wait >= base * 3 / 4 && wait <= base * 5 / 4,
                "{attempt}: {wait:?}"
            );
        }
        slot.asked(now);
        slot.answered(now);
        slot.failed(now, unreachable(), None, &mut random);
        assert!(slot.due().unwrap() <= now + BACKOFF_FIRST * 5 / 4);
    }

    #[test]
    fn portals_are_tried_again_soon_and_services_may_ask_for_more_time() {
        let now = Instant::now();
        let mut random = Random::new(1);
        let mut slot = Slot::new(now);
        for _ in 0..20 {
            slot.failed(now, Failure::CaptivePortal, None, &mut random);
        }
        assert!(slot.due().unwrap() <= now + BACKOFF_PORTAL_MAX * 5 / 4);
        let hour = Duration::from_secs(3600);
        slot.failed(now, unreachable(), Some(hour), &mut random);
        assert!(slot.due().unwrap() >= now + hour);
    }

    #[test]
    fn hurry_keeps_a_gap_and_never_puts_off() {
        let now = Instant::now();
        let mut slot = Slot::new(now + Duration::from_secs(100));
        slot.hurry(now);
        assert_eq!(slot.due(), Some(now));
        slot.asked(now);
        slot.hurry(now);
        assert_eq!(slot.due(), None);
        slot.failed(
            now,
            unreachable(),
            Some(Duration::from_secs(60)),
            &mut Random::new(1),
        );
        slot.hurry(now + Duration::from_secs(1));
        assert_eq!(slot.due(), Some(now + HURRY_GAP));
        slot.hurry(now + Duration::from_secs(50));
        assert_eq!(slot.due(), Some(now + HURRY_GAP));
    }
}
