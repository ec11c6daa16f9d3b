//! Peers across NATs.
//!
//! - [`teredo`]: IPv6 in UDP through NATs (RFC 4380, 5991, 6081): the codec, and client, server and relay as pure cores:
//!   no socket, no clock, no randomness of their own;
//! - [`net`]: the same with sockets and time: [`Tunnel`](net::Tunnel) is a client, [`serve`](net::serve) a server.
//!
//! What a peer is, and what is said through the tunnel, is not known here.

pub mod net;
pub mod teredo;
