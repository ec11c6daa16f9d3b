//! The state of every piece, in one place: exactly one of missing, wanted, checking, have.

use crate::{FetchId, SourceId, sorted::SortedSet};
use dosvc_content::{Bitfield, Block, PieceIndex, PieceLengths};
use std::collections::{BTreeMap, BTreeSet};

/// The state of one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PieceState {
    /// Nothing of it is here and nothing is asked for.
    Missing,
    /// Some of it is here or asked for.
    Wanted,
    /// All of it is here; whether it is right is not known yet.
    Checking,
    /// Here and verified.
    Have,
}

/// Who is to deliver a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Giver {
    /// A peer, by a request.
    Peer(SourceId),
    /// An HTTP source, by a fetch.
    Http(SourceId, FetchId),
}

impl Giver {
    pub(crate) fn source(self) -> SourceId {
        match self {
            Self::Peer(id) | Self::Http(id, _) => id,
        }
    }
}

/// One block of a wanted piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockState {
    pub(crate) arrived: bool,
    /// Who was asked; a second one only in a race.
    pub(crate) givers: Vec<Giver>,
}

/// A piece of which something is here or asked for.
#[derive(Clone, Debug)]
pub(crate) struct WantedPiece {
    pub(crate) blocks: Vec<BlockState>,
    /// Whose bytes are in it.
    pub(crate) from: BTreeSet<SourceId>,
    /// It failed once with bytes of several sources: all of it from this one source, so that the next failure has
    /// a name.
    pub(crate) only: Option<SourceId>,
}

/// The pieces of the content.
#[derive(Debug)]
pub(crate) struct Pieces {
    lengths: PieceLengths,
    state: Vec<PieceState>,
    have: Bitfield,
    missing: Bitfield,
    wanted: BTreeMap<u32, WantedPiece>,
    /// Sources of pieces that are being checked.
    checking: BTreeMap<u32, BTreeSet<SourceId>>,
    /// Wanted pieces with a block that nobody is asked for.
    open: SortedSet<u32>,
    /// Pieces that failed with bytes of several sources.
    suspect: BTreeSet<u32>,
}

impl Pieces {
    pub(crate) fn new(lengths: PieceLengths, have: Bitfield) -> Self {
        assert_eq!(
            lengths.piece_count(),
            have.piece_count(),
            "bitfield of this content"
        );
        let mut missing = Bitfield::full(lengths.piece_count());
        let mut state = vec![PieceState::Missing; lengths.piece_count() as usize];
        for piece in have.ones() {
            missing.remove(piece);
            state[piece.as_usize()] = PieceState::Have;
        }
        Self {
            lengths,
            state,
            have,
            missing,
            wanted: BTreeMap::new(),
            checking: BTreeMap::new(),
            open: SortedSet::default(),
            suspect: BTreeSet::new(),
        }
    }

    pub(crate) fn lengths(&self) -> &PieceLengths {
        &self.lengths
    }

    pub(crate) fn state(&self, piece: PieceIndex) -> PieceState {
        self.state[piece.as_usize()]
    }

    pub(crate) fn have(&self) -> &Bitfield {
        &self.have
    }

    pub(crate) fn missing(&self) -> &Bitfield {
        &self.missing
    }

    /// Pieces that somebody delivered and that are being checked.
    pub(crate) fn delivered_count(&self) -> usize {
        let delivered = |from: &&BTreeSet<SourceId>| !from.is_empty();
        self.checking.values().filter(delivered).count()
    }

    pub(crate) fn wanted(&self) -> &BTreeMap<u32, WantedPiece> {
        &self.wanted
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.open.iter().map(|&p| self.index(p))
    }

    /// The index of a number that came from one.
    pub(crate) fn index(&self, piece: u32) -> PieceIndex {
        self.lengths.piece(piece).expect("a piece of this content")
    }

    /// The number of a block inside its piece, if it is one that we would ask for.
    pub(crate) fn block_number(&self, block: Block) -> Option<usize> {
        let number = block.offset() / dosvc_content::BLOCK_LENGTH_MAX;
        let ours = self.lengths.blocks(block.piece()).nth(number as usize);
        (ours == Some(block)).then_some(number as usize)
    }

    pub(crate) fn block(&self, piece: PieceIndex, number: usize) -> Block {
        self.lengths
            .blocks(piece)
            .nth(number)
            .expect("a block of this piece")
    }

    fn set(&mut self, piece: PieceIndex, from: PieceState, to: PieceState) {
        let state = &mut self.state[piece.as_usize()];
        assert_eq!(*state, from, "piece {piece} on its way to {to:?}");
        *state = to;
        match from {
            PieceState::Missing => _ = self.missing.remove(piece),
            PieceState::Have => _ = self.have.remove(piece),
            PieceState::Wanted => _ = self.open.remove(&piece.get()),
            PieceState::Checking => {}
        }
        match to {
            PieceState::Missing => _ = self.missing.insert(piece),
            PieceState::Have => _ = self.have.insert(piece),
            PieceState::Wanted => _ = self.open.insert(piece.get()),
            PieceState::Checking => {}
        }
    }

    /// Missing to wanted; every block is still open. A suspect piece is bound to `source`.
    pub(crate) fn want(&mut self, piece: PieceIndex, source: SourceId) {
        self.set(piece, PieceState::Missing, PieceState::Wanted);
        let blocks = vec![BlockState::default(); self.lengths.block_count(piece) as usize];
        let only = self.suspect.contains(&piece.get()).then_some(source);
        let entry = WantedPiece {
            blocks,
            from: BTreeSet::new(),
            only,
        };
        self.wanted.insert(piece.get(), entry);
    }

    /// Whether `source` may be asked for blocks of this wanted piece.
    pub(crate) fn may_ask(&self, piece: PieceIndex, source: SourceId) -> bool {
        let entry = self.wanted.get(&piece.get());
        entry.is_some_and(|w| w.only.is_none_or(|only| only == source))
    }

    /// The first block of a wanted piece that is neither here nor asked for.
    pub(crate) fn open_block(&self, piece: PieceIndex) -> Option<Block> {
        let blocks = &self.wanted.get(&piece.get())?.blocks;
        let number = blocks
            .iter()
            .position(|b| !b.arrived && b.givers.is_empty())?;
        Some(self.block(piece, number))
    }

    fn note_open(&mut self, piece: PieceIndex) {
        let Some(entry) = self.wanted.get(&piece.get()) else {
            return;
        };
        if entry
            .blocks
            .iter()
            .any(|b| !b.arrived && b.givers.is_empty())
        {
            self.open.insert(piece.get());
        } else {
            self.open.remove(&piece.get());
        }
    }

    /// Notes that `giver` was asked for the block.
    pub(crate) fn ask(&mut self, block: Block, giver: Giver) {
        let number = self.block_number(block).expect("only our own blocks");
        let entry = self
            .wanted
            .get_mut(&block.piece().get())
            .expect("asked for wanted pieces only");
        let state = &mut entry.blocks[number];
        assert!(
            !state.arrived && !state.givers.contains(&giver),
            "{block:?} asked of {giver:?} without cause"
        );
        state.givers.push(giver);
        self.note_open(block.piece());
    }

    /// Who is asked for the block.
    pub(crate) fn givers(&self, block: Block) -> &[Giver] {
        self.block_number(block)
            .and_then(|n| {
                Some(
                    self.wanted.get(&block.piece().get())?.blocks[n]
                        .givers
                        .as_slice(),
                )
            })
            .unwrap_or_default()
    }

    /// Whether the block still has to come and has at most one giver.
    pub(crate) fn needs(&self, block: Block) -> bool {
        let entry = self.wanted.get(&block.piece().get());
        let state = entry
            .zip(self.block_number(block))
            .map(|(w, n)| &w.blocks[n]);
        state.is_some_and(|b| !b.arrived && b.givers.len() < 2)
    }

    /// Whether some of the piece still has to come.
    pub(crate) fn is_lacking(&self, piece: PieceIndex) -> bool {
        matches!(self.state(piece), PieceState::Missing | PieceState::Wanted)
    }

    /// Forgets that `giver` was asked. True when the piece fell back to missing, with nothing of it left.
    pub(crate) fn unask(&mut self, block: Block, giver: Giver) -> bool {
        let Some(number) = self.block_number(block) else {
            return false;
        };
        let piece = block.piece();
        let Some(entry) = self.wanted.get_mut(&piece.get()) else {
            return false;
        };
        entry.blocks[number].givers.retain(|g| *g != giver);
        if entry.only == Some(giver.source()) && entry.blocks.iter().all(|b| b.givers.is_empty()) {
            // The one source that was to deliver all of it will not: begin anew with another.
            entry.blocks.fill(BlockState::default());
        }
        if entry
            .blocks
            .iter()
            .all(|b| !b.arrived && b.givers.is_empty())
        {
            self.wanted.remove(&piece.get());
            self.set(piece, PieceState::Wanted, PieceState::Missing);
            return true;
        }
        self.note_open(piece);
        false
    }

    /// A block is here: who else was asked for it, or `None` when it is not needed.
    pub(crate) fn arrive(&mut self, block: Block, giver: Giver) -> Option<Vec<Giver>> {
        let number = self.block_number(block)?;
        let piece = block.piece();
        let entry = self.wanted.get_mut(&piece.get())?;
        let state = &mut entry.blocks[number];
        if state.arrived || entry.only.is_some_and(|only| only != giver.source()) {
            return None;
        }
        state.arrived = true;
        let mut others = std::mem::take(&mut state.givers);
        others.retain(|g| *g != giver);
        entry.from.insert(giver.source());
        if entry.blocks.iter().all(|b| b.arrived) {
            let entry = self.wanted.remove(&piece.get()).expect("just looked up");
            self.set(piece, PieceState::Wanted, PieceState::Checking);
            self.checking.insert(piece.get(), entry.from);
        } else {
            self.note_open(piece);
        }
        Some(others)
    }

    /// Missing to checking: it may be here from an earlier life, and nobody delivered it. False when it is not missing.
    pub(crate) fn found(&mut self, piece: PieceIndex) -> bool {
        let missing = self.state(piece) == PieceState::Missing;
        if missing {
            self.set(piece, PieceState::Missing, PieceState::Checking);
            self.checking.insert(piece.get(), BTreeSet::new());
        }
        missing
    }

    /// Checking to have. False when the piece was not being checked.
    pub(crate) fn verified(&mut self, piece: PieceIndex) -> bool {
        if self.state(piece) != PieceState::Checking {
            return false;
        }
        self.set(piece, PieceState::Checking, PieceState::Have);
        self.checking.remove(&piece.get());
        self.suspect.remove(&piece.get());
        true
    }

    /// Checking to missing: who delivered it, or `None` when the piece was not being checked.
    pub(crate) fn corrupt(&mut self, piece: PieceIndex) -> Option<BTreeSet<SourceId>> {
        if self.state(piece) != PieceState::Checking {
            return None;
        }
        self.set(piece, PieceState::Checking, PieceState::Missing);
        let from = self.checking.remove(&piece.get()).unwrap_or_default();
        if from.len() > 1 {
            self.suspect.insert(piece.get());
        }
        Some(from)
    }

    /// Have to missing. False when the piece was not there.
    pub(crate) fn lost(&mut self, piece: PieceIndex) -> bool {
        if self.state(piece) != PieceState::Have {
            return false;
        }
        self.set(piece, PieceState::Have, PieceState::Missing);
        true
    }

    /// Checks every invariant of this module; for tests and the rig.
    pub(crate) fn check(&self) {
        for piece in self.lengths.pieces() {
            let state = self.state(piece);
            let (have, missing) = (self.have.has(piece), self.missing.has(piece));
            let wanted = self.wanted.contains_key(&piece.get());
            let checking = self.checking.contains_key(&piece.get());
            let told = [have, missing, wanted, checking];
            let want = [
                state == PieceState::Have,
                state == PieceState::Missing,
                state == PieceState::Wanted,
                state == PieceState::Checking,
            ];
            assert_eq!(told, want, "piece {piece} is {state:?}");
            let open = self.open.contains(&piece.get());
            assert_eq!(
                open,
                self.open_block(piece).is_some(),
                "piece {piece}: open blocks"
            );
        }
    }
}
