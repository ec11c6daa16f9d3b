//! Every bound on what a peer may send, ask for or make us keep.

use std::time::Duration;

/// Bytes of a handshake (swarm-protocol, "Handshake").
pub const HANDSHAKE_LEN: usize = 75;

/// The largest message, in bytes of id and payload: what Windows accepts.
pub const MESSAGE_LEN_MAX: u32 = 0x1F_4000;

/// The longest block that one Piece message can carry, in bytes.
pub const PIECE_PAYLOAD_MAX: u32 = MESSAGE_LEN_MAX - 9;

/// The most pieces that a content may have so that its bitfield fits a message.
pub const BITFIELD_PIECES_MAX: u32 = (MESSAGE_LEN_MAX - 1) * 8;

/// The most pieces of any content: 1 TiB in pieces of 64 KiB.
pub(crate) const PIECES_MAX: u32 = 1 << 24;

/// How many requests of a peer are kept; more are ignored. A requester should keep below it.
pub const REQUESTS_MAX: usize = 512;

/// How many ignored requests in a row, with none served in between, make a flood.
pub const REQUESTS_IGNORED_MAX: u32 = 4096;

/// How many withdrawn requests of ours are remembered, so that their late answers are told from unrequested
/// data.
pub const WITHDRAWN_MAX: usize = 1024;

/// How long a withdrawn request is remembered: a slow line takes minutes for what stands before its answer.
pub const WITHDRAWN_FOR: Duration = Duration::from_secs(3600);

/// Piece indices that one list of an [`Extension::Fetching`](crate::Extension::Fetching) may name.
pub const FETCHING_MAX: usize = 4096;

/// Piece indices that one [`Extension::Offer`](crate::Extension::Offer) may name.
pub const OFFER_MAX: usize = 64;

/// Bytes of the certificate in an [`Extension::MemberProof`](crate::Extension::MemberProof).
pub const MEMBER_CERTIFICATE_MAX: usize = 2048;

/// Bytes of the signature in an [`Extension::MemberProof`](crate::Extension::MemberProof).
pub const MEMBER_SIGNATURE_MAX: usize = 128;

/// Hashes that one [`Extension::MetainfoRequest`](crate::Extension::MetainfoRequest) may ask for.
pub const METAINFO_HASHES_MAX: u32 = 32_768;

/// Metainfo requests of a peer that may wait for an answer; more are ignored. An answer can have 1 MiB.
pub const METAINFO_REQUESTS_MAX: u32 = 2;

/// Metainfo requests of ours that are remembered. More than a peer keeps, so that a late answer to one that
/// was asked again is no offence.
pub(crate) const METAINFO_WANTED_MAX: usize = 64;

/// Bytes of messages other than blocks that may wait for a peer that does not read; past it the connection
/// ends. Holds the largest bitfield, some answers and a hundred thousand Have messages.
pub const CONTROL_BYTES_MAX: usize = 5 << 20;

/// Commands that may wait in front of one connection.
pub const COMMANDS_MAX: usize = 65_536;

/// Bytes at the end of a block that is passed on while it arrives, which stay back until it is verified. So nobody gets
/// a whole block from us that is not.
pub const RELAY_HELD: u32 = 64 << 10;

/// What is passed on while it arrives goes out in parts of this at least, in bytes, but for the last.
pub const RELAY_PART_MIN: u32 = 32 << 10;

/// What may differ between connections; the rest are constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A keep-alive goes out after this long without any other byte. Default 60 s.
    pub keep_alive_interval: Duration,
    /// A peer that sends nothing, or takes nothing of what waits for it, for this long is dropped. Default
    /// 150 s, two and a half keep-alives.
    pub idle_timeout: Duration,
    /// Requests of the peer that are kept. Default [`REQUESTS_MAX`].
    pub requests_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep_alive_interval: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(150),
            requests_max: REQUESTS_MAX,
        }
    }
}
