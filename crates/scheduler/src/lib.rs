//! One swarm's decisions: one content on one machine. What to ask of whom, whom to serve with what, when to use
//! HTTP, whom to demote or ban, and why.
//!
//! A pure, deterministic core: no socket, no file, no clock, no task. Facts go in through `handle_*` methods with
//! `now` as an argument; decisions come out of [`Swarm::poll_command`], and [`Swarm::poll_timeout`] says when to call
//! [`Swarm::handle_timeout`] next. After every call of a `handle_*` or `set_*` method, poll all commands. The same
//! calls with the same seed give the same commands. Bytes of content never come here.
//!
//! What holds at any time:
//! - A piece is exactly one of missing, wanted (some of it asked for), checking (all here, hash not known yet), have;
//!   `pieces.rs` is the one place that knows.
//! - Nothing is asked of a source that did not say it has it; nothing is served that was not verified.
//! - A block is in flight at one source; at a second one only when that is expected to finish well before the first,
//!   and then the loser is cancelled.
//! - Whatever a peer can make grow is capped in [`Limits`].
//!
//! Entry type: [`Swarm`].

mod command;
mod config;
mod explain;
mod limits;
mod meter;
mod picker;
mod pieces;
mod rng;
mod slots;
mod sorted;
mod source;
mod stats;
mod swarm;

pub use command::{
    BanReason, BlockUse, Command, DisconnectReason, FetchEnd, FetchId, Lead, Refusal,
};
pub use config::{Giving, SwarmConfig};
pub use explain::{Delay, DelayKind, SourceReport, SourceState, Waiting};
pub use limits::Limits;
pub use picker::{Picker, Shelf, Shortlist};
pub use source::{SourceId, SourceInfo, SourceKind};
pub use stats::{Activity, KindBytes, Stats};
pub use swarm::Swarm;
