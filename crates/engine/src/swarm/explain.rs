//! What a swarm knows about its sources, for people.

use super::{Swarm, dials::DialError, peers::kind_name};
use crate::{
    api::{DelayExplanation, SourceExplanation, SourceStanding},
    request::without_password,
    shared::Settings,
};
use dosvc_origin::UrlReport;
use dosvc_scheduler::{DelayKind, SourceKind, SourceReport, SourceState};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Sources that are remembered of a download when its swarm says nothing of them any more.
pub(crate) const SOURCES_KEPT_MAX: usize = 64;

/// A swarm's part of an explanation.
#[derive(Debug)]
pub(crate) struct SwarmView {
    pub(crate) waiting: Option<String>,
    pub(crate) delays: Vec<DelayExplanation>,
    pub(crate) sources: Vec<SourceExplanation>,
    /// They are those of when the content was complete: nobody has been here since.
    pub(crate) sources_are_past: bool,
}

impl Swarm {
    pub(super) fn explain(&self, now: Instant) -> SwarmView {
        let idle = self.peers.is_empty() && !self.is_wanted();
        let past = self.last_sources.as_ref().filter(|_| idle);
        SwarmView {
            waiting: self.waiting(now),
            delays: self.delays(now),
            sources: past.map_or_else(|| self.sources(now), |past| past.to_vec()),
            sources_are_past: past.is_some(),
        }
    }

    /// Every source that is known or was tried, the useful ones first.
    fn sources(&self, now: Instant) -> Vec<SourceExplanation> {
        let mut sources: Vec<SourceExplanation> = self
            .core
            .explain(now)
            .iter()
            .flat_map(|report| self.known_source(report, now))
            .chain(self.held_sources())
            .chain(self.absent_cache_hosts(now))
            .chain(self.greeting_peers())
            .chain(self.unconnected_peers(now))
            .collect();
        sources.sort_by(|a, b| {
            (a.state, b.delivered_bytes, &a.address).cmp(&(b.state, a.delivered_bytes, &b.address))
        });
        sources
    }

    /// What is remembered of the sources when the download has ended.
    pub(super) fn sources_to_keep(&self, now: Instant) -> Arc<[SourceExplanation]> {
        let mut sources = self.sources(now);
        sources.truncate(SOURCES_KEPT_MAX);
        sources.into()
    }

    /// The policy that a delay of this download comes from; empty when it is no policy.
    pub(super) fn delay_policy(&self, delay: DelayKind) -> String {
        let priority = match self.is_foreground() {
            true => "foreground",
            false => "background",
        };
        match delay {
            DelayKind::HttpForPeers => format!("delay_{priority}_download_from_http"),
            DelayKind::OriginForCacheHost => format!("delay_cache_server_fallback_{priority}"),
            DelayKind::Discovery => String::new(),
        }
    }

    /// What is held back for whom, while something is downloaded.
    fn delays(&self, now: Instant) -> Vec<DelayExplanation> {
        if !self.is_wanted() {
            return Vec::new();
        }
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let delays = self.core.delays(now).into_iter();
        delays
            .map(|delay| DelayExplanation {
                what: delay.kind.to_string(),
                policy: self.delay_policy(delay.kind),
                total_ms: ms(delay.total),
                left_ms: ms(delay.left),
            })
            .collect()
    }

    /// A source that the scheduler decides about: of an HTTP source each address.
    fn known_source(&self, report: &SourceReport, now: Instant) -> Vec<SourceExplanation> {
        let id = report.source.0;
        let explained = |kind: &str, address: String, why: Option<String>| SourceExplanation {
            kind: kind.to_owned(),
            address,
            transport: None,
            state: standing(report.state),
            rate_bps: report.rate_bps,
            delivered_bytes: report.delivered,
            uploaded_bytes: report.uploaded,
            in_flight: u64::try_from(report.in_flight).unwrap_or(u64::MAX),
            useful_pieces: report.kind.is_peer().then_some(report.interesting),
            why: why.unwrap_or_else(|| report.why.to_owned()),
        };
        if let Some(peer) = self.peers.get(&id) {
            let peer_is = explained(kind_name(peer.kind), peer.address().to_string(), None);
            return vec![SourceExplanation {
                transport: Some(peer.route.transport),
                ..peer_is
            }];
        }
        let Some(source) = self.origins.get(&id) else {
            return Vec::new();
        };
        let is_down = report.state == SourceState::Down;
        let why = source.left_for.clone().filter(|_| is_down);
        let kind = http_name(report.kind);
        let mut urls = source.origin.report();
        let preferred = urls.iter().position(|url| url.is_preferred).unwrap_or(0);
        let given = (!urls.is_empty()).then(|| urls.remove(preferred).url);
        // Where redirects lead says more than where it was looked for.
        let address = source.origin.current_url().or(given);
        let address = address.map_or_else(String::new, |url| without_password(url.as_str()));
        std::iter::once(explained(kind, address, why))
            .chain(urls.iter().map(|url| other_url(kind, url, now)))
            .collect()
    }

    /// HTTP sources that a closed gate keeps from the scheduler.
    fn held_sources(&self) -> impl Iterator<Item = SourceExplanation> + '_ {
        let why = self.why_held().unwrap_or_default();
        self.held.iter().map(move |source| {
            let address = source.origin.current_url();
            SourceExplanation {
                kind: http_name(source.kind).to_owned(),
                address: address.map_or_else(String::new, |url| without_password(url.as_str())),
                ..blank(SourceStanding::Idle, &why)
            }
        })
    }

    /// Cache hosts that are configured and are no source of this download.
    fn absent_cache_hosts(&self, now: Instant) -> impl Iterator<Item = SourceExplanation> + '_ {
        let settings = self.shared.settings();
        let hosts = settings.facts.cache_hosts(&settings.config.policies);
        let all = || self.origins.values().chain(&self.held);
        let is_source = |host: &String| all().any(|source| source.host.as_ref() == Some(host));
        let absent: Vec<SourceExplanation> = hosts
            .into_iter()
            .filter(|host| !self.jobs.is_empty() && !is_source(host))
            .map(|host| {
                let (state, why) = self.why_absent(&settings, &host, now);
                SourceExplanation {
                    kind: http_name(SourceKind::CacheHost).to_owned(),
                    address: host,
                    ..blank(state, &why)
                }
            })
            .collect();
        absent.into_iter()
    }

    fn why_absent(
        &self,
        settings: &Settings,
        host: &str,
        now: Instant,
    ) -> (SourceStanding, String) {
        let closing = |gate: &&dosvc_policy::Gate| gate.closes().cache_hosts;
        if let Some(gate) = settings.gates.iter().find(closing) {
            return (
                SourceStanding::Refused,
                format!("{gate} ({})", gate.hresult()),
            );
        }
        if let Some(left) = self.shared.cache_hosts.banned_for(host, now) {
            let minutes = left.as_secs().div_ceil(60);
            let why =
                format!("it failed for another download, and is left alone for {minutes} min");
            return (SourceStanding::Down, why);
        }
        let why = "there is no address of the content to ask it for";
        (SourceStanding::Refused, why.to_owned())
    }

    /// Peers that are connected and have not said yet what they are.
    fn greeting_peers(&self) -> impl Iterator<Item = SourceExplanation> + '_ {
        let greeting = self.peers.values().filter(|p| p.is_greeting());
        greeting.map(|peer| SourceExplanation {
            kind: kind_name(peer.kind).to_owned(),
            address: peer.address().to_string(),
            transport: Some(peer.route.transport),
            ..blank(SourceStanding::Connecting, "it is being greeted")
        })
    }

    fn unconnected_peers(&self, now: Instant) -> impl Iterator<Item = SourceExplanation> + '_ {
        let wanted = self.may_dial();
        self.dials.unconnected().map(move |known| {
            let (state, why) = match (known.due, known.last_error) {
                (None, last) => {
                    let last = last.map(|error| format!(" again; last time: {error}"));
                    let why = format!("it is being dialled{}", last.unwrap_or_default());
                    (SourceStanding::Connecting, why)
                }
                (_, Some(error @ DialError::Refused(_))) => {
                    (SourceStanding::Refused, error.to_string())
                }
                (_, Some(error)) if !wanted => (SourceStanding::Down, error.to_string()),
                (Some(due), Some(error)) => {
                    let wait = due.saturating_duration_since(now).as_secs();
                    let times = known.failures;
                    let why = format!("{error}; failed {times} in a row, next attempt in {wait} s");
                    (SourceStanding::Down, why)
                }
                (_, None) if !wanted => (
                    SourceStanding::Idle,
                    "not connected: nothing is to be downloaded".to_owned(),
                ),
                (Some(due), None) => {
                    let wait = due.saturating_duration_since(now).as_secs();
                    let why = format!("the connection ended; next attempt in {wait} s");
                    let why = match known.failures {
                        0 => "it is dialled next".to_owned(),
                        _ => why,
                    };
                    (SourceStanding::Down, why)
                }
            };
            SourceExplanation {
                address: known.route.address.to_string(),
                transport: Some(known.route.transport),
                ..blank(state, &why)
            }
        })
    }
}

/// An address of an HTTP source that another one of its addresses comes before.
pub(crate) fn other_url(kind: &str, url: &UrlReport, now: Instant) -> SourceExplanation {
    let (state, why) = match (&url.error, url.retry_at) {
        (Some(error), Some(at)) => {
            let wait = at.saturating_duration_since(now).as_secs().max(1);
            (
                SourceStanding::Down,
                format!("{error}; tried again in {wait} s"),
            )
        }
        (Some(error), None) => (SourceStanding::Down, error.to_string()),
        (None, _) => (
            SourceStanding::Idle,
            "another address of the content comes first".to_owned(),
        ),
    };
    SourceExplanation {
        kind: kind.to_owned(),
        address: without_password(url.url.as_str()),
        ..blank(state, &why)
    }
}

pub(crate) fn http_name(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::CacheHost => "CacheServer",
        _ => "Http",
    }
}

/// A source that gave and took nothing.
pub(crate) fn blank(state: SourceStanding, why: &str) -> SourceExplanation {
    SourceExplanation {
        kind: String::new(),
        address: String::new(),
        transport: None,
        state,
        rate_bps: None,
        delivered_bytes: 0,
        uploaded_bytes: 0,
        in_flight: 0,
        useful_pieces: None,
        why: why.to_owned(),
    }
}

fn standing(state: SourceState) -> SourceStanding {
    match state {
        SourceState::Active => SourceStanding::Active,
        SourceState::Idle => SourceStanding::Idle,
        SourceState::Choking => SourceStanding::Choking,
        SourceState::Demoted => SourceStanding::Demoted,
        // What else there may be some day is no source that delivers.
        _ => SourceStanding::Down,
    }
}
