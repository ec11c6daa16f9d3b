//! The store on a real disk: what it promises in use, in faults and in crashes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod crash;
mod deliver;
mod faults;
mod files;
mod rig;
mod usage;
