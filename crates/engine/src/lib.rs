//! Jobs and swarms: the shells around the pure cores. One owner task per swarm feeds the scheduler with facts and
//! carries out what it says.
//!
//! Entry types: the engine, the plain values in [`api`] that commands and the local API show.

pub mod api;
