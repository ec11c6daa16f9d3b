//! The seam to rate limits.

use dosvc_polite::Manner;
use std::future::{Future, ready};
use std::pin::Pin;

/// A rate limit that connections draw from, in bytes of blocks (what else goes over the wire is not counted).
pub trait Throttle: Send + Sync {
    /// Waits until this many bytes may move. Called with at most [`Self::slice`] bytes, so that limits are smooth.
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// True while there is no limit; then [`Self::take`] is not called.
    fn is_unlimited(&self) -> bool;

    /// Bytes to take at once at the present rate, at least one. Default 16 KiB.
    fn slice(&self) -> u32 {
        16 << 10
    }

    /// The limit in bytes a second, if there is one: so much need not be under way at once.
    fn rate(&self) -> Option<u64> {
        None
    }

    /// True while what passes here is to give way to whatever else is on the way (see `dosvc_polite`). May change at
    /// any time.
    fn is_background(&self) -> bool {
        false
    }

    /// How a connection that is read through this is to be.
    fn manner(&self) -> Manner {
        Manner {
            background: self.is_background(),
            rate: self.rate(),
            share: None,
        }
    }
}

/// No limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Throttle for Unlimited {
    fn take(&self, _bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(ready(()))
    }

    fn is_unlimited(&self) -> bool {
        true
    }
}
