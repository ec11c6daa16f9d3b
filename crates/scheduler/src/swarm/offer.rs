//! Givers decide what goes to whom: while several downloaders are connected, they wait for offers instead of asking.
//!
//! A giver knows what each neighbour lacks and how much is on its way to it. It offers its rarest piece to whom the
//! least is coming, one piece ahead of what it sends, and the downloader takes the offer (by a request) unless the piece
//! is on its way already or more is coming to it than to its neighbours. So no two givers send the same piece to the
//! same machine, nobody's downlink is crowded while another's idles, and every piece leaves the seed once before any
//! leaves it twice.

use super::Swarm;
use crate::{Command, SourceId, source::Source, rng::mix};
use dosvc_content::PieceIndex;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A downloader to which nothing comes for this long asks by itself.
const QUIET_MAX: Duration = Duration::from_millis(400);
/// Receivers compared for one offer.
const LOOK_MAX: usize = 4;
/// An offer without an answer is forgotten after this.
const OFFER_MAX: Duration = Duration::from_secs(1);

/// What was offered, and how long answers take.
#[derive(Debug)]
pub(super) struct Offers {
    /// Whether the number of downloaders may have changed.
    pub(super) due: bool,
    steering: bool,
    /// Offers without an answer that still count on one, oldest first.
    pending: VecDeque<(Instant, SourceId, u32)>,
    /// The usual time from an offer to its answer.
    answer: Duration,
    /// When something was last asked for or came.
    pub(super) moved_at: Instant,
}

impl Offers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: false,
            steering: false,
            pending: VecDeque::new(),
            answer: Duration::from_millis(2),
            moved_at: now,
        }
    }

    fn patience(&self) -> Duration {
        self.answer * 2 + Duration::from_millis(2)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        Some(self.pending.front()?.0 + self.patience())
    }
}

impl Swarm {
    /// Tells downloaders to wait for offers while there are several.
    pub(super) fn update_steering(&mut self) {
        if !std::mem::take(&mut self.offers.due) {
            return;
        }
        let partners = self.sources.values().filter(|s| s.is_partner()).count();
        self.offers.steering = partners > 1;
        if !self.offers.steering {
            self.offers.pending.clear();
        }
        for (&source, s) in self.sources.iter_mut().filter(|(_, s)| s.is_partner()) {
            if s.up.steered != self.offers.steering {
                s.up.steered = self.offers.steering;
                let free = !s.up.steered;
                let pieces = Vec::new();
                self.commands.push_back(Command::Offer { source, pieces, free });
            }
        }
    }

    /// Keeps as much offered ahead as answers take time.
    pub(super) fn make_offers(&mut self, now: Instant) {
        if !self.offers.steering {
            return;
        }
        let patience = self.offers.patience();
        while self.offers.pending.front().is_some_and(|(at, ..)| *at + patience <= now) {
            self.offers.pending.pop_front();
        }
        let target = self.uploads.room(patience);
        let mut ahead = self.queued_blocks() + self.offers.pending.len();
        while ahead < target {
            let Some((id, piece)) = self.choose_offer(now) else {
                return;
            };
            ahead += 1;
            self.offer(id, piece, now);
        }
    }

    fn queued_blocks(&self) -> usize {
        let queue = |id: &SourceId| self.sources.get(id).map_or(0, |s| s.up.queue.len());
        self.uploads.queued().map(queue).sum()
    }

    fn choose_offer(&mut self, now: Instant) -> Option<(SourceId, PieceIndex)> {
        let open = |s: &Source| {
            s.up.steered && s.up.unchoked && s.up.interested && !s.has.is_full()
                && s.up.declined_until.is_none_or(|until| until <= now)
        };
        let salt = self.rng.next();
        let mut order: Vec<_> = self
            .sources
            .iter()
            .filter(|(_, s)| open(s))
            .map(|(&id, s)| (s.fetching.len(), s.has.count(), mix(salt ^ u64::from(id.0)), id))
            .collect();
        order.sort_unstable();
        let mut best: Option<((usize, u32, u32, u64), SourceId, PieceIndex)> = None;
        let mut found = 0;
        for (load, count, tie, id) in order {
            let s = &self.sources[&id];
            let lacks = |p: PieceIndex| !s.has.has(p) && !s.fetching.contains_key(&p.get());
            let Some(piece) = self.picker.rarest_held(lacks) else {
                continue;
            };
            let key = (load, self.picker.copies(piece), count, tie);
            if best.as_ref().is_none_or(|(least, ..)| key < *least) {
                best = Some((key, id, piece));
            }
            found += 1;
            if found == LOOK_MAX {
                break;
            }
        }
        best.map(|(_, id, piece)| (id, piece))
    }

    fn offer(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        let s = self.sources.get_mut(&id).expect("chosen among the sources");
        s.up.offered.insert(piece.get(), now);
        s.fetching.insert(piece.get(), now);
        self.picker.add_fetcher(piece);
        self.offers.pending.push_back((now, id, piece.get()));
        let pieces = vec![piece];
        let free = false;
        self.commands.push_back(Command::Offer { source: id, pieces, free });
    }

    /// The peer took an offer, or said that it does not.
    pub(super) fn note_answer(&mut self, id: SourceId, piece: PieceIndex, taken: bool, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let Some(at) = s.up.offered.remove(&piece.get()) else {
            return;
        };
        if !taken {
            s.up.declined_until = Some(now + self.offers.patience() * 4);
        }
        let took = now.saturating_duration_since(at);
        self.offers.answer = (self.offers.answer * 7 + took.min(Duration::from_millis(200))) / 8;
        self.offers
            .pending
            .retain(|(_, to, p)| *to != id || *p != piece.get());
    }

    /// A peer offers pieces, or says whether it may be asked for more than it offers (`free`).
    pub fn handle_offer(&mut self, id: SourceId, pieces: &[PieceIndex], free: bool, now: Instant) {
        let Some(s) = self.sources.get_mut(&id).filter(|s| s.is_peer()) else {
            return;
        };
        s.last_heard = now;
        if free == s.steers {
            s.steers = !free;
            if free {
                self.ready.insert(id);
            } else {
                self.withdraw_waiting(id, now);
            }
        }
        for &piece in pieces {
            self.consider_offer(id, piece, now);
        }
        self.settle(now);
    }

    fn withdraw_waiting(&mut self, id: SourceId, now: Instant) {
        let s = &self.sources[&id];
        let waiting: Vec<_> = s.asked.iter().filter(|a| a.begun.is_none()).map(|a| a.block).collect();
        for block in waiting {
            self.withdraw(crate::pieces::Giver::Peer(id), block, now);
        }
    }

    fn consider_offer(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        let s = &self.sources[&id];
        let usable = !self.paused && s.is_usable(now) && s.has.has(piece);
        if !self.pieces.missing().has(piece) {
            if !self.told.contains(&piece.get()) && self.pieces.wanted().contains_key(&piece.get()) {
                // On its way; say so.
                self.note_tell(piece, true);
            }
            return;
        }
        if !usable || self.is_crowded() {
            let (add, drop) = (Vec::new(), vec![piece]);
            self.commands.push_back(Command::TellFetching { source: id, add, drop });
            return;
        }
        self.want(piece, id);
        while let Some(block) = self.pieces.open_block(piece) {
            self.request(id, block, now);
        }
        self.note_tell(piece, true);
    }

    /// Whether more is on its way to us than to our neighbours.
    fn is_crowded(&self) -> bool {
        let mut partners = 0;
        let mut coming = 0;
        for s in self.sources.values().filter(|s| s.is_partner()) {
            partners += 1;
            coming += s.fetching.len();
        }
        let slack = crate::knob(0);
        self.told.len() as f64 > coming as f64 / f64::from(partners.max(1)) + slack
    }

    /// Whether this peer wants us to wait for its offers, and we have reason to.
    pub(super) fn waits_for_offers(&self, s: &Source, now: Instant) -> bool {
        s.steers && now < self.offers.moved_at + QUIET_MAX
    }

    pub(super) fn offer_tick(&mut self, now: Instant) {
        for s in self.sources.values_mut() {
            let stale = |at: &Instant| now.saturating_duration_since(*at) > OFFER_MAX;
            while let Some((&piece, _)) = s.up.offered.iter().find(|(_, at)| stale(at)) {
                s.up.offered.remove(&piece);
                if s.fetching.remove(&piece).is_some() {
                    self.picker.remove_fetcher(self.pieces.index(piece));
                }
            }
        }
    }
}
