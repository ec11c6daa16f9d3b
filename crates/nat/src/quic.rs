//! QUIC between peers: straight over UDP, or through a Teredo tunnel, with the same connections on both.
//!
//! - [`Identity`]: a key, and the peer id that follows from it. Both ends show a certificate of their own making and prove
//!   that they have its key; who dials says which peer id it expects. Nobody has to sign anything.
//! - [`QuicEndpoint`]: dials and accepts.
//! - [`Link`]: a connection to a peer, for one [`PeerStream`]. Several contents have a connection each, so that each gives
//!   way, is limited and ends by itself.
//! - Background connections give way ([`Manner`]), for as long as they are in the background: all of them together on the
//!   line by which they leave ([`OwnLine`]).

mod background;
mod endpoint;
mod identity;
mod inner;
mod socket;
mod stream;

pub use background::{Manner, OwnLine};
pub use endpoint::{Arrival, DialError, QuicEndpoint};
pub use identity::{Identity, IdentityError, peer_id};
pub use stream::{Link, PeerStream, Reader, Writer};

/// The port of the swarm protocol, over QUIC as over TCP; inside a tunnel too.
pub const PORT: u16 = 7680;

/// What is spoken (ALPN).
pub const PROTOCOL: &[u8] = b"dosvc/1";
