//! The fleet's own cloud: what Delivery Optimization's five cloud services do, in one process or in several.
//!
//! [`array`] is a pure core: no clock, no randomness and no socket of its own.

pub mod array;
