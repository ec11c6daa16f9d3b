//! Fleets in virtual time: many real [`dosvc_scheduler::Swarm`]s in one thread, deterministic by seed. For tests and
//! measurements only.
//!
//! # The model
//!
//! Every machine has an uplink and a downlink with a rate and a one-way latency; the origin is one more machine. Bytes
//! of content move in cells (64 KiB). An uplink sends one cell at a time, in turn over the transfers that have a cell
//! left and an open window (8 cells not yet acknowledged, as a TCP connection has); a cell travels for the sum of both
//! latencies and then queues at the receiver's downlink, first come first served. So links are used fully while
//! anybody has something to send, two senders share a receiver's link, and a congested receiver slows its senders down
//! and leaves their uplinks to others.
//!
//! One connection is one ordered stream each way: a message that is sent while a block is on its way to the same peer
//! leaves after that block, as on TCP. Messages take the latency and no bandwidth. Checking a piece takes 1 ms.
//! A block counts as served when its last cell left the uplink. HTTP fetches use kept connections: one round trip, then
//! data. Headers, loss and slow start are left out.
//!
//! Checked at each step of each machine: nothing unverified is served, a request asks only for what was announced. The
//! cores' own invariants are checked every so often ([`Scenario::check_every`]).

mod network;
mod outcome;
mod scenario;
mod world;

pub use outcome::{Idleness, MachineOutcome, Outcome};
pub use scenario::{Change, Link, Machine, Role, Scenario};
pub use world::run;
