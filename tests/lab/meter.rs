//! What crosses a machine's link over time, by the counters of its interface: what the daemon says of itself is not asked.

use crate::namespace::{Node, Traffic};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a limit is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// How often the counter is read.
const STEP: Duration = Duration::from_millis(10);
/// Bursts are looked for in stretches up to this long; longer ones are the mean's business.
const STRETCH: Duration = Duration::from_secs(1);

/// A counter over ten seconds.
pub(crate) struct Flow(Vec<Sample>);

#[derive(Clone, Copy)]
struct Sample {
    /// Before and after the counter was read.
    at: [Instant; 2],
    bytes: u64,
}

impl Flow {
    /// What a machine receives.
    pub(crate) fn received(node: &Node) -> Self {
        Self::watch(node, WATCHED, |traffic| traffic.received)
    }

    /// What a machine sends.
    pub(crate) fn sent(node: &Node) -> Self {
        Self::watch(node, WATCHED, |traffic| traffic.sent)
    }

    /// What a machine receives in another time than ten seconds.
    pub(crate) fn received_for(node: &Node, time: Duration) -> Self {
        Self::watch(node, time, |traffic| traffic.received)
    }

    fn watch(node: &Node, time: Duration, direction: fn(Traffic) -> u64) -> Self {
        let began = Instant::now();
        let mut samples = Vec::new();
        while began.elapsed() < time {
            let before = Instant::now();
            let bytes = direction(node.traffic());
            samples.push(Sample {
                at: [before, Instant::now()],
                bytes,
            });
            thread::sleep(STEP);
        }
        Self(samples)
    }

    /// Bytes a second over the whole time.
    pub(crate) fn mean(&self) -> f64 {
        let (first, last) = (self.0[0], self.0[self.0.len() - 1]);
        float(last.bytes - first.bytes) / (last.at[1] - first.at[1]).as_secs_f64()
    }

    /// The most bytes beyond what a rate allows in any stretch up to a second: the size of a bucket that all of it
    /// would have passed.
    pub(crate) fn burst(&self, rate: f64) -> f64 {
        let beyond = |from: &Sample, to: &Sample| {
            // The counter was read at some time in between.
            let time = (to.at[1] - from.at[0]).as_secs_f64();
            float(to.bytes - from.bytes) - rate * time
        };
        let stretches = self.0.iter().enumerate().flat_map(|(i, from)| {
            let near = |to: &&Sample| to.at[1] - from.at[0] <= STRETCH;
            self.0[i..]
                .iter()
                .take_while(near)
                .map(move |to| beyond(from, to))
        });
        stretches.fold(0.0, f64::max)
    }
}

fn float(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes as f64;
    bytes
}
