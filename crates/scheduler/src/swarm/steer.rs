//! A seed steers what is asked of it, so that every piece leaves it once before any leaves it twice.
//!
//! A peer can ask only for what it knows that we have. While several downloaders are connected, each extended one is
//! shown a few pieces that were shown to nobody else, and the next ones as soon as those go out. Nobody waits for proof
//! that a piece has spread. When nothing is left that nobody got, or our uplink would idle, everything is shown.

use super::Swarm;
use crate::{Command, SourceId, pieces::Pieces, rng::Rng};
use dosvc_content::{Bitfield, PieceIndex};
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// Pieces that a peer knows ahead of what is being sent to it.
const WINDOW: usize = 2;
/// A fast peer knows as many more as go out in this time.
const AHEAD: Duration = Duration::from_millis(100);
/// The longest window.
const WINDOW_MAX: usize = 64;
/// A piece that was shown and not asked for in this time is shown to others.
const UNWANTED: Duration = Duration::from_secs(3);
/// Pieces shown to one peer at a time when everything is shown, so that no burst of messages stands before a block.
const REVEAL_MAX: usize = 256;

/// What no neighbour got from us or has from elsewhere.
#[derive(Debug)]
pub(super) struct Steering {
    /// Pieces to show first, in this machine's own order; what is in `spread` is skipped.
    pool: VecDeque<u32>,
    /// Somebody has it, is being sent it, or asked for it without being steered.
    spread: Bitfield,
    /// The uplink idled with an empty pool: everything is being shown.
    reveal: bool,
    /// Peers that were shown a part: few or none at most times, while facts come from all.
    pub(super) steered: BTreeSet<SourceId>,
}

impl Steering {
    pub(super) fn new(pieces: &Pieces, rng: &mut Rng) -> Self {
        let mut pool: Vec<u32> = pieces.have().ones().map(PieceIndex::get).collect();
        rng.shuffle(&mut pool);
        Self {
            pool: pool.into(),
            spread: Bitfield::new(pieces.lengths().piece_count()),
            reveal: false,
            steered: BTreeSet::new(),
        }
    }

    pub(super) fn note_spread(&mut self, piece: PieceIndex) {
        self.spread.insert(piece);
    }

    pub(super) fn note_bitfield(&mut self, has: &Bitfield) {
        for piece in has.ones() {
            self.spread.insert(piece);
        }
    }

    pub(super) fn give_back(&mut self, window: impl Iterator<Item = u32>) {
        self.pool.extend(window);
    }

    fn prune(&mut self, pieces: &Pieces) {
        while let Some(&piece) = self.pool.front() {
            let piece = pieces.index(piece);
            if !self.spread.has(piece) && pieces.have().has(piece) {
                return;
            }
            self.pool.pop_front();
        }
    }

    /// The next piece that nobody got and that `has` lacks.
    fn next(&mut self, pieces: &Pieces, has: &Bitfield) -> Option<PieceIndex> {
        // What this peer has is spread already, so the front fits at once; `has` guards against a stale pool.
        self.prune(pieces);
        let piece = pieces.index(*self.pool.front()?);
        self.pool.pop_front();
        (!has.has(piece)).then_some(piece)
    }
}

impl Swarm {
    /// The first message to a peer: all that we have, or the part that it is to fetch first.
    pub(super) fn show_bitfield(&mut self, id: SourceId) {
        let partners = self.sources.values().filter(|s| s.is_partner()).count();
        let extended = self.sources.get(&id).is_some_and(|s| s.info.extended);
        self.steering.prune(&self.pieces);
        let mut pieces = self.pieces.have().clone();
        // The peer itself is one of the partners; a lone one gets everything.
        if extended && partners > 1 && !self.steering.pool.is_empty() {
            // What others were shown ahead is theirs until it goes out.
            let windows = self.sources.values().flat_map(|s| s.up.window.keys());
            for &hidden in self.steering.pool.iter().chain(windows) {
                let hidden = self.pieces.index(hidden);
                if !self.steering.spread.has(hidden) {
                    pieces.remove(hidden);
                }
            }
            let first: Vec<PieceIndex> = (0..WINDOW)
                .filter_map(|_| self.steering.next(&self.pieces, &Bitfield::new(0)))
                .collect();
            let Some(s) = self.sources.get_mut(&id) else {
                return;
            };
            for piece in first {
                pieces.insert(piece);
                s.up.window.insert(piece.get(), s.last_heard);
            }
            s.up.shown = Some(pieces.clone());
            self.steering.steered.insert(id);
        }
        self.commands
            .push_back(Command::ShowBitfield { source: id, pieces });
    }

    /// Shows a steered peer the next pieces, so that it never runs dry.
    pub(super) fn refill(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let Some(shown) = &mut s.up.shown else {
            return;
        };
        let pace =
            s.up.interval
                .map_or(0, |every| AHEAD.as_micros() / every.as_micros().max(1));
        let want = WINDOW + usize::try_from(pace).unwrap_or(WINDOW_MAX);
        while s.up.window.len() < want.min(WINDOW_MAX) {
            let Some(piece) = self.steering.next(&self.pieces, &s.has) else {
                return;
            };
            if shown.insert(piece) {
                self.commands
                    .push_back(Command::ShowHave { source: id, piece });
            }
            s.up.window.insert(piece.get(), s.last_heard);
        }
    }

    /// A peer asks for the piece.
    pub(super) fn note_requested(&mut self, id: SourceId, piece: PieceIndex) {
        let Some(s) = self.sources.get(&id) else {
            return;
        };
        if !s.up.window.contains_key(&piece.get()) {
            // It goes out without our help; nobody else need be pointed at it.
            self.steering.note_spread(piece);
        }
    }

    /// The piece begins to go out to the peer.
    pub(super) fn note_serving(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        self.steering.note_spread(piece);
        if let Some(s) = self.sources.get_mut(&id) {
            s.up.window.remove(&piece.get());
            // A window that was just acted on is not stale.
            s.up.window.values_mut().for_each(|at| *at = now);
        }
        self.refill(id);
    }

    /// Our uplink has nothing to send.
    pub(super) fn steer_spare(&mut self) {
        self.steering.prune(&self.pieces);
        if self.steering.pool.is_empty() {
            self.steering.reveal = true;
        }
        self.reveal_due();
    }

    /// Shows what is due to be shown, a portion to each peer.
    fn reveal_due(&mut self) {
        if self.steering.steered.is_empty() {
            return;
        }
        let mut partners = self.sources.values().filter(|s| s.is_partner());
        let lone = partners.nth(1).is_none();
        if !lone && !self.steering.reveal {
            return;
        }
        for id in self.steering.steered.clone() {
            self.reveal(id);
        }
    }

    fn reveal(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let Some(shown) = &mut s.up.shown else {
            return;
        };
        let hidden = |p: &PieceIndex| !shown.has(*p) && !s.has.has(*p);
        let next: Vec<PieceIndex> = self
            .pieces
            .have()
            .ones()
            .filter(hidden)
            .take(REVEAL_MAX)
            .collect();
        for &piece in &next {
            shown.insert(piece);
            self.commands
                .push_back(Command::ShowHave { source: id, piece });
        }
        if next.len() < REVEAL_MAX {
            s.up.shown = None;
            self.steering.steered.remove(&id);
        }
    }

    /// Nothing stays hidden behind a peer that does not act on it.
    pub(super) fn steer_tick(&mut self, now: Instant) {
        let mut back = Vec::new();
        let mut idle = BTreeSet::new();
        let steered = self.sources.iter_mut();
        for (id, s) in steered.filter(|(_, s)| s.up.shown.is_some()) {
            let queued = |p: u32| s.up.queue.iter().any(|b| b.piece().get() == p);
            let stale = |p: &u32, at: &Instant| {
                now.saturating_duration_since(*at) > UNWANTED && !queued(*p)
            };
            let old: Vec<u32> =
                s.up.window
                    .iter()
                    .filter(|(p, at)| stale(p, at))
                    .map(|(p, _)| *p)
                    .collect();
            if !old.is_empty() {
                idle.insert(*id);
            }
            for piece in old {
                s.up.window.remove(&piece);
                back.push(piece);
            }
        }
        if !back.is_empty() {
            self.steering.give_back(back.into_iter());
            // Those who did not act come last, or they would get the same pieces again.
            let mut ids: Vec<SourceId> = self.sources.keys().copied().collect();
            ids.sort_by_key(|id| idle.contains(id));
            for id in ids {
                self.refill(id);
            }
        }
        self.reveal_due();
    }
}
