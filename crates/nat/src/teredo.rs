//! Teredo: IPv6 over UDP through NATs (RFC 4380, with RFC 5991 and RFC 6081).
//!
//! The codec. A datagram has, in this order, an optional [`Authentication`], an optional origin indication, one IPv6
//! packet, and [`Trailer`]s; [`Datagram::parse`] reads all of it and copies nothing. [`TeredoAddress`] is what an address
//! of `2001::/32` says; [`icmp`] has the two messages that a client and its server exchange.

mod address;
pub mod client;
pub mod icmp;
pub mod limits;
pub(crate) mod packet;
pub(crate) mod random;
mod rate;
pub mod relay;
mod secure;
pub mod server;
mod trailer;

pub use address::{TeredoAddress, is_global};
pub use packet::{Authentication, Datagram, Ipv6Packet, Malformed, NO_NEXT_HEADER, bubble};
pub use secure::Secret;
pub use trailer::{ALTERNATES_MAX, Alternates, Discovery, Trailer, Trailers};

/// The port of servers and of local discovery (RFC 4380 §2.7).
pub const PORT: u16 = 3544;

/// Bytes of the largest IPv6 packet in the tunnel (RFC 4380 §5.1.2).
pub const MTU: u16 = 1280;

/// Every 32-bit prefix of a Teredo address (RFC 4380 §2.6).
pub const PREFIX: [u8; 4] = [0x20, 0x01, 0, 0];
