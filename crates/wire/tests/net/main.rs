//! The driver over loopback: two of them with one another, and one against peers of every kind.

#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers, and random ones"
)]

mod exchange;
mod group;
mod handshake;
mod hostile;
mod limits;
mod relay;
mod rig;
