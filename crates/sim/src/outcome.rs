//! What a run showed.

use dosvc_scheduler::Stats;
use std::{fmt, time::Duration};

/// One leech's part.
#[derive(Clone, Debug)]
pub struct MachineOutcome {
    /// Its number in the scenario.
    pub machine: usize,
    /// From its start until it had everything; `None`: it left before.
    pub took: Option<Duration>,
    /// Its swarm's counters.
    pub stats: Stats,
}

/// What the leeches' links did, looked at 100 times a second: shares of all looks at leeches that were not done.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Idleness {
    /// Looks.
    pub looks: u64,
    /// The uplink idled: nobody asked for anything.
    pub up_unasked: u64,
    /// The uplink idled although requests waited or blocks were begun.
    pub up_held: u64,
    /// Nothing arrived: nothing was asked for.
    pub down_unasking: u64,
    /// Nothing arrived of what was asked for.
    pub down_waiting: u64,
    /// Blocks asked for.
    pub asked: u64,
    /// Blocks arriving.
    pub arriving: u64,
    /// Requests of others waiting.
    pub queued: u64,
    /// Blocks being sent.
    pub serving: u64,
}

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The scenario's name.
    pub name: String,
    /// The scenario's seed.
    pub seed: u64,
    /// The leeches.
    pub leeches: Vec<MachineOutcome>,
    /// When the last leech was done, from the start of the run.
    pub last: Duration,
    /// The least time possible.
    pub bound: Duration,
    /// Bytes that left seeds, in copies of the content.
    pub seed_copies: f64,
    /// Bytes that left origins, in copies of the content.
    pub origin_copies: f64,
    /// When the seeds had sent as many bytes as the content has.
    pub seed_first_copy: Option<Duration>,
    /// Bytes that left seeds, origins and leeches in each quarter of a second.
    pub timeline: Vec<[u64; 3]>,
    /// Why the leeches' links idled, in each quarter of a second.
    pub idleness: Vec<Idleness>,
    /// Machines that somebody banned.
    pub banned: Vec<usize>,
    /// Hash over every command of every machine, with its time.
    pub trace: u64,
    /// Events handled.
    pub events: u64,
}

impl Outcome {
    /// Time of the last finisher in units of the bound.
    pub fn ratio(&self) -> f64 {
        self.last.as_secs_f64() / self.bound.as_secs_f64()
    }

    fn times(&self) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.leeches.iter().filter_map(|m| m.took).collect();
        times.sort_unstable();
        times
    }

    /// Own time of the first, the median and the last finisher.
    pub fn spread(&self) -> [Duration; 3] {
        let times = self.times();
        let at = |i: usize| times.get(i).copied().unwrap_or_default();
        [
            at(0),
            at(times.len() / 2),
            at(times.len().saturating_sub(1)),
        ]
    }

    /// The counters of all leeches together: `field` picks one.
    pub fn sum(&self, field: impl Fn(&Stats) -> u64) -> u64 {
        self.leeches.iter().map(|m| field(&m.stats)).sum()
    }

    /// The head of the table that `Display` prints rows of.
    pub const HEAD: &str = "| scenario | seed | first s | median s | last s | bound s | last / bound | seed copies | origin copies | duplicate MiB | moved | doubled | demoted |\n\
        |---|---|---|---|---|---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, median, _] = self.spread().map(|t| t.as_secs_f64());
        write!(
            f,
            "| {} | {} | {first:.2} | {median:.2} | {:.2} | {:.2} | {:.3} | {:.2} | {:.2} | {} | {} | {} | {} |",
            self.name,
            self.seed,
            self.last.as_secs_f64(),
            self.bound.as_secs_f64(),
            self.ratio(),
            self.seed_copies,
            self.origin_copies,
            self.sum(|s| s.duplicate_bytes) >> 20,
            self.sum(|s| s.moved),
            self.sum(|s| s.doubled),
            self.sum(|s| s.demotions),
        )
    }
}
