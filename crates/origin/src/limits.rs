//! Caps on everything that a server or a caller can make grow.

use std::time::Duration;

/// The most URLs that one content is fetched from; further ones are left out.
pub const URLS_MAX: usize = 32;

/// The longest entity tag that is kept; a longer one is taken for none.
pub const ETAG_BYTES_MAX: usize = 1024;

/// The longest `Last-Modified` value that is kept. HTTP dates have 29 bytes, the obsolete forms up to 33.
pub(crate) const LAST_MODIFIED_BYTES_MAX: usize = 64;

/// The longest `scheme://host:port` that is kept: a DNS name has at most 253 bytes.
pub(crate) const SERVER_BYTES_MAX: usize = 300;

/// The longest byte form of a validator.
pub const VALIDATOR_BYTES_MAX: usize =
    2 + 9 + 3 * 3 + ETAG_BYTES_MAX + LAST_MODIFIED_BYTES_MAX + SERVER_BYTES_MAX;

/// The longest time that a server may send us away for with `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// The longest `Location` that is followed, in bytes.
pub(crate) const LOCATION_BYTES_MAX: usize = 8 * 1024;

/// A body that comes slower than this over a whole idle timeout counts as stalled: 4000 bytes/s, as the Linux
/// agent has it (client workflow, section 7.2). Only time spent waiting for the server counts.
pub const SPEED_FLOOR_BYTES_PER_SECOND: u64 = 4000;

/// A body that failed after this many bytes was progress: the next failure starts the back-off anew.
pub(crate) const PROGRESS_BYTES_MIN: u64 = 64 * 1024;

/// The longest cause text in an error message, in bytes.
pub(crate) const CAUSE_BYTES_MAX: usize = 512;

/// How long the name of an original host may take to resolve when a redirect is judged.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest page of a redirect that is read to keep its connection, in bytes.
pub(crate) const PAGE_BYTES_MAX: u64 = 4096;

/// So much of a small file is looked at while it arrives, to tell it from something else.
pub(crate) const LOOKED_AT_BYTES: usize = 512;
