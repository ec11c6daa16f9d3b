//! An idle source takes over what waits at others: nobody leaves a needy neighbour idle.

use super::Swarm;
use crate::{
    SourceId,
    pieces::Giver,
    rng::{mix, rendezvous},
    source::{Asked, Source},
};
use dosvc_content::{Block, PieceIndex};
use std::time::{Duration, Instant};

/// A second copy of a block is asked for only when it is expected to save more than this.
const DOUBLE_MARGIN: Duration = Duration::from_millis(100);

/// A block of which nothing came for this long stands still: it takes no part of our downlink.
const STANDS_STILL: Duration = Duration::from_millis(150);

/// Before a block has come for this long, or an eighth of it is here, its rate is not known.
const RATE_AFTER: Duration = Duration::from_millis(100);

/// While nothing arrives, a block that waited this long elsewhere is tried with anybody who is idle.
const PATIENCE: Duration = Duration::from_millis(400);

/// What was asked first of a source is about to come for this long, and stays there. Its Cancel would cross the first
/// byte, and both copies come at once, each half as fast.
const ABOUT_TO_COME: Duration = Duration::from_millis(50);

/// A block that was taken from a source may come back to it when it waited this long elsewhere.
const COME_BACK: Duration = Duration::from_secs(2);

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
                let arriving = asked.begun.is_some() || (at == 0 && s.partial > 0);
                if arriving {
                    self.double(t, s, id, asked, now)
                } else {
                    self.loot(
                        t,
                        s,
                        Giver::Peer(id),
                        asked.block,
                        at + 1,
                        now.saturating_duration_since(asked.at),
                    )
                }
            });
            let tail = self.run_tail(t, s, id);
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

    /// Nothing arrives just now.
    pub(super) fn is_starving(&self) -> bool {
        self.sources
            .values()
            .all(|s| s.runs.is_empty() && s.asked.iter().all(|a| a.begun.is_none()))
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

    /// The block comes although it was withdrawn: the Cancel crossed its first byte. Whoever has it now need not send
    /// it any more, unless it has begun there too.
    pub(super) fn take_back(&mut self, id: SourceId, block: Block, now: Instant) {
        let &[other] = self.pieces.givers(block) else {
            return;
        };
        let begun = |s: &Source| {
            s.asked
                .iter()
                .any(|a| a.block == block && a.begun.is_some())
        };
        let peer = self.sources.get(&other.source()).filter(|s| s.is_peer());
        if self.is_bound(block.piece()) || peer.is_none_or(begun) {
            return;
        }
        self.withdraw(other, block, now);
        if self.pieces.missing().has(block.piece()) {
            self.want(block.piece(), id);
        }
        let s = self.sources.get_mut(&id).expect("it is sending");
        s.withdrawn.retain(|b| *b != block);
        s.asked.push(Asked {
            block,
            at: now,
            begun: Some(now),
        });
        s.partial = 0;
        s.note_busy(now);
        self.pieces.ask(block, Giver::Peer(id));
    }

    /// Whether the block may go from one source to the other at all.
    fn may_move(&self, t: &Source, block: Block) -> bool {
        let piece = block.piece();
        t.has.has(piece) && self.pieces.givers(block).len() == 1 && !self.is_bound(piece)
    }

    /// A block that waits at `s` behind others (`ahead` blocks with its own), for `waited` so far. When it waited long
    /// while nothing arrived at all, measured rates, which contain waiting, are no reason to leave it there.
    fn loot(
        &self,
        t: &Source,
        s: &Source,
        from: Giver,
        block: Block,
        ahead: usize,
        waited: Duration,
    ) -> Option<Loot> {
        // What was taken from a source does not soon come back to it, or two of them could play ball with it.
        let comes_back = t.withdrawn.contains(&block) && waited < COME_BACK;
        let about_to_come = ahead == 1 && waited < ABOUT_TO_COME;
        if comes_back || about_to_come || !self.may_move(t, block) {
            return None;
        }
        let starving = waited > PATIENCE && self.is_starving();
        let loot = |gain| Loot {
            block,
            from,
            double: false,
            gain,
            copies: self.picker.copies(block.piece()),
        };
        let mine = t.expected(1, block.len());
        let theirs = s.expected(ahead, block.len());
        let (Some(mine), Some(theirs)) = (mine, theirs) else {
            // One of them was never measured.
            return self
                .prefers(t, s, block.piece())
                .then(|| loot(Duration::ZERO));
        };
        if theirs > mine * 2 {
            return Some(loot(theirs - mine));
        }
        (starving && mine <= theirs * 3).then(|| loot(Duration::ZERO))
    }

    /// A block that is arriving from `s` so slowly that a second copy would be here well before.
    fn double(
        &self,
        t: &Source,
        s: &Source,
        id: SourceId,
        asked: &Asked,
        now: Instant,
    ) -> Option<Loot> {
        let block = asked.block;
        if !self.may_move(t, block) {
            return None;
        }
        // It would come beside the others, and at their cost.
        let mine = t.expected(1, block.len())? + self.others_take(block, now) * 2;
        let left = time_left(s, asked, now);
        (left > mine * 2 + DOUBLE_MARGIN).then(|| Loot {
            block,
            from: Giver::Peer(id),
            double: true,
            gain: left - mine,
            copies: self.picker.copies(block.piece()),
        })
    }

    /// How long the rest of the blocks that are arriving or about to will take, but for this one, by our rate.
    fn others_take(&self, but: Block, now: Instant) -> Duration {
        let lately = |at: Instant| now.saturating_duration_since(at) < STANDS_STILL;
        let rest = |s: &Source| {
            let moves = s.last_progress.is_some_and(lately);
            let comes = |a: &&Asked| match a.begun {
                Some(_) => moves,
                None => lately(a.at),
            };
            let others = s.asked.iter().filter(comes).filter(|a| a.block != but);
            let bytes: u64 = others.map(|a| u64::from(a.block.len())).sum();
            bytes.saturating_sub(s.partial)
        };
        let bytes: u64 = self.sources.values().map(rest).sum();
        let seconds = bytes as f64 / self.peer_meter.rate_at(now).max(1.0);
        Duration::from_secs_f64(seconds.min(1e6))
    }

    /// The last piece of an HTTP run, when the run will take long to get there.
    fn run_tail(&self, t: &Source, s: &Source, id: SourceId) -> Option<Loot> {
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
            ahead,
            Duration::ZERO,
        )
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

/// How long an arriving block will still take, by the rate at which it came so far. One that has stopped coming takes
/// at least as long again: TCP waits twice as long after each packet that was lost again.
pub(super) fn time_left(s: &Source, asked: &Asked, now: Instant) -> Duration {
    let since = asked.begun.or(s.last_progress).unwrap_or(asked.at);
    let passed = now.saturating_duration_since(since);
    let length = u64::from(asked.block.len());
    let here = s.partial.clamp(1, length);
    let by_rate = if passed < RATE_AFTER && here * 8 < length {
        Duration::ZERO
    } else {
        passed.mul_f64((length - here) as f64 / here as f64)
    };
    let moved = s.last_progress.map_or(since, |at| at.max(since));
    by_rate.max(now.saturating_duration_since(moved))
}
