//! The seam to rate limits: what connections draw from.

use crate::flow::Manner;
use std::future::{Future, ready};
use std::pin::Pin;

/// A rate limit that connections draw from, in bytes as an interface counts them.
pub trait Throttle: Send + Sync {
    /// Waits until this many bytes may move. Called for about [`Self::slice`] bytes at a time, so that limits are smooth.
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// So many bytes have moved that nobody had taken: they are owed.
    fn charge(&self, bytes: u64);

    /// So many bytes have moved, with a limit or without.
    fn count(&self, bytes: u64) {
        let _ = bytes;
    }

    /// True while there is no limit; then nothing is taken or charged.
    fn is_unlimited(&self) -> bool;

    /// Bytes of content to move at once at the present rate, at least one. Default 16 KiB.
    fn slice(&self) -> u32 {
        16 << 10
    }

    /// The limit in bytes a second, if there is one: so much need not be under way at once.
    fn rate(&self) -> Option<u64> {
        None
    }

    /// True while what passes here is to give way to whatever else is on the way. May change at any time.
    fn is_background(&self) -> bool {
        false
    }

    /// How a connection that is read through this is to be.
    fn manner(&self) -> Manner {
        Manner {
            background: self.is_background(),
            rate: self.rate(),
            inflow: None,
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

    fn charge(&self, _bytes: u64) {}

    fn is_unlimited(&self) -> bool {
        true
    }
}
