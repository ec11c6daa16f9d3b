//! What the scheduler tells its shell to do, and the answers it gives at once.

use crate::SourceId;
use dosvc_content::{Bitfield, Block, PieceIndex};
use std::{fmt, time::Instant};

/// Names one HTTP fetch of one source; never used twice in a swarm's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FetchId(pub u64);

impl fmt::Display for FetchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fetch {}", self.0)
    }
}

/// A decision to carry out. Commands are in order and none may be skipped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Tell the peer whether we want anything of it.
    Interested {
        /// The peer.
        source: SourceId,
        /// Whether we do.
        interested: bool,
    },
    /// Stop serving the peer; its queue here is already forgotten.
    Choke {
        /// The peer.
        source: SourceId,
    },
    /// Let the peer send requests.
    Unchoke {
        /// The peer.
        source: SourceId,
    },
    /// Ask the peer for a block.
    Request {
        /// The peer.
        source: SourceId,
        /// The block.
        block: Block,
    },
    /// Withdraw a request. The block may come all the same; hand it in as always.
    Cancel {
        /// The peer.
        source: SourceId,
        /// The block.
        block: Block,
    },
    /// Fetch whole pieces in a row over HTTP, delivered in order, block by block.
    Fetch {
        /// The HTTP source.
        source: SourceId,
        /// The name to report back with.
        fetch: FetchId,
        /// The first piece.
        first: PieceIndex,
        /// How many pieces; at least 1.
        count: u32,
    },
    /// Stop a fetch. Needs no answer; one that comes is ignored.
    CancelFetch {
        /// The HTTP source.
        source: SourceId,
        /// The fetch.
        fetch: FetchId,
    },
    /// Send this as our BitField: the first message to this peer. Sent once for each peer.
    ShowBitfield {
        /// The peer.
        source: SourceId,
        /// What it is to know that we have; may be less than all.
        pieces: Bitfield,
    },
    /// Send a Have.
    ShowHave {
        /// The peer.
        source: SourceId,
        /// The piece.
        piece: PieceIndex,
    },
    /// Tell an extended peer what we began to fetch and what we gave up without having got it.
    TellFetching {
        /// The peer.
        source: SourceId,
        /// Now being fetched.
        add: Vec<PieceIndex>,
        /// No longer being fetched, and not here.
        drop: Vec<PieceIndex>,
    },
    /// Tell an extended peer who ranks first at the HTTP server, of all that we heard of; `None`: we know nobody.
    TellLead {
        /// The peer.
        source: SourceId,
        /// The first one.
        lead: Option<Lead>,
    },
    /// Offer pieces to an extended peer, or tell it whether it may ask for what it was not offered.
    Offer {
        /// The peer.
        source: SourceId,
        /// What it may ask for next.
        pieces: Vec<PieceIndex>,
        /// Whether it may ask for anything.
        free: bool,
    },
    /// Send this block to the peer now, then report `handle_served`.
    Serve {
        /// The peer.
        source: SourceId,
        /// The block.
        block: Block,
    },
    /// Send this block to the peer while it arrives from `from`, or while it is checked, but for its end (64 KiB or
    /// less): that goes out only when the piece is verified. Then report `handle_served`.
    Relay {
        /// The peer.
        source: SourceId,
        /// The block.
        block: Block,
        /// Where it comes from.
        from: SourceId,
    },
    /// Send no more of this block to the peer, and tell it that what it has of it is void. Needs no answer.
    Abandon {
        /// The peer.
        source: SourceId,
        /// The block.
        block: Block,
    },
    /// Close the connection and refuse the peer from now on. The scheduler has already forgotten the source.
    Ban {
        /// The peer.
        source: SourceId,
        /// Why.
        reason: BanReason,
    },
    /// Close the connection; the scheduler has already forgotten the source.
    Disconnect {
        /// The source.
        source: SourceId,
        /// Why.
        reason: DisconnectReason,
    },
}

/// A machine that fetches over HTTP, as others tell of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lead {
    /// Who has the highest fetches.
    pub rank: u64,
    /// How many connections it is away from who tells; 0: itself.
    pub hops: u8,
}

/// Why a peer is banned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BanReason {
    /// Pieces that came from this source alone failed verification.
    #[error("sent {pieces} pieces that failed verification")]
    BadPieces {
        /// How many.
        pieces: u32,
    },
}

/// Why a source is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// Pieces that came from this HTTP source alone failed verification.
    #[error("sent {pieces} pieces that failed verification")]
    BadPieces {
        /// How many.
        pieces: u32,
    },
    /// There are already as many sources as the limits allow.
    #[error("more than {max} sources")]
    TooManySources {
        /// The limit.
        max: usize,
    },
}

/// How an HTTP fetch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchEnd {
    /// Everything asked for was delivered.
    Done,
    /// It broke; what was delivered before stays.
    Failed {
        /// Not before this moment again; `None`: whenever wanted.
        retry_at: Option<Instant>,
    },
    /// We had cancelled it.
    Cancelled,
}

/// What to do with a block that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum BlockUse {
    /// Keep it. When it was the last block of its piece, the piece is to be verified and reported.
    Wanted,
    /// Throw it away: we have it, or another copy of it.
    Duplicate,
}

/// Why a peer's request is not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer is not known, or not a peer.
    #[error("request from an unknown source")]
    UnknownSource,
    /// The peer is choked; a request that crossed our Choke is no fault.
    #[error("request while choked")]
    Choked,
    /// We don't have that piece (any more).
    #[error("request for a piece that is not held")]
    NotHeld,
    /// The peer's queue is full.
    #[error("more than {max} requests queued")]
    QueueFull {
        /// The limit.
        max: usize,
    },
    /// The same block is already queued.
    #[error("block requested twice")]
    Repeated,
}
