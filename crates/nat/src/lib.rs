//! Peers across NATs.
//!
//! - [`teredo`]: IPv6 in UDP through NATs (RFC 4380, 5991, 6081): the codec, and client and server as pure cores:
//!   no socket, no clock, no randomness of their own;
//! - [`net`]: the same with sockets and time: [`Tunnel`](net::Tunnel) is a client, [`serve`](net::serve) a server;
//! - [`portmap`]: ports of this machine, mapped at its gateway;
//! - [`tcp`]: TCP through a tunnel, in user space;
//! - [`quic`]: QUIC between peers, straight or through a tunnel.
//!
//! Pieces, and what is said through the tunnel, are not known here.

pub mod net;
#[cfg(feature = "portmap")]
pub mod portmap;
#[cfg(feature = "quic")]
pub mod quic;
#[cfg(feature = "tcp")]
pub mod tcp;
pub mod teredo;
