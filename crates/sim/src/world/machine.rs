//! One machine: its swarm, its connections, and how its swarm's commands are carried out.

use super::{Event, Links, Message, VERIFY, World, node, source};
use crate::{
    Idleness, Role,
    network::{Cell, Load, Nanos, Node},
};
use dosvc_content::{Block, PeerId};
use dosvc_scheduler::{BlockUse, Command, FetchEnd, FetchId, Stats, Swarm};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Length of one slot of the timeline.
const TIMELINE_STEP: Nanos = 250_000_000;
/// From one look at the links to the next.
const LOOK_STEP: Nanos = 10_000_000;

/// One direction of a connection: in order, a block holds up what comes after it.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    items: VecDeque<Item>,
    sending: Option<u64>,
}

#[derive(Debug)]
enum Item {
    Message(Message),
    Block(Block),
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) role: Role,
    pub(super) alive: bool,
    pub(super) id: Option<PeerId>,
    pub(super) swarm: Option<Swarm>,
    pub(super) links: Links,
    /// Running fetches, and their transfers once they flow.
    pub(super) fetches: BTreeMap<u64, Option<u64>>,
    pub(super) timer: Option<Nanos>,
    /// Pieces with wrong bytes in them.
    pub(super) tainted: BTreeSet<u32>,
    pub(super) silenced: bool,
    pub(super) done: Option<Nanos>,
    pub(super) stats: Stats,
}

impl Machine {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            alive: false,
            id: None,
            swarm: None,
            links: BTreeMap::new(),
            fetches: BTreeMap::new(),
            timer: None,
            tainted: BTreeSet::new(),
            silenced: false,
            done: None,
            stats: Stats::default(),
        }
    }

    /// A block that waits behind others on its connection need not be sent.
    pub(super) fn cancel(&mut self, to: Node, block: Block) {
        if let Some(link) = self.links.get_mut(&to) {
            link.items
                .retain(|i| !matches!(i, Item::Block(b) if *b == block));
        }
    }
}

impl World<'_> {
    /// Carries out what the machine's swarm decided and sets its timer.
    pub(super) fn after(&mut self, at: Node) {
        while let Some(command) = self.machines[at]
            .swarm
            .as_mut()
            .and_then(Swarm::poll_command)
        {
            self.note(at, &command);
            self.carry_out(at, command);
        }
        let base = self.base;
        let Some(swarm) = &self.machines[at].swarm else {
            return;
        };
        let due = swarm.poll_timeout().map(|t| {
            let since = t.saturating_duration_since(base);
            u64::try_from(since.as_nanos())
                .expect("runs are short")
                .max(self.now + 1)
        });
        if let Some(due) = due
            && self.machines[at].timer.is_none_or(|set| due < set)
        {
            self.machines[at].timer = Some(due);
            self.push(due, Event::Timer(at));
        }
    }

    fn carry_out(&mut self, at: Node, command: Command) {
        match command {
            Command::Interested { source, interested } => {
                self.send(at, source, Message::Interested(interested))
            }
            Command::Choke { source } => self.send(at, source, Message::Choke),
            Command::Unchoke { source } => self.send(at, source, Message::Unchoke),
            Command::Request { source, block } => self.send(at, source, Message::Request(block)),
            Command::Cancel { source, block } => self.send(at, source, Message::Cancel(block)),
            Command::ShowBitfield { source, pieces } => {
                self.send(at, source, Message::Bitfield(pieces))
            }
            Command::ShowHave { source, piece } => self.send(at, source, Message::Have(piece)),
            Command::TellFetching { source, add, drop } => {
                self.send(at, source, Message::Fetching(add, drop))
            }
            Command::Offer {
                source,
                pieces,
                free,
            } => self.send(at, source, Message::Offer(pieces, free)),
            Command::Serve { source, block } => self.serve(at, node(source), block),
            Command::Fetch {
                source,
                fetch,
                first,
                count,
            } => {
                self.machines[at].fetches.insert(fetch.0, None);
                let (from, first) = (node(source), first.get());
                let arrives = self.now + self.network.latency(at, from);
                self.push(
                    arrives,
                    Event::FetchArrives {
                        from,
                        to: at,
                        fetch,
                        first,
                        count,
                    },
                );
            }
            Command::CancelFetch { fetch, .. } => {
                if let Some(Some(flow)) = self.machines[at].fetches.remove(&fetch.0) {
                    self.network.stop(flow);
                }
            }
            Command::Ban { source, .. } => {
                self.banned.insert(node(source));
                self.cut(at, node(source));
            }
            Command::Disconnect { source, .. } => self.cut(at, node(source)),
        }
    }

    fn send(&mut self, from: Node, to: dosvc_scheduler::SourceId, message: Message) {
        let to = node(to);
        if let Some(link) = self.machines[from].links.get_mut(&to) {
            link.items.push_back(Item::Message(message));
            self.flush(from, to);
        }
    }

    fn serve(&mut self, from: Node, to: Node, block: Block) {
        let machine = &mut self.machines[from];
        let held = machine
            .swarm
            .as_ref()
            .is_some_and(|s| s.have().has(block.piece()));
        assert!(
            held,
            "seed {}: {from} serves {block:?} unverified",
            self.scenario.seed
        );
        if machine.role == Role::Silent {
            machine.silenced = true;
        }
        if machine.silenced {
            return;
        }
        if let Some(link) = machine.links.get_mut(&to) {
            link.items.push_back(Item::Block(block));
            self.flush(from, to);
        }
    }

    fn flush(&mut self, from: Node, to: Node) {
        let latency = self.network.latency(from, to);
        loop {
            let machine = &mut self.machines[from];
            let silenced = machine.silenced;
            let Some(link) = machine.links.get_mut(&to) else {
                return;
            };
            if link.sending.is_some() {
                return;
            }
            match link.items.pop_front() {
                None => return,
                Some(_) if silenced => {}
                Some(Item::Message(message)) => {
                    self.push(self.now + latency, Event::Message { from, to, message });
                }
                Some(Item::Block(block)) => {
                    let bytes = u64::from(block.len());
                    let flow = self
                        .network
                        .start(from, to, Load::Block(block), bytes, self.now);
                    if let Some(link) = self.machines[from].links.get_mut(&to) {
                        link.sending = Some(flow);
                    }
                }
            }
        }
    }

    pub(super) fn cell(&mut self, cell: Cell) {
        match cell {
            Cell::Sent {
                flow,
                from,
                to,
                bytes,
            } => {
                if self.network.sent_cell(flow, from, to, bytes, self.now) {
                    self.flow_sent(flow, from, to);
                }
                self.note_sent(from, bytes);
                let copy = self.scenario.length();
                if self.machines[from].role == Role::Seed && self.network.sent(from) >= copy {
                    self.first_copy.get_or_insert(self.now);
                }
            }
            Cell::Arrived { flow, to, bytes } => self.network.arrived(flow, to, bytes, self.now),
            Cell::Delivered { flow, bytes } => {
                self.network.acknowledge(flow, self.now);
                self.delivered(flow, bytes);
            }
            Cell::Acked { flow } => self.network.acked(flow, self.now),
        }
    }

    fn note_sent(&mut self, from: Node, bytes: u32) {
        let slot = usize::try_from(self.now / TIMELINE_STEP).expect("runs are short");
        if self.timeline.len() <= slot {
            self.timeline.resize(slot + 1, [0; 3]);
        }
        let role = match self.machines[from].role {
            Role::Seed | Role::Silent | Role::Corrupt => 0,
            Role::Origin => 1,
            Role::Leech => 2,
        };
        self.timeline[slot][role] += u64::from(bytes);
    }

    /// Notes what every unfinished leech's links do at this moment.
    pub(super) fn look(&mut self) {
        let slot = usize::try_from(self.now / TIMELINE_STEP).expect("runs are short");
        if self.idleness.len() <= slot {
            self.idleness.resize(slot + 1, Idleness::default());
        }
        let seen = &mut self.idleness[slot];
        for (node, machine) in self.machines.iter().enumerate() {
            let Some(swarm) = machine
                .swarm
                .as_ref()
                .filter(|_| machine.role == Role::Leech && machine.done.is_none())
            else {
                continue;
            };
            let activity = swarm.activity();
            let up = self.network.is_sending(node);
            let down = self.network.is_receiving(node, self.now);
            let (ask, give) = (
                activity.asked + activity.fetches,
                activity.queued + activity.serving,
            );
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

    /// The last cell of a transfer has left: a block is served.
    fn flow_sent(&mut self, flow: u64, from: Node, to: Node) {
        let Some(f) = self.network.flow(flow) else {
            return;
        };
        let Load::Block(block) = f.load else {
            return;
        };
        if let Some(link) = self.machines[from].links.get_mut(&to) {
            link.sending = None;
        }
        let now = self.time();
        if let Some(swarm) = &mut self.machines[from].swarm {
            swarm.handle_served(source(to), block, now);
        }
        self.flush(from, to);
        self.after(from);
    }

    fn delivered(&mut self, flow: u64, bytes: u32) {
        let Some(f) = self.network.flow(flow) else {
            return;
        };
        let (from, to) = (f.from, f.to);
        let block = match &f.load {
            Load::Block(block) => Some(*block),
            Load::Fetch(_, blocks) => blocks.front().copied(),
        };
        let Some(block) = block else {
            return;
        };
        let begins = f.delivered == 0;
        f.delivered += bytes;
        let whole = f.delivered >= block.len();
        let rest = f.delivered.saturating_sub(block.len());
        let mut ended = None;
        if whole {
            f.delivered = rest;
            match &mut f.load {
                Load::Block(_) => ended = Some(None),
                Load::Fetch(fetch, blocks) => {
                    blocks.pop_front();
                    if blocks.is_empty() {
                        ended = Some(Some(*fetch));
                    }
                }
            }
        }
        self.hand_in(from, to, block, bytes, begins, whole);
        if let Some(fetch) = ended {
            self.network.stop(flow);
            if let Some(fetch) = fetch {
                self.fetch_done(from, to, fetch);
            }
        }
        self.after(to);
    }

    fn hand_in(
        &mut self,
        from: Node,
        to: Node,
        block: Block,
        bytes: u32,
        begins: bool,
        whole: bool,
    ) {
        let now = self.time();
        let corrupt = self.machines[from].role == Role::Corrupt;
        let Some(swarm) = &mut self.machines[to].swarm else {
            return;
        };
        if begins {
            swarm.handle_block_begun(source(from), block, now);
        }
        if !whole {
            swarm.handle_progress(source(from), bytes, now);
            return;
        }
        if swarm.handle_block(source(from), block, now) == BlockUse::Duplicate {
            return;
        }
        let machine = &mut self.machines[to];
        if corrupt {
            machine.tainted.insert(block.piece().get());
        }
        if machine
            .swarm
            .as_ref()
            .is_some_and(|s| s.is_checking(block.piece()))
        {
            self.push(self.now + VERIFY, Event::Verified(to, block.piece()));
        }
    }

    fn fetch_done(&mut self, from: Node, to: Node, fetch: FetchId) {
        self.machines[to].fetches.remove(&fetch.0);
        let now = self.time();
        if let Some(swarm) = &mut self.machines[to].swarm {
            swarm.handle_fetch_ended(source(from), fetch, FetchEnd::Done, now);
        }
    }
}

/// A number for a command, for the trace.
pub(super) fn digest(now: Nanos, at: Node, command: &Command) -> u64 {
    let of = |b: &Block| u64::from(b.piece().get()) << 24 | u64::from(b.offset());
    let (kind, source, what) = match command {
        Command::Interested { source, interested } => (1, source, u64::from(*interested)),
        Command::Choke { source } => (2, source, 0),
        Command::Unchoke { source } => (3, source, 0),
        Command::Request { source, block } => (4, source, of(block)),
        Command::Cancel { source, block } => (5, source, of(block)),
        Command::Fetch {
            source,
            first,
            count,
            ..
        } => (6, source, u64::from(first.get()) << 32 | u64::from(*count)),
        Command::CancelFetch { source, fetch } => (7, source, fetch.0),
        Command::ShowBitfield { source, pieces } => (8, source, u64::from(pieces.count())),
        Command::ShowHave { source, piece } => (9, source, u64::from(piece.get())),
        Command::TellFetching { source, add, drop } => {
            (10, source, (add.len() as u64) << 32 | drop.len() as u64)
        }
        Command::Serve { source, block } => (11, source, of(block)),
        Command::Offer {
            source,
            pieces,
            free,
        } => (14, source, pieces.len() as u64 * 2 + u64::from(*free)),
        Command::Ban { source, .. } => (12, source, 0),
        Command::Disconnect { source, .. } => (13, source, 0),
    };
    let words = [now, at as u64, kind, u64::from(source.0), what];
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(29)
    })
}
