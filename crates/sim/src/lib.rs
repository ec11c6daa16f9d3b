//! Fleets in virtual time, for tests and measurements
