//! Keeps the download budgets at what policies, the time of the day and what is available permit.
//!
//! `dosvc_policy` decides; here are the clocks, the counter that feeds its estimator, and the budgets that are set.
//! While nothing is downloaded nothing runs: the first bytes wake the task that measures.

use crate::{
    api::{BandwidthStatus, LimitStatus},
    limiter::{Budgets, DownloadGate, SwarmPriority},
    shared::{Shared, lock},
};
use dosvc_policy::{DownloadLimit, Estimator, LimitSource, Month, Policies, Priority};
use dosvc_polite::{Throttle, Unlimited};
use jiff::{Zoned, civil::DateTime};
use std::{
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How often the estimator is fed and the time of the day looked at, while anything is downloaded.
const TICK: Duration = Duration::from_millis(250);
/// Without any bytes for so long the task sleeps.
const QUIET: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Bandwidth {
    /// Bytes of foreground and background downloads from sources whose limits may be shares, since the start; headers
    /// included, as in the limits.
    counted: [AtomicU64; 2],
    /// Those of them that came from peers.
    from_peers: AtomicU64,
    awake: AtomicBool,
    wake: Notify,
    /// Whether the limit of foreground and background downloads spares HTTP servers in the LAN.
    spares_lan: [AtomicBool; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    estimator: Estimator,
    /// Foreground, background.
    limits: Option<[DownloadLimit; 2]>,
}

impl Bandwidth {
    /// Bytes, headers included, have come from a peer beyond the LAN.
    pub(crate) fn count_from_peer(&self, priority: &SwarmPriority, bytes: u64) {
        self.from_peers.fetch_add(bytes, Ordering::Relaxed);
        self.count(priority, bytes);
    }

    /// The same, from an HTTP server that is not spared.
    pub(crate) fn count(&self, priority: &SwarmPriority, bytes: u64) {
        self.counted[usize::from(!priority.is_foreground())].fetch_add(bytes, Ordering::Relaxed);
        if !self.awake.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// A download with HTTP sources begins.
    pub(crate) fn new_source(&self) {
        lock(&self.state).estimator.new_source(Instant::now());
    }

    /// Sets the budgets to what holds now.
    pub(crate) fn apply(&self, budgets: &Budgets, policies: &Policies) {
        let hour = hour_of(Zoned::now().datetime());
        let mut state = lock(&self.state);
        let available = state.estimator.available();
        let limits = [Priority::Foreground, Priority::Background].map(|priority| {
            let limit = dosvc_policy::download_limit(policies, priority, hour, available);
            limit.in_swarm(priority, state.estimator.is_of_peers())
        });
        let mut others_count = false;
        for (limit, spares) in limits.iter().zip(&self.spares_lan) {
            let spared = matches!(limit.source, LimitSource::Dynamic(_));
            others_count |= spares.swap(spared, Ordering::Relaxed) != spared;
        }
        if others_count && state.limits.is_some() {
            // Other sources count from now on: what was measured was something else.
            state.estimator = Estimator::default();
        }
        let changed = state.limits.replace(limits) != Some(limits);
        drop(state);
        if changed {
            tracing::debug!(?limits, available = ?available, "download limits");
        }
        let [foreground, background] = limits;
        budgets.foreground.set_rate(foreground.rate);
        budgets.background.set_rate(background.rate);
        budgets.upload.set_rate(policies.max_upload_bandwidth());
    }

    /// What holds now, for people.
    pub(crate) fn status(&self, policies: &Policies) -> BandwidthStatus {
        let state = lock(&self.state);
        let why = match state.estimator.is_of_peers() && state.estimator.available().is_some() {
            true => "lifted, since most comes from peers",
            false => "which is measured while a download runs",
        };
        let [foreground, background] = state.limits.map_or_else(Default::default, |limits| {
            limits.map(|limit| LimitStatus {
                bps: limit.rate.map(dosvc_content::ByteRate::bps),
                source: match (limit.rate, limit.source) {
                    (None, source @ (LimitSource::Share(_) | LimitSource::Dynamic(_))) => {
                        format!("{source}, {why}")
                    }
                    (_, source) => source.to_string(),
                },
            })
        });
        BandwidthStatus {
            available_bps: state.estimator.last().map(dosvc_content::ByteRate::bps),
            foreground,
            background,
            upload_bps: policies
                .max_upload_bandwidth()
                .map(dosvc_content::ByteRate::bps),
        }
    }

    fn is_spared(&self, foreground: bool) -> bool {
        self.spares_lan[usize::from(!foreground)].load(Ordering::Relaxed)
    }

    fn counted(&self) -> [u64; 2] {
        self.counted
            .each_ref()
            .map(|bytes| bytes.load(Ordering::Relaxed))
    }
}

/// What of these bytes shows how much is available: all, unless every download that brought some has an absolute limit.
/// Then they show that limit alone, which says nothing to the other priority.
fn telling(news: [u64; 2], limits: Option<[DownloadLimit; 2]>) -> u64 {
    let tells = |n: usize| limits.is_none_or(|all| all[n].source != LimitSource::Absolute);
    match (0..2).any(|n| news[n] > 0 && tells(n)) {
        true => news.iter().sum(),
        false => 0,
    }
}

/// Measures and sets the budgets while anything is downloaded.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let bandwidth = &shared.bandwidth;
    let mut fed = bandwidth.counted();
    let mut fed_from_peers = bandwidth.from_peers.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = bandwidth.wake.notified() => {}
        }
        let mut last_bytes = Instant::now();
        while last_bytes.elapsed() < QUIET {
            let counted = bandwidth.counted();
            let before = std::mem::replace(&mut fed, counted);
            let news = [0, 1].map(|n| counted[n] - before[n]);
            let from_peers = bandwidth.from_peers.load(Ordering::Relaxed);
            let of_peers = from_peers - std::mem::replace(&mut fed_from_peers, from_peers);
            if news != [0, 0] {
                last_bytes = Instant::now();
            }
            // The first that come start the estimator's clock.
            feed(&shared, news, of_peers);
            tokio::select! {
                () = shared.cancel.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
        bandwidth.awake.store(false, Ordering::Relaxed);
    }
}

fn feed(shared: &Shared, news: [u64; 2], of_peers: u64) {
    let mut state = lock(&shared.bandwidth.state);
    let bytes = telling(news, state.limits);
    state.estimator.feed(bytes, of_peers, Instant::now());
    drop(state);
    shared
        .bandwidth
        .apply(&shared.budgets, &shared.settings().config.policies);
}

/// The hour of the day, 0 to 23.
fn hour_of(time: DateTime) -> u8 {
    u8::try_from(time.hour()).unwrap_or(0)
}

/// The month that it is here.
pub(crate) fn month_now() -> Month {
    month_of(Zoned::now().datetime())
}

fn month_of(time: DateTime) -> Month {
    let month = u8::try_from(time.month()).unwrap_or(1);
    Month::new(time.year(), month).expect("the calendar has months 1 to 12")
}

/// What an HTTP connection passes through: the budget of its priority. The dynamic share is one of what is available
/// toward the Internet, so a server in the LAN has nothing to do with it; limits that somebody configured hold for every
/// server.
pub(crate) struct HttpGate {
    gate: DownloadGate,
    bandwidth: Arc<Bandwidth>,
    /// The server is in the LAN, or on this machine.
    in_lan: bool,
}

impl HttpGate {
    /// `server`: where the bytes come from; `None` when a proxy may stand between. Keeps nothing of the engine alive but
    /// its budgets, for connections outlive it.
    pub(crate) fn new(shared: &Shared, priority: SwarmPriority, server: Option<IpAddr>) -> Self {
        Self {
            gate: DownloadGate {
                budgets: Arc::clone(&shared.budgets),
                priority,
            },
            bandwidth: Arc::clone(&shared.bandwidth),
            in_lan: server.is_some_and(|ip| shared.is_in_lan(ip)),
        }
    }

    fn is_spared(&self) -> bool {
        let foreground = self.gate.priority.is_foreground();
        self.in_lan && self.bandwidth.is_spared(foreground)
    }
}

impl Throttle for HttpGate {
    fn take(&self, bytes: u32) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.gate.take(bytes)
    }

    fn charge(&self, bytes: u64) {
        self.gate.charge(bytes);
    }

    fn count(&self, bytes: u64) {
        if !self.is_spared() {
            self.bandwidth.count(&self.gate.priority, bytes);
        }
    }

    fn is_unlimited(&self) -> bool {
        self.is_spared() || self.gate.is_unlimited()
    }

    fn slice(&self) -> u32 {
        self.gate.slice()
    }

    fn rate(&self) -> Option<u64> {
        self.gate.rate().filter(|_| !self.is_spared())
    }

    fn is_background(&self) -> bool {
        self.gate.is_background()
    }
}

/// What limits HTTP connections while no download reads from them: hash files, what a new request brings first.
#[derive(Default)]
pub(crate) struct HttpLimits(OnceLock<Weak<Shared>>);

impl HttpLimits {
    /// The engine has begun. Before that nothing is limited.
    pub(crate) fn begin(&self, shared: &Arc<Shared>) {
        // Once is enough: there is one engine.
        let _begun = self.0.set(Arc::downgrade(shared));
    }
}

impl fmt::Debug for HttpLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpLimits")
    }
}

impl dosvc_origin::Limits for HttpLimits {
    fn gate(&self, server: Option<IpAddr>, background: bool) -> Arc<dyn Throttle> {
        match self.0.get().and_then(Weak::upgrade) {
            Some(shared) => {
                let priority = SwarmPriority::new(!background);
                Arc::new(HttpGate::new(&shared, priority, server))
            }
            None => Arc::new(Unlimited),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_policy::{Hours, Percent};
    use jiff::{Timestamp, tz::TimeZone};

    fn local(at: &str, zone: &TimeZone) -> DateTime {
        let at: Timestamp = at.parse().expect("an instant");
        at.to_zoned(zone.clone()).datetime()
    }

    #[test]
    fn bytes_under_an_absolute_limit_alone_show_nothing() {
        let limit = |source| DownloadLimit { rate: None, source };
        let (fixed, share) = (LimitSource::Absolute, LimitSource::Dynamic(Percent::of(90)));
        for (foreground, background, news, told) in [
            (share, fixed, [0, 5], 0),
            (share, fixed, [3, 5], 8),
            (share, fixed, [3, 0], 3),
            (fixed, fixed, [3, 5], 0),
            (fixed, share, [3, 0], 0),
            (share, share, [0, 5], 5),
            (share, LimitSource::None, [0, 5], 5),
        ] {
            let limits = [foreground, background].map(limit);
            assert_eq!(telling(news, Some(limits)), told, "{limits:?} {news:?}");
        }
        assert_eq!(telling([0, 5], None), 5);
    }

    /// Central Europe: an hour is left out in the last night of March, and comes twice in that of October.
    #[test]
    fn business_hours_follow_the_clock_on_the_wall_through_the_changes_of_time() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a rule");
        let hours = Hours::new(2, 4, Percent::of(10), Percent::of(90)).expect("hours");
        for (at, hour, inside) in [
            // Winter, then summer: 02:00 to 03:00 does not exist.
            ("2026-03-29T00:59:59Z", 1, false),
            ("2026-03-29T01:00:00Z", 3, true),
            ("2026-03-29T02:00:00Z", 4, false),
            // Any day in summer.
            ("2026-07-01T00:30:00Z", 2, true),
            // Back: 02:00 to 03:00 comes twice.
            ("2026-10-25T00:30:00Z", 2, true),
            ("2026-10-25T01:30:00Z", 2, true),
            ("2026-10-25T02:30:00Z", 3, true),
            ("2026-10-25T03:00:00Z", 4, false),
        ] {
            let found = hour_of(local(at, &zone));
            assert_eq!((found, hours.contains(found)), (hour, inside), "{at}");
        }
    }

    #[test]
    fn month_is_the_one_of_the_place() {
        let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").expect("a rule");
        let month = |at| month_of(local(at, &zone)).to_string();
        assert_eq!(month("2026-12-01T04:59:59Z"), "2026-11");
        assert_eq!(month("2027-01-01T05:00:00Z"), "2027-01");
    }
}
