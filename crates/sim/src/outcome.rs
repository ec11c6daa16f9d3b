//! What a run showed.

use dosvc_scheduler::Stats;
use serde_json::{Value, json};
use std::{fmt, time::Duration};

/// From one entry of a course over time to the next.
pub const STEP: Duration = Duration::from_millis(250);

/// One leech's part.
#[derive(Clone, Debug)]
pub struct MachineOutcome {
    /// Its number in the scenario.
    pub machine: usize,
    /// Its class's number in [`Outcome::classes`].
    pub class: usize,
    /// When it started.
    pub joined: Duration,
    /// From its start until it had everything; `None`: it left before.
    pub took: Option<Duration>,
    /// Bytes of content that it sent.
    pub uploaded: u64,
    /// Its uplink, bytes a second.
    pub uplink: u64,
    /// Its swarm's counters.
    pub stats: Stats,
}

/// How far the pieces have spread among the leeches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copies {
    /// Copies of the rarest piece.
    pub least: u32,
    /// Of the piece in the middle.
    pub median: u32,
    /// Of the most common one.
    pub most: u32,
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
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Those who were there at the end and not done, with what they had and waited for.
    pub unfinished: Vec<String>,
    /// When the last leech was done, from the start of the run.
    pub last: Duration,
    /// The least time possible, everybody there from the start.
    pub bound: Duration,
    /// Bytes of content that left seeds, in copies of the content.
    pub seed_copies: f64,
    /// Bytes of content that left origins and cache hosts, in copies of the content.
    pub origin_copies: f64,
    /// When the seeds had sent as many bytes as the content has.
    pub seed_first_copy: Option<Duration>,
    /// Uplinks of seeds, origins and leeches together, bytes a second.
    pub uplinks: [u64; 3],
    /// Bytes that seeds, origins and leeches sent in each [`STEP`].
    pub timeline: Vec<[u64; 3]>,
    /// How far the pieces had spread at the beginning of each [`STEP`].
    pub spread: Vec<Copies>,
    /// Why the leeches' links idled, in each [`STEP`].
    pub idleness: Vec<Idleness>,
    /// Machines that somebody banned.
    pub banned: Vec<usize>,
    /// Cells lost in full queues.
    pub losses: u64,
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

    /// Own times of those that finished, shortest first.
    pub fn times(&self) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.leeches.iter().filter_map(|m| m.took).collect();
        times.sort_unstable();
        times
    }

    /// Own time within which this share of the finishers was done (nearest rank).
    pub fn quantile(&self, share: f64) -> Duration {
        let times = self.times();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank"
        )]
        let rank = (share * times.len() as f64).ceil() as usize;
        let at = rank.clamp(1, times.len().max(1)) - 1;
        times.get(at).copied().unwrap_or_default()
    }

    /// Own time of the first, the median and the last finisher.
    pub fn spread_of_times(&self) -> [Duration; 3] {
        [0.0, 0.5, 1.0].map(|share| self.quantile(share))
    }

    /// Jain's index of what each leech uploaded in proportion to its uplink: 1 when all gave the same share.
    pub fn fairness(&self) -> f64 {
        let shares = self.leeches.iter();
        let shares: Vec<f64> = shares
            .map(|m| m.uploaded as f64 / m.uplink as f64)
            .collect();
        let (sum, squares) = shares
            .iter()
            .fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        if squares > 0.0 {
            sum * sum / (shares.len() as f64 * squares)
        } else {
            1.0
        }
    }

    /// The counters of all leeches together: `field` picks one.
    pub fn sum(&self, field: impl Fn(&Stats) -> u64) -> u64 {
        self.leeches.iter().map(|m| field(&m.stats)).sum()
    }

    /// The head of the table that `Display` prints rows of.
    pub const HEAD: &str = "| scenario | seed | first s | median s | p99 s | p99.9 s | last s | bound s | last / bound | seed copies | origin copies | fairness | duplicate MiB | lost cells | moved | doubled | demoted |\n\
        |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

    /// All of it as JSON, courses over time included. Times in seconds.
    pub fn to_json(&self) -> Value {
        let seconds = |d: Duration| d.as_secs_f64();
        let leeches = self.leeches.iter().map(|m| {
            json!({
                "machine": m.machine,
                "class": self.classes.get(m.class),
                "joined": seconds(m.joined),
                "took": m.took.map(seconds),
                "uploaded": m.uploaded,
                "downloaded": m.stats.downloaded.total(),
                "from_http": m.stats.downloaded.http(),
            })
        });
        json!({
            "scenario": self.name,
            "seed": self.seed,
            "finished": self.times().len(),
            "unfinished": self.unfinished,
            "first": seconds(self.quantile(0.0)),
            "median": seconds(self.quantile(0.5)),
            "p99": seconds(self.quantile(0.99)),
            "p99_9": seconds(self.quantile(0.999)),
            "last": seconds(self.last),
            "bound": seconds(self.bound),
            "ratio": self.ratio(),
            "seed_copies": self.seed_copies,
            "origin_copies": self.origin_copies,
            "seed_first_copy": self.seed_first_copy.map(seconds),
            "fairness": self.fairness(),
            "duplicate_bytes": self.sum(|s| s.duplicate_bytes),
            "lost_cells": self.losses,
            "moved": self.sum(|s| s.moved),
            "doubled": self.sum(|s| s.doubled),
            "demotions": self.sum(|s| s.demotions),
            "banned": self.banned,
            "trace": format!("{:016x}", self.trace),
            "events": self.events,
            "step": seconds(STEP),
            "uplinks": self.uplinks,
            "sent": self.timeline,
            "copies": self.spread.iter().map(|c| [c.least, c.median, c.most]).collect::<Vec<_>>(),
            "leeches": leeches.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, median, p99, p999] =
            [0.0, 0.5, 0.99, 0.999].map(|share| self.quantile(share).as_secs_f64());
        write!(
            f,
            "| {} | {} | {first:.2} | {median:.2} | {p99:.2} | {p999:.2} | {:.2} | {:.2} | {:.3} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {} | {} |",
            self.name,
            self.seed,
            self.last.as_secs_f64(),
            self.bound.as_secs_f64(),
            self.ratio(),
            self.seed_copies,
            self.origin_copies,
            self.fairness(),
            self.sum(|s| s.duplicate_bytes) >> 20,
            self.losses,
            self.sum(|s| s.moved),
            self.sum(|s| s.doubled),
            self.sum(|s| s.demotions),
        )?;
        match self.unfinished.first() {
            None => Ok(()),
            Some(first) => write!(
                f,
                " {} not done, the first of them: {first}",
                self.unfinished.len()
            ),
        }
    }
}
