//! Peers across NATs.
//!
//! [`teredo`]: IPv6 in UDP through NATs (RFC 4380, 5991, 6081): the codec, and client and server as pure cores: no
//! socket, no clock, no randomness of their own.

pub mod teredo;
