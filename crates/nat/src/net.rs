//! Teredo with sockets and time. None of it needs privileges: a client is one UDP socket, and what comes through the
//! tunnel is handed to whoever reads from it, not to the machine.

mod server;
mod sockets;
mod tunnel;

pub use server::{ServerHandle, serve};
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
