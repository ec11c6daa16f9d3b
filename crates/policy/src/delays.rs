//! How long better sources have before HTTP stands in for them.

use crate::Policies;
use std::time::Duration;

/// The delays of one priority. They follow each other: peers have their time first, cache hosts theirs after it
/// (policies, section 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HttpDelays {
    /// How long peers are alone before HTTP is used at all, the cache host included.
    pub for_peers: Duration,
    /// How long cache hosts that fail are tried before the origin stands in.
    pub cache_fallback: Duration,
}

/// The delays of a foreground or a background download; what is not set is no delay.
pub fn http_delays(policies: &Policies, foreground: bool) -> HttpDelays {
    if foreground {
        HttpDelays {
            for_peers: policies.delay_foreground_download_from_http(),
            cache_fallback: policies.delay_cache_server_fallback_foreground(),
        }
    } else {
        HttpDelays {
            for_peers: policies.delay_background_download_from_http(),
            cache_fallback: policies.delay_cache_server_fallback_background(),
        }
    }
}
