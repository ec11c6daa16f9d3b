//! Where content comes from, and what is known about each source.

use crate::{
    FetchId, Lead,
    meter::Meter,
    picker::Shortlist,
    pieces::{PieceState, Pieces},
    rng::key_of,
    slots::Slot,
    sorted::SortedMap,
};
use dosvc_content::{Bitfield, Block, PeerId, PieceIndex};
use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Names a source in one swarm. The owner chooses it and does not use it twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(pub u32);

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source {}", self.0)
    }
}

/// What kind of source it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SourceKind {
    /// A peer behind the same NAT.
    LanPeer,
    /// A peer found by DNS-SD on the link.
    LinkLocalPeer,
    /// A peer of the same group that is not on the LAN.
    GroupPeer,
    /// A peer anywhere.
    InternetPeer,
    /// A Connected Cache.
    CacheHost,
    /// The content's own HTTP server.
    Origin,
}

impl SourceKind {
    /// Speaks the swarm protocol.
    pub fn is_peer(self) -> bool {
        !self.is_http()
    }

    /// Speaks HTTP.
    pub fn is_http(self) -> bool {
        matches!(self, Self::CacheHost | Self::Origin)
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LanPeer => "LAN peer",
            Self::LinkLocalPeer => "link-local peer",
            Self::GroupPeer => "group peer",
            Self::InternetPeer => "Internet peer",
            Self::CacheHost => "cache host",
            Self::Origin => "origin",
        })
    }
}

/// What the owner knows of a source when it adds it.
#[derive(Clone, Debug)]
pub struct SourceInfo {
    /// Its kind.
    pub kind: SourceKind,
    /// The id from a peer's handshake.
    pub peer_id: Option<PeerId>,
    /// Whether the peer speaks our extension messages.
    pub extended: bool,
    /// Whether it understands [`Command::Abandon`](crate::Command::Abandon) and blocks in parts: pieces go both ways
    /// while they arrive.
    pub relays: bool,
}

/// How much longer than measured a request may take before somebody else may do better.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// The same for HTTP, where a server may first have to fetch the content itself. Doubles each time that it was given up
/// for: who always takes longer than this for its first byte would never get to send it.
const SILENCE_HTTP: Duration = Duration::from_secs(5);
/// The most that it doubles: longer than the owner itself waits for a server.
const SILENCE_DOUBLINGS: u32 = 3;
/// A peer that still talks is busy rather than gone.
const SILENCE_BUSY: Duration = Duration::from_secs(10);

/// An answer within this says nothing of the path: a machine is busy for so long, and what it says waits in queues.
const NEAR: Duration = Duration::from_millis(8);
/// A connection keeps most of its congestion window for so long after it has sent something: RFC 5681, section 4.1 lets it
/// begin anew after a retransmission timeout, Linux halves the window with each one (200 ms and the round trip, at least).
pub(crate) const WARM: Duration = Duration::from_millis(500);

/// A block asked of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) block: Block,
    pub(crate) at: Instant,
    /// When it began to arrive.
    pub(crate) begun: Option<Instant>,
}

/// A run of pieces being fetched over HTTP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) fetch: FetchId,
    /// The piece that is arriving.
    pub(crate) next: u32,
    /// One past the last piece that is left to it.
    pub(crate) end: u32,
    /// One past the last piece that the server was asked for.
    pub(crate) asked_end: u32,
    /// The whole content streams by; pieces are taken as they come.
    pub(crate) stream: bool,
}

/// A peer's side as a downloader from us.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Upload {
    pub(crate) interested: bool,
    pub(crate) unchoked: bool,
    /// It was told to wait for our offers.
    pub(crate) steered: bool,
    /// It has enough on its way until then.
    pub(crate) declined_until: Option<Instant>,
    pub(crate) queue: VecDeque<Block>,
    /// Offered, without an answer so far.
    pub(crate) offered: SortedMap<u32, Instant>,
    /// The piece that was served last: it may still be under way.
    pub(crate) last: Option<PieceIndex>,
    /// When that was.
    pub(crate) served_at: Option<Instant>,
    /// The least time from an offer to its answer.
    pub(crate) answer_least: Option<Duration>,
    /// Bytes served, ever.
    pub(crate) served: u64,
    /// As the slots know it.
    pub(crate) slot: Slot,
}

impl Upload {
    /// The round trip to it, if it is far away.
    pub(crate) fn trip(&self) -> Duration {
        self.answer_least
            .filter(|least| *least > NEAR)
            .unwrap_or_default()
    }

    /// Whether it is far away, and nothing was sent to it lately: what is begins slowly.
    pub(crate) fn is_cold(&self, now: Instant) -> bool {
        let rests = |at| now.saturating_duration_since(at) >= WARM;
        !self.trip().is_zero() && self.served_at.is_none_or(rests)
    }

    /// Waits for offers and may take them.
    pub(crate) fn takes_offers(&self) -> bool {
        self.steered && self.unchoked && self.interested
    }
}

/// One source. What most messages read lies first, and together: who has many swarms finds none of them in the processor's
/// cache.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Source {
    pub(crate) info: SourceInfo,
    pub(crate) we_are_interested: bool,
    pub(crate) choking: bool,
    /// It wants us to wait for its offers.
    pub(crate) steers: bool,
    pub(crate) no_ranges: bool,
    /// How many pieces of `has` we don't have.
    pub(crate) interesting: u32,
    pub(crate) has: Bitfield,
    /// What it says it is fetching, and since when.
    pub(crate) fetching: SortedMap<u32, Instant>,
    pub(crate) last_heard: Instant,
    pub(crate) up: Upload,
    pub(crate) asked: Vec<Asked>,
    /// Rate while something is asked of it.
    pub(crate) meter: Meter,
    /// Pipeline depth grows to this, doubling with each block.
    pub(crate) ramp: usize,
    /// Out of order until then.
    pub(crate) down: Option<Down>,
    pub(crate) demoted_until: Option<Instant>,
    /// When it first had any pieces again that we don't have.
    pub(crate) gives_since: Instant,
    pub(crate) runs: Vec<Run>,
    pub(crate) last_progress: Option<Instant>,
    /// The usual time between two signs of progress.
    pub(crate) gap: Option<Duration>,
    /// The shortest time from a request to the first byte.
    pub(crate) round_trip: Option<Duration>,
    /// Since when something is asked of it without pause.
    pub(crate) busy_since: Option<Instant>,
    /// Bytes that were reported as progress and are in no whole block yet.
    pub(crate) partial: u64,
    /// Requests withdrawn lately; their blocks may still come.
    pub(crate) withdrawn: VecDeque<Block>,
    pub(crate) delivered: u64,
    /// Blocks that it passed on to us and abandoned.
    pub(crate) abandoned: u32,
    pub(crate) strikes: u32,
    pub(crate) demotions: u32,
    /// Who ranks first at the HTTP server, as it says.
    pub(crate) lead: Option<Lead>,
    pub(crate) shortlist: Shortlist,
    /// Rendezvous key of a peer.
    pub(crate) key: u64,
}

/// Until when a source is out of order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Down {
    Until(Instant),
    ForGood,
}

impl Source {
    pub(crate) fn new(info: SourceInfo, piece_count: u32, now: Instant) -> Self {
        Self {
            key: info.peer_id.map_or(0, |id| key_of(id.as_bytes())),
            has: Bitfield::new(piece_count),
            interesting: 0,
            we_are_interested: false,
            gives_since: now,
            choking: info.kind.is_peer(),
            steers: false,
            lead: None,
            fetching: SortedMap::default(),
            asked: Vec::new(),
            runs: Vec::new(),
            no_ranges: false,
            meter: Meter::new(now),
            ramp: 2,
            partial: 0,
            withdrawn: VecDeque::new(),
            round_trip: None,
            gap: None,
            last_progress: None,
            last_heard: now,
            busy_since: None,
            demoted_until: None,
            demotions: 0,
            down: None,
            strikes: 0,
            abandoned: 0,
            delivered: 0,
            shortlist: Shortlist::default(),
            up: Upload::default(),
            info,
        }
    }

    pub(crate) fn is_peer(&self) -> bool {
        self.info.kind.is_peer()
    }

    /// Whether we want something of it. Who passes on what arrives may have something at any moment.
    pub(crate) fn is_interesting(&self, complete: bool) -> bool {
        self.interesting > 0 || self.info.relays && !complete && !self.has.is_full()
    }

    /// A peer that speaks our extensions.
    pub(crate) fn is_extended_peer(&self) -> bool {
        self.is_peer() && self.info.extended
    }

    /// A peer that speaks our extensions and still lacks pieces.
    pub(crate) fn is_partner(&self) -> bool {
        self.is_extended_peer() && !self.has.is_full()
    }

    /// Whether a piece of what we have is neither there nor on its way there.
    pub(crate) fn lacks_any_of(&self, pieces: &Pieces) -> bool {
        let both = self.has.count() - self.interesting;
        let lacking = (pieces.have().count() - both) as usize;
        let held = |piece: &&u32| pieces.state(pieces.index(**piece)) == PieceState::Have;
        // What is there is on its way there no longer.
        self.fetching.keys().filter(held).take(lacking).count() < lacking
    }

    /// Whether it may be offered this piece, which we have or pass on.
    pub(crate) fn lacks(&self, piece: PieceIndex, pieces: &Pieces) -> bool {
        let coming = self.has.has(piece) || self.fetching.contains_key(&piece.get());
        !coming && (self.info.relays || pieces.have().has(piece))
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.asked.is_empty() || !self.runs.is_empty()
    }

    pub(crate) fn is_down(&self, now: Instant) -> bool {
        match self.down {
            None => false,
            Some(Down::ForGood) => true,
            Some(Down::Until(until)) => now < until,
        }
    }

    /// Whether it may be asked for anything now.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        !self.is_down(now) && !self.choking && self.demoted_until.is_none_or(|until| now >= until)
    }

    /// Lets the meter's time pass, before anything about the source changes.
    pub(crate) fn advance(&mut self, now: Instant) {
        let busy = self.is_busy();
        self.meter.advance(busy, now);
    }

    /// Notes whether anything is asked of it, after a change.
    pub(crate) fn note_busy(&mut self, now: Instant) {
        if !self.is_busy() {
            self.busy_since = None;
            self.last_progress = None;
        } else if self.busy_since.is_none() {
            self.busy_since = Some(now);
        }
    }

    /// Content is arriving.
    pub(crate) fn note_progress(&mut self, now: Instant) {
        if let Some(last) = self.last_progress {
            let gap = now.saturating_duration_since(last);
            self.gap = Some(self.gap.map_or(gap, |usual| (usual * 7 + gap) / 8));
        }
        self.last_progress = Some(now);
        self.last_heard = now;
        self.demoted_until = None;
    }

    /// When silence becomes suspicious, if anything is asked of it.
    pub(crate) fn silent_at(&self, now: Instant) -> Option<Instant> {
        let since = self.last_progress.max(self.busy_since)?;
        let least = if !self.is_peer() {
            SILENCE_HTTP * 2u32.pow(self.demotions.min(SILENCE_DOUBLINGS))
        } else if now.saturating_duration_since(self.last_heard) < SILENCE {
            SILENCE_BUSY
        } else {
            SILENCE
        };
        Some(since + least.max(self.gap.unwrap_or_default() * 4))
    }

    /// When a source that is out of order or demoted may be tried again.
    pub(crate) fn back_at(&self) -> Option<Instant> {
        match self.down {
            Some(Down::ForGood) => None,
            Some(Down::Until(until)) => Some(until),
            None => self.demoted_until,
        }
    }

    /// Time until it would have delivered `blocks` blocks of `length` bytes, by its measured rate.
    pub(crate) fn expected(&self, blocks: usize, length: u32) -> Option<Duration> {
        let rate = self.meter.rate()?;
        let bytes = f64::from(length) * blocks as f64;
        Some(Duration::from_secs_f64((bytes / rate.max(1.0)).min(1e6)))
    }
}
