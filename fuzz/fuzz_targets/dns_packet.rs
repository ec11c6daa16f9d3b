//! A multicast DNS packet from anybody on the link.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dosvc_discovery::fuzz_packet(bytes));
