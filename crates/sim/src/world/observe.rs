//! What is written down while the run goes on, and its result.

use super::{Event, World, meet::number};
use crate::{
    Idleness, MachineOutcome, Outcome, Role, Scenario,
    network::Node,
    outcome::{Copies, STEP},
    queue::Nanos,
};
use std::{collections::BTreeSet, time::Duration};

/// From one look at the links to the next.
const LOOK_STEP: Nanos = 10_000_000;

#[derive(Debug)]
pub(super) struct Observed {
    /// How many leeches have each piece.
    pub(super) copies: Vec<u32>,
    pub(super) banned: BTreeSet<Node>,
    /// Bytes that had left seeds, origins and leeches at the beginning of each step.
    sent: Vec<[u64; 3]>,
    spread: Vec<Copies>,
    idleness: Vec<Idleness>,
    first_copy: Option<Nanos>,
    /// Some machine leaves after so many copies: a look at each that sends is needed.
    any_leaves_after_copies: bool,
}

impl Observed {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            copies: vec![0; scenario.lengths.piece_count() as usize],
            banned: BTreeSet::new(),
            sent: Vec::new(),
            spread: Vec::new(),
            idleness: Vec::new(),
            first_copy: None,
            any_leaves_after_copies: scenario
                .machines
                .iter()
                .any(|m| m.leaves_after_copies.is_some()),
        }
    }

    /// Bytes that left in each step, up to the end with its sum.
    fn timeline(&self, end: [u64; 3]) -> Vec<[u64; 3]> {
        let later = self.sent.iter().skip(1).chain([&end]);
        let steps = self.sent.iter().zip(later);
        steps
            .map(|(from, to)| [0, 1, 2].map(|role| to[role] - from[role]))
            .collect()
    }
}

fn step(now: Nanos) -> usize {
    let step = u64::try_from(STEP.as_nanos()).expect("short");
    usize::try_from(now / step).expect("runs are short")
}

impl World<'_> {
    /// The machine has sent something.
    pub(super) fn note_sent(&mut self, node: Node) {
        let length = self.scenario.length();
        if self.network.sent_by[0] >= length {
            self.observed.first_copy.get_or_insert(self.now);
        }
        // A machine that was to leave after so many copies leaves.
        if self.observed.any_leaves_after_copies
            && let Some(copies) = self.scenario.machines[node].leaves_after_copies
            && self.network.sent(node) as f64 >= copies * length as f64
        {
            self.push(self.now, Event::Leave(number(node)));
        }
    }

    /// Notes how far the pieces have spread, and what was sent.
    pub(super) fn sample(&mut self) {
        self.observed.sent.push(self.network.sent_by);
        let mut copies = self.observed.copies.clone();
        copies.sort_unstable();
        self.observed.spread.push(Copies {
            least: copies[0],
            median: copies[copies.len() / 2],
            most: copies[copies.len() - 1],
        });
        let next = self.now + crate::network::nanos(STEP);
        self.push(next, Event::Sample);
    }

    /// Notes what every unfinished leech's links do at this moment.
    pub(super) fn look(&mut self) {
        let slot = step(self.now);
        if self.observed.idleness.len() <= slot {
            self.observed.idleness.resize(slot + 1, Idleness::default());
        }
        for (node, machine) in self.machines.iter().enumerate() {
            let leech = self.scenario.machines[node].role == Role::Leech;
            let waiting = leech && machine.done.is_none();
            let Some(swarm) = machine.swarm.as_ref().filter(|_| waiting) else {
                continue;
            };
            let activity = swarm.activity();
            let up = self.network.is_sending(node, self.now);
            let down = self.network.is_receiving(node, self.now);
            let ask = activity.asked + activity.fetches;
            let give = activity.queued + activity.serving;
            let seen = &mut self.observed.idleness[slot];
            seen.looks += 1;
            seen.up_unasked += u64::from(!up && give == 0);
            seen.up_held += u64::from(!up && give > 0);
            seen.down_unasking += u64::from(!down && ask == 0);
            seen.down_waiting += u64::from(!down && ask > 0);
            seen.asked += activity.asked as u64;
            seen.arriving += activity.arriving as u64;
            seen.queued += activity.queued as u64;
            seen.serving += activity.serving as u64;
        }
        self.push(self.now + LOOK_STEP, Event::Look);
    }

    /// Those who are there and not done, and what the first of them waits for.
    fn unfinished(&self) -> Vec<String> {
        let now = self.time();
        let lacking = self.machines.iter().enumerate().filter_map(|(n, machine)| {
            let swarm = machine.swarm.as_ref().filter(|s| !s.is_complete())?;
            let (have, why) = (swarm.have(), swarm.waiting(now));
            Some(format!("machine {n}: {have:?}, {why:?}"))
        });
        lacking.collect()
    }

    pub(super) fn outcome(self, events: u64) -> Outcome {
        let scenario = self.scenario;
        let sent = |wanted: fn(Role) -> bool| {
            let of = (0..self.machines.len()).filter(|n| wanted(scenario.machines[*n].role));
            of.map(|n| self.network.sent(n)).sum::<u64>() as f64 / scenario.length() as f64
        };
        let leech = |n: &Node| scenario.machines[*n].role == Role::Leech;
        let leeches = (0..self.machines.len()).filter(leech).map(|n| {
            let (machine, spec) = (&self.machines[n], &scenario.machines[n]);
            MachineOutcome {
                machine: n,
                class: spec.class,
                joined: spec.joins,
                took: machine.done.map(|at| Duration::from_nanos(at) - spec.joins),
                uploaded: self.network.sent(n),
                uplink: spec.link.up,
                stats: machine.stats,
            }
        });
        let uplinks = [0, 1, 2].map(|role| {
            let of = scenario.machines.iter().filter(|m| m.role.number() == role);
            of.map(|m| m.link.up).sum()
        });
        Outcome {
            name: scenario.name.clone(),
            seed: scenario.seed,
            leeches: leeches.collect(),
            classes: scenario.classes.clone(),
            unfinished: self.unfinished(),
            last: Duration::from_nanos(self.last),
            bound: scenario.bound(),
            seed_copies: sent(|r| r == Role::Seed),
            origin_copies: sent(Role::is_http),
            seed_first_copy: self.observed.first_copy.map(Duration::from_nanos),
            uplinks,
            timeline: self.observed.timeline(self.network.sent_by),
            spread: self.observed.spread,
            idleness: self.observed.idleness,
            banned: self.observed.banned.into_iter().collect(),
            losses: self.network.losses,
            trace: self.trace,
            events,
        }
    }
}
