//! The swarm: facts come in here, decisions are made in the modules below.

mod deadline;
mod download;
mod http;
mod lead;
mod offer;
mod relay;
mod steal;
mod upload;

use crate::{
    Activity, BanReason, BlockUse, Command, DisconnectReason, FetchEnd, FetchId, Picker, Shelf,
    SourceId, SourceInfo, Stats, SwarmConfig,
    meter::Meter,
    pieces::{Giver, PieceState, Pieces},
    rng::{Rng, key_of, mix},
    sorted::{SortedMap, SortedSet},
    source::{Down, Source},
};
use dosvc_content::{Bitfield, Block, PieceIndex, PieceLengths};
use offer::Answer;
use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

/// One content on one machine. See the crate's documentation for how to drive it.
///
/// What every fact makes it look at lies first, and together: who has many swarms finds none of them in the processor's
/// cache.
#[derive(Debug)]
#[repr(C)]
pub struct Swarm {
    commands: VecDeque<Command>,
    pub(crate) sources: SortedMap<SourceId, Source>,
    relays: relay::Relays,
    offers: offer::Offers,
    uploads: upload::Uploads,
    /// Sources that may have room for requests.
    ready: SortedSet<SourceId>,
    /// Peers that found nothing to ask for when they were last looked at, or may not be asked: what falls free is
    /// offered to them. Peers with a full pipeline come back by themselves when a block of theirs ends.
    hungry: SortedSet<SourceId>,
    /// What extended peers are to be told about our fetching.
    tell: SortedMap<u32, bool>,
    next_tick: Instant,
    pub(crate) paused: bool,
    http: http::HttpPlan,
    pub(crate) pieces: Pieces,
    picker: Picker,
    /// Bytes from peers by the clock on the wall.
    peer_meter: Meter,
    /// Pieces that they know, or are about to be told, to be on their way to us.
    told: BTreeSet<u32>,
    rng: Rng,
    stats: Stats,
    leads: lead::Leads,
    self_key: u64,
    pub(crate) start: Instant,
    pub(crate) config: SwarmConfig,
}

impl Swarm {
    /// A swarm that already has `have`.
    ///
    /// # Panics
    /// When `have` is the bitfield of content with another number of pieces.
    pub fn new(lengths: PieceLengths, have: Bitfield, config: SwarmConfig, now: Instant) -> Self {
        let self_key = key_of(config.self_id.as_bytes());
        let pieces = Pieces::new(lengths, have);
        let mut rng = Rng::new(mix(config.seed) ^ self_key);
        let picker = Picker::new(lengths, pieces.missing(), rng.next());
        Self {
            picker,
            self_key,
            http: http::HttpPlan::new(self_key, lengths, now),
            leads: lead::Leads::new(now),
            uploads: upload::Uploads::new(lengths.blocks_per_piece(), now),
            offers: offer::Offers::new(now),
            relays: relay::Relays::default(),
            pieces,
            rng,
            config,
            start: now,
            paused: false,
            sources: SortedMap::default(),
            commands: VecDeque::new(),
            ready: SortedSet::default(),
            hungry: SortedSet::default(),
            tell: SortedMap::default(),
            told: BTreeSet::new(),
            peer_meter: Meter::new(now),
            next_tick: now,
            stats: Stats::default(),
        }
    }

    /// New settings. `self_id` and `seed` stay as they were.
    pub fn set_config(&mut self, config: SwarmConfig, now: Instant) {
        let (self_id, seed) = (self.config.self_id, self.config.seed);
        self.config = SwarmConfig {
            self_id,
            seed,
            ..config
        };
        self.review_giving();
        self.wake_all(now);
    }

    /// Stops or resumes the download: what is in flight is cancelled. Peers are served all the same.
    pub fn set_paused(&mut self, paused: bool, now: Instant) {
        if self.paused == paused {
            return;
        }
        self.paused = paused;
        if paused {
            let ids: Vec<SourceId> = self.sources.keys().copied().collect();
            for id in ids {
                self.give_up_all(id, true, now);
            }
        } else {
            // A download begins here: the time that peers have before HTTP counts from now.
            self.start = now;
            self.http.discovery_ended = false;
            self.http.begins = true;
            let company = self.sources.values().any(Source::is_peer);
            self.http.company_since = company.then_some(now);
        }
        self.wake_all(now);
    }

    /// A peer is connected, or an HTTP source is known.
    pub fn handle_source_added(&mut self, id: SourceId, info: SourceInfo, now: Instant) {
        if self.sources.contains_key(&id) {
            return;
        }
        if self.sources.len() >= self.config.limits.sources {
            self.commands.push_back(Command::Disconnect {
                source: id,
                reason: DisconnectReason::TooManySources {
                    max: self.config.limits.sources,
                },
            });
            return;
        }
        let peer = info.kind.is_peer();
        let count = self.pieces.lengths().piece_count();
        self.sources.insert(id, Source::new(info, count, now));
        if peer {
            self.http.company_since.get_or_insert(now);
            let pieces = self.pieces.have().clone();
            self.commands
                .push_back(Command::ShowBitfield { source: id, pieces });
            self.tell_everything(id);
            self.tell_lead_to(id);
            self.update_interest(id);
            self.offers.note_partners();
        }
        self.http.due = true;
        self.settle(now);
    }

    /// The source is gone.
    pub fn handle_source_removed(&mut self, id: SourceId, now: Instant) {
        self.forget(id, now);
        self.offers.forget_trip();
        self.settle(now);
    }

    /// The owner looked for peers and found all that there are for now: HTTP need not wait for more.
    pub fn handle_discovery_ended(&mut self, now: Instant) {
        self.http.discovery_ended = true;
        self.http.due = true;
        self.settle(now);
    }

    /// What the peer has.
    pub fn handle_bitfield(&mut self, id: SourceId, pieces: Bitfield, now: Instant) {
        let count = self.pieces.lengths().piece_count();
        if pieces.piece_count() != count || !self.sources.get(&id).is_some_and(Source::is_peer) {
            return;
        }
        self.uncount(id);
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.last_heard = now;
        s.interesting = missing_of(&pieces, self.pieces.have());
        s.gives_since = now;
        if pieces.is_full() {
            self.picker.change_full(true);
        } else {
            for piece in pieces.ones() {
                self.picker.add_holder(piece, false);
            }
        }
        s.up.queue.retain(|b| !pieces.has(b.piece()));
        self.uploads.note_queue(id, s);
        s.has = pieces;
        self.offers.note_partners();
        self.update_interest(id);
        self.ready.insert(id);
        self.http.due = true;
        self.settle(now);
    }

    /// The peer has one more piece.
    pub fn handle_have(&mut self, id: SourceId, piece: PieceIndex, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.last_heard = now;
        if s.is_peer() && s.has.insert(piece) {
            let was_fetching = s.fetching.remove(&piece.get()).is_some();
            // Who had enough on its way may have room now.
            if s.up.declined_until.take().is_some() {
                self.offers.note_more();
            }
            self.picker.add_holder(piece, was_fetching);
            if s.has.is_full() {
                for piece in s.has.ones() {
                    self.picker.remove_holder(piece);
                }
                self.picker.change_full(true);
                self.http.due = true;
                self.offers.note_partners();
            }
            if !self.pieces.have().has(piece) {
                if s.interesting == 0 {
                    s.gives_since = now;
                }
                s.interesting += 1;
                self.update_interest(id);
                self.ready.insert(id);
            }
            self.note_peer_has(id, piece);
        }
        self.settle(now);
    }

    /// The peer stopped taking requests; those in flight are void.
    pub fn handle_choked(&mut self, id: SourceId, now: Instant) {
        if let Some(s) = self.sources.get_mut(&id) {
            s.last_heard = now;
            s.choking = true;
            self.give_up_all(id, false, now);
        }
        self.settle(now);
    }

    /// The peer takes requests.
    pub fn handle_unchoked(&mut self, id: SourceId, now: Instant) {
        if let Some(s) = self.sources.get_mut(&id) {
            s.last_heard = now;
            s.choking = false;
            self.http.peers_since.get_or_insert(now);
            self.ready.insert(id);
        }
        self.settle(now);
    }

    /// What the peer began to fetch, and what it gave up without having got it (extension message).
    pub fn handle_fetching(
        &mut self,
        id: SourceId,
        add: &[PieceIndex],
        drop: &[PieceIndex],
        now: Instant,
    ) {
        let max = self.config.limits.fetching;
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.last_heard = now;
        for &piece in add {
            self.note_answer(id, piece, Answer::Elsewhere, now);
        }
        for &piece in drop {
            self.note_answer(id, piece, Answer::Declined, now);
        }
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        for piece in drop {
            if s.fetching.remove(&piece.get()).is_some() {
                self.picker.remove_fetcher(*piece);
                self.offers.note_more();
                self.http.due = true;
            }
        }
        for piece in add {
            let known = piece.get() < s.has.piece_count() && !s.has.has(*piece);
            if known && s.fetching.len() < max && s.fetching.insert(piece.get(), now).is_none() {
                self.picker.add_fetcher(*piece);
            }
        }
        self.settle(now);
    }

    /// Bytes of a block are arriving that is not whole yet. None: they are there, and wait for our own limit; so
    /// [`Self::handle_timeout`] does not take who sends them for silent.
    pub fn handle_progress(&mut self, id: SourceId, bytes: u32, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.advance(now);
        self.offers.note_moved(now);
        s.meter.add(bytes);
        s.partial += u64::from(bytes);
        s.note_progress(now);
        self.note_rate(id, bytes, now);
    }

    /// The first byte of this block is here: it will not be moved to another source any more. May be left out; then
    /// the oldest request of a source that shows progress counts as begun.
    pub fn handle_block_begun(&mut self, id: SourceId, block: Block, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.advance(now);
        s.note_progress(now);
        if let Some(asked) = s.asked.iter_mut().find(|a| a.block == block) {
            asked.begun = Some(now);
            s.partial = 0;
            let trip = now.saturating_duration_since(asked.at);
            let least = s.round_trip.map_or(trip, |t| t.min(trip));
            s.round_trip = Some(least);
            if s.is_peer() {
                self.offers.note_trip(least);
            }
            self.note_tell(block.piece(), true);
            self.flush_tell();
        } else if s.withdrawn.contains(&block) {
            self.take_back(id, block, now);
        }
    }

    /// A whole block is here. When it was the last of its piece, verify the piece and report
    /// [`Self::handle_piece_verified`] or [`Self::handle_piece_corrupt`].
    pub fn handle_block(&mut self, id: SourceId, block: Block, now: Instant) -> BlockUse {
        let answer = self.take_block(id, block, now);
        if answer == BlockUse::Duplicate {
            self.stats.duplicate_bytes += u64::from(block.len());
        }
        self.settle(now);
        answer
    }

    /// The peer will not send the block: it does not have it after all.
    pub fn handle_block_failed(&mut self, id: SourceId, block: Block, now: Instant) {
        let piece = block.piece();
        if let Some(s) = self.sources.get_mut(&id) {
            s.advance(now);
            s.last_heard = now;
            s.asked.retain(|a| a.block != block);
            s.note_busy(now);
            self.unask(block, Giver::Peer(id));
            // Asked again at once it would refuse again, for ever: it does not have this piece.
            self.forget_holding(id, piece);
            self.wake_peers();
        }
        self.settle(now);
    }

    /// An HTTP fetch ended by itself, or was cancelled.
    pub fn handle_fetch_ended(
        &mut self,
        id: SourceId,
        fetch: FetchId,
        end: FetchEnd,
        now: Instant,
    ) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        s.advance(now);
        let Some(at) = s.runs.iter().position(|r| r.fetch == fetch) else {
            return;
        };
        let run = s.runs.remove(at);
        if let FetchEnd::Failed { retry_at: Some(at) } = end {
            s.down = Some(Down::Until(at));
        }
        s.note_busy(now);
        self.release_run(id, run);
        self.http.due = true;
        self.wake_peers();
        self.settle(now);
    }

    /// The HTTP source can only stream the whole content.
    pub fn handle_no_ranges(&mut self, id: SourceId, now: Instant) {
        if let Some(s) = self.sources.get_mut(&id)
            && !s.no_ranges
        {
            s.no_ranges = true;
            self.give_up_all(id, true, now);
            self.http.due = true;
        }
        self.settle(now);
    }

    /// The source is out of order until then (`None`: for good). A peer that is only disconnected is removed instead.
    pub fn handle_source_down(&mut self, id: SourceId, until: Option<Instant>, now: Instant) {
        if let Some(s) = self.sources.get_mut(&id) {
            s.down = Some(until.map_or(Down::ForGood, Down::Until));
            self.give_up_all(id, true, now);
            self.wake_all(now);
        }
    }

    /// The piece is right, and durable as far as announcing it needs.
    pub fn handle_piece_verified(&mut self, piece: PieceIndex, now: Instant) {
        if !self.pieces.verified(piece) {
            return;
        }
        self.relays.end(piece);
        self.uploads.note_verified(piece);
        self.picker.set_shelf(piece, Shelf::Held);
        self.offers.note_more();
        if let Some(rate) = self.peer_meter.steady_rate() {
            self.offers.note_inflow(rate);
        }
        let complete = self.is_complete();
        // The Have says so.
        self.told.remove(&piece.get());
        self.tell.remove(&piece.get());
        for (&source, s) in self.sources.iter_mut() {
            if !s.is_peer() {
                continue;
            }
            // Also to those who have it: they count how far it has spread, and what is on its way to us.
            self.commands.push_back(Command::ShowHave { source, piece });
            s.interesting -= u32::from(s.has.has(piece));
            let interested = s.is_interesting(complete);
            if s.we_are_interested && !interested {
                s.we_are_interested = false;
                self.commands
                    .push_back(Command::Interested { source, interested });
            }
        }
        self.http.due = true;
        self.settle(now);
    }

    /// What an earlier life of this machine may have left of these missing pieces is being looked at: none of them
    /// is asked for until [`Self::handle_piece_verified`] or [`Self::handle_piece_corrupt`] tells.
    pub fn handle_pieces_found(&mut self, found: &[PieceIndex]) {
        for &piece in found {
            if self.pieces.found(piece) {
                self.picker.set_shelf(piece, Shelf::None);
            }
        }
    }

    /// The piece is wrong. A source that delivered several such pieces alone is given up.
    pub fn handle_piece_corrupt(&mut self, piece: PieceIndex, now: Instant) {
        let Some(from) = self.pieces.corrupt(piece) else {
            return;
        };
        if !from.is_empty() {
            self.stats.corrupt_pieces += 1;
            self.stats.corrupt_bytes += u64::from(self.pieces.lengths().len(piece));
        }
        self.note_missing(piece);
        if let (1, Some(&id)) = (from.len(), from.first())
            && let Some(s) = self.sources.get_mut(&id)
        {
            s.strikes += 1;
            if s.strikes >= self.config.limits.bad_pieces {
                self.give_up_bad(id, now);
            }
        }
        self.wake_all(now);
    }

    /// A piece that was had is found bad on disk. It is fetched again; peers who ask for it are refused until then.
    pub fn handle_piece_lost(&mut self, piece: PieceIndex, now: Instant) {
        if !self.pieces.lost(piece) {
            return;
        }
        let ids: Vec<SourceId> = self.sources.keys().copied().collect();
        for id in ids {
            if let Some(s) = self.sources.get_mut(&id) {
                s.up.queue.retain(|b| b.piece() != piece);
                self.uploads.note_queue(id, s);
                s.interesting += u32::from(s.has.has(piece));
                self.update_interest(id);
            }
        }
        self.note_missing(piece);
        self.wake_all(now);
    }

    /// The next decision to carry out, if any.
    pub fn poll_command(&mut self) -> Option<Command> {
        let command = self.commands.pop_front();
        if self.commands.is_empty() {
            // The next ones stand where these stood, which is in the processor's cache.
            self.commands.clear();
        }
        command
    }

    /// Pieces that are here and verified.
    pub fn have(&self) -> &Bitfield {
        self.pieces.have()
    }

    /// Whether the piece is here and verified.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.pieces.state(piece) == PieceState::Have
    }

    /// Whether nothing of the piece is here and nobody is asked for it.
    pub fn is_missing(&self, piece: PieceIndex) -> bool {
        self.pieces.state(piece) == PieceState::Missing
    }

    /// Whether all of the piece is here and its verification is awaited.
    pub fn is_checking(&self, piece: PieceIndex) -> bool {
        self.pieces.state(piece) == PieceState::Checking
    }

    /// Whether every piece is here and verified.
    pub fn is_complete(&self) -> bool {
        self.pieces.have().is_full()
    }

    /// What was done so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What moves right now.
    pub fn activity(&self) -> Activity {
        let of = |count: fn(&Source) -> usize| self.sources.values().map(count).sum();
        Activity {
            asked: of(|s| s.asked.len()),
            arriving: of(|s| s.asked.iter().filter(|a| a.begun.is_some()).count()),
            fetches: of(|s| s.runs.len()),
            queued: of(|s| s.up.queue.len()),
            serving: self.uploads.serving(),
        }
    }

    /// Bytes a second from all sources in the recent past.
    #[expect(clippy::cast_possible_truncation, reason = "a rate fits")]
    pub fn rate_bps(&self, now: Instant) -> u64 {
        (self.peer_meter.rate_at(now) + self.http.meter.rate_at(now)) as u64
    }

    /// Checks the invariants that hold between calls; for tests and the rig.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check_invariants(&self) {
        self.pieces.check();
        self.check_slots();
        for (&id, s) in self.sources.iter() {
            assert_eq!(
                s.interesting,
                missing_of(&s.has, self.pieces.have()),
                "{id}: interesting pieces"
            );
            let coming = |p: &PieceIndex| s.fetching.contains_key(&p.get());
            let lacking = |p: &PieceIndex| !s.has.has(*p) && !coming(p);
            assert_eq!(
                s.lacks_any_of(&self.pieces),
                self.pieces.have().ones().any(|p| lacking(&p)),
                "{id}: lacks what we have"
            );
            for asked in &s.asked {
                assert!(
                    s.has.has(asked.block.piece()) || s.info.relays,
                    "{id}: {asked:?} not held there"
                );
                assert!(
                    self.pieces.givers(asked.block).contains(&Giver::Peer(id)),
                    "{id}: {asked:?} unknown to the piece"
                );
            }
            assert_eq!(
                self.uploads.is_queued(id),
                !s.up.queue.is_empty(),
                "{id}: queue"
            );
            for block in &s.up.queue {
                assert!(
                    self.pieces.have().has(block.piece()) || self.relays.has(block.piece()),
                    "{id}: {block:?} neither had nor passed on"
                );
            }
        }
        for (&piece, wanted) in self.pieces.wanted() {
            for state in &wanted.blocks {
                assert!(state.givers.len() <= 2, "piece {piece}: {state:?}");
                for giver in &state.givers {
                    assert!(
                        self.sources.contains_key(&giver.source()),
                        "piece {piece}: {giver:?}"
                    );
                }
            }
        }
    }

    /// Decides all that the last fact made possible.
    fn settle(&mut self, now: Instant) {
        self.update_steering();
        self.fill_ready(now);
        if std::mem::take(&mut self.http.due) {
            self.tell_lead(now);
            self.plan_http(now);
        }
        self.serve(now);
        self.make_offers(now);
        self.flush_tell();
    }

    fn wake_all(&mut self, now: Instant) {
        self.wake_peers();
        self.http.due = true;
        self.settle(now);
    }

    /// Something fell free that another peer may deliver.
    fn wake_peers(&mut self) {
        self.ready.append(&mut self.hungry);
    }

    fn note_rate(&mut self, id: SourceId, bytes: u32, now: Instant) {
        let peer = self.sources.get(&id).is_some_and(Source::is_peer);
        let meter = if peer {
            &mut self.peer_meter
        } else {
            &mut self.http.meter
        };
        meter.advance(true, now);
        meter.add(bytes);
    }

    /// A piece fell back to missing.
    fn note_missing(&mut self, piece: PieceIndex) {
        self.abandon(piece);
        self.picker.set_shelf(piece, Shelf::Missing);
        self.note_tell(piece, false);
    }

    fn note_tell(&mut self, piece: PieceIndex, fetching: bool) {
        let news = if fetching {
            self.told.insert(piece.get())
        } else {
            self.told.remove(&piece.get())
        };
        if !news {
            return;
        }
        // What was begun and given up between two polls need not be told at all.
        if self.tell.insert(piece.get(), fetching) == Some(!fetching) {
            self.tell.remove(&piece.get());
        }
    }

    fn flush_tell(&mut self) {
        if self.tell.is_empty() {
            return;
        }
        let tell = &self.tell;
        let of = |want: bool| {
            tell.iter()
                .filter(move |(_, on)| **on == want)
                .map(|(p, _)| *p)
        };
        let add: Vec<_> = of(true).map(|p| self.pieces.index(p)).collect();
        let drop: Vec<_> = of(false).map(|p| self.pieces.index(p)).collect();
        // Holders are told too: they serve first whom nobody else is sending to.
        let told = self
            .sources
            .iter()
            .filter(|(_, s)| s.is_peer() && s.info.extended);
        for (&source, _) in told {
            let (add, drop) = (add.clone(), drop.clone());
            self.commands
                .push_back(Command::TellFetching { source, add, drop });
        }
        self.tell.clear();
    }

    /// A new extended peer learns what is in flight already.
    fn tell_everything(&mut self, id: SourceId) {
        let extended = self.sources.get(&id).is_some_and(|s| s.info.extended);
        let add: Vec<_> = self
            .told
            .iter()
            .filter(|p| !self.tell.contains_key(p))
            .map(|&p| self.pieces.index(p))
            .collect();
        if extended && !add.is_empty() {
            let drop = Vec::new();
            self.commands.push_back(Command::TellFetching {
                source: id,
                add,
                drop,
            });
        }
    }

    fn update_interest(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let interested = s.is_interesting(self.pieces.have().is_full());
        if s.is_peer() && s.we_are_interested != interested {
            s.we_are_interested = interested;
            self.commands.push_back(Command::Interested {
                source: id,
                interested,
            });
        }
    }

    /// Takes what a peer has and fetches out of the counts.
    fn uncount(&mut self, id: SourceId) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        if s.has.is_full() && !s.has.is_empty() {
            self.picker.change_full(false);
        } else {
            for piece in s.has.ones() {
                self.picker.remove_holder(piece);
            }
        }
        for &piece in std::mem::take(&mut s.fetching).keys() {
            self.picker.remove_fetcher(self.pieces.index(piece));
        }
    }

    /// The peer turned out not to have a piece that it had announced.
    fn forget_holding(&mut self, id: SourceId, piece: PieceIndex) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        if !s.has.has(piece) {
            return;
        }
        if s.has.is_full() {
            self.picker.change_full(false);
            for piece in s.has.ones() {
                self.picker.add_holder(piece, false);
            }
        }
        self.picker.remove_holder(piece);
        s.has.remove(piece);
        s.interesting -= u32::from(!self.pieces.have().has(piece));
        // Its other blocks of this piece are as void as the one that failed.
        let void: Vec<Block> = s
            .asked
            .iter()
            .map(|a| a.block)
            .filter(|b| b.piece() == piece)
            .collect();
        s.asked.retain(|a| a.block.piece() != piece);
        for block in void {
            self.unask(block, Giver::Peer(id));
            self.commands
                .push_back(Command::Cancel { source: id, block });
        }
        self.update_interest(id);
    }

    fn give_up_bad(&mut self, id: SourceId, now: Instant) {
        let Some(s) = self.sources.get(&id) else {
            return;
        };
        let pieces = s.strikes;
        let command = if s.is_peer() {
            let reason = BanReason::BadPieces { pieces };
            Command::Ban { source: id, reason }
        } else {
            let reason = DisconnectReason::BadPieces { pieces };
            Command::Disconnect { source: id, reason }
        };
        self.stats.bans += 1;
        self.forget(id, now);
        self.commands.push_back(command);
    }

    fn forget(&mut self, id: SourceId, now: Instant) {
        if !self.sources.contains_key(&id) {
            return;
        }
        self.give_up_all(id, false, now);
        self.uncount(id);
        self.drop_uploads(id);
        self.sources.remove(&id);
        self.offers.note_partners();
        self.ready.remove(&id);
        self.hungry.remove(&id);
        self.wake_peers();
        self.http.due = true;
    }
}

/// How many pieces of `has` are not in `have`.
fn missing_of(has: &Bitfield, have: &Bitfield) -> u32 {
    let words = has.words().iter().zip(have.words());
    words
        .map(|(theirs, ours)| (theirs & !ours).count_ones())
        .sum()
}
