//! Every Delivery Optimization policy as a typed value, and what it permits: which sources a download mode opens,
//! which peers are inside its scope, what the device and the content narrow, how large the cache may be.
//!
//! Everything here is a pure function of its arguments: no file, no clock, no socket. [`POLICIES`] is the one table
//! that the parser and the documents come from.
//!
//! Entry types: [`Policies`] (values with their [`Provider`]), [`permits`] and [`effective_mode`], [`peer_class`],
//! [`gates`], [`resolve_group`], [`cache_bytes_max`], [`download_limit`] with its [`Estimator`], [`MonthlyUploads`].

mod available;
mod bandwidth;
mod cache;
mod delays;
mod device;
pub mod document;
mod evidence;
mod gates;
mod group;
mod hours;
mod mode;
mod month;
mod policies;
mod provider;
mod scope;
mod spelling;
mod table;
mod value;

pub use available::Estimator;
pub use bandwidth::{
    DYNAMIC_BACKGROUND, DYNAMIC_FOREGROUND, DownloadLimit, LimitSource, Priority, download_limit,
};
pub use cache::{CacheLimit, DiskSpace, KEEP_FREE_DEFAULT, cache_bytes_max, writable_bytes};
pub use delays::{HttpDelays, http_delays};
pub use device::{Adapter, AdapterKind, Device, Power};
pub use evidence::Evidence;
pub use gates::{Closed, Gate, Gates, GroupStanding, gates, vpn};
pub use group::{GroupFacts, GroupFrom, ResolvedGroup, resolve_group};
pub use hours::Hours;
pub use mode::{
    ContentFacts, EffectiveMode, ModeReason, ModeRefused, Permits, SIMPLE_BELOW_BYTES, admit,
    effective_mode, is_within, permits,
};
pub use month::{Month, MonthlyUploads};
pub use policies::{
    BUILT_IN_VPN_KEYWORDS, CacheHostSource, GroupIdSource, PeerRestriction, Policies, PolicyError,
    PolicyRow,
};
pub use provider::Provider;
pub use scope::{OutOfScope, PeerClass, RemoteFacts, peer_class};
pub use spelling::{nearest, shown_key};
pub use table::{Allowed, POLICIES, Policy, PolicySpec, Unit};
pub use value::{Percent, RawValue};
