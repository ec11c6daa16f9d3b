//! Background traffic that gives way.
//!
//! - [`ledbat`]: how much may be under way, a pure core: no socket, no clock.
//! - [`flow`]: the same for a TCP connection, as its receiver ([`Receiving`]) or its sender ([`Sending`]).
//! - [`socket`]: what the kernel knows of a connection and can be told about it.
//! - [`Receivers`]: flows of connections that outlive the one who reads from them.
//!
//! What it does not do: know what is background, limit to a given rate, wait.

pub mod flow;
pub mod ledbat;
mod receivers;
pub mod socket;

pub use flow::{Manner, Receiving, Sending};
pub use ledbat::{Ack, Ledbat};
pub use receivers::{Ends, Receiver, Receivers};
