//! Measured rates: bytes a second, the recent past counting most.

use std::time::{Duration, Instant};

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_millis(1500);

/// An exponentially fading rate. Time counts only while `running`, so that a source which is not asked for anything
/// keeps the rate it has shown.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    bytes: f64,
    seconds: f64,
    at: Instant,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            bytes: 0.0,
            seconds: 0.0,
            at: now,
        }
    }

    /// Lets time pass up to `now`; `running`: whether it counts.
    pub(crate) fn advance(&mut self, running: bool, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        if running && passed > 0.0 {
            let keep = (-passed / WINDOW.as_secs_f64()).exp();
            self.bytes *= keep;
            // Bytes and seconds fade alike, so the quotient is a true mean from the first moment on.
            self.seconds = self.seconds * keep + WINDOW.as_secs_f64() * (1.0 - keep);
        }
    }

    pub(crate) fn add(&mut self, bytes: u32) {
        self.bytes += f64::from(bytes);
    }

    /// Bytes a second; `None` before anything was measured.
    pub(crate) fn rate(&self) -> Option<f64> {
        (self.seconds > 1e-6 && self.bytes > 0.0).then(|| self.bytes / self.seconds)
    }

    /// Bytes a second, measured over at least a third of what counts: nothing that came in a lump.
    pub(crate) fn steady_rate(&self) -> Option<f64> {
        self.rate()
            .filter(|_| self.seconds * 3.0 >= WINDOW.as_secs_f64())
    }

    /// Bytes a second with the time up to `now` counted, 0 when nothing came.
    pub(crate) fn rate_at(&self, now: Instant) -> f64 {
        let mut then = self.clone();
        then.advance(true, now);
        then.rate().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_rate_from_the_first_second() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for i in 1..=100u32 {
            meter.advance(true, start + Duration::from_millis(10) * i);
            meter.add(10_000);
            let rate = meter.rate().expect("measured");
            assert!((900_000.0..=1_100_000.0).contains(&rate), "{i}: {rate}");
        }
    }

    #[test]
    fn a_pause_in_asking_leaves_the_rate_and_silence_lowers_it() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.advance(true, start + Duration::from_secs(1));
        meter.add(1_000_000);
        let rate = meter.rate().expect("measured");
        meter.advance(false, start + Duration::from_secs(60));
        assert_eq!(meter.rate(), Some(rate));
        meter.advance(true, start + Duration::from_secs(70));
        assert!(meter.rate().expect("measured") < rate / 50.0);
    }
}
