//! QUIC between peers: straight over UDP, or through a Teredo tunnel, with the same connections on both.
//!
//! - [`Identity`]: a key, and the peer id that follows from it. Both ends show a certificate of their own making and prove
//!   that they have its key; who dials says which peer id it expects. Nobody has to sign anything.
//! - [`QuicEndpoint`]: dials and accepts.
//! - Background connections are steered by LEDBAT++ ([`Manner`]).

mod background;
mod endpoint;
mod identity;
mod inner;
mod socket;

pub use background::LedbatConfig;
pub use endpoint::{DialError, Manner, QuicEndpoint, peer_of};
pub use identity::{Identity, IdentityError, peer_id};

/// The port of the swarm protocol, over QUIC as over TCP; inside a tunnel too.
pub const PORT: u16 = 7680;

/// What is spoken (ALPN).
pub const PROTOCOL: &[u8] = b"dosvc/1";
