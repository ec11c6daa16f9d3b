//! Verified pieces on disk: the cache that a device downloads into, serves from and hands files over from.
//!
//! The crate is synchronous: positional reads and writes on one sparse file per content, no thread and no timer of
//! its own, no async runtime. Callers run it on a bounded pool of blocking threads; everything is `Send + Sync` and
//! shared by `Arc`. It knows nothing of networks, peers or policies.
//!
//! What holds (the argument is in `docs/store.md`):
//!
//! 1. A piece counts as had only after its SHA-256 was right (or, without a hash file, after it was written whole).
//! 2. On disk the order is always: data written, data synced, claim committed. A crash loses what was not synced
//!    yet, never makes a claim false, and most of what was lost is found again by [`Content::recover`].
//! 3. A byte is served only if its piece was hashed in this process's life and the file has not changed since.
//! 4. A file appears at its destination whole or not at all.
//! 5. An error loses nothing that was had; it says what failed, where, and what to do.
//!
//! Entry types: [`Store`], [`Content`], [`plan_eviction`], [`place`], [`hash_file_of`], [`verify_file`].

mod checks;
mod content;
mod error;
mod evict;
mod files;
mod hashing;
mod info;
mod key;
mod layout;
mod ledger;
pub mod limits;
mod place;
mod processor;
mod snapshot;
mod stamp;
mod steps;
mod store;

pub use content::{
    Accepted, Arrival, Content, Deliver, FileRange, PieceCheck, Recovered, accept_pieces,
};
pub use error::{DeliverError, FileError, OpenError, ServeError, StoreError};
pub use evict::{CacheLimits, Candidate, EvictReason, Evicted, plan_eviction};
use files::verify_file_pieces;
pub use files::{hash_file_of, verify_file};
pub use info::{AddInfo, ContentInfo};
pub use key::{ContentKey, PlainKey};
pub use place::{Delivered, Durability, Method, place};
pub use processor::processor_time;
pub use store::{LocalFile, Sharing, Store, StoreConfig};
