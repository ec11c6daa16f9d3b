//! Why a connection ended.

use crate::connection::{Expired, Violation};
use dosvc_content::{Block, HResult};
use std::io;

/// Why a connection ended, split by whose doing it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// We were told to close, or nobody is left to tell us anything.
    #[error("closed by us")]
    Local,
    /// Nobody takes this connection's events any more.
    #[error("closed by us: its swarm is gone")]
    Abandoned,
    /// The peer closed between two messages.
    #[error("closed by the peer")]
    Peer,
    /// The peer closed in the middle of a message.
    #[error("closed by the peer in the middle of a message")]
    Truncated,
    /// The network failed, or the peer reset the connection.
    #[error("connection lost: {0}")]
    Lost(io::ErrorKind),
    /// The peer broke the protocol. Counts against it.
    #[error("protocol error: {0}")]
    Misbehaved(#[from] Violation),
    /// The connection stood still.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// Too much waits for a peer that does not read.
    #[error("the peer does not read what we send")]
    SendQueueFull,
    /// A block that we were sending could not be read to its end; what was announced cannot be sent any more.
    #[error("reading block {block:?} failed: {error}")]
    Body {
        /// The block.
        block: Block,
        /// What the operating system said; `UnexpectedEof` for a file that is too short.
        error: io::ErrorKind,
    },
    /// A command that cannot be carried out: a mistake in this program.
    #[error("impossible command: {0}")]
    BadCommand(&'static str),
}

impl CloseReason {
    /// The code that Windows reports for it.
    pub fn hresult(&self) -> HResult {
        match self {
            Self::Local | Self::Abandoned | Self::Peer | Self::Truncated => HResult::SOCKET_CLOSED,
            Self::Lost(_) | Self::Expired(_) | Self::SendQueueFull => HResult::CONNECTION_LOST,
            Self::Misbehaved(violation) => violation.hresult(),
            Self::Body { .. } => HResult::PIECE_GONE,
            Self::BadCommand(_) => HResult::INVALID_STATE,
        }
    }

    /// Whether the peer broke the protocol, which counts against it.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Misbehaved(_))
    }
}
