//! Byte budgets: token buckets, and the gates that connections and HTTP bodies pass through.
//!
//! [`TokenBucket`] is pure (`now` is an argument); [`Limiter`] adds waiting. What holds:
//!
//! - Over any time no more is let through than the rate allows in it, and one bucket ([`BUCKET`]) and one part
//!   ([`slice`]) of each taker more. Every byte is paid for, whatever happens to the rate meanwhile.
//! - What could not pass because a busy machine woke those late who waited passes later, at one part in [`CATCH_UP`] above
//!   the rate, so that the rate is met on such a machine too.
//! - Takers are served in the order in which they came, those in the foreground first. Each takes a part at a time, so
//!   connections share evenly.
//! - A new rate is in force at once, for those who wait too.
//! - No timer without somebody who waits, and then at most 500 a second each.
//!
//! A rate is what crosses the network's interface, as an administrator reads its counters. `dosvc_polite::limited` says
//! how connections come to take just that.

use dosvc_content::ByteRate;
use dosvc_policy::Priority;
use dosvc_polite::{Manner, Throttle};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How long it takes to fill the bucket: what is saved up at most, and passes at once after a pause.
const BUCKET: Duration = Duration::from_millis(15);
/// What overflows while somebody waits, because timers were late, is made up for: by so much in addition to the rate, one
/// part of this many …
const CATCH_UP: u64 = 200;
/// … and no more of it is remembered than passes in this time.
const MISSED_MAX: Duration = Duration::from_millis(500);
/// Parts last this long, so that they are smooth and few at any rate …
const SLICE: Duration = Duration::from_millis(4);
/// … but no smaller: one segment …
const SLICE_MIN: u32 = 1448;
/// … and no larger.
const SLICE_MAX: u32 = 512 << 10;
/// Nobody waits for less than this. What is not waited for is owed.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// Bytes that are taken at once at a rate.
fn slice(rate: Option<ByteRate>) -> u32 {
    let bytes = rate.map_or(u64::MAX, |rate| in_time(rate, SLICE));
    u32::try_from(bytes)
        .unwrap_or(u32::MAX)
        .clamp(SLICE_MIN, SLICE_MAX)
}

/// Bytes at a rate in a time.
fn in_time(rate: ByteRate, time: Duration) -> u64 {
    let bytes = u128::from(rate.bps()) * time.as_nanos() / NANOS;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Nanoseconds in a second.
const NANOS: u128 = 1_000_000_000;

/// A place in a bucket's queue: may pass when all before it and itself are paid.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    priority: Priority,
    /// Bytes of the same priority that were ever taken, these included.
    end: u64,
}

/// A token bucket that hands out places. All numbers of bytes count from the beginning, so none of it can be lost.
#[derive(Debug)]
struct TokenBucket {
    rate: Option<ByteRate>,
    /// Bytes that may have passed by now.
    allowed: u64,
    /// What is left of a byte, in bytes a second times nanoseconds.
    rest: u128,
    /// Bytes that were asked for.
    foreground: u64,
    background: u64,
    /// Who waits for a place.
    waiting: usize,
    /// Bytes that overflowed while somebody waited.
    missed: u64,
    /// Background bytes that passed: the foreground can't get before them any more.
    background_passed: u64,
    filled_at: Instant,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self {
            rate: None,
            allowed: 0,
            rest: 0,
            foreground: 0,
            background: 0,
            waiting: 0,
            missed: 0,
            background_passed: 0,
            filled_at: now,
        }
    }

    /// What is owed stays owed, at the new rate.
    fn set_rate(&mut self, rate: Option<ByteRate>, now: Instant) {
        self.fill(now);
        if self.rate.is_none() {
            // What passed without a limit is neither owed nor saved.
            self.allowed = self.taken();
            self.background_passed = self.background;
        }
        self.rate = rate;
        self.rest = 0;
        self.missed = 0;
        self.fill(now);
    }

    fn take(&mut self, bytes: u64, priority: Priority, now: Instant) -> Ticket {
        self.fill(now);
        let taken = match priority {
            Priority::Foreground => &mut self.foreground,
            Priority::Background => &mut self.background,
        };
        *taken += bytes;
        Ticket {
            priority,
            end: *taken,
        }
    }

    /// Bytes have passed that nobody had a place for.
    fn charge(&mut self, bytes: u64, priority: Priority, now: Instant) {
        let ticket = self.take(bytes, priority, now);
        if priority == Priority::Background {
            // The foreground can't get before them any more, nor before who came earlier.
            self.background_passed = ticket.end;
        }
    }

    /// How long the holder has to wait from now on; zero: it passes now.
    fn wait(&mut self, ticket: Ticket, now: Instant) -> Duration {
        self.fill(now);
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let before = match ticket.priority {
            Priority::Foreground => self.background_passed,
            Priority::Background => self.foreground,
        };
        let owed = (before + ticket.end).saturating_sub(self.allowed);
        let nanos = u128::from(owed) * NANOS / u128::from(rate.bps().max(1));
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        if wait >= WAIT_MIN {
            return wait;
        }
        if ticket.priority == Priority::Background {
            self.background_passed = self.background_passed.max(ticket.end);
        }
        Duration::ZERO
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_nanos();
        self.filled_at = self.filled_at.max(now);
        let Some(rate) = self.rate else {
            return;
        };
        let gained = u128::from(rate.bps()) * elapsed + self.rest;
        self.rest = gained % NANOS;
        let gained = u64::try_from(gained / NANOS).unwrap_or(u64::MAX);
        let made_up = self.missed.min(gained / CATCH_UP);
        self.missed -= made_up;
        let gained = gained.saturating_add(made_up);
        let full = self.taken().saturating_add(in_time(rate, BUCKET));
        let room = full.saturating_sub(self.allowed);
        self.allowed += gained.min(room);
        if self.waiting > 0 {
            let missed = self.missed.saturating_add(gained.saturating_sub(room));
            self.missed = missed.min(in_time(rate, MISSED_MAX));
        }
    }

    fn taken(&self) -> u64 {
        self.foreground + self.background
    }
}

/// One budget, shared by everything that it limits.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Mutex<TokenBucket>,
    /// The rate, 0 for none, to be looked at without the lock.
    rate: AtomicU64,
    changed: Notify,
}

impl Limiter {
    pub(crate) fn new(rate: Option<ByteRate>) -> Self {
        let limiter = Self {
            bucket: Mutex::new(TokenBucket::new(Instant::now())),
            rate: AtomicU64::new(0),
            changed: Notify::new(),
        };
        limiter.set_rate(rate);
        limiter
    }

    /// Changes the budget; takes effect at once, for those who wait too. `None`: no limit.
    pub(crate) fn set_rate(&self, rate: Option<ByteRate>) {
        let mut bucket = self.lock();
        if bucket.rate == rate {
            return;
        }
        bucket.set_rate(rate, Instant::now());
        drop(bucket);
        self.rate
            .store(rate.map_or(0, ByteRate::bps), Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    fn rate(&self) -> Option<ByteRate> {
        ByteRate::from_bps(self.rate.load(Ordering::Relaxed))
    }

    fn is_unlimited(&self) -> bool {
        self.rate().is_none()
    }

    /// So many bytes have passed already: who comes next waits for them.
    pub(crate) fn charge(&self, bytes: u64, priority: Priority) {
        if !self.is_unlimited() {
            self.lock().charge(bytes, priority, Instant::now());
        }
    }

    /// Waits until the bytes may pass. Who gives up waiting has taken them nevertheless.
    pub(crate) async fn take(&self, bytes: u32, priority: Priority) {
        if self.is_unlimited() {
            return;
        }
        let ticket = self.lock().take(bytes.into(), priority, Instant::now());
        let _waiting = Waiting::new(self);
        loop {
            // Made before the rate is looked at, so that no change is missed.
            let changed = self.changed.notified();
            let wait = self.lock().wait(ticket, Instant::now());
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits, as long as this lives.
struct Waiting<'a>(&'a Limiter);

impl<'a> Waiting<'a> {
    fn new(limiter: &'a Limiter) -> Self {
        limiter.lock().waiting += 1;
        Self(limiter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
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

/// A swarm's priority, as it is at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct SwarmPriority(Arc<AtomicBool>);

impl SwarmPriority {
    pub(crate) fn new(foreground: bool) -> Self {
        Self(Arc::new(AtomicBool::new(foreground)))
    }

    /// Sets it and says what it was.
    pub(crate) fn swap(&self, foreground: bool) -> bool {
        self.0.swap(foreground, Ordering::Relaxed)
    }

    pub(crate) fn is_foreground(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn get(&self) -> Priority {
        match self.is_foreground() {
            true => Priority::Foreground,
            false => Priority::Background,
        }
    }
}

/// What a swarm's downloads beyond the LAN pass through: the foreground or the background budget, as the swarm's
/// priority is at that moment.
#[derive(Debug)]
pub(crate) struct DownloadGate {
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) priority: SwarmPriority,
}

impl DownloadGate {
    fn limiter(&self) -> &Limiter {
        match self.priority.get() {
            Priority::Foreground => &self.budgets.foreground,
            Priority::Background => &self.budgets.background,
        }
    }
}

impl Throttle for DownloadGate {
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.limiter().take(bytes, self.priority.get()))
    }

    fn charge(&self, bytes: u64) {
        self.limiter().charge(bytes, self.priority.get());
    }

    fn is_unlimited(&self) -> bool {
        self.limiter().is_unlimited()
    }

    fn slice(&self) -> u32 {
        slice(self.limiter().rate())
    }

    fn rate(&self) -> Option<u64> {
        self.limiter().rate().map(ByteRate::bps)
    }

    fn is_background(&self) -> bool {
        !self.priority.is_foreground()
    }
}

/// What uploads to Internet peers pass through.
#[derive(Debug)]
pub(crate) struct UploadGate {
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) priority: SwarmPriority,
}

impl Throttle for UploadGate {
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.budgets.upload.take(bytes, self.priority.get()))
    }

    fn charge(&self, bytes: u64) {
        self.budgets.upload.charge(bytes, self.priority.get());
    }

    fn is_unlimited(&self) -> bool {
        self.budgets.upload.is_unlimited()
    }

    fn slice(&self) -> u32 {
        slice(self.budgets.upload.rate())
    }

    fn is_background(&self) -> bool {
        !self.priority.is_foreground()
    }
}

/// What a swarm has received at best from all of its sources, and by how many connections it comes at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inflow(Arc<InflowState>);

#[derive(Debug, Default)]
struct InflowState {
    /// Bytes a second; 0 before anything came. It never falls: windows that follow a rate which they bound themselves
    /// would shrink with it on a machine that is slow to read.
    best_bps: AtomicU64,
    connections: AtomicU64,
}

impl Inflow {
    pub(crate) fn note(&self, bps: u64, connections: usize) {
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        self.0.best_bps.fetch_max(bps, Ordering::Relaxed);
        self.0.connections.store(connections, Ordering::Relaxed);
    }

    /// One connection's share, in bytes a second.
    fn share(&self) -> Option<u64> {
        let best = self.0.best_bps.load(Ordering::Relaxed);
        let connections = self.0.connections.load(Ordering::Relaxed);
        (best > 0).then(|| best / connections.max(1))
    }
}

/// LAN traffic: no limit, but it gives way like any other, and no more of it is under way than needed.
#[derive(Debug)]
pub(crate) struct LanGate {
    pub(crate) priority: SwarmPriority,
    pub(crate) inflow: Inflow,
}

impl Throttle for LanGate {
    fn take(&self, _: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn charge(&self, _: u64) {}

    fn is_unlimited(&self) -> bool {
        true
    }

    fn is_background(&self) -> bool {
        !self.priority.is_foreground()
    }

    fn manner(&self) -> Manner {
        Manner {
            background: self.is_background(),
            rate: None,
            share: self.inflow.share(),
        }
    }
}

#[cfg(test)]
mod tests;
