//! Named bounds on whatever a caller, a server or a peer can make grow.

use std::time::Duration;

/// Most URLs kept for one content; the first ones given stay.
pub const URLS_MAX: usize = 32;
/// Longest URL kept, in bytes; a longer one is left out.
pub const URL_BYTES_MAX: usize = 8 << 10;
/// Longest content id kept, in bytes; a longer one is left out.
pub const CONTENT_ID_BYTES_MAX: usize = 1 << 10;
/// Longest validator (ETag, Last-Modified) of plain content, in bytes; a longer one is refused.
pub const VALIDATOR_BYTES_MAX: usize = 4 << 10;
/// Furthest a pin or an expiry may lie ahead (download-modes, section 8: one year).
pub const PIN_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Memory that the state database may use for its pages, in bytes.
pub const DATABASE_CACHE_BYTES: usize = 1 << 20;
/// Largest snapshot read from or written to the state database, in bytes: the bitfield of 2^24 pieces is 2 MiB.
pub const SNAPSHOT_BYTES_MAX: usize = 4 << 20;
/// Memory that may remember which pieces of closed contents were checked, in bytes: a bit for each piece.
pub const CHECKS_BYTES_MAX: usize = 2 << 20;
/// Most threads that one call hashes on.
pub const HASH_THREADS_MAX: usize = 16;
/// Memory that each thread reads into while it hashes a file, in bytes.
pub(crate) const HASH_BUFFER_BYTES: usize = 256 << 10;
/// Bytes read at a time when a file is copied; lives on the stack.
pub(crate) const COPY_CHUNK_BYTES: usize = 64 << 10;
