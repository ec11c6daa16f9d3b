//! Ways to a peer: an address, and what is spoken there.

use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr};

/// What carries the swarm protocol.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// QUIC, straight over UDP.
    Quic,
    /// QUIC through a Teredo tunnel.
    Teredo,
    /// TCP through a Teredo tunnel: for peers that know no QUIC.
    TeredoTcp,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Quic, Self::Teredo, Self::TeredoTcp];

    /// The name that scripts see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Teredo => "teredo",
            Self::TeredoTcp => "teredo_tcp",
        }
    }

    /// Whether it goes through a tunnel.
    pub(crate) fn is_tunnel(self) -> bool {
        matches!(self, Self::Teredo | Self::TeredoTcp)
    }

    /// Whether the other end has proven that its peer id is its own.
    pub(crate) fn proves_identity(self) -> bool {
        matches!(self, Self::Quic | Self::Teredo)
    }
}

/// A way to a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Route {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
}

impl Route {
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self {
            transport: Transport::Tcp,
            address,
        }
    }

    /// Whether it is worth taking this way when the other one is open already: a tunnel costs bytes and time, and by TCP
    /// nobody has proven who it is. Only what proves that takes the place of anything, or anybody could.
    pub(crate) fn is_better_than(&self, other: &Self) -> bool {
        matches!(
            (self.transport, other.transport),
            (Transport::Quic, Transport::Teredo | Transport::TeredoTcp)
                | (Transport::Teredo, Transport::TeredoTcp)
        )
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.transport.name())
    }
}
