//! The swarm protocol (TCP 7680): how two peers exchange the pieces of one content.
//!
//! Three layers, each usable without the next:
//! - the **codec**: [`Handshake`], [`Header`] and [`Message`], our own [`Extension`] messages, the
//!   [`group_proof`], the proofs of [`member`]; bytes to values and back, every bound known before anything is allocated;
//! - the **connection core**: [`Connection`], the protocol state of one peer; no socket, no clock;
//! - [`net`]: listener, dialer, and the driver that moves blocks between sockets, files and pooled buffers.
//!
//! Which piece to ask of whom is decided elsewhere, and nothing here verifies content: a block that arrives is
//! just the bytes that a peer sent.

mod codec;
mod connection;
mod extension;
mod group;
mod handshake;
mod limits;
pub mod member;
pub mod net;
mod pace;

pub use codec::{DecodeError, HEADER_LEN_MAX, Header, Message, RawBlock};
pub use connection::{Connection, Expired, Payload, PeerEvent, Stats, Violation};
pub use extension::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, CAPABILITY_WAITS, EXTENSION_LEN_MAX, EXTENSION_MAGIC,
    EXTENSION_PREFIX_LEN, EXTENSION_VERSION, Extension, Lead,
};
pub use group::{Demand, GroupKey, group_proof, verify_group_proof};
pub use handshake::{Handshake, HandshakeDecodeError};
pub use limits::{
    BITFIELD_PIECES_MAX, COMMANDS_MAX, CONTROL_BYTES_MAX, FETCHING_MAX, HANDSHAKE_LEN, Limits,
    MEMBER_CERTIFICATE_MAX, MEMBER_SIGNATURE_MAX, MESSAGE_LEN_MAX, METAINFO_HASHES_MAX,
    METAINFO_REQUESTS_MAX, OFFER_MAX, PIECE_PAYLOAD_MAX, RELAY_HELD, RELAY_PART_MIN,
    REQUESTS_IGNORED_MAX, REQUESTS_MAX, WITHDRAWN_FOR, WITHDRAWN_MAX,
};
pub use pace::Pace;
