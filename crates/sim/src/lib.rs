//! The rig: fleets in virtual time. Many machines in one thread, deterministic by seed, each with the real cores: its
//! [`dosvc_scheduler::Swarm`], a real [`dosvc_wire::Connection`] for each end of each connection, whose bytes go through
//! the real encoder and decoder, and [`dosvc_policy`], which decides who may be whose peer and how long HTTP waits. For
//! tests and measurements only.
//!
//! # The model
//!
//! Every machine has an uplink and a downlink with a rate, and a latency to the middle of the network; an origin or a
//! cache host is one more machine. Bytes of blocks are counted, not carried. They move in cells (64 KiB, what
//! segmentation offload makes of them) through the sender's send buffer, its congestion window, its uplink's queue, and
//! the receiver's downlink's queue. [`Network::tcp`] is what a network namespace with a token bucket on both sides of
//! its link does:
//!
//! - A block is *served* when its last byte is in the send buffer, which is long before it has left; what is said to the
//!   same peer meanwhile waits behind it. The buffer grows with the window to six times its size, 4 MiB at most; both
//!   that and the unsent part can be limited.
//! - A connection begins with ten segments, doubles until its round trip grows (HyStart), continues with CUBIC, halves
//!   with idleness, and loses three tenths with a loss. At most two cells of a connection stand in the uplink's queue,
//!   so connections take turns.
//! - Whatever reaches a downlink whose queue is full is lost, noticed a round trip later and sent again; what is behind
//!   it waits. Acknowledgements and messages wait in both queues, too, so a busy neighbour is slow to answer.
//! - Headers take 4.6 % of a link. A link may be ahead by its burst.
//!
//! [`Network::ideal`] is the same without send buffers, losses and headers: links are used fully while anybody has
//! something to send.
//!
//! What is passed on while it arrives goes out as far as it has come, in parts of 16 KiB at least, but for its last 64 KiB
//! until the piece is verified.
//!
//! Checking a piece takes time in proportion to its length. HTTP fetches use kept connections whose windows have fallen
//! back: one round trip, then slow start.
//!
//! Left out: NAT, CPUs, disks, reordering; loss in the uplink's queue.
//!
//! # What is checked
//!
//! At each step: nothing unverified is served to its end, nobody breaks the wire's rules (an unrequested block, a piece outside the
//! content, a garbled message), what is verified is had, and who is done has everything. The scheduler's own invariants
//! are checked of one machine after the other ([`Scenario::check_every`]) and of all at the end. A failure prints its
//! seed and the command to repeat it.

mod network;
mod outcome;
mod plot;
mod queue;
mod scenario;
mod topology;
mod world;

pub use network::{Network, NetworkModel};
pub use outcome::{Copies, Idleness, MachineOutcome, Outcome, STEP};
pub use plot::{PlotError, plot};
pub use scenario::{Change, Link, Machine, Role, Scenario};
pub use topology::{MACHINES_MAX, TopologyError};
pub use world::run;
