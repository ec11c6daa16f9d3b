//! Jobs and swarms: the shells around the pure cores.
//!
//! An [`Engine`] owns a state folder. Each job (what a caller asked for) is driven by a task of its own; each content
//! that is downloaded or served has one swarm task that owns its scheduler, connections and HTTP sources. Facts flow
//! to the scheduler, its commands are carried out, and nothing but the owner task touches it.
//!
//! Channels are bounded everywhere. Bytes of content take one way: from the socket into a pooled buffer, from there
//! through the hash to the disk on the blocking pool; uploads go from the page cache to the socket.
//!
//! Entry types: [`Engine`], [`EngineConfig`], and the plain values in [`api`].

pub mod api;
mod bandwidth;
mod bans;
mod cache;
mod cache_hosts;
mod calls;
mod cloud;
mod config;
mod counters;
mod dial;
mod doors;
mod engine;
mod errors;
mod explain;
mod identity;
mod incoming;
mod jobs;
mod limiter;
mod machine;
mod mapped;
mod membership;
mod metadata;
mod month;
mod places;
mod quic;
mod request;
mod room;
mod route;
mod shared;
mod stream;
mod swarm;
mod terms;
mod tunnel;
mod turns;
mod upkeep;
mod uploads;
mod workers;

pub use config::{
    CloudSettings, EngineConfig, EnrolmentSettings, GroupSecret, MembershipSettings, NatSettings,
};
pub use dosvc_nat::teredo::client::ServerAddresses;
pub use dosvc_wire::Demand;
pub use engine::{Engine, EngineError};
pub use membership::{MembershipError, enrol_device};
pub use quic::QuicUse;
pub use tunnel::{TeredoSettings, TunnelReport};
