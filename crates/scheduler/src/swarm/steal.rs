//! An idle source takes over what waits at others: nobody leaves a needy neighbour idle.

use super::Swarm;
use crate::{
    SourceId,
    pieces::Giver,
    rng::{mix, rendezvous},
    source::Source,
};
use dosvc_content::{Block, PieceIndex};
use std::time::{Duration, Instant};

/// A second copy of a block is asked for only when it is expected to save more than this.
const DOUBLE_MARGIN: Duration = Duration::from_millis(250);

/// What an idle source could take over.
struct Loot {
    block: Block,
    from: Giver,
    /// It has begun to arrive there: asked twice, the slower one is cancelled.
    double: bool,
    /// Expected gain.
    gain: Duration,
    copies: u32,
}

impl Swarm {
    /// Lets the idle peer `thief` take over the block where that gains most. False when there is none.
    pub(super) fn steal(&mut self, thief: SourceId, now: Instant) -> bool {
        let Some(t) = self.sources.get(&thief) else {
            return false;
        };
        let mut best: Option<Loot> = None;
        for (&id, s) in self
            .sources
            .iter()
            .filter(|(id, s)| **id != thief && s.is_busy())
        {
            let own = s.asked.iter().enumerate();
            let loot = own.filter_map(|(at, asked)| {
                let begun = asked.begun || (at == 0 && s.partial > 0);
                self.loot(t, s, Giver::Peer(id), asked.block, begun, at + 1, now)
            });
            let tail = self.run_tail(t, s, id, now);
            for loot in loot.chain(tail) {
                let better =
                    |b: &Loot| (loot.double, b.gain, loot.copies) < (b.double, loot.gain, b.copies);
                if best.as_ref().is_none_or(better) {
                    best = Some(loot);
                }
            }
        }
        let Some(loot) = best else {
            return false;
        };
        self.take_over(&loot, thief, now);
        self.request(thief, loot.block, now);
        true
    }

    /// Frees the block for another source; a double leaves it where it is as well.
    fn take_over(&mut self, loot: &Loot, thief: SourceId, now: Instant) {
        if loot.double {
            self.stats.doubled += 1;
            return;
        }
        self.stats.moved += 1;
        match loot.from {
            Giver::Peer(_) => self.withdraw(loot.from, loot.block, now),
            Giver::Http(id, fetch) => {
                let piece = loot.block.piece().get();
                let Some(s) = self.sources.get_mut(&id) else {
                    return;
                };
                // The run ends before the piece; the fetch is cut when it gets there.
                if let Some(run) = s.runs.iter_mut().find(|r| r.fetch == fetch) {
                    let old = *run;
                    run.end = piece;
                    for piece in piece..old.end {
                        self.release_piece(id, old, piece);
                    }
                }
            }
        }
        if self.pieces.missing().has(loot.block.piece()) {
            self.want(loot.block.piece(), thief);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the two sources and the request between them"
    )]
    fn loot(
        &self,
        t: &Source,
        s: &Source,
        from: Giver,
        block: Block,
        begun: bool,
        ahead: usize,
        now: Instant,
    ) -> Option<Loot> {
        let piece = block.piece();
        if !t.has.has(piece) || self.pieces.givers(block).len() != 1 || self.is_bound(piece) {
            return None;
        }
        let loot = |double, gain| Loot {
            block,
            from,
            double,
            gain,
            copies: self.picker.copies(piece),
        };
        let mine = t.expected(1, block.len());
        let theirs = s.expected(ahead, block.len());
        let (Some(mine), Some(theirs)) = (mine, theirs) else {
            // One of them was never measured: share the work by a rule that does not swing back and forth.
            return (!begun && self.prefers(t, s, piece)).then(|| loot(false, Duration::ZERO));
        };
        if begun {
            let left = theirs.saturating_sub(self.begun_for(s, now));
            let worth = left > mine * 2 + DOUBLE_MARGIN;
            return worth.then(|| loot(true, left - mine));
        }
        if theirs > mine * 2 {
            return Some(loot(false, theirs - mine));
        }
        let fair = mine <= theirs * 2 && self.prefers(t, s, piece);
        fair.then(|| loot(false, Duration::ZERO))
    }

    /// The last piece of an HTTP run, when the run will take long to get there.
    fn run_tail(&self, t: &Source, s: &Source, id: SourceId, now: Instant) -> Option<Loot> {
        let longest = s
            .runs
            .iter()
            .filter(|r| !r.stream && r.end - r.next > 1)
            .max_by_key(|r| r.end - r.next)?;
        let piece = self.pieces.index(longest.end - 1);
        let block = self.pieces.lengths().blocks(piece).next()?;
        let ahead = (longest.end - longest.next) as usize * s.runs.len();
        self.loot(
            t,
            s,
            Giver::Http(id, longest.fetch),
            block,
            false,
            ahead,
            now,
        )
    }

    /// How long the block that the source is sending has been arriving.
    fn begun_for(&self, s: &Source, now: Instant) -> Duration {
        let length = self.pieces.lengths().piece_size();
        let part = u32::try_from(s.partial).unwrap_or(u32::MAX).min(length);
        let silent = s
            .last_progress
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        s.expected(1, part)
            .unwrap_or_default()
            .saturating_sub(silent)
    }

    fn is_bound(&self, piece: PieceIndex) -> bool {
        self.pieces
            .wanted()
            .get(&piece.get())
            .is_some_and(|w| w.only.is_some())
    }

    /// Which of two holders serves us this piece: each waiting machine decides for itself, and among many machines
    /// and `n` holders each holder is chosen by one n-th.
    fn prefers(&self, t: &Source, s: &Source, piece: PieceIndex) -> bool {
        let weight = |key: u64| rendezvous(mix(key ^ self.self_key), piece.get());
        s.is_peer() && weight(t.key) > weight(s.key)
    }
}
