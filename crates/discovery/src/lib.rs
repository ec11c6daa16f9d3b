//! Finding peers: on the link, without any service, and beyond it through the fleet's own [`cloud`].
//!
//! On the link: DNS-SD (RFC 6763) over multicast DNS (RFC 6762).
//!
//! A machine is one service instance, `<peer id>._dosvc._tcp.local.`; each content that it holds or downloads is a
//! subtype of the service, named by a hash of the content's hash of hashes and the group's hash. So a machine asks
//! for the holders of one content, and one packet brings their ports and addresses. Holding a content costs an entry
//! in a set and no packet.
//!
//! What must hold: nothing is sent, joined or woken for while nothing is held and nothing searched. A packet counts
//! only if its sender stands on the link that it came over, an address only if it lies on that link. Whatever the
//! link can make this crate keep or do is bounded in `limits.rs`. What to say and to ask is decided in pure modules
//! (`core` and below); sockets and time are in `driver`, `sockets` and `discovery`.
//!
//! Entry types: [`Discovery`], [`DiscoveryConfig`], [`Search`], [`Found`].

mod budget;
pub mod cloud;
mod core;
mod discovery;
mod driver;
mod label;
mod limits;
mod link;
mod packet;
mod random;
mod responder;
mod schedule;
mod searches;
mod sockets;
mod subject;

pub use discovery::{
    Discovery, DiscoveryConfig, DiscoveryError, InterfaceFilter, MDNS_PORT, Search,
};
pub use searches::Found;

/// Reads a packet as if it had come over the link; what `fuzz/` calls.
#[cfg(fuzzing)]
pub fn fuzz_packet(bytes: &[u8]) {
    let _packet = packet::read(bytes);
}
