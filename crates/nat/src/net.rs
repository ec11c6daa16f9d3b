//! Teredo with sockets and time. Clients and servers need no privileges: a client is one UDP socket, and what comes through
//! the tunnel is handed to whoever reads from it, not to the machine. With a network interface ([`tun`], `CAP_NET_ADMIN`)
//! it can be the machine, and a machine can be a [relay](relay()).

#[cfg(feature = "tun")]
mod relay;
mod server;
mod sockets;
#[cfg(feature = "tun")]
pub mod tun;
mod tunnel;

#[cfg(feature = "tun")]
pub use relay::{RelayHandle, relay};
pub use server::{ServerHandle, serve};
#[cfg(feature = "quic")]
pub(crate) use sockets::SOCKET_BUFFER;
pub use tunnel::{ConnectError, Incoming, State, Tunnel, TunnelConfig, TunnelStatus};

/// Bytes of a buffer for one datagram: more than any that the protocol allows.
pub const DATAGRAM_MAX: usize = 2048;

/// An unpredictable seed.
///
/// # Errors
/// When the operating system has no randomness.
pub(crate) fn seed<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut seed = [0; N];
    getrandom::fill(&mut seed).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(seed)
}
