//! Connections: listening and dialing by TCP, the handshake, and [`drive`], which runs one connection of any
//! [`Transport`] until it ends.
//!
//! ```no_run
//! # use dosvc_wire::{Handshake, Limits, net::*};
//! # use std::{sync::Arc, time::Duration};
//! # async fn example(addr: std::net::SocketAddr, ours: Handshake, lengths: dosvc_content::PieceLengths)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let mut stream = dial(addr, Duration::from_secs(5)).await?;
//! send_handshake(&mut stream, &ours).await?;
//! let theirs = receive_handshake(&mut stream, Duration::from_secs(10)).await?;
//! assert_eq!(theirs.swarm, ours.swarm);
//! let (commands, receiver) = command_channel();
//! let (events, mut inbox) = tokio::sync::mpsc::channel(256);
//! let params = DriveParams {
//!     key: 1,
//!     lengths: Some(lengths),
//!     limits: Limits::default(),
//!     pool: BlockPool::new(1 << 20, 64),
//!     down: Arc::new(Unlimited),
//!     up: Arc::new(Unlimited),
//!     feeds: Feeds::default(),
//!     events,
//! };
//! let connection = tokio::spawn(drive(stream, params, receiver));
//! commands.send(Command::Interested(true))?;
//! while let Some((_key, event)) = inbox.recv().await {
//!     if let Event::Closed(reason) = event {
//!         println!("{reason}");
//!     }
//! }
//! # Ok(()) }
//! ```

mod channel;
mod driver;
mod feed;
mod group;
mod handshake;
mod listener;
mod loaded;
mod pool;
mod reason;
mod throttle;
mod transport;

pub use channel::{
    Body, Command, CommandReceiver, CommandSender, Event, Overflow, command_channel,
};
pub use driver::{DriveParams, drive};
pub use feed::{Feed, Feeds};
pub use group::{
    Credentials, GroupError, GroupParams, PeerHello, Reached, Role, VerifiedPeer,
    exchange_group_proof, prove_group, verify_group,
};
pub use handshake::{HandshakeError, receive_handshake, send_handshake};
pub use listener::{Listener, dial};
pub use loaded::Loaded;
pub use pool::{BlockBuf, BlockPool};
pub use reason::CloseReason;
pub use throttle::{Throttle, Unlimited};
pub use transport::{ByteStream, ReadHalf, SendFileError, Transport, WriteHalf, read_part};
