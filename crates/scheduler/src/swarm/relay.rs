//! A piece is passed on while it arrives, or a step from machine to machine would take as long as a whole piece.
//!
//! A piece of one block may be offered as soon as some of it is here, though nobody can know yet whether it is right. Its
//! receiver never gets all of it before that: the shell holds its end back until the piece is verified here. So a block
//! that is whole has been verified by whoever sent it, and blame and bans are as they are without this. When the piece
//! turns out wrong, or comes from somebody else after all, its receivers are told that what they have of it is void
//! ([`Command::Abandon`]), and tell those that they pass it on to.
//!
//! Nobody waits for himself: a peer asks for a piece only while nothing of it is asked for, so what it passes on began
//! after what it gets; where a piece begins anew, what was passed on of it is abandoned first.

use super::Swarm;
use crate::{
    Command, SourceId,
    pieces::{Giver, PieceState},
    sorted::SortedMap,
    source::Source,
};
use dosvc_content::{Block, PieceIndex};
use std::time::Instant;

/// Less of a block than this tells nothing of how fast it comes.
const FIRST_PART: u32 = 64 << 10;
/// A source that is so many times slower than all of ours together passes nothing on to us: its pieces would be what we
/// wait for in the end.
const SLOWER_MAX: f64 = 8.0;
/// Who abandons pieces may do so this often, …
const ABANDONED_FREE: u32 = 2;
/// … and once more for so many blocks that it delivers.
const ABANDONED_EVERY: u64 = 8;

/// Pieces that are passed on though they are not verified, and where each comes from.
#[derive(Debug, Default)]
pub(super) struct Relays(SortedMap<u32, Giver>);

impl Relays {
    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        self.0.contains_key(&piece.get())
    }

    /// Where the piece comes from.
    pub(super) fn from(&self, piece: PieceIndex) -> Option<SourceId> {
        self.0.get(&piece.get()).map(|giver| giver.source())
    }

    /// The piece is verified: it is like any other now.
    pub(super) fn end(&mut self, piece: PieceIndex) {
        self.0.remove(&piece.get());
    }
}

/// Giving.
impl Swarm {
    /// So much of a block that is not whole yet is here: it may be passed on. To be told every 64 KiB or so, beside
    /// [`Self::handle_progress`]; a shell that never tells passes on nothing before it is verified. False when nothing came
    /// of it.
    pub fn handle_block_part(
        &mut self,
        id: SourceId,
        block: Block,
        here: u32,
        now: Instant,
    ) -> bool {
        let piece = block.piece();
        if here < FIRST_PART || self.relays.has(piece) || !self.is_single(piece) {
            return false;
        }
        let &[giver] = self.pieces.givers(block) else {
            return false;
        };
        let Some(s) = self.sources.get(&id).filter(|_| giver.source() == id) else {
            return false;
        };
        let left = s.expected(1, block.len().saturating_sub(here));
        if !left.is_some_and(|left| self.uploads.may_relay(left)) {
            return false;
        }
        self.relays.0.insert(piece.get(), giver);
        self.picker.set_shelf(piece, crate::Shelf::Held);
        self.offers.note_more();
        self.settle(now);
        true
    }

    /// Whether the peer may be offered some piece.
    pub(super) fn lacks_any(&self, s: &Source) -> bool {
        let mut arriving = self.relays.0.keys().map(|p| self.pieces.index(*p));
        s.lacks_any_of(&self.pieces) || arriving.any(|p| s.lacks(p, &self.pieces))
    }

    /// Whether the peer may ask for a piece that we don't have: only one that we offered and still pass on. One that is
    /// being sent may be asked for again.
    pub(super) fn may_ask_for_relay(&self, id: SourceId, block: Block) -> bool {
        let offered = |s: &Source| s.up.offered.contains_key(&block.piece().get());
        self.relays.has(block.piece())
            && (self.uploads.is_serving(id, block) || self.sources.get(&id).is_some_and(offered))
    }

    /// How the block is served.
    pub(super) fn serve_command(&self, source: SourceId, block: Block) -> Command {
        match self.relays.from(block.piece()) {
            Some(from) => Command::Relay {
                source,
                block,
                from,
            },
            None => Command::Serve { source, block },
        }
    }

    /// The piece comes from this giver: what was passed on of it from another one is void.
    pub(super) fn note_giver(&mut self, piece: PieceIndex, giver: Giver) {
        if self.relays.0.get(&piece.get()).is_some_and(|g| *g != giver) {
            self.abandon(piece);
        }
    }

    /// What was passed on of the piece is void. Each request for it gets one answer.
    pub(super) fn abandon(&mut self, piece: PieceIndex) {
        if self.relays.0.remove(&piece.get()).is_none() {
            return;
        }
        if self.pieces.state(piece) == PieceState::Wanted {
            self.picker.set_shelf(piece, crate::Shelf::None);
        }
        let mut void = self.uploads.abandon(piece);
        for (&id, s) in self.sources.iter_mut() {
            let queued = s.up.queue.iter().filter(|b| b.piece() == piece);
            void.extend(queued.map(|b| (id, *b)));
            s.up.queue.retain(|b| b.piece() != piece);
            self.uploads.note_queue(id, s);
        }
        for (source, block) in void {
            self.commands.push_back(Command::Abandon { source, block });
        }
    }
}

/// Taking.
impl Swarm {
    /// The peer will not send this block, or not the rest of it, that it passed on to us (extension message).
    pub fn handle_abandoned(&mut self, id: SourceId, block: Block, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.advance(now);
        s.last_heard = now;
        let Some(at) = s.asked.iter().position(|a| a.block == block) else {
            return;
        };
        if s.asked.remove(at).begun.is_some() {
            s.partial = 0;
        }
        s.abandoned += 1;
        s.note_busy(now);
        let has = s.has.has(block.piece());
        self.stats.abandoned += 1;
        self.unask(block, Giver::Peer(id));
        self.ready.insert(id);
        // What it has it need not abandon: it would be asked for that again and again.
        if has && !self.keeps_its_word(&self.sources[&id]) {
            self.demote(id, now);
        }
        self.wake_peers();
        self.http.due = true;
        self.settle(now);
    }

    /// Whether we take a piece from this peer that it may not have itself.
    pub(super) fn takes_relay(&self, s: &Source, piece: PieceIndex, now: Instant) -> bool {
        let ours = self.peer_meter.rate_at(now);
        let is_slow = |rate: f64| rate * SLOWER_MAX < ours;
        let may = s.info.relays && self.is_single(piece);
        may && self.keeps_its_word(s) && !s.meter.rate().is_some_and(is_slow)
    }

    /// Whether it delivers much more than it abandons.
    fn keeps_its_word(&self, s: &Source) -> bool {
        let length = u64::from(self.pieces.lengths().piece_size());
        let more = u64::from(s.abandoned.saturating_sub(ABANDONED_FREE));
        more * ABANDONED_EVERY * length <= s.delivered
    }

    /// Whether the piece is one block: bytes of several senders are never mixed in what is passed on.
    fn is_single(&self, piece: PieceIndex) -> bool {
        self.pieces.lengths().block_count(piece) == 1
    }
}
