//! When and what to fetch over HTTP.
//!
//! Nobody steers what downloaders ask of an HTTP server, so they agree. All of them at once would share its link: each
//! piece would take as long as all pieces, and nobody could pass on anything. So of a machine and the downloaders that it
//! knows the one whose id ranks first fetches, the others get it from there; when nothing comes, the next one tries after
//! a moment. Nobody knows everybody in a large swarm: there, those who rank first among their own neighbours hear of each
//! other (`lead.rs`), and when they don't, a few fetch. Which piece: for each one those who may
//! fetch are ranked by rendezvous hashing, so that they begin with different ones; what a neighbour has or is fetching
//! is left alone. N machines that start at once so take about one copy in all. While peers may still be found, who ranks
//! lower begins later (`Swarm::first_at`), so that most of them know of a better one before they ask at all.
//!
//! Who is far behind the best of its neighbours, or gets less from peers than HTTP has shown to give, fetches for
//! itself.

use super::{Swarm, steal::time_left};
use crate::{
    Command, FetchId, SourceId, SourceKind,
    meter::Meter,
    pieces::Giver,
    rng::rendezvous,
    source::{Asked, Down, Run, Source},
};
use dosvc_content::{Block, PieceIndex, PieceLengths};
use std::time::{Duration, Instant};

/// Fetches at once when nobody shares the work, or all others leave it to us: a server that is far away needs several for
/// its link to be used up.
const RUNS_ALONE: u32 = 4;
/// Fetches at once among other downloaders.
const RUNS_SHARED: u32 = 2;
/// A piece that takes longer than this over HTTP is fetched alone by each of several downloaders.
const LONG_PIECE: Duration = Duration::from_millis(250);
/// A piece that takes longer than this over HTTP is fetched alone even by whom all others leave it to.
const SLOW_PIECE: Duration = Duration::from_millis(500);
/// Pieces fetched while peers may still be found and nobody is there. Who comes before all that are there goes on.
const GRACE_PIECES: u32 = 1;
/// While peers may still be found, nobody fetches in this time, …
const FIRST_AFTER: Duration = Duration::from_millis(20);
/// … and the lower one ranks the longer: who ranks last waits for so much more. Of a fleet that starts at once those who
/// would leave it to others know that by then; else what all of them ask for fills the server's link with answers that
/// are thrown away. Less than the shortest grace: who is alone gets one piece in it either way.
const FIRST_SPREAD: Duration = Duration::from_millis(80);
/// How long after the first peer connected its and others' bitfields are awaited.
const COMPANY_SETTLE: Duration = Duration::from_millis(150);
/// How long each of several downloaders leaves the HTTP server to those before it while nothing comes.
const TURN: Duration = Duration::from_millis(500);
/// Who is that far behind the best of its neighbours looks whether HTTP is faster than they are.
const LAG_MAX: Duration = Duration::from_secs(3);
/// Turns that nobody waits longer than.
const TURNS_MAX: u32 = 8;
/// Pieces of one fetch at most.
const RUN_MAX: u32 = 64;
/// Pieces of one fetch before a rate is known.
const RUN_FIRST: u32 = 8;
/// How long a fetch should last.
const RUN_TIME: f64 = 1.0;
/// Peers get this long to come up to speed before HTTP takes over what they have.
const SETTLE: Duration = Duration::from_secs(1);
/// HTTP's own rate is measured anew with one piece when it is older than this and peers are slow.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Peers at this share of HTTP's rate are as good as HTTP.
const GOOD_ENOUGH: f64 = 0.9;
/// A piece that a peer holds is fetched over HTTP only when that saves more than this.
const RESCUE_MARGIN: Duration = Duration::from_millis(250);
/// Pieces that nobody has, looked at for one choice.
const LOOK_MAX: usize = 2048;

/// State of the HTTP side.
#[derive(Debug)]
pub(super) struct HttpPlan {
    /// Something changed that may allow a fetch.
    pub(super) due: bool,
    /// Our time to begin is still to come, see [`Swarm::first_at`].
    pub(super) begins: bool,
    pub(super) discovery_ended: bool,
    /// Ours: who has the highest rank fetches.
    own_rank: u64,
    /// From the download's start to our time to begin.
    first_after: Duration,
    /// Since when a peer lets us ask.
    pub(super) peers_since: Option<Instant>,
    /// Since when any peer is connected.
    pub(super) company_since: Option<Instant>,
    /// Bytes over HTTP by the clock on the wall.
    pub(super) meter: Meter,
    grace_pieces: u32,
    next_fetch: u64,
    /// When HTTP last fetched anything, for the age of its measured rate.
    last_used: Option<Instant>,
}

/// The rank of a machine by its key: the same wherever it is worked out.
fn rank(key: u64, lengths: PieceLengths) -> u64 {
    rendezvous(key, lengths.piece_count())
}

impl HttpPlan {
    pub(super) fn new(self_key: u64, lengths: PieceLengths, now: Instant) -> Self {
        let own_rank = rank(self_key, lengths);
        let behind = (u64::MAX - own_rank) as f64 / u64::MAX as f64;
        Self {
            own_rank,
            first_after: FIRST_AFTER + FIRST_SPREAD.mul_f64(behind),
            due: true,
            begins: true,
            discovery_ended: false,
            peers_since: None,
            company_since: None,
            meter: Meter::new(now),
            grace_pieces: 0,
            next_fetch: 0,
            last_used: None,
        }
    }
}

impl Swarm {
    pub(super) fn plan_http(&mut self, now: Instant) {
        if self.paused || self.is_complete() || now < self.http_at() {
            return;
        }
        let Some(id) = self.http_source(now) else {
            return;
        };
        if self.sources.get(&id).is_some_and(|s| s.no_ranges) {
            self.stream(id, now);
            return;
        }
        let partners = self.partner_keys();
        let grace = self.in_grace(now);
        if grace && now < self.first_at() {
            return;
        }
        let before = self.before_us(&partners, now);
        let runs_max = if grace || !partners.is_empty() {
            self.runs_shared(id, !grace && before == 0)
        } else {
            RUNS_ALONE
        };
        let turn = self.is_our_turn(before, now);
        if !turn {
            self.leave_to_others(id, now);
        } else if before > 0 && self.is_led(now) {
            self.distrust_leads(now);
        }
        while self.runs(id) < runs_max {
            if grace && partners.is_empty() && self.http.grace_pieces >= GRACE_PIECES {
                return;
            }
            let run = if turn && !self.picker.nobodys().is_empty() {
                self.choose_new(id, &partners, grace)
            } else if !grace && self.peers_too_slow(id, before, now) {
                self.choose_known(id, &partners, now)
            } else {
                None
            };
            let Some((first, count)) = run else {
                return;
            };
            self.http.grace_pieces += u32::from(grace);
            self.start_run(id, first, count, now);
        }
    }

    /// When we may begin while peers may still be found: the higher we rank, the sooner.
    fn first_at(&self) -> Instant {
        self.start + self.http.first_after
    }

    /// The same, while it is to come and matters.
    pub(super) fn begins_at(&self) -> Option<Instant> {
        if !self.http.begins || self.http.discovery_ended {
            return None;
        }
        let at = self.first_at();
        (at < self.grace_end()).then_some(at)
    }

    /// Time has passed: we may begin.
    pub(super) fn note_begin(&mut self, now: Instant) {
        if self.http.begins && now >= self.first_at() {
            self.http.begins = false;
            self.http.due = true;
        }
    }

    /// Fetches at once among other downloaders: a second one bridges the pause between two. Where a piece takes long,
    /// because all of them fetch at once, it would only make both later, and nobody could pass on anything.
    ///
    /// To whom all others leave it (`leads`) nobody's fetches are in the way: where it takes long, the server is far away.
    /// But who is slow itself should not have more to itself than it must.
    fn runs_shared(&self, id: SourceId, leads: bool) -> u32 {
        let length = self.pieces.lengths().piece_size();
        let took = self.sources.get(&id).and_then(|s| s.expected(1, length));
        match took {
            Some(took) if leads && took < SLOW_PIECE => RUNS_ALONE,
            Some(took) if took < LONG_PIECE => RUNS_SHARED,
            _ => 1,
        }
    }

    pub(crate) fn in_grace(&self, now: Instant) -> bool {
        !self.http.discovery_ended && now < self.grace_end()
    }

    /// While nobody is there, discovery gets all of its grace. Once somebody is, there is company to agree with about
    /// HTTP, and what the others have is known a moment later.
    pub(crate) fn grace_end(&self) -> Instant {
        let longest = self.start + self.config.discovery_grace;
        self.http
            .company_since
            .map_or(longest, |at| longest.min(at + COMPANY_SETTLE))
    }

    /// Why an idle HTTP source is not used.
    pub(crate) fn why_no_http(&self, now: Instant) -> &'static str {
        if now < self.http_at() {
            "the delay policy holds HTTP back"
        } else if self.waits_for_cache_host(now) {
            "the fallback delay policy holds it back for the cache host"
        } else if self.in_grace(now) {
            "peers may still be found"
        } else if self.picker.nobodys().is_empty() {
            "peers have what is missing and are fast enough"
        } else if !self.is_our_turn(self.before_us(&self.partner_keys(), now), now) {
            "other downloaders fetch what nobody has and pass it on"
        } else {
            "another HTTP source comes first"
        }
    }

    fn runs(&self, id: SourceId) -> u32 {
        self.sources
            .get(&id)
            .map_or(0, |s| u32::try_from(s.runs.len()).expect("a few"))
    }

    /// When HTTP may be used: peers have their time before.
    pub(crate) fn http_at(&self) -> Instant {
        self.start + self.config.http_delay
    }

    /// Until when the origin waits for cache hosts that fail: peers have their time first, then cache hosts theirs.
    pub fn cache_fallback_at(&self) -> Instant {
        self.http_at() + self.config.cache_fallback_delay
    }

    /// Whether the origin waits for a cache host that may come back.
    pub(crate) fn waits_for_cache_host(&self, now: Instant) -> bool {
        let may_come_back =
            |s: &Source| s.info.kind == SourceKind::CacheHost && s.down != Some(Down::ForGood);
        now < self.cache_fallback_at() && self.sources.values().any(may_come_back)
    }

    /// The first cache host that is in order; else the origin, when cache hosts have had their time.
    fn http_source(&self, now: Instant) -> Option<SourceId> {
        let usable = |kind| {
            let mut all = self
                .sources
                .iter()
                .filter(move |(_, s)| s.info.kind == kind);
            all.find(|(_, s)| s.is_usable(now)).map(|(id, _)| *id)
        };
        let origin = || usable(SourceKind::Origin).filter(|_| !self.waits_for_cache_host(now));
        usable(SourceKind::CacheHost).or_else(origin)
    }

    /// The rendezvous keys of the other downloaders.
    fn partner_keys(&self) -> Vec<u64> {
        let partners = self.sources.values().filter(|s| s.is_partner());
        partners.map(|s| s.key).collect()
    }

    /// How many of the other downloaders that we know, or heard of, come before us at the HTTP server.
    fn before_us(&self, partners: &[u64], now: Instant) -> u32 {
        let ours = self.own_rank();
        let lengths = *self.pieces.lengths();
        let better = |key: &&u64| rank(**key, lengths) > ours;
        match partners.iter().filter(better).count() {
            0 => u32::from(self.is_led(now)),
            before => u32::try_from(before).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn own_rank(&self) -> u64 {
        self.http.own_rank
    }

    /// Whether we would fetch ranges over HTTP if nobody came before us.
    pub(super) fn may_lead(&self, now: Instant) -> bool {
        let ranges = |id: SourceId| self.sources.get(&id).is_some_and(|s| !s.no_ranges);
        let allowed = !self.paused && !self.is_complete() && now >= self.http_at();
        allowed && self.http_source(now).is_some_and(ranges)
    }

    /// Whether we fetch what nobody has: whoever of the downloaders around us ranks first does, and the others get it
    /// from there. When nothing comes to us, the next in turn tries.
    fn is_our_turn(&self, before: u32, now: Instant) -> bool {
        let idle_since = self.offers.moved_at().max(self.grace_end());
        before == 0 || now >= idle_since + TURN * before.min(TURNS_MAX)
    }

    /// Gives up what was hardly begun over HTTP while nobody else was known.
    fn leave_to_others(&mut self, id: SourceId, now: Instant) {
        let length = u64::from(self.pieces.lengths().piece_size());
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let alone = s.runs.len() == 1 && s.delivered == 0 && s.partial * 4 < length;
        if !alone || self.http.grace_pieces == 0 {
            return;
        }
        self.http.grace_pieces = 0;
        self.give_up_all(id, true, now);
        if let Some(s) = self.sources.get_mut(&id) {
            s.partial = 0;
            // So short a look says nothing of what it can give.
            s.meter = Meter::new(now);
        }
    }

    /// Of what nobody has, the pieces to fetch next: first and count.
    fn choose_new(
        &mut self,
        id: SourceId,
        partners: &[u64],
        grace: bool,
    ) -> Option<(PieceIndex, u32)> {
        if grace || !partners.is_empty() {
            return Some((self.ranked(partners)?, 1));
        }
        let longest = self.run_length(id);
        self.contiguous(longest, |picker, p| picker.copies(p) == 0)
    }

    /// The pieces to fetch next although peers have them: first and count.
    fn choose_known(
        &mut self,
        id: SourceId,
        partners: &[u64],
        now: Instant,
    ) -> Option<(PieceIndex, u32)> {
        // Until HTTP has shown what it can give, one piece at a time finds out.
        let known = self.sources.get(&id)?.meter.rate().is_some();
        let probing = !known
            || self
                .http
                .last_used
                .is_none_or(|at| now.saturating_duration_since(at) > PROBE_AFTER);
        if probing && self.runs(id) > 0 {
            return None;
        }
        if self.pieces.missing().is_empty() {
            return self.rescue(id, now);
        }
        let longest = if probing || !partners.is_empty() {
            1
        } else {
            self.run_length(id)
        };
        self.contiguous(longest, |_, _| true)
    }

    /// Among the pieces that no neighbour has or fetches, the one where we rank best.
    fn ranked(&mut self, partners: &[u64]) -> Option<PieceIndex> {
        let start = self.rng.below(self.picker.nobodys().len());
        let (late, early) = self.picker.nobodys().split_at(start);
        let mut best: Option<(usize, u32)> = None;
        for &piece in early.iter().chain(late).take(LOOK_MAX) {
            let ours = rendezvous(self.self_key, piece);
            let bar = best.map_or(usize::MAX, |(rank, _)| rank);
            let before = partners
                .iter()
                .filter(|key| rendezvous(**key, piece) > ours)
                .take(bar)
                .count();
            if before < bar {
                best = Some((before, piece));
            }
            if before == 0 {
                break;
            }
        }
        best.map(|(_, piece)| self.pieces.index(piece))
    }

    /// Pieces in a row for about a second, fewer towards the end so that all fetches end together.
    fn run_length(&self, id: SourceId) -> u32 {
        let rate = self.sources.get(&id).and_then(|s| s.meter.rate());
        let size = f64::from(self.pieces.lengths().piece_size());
        #[expect(clippy::cast_possible_truncation, reason = "clamped")]
        let wish = rate.map_or(RUN_FIRST, |rate| (rate * RUN_TIME / size) as u32);
        let share = self.pieces.missing().count().div_ceil(2 * RUNS_ALONE);
        wish.min(share).clamp(1, RUN_MAX)
    }

    /// The first missing piece that fits, and as many after it as fit.
    fn contiguous(
        &self,
        longest: u32,
        fits: impl Fn(&crate::Picker, PieceIndex) -> bool,
    ) -> Option<(PieceIndex, u32)> {
        let mut missing = self
            .pieces
            .missing()
            .ones()
            .filter(|p| fits(&self.picker, *p));
        let first = missing.next()?;
        let follow = (1..longest)
            .zip(missing)
            .take_while(|(i, p)| p.get() == first.get() + i)
            .count();
        Some((first, 1 + u32::try_from(follow).expect("at most a run")))
    }

    /// Whether HTTP may fetch what peers have: they give less than wanted, and less than HTTP would.
    fn peers_too_slow(&self, id: SourceId, before: u32, now: Instant) -> bool {
        let begun = self
            .http
            .peers_since
            .unwrap_or(self.start)
            .max(self.grace_end());
        if now < begun + SETTLE
            && self
                .sources
                .values()
                .any(|s| s.is_peer() && s.is_usable(now))
        {
            return false;
        }
        let peers = self.peer_meter.rate_at(now);
        if self
            .config
            .qos_bps
            .is_some_and(|wanted| peers >= wanted as f64)
        {
            return false;
        }
        let shown = self.sources.get(&id).and_then(|s| s.meter.rate());
        // Among other downloaders what we fetch for all of them takes its part of our downlink from the peers.
        let shared = self.sources.values().any(Source::is_partner);
        let ours = if shared {
            self.http.meter.rate_at(now)
        } else {
            0.0
        };
        match shown {
            Some(rate) => peers + ours < rate * GOOD_ENOUGH,
            // What came over HTTP went through others before: who keeps up with them misses nothing.
            None => before == 0 || self.lags_behind(peers),
        }
    }

    /// Whether at `rate` it would take long to have as much as the neighbour that has most.
    fn lags_behind(&self, rate: f64) -> bool {
        let most = self
            .sources
            .values()
            .filter(|s| s.is_peer())
            .map(|s| s.has.count());
        let pieces = most
            .max()
            .unwrap_or(0)
            .saturating_sub(self.pieces.have().count());
        let bytes = f64::from(pieces) * f64::from(self.pieces.lengths().piece_size());
        bytes > rate * LAG_MAX.as_secs_f64()
    }

    /// Nothing is left to ask for, but a slow peer holds a piece that HTTP would bring much sooner.
    fn rescue(&mut self, id: SourceId, now: Instant) -> Option<(PieceIndex, u32)> {
        let http = self.sources.get(&id)?;
        let worth = |s: &Source, at: usize, asked: &Asked| {
            let length = self.pieces.lengths().len(asked.block.piece());
            let ours = http.expected(1, length)?;
            let begun = asked.begun.is_some() || (at == 0 && s.partial > 0);
            let waited = now.saturating_duration_since(asked.at);
            let theirs = if begun {
                time_left(s, asked, now)
            } else {
                s.expected(at + 1, asked.block.len()).unwrap_or(waited)
            };
            let alone = self.pieces.givers(asked.block).len() == 1;
            (alone && theirs > ours * 2 + RESCUE_MARGIN).then_some((theirs, asked.block, begun))
        };
        let peers = self.sources.values().filter(|s| s.is_peer());
        let slow = peers.flat_map(|s| {
            s.asked
                .iter()
                .enumerate()
                .filter_map(move |(at, a)| worth(s, at, a))
        });
        let (_, block, begun) = slow.max_by_key(|(gain, ..)| *gain)?;
        let giver = *self.pieces.givers(block).first()?;
        if begun {
            self.stats.doubled += 1;
        } else {
            self.stats.moved += 1;
            self.withdraw(giver, block, now);
        }
        Some((block.piece(), 1))
    }

    fn start_run(&mut self, id: SourceId, first: PieceIndex, count: u32, now: Instant) {
        let fetch = self.new_fetch(now);
        let giver = Giver::Http(id, fetch);
        for piece in first.get()..first.get() + count {
            let piece = self.pieces.index(piece);
            if self.pieces.missing().has(piece) {
                self.want(piece, id);
            }
            self.note_tell(piece, true);
            for block in self.pieces.lengths().blocks(piece) {
                if self.pieces.needs(block) && self.pieces.may_ask(piece, id) {
                    self.note_giver(piece, giver);
                    self.pieces.ask(block, giver);
                }
            }
        }
        let run = Run {
            fetch,
            next: first.get(),
            end: first.get() + count,
            asked_end: first.get() + count,
            stream: false,
        };
        self.push_run(id, run, now);
        self.commands.push_back(Command::Fetch {
            source: id,
            fetch,
            first,
            count,
        });
    }

    /// The whole content in one stream, what we have included: the server knows nothing else.
    fn stream(&mut self, id: SourceId, now: Instant) {
        if self.pieces.missing().is_empty() && self.pieces.wanted().is_empty() {
            // The last pieces are being checked.
            return;
        }
        let alone = !self.picker.nobodys().is_empty() || self.peers_too_slow(id, 0, now);
        let (Some(first), false, true) = (self.pieces.lengths().piece(0), self.runs(id) > 0, alone)
        else {
            return;
        };
        let fetch = self.new_fetch(now);
        let count = self.pieces.lengths().piece_count();
        let run = Run {
            fetch,
            next: 0,
            end: count,
            asked_end: count,
            stream: true,
        };
        self.push_run(id, run, now);
        self.commands.push_back(Command::Fetch {
            source: id,
            fetch,
            first,
            count,
        });
    }

    fn new_fetch(&mut self, now: Instant) -> FetchId {
        self.http.next_fetch += 1;
        self.http.last_used = Some(now);
        self.stats.fetches += 1;
        FetchId(self.http.next_fetch)
    }

    fn push_run(&mut self, id: SourceId, run: Run, now: Instant) {
        let s = self.sources.get_mut(&id).expect("a usable source");
        s.advance(now);
        s.runs.push(run);
        s.note_busy(now);
    }

    /// A block came over HTTP: the run has got that far, and is cut where others took over the rest.
    pub(super) fn advance_run(&mut self, id: SourceId, block: Block, now: Instant) {
        let Some(s) = self.sources.get_mut(&id).filter(|s| !s.is_peer()) else {
            return;
        };
        let piece = block.piece().get();
        let last = block.offset() + block.len() == self.pieces.lengths().len(block.piece());
        let run = s.runs.iter_mut().find(|r| (r.next..r.end).contains(&piece));
        let Some(run) = run.filter(|_| last) else {
            return;
        };
        run.next = piece + 1;
        self.http.last_used = Some(now);
        let rest = run.next..run.asked_end;
        let lacking = |p: u32| self.pieces.is_lacking(self.pieces.index(p));
        let useless = if run.stream {
            // What it passed by will not come again.
            !rest.clone().any(lacking)
        } else {
            run.next == run.end
        };
        if !useless {
            return;
        }
        let (fetch, done) = (run.fetch, rest.is_empty());
        s.runs.retain(|r| r.fetch != fetch);
        s.note_busy(now);
        if !done {
            self.commands
                .push_back(Command::CancelFetch { source: id, fetch });
        }
        self.http.due = true;
    }
}
