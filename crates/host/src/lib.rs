//! What the machine is: its network interfaces and the subnets they stand in, its memory, the disk under a
//! folder, its local time. Facts only; what follows from them is decided in `dosvc-policy` and above.
//!
//! Entry types: [`Interface`] and [`interfaces`], [`Links`], [`Disk`] and [`disk`], [`memory_total`],
//! [`memory_available`], [`local_time`].

mod disk;
mod interface;
mod links;
mod memory;

pub use disk::{Disk, disk};
pub use interface::{Interface, interfaces};
pub use links::Links;
pub use memory::{memory_available, memory_total};

/// The time of day, the date and the zone as a person at this machine reads them: what timetables (business
/// hours, throttling hours) are written in.
pub fn local_time() -> jiff::Zoned {
    jiff::Zoned::now()
}
