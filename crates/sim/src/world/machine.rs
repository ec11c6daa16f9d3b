//! One machine: its swarm, and how its swarm's commands are carried out.

use super::{Event, World, meet::number};
use crate::{
    Role,
    network::{End, Node},
    queue::Nanos,
};
use dosvc_content::{Block, DownloadMode, PeerId, PieceIndex};
use dosvc_scheduler::{Command, SourceId, Stats, Swarm};
use dosvc_wire::{Extension, Lead};
use smallvec::SmallVec;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// What a source of a machine's swarm is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Other {
    /// Our end of the connection to a peer.
    Peer(End),
    /// An HTTP server.
    Http(Node),
}

/// What is looked at all the time lies beside the swarm.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Machine {
    pub(super) id: Option<PeerId>,
    pub(super) mode: DownloadMode,
    /// Our ends of the connections to peers.
    pub(super) peers: BTreeMap<Node, End>,
    /// Running fetches by their number in the swarm.
    pub(super) fetches: BTreeMap<u64, u32>,
    /// Pieces with wrong bytes in them.
    pub(super) tainted: BTreeSet<u32>,
    pub(super) done: Option<Nanos>,
    pub(super) stats: Stats,
    pub(super) alive: bool,
    /// It says nothing any more.
    pub(super) silenced: bool,
    /// By the number of the swarm's source.
    pub(super) sources: Vec<Other>,
    /// Who gets which pieces while they arrive: in order, and few, as a piece is here soon.
    pub(super) relays: SmallVec<[(u32, End); 4]>,
    pub(super) timer: Option<Instant>,
    pub(super) swarm: Option<Swarm>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            alive: false,
            id: None,
            mode: DownloadMode::Simple,
            swarm: None,
            sources: Vec::new(),
            peers: BTreeMap::new(),
            fetches: BTreeMap::new(),
            timer: None,
            tainted: BTreeSet::new(),
            relays: SmallVec::new(),
            silenced: false,
            done: None,
            stats: Stats::default(),
        }
    }
}

impl Machine {
    pub(super) fn new_source(&mut self, other: Other) -> SourceId {
        self.sources.push(other);
        super::meet::source(self.sources.len() - 1)
    }

    /// Whether it has verified the piece.
    pub(super) fn holds(&self, piece: PieceIndex) -> bool {
        let swarm = self.swarm.as_ref();
        swarm.is_some_and(|s| s.has(piece))
    }

    pub(super) fn other(&self, source: SourceId) -> Other {
        self.sources[source.0 as usize]
    }
}

impl World<'_> {
    /// Carries out what the machine's swarm decided, lets its connections write, and sets its timer.
    pub(super) fn after(&mut self, at: Node) {
        loop {
            while let Some(command) = self.machines[at]
                .swarm
                .as_mut()
                .and_then(Swarm::poll_command)
            {
                self.note(at, &command);
                self.carry_out(at, command);
            }
            let Some(end) = self.writers.pop() else {
                break;
            };
            self.write(end);
        }
        let Some(due) = self.machines[at]
            .swarm
            .as_ref()
            .and_then(Swarm::poll_timeout)
        else {
            return;
        };
        let due = due.max(self.time());
        // A timer that comes too early does no harm.
        if self.machines[at].timer.is_none_or(|set| due < set) {
            self.machines[at].timer = Some(due);
            self.push_at(due, Event::Timer(number(at)));
        }
    }

    /// The same when nothing happened to the machine's swarm: its connections write.
    pub(super) fn after_writing(&mut self, at: Node) {
        while let Some(end) = self.writers.pop() {
            if self.write(end) {
                return self.after(at);
            }
        }
    }

    fn carry_out(&mut self, at: Node, command: Command) {
        match command {
            Command::Interested { source, interested } => {
                self.tell(at, source, |w| w.wire.set_interested(interested));
            }
            Command::Choke { source } => self.tell(at, source, |w| {
                w.wire.choke();
                w.answers.clear();
            }),
            Command::Unchoke { source } => self.tell(at, source, |w| w.wire.unchoke()),
            Command::Request { source, block } => self.tell(at, source, |w| {
                w.wire.request(block);
            }),
            Command::Cancel { source, block } => {
                let now = self.time();
                self.tell(at, source, |w| {
                    w.wire.cancel(now, block);
                });
            }
            Command::ShowBitfield { source, pieces } => {
                self.tell(at, source, |w| w.wire.bitfield(&pieces));
            }
            Command::ShowHave { source, piece } => self.tell(at, source, |w| w.wire.have(piece)),
            Command::TellFetching { source, add, drop } => {
                let fetching = Extension::Fetching {
                    add: numbers(&add),
                    drop: numbers(&drop),
                };
                self.tell(at, source, |w| w.wire.extension(&fetching));
            }
            Command::TellLead { source, lead } => {
                let lead = lead.map(|dosvc_scheduler::Lead { rank, hops }| Lead { rank, hops });
                self.tell(at, source, |w| w.wire.extension(&Extension::Lead(lead)));
            }
            Command::Offer {
                source,
                pieces,
                free,
            } => {
                let pieces = numbers(&pieces);
                let offer = Extension::Offer { free, pieces };
                self.tell(at, source, |w| w.wire.extension(&offer));
            }
            Command::Serve { source, block } => self.serve(at, source, block),
            Command::Relay {
                source,
                block,
                from,
            } => self.relay(at, source, block, from),
            Command::Abandon { source, block } => {
                if let Other::Peer(end) = self.machines[at].other(source) {
                    let of = (block.piece().get(), end);
                    self.machines[at].relays.retain(|relay| *relay != of);
                }
                self.tell(at, source, |w| w.abandon(block));
            }
            Command::Fetch {
                source,
                fetch,
                first,
                count,
            } => {
                if let Other::Http(server) = self.machines[at].other(source) {
                    self.fetch(at, server, source, fetch, first, count);
                }
            }
            Command::CancelFetch { fetch, .. } => self.cancel_fetch(at, fetch),
            Command::Ban { source, .. } => {
                if let Other::Peer(end) = self.machines[at].other(source) {
                    let peer = self.node((end.0, 1 - end.1));
                    self.banned.insert((at.min(peer), at.max(peer)));
                    self.observed.banned.insert(peer);
                    self.cut(end.0, at);
                }
            }
            Command::Disconnect { source, .. } => {
                if let Other::Peer(end) = self.machines[at].other(source) {
                    self.cut(end.0, at);
                }
            }
        }
    }

    /// Changes our end of the connection to a peer, which may have something to say then.
    fn tell(&mut self, at: Node, source: SourceId, change: impl FnOnce(&mut super::LinkEnd)) {
        let Other::Peer(end) = self.machines[at].other(source) else {
            return;
        };
        let end_state = self.end_mut(end);
        if end_state.closed {
            return;
        }
        change(end_state);
        self.wants_to_write(end);
    }

    fn serve(&mut self, at: Node, source: SourceId, block: Block) {
        let machine = &mut self.machines[at];
        assert!(
            machine.holds(block.piece()),
            "{} with seed {}: {at} serves {block:?} unverified",
            self.scenario.name,
            self.scenario.seed
        );
        if self.scenario.machines[at].role == Role::Silent {
            machine.silenced = true;
            return;
        }
        self.tell(at, source, |w| {
            if w.wire.accept_answer(block) {
                w.answers.push_back((block, None));
            }
        });
    }

    /// Sends a block while it arrives.
    fn relay(&mut self, at: Node, source: SourceId, block: Block, from: SourceId) {
        let Other::Peer(end) = self.machines[at].other(source) else {
            return;
        };
        if self.scenario.machines[at].role == Role::Silent {
            self.machines[at].silenced = true;
            return;
        }
        let relays = &mut self.machines[at].relays;
        let of = (block.piece().get(), end);
        if let Err(place) = relays.binary_search(&of) {
            relays.insert(place, of);
        }
        self.tell(at, source, |w| {
            if w.wire.accept_answer(block) {
                w.answers.push_back((block, Some(from)));
            }
        });
    }

    fn note(&mut self, at: Node, command: &Command) {
        self.trace = (self.trace ^ digest(self.now, at, command))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(17);
    }
}

/// A number for a command, for the trace.
fn digest(now: Nanos, at: Node, command: &Command) -> u64 {
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
        Command::TellLead { source, lead } => (15, source, lead.map_or(0, |l| l.rank)),
        Command::Relay { source, block, .. } => (16, source, of(block)),
        Command::Abandon { source, block } => (17, source, of(block)),
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

fn numbers(pieces: &[PieceIndex]) -> Vec<u32> {
    pieces.iter().map(|p| p.get()).collect()
}
