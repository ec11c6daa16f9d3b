//! Whom to serve with what. No tit-for-tat: everybody who is interested may ask, and blocks go out in series, the
//! rarest first, to whom nobody else is sending just now.

use super::Swarm;
use crate::{Command, Refusal, SourceId, source::Source};
use dosvc_content::{Block, PieceIndex};
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// Blocks being sent at once, when receivers keep up and a block is out too soon to wait for it.
const SLOTS_SHORT: u32 = 3;
/// A block that takes longer than this has the uplink for itself: its receiver can pass it on the sooner, and the next
/// decision can wait until it is out.
const LONG_BLOCK: Duration = Duration::from_millis(10);
/// Blocks being sent at once when their receivers have several givers.
const SHARED_MAX: usize = 4;
/// An uplink that is used to this share is full.
const USED: f64 = 0.8;
/// Before the uplink's pace is known, a block no longer holds a slot after this.
const LONG_FIRST: Duration = Duration::from_millis(250);
/// Served blocks over which the pace is measured.
const PACE_OVER: usize = 8;
/// How often unchoke slots move when more want them than there are.
const ROTATION: Duration = Duration::from_secs(10);
/// Requests of one peer looked at for one choice.
const LOOK_MAX: usize = 32;

/// A block being sent.
#[derive(Debug)]
struct Active {
    to: SourceId,
    block: Block,
    since: Instant,
}

impl Active {
    fn is(&self, to: SourceId, block: Block) -> bool {
        self.to == to && self.block == block
    }
}

/// What we are sending.
#[derive(Debug)]
pub(super) struct Uploads {
    active: Vec<Active>,
    /// Sources with something queued.
    queued: BTreeSet<SourceId>,
    /// When the last blocks were served, the moment first when the uplink was idle before.
    recent: VecDeque<Instant>,
    /// The shortest mean time from one served block to the next: what the uplink can do. Forgets slowly.
    pace: Option<Duration>,
    /// The last block begun or served.
    last_event: Instant,
    /// For each piece, copies that we gave and whose receivers did not announce them yet.
    given: Vec<u16>,
    rotate_at: Instant,
}

impl Uploads {
    pub(super) fn new(piece_count: u32, now: Instant) -> Self {
        Self {
            active: Vec::new(),
            queued: BTreeSet::new(),
            recent: VecDeque::new(),
            pace: None,
            last_event: now,
            given: vec![0; piece_count as usize],
            rotate_at: now + ROTATION,
        }
    }

    fn begin(&mut self, id: SourceId, block: Block, now: Instant) {
        if self.active.is_empty() {
            self.recent.clear();
            self.recent.push_back(now);
        }
        self.active.push(Active {
            to: id,
            block,
            since: now,
        });
        self.last_event = now;
    }

    /// True when the block was being sent.
    fn end(&mut self, id: SourceId, block: Block, now: Instant) -> bool {
        let Some(at) = self.active.iter().position(|a| a.is(id, block)) else {
            return false;
        };
        self.active.swap_remove(at);
        self.recent.push_back(now);
        self.last_event = now;
        if self.recent.len() > PACE_OVER + 1 {
            self.recent.pop_front();
        }
        if let Some(mean) = self.mean() {
            let slower = |pace: Duration| pace + pace / 50;
            self.pace = Some(self.pace.map_or(mean, |pace| mean.min(slower(pace))));
        }
        true
    }

    /// Recent mean time from one served block to the next.
    fn mean(&self) -> Option<Duration> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        let served = u32::try_from(self.recent.len() - 1).expect("a few");
        (served > 0).then(|| last.saturating_duration_since(*first) / served)
    }

    /// Blocks being sent at once when receivers keep up.
    fn slots(&self) -> u32 {
        if self.pace.is_some_and(|pace| pace < LONG_BLOCK) {
            SLOTS_SHORT
        } else {
            1
        }
    }

    /// When one more block may begin. Blocks go out few at a time, so that the first receiver can pass its block on
    /// while the next one gets its own; more join in only while those that are being sent take longer than their share
    /// of the uplink explains, because their receivers are slow.
    fn next_at(&self, max: usize) -> Option<Instant> {
        let slots = self.slots();
        if self.active.len() < slots as usize {
            return Some(self.last_event);
        }
        if self.active.len() >= max {
            return None;
        }
        let pace = self.pace.map(|pace| pace * slots);
        let long = pace.map_or(LONG_FIRST, |share| share + share / 2);
        let mut ends: Vec<Instant> = self.active.iter().map(|a| a.since + long).collect();
        ends.sort_unstable();
        // Then fewer than `slots` of them are not long yet.
        Some(ends[ends.len() - slots as usize])
    }

    /// Whether the source has something queued changed.
    pub(super) fn note_queue(&mut self, id: SourceId, s: &Source) {
        if s.up.queue.is_empty() {
            self.queued.remove(&id);
        }
    }

    /// Blocks being sent.
    pub(super) fn serving(&self) -> usize {
        self.active.len()
    }

    pub(super) fn is_queued(&self, id: SourceId) -> bool {
        self.queued.contains(&id)
    }

    /// When a block that is queued may begin.
    pub(super) fn due_at(&self, max: usize) -> Option<Instant> {
        if self.queued.is_empty() {
            None
        } else {
            self.next_at(max)
        }
    }
}

impl Swarm {
    /// The peer wants something of us, or no longer.
    pub fn handle_interested(&mut self, id: SourceId, interested: bool, now: Instant) {
        let Some(s) = self.sources.get_mut(&id).filter(|s| s.is_peer()) else {
            return;
        };
        s.last_heard = now;
        s.up.interested = interested;
        if !interested {
            s.up.queue.clear();
            self.uploads.queued.remove(&id);
        }
        self.unchoke_next();
        self.settle(now);
    }

    /// The peer asks for a block.
    ///
    /// # Errors
    /// [`Refusal`] when it is not queued.
    pub fn handle_request(
        &mut self,
        id: SourceId,
        block: Block,
        now: Instant,
    ) -> Result<(), Refusal> {
        let max = self.config.limits.queued_requests;
        let s = self
            .sources
            .get_mut(&id)
            .filter(|s| s.is_peer())
            .ok_or(Refusal::UnknownSource)?;
        s.last_heard = now;
        if !s.up.unchoked {
            return Err(Refusal::Choked);
        }
        if !self.pieces.have().has(block.piece()) {
            return Err(Refusal::NotHeld);
        }
        if s.up.queue.contains(&block) || self.uploads.active.iter().any(|a| a.is(id, block)) {
            return Err(Refusal::Repeated);
        }
        if s.up.queue.len() >= max {
            return Err(Refusal::QueueFull { max });
        }
        s.up.queue.push_back(block);
        self.uploads.queued.insert(id);
        self.note_requested(id, block.piece());
        self.settle(now);
        Ok(())
    }

    /// The peer withdrew a request before its block began to be sent; one that has begun goes on and is not reported here.
    pub fn handle_cancelled(&mut self, id: SourceId, block: Block, now: Instant) {
        if let Some(s) = self.sources.get_mut(&id) {
            s.last_heard = now;
            s.up.queue.retain(|b| *b != block);
            self.uploads.note_queue(id, s);
        }
        // Told to be served but not begun: it will not be, and no `handle_served` follows.
        self.uploads.active.retain(|a| !a.is(id, block));
        self.settle(now);
    }

    /// The block has been sent.
    pub fn handle_served(&mut self, id: SourceId, block: Block, now: Instant) {
        if self.uploads.end(id, block, now) {
            self.stats.uploaded += u64::from(block.len());
            if let Some(s) = self.sources.get_mut(&id) {
                s.up.served += u64::from(block.len());
            }
        }
        self.settle(now);
    }

    /// Anything queued or being sent.
    pub(super) fn is_uploading(&self) -> bool {
        !self.uploads.active.is_empty() || !self.uploads.queued.is_empty()
    }

    pub(super) fn serve(&mut self, now: Instant) {
        let max = self.config.limits.serving;
        loop {
            let due = self.uploads.next_at(max).is_some_and(|at| at <= now);
            let room = self.uploads.active.len() < SHARED_MAX;
            if !due && !room {
                return;
            }
            let Some((spread, load, id, block)) = self.choose_serve() else {
                if due {
                    self.steer_spare();
                }
                return;
            };
            // What nobody else can give goes out at any rate that its receiver takes.
            if !due && spread > 0 && (load > 0 || !self.has_spare_uplink()) {
                return;
            }
            let s = self.sources.get_mut(&id).expect("chosen among the sources");
            s.up.queue.retain(|b| *b != block);
            self.uploads.note_queue(id, s);
            if let Some(last) = s.up.last_serve.replace(now) {
                let gap = now.saturating_duration_since(last);
                s.up.interval = Some(s.up.interval.map_or(gap, |usual| (usual * 3 + gap) / 4));
            }
            if s.up.given.insert(block.piece().get()) {
                self.uploads.given[block.piece().as_usize()] += 1;
            }
            self.uploads.begin(id, block, now);
            self.commands
                .push_back(Command::Serve { source: id, block });
            self.note_serving(id, block.piece(), now);
        }
    }

    /// The rarest block, counting what is on its way from us, to the peer that least is on its way to, then to the one
    /// that lacks most; peers that get nothing from us just now first. Also tells how far the block
    /// has spread and how much is on its way to the peer.
    fn choose_serve(&self) -> Option<(u32, usize, SourceId, Block)> {
        let mut best = None;
        for &id in &self.uploads.queued {
            let s = self.sources.get(&id)?;
            let active = self.uploads.active.iter().filter(|a| a.to == id).count();
            let load = self.load(id, s);
            for (at, &block) in s.up.queue.iter().enumerate().take(LOOK_MAX) {
                let spread = self.spread(s, block.piece());
                let key = (active, spread, load, s.has.count(), s.up.served, at, id);
                if best.as_ref().is_none_or(|(least, _)| key < *least) {
                    best = Some((key, block));
                }
            }
        }
        best.map(|(key, block)| (key.1, key.2, key.6, block))
    }

    /// Whether those we send to share their downlinks with so many others that ours is not used up: a peer that `n`
    /// send to takes one n-th of its rate from each.
    fn has_spare_uplink(&self) -> bool {
        let active = &self.uploads.active;
        let share = |a: &Active| {
            let s = self.sources.get(&a.to)?;
            Some(1.0 / self.load(a.to, s).max(1) as f64)
        };
        active.iter().filter_map(share).sum::<f64>() < USED
    }

    /// Pieces that are on their way to the peer, from us or from others.
    fn load(&self, id: SourceId, s: &Source) -> usize {
        let ours = self.uploads.active.iter().filter(|a| a.to == id);
        let unknown = ours.filter(|a| !s.fetching.contains_key(&a.block.piece().get()));
        s.fetching.len() + unknown.count()
    }

    /// Copies of the piece outside, those on their way from us included. The rest of a piece that the peer has begun
    /// to get counts as if nothing of it had been given.
    fn spread(&self, s: &Source, piece: PieceIndex) -> u32 {
        let own = u32::from(s.up.given.contains(&piece.get()));
        self.picker.holders(piece) + u32::from(self.uploads.given[piece.as_usize()]) - own
    }

    /// The peer has the piece, from us or from others.
    pub(super) fn note_peer_has(&mut self, id: SourceId, piece: PieceIndex) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        if s.up.given.remove(&piece.get()) {
            self.uploads.given[piece.as_usize()] -= 1;
        }
        s.up.window.remove(&piece.get());
        // Its Cancel may still be on the way.
        s.up.queue.retain(|b| b.piece() != piece);
        self.uploads.note_queue(id, s);
        if let Some(shown) = &mut s.up.shown {
            shown.insert(piece);
        }
        self.steering.note_spread(piece);
        self.refill(id);
    }

    /// The peer is gone: its slots and what was kept for it are free.
    pub(super) fn drop_uploads(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        for piece in std::mem::take(&mut s.up.given) {
            self.uploads.given[piece as usize] -= 1;
        }
        let window = std::mem::take(&mut s.up.window);
        s.up.interested = false;
        s.up.unchoked = false;
        s.up.queue.clear();
        self.uploads.queued.remove(&id);
        self.uploads.active.retain(|a| a.to != id);
        self.steering.steered.remove(&id);
        self.steering.give_back(window.into_keys());
        self.unchoke_next();
    }

    /// Gives free slots to those who wait and were served least.
    fn unchoke_next(&mut self) {
        let max = self.config.limits.unchoked;
        let mut unchoked = self.sources.values().filter(|s| s.up.unchoked).count();
        loop {
            let waiting = self
                .sources
                .iter()
                .filter(|(_, s)| s.up.interested && !s.up.unchoked);
            let Some(id) = waiting.min_by_key(|(_, s)| s.up.served).map(|(id, _)| *id) else {
                return;
            };
            if unchoked >= max {
                let mut idle = self
                    .sources
                    .iter()
                    .filter(|(_, s)| s.up.unchoked && !s.up.interested);
                let Some(idle) = idle.next().map(|(id, _)| *id) else {
                    return;
                };
                self.choke(idle);
                unchoked -= 1;
            }
            if let Some(s) = self.sources.get_mut(&id) {
                s.up.unchoked = true;
            }
            unchoked += 1;
            self.commands.push_back(Command::Unchoke { source: id });
        }
    }

    fn choke(&mut self, id: SourceId) {
        if let Some(s) = self.sources.get_mut(&id) {
            s.up.unchoked = false;
            s.up.queue.clear();
            self.uploads.queued.remove(&id);
            self.commands.push_back(Command::Choke { source: id });
        }
    }

    /// When more want slots than there are, those served most make room.
    pub(super) fn rotate(&mut self, now: Instant) {
        if now < self.uploads.rotate_at {
            return;
        }
        self.uploads.rotate_at = now + ROTATION;
        let waiting = self
            .sources
            .values()
            .filter(|s| s.up.interested && !s.up.unchoked)
            .count();
        let share = waiting.min(self.config.limits.unchoked.div_ceil(2));
        let mut holding: Vec<(u64, SourceId)> = self
            .sources
            .iter()
            .filter(|(_, s)| s.up.unchoked)
            .map(|(id, s)| (s.up.served, *id))
            .collect();
        holding.sort_unstable();
        for (_, id) in holding.into_iter().rev().take(share) {
            self.choke(id);
        }
        self.unchoke_next();
    }
}
