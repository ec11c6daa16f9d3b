//! TCP through a tunnel, in user space: for peers that know no QUIC. No privileges, and nothing of the machine's network is
//! touched; what is reached is one port of one program.
//!
//! - [`Stack`]: the protocol as a pure core (smoltcp's), with `now` and without sockets;
//! - [`TcpStack`]: the same over a [`Tunnel`](crate::net::Tunnel): [`dial`](TcpStack::dial) and
//!   [`accept`](TcpStack::accept) give [`TunnelStream`]s, which are read and written as any.
//!
//! A connection's buffers are made when its first packet comes, connections and half-open ones are bounded, for all peers
//! and for each. A source can't be invented: the tunnel has checked that a packet comes from where its source says.

mod net;
mod stack;
mod stream;

pub use net::{DialError, TcpStack};
pub use stack::{Counted, Id, Stack, StackStats};
pub use stream::{TunnelReader, TunnelStream, TunnelWriter};

use std::time::Duration;

/// Connections at a time, in both directions.
pub const CONNECTIONS_MAX: usize = 32;

/// Connections of one peer that dialled us.
pub const CONNECTIONS_PER_PEER_MAX: usize = 8;

/// Connections of peers that have begun and not come about, or that nobody has accepted yet.
pub const PENDING_MAX: usize = 8;

/// How long one of them may take.
pub const PENDING_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes that may be under way to us on one connection: as much as the kernel's buffer of the tunnel's socket holds, or
/// bursts would be lost there, and each costs a second (smoltcp's shortest timeout).
pub const RECEIVE_BYTES: usize = 192 << 10;

/// Bytes that may be under way from us on one connection: less, for others' sockets have Linux's default buffers.
pub const SEND_BYTES: usize = 96 << 10;

/// Bytes of all buffers of all connections together: nobody can make a stack take more.
pub const BUFFERS_BYTES_MAX: usize = CONNECTIONS_MAX * (RECEIVE_BYTES + SEND_BYTES);

/// Packets that wait to be sent or read; more are dropped, or not made.
pub const PACKETS_MAX: usize = 512;

/// A connection on which nothing comes for so long has ended.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How often a quiet connection is asked for a sign of life. The path through the NATs lives by it, too.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long a connection that nobody holds any more may take to bring away what was written.
pub const LINGER_MAX: Duration = Duration::from_secs(30);
