//! Asking peers for blocks, and taking what arrives.

use super::Swarm;
use crate::{
    BlockUse, Command, SourceId,
    pieces::{Giver, PieceState},
    source::{Asked, Run, Source},
};
use dosvc_content::{BLOCK_LENGTH_MAX, Block, PieceIndex};
use std::time::{Duration, Instant};

/// How much longer than the round trip a pipeline lasts, so that late answers to Have and a busy machine don't drain it.
const MARGIN: Duration = Duration::from_millis(100);
/// A source that needs longer than this for one block holds only one.
const SLOW_BLOCK: Duration = Duration::from_secs(2);
/// Blocks in flight from the first moment.
const DEPTH_MIN: usize = 2;
/// Open blocks looked at for one request; more pieces are hardly ever open at once.
const OPEN_MAX: usize = 64;
/// Withdrawn requests remembered of one source.
const WITHDRAWN_MAX: usize = 64;

impl Swarm {
    pub(super) fn fill_ready(&mut self, now: Instant) {
        while let Some(id) = self.ready.pop_first() {
            self.fill(id, now);
        }
    }

    /// How many blocks may be in flight from this peer.
    fn depth(&self, s: &Source) -> usize {
        let length = self.pieces.lengths().piece_size().min(BLOCK_LENGTH_MAX);
        let Some(rate) = s.meter.rate() else {
            return DEPTH_MIN;
        };
        if f64::from(length) / rate > SLOW_BLOCK.as_secs_f64() {
            return 1;
        }
        let wait = s.round_trip.unwrap_or_default() + MARGIN;
        #[expect(clippy::cast_possible_truncation, reason = "clamped below")]
        let target = (rate * wait.as_secs_f64() / f64::from(length)).ceil() as usize + 1;
        target
            .min(s.ramp)
            .clamp(DEPTH_MIN, self.config.limits.requests_in_flight)
    }

    fn fill(&mut self, id: SourceId, now: Instant) {
        loop {
            let Some(s) = self.sources.get(&id) else {
                return;
            };
            if !s.is_peer() {
                return;
            }
            if s.asked.len() >= self.depth(s) {
                self.hungry.remove(&id);
                return;
            }
            if self.paused || !s.is_usable(now) {
                self.hungry.insert(id);
                return;
            }
            let idle = s.asked.is_empty();
            if self.waits_for_offers(s, now) {
                // Nobody offers what is on its way; in the end it is all that we wait for.
                let ending = self.pieces.missing().is_empty();
                if !(idle && ending && self.steal(id, now)) {
                    self.hungry.insert(id);
                }
                return;
            }
            if let Some(block) = self.next_block(id) {
                self.request(id, block, now);
            } else if !(idle && self.steal(id, now)) {
                self.hungry.insert(id);
                return;
            }
        }
    }

    /// The next block to ask this peer for: of a piece already begun, else of the rarest missing one.
    fn next_block(&mut self, id: SourceId) -> Option<Block> {
        let s = self.sources.get_mut(&id)?;
        let begun = self.pieces.open().take(OPEN_MAX);
        let open = begun
            .filter(|p| s.has.has(*p) && self.pieces.may_ask(*p, id))
            .find_map(|p| self.pieces.open_block(p));
        if open.is_some() {
            return open;
        }
        let piece = self.picker.pick(&s.has, &mut s.shortlist)?;
        self.want(piece, id);
        self.pieces.open_block(piece)
    }

    /// Missing to wanted.
    pub(super) fn want(&mut self, piece: PieceIndex, id: SourceId) {
        self.pieces.want(piece, id);
        self.picker.set_shelf(piece, crate::Shelf::None);
    }

    pub(super) fn request(&mut self, id: SourceId, block: Block, now: Instant) {
        self.note_giver(block.piece(), Giver::Peer(id));
        self.pieces.ask(block, Giver::Peer(id));
        let s = self.sources.get_mut(&id).expect("asked of a known source");
        s.advance(now);
        s.withdrawn.retain(|b| *b != block);
        s.asked.push(Asked {
            block,
            at: now,
            begun: None,
        });
        s.note_busy(now);
        self.offers.note_moved(now);
        self.stats.requests += 1;
        self.commands
            .push_back(Command::Request { source: id, block });
    }

    /// Withdraws one request; the block may be asked of others.
    pub(super) fn withdraw(&mut self, giver: Giver, block: Block, now: Instant) {
        if let Giver::Peer(id) = giver
            && let Some(s) = self.sources.get_mut(&id)
            && s.asked.iter().any(|a| a.block == block)
        {
            s.advance(now);
            s.asked.retain(|a| a.block != block);
            s.note_busy(now);
            if s.withdrawn.len() == WITHDRAWN_MAX {
                s.withdrawn.pop_front();
            }
            s.withdrawn.push_back(block);
            self.commands
                .push_back(Command::Cancel { source: id, block });
            self.ready.insert(id);
        }
        self.unask(block, giver);
    }

    /// Forgets that `giver` was asked.
    pub(super) fn unask(&mut self, block: Block, giver: Giver) {
        if self.pieces.unask(block, giver) {
            self.note_missing(block.piece());
        }
    }

    /// Everything asked of the source is void. `cancel`: tell it so.
    pub(super) fn give_up_all(&mut self, id: SourceId, cancel: bool, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.advance(now);
        let asked = std::mem::take(&mut s.asked);
        let runs = std::mem::take(&mut s.runs);
        s.note_busy(now);
        for Asked { block, .. } in asked {
            self.unask(block, Giver::Peer(id));
            if cancel {
                self.commands
                    .push_back(Command::Cancel { source: id, block });
            }
        }
        for run in runs {
            self.release_run(id, run);
            if cancel {
                let fetch = run.fetch;
                self.commands
                    .push_back(Command::CancelFetch { source: id, fetch });
            }
        }
        self.wake_peers();
        self.http.due = true;
    }

    /// The pieces of a run that did not arrive go back.
    pub(super) fn release_run(&mut self, id: SourceId, run: Run) {
        if run.stream {
            return;
        }
        for piece in run.next..run.end {
            self.release_piece(id, run, piece);
        }
    }

    /// One piece of a run goes back.
    pub(super) fn release_piece(&mut self, id: SourceId, run: Run, piece: u32) {
        let giver = Giver::Http(id, run.fetch);
        let piece = self.pieces.index(piece);
        for block in self.pieces.lengths().blocks(piece) {
            self.unask(block, giver);
        }
    }

    pub(super) fn take_block(&mut self, id: SourceId, block: Block, now: Instant) -> BlockUse {
        let Some(s) = self.sources.get_mut(&id) else {
            return BlockUse::Duplicate;
        };
        s.advance(now);
        let fresh = u64::from(block.len()).saturating_sub(s.partial);
        s.partial = s.partial.saturating_sub(u64::from(block.len()));
        let fresh = u32::try_from(fresh).expect("at most a block");
        s.meter.add(fresh);
        self.offers.note_moved(now);
        s.note_progress(now);
        s.ramp = (s.ramp * 2).min(self.config.limits.requests_in_flight);
        let (giver, expected) = Self::giver_of(s, id, block, now);
        s.note_busy(now);
        self.note_rate(id, fresh, now);
        self.ready.insert(id);
        if !self.hungry.is_empty() && self.is_starving() {
            // Whoever is idle may have what waits at busy ones.
            self.wake_peers();
        }
        if !expected {
            return BlockUse::Duplicate;
        }
        let piece = block.piece();
        if self.pieces.state(piece) == PieceState::Missing
            && self.pieces.block_number(block).is_some()
        {
            self.want(piece, id);
        }
        let answer = if let Some(others) = self.pieces.arrive(block, giver) {
            self.note_giver(piece, giver);
            for other in others {
                self.lose(other, block, now);
            }
            let s = self.sources.get_mut(&id).expect("looked up above");
            s.delivered += u64::from(block.len());
            self.stats
                .downloaded
                .add(s.info.kind, u64::from(block.len()));
            BlockUse::Wanted
        } else {
            self.unask(block, giver);
            BlockUse::Duplicate
        };
        self.advance_run(id, block, now);
        answer
    }

    /// Takes the block off what is asked of the source: in whose name it comes, and whether it was to come.
    fn giver_of(s: &mut Source, id: SourceId, block: Block, now: Instant) -> (Giver, bool) {
        if s.is_peer() {
            let asked = s.asked.iter().position(|a| a.block == block);
            let withdrawn = s.withdrawn.iter().position(|b| *b == block);
            if let Some(at) = asked {
                let asked = s.asked.remove(at);
                s.round_trip
                    .get_or_insert_with(|| now.saturating_duration_since(asked.at));
            }
            if let Some(at) = withdrawn {
                s.withdrawn.remove(at);
            }
            return (Giver::Peer(id), asked.is_some() || withdrawn.is_some());
        }
        let piece = block.piece().get();
        let run = s.runs.iter().find(|r| (r.next..r.end).contains(&piece));
        // What an ended fetch still delivers is as good as any other.
        let fetch = run
            .or_else(|| s.runs.first())
            .map_or(crate::FetchId(u64::MAX), |r| r.fetch);
        (Giver::Http(id, fetch), true)
    }

    /// Another source was faster with this block.
    fn lose(&mut self, giver: Giver, block: Block, now: Instant) {
        match giver {
            Giver::Peer(_) => self.withdraw(giver, block, now),
            // A run is not broken for one block; the duplicate is thrown away when it comes.
            Giver::Http(..) => self.unask(block, giver),
        }
    }
}
