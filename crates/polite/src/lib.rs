//! Traffic that keeps to limits and gives way.
//!
//! - [`ledbat`]: how much may be under way in the background, a pure core: no socket, no clock.
//! - [`mod@line`]: the same for all connections that share a machine's own line, pure as well.
//! - [`flow`]: LEDBAT++ for a TCP connection, as its receiver ([`Receiving`]) or its sender ([`Sending`]).
//! - [`account`]: what a limited connection paid for and what came, pure.
//! - [`Throttle`]: the seam to limits; [`Intake`] and [`Outlet`]: the two directions of a connection that has one.
//! - [`socket`]: what the kernel knows of a connection and can be told about it.
//!
//! What it does not do: know what is background or what the limits are, wait.

pub mod account;
#[cfg(test)]
mod bottleneck;
pub mod flow;
pub mod ledbat;
pub mod limited;
pub mod line;
pub mod socket;
pub mod throttle;

pub use account::{Account, on_wire};
pub use flow::{Manner, Receiving, Sending};
pub use ledbat::{Ack, Ledbat};
pub use limited::{Intake, Leave, Outlet};
pub use line::{Line, Member};
pub use throttle::{Throttle, Unlimited};
