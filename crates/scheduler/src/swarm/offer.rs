//! Givers decide what goes to whom: while several downloaders are connected, they wait for offers instead of asking.
//!
//! A giver knows what each neighbour lacks and how much is on its way to it. It offers its rarest piece to whom the
//! least is coming (one less counts to who lags), shortly before what it sends is out, and the downloader takes the offer (by a request) unless the
//! piece is on its way already, as much is coming to it as to its neighbours, or everything else would be here sooner. So
//! no two givers send the same piece to the same machine, nobody's downlink is crowded while another's idles, nobody
//! waits for a slow giver in the end, and every piece leaves the seed once before any leaves it twice.
//!
//! A peer without our extensions, and a lone downloader, ask for whatever they want.

use super::Swarm;
use crate::{
    Command, SourceId,
    pieces::Giver,
    rng::mix,
    source::{Asked, Source, WARM},
};
use dosvc_content::PieceIndex;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

/// A downloader to which nothing comes for this long asks by itself; but not one who has had something for it for a shorter
/// time.
const QUIET_MAX: Duration = Duration::from_millis(400);
/// Who has so many pieces less than our downloaders have on average lags: one piece less counts to be on its way to it. Who
/// knows few givers would fall behind further and further else, and be the last to be done.
const LAGS: u32 = 2;
/// So many pieces more count to be on their way to who is far away and was sent nothing lately: uplinks idle while connections
/// begin anew. Where a piece takes longer than they stay warm, all of them do.
const COLD: usize = 2;
/// Receivers compared for one offer.
const LOOK_MAX: usize = 4;
/// An offer without an answer is forgotten after this.
const OFFER_MAX: Duration = Duration::from_secs(1);
/// How long an answer may take before the first was measured.
const ANSWER_FIRST: Duration = Duration::from_millis(2);
/// A single late answer (it waited behind a block) counts as no more than this.
const ANSWER_MAX: Duration = Duration::from_millis(200);
/// What an answer may take longer than usual.
const ANSWER_MARGIN: Duration = Duration::from_millis(2);
/// An offer is declined for its slowness only when that is expected to save more than this.
const LATE_MARGIN: Duration = Duration::from_millis(100);
/// Pieces offered without an answer while nothing goes out.
const IDLE_OFFERS: usize = 2;
/// A piece that is on its way for so many times as long as one takes when the downlink is as full as it was leaves room for
/// another one: slow givers would keep fast ones from us else …
const SLOW_TIMES: u32 = 6;
/// … but so many at most.
const SLOW_MAX: usize = 8;
/// The best rate is forgotten slowly: by one part in so many with each piece.
const BEST_FADES: f64 = 64.0;
/// With so many pieces on their way to us we take no offer …
const COMING_MAX: usize = 2;
/// … but for those that come in this time: the way of an answer, and the check of a piece; …
const COMING_TIME: Duration = Duration::from_millis(20);
/// … and in so many round trips, where that is longer: from far away each connection is slow to begin, and most of what was
/// asked for is still under way. But no more than comes in this time, however late peers answer.
const COMING_TRIPS: u32 = 20;
const COMING_TIME_MAX: Duration = Duration::from_secs(2);
/// Who knows no more peers than this takes one piece more: the fewer a giver knows, the seldomer one of them idles, …
const FEW_PEERS: usize = 16;
/// … from the moment that it has so many. Before that a piece must be passed on soon.
const SETTLED: usize = 16;
/// Who lacks so many pieces that its neighbours have, on average, takes a second one whatever they get, …
const BEHIND: usize = 1;
/// … and who lacks so many takes one more than others.
const FAR_BEHIND: usize = 4;
/// Who lacks no more pieces than this takes what it can get: as its neighbours get done, less and less is coming to them.
const FEW_LEFT: usize = 8;
/// Pieces on their way to a peer when its link is long and its pieces are short.
const AHEAD_MAX: usize = 64;

/// What a peer says of a piece that it was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Taken,
    Declined,
    /// It comes from elsewhere: what it said may have crossed our offer.
    Elsewhere,
}

/// What was offered, and how long answers take.
#[derive(Debug)]
pub(super) struct Offers {
    /// The number of downloaders may have changed.
    count_due: bool,
    /// There are several: they wait for our offers.
    steering: bool,
    /// Offers on whose answers we still count, oldest first.
    pending: VecDeque<(Instant, SourceId, u32)>,
    /// The usual time from an offer to its answer.
    answer: Duration,
    /// The least: what the path takes, without what a busy peer does before it answers.
    answer_least: Option<Duration>,
    /// Bytes a second that all peers together gave us at best, lately.
    inflow_best: f64,
    /// The least time that a peer took from our request to the first byte.
    trip_least: Option<Duration>,
    /// Nobody wants anything of us before something changes, or before `retry_at`.
    dry: bool,
    retry_at: Option<Instant>,
    /// When we last looked whether to offer more.
    checked_at: Instant,
    /// When we last asked for something or got something.
    moved_at: Instant,
}

impl Offers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            count_due: false,
            steering: false,
            pending: VecDeque::new(),
            answer: ANSWER_FIRST,
            answer_least: None,
            inflow_best: 0.0,
            trip_least: None,
            dry: false,
            checked_at: now,
            retry_at: None,
            moved_at: now,
        }
    }

    /// A downloader came, went or got everything.
    pub(super) fn note_partners(&mut self) {
        self.count_due = true;
    }

    /// There is more to offer, or somebody more to offer it to.
    pub(super) fn note_more(&mut self) {
        self.dry = false;
    }

    pub(super) fn note_moved(&mut self, now: Instant) {
        self.moved_at = now;
    }

    /// Another piece has come: peers give us so many bytes a second.
    pub(super) fn note_inflow(&mut self, rate: f64) {
        let fades = self.inflow_best / BEST_FADES;
        self.inflow_best = rate.max(self.inflow_best - fades);
    }

    /// A piece of so many bytes that takes longer than this comes slowly.
    fn slow_after(&self, length: u32) -> Duration {
        let time = f64::from(length * SLOW_TIMES) / self.inflow_best.max(1.0);
        Duration::from_secs_f64(time)
    }

    /// A peer needs so long at least from a request to the first byte.
    pub(super) fn note_trip(&mut self, trip: Duration) {
        self.trip_least = Some(self.trip_least.map_or(trip, |least| least.min(trip)));
    }

    /// The peer that it was may be gone.
    pub(super) fn forget_trip(&mut self) {
        self.trip_least = None;
    }

    /// When we last asked for something or got something.
    pub(super) fn moved_at(&self) -> Instant {
        self.moved_at
    }

    pub(super) fn is_steering(&self) -> bool {
        self.steering
    }

    /// How long we count on an answer.
    fn patience(&self) -> Duration {
        self.answer * 2 + ANSWER_MARGIN
    }

    /// Forgets to count on offers that should have been answered by now.
    fn expire(&mut self, now: Instant) {
        let patience = self.patience();
        let late = |(at, ..): &(Instant, SourceId, u32)| *at + patience <= now;
        while self.pending.front().is_some_and(late) {
            self.pending.pop_front();
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.dry = false;
        }
    }
}

/// Giving.
impl Swarm {
    /// Tells downloaders to wait for offers while there are several.
    pub(super) fn update_steering(&mut self) {
        if !std::mem::take(&mut self.offers.count_due) {
            return;
        }
        let partners = self.sources.values().filter(|s| s.is_partner()).count();
        let steering = partners > 1;
        self.offers.steering = steering;
        self.offers.note_more();
        if !steering {
            self.offers.pending.clear();
            self.offers.retry_at = None;
        }
        for (&source, s) in self.sources.iter_mut().filter(|(_, s)| s.is_partner()) {
            if std::mem::replace(&mut s.up.steered, steering) != steering {
                self.commands.push_back(Command::Offer {
                    source,
                    pieces: Vec::new(),
                    free: !steering,
                });
            }
        }
    }

    /// Keeps so much offered or asked for that the uplink never waits for an answer.
    pub(super) fn make_offers(&mut self, now: Instant) {
        if !self.offers.steering {
            return;
        }
        self.offers.expire(now);
        self.offers.checked_at = now;
        if self.offers.dry {
            return;
        }
        let lead = self.offers.patience();
        let queued = self.queued_pieces();
        // Who has enough on its way declines: where nothing goes out, two are asked at once.
        let least = if self.uploads.serving() + queued == 0 {
            IDLE_OFFERS
        } else {
            0
        };
        let shared = self.may_share();
        let target = self.uploads.room(lead, shared, now).clamp(least, AHEAD_MAX);
        let of_seconds = self.offers.answer_least.unwrap_or_default();
        let target_of_seconds = self.uploads.room_of_short(of_seconds, shared, now);
        let mut ahead = queued + self.offers.pending.len();
        while ahead < target {
            let Some((id, piece)) = self.choose_offer(now) else {
                self.offers.dry = true;
                return;
            };
            // Those who get it offer it, too. Who has everything, with nothing to receive and to check, would be ahead
            // of all that are busy each time.
            let is_second = self.is_complete() && self.picker.copies(piece) > 0;
            if is_second && target_of_seconds.is_some_and(|target| ahead >= target) {
                return;
            }
            self.offer(id, piece, now);
            ahead += 1;
        }
    }

    /// When the next offer may be due without anything else happening.
    pub(super) fn offers_due_at(&self) -> Option<Instant> {
        let offers = &self.offers;
        if !offers.steering {
            return None;
        }
        let lead = offers.patience();
        let answer = offers.pending.front().map(|(at, ..)| *at + lead);
        // One is due shortly before a block is out, unless the next one is there.
        let provided = offers.dry || answer.is_some() || self.is_piece_queued();
        let ends_at = (!provided).then(|| self.uploads.ends_at()).flatten();
        let ahead = ends_at.and_then(|at| at.checked_sub(lead));
        let ahead = ahead.filter(|at| *at > offers.checked_at);
        answer.into_iter().chain(offers.retry_at).chain(ahead).min()
    }

    /// The rarest piece that one of those lacks to whom the least is coming.
    fn choose_offer(&mut self, now: Instant) -> Option<(SourceId, PieceIndex)> {
        let usual = self.usual_count();
        let cools = self.uploads.goes_out_within(WARM);
        // Givers that know the same choose differently.
        let salt = self.rng.next();
        let mut order = Vec::new();
        let mut retry_at: Option<Instant> = None;
        for (&id, s) in self.sources.iter().filter(|(_, s)| s.up.takes_offers()) {
            if let Some(until) = s.up.declined_until.filter(|until| *until > now) {
                retry_at = Some(retry_at.map_or(until, |at| at.min(until)));
                continue;
            }
            let lags = s.has.count() + LAGS <= usual;
            let cold = if cools && s.up.is_cold(now) { COLD } else { 0 };
            let load = (s.fetching.len() + cold).saturating_sub(usize::from(lags));
            let tie = mix(salt ^ u64::from(id.0));
            order.push(Reverse((load, s.has.count(), tie, id)));
        }
        self.offers.retry_at = retry_at;
        // Of all of them only the first few are looked at.
        let mut order = BinaryHeap::from(order);
        // By what is coming to it, copies of the piece, what it has, and by lot.
        let mut best: Option<([u64; 4], SourceId, PieceIndex)> = None;
        let mut found = 0;
        while let Some(Reverse((load, count, tie, id))) = order.pop() {
            let s = &self.sources[&id];
            if !self.lacks_any(s) {
                continue;
            }
            let lacks = |p: PieceIndex| s.lacks(p, &self.pieces);
            let Some(piece) = self.picker.rarest_held(lacks) else {
                continue;
            };
            let copies = self.picker.copies(piece);
            let key = [load as u64, copies.into(), count.into(), tie];
            if best.is_none_or(|(least, ..)| key < least) {
                best = Some((key, id, piece));
            }
            found += 1;
            if found == LOOK_MAX {
                break;
            }
        }
        best.map(|(_, id, piece)| (id, piece))
    }

    /// Pieces that a downloader has, on average.
    fn usual_count(&self) -> u32 {
        let (mut all, mut had) = (0, 0);
        for s in self.sources.values().filter(|s| s.is_partner()) {
            all += 1;
            had += u64::from(s.has.count());
        }
        u32::try_from(had / u64::max(all, 1)).expect("no more than pieces there are")
    }

    fn offer(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        let s = self.sources.get_mut(&id).expect("chosen among the sources");
        // Until it answers we take it that it will.
        s.up.offered.insert(piece.get(), now);
        s.fetching.insert(piece.get(), now);
        self.picker.add_fetcher(piece);
        self.offers.pending.push_back((now, id, piece.get()));
        self.commands.push_back(Command::Offer {
            source: id,
            pieces: vec![piece],
            free: false,
        });
    }

    /// The peer took an offer, or said that it does not, or told that the piece is on its way to it from elsewhere.
    pub(super) fn note_answer(
        &mut self,
        id: SourceId,
        piece: PieceIndex,
        answer: Answer,
        now: Instant,
    ) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let Some(at) = s.up.offered.remove(&piece.get()) else {
            return;
        };
        let took = now.saturating_duration_since(at);
        if answer != Answer::Elsewhere {
            let least = s.up.answer_least.map_or(took, |least| least.min(took));
            s.up.answer_least = Some(least);
        }
        let took = took.min(ANSWER_MAX);
        self.offers.answer = (self.offers.answer * 7 + took) / 8;
        let least = self
            .offers
            .answer_least
            .map_or(took, |least| least.min(took));
        self.offers.answer_least = Some(least);
        if answer == Answer::Declined {
            s.up.declined_until = Some(now + self.offers.patience());
        }
        let same = |(_, to, p): &(Instant, SourceId, u32)| *to == id && *p == piece.get();
        self.offers.pending.retain(|offer| !same(offer));
    }

    /// Forgets offers that nobody answered.
    pub(super) fn drop_stale_offers(&mut self, now: Instant) {
        let stale = |at: &Instant| now.saturating_duration_since(*at) > OFFER_MAX;
        for s in self.sources.values_mut() {
            let first = |s: &Source| s.up.offered.iter().find(|(_, at)| stale(at)).map(|o| *o.0);
            while let Some(piece) = first(s) {
                s.up.offered.remove(&piece);
                if s.fetching.remove(&piece).is_some() {
                    self.picker.remove_fetcher(self.pieces.index(piece));
                }
                self.offers.note_more();
            }
        }
    }
}

/// Taking.
impl Swarm {
    /// A peer offers pieces, and says whether it may be asked for others too (`free`).
    pub fn handle_offer(&mut self, id: SourceId, pieces: &[PieceIndex], free: bool, now: Instant) {
        let Some(s) = self.sources.get_mut(&id).filter(|s| s.is_peer()) else {
            return;
        };
        s.last_heard = now;
        let before = std::mem::replace(&mut s.steers, !free);
        match (before, free) {
            (true, true) => _ = self.ready.insert(id),
            (false, false) => self.withdraw_waiting(id, now),
            _ => {}
        }
        for &piece in pieces {
            self.consider_offer(id, piece, now);
        }
        self.settle(now);
    }

    /// Withdraws what was asked of a peer that now offers by itself.
    fn withdraw_waiting(&mut self, id: SourceId, now: Instant) {
        let waiting = |a: &&Asked| a.begun.is_none();
        let asked = self.sources[&id].asked.iter().filter(waiting);
        for block in asked.map(|a| a.block).collect::<Vec<_>>() {
            self.withdraw(Giver::Peer(id), block, now);
        }
    }

    fn consider_offer(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        if self.pieces.wanted().contains_key(&piece.get()) {
            // On its way from elsewhere.
            self.note_tell(piece, true);
            return;
        }
        let s = &self.sources[&id];
        let given = s.has.has(piece) || self.takes_relay(s, piece, now);
        let usable = !self.paused && s.is_usable(now) && given;
        let welcome = !self.is_crowded(id, now) && !self.is_too_late(id, piece, now);
        if usable && self.pieces.missing().has(piece) && welcome {
            self.want(piece, id);
            while let Some(block) = self.pieces.open_block(piece) {
                self.request(id, block, now);
            }
            self.note_tell(piece, true);
        } else if !self.pieces.have().has(piece) {
            self.commands.push_back(Command::TellFetching {
                source: id,
                add: Vec::new(),
                drop: vec![piece],
            });
        }
    }

    /// Whether as much is on its way to us from peers as to our neighbours: they come first then. One piece is on its
    /// way to everybody before anybody gets two, and more than a few would only make each of them take longer. Who has
    /// less than its neighbours takes a second one all the same, or chance would let some fall behind further and
    /// further, and so does who lacks only a few. What comes while an answer is under way and a piece is checked is on
    /// top of that: much, on a fast link. So is what is being checked, which fills no link any more: on a busy machine
    /// that takes longer than anything else.
    fn is_crowded(&self, from: SourceId, now: Instant) -> bool {
        let over_http = self.sources.values().flat_map(|s| &s.runs);
        let over_http: usize = over_http.map(|run| (run.end - run.next) as usize).sum();
        let slow = match self.sources[&from].asked.is_empty() {
            true => self.slow_pieces(now).min(SLOW_MAX),
            // It may be the slow one.
            false => 0,
        };
        let apart = over_http + slow;
        let ours = self.told.len().saturating_sub(apart);
        let trips = self.offers.trip_least.unwrap_or_default() * COMING_TRIPS;
        let time = trips.clamp(COMING_TIME, COMING_TIME_MAX);
        let bytes = self.peer_meter.rate_at(now) * time.as_secs_f64();
        let ahead = bytes / f64::from(self.pieces.lengths().piece_size());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and less than pieces there are"
        )]
        let meanwhile = (ahead as usize).max(self.pieces.delivered_count());
        if ours <= meanwhile {
            return false;
        }
        let (mut peers, mut partners, mut coming, mut had) = (0, 0, 0, 0);
        for s in self.sources.values().filter(|s| s.is_peer()) {
            peers += 1;
            if s.is_partner() {
                partners += 1;
                coming += s.fetching.len();
                had += s.has.count() as usize;
            }
        }
        let have = self.pieces.have().count() as usize;
        let is_behind = |by: usize| (have + by) * partners < had;
        let settled = have >= SETTLED;
        let knows_few = peers <= FEW_PEERS && settled;
        let ends = settled && self.lacking() <= FEW_LEFT;
        // Among those who take more, whoever did not would get the least.
        let others_do = coming > COMING_MAX * partners;
        let more = usize::from(knows_few || others_do) + usize::from(is_behind(FAR_BEHIND));
        let others_first = ours * partners >= coming && !is_behind(BEHIND) && !ends;
        ours >= meanwhile + COMING_MAX + more || others_first
    }

    /// Pieces that come slowly.
    fn slow_pieces(&self, now: Instant) -> usize {
        let lengths = self.pieces.lengths();
        let long = self.offers.slow_after(lengths.piece_size());
        let asked = self.sources.values().flat_map(|s| &s.asked);
        let slow = asked.filter(|a| now.saturating_duration_since(a.at) > long);
        slow.count() / lengths.blocks_per_piece() as usize
    }

    /// Pieces of which not all is here.
    fn lacking(&self) -> usize {
        self.pieces.missing().count() as usize + self.pieces.wanted().len()
    }

    /// Whether the piece would be here, from this peer, only after everything else, and another holder is much faster.
    fn is_too_late(&self, id: SourceId, piece: PieceIndex, now: Instant) -> bool {
        let length = self.pieces.lengths().len(piece);
        let s = &self.sources[&id];
        let Some(theirs) = s.expected(s.asked.len() + 1, length) else {
            return false;
        };
        let left =
            self.lacking() as f64 * f64::from(length) / self.peer_meter.rate_at(now).max(1.0);
        let quicker = |other: &Source| {
            let ours = other.expected(1, length);
            other.is_usable(now) && other.has.has(piece) && ours.is_some_and(|t| t * 4 < theirs)
        };
        theirs.as_secs_f64() > left + LATE_MARGIN.as_secs_f64()
            && self.sources.values().any(quicker)
    }

    /// Whether this peer wants us to wait for its offers, and we have reason to.
    pub(super) fn waits_for_offers(&self, s: &Source, now: Instant) -> bool {
        s.steers && now < self.offers.moved_at.max(s.gives_since) + QUIET_MAX
    }
}
