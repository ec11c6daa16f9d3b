//! Whom to serve with what. No tit-for-tat: everybody who is interested may ask, and blocks go out in series, the
//! rarest first, to whom nobody else is sending just now.

use super::{Swarm, offer::Answer};
use crate::{
    Command, Giving, Refusal, SourceId,
    slots::{Slot, Slots},
    sorted::SortedSet,
    source::{Source, WARM},
};
use dosvc_content::{Block, PieceIndex};
use smallvec::SmallVec;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Pieces being sent at once, when receivers keep up and one is out too soon to wait for it.
const SLOTS_SHORT: u32 = 3;
/// A piece that takes longer than this has the uplink for itself: its receiver can pass it on the sooner, and the next
/// decision can wait until it is out.
const LONG_PIECE: Duration = Duration::from_millis(10);
/// Pieces being sent at once when their receivers have several givers. More would only make each of them take longer,
/// and a piece can be passed on only when it is whole.
const SHARED_MAX: usize = 3;
/// A connection that has rested begins slowly anew: a piece takes this many round trips longer than its bytes explain, and
/// leaves most of the uplink to others meanwhile …
const RAMP_TRIPS: f64 = 4.0;
/// … and so much more than [`SHARED_MAX`] are sent at once, for each such trip that a piece's own time has room for …
const SHARED_TRIPS: f64 = 10.0;
/// … but no more than this.
const SHARED_FAR_MAX: usize = 16;
/// An uplink of which so much is used is used up.
const USED_UP: f64 = 0.9;
/// Before the uplink's pace is known, a block no longer holds a slot after this, and as long again as it took to begin
/// those that are being sent: a slow uplink that all share would give nobody anything to pass on.
const LONG_FIRST: Duration = Duration::from_millis(250);
/// Served blocks over which the pace is measured at least, …
const PACE_OVER: usize = 8;
/// … and time: what is served may stand in send buffers, which take several short blocks in no time.
const PACE_TIME: Duration = Duration::from_millis(50);
/// Served blocks over which it is measured at most.
const PACE_OVER_MAX: usize = 512;
/// A block may be passed on while the rest of it takes so many times as long to come as a piece takes to go out, or
/// nothing has gone out so far.
const ARRIVES_MAX: u32 = 6;
/// How often unchoke slots move when more want them than there are.
const ROTATION: Duration = Duration::from_secs(10);
/// Requests of one peer looked at for one choice.
const LOOK_MAX: usize = 32;

/// A block being sent.
#[derive(Debug)]
struct Active {
    to: SourceId,
    block: Block,
    /// When its piece began.
    since: Instant,
    /// The piece is not verified yet.
    relayed: bool,
}

impl Active {
    fn is(&self, to: SourceId, block: Block) -> bool {
        self.to == to && self.block == block
    }
}

/// What we are sending.
#[derive(Debug)]
pub(super) struct Uploads {
    active: SmallVec<[Active; 4]>,
    /// Sources with something queued.
    queued: SortedSet<SourceId>,
    slots: Slots,
    /// When the last blocks were served, the moment first when the uplink was idle before.
    recent: VecDeque<Instant>,
    /// The shortest mean time from one served block to the next: what the uplink can do. Forgets slowly.
    pace: Option<Duration>,
    /// How long that was measured, up to [`PACE_TIME`]. A mean over less says nothing against it.
    pace_time: Duration,
    /// Blocks of a piece.
    piece_blocks: u32,
    /// The last block begun or served.
    last_event: Instant,
    rotate_at: Instant,
}

impl Uploads {
    /// Uploads of content whose pieces have so many blocks.
    pub(super) fn new(piece_blocks: u32, now: Instant) -> Self {
        Self {
            active: SmallVec::new(),
            queued: SortedSet::default(),
            slots: Slots::default(),
            recent: VecDeque::new(),
            pace: None,
            pace_time: Duration::ZERO,
            piece_blocks,
            last_event: now,
            rotate_at: now + ROTATION,
        }
    }

    fn begin(&mut self, id: SourceId, block: Block, relayed: bool, now: Instant) {
        if self.active.is_empty() {
            self.recent.clear();
            self.recent.push_back(now);
        }
        let active = Active {
            to: id,
            block,
            since: now,
            relayed,
        };
        self.push(active, now);
    }

    fn push(&mut self, active: Active, now: Instant) {
        self.active.push(active);
        self.last_event = now;
    }

    /// When the block's piece began, if the block was being sent.
    fn end(&mut self, id: SourceId, block: Block, now: Instant) -> Option<Instant> {
        let at = self.active.iter().position(|a| a.is(id, block))?;
        let ended = self.active.swap_remove(at);
        self.recent.push_back(now);
        self.last_event = now;
        self.measure_pace();
        Some(ended.since)
    }

    fn measure_pace(&mut self) {
        let spans =
            |recent: &VecDeque<Instant>, from: usize| match (recent.get(from), recent.back()) {
                (Some(from), Some(to)) => to.saturating_duration_since(*from),
                _ => Duration::ZERO,
            };
        while self.recent.len() > PACE_OVER + 1 && spans(&self.recent, 1) >= PACE_TIME
            || self.recent.len() > PACE_OVER_MAX + 1
        {
            self.recent.pop_front();
        }
        let time = spans(&self.recent, 0);
        let Some(mean) = self.mean().filter(|_| time >= self.pace_time) else {
            return;
        };
        let slower = |pace: Duration| pace + pace / 50;
        let known = self.pace.filter(|_| self.pace_time == PACE_TIME);
        self.pace = Some(known.map_or(mean, |pace| mean.min(slower(pace))));
        self.pace_time = time.min(PACE_TIME);
    }

    /// Recent mean time from one served block to the next.
    fn mean(&self) -> Option<Duration> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        let served = u32::try_from(self.recent.len() - 1).expect("a few");
        (served > 0).then(|| last.saturating_duration_since(*first) / served)
    }

    /// The shortest mean time from one served piece to the next.
    fn piece_pace(&self) -> Option<Duration> {
        self.pace.map(|pace| pace * self.piece_blocks)
    }

    /// Pieces being sent at once when receivers keep up.
    fn slots(&self) -> u32 {
        if self.piece_pace().is_some_and(|pace| pace < LONG_PIECE) {
            SLOTS_SHORT
        } else {
            1
        }
    }

    /// Pieces being sent at once when their receivers have several givers, or are far: up to this round trip.
    fn shared_max(&self, trip: Duration) -> usize {
        let trips = self.piece_pace().map_or(0.0, |pace| {
            let pace = pace.max(Duration::from_micros(1));
            trip.as_secs_f64() / pace.as_secs_f64()
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and bounded"
        )]
        let more = (trips * SHARED_TRIPS).min(SHARED_FAR_MAX as f64) as usize;
        (SHARED_MAX + more).min(SHARED_FAR_MAX)
    }

    /// The part of the uplink that a piece takes which is sent alone to somebody so far away.
    fn used_by_one(&self, trip: Duration) -> f64 {
        self.piece_pace().map_or(1.0, |pace| {
            let pace = pace.max(Duration::from_micros(1)).as_secs_f64();
            pace / (pace + RAMP_TRIPS * trip.as_secs_f64())
        })
    }

    /// Whether a piece is known to go out in this time.
    pub(super) fn goes_out_within(&self, time: Duration) -> bool {
        self.piece_pace().is_some_and(|pace| pace < time)
    }

    /// The time of so many pieces, where that is known.
    pub(super) fn time_of(&self, pieces: u32) -> Duration {
        self.piece_pace().unwrap_or_default() * pieces
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
        let begun = || self.active.iter().map(|a| a.since);
        let so_far = || begun().max()?.checked_duration_since(begun().min()?);
        let pace = self.piece_pace().map(|pace| pace * slots);
        let long = pace.map_or_else(
            || LONG_FIRST + so_far().unwrap_or_default(),
            |share| share + share / 2,
        );
        // Then fewer than `slots` of them are not long yet.
        let mut last = [None; SLOTS_SHORT as usize];
        for active in &self.active {
            let mut since = Some(active.since);
            for other in &mut last[..slots as usize] {
                if since > *other {
                    std::mem::swap(other, &mut since);
                }
            }
        }
        last[slots as usize - 1].map(|since| since + long)
    }

    /// The piece is verified: what is being sent of it is like anything else.
    pub(super) fn note_verified(&mut self, piece: PieceIndex) {
        let of = self.active.iter_mut().filter(|a| a.block.piece() == piece);
        of.for_each(|a| a.relayed = false);
    }

    /// Forgets what is passed on of the piece: to whom which block.
    pub(super) fn abandon(&mut self, piece: PieceIndex) -> Vec<(SourceId, Block)> {
        let of = |a: &Active| a.relayed && a.block.piece() == piece;
        let sent = self.active.iter().filter(|a| of(a));
        let sent = sent.map(|a| (a.to, a.block)).collect();
        self.active.retain(|a| !of(a));
        sent
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

    /// Pieces that should be queued or offered, when answers take `lead`: as many as may begin until then. `shared`: one
    /// more than usual may be sent ([`Swarm::may_share`]).
    pub(super) fn room(&self, lead: Duration, shared: bool, now: Instant) -> usize {
        let slots = self.slots() as usize;
        let free = slots.saturating_sub(self.active.len());
        if !self.looks_ahead() {
            return free + usize::from(shared);
        }
        let meanwhile = self
            .piece_pace()
            .map_or(0, |pace| lead.as_micros() / pace.as_micros().max(1));
        let meanwhile = usize::try_from(meanwhile).unwrap_or(usize::MAX / 2);
        let ending = self.ends_at().is_none_or(|at| at <= now + lead);
        free + meanwhile + usize::from(ending && free == 0) + usize::from(shared)
    }

    /// The same, if blocks are out sooner than most answers come.
    pub(super) fn room_of_short(
        &self,
        lead: Duration,
        shared: bool,
        now: Instant,
    ) -> Option<usize> {
        (self.slots() > 1).then(|| self.room(lead, shared, now))
    }

    /// Whether a receiver is chosen before the last block is out. It costs that receiver: until the block begins, others
    /// take it for busy, and its downlink may idle. So it is done only where nothing else fills the pause: with blocks
    /// that are out sooner than an answer comes.
    fn looks_ahead(&self) -> bool {
        self.slots() > 1
    }

    /// Whether the block is being sent there.
    pub(super) fn is_serving(&self, to: SourceId, block: Block) -> bool {
        self.active.iter().any(|a| a.is(to, block))
    }

    /// Whether a block of the piece is being sent there.
    fn is_sending(&self, to: SourceId, piece: PieceIndex) -> bool {
        let is = |a: &Active| a.to == to && a.block.piece() == piece;
        self.piece_blocks > 1 && self.active.iter().any(is)
    }

    /// Pieces that wait to be sent to the peer, of which nothing is being sent.
    pub(super) fn waiting(&self, id: SourceId, s: &Source) -> usize {
        if self.piece_blocks == 1 {
            return s.up.queue.len();
        }
        // The blocks of a piece are asked for together.
        let mut last = None;
        let mut is_next = |piece| last.replace(piece) != Some(piece);
        let waits = |b: &&Block| is_next(b.piece()) && !self.is_sending(id, b.piece());
        s.up.queue.iter().filter(waits).count()
    }

    /// Whether what has so long to come may be passed on. What is out in no time is not worth it, and what comes much
    /// slower than it could go out would keep its receivers from taking anything else.
    pub(super) fn may_relay(&self, left: Duration) -> bool {
        self.piece_pace()
            .is_none_or(|pace| pace >= LONG_PIECE && left <= pace * ARRIVES_MAX)
    }

    /// When the first of the blocks that are being sent is out, by the usual pace, if the next one is chosen before.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let active = self.active.iter().filter(|_| self.looks_ahead());
        let first = active.map(|a| a.since).min()?;
        Some(first + self.piece_pace()? * self.slots())
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
        self.offers.note_more();
        if !interested {
            s.up.queue.clear();
            self.uploads.queued.remove(&id);
        }
        self.note_slot(id);
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
        // One that is being sent may be asked for again: our Choke made the peer forget that it is on its way.
        if s.up.queue.contains(&block) {
            return Err(Refusal::Repeated);
        }
        let relays = s.info.relays;
        let held = self.pieces.have().has(block.piece());
        if !held && !self.may_ask_for_relay(id, block) {
            if relays {
                // It may have been true when we offered it.
                let source = id;
                self.commands.push_back(Command::Abandon { source, block });
            }
            return Err(Refusal::NotHeld);
        }
        let s = self.sources.get_mut(&id).ok_or(Refusal::UnknownSource)?;
        if s.up.queue.len() >= max {
            return Err(Refusal::QueueFull { max });
        }
        s.up.queue.push_back(block);
        self.uploads.queued.insert(id);
        if !self.sources[&id].info.extended {
            self.note_coming(id, block.piece(), now);
        }
        self.note_answer(id, block.piece(), Answer::Taken, now);
        self.settle(now);
        Ok(())
    }

    /// The peer withdrew a request before its block began to be sent, or our Choke made it void; one that has begun goes on
    /// and is not reported here.
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
        if let Some(since) = self.uploads.end(id, block, now) {
            self.stats.uploaded += u64::from(block.len());
            if let Some(s) = self.sources.get_mut(&id) {
                s.up.served += u64::from(block.len());
                s.up.last = Some(block.piece());
                s.up.served_at = Some(now);
            }
            self.note_slot(id);
            self.go_on(id, block, since, now);
        }
        self.settle(now);
    }

    /// The rest of a piece follows what was sent of it, before anything else: only as a whole can it be passed on. Never
    /// back: who asks for the same again and again does not hold up others.
    fn go_on(&mut self, id: SourceId, sent: Block, since: Instant, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let follows = |b: &Block| b.piece() == sent.piece() && b.offset() > sent.offset();
        let Some(at) = s.up.queue.iter().position(follows) else {
            return;
        };
        let block = s.up.queue.remove(at).expect("just found");
        self.uploads.note_queue(id, s);
        let active = Active {
            to: id,
            block,
            since,
            relayed: false,
        };
        self.uploads.push(active, now);
        self.commands
            .push_back(Command::Serve { source: id, block });
    }

    /// When a piece that is queued may begin.
    pub(super) fn serve_due_at(&self) -> Option<Instant> {
        let queued = self.is_piece_queued();
        queued.then(|| self.uploads.next_at(self.config.limits.serving))?
    }

    /// Whether a piece is asked for of which nothing is being sent.
    pub(super) fn is_piece_queued(&self) -> bool {
        if self.uploads.piece_blocks == 1 {
            // What is being sent is queued no more.
            return !self.uploads.queued.is_empty();
        }
        let of = |id: &SourceId| Some(self.uploads.waiting(*id, self.sources.get(id)?));
        self.uploads.queued.iter().filter_map(of).any(|n| n > 0)
    }

    /// Pieces that are asked for, and nothing of them is being sent.
    pub(super) fn queued_pieces(&self) -> usize {
        let of = |id: &SourceId| Some(self.uploads.waiting(*id, self.sources.get(id)?));
        self.uploads.queued.iter().filter_map(of).sum()
    }

    /// Anything queued or being sent.
    pub(super) fn is_uploading(&self) -> bool {
        !self.uploads.active.is_empty() || !self.uploads.queued.is_empty()
    }

    pub(super) fn serve(&mut self, now: Instant) {
        let max = self.config.limits.serving;
        // What costs most comes last: a look at all that is queued.
        while !self.uploads.queued.is_empty() {
            let due = self.uploads.next_at(max).is_some_and(|at| at <= now);
            if !due && !self.has_spare_uplink() {
                return;
            }
            let Some((id, block)) = self.choose_serve() else {
                return;
            };
            let s = self.sources.get_mut(&id).expect("chosen among the sources");
            s.up.queue.retain(|b| *b != block);
            self.uploads.note_queue(id, s);
            let relayed = self.relays.has(block.piece());
            self.uploads.begin(id, block, relayed, now);
            self.commands.push_back(self.serve_command(id, block));
        }
    }

    /// The rarest block, counting what is on its way from us, to the peer that least is on its way to, then to the one
    /// that lacks most; peers that get nothing from us just now first.
    fn choose_serve(&self) -> Option<(SourceId, Block)> {
        let mut best = None;
        let steering = self.offers.is_steering();
        for &id in self.uploads.queued.iter() {
            let s = self.sources.get(&id)?;
            let active = self.uploads.active.iter().filter(|a| a.to == id).count();
            let load = self.load(id, s);
            for (at, &block) in s.up.queue.iter().enumerate().take(LOOK_MAX) {
                if steering && self.uploads.is_sending(id, block.piece()) {
                    continue;
                }
                let spread = self.spread(s, block.piece());
                let key = (active, spread, load, s.has.count(), s.up.served, at, id);
                if best.as_ref().is_none_or(|(least, _)| key < *least) {
                    best = Some((key, block));
                }
            }
        }
        best.map(|(key, block)| (key.6, block))
    }

    /// Whether one more piece than usual may be sent.
    pub(super) fn may_share(&self) -> bool {
        self.uploads.active.len() >= self.uploads.slots() as usize && self.has_spare_uplink()
    }

    /// Whether those we send to share their downlinks with so many others, or are so far, that our uplink is not used up: a
    /// peer that `n` send to takes one n-th of its rate from each. What we send it beside that ourselves takes nothing from
    /// us.
    fn has_spare_uplink(&self) -> bool {
        let active = &self.uploads.active;
        // A piece that takes longer has hardly begun slowly, and what a slow link answers late has waited in its queue.
        let begins = self.uploads.goes_out_within(WARM);
        let (mut used, mut longest) = (0.0, Duration::ZERO);
        for (at, a) in active.iter().enumerate() {
            if active[..at].iter().any(|before| before.to == a.to) {
                continue;
            }
            let Some(s) = self.sources.get(&a.to) else {
                continue;
            };
            let ours = active[at..].iter().filter(|b| b.to == a.to).count();
            let others = self.sent_by_others(a.to, s);
            let trip = if begins { s.up.trip() } else { Duration::ZERO };
            used += self.uploads.used_by_one(trip) * ours as f64 / (ours + others) as f64;
            if used >= USED_UP {
                return false;
            }
            longest = longest.max(trip);
        }
        active.len() < self.uploads.shared_max(longest)
    }

    /// Pieces that others send to the peer.
    fn sent_by_others(&self, id: SourceId, s: &Source) -> usize {
        let sent = |piece: u32| {
            let is = |block: &Block| block.piece().get() == piece;
            self.uploads
                .active
                .iter()
                .any(|a| a.to == id && is(&a.block))
                || s.up.queue.iter().any(is)
                || s.up.offered.contains_key(&piece)
                || s.up.last.is_some_and(|last| last.get() == piece)
        };
        s.fetching.keys().filter(|piece| !sent(**piece)).count()
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
        let own = u32::from(s.fetching.contains_key(&piece.get()));
        self.picker.copies(piece) - own
    }

    /// A peer without extensions asked for the piece: it is on its way.
    fn note_coming(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        if !s.has.has(piece) && s.fetching.insert(piece.get(), now).is_none() {
            self.picker.add_fetcher(piece);
        }
    }

    /// The peer has the piece, from us or from others.
    pub(super) fn note_peer_has(&mut self, id: SourceId, piece: PieceIndex) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        // Its Cancel may still be on the way.
        s.up.queue.retain(|b| b.piece() != piece);
        self.uploads.note_queue(id, s);
    }

    /// The peer is gone: its slots and what was kept for it are free.
    pub(super) fn drop_uploads(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.up.interested = false;
        s.up.unchoked = false;
        s.up.queue.clear();
        self.uploads.queued.remove(&id);
        self.uploads.active.retain(|a| a.to != id);
        self.note_slot(id);
        self.unchoke_next();
    }

    /// Whether a peer among these wants something of us.
    pub fn is_wanted_by(&self, giving: Giving) -> bool {
        self.sources
            .values()
            .any(|s| s.up.interested && giving.includes(s.info.kind))
    }

    /// After `config.giving` has changed: who is given nothing any more is choked, others get their chance. What is
    /// being sent goes out.
    pub(super) fn review_giving(&mut self) {
        let giving = self.config.giving;
        let out = |s: &&Source| s.up.unchoked && !giving.includes(s.info.kind);
        let out: Vec<SourceId> = self
            .sources
            .iter()
            .filter(|(_, s)| out(s))
            .map(|(id, _)| *id)
            .collect();
        for id in out {
            self.choke(id);
        }
        let all: Vec<SourceId> = self.sources.keys().copied().collect();
        for id in all {
            self.note_slot(id);
        }
        self.unchoke_next();
    }

    /// What the peer wants, has or was served has changed, or who is given to.
    fn note_slot(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let slot = Slot::of(&s.up, self.config.giving.includes(s.info.kind));
        let before = std::mem::replace(&mut s.up.slot, slot);
        self.uploads.slots.change(id, before, slot);
    }

    /// Checks that each peer's slot is what the peer's state says; for tests and the rig.
    pub(super) fn check_slots(&self) {
        let mut slots = Slots::default();
        for (&id, s) in self.sources.iter() {
            let slot = Slot::of(&s.up, self.config.giving.includes(s.info.kind));
            assert_eq!(s.up.slot, slot, "{id}: slot");
            slots.change(id, Slot::Apart, slot);
        }
        assert_eq!(slots, self.uploads.slots, "slots");
    }

    /// Gives free slots to those who wait and were served least.
    fn unchoke_next(&mut self) {
        let max = self.config.limits.unchoked;
        while let Some(id) = self.uploads.slots.next() {
            if self.uploads.slots.taken() >= max {
                let Some(idle) = self.uploads.slots.idle() else {
                    return;
                };
                self.choke(idle);
            }
            if let Some(s) = self.sources.get_mut(&id) {
                s.up.unchoked = true;
            }
            self.note_slot(id);
            self.offers.note_more();
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
        self.note_slot(id);
    }

    /// When more want slots than there are, those served most make room.
    pub(super) fn rotate(&mut self, now: Instant) {
        if now < self.uploads.rotate_at {
            return;
        }
        self.uploads.rotate_at = now + ROTATION;
        let waiting = self.uploads.slots.waiting();
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

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::PieceLengths;

    const MS: Duration = Duration::from_millis(1);

    /// Serves `count` blocks one after the other, each after `took`.
    fn serve(uploads: &mut Uploads, mut now: Instant, count: u32, took: Duration) -> Instant {
        let lengths = PieceLengths::new(64 << 20, 1 << 20).unwrap();
        for piece in lengths.pieces().take(count as usize) {
            let block = lengths.blocks(piece).next().unwrap();
            uploads.begin(SourceId(0), block, false, now);
            now += took;
            assert!(uploads.end(SourceId(0), block, now).is_some());
        }
        now
    }

    #[test]
    fn what_send_buffers_took_at_once_is_no_pace() {
        let now = Instant::now();
        let mut uploads = Uploads::new(1, now);
        let now = serve(&mut uploads, now, 8, Duration::ZERO);
        assert_eq!(
            uploads.pace,
            Some(Duration::ZERO),
            "nothing better is known"
        );
        let now = serve(&mut uploads, now, 20, MS * 4);
        let pace = uploads.pace.unwrap();
        assert!(pace > MS * 3 && pace <= MS * 4, "{pace:?}");
        // The same again, after a pause, says nothing against it.
        serve(&mut uploads, now + MS * 500, 8, Duration::ZERO);
        assert_eq!(uploads.pace, Some(pace));
    }

    /// A slow uplink that all sixteen shared from the start would have sent nobody a whole piece for two minutes.
    #[test]
    fn before_the_pace_is_known_each_piece_begins_later_after_the_one_before() {
        let start = Instant::now();
        let mut uploads = Uploads::new(1, start);
        let lengths = PieceLengths::new(64 << 20, 1 << 20).unwrap();
        let mut begun = Vec::new();
        for piece in lengths.pieces().take(6) {
            let now = uploads.next_at(16).unwrap();
            begun.push((now - start).as_millis());
            let block = lengths.blocks(piece).next().unwrap();
            uploads.begin(SourceId(piece.get()), block, false, now);
        }
        assert_eq!(begun, [0, 250, 750, 1750, 3750, 7750]);
    }

    #[test]
    fn the_farther_a_receiver_is_the_more_of_the_uplink_is_left_for_others() {
        let now = Instant::now();
        let mut uploads = Uploads::new(1, now);
        let most = |uploads: &Uploads, trip: u32| {
            let trip = MS * trip;
            (uploads.shared_max(trip), uploads.used_by_one(trip))
        };
        assert_eq!(
            most(&uploads, 100),
            (SHARED_MAX, 1.0),
            "nothing is known yet"
        );
        serve(&mut uploads, now, 30, MS * 40);
        assert_eq!(most(&uploads, 0), (SHARED_MAX, 1.0));
        assert!(most(&uploads, 1).1 > USED_UP);
        let (max, used) = most(&uploads, 20);
        assert_eq!(max, SHARED_MAX + 5);
        assert!((used - 1.0 / 3.0).abs() < 0.01, "{used}");
        assert_eq!(most(&uploads, 10_000).0, SHARED_FAR_MAX);
    }

    #[test]
    fn pieces_that_take_long_go_out_alone_however_many_blocks_they_have() {
        let now = Instant::now();
        for (blocks, slots) in [(1, SLOTS_SHORT), (2, SLOTS_SHORT), (4, 1)] {
            let mut uploads = Uploads::new(blocks, now);
            assert_eq!(uploads.slots(), 1, "nothing is known yet");
            serve(&mut uploads, now, 30, MS * 4);
            assert_eq!(uploads.slots(), slots, "{blocks} blocks of 4 ms");
        }
    }
}
