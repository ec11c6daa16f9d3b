//! Byte budgets: token buckets, and the gates that connections and HTTP bodies pass through.
//!
//! [`TokenBucket`] is pure (`now` is an argument); [`Limiter`] adds waiting. A bucket may go into debt by one
//! request, so that a request larger than the bucket still passes, and the next one waits the debt out: over time
//! the rate is exact, and no burst is longer than one bucket.

use dosvc_content::ByteRate;
use dosvc_wire::net::Throttle;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How much of a second a full bucket holds.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket: `rate` bytes a second, at most a tenth of a second's worth saved up.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    rate: Option<ByteRate>,
    /// Bytes that may pass now; negative: debt.
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self {
            rate: None,
            tokens: 0.0,
            filled_at: now,
        }
    }

    /// Debts to the old rate are forgiven: at a few bytes a second they may be hours.
    fn set_rate(&mut self, rate: Option<ByteRate>, now: Instant) {
        self.fill(now);
        self.rate = rate;
        self.tokens = self.tokens.clamp(0.0, self.capacity());
    }

    /// Takes the bytes and says how long the taker has to wait before it uses them.
    fn take(&mut self, bytes: u32, now: Instant) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        self.fill(now);
        self.tokens -= f64::from(bytes);
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-self.tokens / per_second(rate))
    }

    fn fill(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
            self.tokens = (self.tokens + elapsed * per_second(rate)).min(self.capacity());
        }
        self.filled_at = now;
    }

    fn capacity(&self) -> f64 {
        self.rate
            .map_or(0.0, |r| per_second(r) * BURST.as_secs_f64())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate past 2^53 bytes a second does not exist"
)]
fn per_second(rate: ByteRate) -> f64 {
    rate.bps() as f64
}

/// One budget, shared by everything that it limits.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Mutex<TokenBucket>,
    limited: AtomicBool,
    changed: Notify,
}

impl Limiter {
    pub(crate) fn new(rate: Option<ByteRate>) -> Self {
        let limiter = Self {
            bucket: Mutex::new(TokenBucket::new(Instant::now())),
            limited: AtomicBool::new(false),
            changed: Notify::new(),
        };
        limiter.set_rate(rate);
        limiter
    }

    /// Changes the budget; takes effect at once, for those who wait too. `None`: no limit.
    pub(crate) fn set_rate(&self, rate: Option<ByteRate>) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.rate == rate {
            return;
        }
        bucket.set_rate(rate, Instant::now());
        drop(bucket);
        self.limited.store(rate.is_some(), Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    fn is_unlimited(&self) -> bool {
        !self.limited.load(Ordering::Relaxed)
    }

    /// Waits until the bytes may pass.
    pub(crate) async fn take(&self, bytes: u32) {
        if self.is_unlimited() {
            return;
        }
        // Made before the rate is looked at, so that no change is missed.
        let changed = self.changed.notified();
        let wait = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }
}

/// The device's budgets (policies, sections 5.2 and 5.5). LAN peers are exempt from all of them.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// Foreground downloads together.
    pub(crate) foreground: Limiter,
    /// Background downloads together.
    pub(crate) background: Limiter,
    /// Uploads to Internet peers.
    pub(crate) upload: Limiter,
}

/// What a swarm's downloads beyond the LAN pass through: the foreground or the background budget, as the swarm's
/// priority is at that moment.
#[derive(Debug)]
pub(crate) struct DownloadGate {
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) foreground: Arc<AtomicBool>,
}

impl DownloadGate {
    fn limiter(&self) -> &Limiter {
        if self.foreground.load(Ordering::Relaxed) {
            &self.budgets.foreground
        } else {
            &self.budgets.background
        }
    }
}

impl Throttle for DownloadGate {
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.limiter().take(bytes))
    }

    fn is_unlimited(&self) -> bool {
        self.limiter().is_unlimited()
    }
}

/// What uploads to Internet peers pass through.
#[derive(Debug)]
pub(crate) struct UploadGate(pub(crate) Arc<Budgets>);

impl Throttle for UploadGate {
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.upload.take(bytes))
    }

    fn is_unlimited(&self) -> bool {
        self.0.upload.is_unlimited()
    }
}

/// LAN traffic: no limit.
#[derive(Debug)]
pub(crate) struct OpenGate;

impl Throttle for OpenGate {
    fn take(&self, _: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn is_unlimited(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_exact_over_time_and_no_burst_exceeds_the_bucket() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        bucket.set_rate(ByteRate::from_bps(1_000_000), start);
        // Idle for a minute: still only a tenth of a second is saved up.
        let mut now = start + Duration::from_secs(60);
        let begun = now;
        let mut passed = 0u64;
        while now < begun + Duration::from_secs(10) {
            now += bucket.take(16_384, now);
            passed += 16_384;
        }
        assert!((10_000_000..=10_150_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_and_is_paid_for() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(now);
        bucket.set_rate(ByteRate::from_bps(1000), now);
        assert_eq!(bucket.take(2000, now), Duration::from_secs(2));
        assert_eq!(
            bucket.take(1000, now + Duration::from_secs(2)),
            Duration::from_secs(1)
        );
    }

    #[tokio::test]
    async fn who_waits_under_a_tiny_limit_goes_on_when_it_is_raised() {
        let limiter = Arc::new(Limiter::new(ByteRate::from_bps(1)));
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.take(1 << 20).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        limiter.set_rate(ByteRate::from_bps(1 << 30));
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .expect("woken")
            .expect("no panic");
    }

    #[test]
    fn lifting_the_limit_takes_effect_at_once() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(now);
        bucket.set_rate(ByteRate::from_bps(1), now);
        assert!(bucket.take(1000, now) > Duration::from_secs(100));
        bucket.set_rate(None, now);
        assert_eq!(bucket.take(1000, now), Duration::ZERO);
    }
}
