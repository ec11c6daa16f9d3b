//! The most that one side accepts from the other.

/// Bytes of a query, without the `?`.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;

/// Bytes of the body of a join.
pub const JOIN_BYTES_MAX: usize = 8 * 1024;

/// Bytes of any answer.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Bytes of an address or a template of one.
pub const URL_BYTES_MAX: usize = 2048;

/// Bytes of a client's version, such as `10.1.0.13`.
pub const VERSION_BYTES_MAX: usize = 64;

/// Bytes of a value that is passed on without being understood: cache id, partition, group of a query.
pub const TAG_BYTES_MAX: usize = 256;

/// Cache hosts in one value, with their commas.
pub const CACHE_HOST_BYTES_MAX: usize = 1024;

/// Values of a key-value answer.
pub const SETTINGS_MAX: usize = 256;

/// Bytes of one value of a key-value answer.
pub const SETTING_BYTES_MAX: usize = 8 * 1024;

/// Callers in `Client_RegisteredCallersFilterList`.
pub const CALLERS_MAX: usize = 256;

/// URLs of one kind in a content policy.
pub const CONTENT_URLS_MAX: usize = 16;

/// Array services that discovery names for one content.
pub const ARRAYS_MAX: usize = 16;

/// Peers in the array's answer, whatever a client asks for; Windows asks for 255.
pub const PEERS_MAX: usize = 255;

/// The least and most seconds between two joins that a client is told.
pub const NEXT_JOIN_SECONDS: std::ops::RangeInclusive<u32> = 10..=86_400;
