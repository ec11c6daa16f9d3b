//! The event loop: machines, connections, messages.

mod machine;

use crate::{
    Change, Idleness, MachineOutcome, Outcome, Role, Scenario,
    network::{Cell, Load, Nanos, Network, Node, nanos},
};
use dosvc_content::{Bitfield, Block, PeerId, PieceIndex};
use dosvc_scheduler::{FetchEnd, FetchId, SourceId, SourceInfo, SourceKind, Swarm, SwarmConfig};
use machine::{Machine, Outgoing, digest};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

/// Checking a piece.
const VERIFY: Nanos = 1_000_000;
/// A dead origin is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// What a peer tells another.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Bitfield(Bitfield),
    Have(PieceIndex),
    Interested(bool),
    Choke,
    Unchoke,
    Request(Block),
    Cancel(Block),
    Fetching(Vec<PieceIndex>, Vec<PieceIndex>),
    Offer(Vec<PieceIndex>, bool),
}

#[derive(Debug)]
enum Event {
    Join(Node),
    Leave(Node),
    Connect(Node, Node),
    Closed {
        at: Node,
        peer: Node,
    },
    Message {
        from: Node,
        to: Node,
        message: Message,
    },
    Timer(Node),
    Verified(Node, PieceIndex),
    FetchArrives {
        from: Node,
        to: Node,
        fetch: FetchId,
        first: u32,
        count: u32,
    },
    FetchFails {
        origin: Node,
        to: Node,
        fetch: FetchId,
    },
    Network(Cell),
    Look,
}

/// Orders events by time, then by the order in which they were made.
struct Due(Nanos, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct World<'a> {
    scenario: &'a Scenario,
    base: Instant,
    now: Nanos,
    made: u64,
    due: BinaryHeap<Reverse<Due>>,
    network: Network,
    machines: Vec<Machine>,
    random: u64,
    trace: u64,
    changes: Vec<(u64, Change)>,
    /// Pieces that all leeches together have.
    progress: u64,
    waiting: usize,
    last: Nanos,
    first_copy: Option<Nanos>,
    timeline: Vec<[u64; 3]>,
    idleness: Vec<Idleness>,
    banned: BTreeSet<Node>,
}

/// Runs a scenario to its end.
///
/// # Panics
/// When an invariant does not hold, or the leeches are not done by the scenario's limit; the message names the
/// scenario and its seed.
pub fn run(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario);
    let mut events = 0u64;
    while world.waiting > 0 {
        let Some(Reverse(Due(at, _, event))) = world.due.pop() else {
            world.fail("nothing happens any more");
        };
        world.now = at;
        if at > nanos(scenario.limit) {
            world.fail("not done in time");
        }
        world.handle(event);
        events += 1;
        if scenario.check_every > 0 && events.is_multiple_of(scenario.check_every) {
            world.check();
        }
    }
    world.check();
    world.outcome(events)
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let base = Instant::now();
        let total = u64::from(scenario.lengths.piece_count())
            * scenario
                .machines
                .iter()
                .filter(|m| m.role == Role::Leech)
                .count() as u64;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of a number of pieces"
        )]
        let at = |share: f64| (share * total as f64) as u64;
        let mut world = Self {
            scenario,
            base,
            now: 0,
            made: 0,
            due: BinaryHeap::new(),
            network: Network::new(scenario.machines.iter().map(|m| m.link)),
            machines: Vec::new(),
            random: scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            trace: 0,
            changes: scenario
                .changes
                .iter()
                .map(|(share, change)| (at(*share), *change))
                .collect(),
            progress: 0,
            waiting: scenario
                .machines
                .iter()
                .filter(|m| m.role == Role::Leech)
                .count(),
            last: 0,
            first_copy: None,
            timeline: Vec::new(),
            idleness: Vec::new(),
            banned: BTreeSet::new(),
        };
        if scenario.look {
            world.push(0, Event::Look);
        }
        for (node, machine) in scenario.machines.iter().enumerate() {
            world.machines.push(Machine::new(machine.role));
            world.push(nanos(machine.joins), Event::Join(node));
            if let Some(leaves) = machine.leaves {
                world.push(nanos(leaves), Event::Leave(node));
            }
        }
        world
    }

    fn fail(&self, what: &str) -> ! {
        let waiting: Vec<String> = (0..self.machines.len())
            .filter_map(|n| {
                let swarm = self.machines[n]
                    .swarm
                    .as_ref()
                    .filter(|s| !s.is_complete())?;
                let why = swarm.waiting(self.time());
                Some(format!(
                    "{n}: {:?}, {why:?}, {:?}",
                    swarm.have(),
                    swarm.explain(self.time())
                ))
            })
            .take(2)
            .collect();
        panic!(
            "{} with seed {}: {what} after {:.3} s\n{}",
            self.scenario.name,
            self.scenario.seed,
            self.now as f64 / 1e9,
            waiting.join("\n")
        );
    }

    fn time(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn push(&mut self, at: Nanos, event: Event) {
        self.made += 1;
        self.due
            .push(Reverse(Due(at.max(self.now), self.made, event)));
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn check(&self) {
        for swarm in self.machines.iter().filter_map(|m| m.swarm.as_ref()) {
            swarm.check_invariants();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Join(node) => self.join(node),
            Event::Leave(node) => self.leave(node),
            Event::Connect(a, b) => self.connect(a, b),
            Event::Closed { at, peer } => self.closed(at, peer),
            Event::Message { from, to, message } => self.message(from, to, message),
            Event::Timer(node) => self.timer(node),
            Event::Verified(node, piece) => self.verified(node, piece),
            Event::FetchArrives {
                from,
                to,
                fetch,
                first,
                count,
            } => self.fetch_arrives(from, to, fetch, first, count),
            Event::FetchFails { origin, to, fetch } => self.fetch_fails(origin, to, fetch),
            Event::Network(cell) => self.cell(cell),
            Event::Look => self.look(),
        }
        for (at, cell) in std::mem::take(&mut self.network.schedule) {
            self.push(at, Event::Network(cell));
        }
    }

    fn join(&mut self, node: Node) {
        let spec = &self.scenario.machines[node];
        self.machines[node].alive = true;
        if spec.role != Role::Origin {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&self.random().to_be_bytes());
            id[8..].copy_from_slice(&self.random().to_be_bytes());
            let id = PeerId::from_random(id);
            let config = SwarmConfig {
                http_delay: self.scenario.http_delay,
                qos_bps: self.scenario.qos_bps,
                ..SwarmConfig::new(id, self.random())
            };
            let swarm = Swarm::new(
                self.scenario.lengths,
                self.scenario.have(spec.role),
                config,
                self.time(),
            );
            self.machines[node].id = Some(id);
            self.machines[node].swarm = Some(swarm);
        }
        self.meet(node);
        self.after(node);
    }

    /// Origins at once, neighbours a little later.
    fn meet(&mut self, node: Node) {
        let mut peers = Vec::new();
        for other in 0..self.machines.len() {
            if other == node || !self.machines[other].alive {
                continue;
            }
            match (self.machines[node].role, self.machines[other].role) {
                (_, Role::Origin) => self.connect(node, other),
                (Role::Origin, _) => self.connect(other, node),
                _ => peers.push(other),
            }
        }
        if self.machines[node].role == Role::Origin {
            return;
        }
        for i in (1..peers.len()).rev() {
            let j = usize::try_from(self.random() % (i as u64 + 1)).expect("an index");
            peers.swap(i, j);
        }
        peers.sort_by_key(|p| self.machines[*p].role == Role::Leech);
        peers.truncate(self.scenario.neighbours);
        for peer in peers {
            let wait = self.random() % (nanos(self.scenario.discovery) + 1);
            self.push(self.now + wait, Event::Connect(node, peer));
        }
    }

    fn connect(&mut self, a: Node, b: Node) {
        let alive = self.machines[a].alive && self.machines[b].alive;
        if !alive || self.machines[a].links.contains_key(&b) {
            return;
        }
        for (at, peer) in [(a, b), (b, a)] {
            if self.machines[at].swarm.is_none() {
                self.machines[at].links.insert(peer, Outgoing::default());
                continue;
            }
            let origin = self.machines[peer].role == Role::Origin;
            let info = SourceInfo {
                kind: if origin {
                    SourceKind::Origin
                } else {
                    SourceKind::LanPeer
                },
                peer_id: self.machines[peer].id,
                extended: !origin
                    && self.scenario.machines[peer].extended
                    && self.scenario.machines[at].extended,
            };
            self.machines[at].links.insert(peer, Outgoing::default());
            let now = self.time();
            self.swarm(at).handle_source_added(source(peer), info, now);
        }
        self.after(a);
        self.after(b);
    }

    fn swarm(&mut self, node: Node) -> &mut Swarm {
        self.machines[node]
            .swarm
            .as_mut()
            .expect("only machines with a swarm")
    }

    fn leave(&mut self, node: Node) {
        if !std::mem::take(&mut self.machines[node].alive) {
            return;
        }
        let unfinished =
            self.machines[node].role == Role::Leech && self.machines[node].done.is_none();
        self.waiting -= usize::from(unfinished);
        for flow in self.network.flows_of(node) {
            if let Some(f) = self.network.stop(flow)
                && let Load::Fetch(fetch, _) = f.load
                && f.from == node
            {
                self.machines[f.to].fetches.remove(&fetch.0);
                let at = self.now + self.network.latency(node, f.to);
                self.push(
                    at,
                    Event::FetchFails {
                        origin: node,
                        to: f.to,
                        fetch,
                    },
                );
            }
        }
        let origin = self.machines[node].role == Role::Origin;
        for peer in std::mem::take(&mut self.machines[node].links).into_keys() {
            // An HTTP source stays known when it is down.
            if !origin {
                let at = self.now + self.network.latency(node, peer);
                self.push(
                    at,
                    Event::Closed {
                        at: peer,
                        peer: node,
                    },
                );
            }
        }
        self.machines[node].swarm = None;
    }

    fn closed(&mut self, at: Node, peer: Node) {
        if self.machines[at].links.remove(&peer).is_none() {
            return;
        }
        let now = self.time();
        if let Some(swarm) = &mut self.machines[at].swarm {
            swarm.handle_source_removed(source(peer), now);
            self.after(at);
        }
    }

    /// Both ends of a connection close it.
    fn cut(&mut self, a: Node, b: Node) {
        for flow in self.network.flows_of(a) {
            if self
                .network
                .flow(flow)
                .is_some_and(|f| f.from == b || f.to == b)
            {
                self.network.stop(flow);
            }
        }
        self.machines[a].links.remove(&b);
        let at = self.now + self.network.latency(a, b);
        self.push(at, Event::Closed { at: b, peer: a });
    }

    fn message(&mut self, from: Node, to: Node, message: Message) {
        let now = self.time();
        let linked = self.machines[to].links.contains_key(&from);
        if !linked || self.machines[to].silenced {
            return;
        }
        let Some(swarm) = &mut self.machines[to].swarm else {
            return;
        };
        let id = source(from);
        match message {
            Message::Bitfield(pieces) => swarm.handle_bitfield(id, pieces, now),
            Message::Have(piece) => swarm.handle_have(id, piece, now),
            Message::Interested(on) => swarm.handle_interested(id, on, now),
            Message::Choke => swarm.handle_choked(id, now),
            Message::Unchoke => swarm.handle_unchoked(id, now),
            // A refusal is dropped in silence, as a request that crossed a Choke is.
            Message::Request(block) => _ = swarm.handle_request(id, block, now),
            Message::Cancel(block) => {
                swarm.handle_cancelled(id, block, now);
                self.machines[to].cancel(from, block);
            }
            Message::Fetching(add, drop) => swarm.handle_fetching(id, &add, &drop, now),
            Message::Offer(pieces, free) => swarm.handle_offer(id, &pieces, free, now),
        }
        self.after(to);
    }

    fn timer(&mut self, node: Node) {
        let now = self.time();
        if self.machines[node].timer != Some(self.now) {
            return;
        }
        self.machines[node].timer = None;
        if let Some(swarm) = &mut self.machines[node].swarm {
            swarm.handle_timeout(now);
            self.after(node);
        }
    }

    fn verified(&mut self, node: Node, piece: PieceIndex) {
        let now = self.time();
        let bad = self.machines[node].tainted.remove(&piece.get());
        let Some(swarm) = &mut self.machines[node].swarm else {
            return;
        };
        if bad {
            swarm.handle_piece_corrupt(piece, now);
        } else {
            swarm.handle_piece_verified(piece, now);
            assert!(swarm.have().has(piece), "verified is had");
            let done = swarm.is_complete();
            self.progress += 1;
            if done {
                self.done(node);
            }
        }
        self.after(node);
        let due = |(at, _): &(u64, Change)| *at <= self.progress;
        let (now_due, later) = self.changes.iter().partition(|c| due(c));
        self.changes = later;
        for (_, Change::Leave(role)) in now_due {
            for node in 0..self.machines.len() {
                if self.machines[node].role == role {
                    self.leave(node);
                }
            }
        }
    }

    fn done(&mut self, node: Node) {
        if self.machines[node].role != Role::Leech || self.machines[node].done.is_some() {
            return;
        }
        self.machines[node].done = Some(self.now);
        self.machines[node].stats = self.swarm(node).stats().to_owned();
        self.waiting -= 1;
        self.last = self.now;
        if let Some(wait) = self.scenario.machines[node].leaves_when_done {
            self.push(self.now + nanos(wait), Event::Leave(node));
        }
    }

    fn fetch_arrives(&mut self, from: Node, to: Node, fetch: FetchId, first: u32, count: u32) {
        if !self.machines[to].alive || !self.machines[to].fetches.contains_key(&fetch.0) {
            return;
        }
        if !self.machines[from].alive {
            self.machines[to].fetches.remove(&fetch.0);
            let at = self.now + self.network.latency(from, to);
            self.push(
                at,
                Event::FetchFails {
                    origin: from,
                    to,
                    fetch,
                },
            );
            return;
        }
        let lengths = self.scenario.lengths;
        let pieces =
            (first..first + count).map(|p| lengths.piece(p).expect("asked for real pieces"));
        let blocks: std::collections::VecDeque<Block> =
            pieces.flat_map(|p| lengths.blocks(p)).collect();
        let bytes = blocks.iter().map(|b| u64::from(b.len())).sum();
        let flow = self
            .network
            .start(from, to, Load::Fetch(fetch, blocks), bytes, self.now);
        self.machines[to].fetches.insert(fetch.0, Some(flow));
    }

    fn fetch_fails(&mut self, origin: Node, to: Node, fetch: FetchId) {
        let now = self.time();
        let end = FetchEnd::Failed {
            retry_at: Some(now + RETRY),
        };
        if let Some(swarm) = &mut self.machines[to].swarm {
            swarm.handle_fetch_ended(source(origin), fetch, end, now);
            self.after(to);
        }
    }

    fn outcome(&self, events: u64) -> Outcome {
        let sent = |role| {
            let of = (0..self.machines.len()).filter(|n| self.machines[*n].role == role);
            of.map(|n| self.network.sent(n)).sum::<u64>() as f64 / self.scenario.length() as f64
        };
        let leeches = (0..self.machines.len()).filter(|n| self.machines[*n].role == Role::Leech);
        let leeches = leeches.map(|machine| MachineOutcome {
            machine,
            took: self.machines[machine]
                .done
                .map(|at| Duration::from_nanos(at) - self.scenario.machines[machine].joins),
            stats: self.machines[machine].stats,
        });
        Outcome {
            name: self.scenario.name.clone(),
            seed: self.scenario.seed,
            leeches: leeches.collect(),
            last: Duration::from_nanos(self.last),
            bound: self.scenario.bound(),
            seed_copies: sent(Role::Seed),
            origin_copies: sent(Role::Origin),
            seed_first_copy: self.first_copy.map(Duration::from_nanos),
            timeline: self.timeline.clone(),
            idleness: self.idleness.clone(),
            banned: self.banned.iter().copied().collect(),
            trace: self.trace,
            events,
        }
    }

    fn note(&mut self, node: Node, command: &dosvc_scheduler::Command) {
        self.trace = (self.trace ^ digest(self.now, node, command))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(17);
    }
}

fn source(node: Node) -> SourceId {
    SourceId(u32::try_from(node).expect("fewer machines than that"))
}

fn node(source: SourceId) -> Node {
    source.0 as usize
}

/// What each machine's tables are keyed by.
type Links = BTreeMap<Node, Outgoing>;
