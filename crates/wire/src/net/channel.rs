//! What goes into a driver and what comes out.

use super::{BlockBuf, CloseReason, Feed};
use crate::connection::PeerEvent;
use crate::extension::Extension;
use crate::limits::COMMANDS_MAX;
use bytes::Bytes;
use dosvc_content::{Bitfield, Block, PieceIndex, PieceLengths};
use std::fs::File;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a connection is told to do.
#[derive(Debug)]
pub enum Command {
    /// Stop serving the peer; its requests that were not begun are forgotten (as the peer will take it).
    Choke,
    /// Serve the peer.
    Unchoke,
    /// Whether the peer has something that we want.
    Interested(bool),
    /// We verified a piece.
    Have(PieceIndex),
    /// All that we have; to be sent before anything else but extensions (else it goes as single pieces).
    Bitfield(Bitfield),
    /// Ask for a block. Nothing is sent while the peer chokes us: [`Event::Choked`] is on its way then. Keep
    /// at most [`REQUESTS_MAX`](crate::REQUESTS_MAX) open; a peer ignores more.
    Request(Block),
    /// Withdraw a request. The block is still delivered if its bytes had begun to arrive.
    Cancel(Block),
    /// Answer a request of the peer. Ignored when the peer withdrew it meanwhile.
    Serve {
        /// The block, as in [`Event::Requested`].
        block: Block,
        /// Its bytes.
        body: Body,
    },
    /// Answer a request of the peer with a block that is still arriving here, as far as it has come; its end follows
    /// with [`Command::Release`]. Only for a peer that takes blocks in parts and knows of relays
    /// ([`CAPABILITY_RELAYS`](crate::CAPABILITY_RELAYS)). Ignored when the peer withdrew it meanwhile.
    Relay {
        /// The block, as in [`Event::Requested`].
        block: Block,
        /// What arrives of it.
        feed: Feed,
    },
    /// What was passed on while it arrived is verified: here is all of it.
    Release {
        /// The block.
        block: Block,
        /// Its bytes.
        body: Body,
    },
    /// What was passed on while it arrives, or was to be, will not be completed; the peer is told so.
    Abandon(Block),
    /// Drop a request of the peer silently.
    Refuse(Block),
    /// Send a message of our own kind.
    Extension(Extension),
    /// The content's dimensions are known now.
    Lengths(PieceLengths),
    /// End the connection at once; what the kernel still holds may be lost.
    Close,
}

/// Where the bytes of a block come from.
#[derive(Debug, Clone)]
pub enum Body {
    /// A part of a file, as long as the block; on Linux it goes from the page cache to the socket uncopied.
    File {
        /// The file; it must not get shorter.
        file: Arc<File>,
        /// Where the block begins in the file, in bytes.
        offset: u64,
    },
    /// The bytes themselves, exactly as many as the block has.
    Bytes(Bytes),
}

/// What happened on a connection.
#[derive(Debug)]
pub enum Event {
    /// What the peer has. At most once, before any [`Event::Have`]; not at all from a peer that has nothing.
    Bitfield(Bitfield),
    /// The peer has this piece too.
    Have(PieceIndex),
    /// All requests are void. One that was commanded before this event was taken may still have been sent
    /// after a following [`Event::Unchoked`], and its block then comes.
    Choked,
    /// The peer answers requests.
    Unchoked,
    /// Whether the peer wants anything.
    Interested(bool),
    /// The peer asks for a block: answer with [`Command::Serve`] or [`Command::Refuse`].
    Requested(Block),
    /// The peer withdrew its request, or our Choke made it void. An answer that was commanded and had not begun is
    /// not sent.
    Cancelled(Block),
    /// A block that we asked for will not come from this peer, or not the rest of it. No [`Event::Received`] follows.
    Abandoned(Block),
    /// A block has begun (perhaps with no byte yet), or a part of it arrived: about every 128 KiB, every 20 ms of a
    /// fast one and every 100 ms of a slow one; or more is there, and has waited for the rate limit for another second.
    /// What no `Progress` told is implied by [`Event::Received`].
    Progress {
        /// The block.
        block: Block,
        /// Bytes since the last `Progress` of this block; may be none.
        bytes: u32,
    },
    /// A whole block arrived, unverified.
    Received {
        /// The block.
        block: Block,
        /// Its bytes, as many as the block has.
        data: BlockBuf,
    },
    /// The last byte of an answer went to the kernel, which holds no more than some milliseconds' worth unsent.
    Served {
        /// The block.
        block: Block,
    },
    /// The peer sent a message of our own kind.
    Extension(Extension),
    /// The connection ended. Always the last event.
    Closed(CloseReason),
}

impl From<PeerEvent> for Event {
    fn from(event: PeerEvent) -> Self {
        match event {
            PeerEvent::Bitfield(field) => Self::Bitfield(field),
            PeerEvent::Have(piece) => Self::Have(piece),
            PeerEvent::Choked => Self::Choked,
            PeerEvent::Unchoked => Self::Unchoked,
            PeerEvent::Interested(interested) => Self::Interested(interested),
            PeerEvent::Requested(block) => Self::Requested(block),
            PeerEvent::Cancelled(block) => Self::Cancelled(block),
            PeerEvent::Abandoned(block) => Self::Abandoned(block),
            PeerEvent::Extension(extension) => Self::Extension(extension),
        }
    }
}

/// More than [`COMMANDS_MAX`] commands wait in front of a connection: it is stuck and best given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {COMMANDS_MAX} commands wait for one connection")]
pub struct Overflow;

/// The sending end of a connection's commands. When all of them are gone, the connection ends.
#[derive(Debug, Clone)]
pub struct CommandSender(mpsc::Sender<Command>);

/// The end that [`drive`](super::drive) takes.
#[derive(Debug)]
pub struct CommandReceiver(mpsc::Receiver<Command>);

/// Makes the two ends of a connection's commands.
pub fn command_channel() -> (CommandSender, CommandReceiver) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    (CommandSender(sender), CommandReceiver(receiver))
}

impl CommandSender {
    /// Queues a command; never waits. For a connection that has ended, nothing happens.
    ///
    /// # Errors
    /// [`Overflow`] when too many wait already.
    pub fn send(&self, command: Command) -> Result<(), Overflow> {
        match self.0.try_send(command) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Overflow),
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl CommandReceiver {
    /// Takes all commands that wait, at least one; false when no more will come.
    pub(super) async fn receive(&mut self, into: &mut Vec<Command>) -> bool {
        self.0.recv_many(into, 1024).await > 0
    }
}
