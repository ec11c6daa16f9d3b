//! One connection between two peers: the real protocol state of each end, and what a driver does with it.
//!
//! Messages travel as the bytes that the core wrote and are decoded at the other end; of blocks only the number of
//! bytes travels. As with the real driver, messages that have gathered go out before the next part of a block, nothing
//! overtakes a part that has begun, the length of the parts and what may stand unsent in the send buffer follow the
//! driver's measured pace, and a block is served when its last byte is in the send buffer.

use super::{End, Event, World, machine::Other, swarm_of};
use crate::{
    Role,
    network::{Node, flow_of},
    queue::Nanos,
};
use dosvc_content::{Block, PieceIndex};
use dosvc_scheduler::{BlockUse, SourceId, SourceInfo, SourceKind};
use dosvc_wire::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, Connection, EXTENSION_PREFIX_LEN, EXTENSION_VERSION,
    Extension, Header, Lead, Limits, Pace, Payload, PeerEvent, RELAY_HELD, RELAY_PART_MIN,
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A block's progress is told after this many bytes, but not so soon, and however few they are after this long; as
/// the driver does.
const PROGRESS_BYTES: u32 = 128 << 10;
const PROGRESS_INTERVAL_MIN: Nanos = 20_000_000;
const PROGRESS_INTERVAL_MAX: Nanos = 100_000_000;
/// How long a new peer may take to say Hello before it is taken for one without extensions, as the engine has it.
const GREETING_TIME: Nanos = 150_000_000;

/// Bytes of the header of a part of a block.
const PIECE_HEADER: usize = 13;

/// What stands in a stream: messages, the last of which may be the header of bytes of a block that follow it. As long as a
/// cache line.
#[derive(Debug)]
struct Chunk {
    /// The messages stand behind so many bytes of blocks.
    at: u64,
    /// When they arrive if they travel alone; 0: with what is around them.
    ready: Nanos,
    /// Bytes of a block that follow.
    body: u32,
    /// The messages have been taken in.
    taken: bool,
    bytes: Messages,
}

/// Bytes that [`Messages`] holds without memory of its own.
const SHORT: usize = 38;

/// Bytes of messages. Most are few, and stand where they are queued: fetching them from elsewhere would cost more than
/// all that is done with them.
#[derive(Debug)]
enum Messages {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

impl Default for Messages {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Messages {
    fn new(from: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..from.len()) {
            None => Self::Long(from.into()),
            Some(start) => {
                start.copy_from_slice(from);
                let len = u8::try_from(from.len()).expect("short");
                Self::Short { len, bytes }
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// A block that is being written.
#[derive(Clone, Copy, Debug)]
struct Writing {
    block: Block,
    /// Bytes of it that are in the send buffer.
    done: u32,
    /// Where the current part ends.
    end: u32,
    begun: Nanos,
    /// It is passed on while it arrives from there.
    from: Option<SourceId>,
    /// Nothing of it follows what was begun.
    abandoned: bool,
}

/// What came of a step of writing.
enum Step {
    Wrote,
    /// The swarm was told of a block that is out.
    Served,
    /// There is nothing to write.
    Nothing,
}

/// A block that is arriving.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    /// `None`: it was withdrawn and is thrown away.
    block: Option<Block>,
    /// Bytes that are here, those of earlier parts included.
    here: u32,
    /// Those of earlier parts.
    before: u32,
    /// Of them, those that the scheduler knows of.
    told: u32,
    told_at: Option<Nanos>,
}

/// One end of a connection. What each cell needs that arrives lies first, then what each part needs that is sent.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct LinkEnd {
    /// What the peer is called in this machine's swarm.
    pub(super) source: SourceId,
    pub(super) closed: bool,
    waits_to_write: bool,
    /// The scheduler does not know the peer yet.
    pub(super) greeting: bool,
    kind: SourceKind,
    /// Pieces that the peer has.
    pub(super) peer_pieces: u32,
    arriving: Option<Arriving>,
    stream: VecDeque<Chunk>,
    writing: Option<Writing>,
    /// Answers that wait to be sent.
    pub(super) answers: VecDeque<(Block, Option<SourceId>)>,
    pace: Pace,
    pub(super) wire: Connection,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) ends: [LinkEnd; 2],
}

impl World<'_> {
    /// A connection whose handshakes are done.
    pub(super) fn open_link(&mut self, nodes: [Node; 2], kinds: [SourceKind; 2]) {
        let id = u32::try_from(self.links.len()).expect("fewer connections than that");
        let now = self.time();
        self.network.open_link(nodes);
        self.ends_at.push(nodes.map(super::meet::number));
        let ends = [0u8, 1].map(|side| {
            let here = usize::from(side);
            let (node, other) = (nodes[here], nodes[1 - here]);
            let out = flow_of((id, side));
            let pace = Pace::default();
            self.network.flow_mut(out).unsent_max = u64::from(pace.unsent_max());
            let machine = &mut self.machines[node];
            machine.peers.insert(other, (id, side));
            LinkEnd {
                source: machine.new_source(Other::Peer((id, side))),
                kind: kinds[here],
                wire: Connection::new(Some(self.scenario.lengths), Limits::default(), now),
                stream: VecDeque::new(),
                answers: VecDeque::new(),
                writing: None,
                pace,
                arriving: None,
                peer_pieces: 0,
                greeting: true,
                closed: false,
                waits_to_write: false,
            }
        });
        self.links.push(Link { ends });
        for (end, node) in [((id, 0), nodes[0]), ((id, 1), nodes[1])] {
            if self.scenario.machines[node].extended {
                let mut nonce = [0; 16];
                nonce[..8].copy_from_slice(&self.random().to_be_bytes());
                self.end_mut(end).wire.extension(&Extension::Hello {
                    version: EXTENSION_VERSION,
                    capabilities: CAPABILITY_PARTS | CAPABILITY_RELAYS,
                    listen_port: 7680,
                    nonce,
                });
                self.wants_to_write(end);
                self.push(self.now + GREETING_TIME, Event::Greeting(end));
            } else {
                self.greeted(end, false);
            }
            let alive = self.end(end).wire.poll_timeout();
            self.push_at(alive, Event::Alive(end));
            self.after(node);
        }
    }

    pub(super) fn push_at(&mut self, at: Instant, event: Event) {
        let wait = at.saturating_duration_since(self.time());
        self.push(self.now + crate::network::nanos(wait), event);
    }

    fn greeted(&mut self, end: End, extended: bool) {
        let state = self.end_mut(end);
        if !std::mem::take(&mut state.greeting) {
            return;
        }
        let (source, kind) = (state.source, state.kind);
        let (node, peer) = (self.node(end), self.node((end.0, 1 - end.1)));
        let info = SourceInfo {
            kind,
            peer_id: self.machines[peer].id,
            extended,
            relays: extended,
        };
        let now = self.time();
        swarm_of(&mut self.machines[node]).handle_source_added(source, info, now);
    }

    pub(super) fn greeting_over(&mut self, end: End) {
        let state = self.end(end);
        if state.closed || !state.greeting {
            return;
        }
        let node = self.node(end);
        self.greeted(end, false);
        self.after(node);
    }

    pub(super) fn keep_alive(&mut self, end: End) {
        let now = self.time();
        let state = self.end_mut(end);
        if state.closed {
            return;
        }
        if state.wire.handle_timeout(now).is_err() {
            let node = self.node(end);
            self.drop_peer(end);
            return self.after(node);
        }
        let next = state.wire.poll_timeout();
        let node = self.node(end);
        self.wants_to_write(end);
        let soonest = now + Duration::from_millis(1);
        self.push_at(next.max(soonest), Event::Alive(end));
        self.after(node);
    }

    /// One end closes the connection: the other learns of it later.
    pub(super) fn cut(&mut self, link: u32, node: Node) {
        let side = u8::from(self.node((link, 0)) != node);
        let ours = self.end_mut((link, side));
        if std::mem::replace(&mut ours.closed, true) {
            return;
        }
        ours.forget();
        for side in [0, 1] {
            self.network.close(flow_of((link, side)));
        }
        let other = self.node((link, 1 - side));
        self.machines[node].peers.remove(&other);
        let at = self.now + self.network.latency(node, other);
        self.push(at, Event::Closed((link, 1 - side)));
    }

    pub(super) fn closed(&mut self, end: End) {
        let state = self.end_mut(end);
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        state.forget();
        let (source, greeting) = (state.source, state.greeting);
        let (node, other) = (self.node(end), self.node((end.0, 1 - end.1)));
        self.machines[node].peers.remove(&other);
        let now = self.time();
        if let Some(swarm) = self.machines[node].swarm.as_mut().filter(|_| !greeting) {
            swarm.handle_source_removed(source, now);
            self.after(node);
        }
    }

    // ---- sending ----

    pub(super) fn wants_to_write(&mut self, end: End) {
        if !std::mem::replace(&mut self.end_mut(end).waits_to_write, true) {
            self.writers.push(end);
        }
    }

    /// Fills the send buffer: messages, then a part of a block, and so on. True when the swarm was told of a block that
    /// is out.
    pub(super) fn write(&mut self, end: End) -> bool {
        self.end_mut(end).waits_to_write = false;
        let mut served = false;
        if self.machines[self.node(end)].silenced {
            return served;
        }
        loop {
            let state = self.end_mut(end);
            if state.closed {
                return served;
            }
            let out = flow_of(end);
            let room = self.network.room(out);
            self.network.flow_mut(out).starving = room == 0;
            if room == 0 {
                return served;
            }
            match self.write_some(end, room) {
                Step::Wrote => {}
                Step::Served => served = true,
                Step::Nothing => return served,
            }
        }
    }

    /// The next step of writing, with this much room.
    fn write_some(&mut self, end: End, room: u64) -> Step {
        let mut bytes = std::mem::take(&mut self.spare);
        let step = self.write_next(end, room, &mut bytes);
        bytes.clear();
        self.spare = bytes;
        step
    }

    fn write_next(&mut self, end: End, room: u64, bytes: &mut Vec<u8>) -> Step {
        let clock = self.now;
        let state = self.end_mut(end);
        state.writing.take_if(|w| w.abandoned && w.done == w.end);
        if state.writing.is_none() {
            state.writing = state.next_answer(clock);
        }
        match state.writing {
            Some(writing) if writing.done == writing.block.len() => {
                self.end_writing(end, writing);
                return Step::Served;
            }
            Some(writing) if writing.done < writing.end => {
                self.write_body(end, room);
                return Step::Wrote;
            }
            _ => {}
        }
        let part = state.writing.map_or(0, |w| self.next_part(end, w));
        let state = self.end_mut(end);
        match &mut state.writing {
            Some(writing) if part > 0 => {
                let (block, from) = (writing.block, writing.done);
                state.wire.answer_part(block, from, part, bytes);
                writing.end += part;
            }
            _ => state.wire.poll_transmit(bytes),
        }
        if bytes.is_empty() {
            return Step::Nothing;
        }
        self.put_messages(end, bytes, part);
        if part > 0 {
            self.write_body(end, room);
        }
        Step::Wrote
    }

    /// How long the next part of the block may be; 0: there is none yet.
    fn next_part(&self, end: End, writing: Writing) -> u32 {
        let state = self.end(end);
        let (block, done) = (writing.block, writing.done);
        let rest = block.len() - done;
        let len = match state.wire.may_part_answers() {
            true => state.pace.part(rest),
            false => rest,
        };
        let Some(from) = writing.from else {
            return len;
        };
        let ready = self.may_relay(self.node(end), from, block);
        let last = block.len().saturating_sub(RELAY_HELD);
        if ready >= done + RELAY_PART_MIN || ready >= last {
            len.min(ready.saturating_sub(done))
        } else {
            0
        }
    }

    /// Bytes of the part that was begun, as many as there is room for.
    fn write_body(&mut self, end: End, room: u64) {
        let (now, clock) = (self.time(), self.now);
        let state = self.end_mut(end);
        let Some(writing) = &mut state.writing else {
            return;
        };
        let left = writing.end - writing.done;
        let len = u32::try_from(room).map_or(left, |room| room.min(left));
        writing.done += len;
        state.wire.handle_sent(now, len as usize);
        self.network.write(flow_of(end), u64::from(len), clock);
    }

    /// All of the block is in the send buffer.
    fn end_writing(&mut self, end: End, writing: Writing) {
        let took = Duration::from_nanos(self.now - writing.begun);
        let block = writing.block;
        let relayed = writing.from.is_some();
        let state = self.end_mut(end);
        if !relayed {
            state.pace.note(block.len(), took);
        }
        state.wire.end_answer(block);
        state.writing = None;
        let source = state.source;
        let unsent_max = u64::from(state.pace.unsent_max());
        self.network.flow_mut(flow_of(end)).unsent_max = unsent_max;
        let node = self.node(end);
        let held = self.machines[node].holds(block.piece());
        assert!(held || !relayed, "{block:?} is out before it is verified");
        self.served(node, source, block);
    }

    /// Messages go out, the last of them the header of `part` bytes that follow, if it is not 0.
    fn put_messages(&mut self, end: End, bytes: &[u8], part: u32) {
        let (now, clock) = (self.time(), self.now);
        let out = flow_of(end);
        let at = self.network.flow(out).written();
        // A header alone arrives with what it is the header of.
        let alone = part == 0 || bytes.len() > PIECE_HEADER;
        let ready = if alone {
            self.network.message(out, bytes.len(), clock)
        } else {
            None
        };
        if let Some(ready) = ready {
            self.queue.push(ready, Event::Message(out));
        }
        let state = self.end_mut(end);
        state.wire.handle_sent(now, bytes.len());
        state.stream.push_back(Chunk {
            at,
            ready: ready.unwrap_or(0),
            body: part,
            taken: false,
            bytes: Messages::new(bytes),
        });
    }

    /// How much of a block that arrives from there may go out.
    fn may_relay(&self, node: Node, from: SourceId, block: Block) -> u32 {
        let machine = &self.machines[node];
        let Some(swarm) = &machine.swarm else {
            return 0;
        };
        if machine.holds(block.piece()) {
            return block.len();
        }
        let here = match machine.other(from) {
            _ if swarm.is_checking(block.piece()) => block.len(),
            Other::Peer(end) => {
                let arriving = self.end(end).arriving;
                arriving
                    .filter(|a| a.block == Some(block))
                    .map_or(0, |a| a.here)
            }
            Other::Http(_) => self.fetched(node, from, block),
        };
        here.min(block.len().saturating_sub(RELAY_HELD))
    }

    /// More of a piece is here: it may be passed on.
    pub(super) fn wake_relays(&mut self, node: Node, piece: PieceIndex) {
        let relays = &self.machines[node].relays;
        let first = relays.partition_point(|(of, _)| *of < piece.get());
        let of = |(of, _): &&(u32, End)| *of == piece.get();
        let count = relays[first..].iter().take_while(of).count();
        for at in first..first + count {
            let (_, end) = self.machines[node].relays[at];
            self.wants_to_write(end);
        }
    }

    /// The same when no more of it will come.
    pub(super) fn end_relays(&mut self, node: Node, piece: PieceIndex) {
        self.wake_relays(node, piece);
        self.machines[node]
            .relays
            .retain(|(of, _)| *of != piece.get());
    }

    fn served(&mut self, node: Node, source: SourceId, block: Block) {
        let now = self.time();
        if let Some(swarm) = &mut self.machines[node].swarm {
            swarm.handle_served(source, block, now);
        }
    }

    // ---- receiving ----

    /// Takes in what has arrived at this end.
    pub(super) fn receive_at(&mut self, end: End) {
        let (link, side) = (end.0 as usize, usize::from(end.1));
        let other = (end.0, 1 - end.1);
        let node = self.node(end);
        if self.machines[node].silenced {
            return;
        }
        let mut any = false;
        loop {
            let [ours, theirs] = both(&mut self.links[link].ends, side);
            if ours.closed {
                break;
            }
            let delivered = self.network.flow(flow_of(other)).delivered();
            let Some(chunk) = theirs.stream.front_mut() else {
                break;
            };
            if !chunk.taken {
                if chunk.at > delivered || chunk.ready > self.now {
                    break;
                }
                chunk.taken = true;
                let bytes = std::mem::take(&mut chunk.bytes);
                if chunk.body == 0 {
                    theirs.end_chunk();
                }
                self.decode(end, bytes.bytes());
                any = true;
                continue;
            }
            let len = chunk.body;
            let here = delivered.saturating_sub(chunk.at).min(u64::from(len));
            let here = u32::try_from(here).expect("at most a block");
            let Some(arriving) = &mut ours.arriving else {
                self.fail("a block without its header");
            };
            let here_before = arriving.here;
            arriving.here = arriving.before + here;
            if arriving.here == here_before {
                break;
            }
            let mut arrived = *arriving;
            let mut whole = false;
            if here == len {
                theirs.end_chunk();
                arriving.before = arriving.here;
                arrived = *arriving;
                whole = arrived.is_whole();
                if whole {
                    ours.arriving = None;
                }
            }
            let bytes = arrived.here - here_before;
            ours.wire.handle_received(self.time, bytes as usize);
            any |= self.body(end, arrived, whole);
        }
        if any {
            self.after(node);
        } else {
            self.after_writing(node);
        }
    }

    /// Messages go through the real decoder and the real connection.
    fn decode(&mut self, end: End, mut bytes: &[u8]) {
        let now = self.time();
        self.end_mut(end).wire.handle_received(now, bytes.len());
        while !bytes.is_empty() {
            let state = self.end_mut(end);
            if state.closed {
                return;
            }
            let Ok(Some((header, used))) = Header::decode(bytes) else {
                self.fail("bytes that are no message");
            };
            let rest = &bytes[used..];
            let handled = state.wire.handle_header(now, header);
            let (taken, handled) = match handled {
                Ok(Payload::None) => (0, Ok(())),
                Ok(Payload::Bitfield(len)) => {
                    let bits = rest[..len as usize].to_vec();
                    (len as usize, state.wire.handle_bitfield(bits))
                }
                Ok(Payload::Extension(len)) => {
                    let payload = &rest[..len as usize];
                    let prefix = &payload[..payload.len().min(EXTENSION_PREFIX_LEN as usize)];
                    let ours = state.wire.handle_extension_prefix(prefix, len);
                    let handled = match ours {
                        Ok(true) => state.wire.handle_extension(payload),
                        Ok(false) => Ok(()),
                        Err(violation) => Err(violation),
                    };
                    (len as usize, handled)
                }
                Ok(Payload::Block { block, .. }) => {
                    state.expect(Some(block));
                    (0, Ok(()))
                }
                Ok(Payload::Drain(_)) => {
                    state.expect(None);
                    (0, Ok(()))
                }
                Err(violation) => (0, Err(violation)),
            };
            if let Err(violation) = handled {
                self.fail(&format!("{end:?} sees {violation}"));
            }
            bytes = &rest[taken..];
            while let Some(event) = self.end_mut(end).wire.poll_event() {
                self.peer_event(end, event);
            }
        }
    }

    fn peer_event(&mut self, end: End, event: PeerEvent) {
        let now = self.time();
        if self.end(end).closed {
            return;
        }
        match &event {
            PeerEvent::Extension(Extension::Hello { .. }) => return self.greeted(end, true),
            PeerEvent::Abandoned(_) => {}
            PeerEvent::Extension(_) => {}
            // Somebody who speaks of anything else first knows no extensions.
            _ => self.greeted(end, false),
        }
        let state = self.end_mut(end);
        let id = state.source;
        let node = self.node(end);
        let lengths = self.scenario.lengths;
        let pieces = |list: Vec<u32>| -> Vec<PieceIndex> {
            list.into_iter().filter_map(|i| lengths.piece(i)).collect()
        };
        let Some(swarm) = &mut self.machines[node].swarm else {
            return;
        };
        match event {
            PeerEvent::Bitfield(field) => {
                let count = field.count();
                swarm.handle_bitfield(id, field, now);
                self.end_mut(end).peer_pieces = count;
                self.part_if_both_complete(end);
            }
            PeerEvent::Have(piece) => {
                swarm.handle_have(id, piece, now);
                let all = self.scenario.lengths.piece_count();
                let state = self.end_mut(end);
                state.peer_pieces = (state.peer_pieces + 1).min(all);
                self.part_if_both_complete(end);
            }
            PeerEvent::Choked => swarm.handle_choked(id, now),
            PeerEvent::Unchoked => swarm.handle_unchoked(id, now),
            PeerEvent::Interested(on) => swarm.handle_interested(id, on, now),
            PeerEvent::Requested(block) => {
                if swarm.handle_request(id, block, now).is_err() {
                    self.end_mut(end).wire.refuse(block);
                }
            }
            PeerEvent::Cancelled(block) => {
                swarm.handle_cancelled(id, block, now);
                self.end_mut(end)
                    .answers
                    .retain(|(queued, _)| *queued != block);
            }
            PeerEvent::Abandoned(block) => {
                let state = self.end_mut(end);
                if state.arriving.is_some_and(|a| a.block == Some(block)) {
                    state.arriving = None;
                }
                swarm_of(&mut self.machines[node]).handle_abandoned(id, block, now);
            }
            PeerEvent::Extension(Extension::Fetching { add, drop }) => {
                swarm.handle_fetching(id, &pieces(add), &pieces(drop), now);
            }
            PeerEvent::Extension(Extension::Offer { free, pieces: list }) => {
                swarm.handle_offer(id, &pieces(list), free, now);
            }
            PeerEvent::Extension(Extension::Lead(lead)) => {
                let lead = lead.map(|Lead { rank, hops }| dosvc_scheduler::Lead { rank, hops });
                swarm.handle_lead(id, lead, now);
            }
            PeerEvent::Extension(_) => {}
        }
    }

    fn part_if_both_complete(&mut self, end: End) {
        let state = self.end(end);
        let node = self.node(end);
        let complete =
            self.machines[node].done.is_some() || self.scenario.machines[node].role == Role::Seed;
        if complete && state.peer_pieces == self.scenario.lengths.piece_count() {
            self.drop_peer(end);
        }
    }

    /// More of a block is here. True when the scheduler was told.
    fn body(&mut self, end: End, arriving: Arriving, whole: bool) -> bool {
        let (now, clock) = (self.time(), self.now);
        let state = self.end_mut(end);
        let id = state.source;
        let untold = arriving.here - arriving.told;
        let Some(block) = arriving.block else {
            return false;
        };
        let node = self.node(end);
        self.wake_relays(node, block.piece());
        let wait = if untold < PROGRESS_BYTES {
            PROGRESS_INTERVAL_MAX
        } else {
            PROGRESS_INTERVAL_MIN
        };
        let waited = arriving.told_at.is_none_or(|at| clock >= at + wait);
        if !waited && !whole {
            let swarm = swarm_of(&mut self.machines[node]);
            return swarm.handle_block_part(id, block, arriving.here, now);
        }
        let state = self.end_mut(end);
        if let Some(arriving) = &mut state.arriving {
            arriving.told = arriving.here;
            arriving.told_at = Some(clock);
        }
        let Some(swarm) = &mut self.machines[node].swarm else {
            return false;
        };
        if arriving.told_at.is_none() {
            swarm.handle_block_begun(id, block, now);
        }
        if !whole {
            swarm.handle_progress(id, untold, now);
            swarm.handle_block_part(id, block, arriving.here, now);
            return true;
        }
        let from = self.node((end.0, 1 - end.1));
        let corrupt = self.scenario.machines[from].role == Role::Corrupt;
        self.block_here(node, id, block, corrupt);
        true
    }

    /// A whole block is here; the last one of its piece has the piece checked.
    pub(super) fn block_here(&mut self, node: Node, id: SourceId, block: Block, corrupt: bool) {
        let now = self.time();
        let machine = &mut self.machines[node];
        let Some(swarm) = &mut machine.swarm else {
            return;
        };
        if swarm.handle_block(id, block, now) == BlockUse::Duplicate {
            return;
        }
        let checking = swarm.is_checking(block.piece());
        if corrupt {
            machine.tainted.insert(block.piece().get());
        }
        if checking {
            let at = self.now + self.verify;
            let node = super::meet::number(node);
            self.push(at, Event::Verified(node, block.piece().get()));
        }
    }
}

impl Arriving {
    /// What is thrown away is done with each part.
    fn is_whole(&self) -> bool {
        self.block.is_none_or(|block| self.here == block.len())
    }
}

impl LinkEnd {
    /// A block, or the next part of it, follows.
    fn expect(&mut self, block: Option<Block>) {
        self.arriving.get_or_insert(Arriving {
            block,
            here: 0,
            before: 0,
            told: 0,
            told_at: None,
        });
    }

    /// The other end has taken in the first of what this one sent.
    fn end_chunk(&mut self) {
        self.stream.pop_front();
        if self.stream.is_empty() {
            // The next one stands where this one stood: that is in the processor's cache.
            self.stream.clear();
        }
    }

    /// A block is not sent, or not to its end.
    pub(super) fn abandon(&mut self, block: Block) {
        self.answers.retain(|(queued, _)| *queued != block);
        // A part that has begun goes out.
        if let Some(writing) = self.writing.as_mut().filter(|w| w.block == block) {
            writing.abandoned = true;
        }
        self.wire.abandon(block);
    }

    /// The next answer that the peer still waits for.
    fn next_answer(&mut self, now: Nanos) -> Option<Writing> {
        while let Some((block, from)) = self.answers.pop_front() {
            if self.wire.begin_answer(block) {
                return Some(Writing {
                    block,
                    done: 0,
                    end: 0,
                    begun: now,
                    from,
                    abandoned: false,
                });
            }
        }
        None
    }

    /// Gives memory back.
    fn forget(&mut self) {
        self.stream = VecDeque::new();
        self.answers = VecDeque::new();
        self.writing = None;
        self.arriving = None;
    }
}

/// Our end and the other.
fn both(ends: &mut [LinkEnd; 2], side: usize) -> [&mut LinkEnd; 2] {
    let [first, second] = ends;
    if side == 0 {
        [first, second]
    } else {
        [second, first]
    }
}
