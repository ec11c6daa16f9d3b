//! The seam to rate limits: [`dosvc_polite`]'s, under the names that drivers use.

pub use dosvc_polite::{Throttle, Unlimited};
