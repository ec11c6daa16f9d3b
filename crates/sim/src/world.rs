//! The event loop: machines that come and go, time, and the run's end.

mod fetch;
mod link;
mod machine;
mod meet;
mod observe;

use crate::{
    Change, Outcome, Role, Scenario,
    network::{End, FlowId, Links, NetEvent, Node, Owner, nanos, owner_of},
    queue::{self, Nanos, Queue},
    scenario,
};
use dosvc_content::{PeerId, PieceIndex};
use dosvc_scheduler::Swarm;
use fetch::Fetch;
use link::{Link, LinkEnd};
use machine::Machine;
use observe::Observed;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Join(u32),
    Leave(u32),
    Connect(u32, u32),
    /// This end learns that the other has closed.
    Closed(End),
    /// A message arrives on the flow.
    Message(FlowId),
    /// The end's peer had its time to say Hello.
    Greeting(End),
    /// Keep-alives and idle connections.
    Alive(End),
    Timer(u32),
    /// This machine knows that this piece is right, or wrong.
    Verified(u32, u32),
    FetchArrives(u32),
    FetchFails(u32),
    Network(NetEvent),
    Sample,
    Look,
}

/// Where the kind of an event stands in its bits. Below it are at most a machine (17 bits) and a piece (24).
const KIND_AT: u32 = 45;
const _: () = assert!(KIND_AT + 5 <= <Event as queue::Event>::BITS);

impl queue::Event for Event {
    fn to_bits(self) -> u64 {
        let two = |a: u32, b: u32| {
            let (a, b) = (u64::from(a), u64::from(b));
            assert!(
                a < 1 << 17 && b < 1 << 24,
                "machines and pieces there may be"
            );
            a << 24 | b
        };
        let end = |(link, side): End| u64::from(link) << 1 | u64::from(side);
        let (kind, what) = match self {
            Self::Join(node) => (0, u64::from(node)),
            Self::Leave(node) => (1, u64::from(node)),
            Self::Connect(a, b) => (2, two(a, b)),
            Self::Closed(of) => (3, end(of)),
            Self::Message(flow) => (4, u64::from(flow)),
            Self::Greeting(of) => (5, end(of)),
            Self::Alive(of) => (6, end(of)),
            Self::Timer(node) => (7, u64::from(node)),
            Self::Verified(node, piece) => (8, two(node, piece)),
            Self::FetchArrives(fetch) => (9, u64::from(fetch)),
            Self::FetchFails(fetch) => (10, u64::from(fetch)),
            Self::Sample => (11, 0),
            Self::Look => (12, 0),
            Self::Network(NetEvent::Depart(flow)) => (13, u64::from(flow)),
            Self::Network(NetEvent::Arrive(flow)) => (14, u64::from(flow)),
            Self::Network(NetEvent::Land(flow)) => (15, u64::from(flow)),
            Self::Network(NetEvent::Wake(flow)) => (16, u64::from(flow)),
            Self::Network(NetEvent::Lost(flow)) => (17, u64::from(flow)),
        };
        kind << KIND_AT | what
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "parts of what was put together"
    )]
    fn from_bits(bits: u64) -> Self {
        let what = bits & ((1 << KIND_AT) - 1);
        let one = what as u32;
        let two = ((what >> 24) as u32, one & ((1 << 24) - 1));
        let end = ((what >> 1) as u32, (what & 1) as u8);
        match bits >> KIND_AT {
            0 => Self::Join(one),
            1 => Self::Leave(one),
            2 => Self::Connect(two.0, two.1),
            3 => Self::Closed(end),
            4 => Self::Message(one),
            5 => Self::Greeting(end),
            6 => Self::Alive(end),
            7 => Self::Timer(one),
            8 => Self::Verified(two.0, two.1),
            9 => Self::FetchArrives(one),
            10 => Self::FetchFails(one),
            11 => Self::Sample,
            12 => Self::Look,
            13 => Self::Network(NetEvent::Depart(one)),
            14 => Self::Network(NetEvent::Arrive(one)),
            15 => Self::Network(NetEvent::Land(one)),
            16 => Self::Network(NetEvent::Wake(one)),
            _ => Self::Network(NetEvent::Lost(one)),
        }
    }
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    base: Instant,
    now: Nanos,
    /// The same as the cores have it.
    time: Instant,
    queue: Queue<Event>,
    network: Links,
    machines: Vec<Machine>,
    links: Vec<Link>,
    /// The machine at each end of each connection: so few bytes that they are always at hand, and the machine can be
    /// fetched beside the end.
    ends_at: Vec<[u32; 2]>,
    fetches: Vec<Fetch>,
    /// Of each response its fetch.
    responses: Vec<u32>,
    random: u64,
    trace: u64,
    changes: Vec<(u64, Change)>,
    /// Pieces that all leeches together have.
    progress: u64,
    waiting: usize,
    last: Nanos,
    banned: BTreeSet<(Node, Node)>,
    /// Machines that are there, by what they do.
    present: meet::Present,
    observed: Observed,
    verify: Nanos,
    /// Ends with something to write, until they are looked at.
    writers: Vec<End>,
    /// A buffer for messages, to be used again.
    spare: Vec<u8>,
}

/// Runs a scenario to its end.
///
/// Those who are not done by the scenario's limit, or when nothing happens any more, are counted in the outcome.
///
/// # Panics
/// When an invariant does not hold; the message names the scenario and its seed.
pub fn run(scenario: &Scenario) -> Outcome {
    let _repeat = Repeat(scenario);
    let mut world = World::new(scenario);
    let mut events = 0u64;
    let limit = nanos(scenario.limit);
    while world.waiting > 0 {
        let Some((at, event)) = world.queue.pop().filter(|(at, _)| *at <= limit) else {
            break;
        };
        world.now = at;
        world.time = world.base + Duration::from_nanos(at);
        world.handle(event);
        events += 1;
        if scenario.check_every > 0 && events.is_multiple_of(scenario.check_every) {
            world.check_one(events / scenario.check_every);
        }
    }
    world.check_all();
    world.outcome(events)
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let leeches = scenario
            .machines
            .iter()
            .filter(|m| m.role == Role::Leech)
            .count();
        let total = u64::from(scenario.lengths.piece_count()) * leeches as u64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a number of pieces"
        )]
        let at = |share: f64| (share * total as f64) as u64;
        let piece = u64::from(scenario.lengths.piece_size());
        let base = Instant::now();
        let mut world = Self {
            scenario,
            base,
            now: 0,
            time: base,
            queue: Queue::new(),
            network: Links::new(
                scenario.network,
                scenario.machines.iter().map(|m| (m.link, m.role.number())),
            ),
            machines: scenario
                .machines
                .iter()
                .map(|_| Machine::default())
                .collect(),
            links: Vec::new(),
            ends_at: Vec::new(),
            fetches: Vec::new(),
            responses: Vec::new(),
            random: scenario.seed ^ 0x5851_f42d_4c95_7f2d,
            trace: 0,
            changes: scenario
                .changes
                .iter()
                .map(|(share, change)| (at(*share), *change))
                .collect(),
            progress: 0,
            waiting: leeches,
            last: 0,
            banned: BTreeSet::new(),
            present: meet::Present::default(),
            observed: Observed::new(scenario),
            verify: piece * 1_000_000_000 / scenario.network.verify_bps,
            writers: Vec::new(),
            spare: Vec::new(),
        };
        world.push(0, Event::Sample);
        if scenario.look {
            world.push(0, Event::Look);
        }
        for (node, machine) in (0u32..).zip(&scenario.machines) {
            world.push(nanos(machine.joins), Event::Join(node));
            if let Some(leaves) = machine.leaves {
                world.push(nanos(leaves), Event::Leave(node));
            }
        }
        world
    }

    fn fail(&self, what: &str) -> ! {
        let after = self.now as f64 / 1e9;
        panic!("{what} after {after:.6} s");
    }

    fn time(&self) -> Instant {
        self.time
    }

    fn push(&mut self, at: Nanos, event: Event) {
        self.queue.push(at.max(self.now), event);
    }

    fn random(&mut self) -> u64 {
        scenario::next(&mut self.random)
    }

    /// The cores' own invariants, of one machine after the other.
    fn check_one(&self, turn: u64) {
        let node = usize::try_from(turn % self.machines.len() as u64).expect("a machine");
        if let Some(swarm) = &self.machines[node].swarm {
            swarm.check_invariants();
        }
    }

    fn check_all(&self) {
        for (node, machine) in self.machines.iter().enumerate() {
            if let Some(swarm) = &machine.swarm {
                swarm.check_invariants();
                if machine.done.is_some() {
                    assert!(swarm.is_complete(), "{node} was done");
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Join(node) => self.join(node as Node),
            Event::Leave(node) => self.leave(node as Node),
            Event::Connect(a, b) => self.connect(a as Node, b as Node),
            Event::Closed(end) => self.closed(end),
            Event::Message(flow) => self.receive(flow),
            Event::Greeting(end) => self.greeting_over(end),
            Event::Alive(end) => self.keep_alive(end),
            Event::Timer(node) => self.timer(node as Node),
            Event::Verified(node, piece) => {
                let piece = self.scenario.lengths.piece(piece).expect("it was checked");
                self.verified(node as Node, piece);
            }
            Event::FetchArrives(fetch) => self.fetch_arrives(fetch),
            Event::FetchFails(fetch) => self.fetch_fails(fetch),
            Event::Network(event) => self.network_event(event),
            Event::Sample => self.sample(),
            Event::Look => self.look(),
        }
        self.take_schedule();
    }

    fn take_schedule(&mut self) {
        let mut schedule = std::mem::take(&mut self.network.schedule);
        for (at, event) in schedule.drain(..) {
            self.push(at, Event::Network(event));
        }
        self.network.schedule = schedule;
    }

    fn network_event(&mut self, event: NetEvent) {
        let (NetEvent::Depart(flow)
        | NetEvent::Arrive(flow)
        | NetEvent::Land(flow)
        | NetEvent::Wake(flow)
        | NetEvent::Lost(flow)) = event;
        if self.network.handle(event, self.now) {
            self.receive(flow);
        }
        if matches!(event, NetEvent::Depart(_)) {
            self.note_sent(self.network.flow(flow).from);
        }
        if self.network.wants_bytes(flow)
            && let Owner::End(end) = owner_of(flow)
        {
            self.writers.push(end);
            self.after_writing(self.network.flow(flow).from);
        }
    }

    /// Bytes or messages arrived on the flow.
    fn receive(&mut self, flow: FlowId) {
        if !self.network.is_open(flow) {
            return;
        }
        match owner_of(flow) {
            Owner::End(end) => self.receive_at((end.0, 1 - end.1)),
            Owner::Response(number) => self.fetch_landed(self.responses[number as usize]),
        }
    }

    fn timer(&mut self, node: Node) {
        let now = self.time();
        let machine = &mut self.machines[node];
        if machine.timer != Some(now) {
            return;
        }
        machine.timer = None;
        if let Some(swarm) = &mut machine.swarm {
            swarm.handle_timeout(now);
            self.after(node);
        }
    }

    fn verified(&mut self, node: Node, piece: PieceIndex) {
        let now = self.time();
        let bad = self.machines[node].tainted.remove(&piece.get());
        self.end_relays(node, piece);
        let Some(swarm) = &mut self.machines[node].swarm else {
            return;
        };
        if bad {
            swarm.handle_piece_corrupt(piece, now);
        } else {
            swarm.handle_piece_verified(piece, now);
            assert!(swarm.has(piece), "verified is had");
            let done = swarm.is_complete();
            if self.scenario.machines[node].role == Role::Leech {
                self.progress += 1;
                self.observed.copies[piece.as_usize()] += 1;
            }
            if done {
                self.done(node);
            }
        }
        self.after(node);
        if !self.changes.is_empty() {
            self.make_changes();
        }
    }

    fn make_changes(&mut self) {
        let due = |(at, _): &(u64, Change)| *at <= self.progress;
        let (now_due, later) = self.changes.iter().partition(|c| due(c));
        self.changes = later;
        for (_, Change::Leave(role)) in now_due {
            for node in 0..self.machines.len() {
                if self.scenario.machines[node].role == role {
                    self.leave(node);
                }
            }
        }
    }

    fn done(&mut self, node: Node) {
        let spec = &self.scenario.machines[node];
        if spec.role != Role::Leech || self.machines[node].done.is_some() {
            return;
        }
        let machine = &mut self.machines[node];
        machine.done = Some(self.now);
        machine.stats = machine.swarm.as_ref().map_or(machine.stats, |s| *s.stats());
        assert!(
            machine.stats.downloaded.total() >= self.scenario.length(),
            "{node} is complete with all that was delivered"
        );
        self.waiting -= 1;
        self.last = self.now;
        if let Some(wait) = spec.leaves_when_done {
            let node = u32::try_from(node).expect("fewer machines than that");
            self.push(self.now + nanos(wait), Event::Leave(node));
        }
        self.part_from_complete(node);
    }

    /// The machine at this end.
    fn node(&self, (link, side): End) -> Node {
        self.ends_at[link as usize][usize::from(side)] as Node
    }

    fn end(&self, (link, side): End) -> &LinkEnd {
        &self.links[link as usize].ends[usize::from(side)]
    }

    fn end_mut(&mut self, (link, side): End) -> &mut LinkEnd {
        &mut self.links[link as usize].ends[usize::from(side)]
    }

    fn id_of(&mut self) -> PeerId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random().to_be_bytes());
        id[8..].copy_from_slice(&self.random().to_be_bytes());
        PeerId::from_random(id)
    }
}

/// Says what to repeat when a run panics, in a core too.
struct Repeat<'a>(&'a Scenario);

impl Drop for Repeat<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.repeat());
        }
    }
}

fn swarm_of(machine: &mut Machine) -> &mut Swarm {
    machine.swarm.as_mut().expect("only machines with a swarm")
}
