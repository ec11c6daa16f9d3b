//! What a thread has had of a processor.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The time that a processor has spent on the calling thread so far. Unlike time on the clock it does not grow while the
/// thread waits for a processor.
pub fn processor_time() -> Duration {
    // Never negative.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
