//! The seam to rate limits.

use std::future::{Future, ready};
use std::pin::Pin;

/// A rate limit that connections draw from, in bytes of blocks (what else goes over the wire is not counted).
pub trait Throttle: Send + Sync {
    /// Waits until this many bytes may move. Called with at most 16 KiB at a time, so that limits are smooth.
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// True while there is no limit; then [`Self::take`] is not called.
    fn is_unlimited(&self) -> bool;
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
