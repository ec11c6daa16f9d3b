//! What a swarm knows about its sources, for people.

use super::{Swarm, dials::DialError, peers::kind_name};
use crate::{
    api::{DelayExplanation, SourceExplanation, SourceStanding},
    request::without_password,
};
use dosvc_origin::Origin;
use dosvc_scheduler::{DelayKind, SourceKind, SourceReport, SourceState};
use std::time::{Duration, Instant};

/// A swarm's part of an explanation.
#[derive(Debug)]
pub(crate) struct SwarmView {
    pub(crate) waiting: Option<String>,
    pub(crate) delays: Vec<DelayExplanation>,
    pub(crate) sources: Vec<SourceExplanation>,
}

impl Swarm {
    pub(super) fn explain(&self, now: Instant) -> SwarmView {
        let mut sources: Vec<SourceExplanation> = self
            .core
            .explain(now)
            .iter()
            .filter_map(|report| self.known_source(report))
            .chain(self.greeting_peers())
            .chain(self.unconnected_peers(now))
            .collect();
        sources.sort_by(|a, b| {
            (a.state, b.delivered_bytes, &a.address).cmp(&(b.state, a.delivered_bytes, &b.address))
        });
        SwarmView {
            waiting: self.waiting(now),
            delays: self.delays(now),
            sources,
        }
    }

    /// What is held back for whom, while something is downloaded.
    fn delays(&self, now: Instant) -> Vec<DelayExplanation> {
        if !self.is_wanted() {
            return Vec::new();
        }
        let priority = if self.is_foreground() {
            "foreground"
        } else {
            "background"
        };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let delays = self.core.delays(now).into_iter();
        delays
            .map(|delay| DelayExplanation {
                what: delay.kind.to_string(),
                policy: match delay.kind {
                    DelayKind::HttpForPeers => format!("delay_{priority}_download_from_http"),
                    DelayKind::Discovery => String::new(),
                },
                total_ms: ms(delay.total),
                left_ms: ms(delay.left),
            })
            .collect()
    }

    /// A source that the scheduler decides about.
    fn known_source(&self, report: &SourceReport) -> Option<SourceExplanation> {
        let id = report.source.0;
        let http_why = |origin: &Origin| match (report.state, &self.http_error) {
            _ if origin.is_dead().is_some() => {
                Some(origin.is_dead().map(|e| e.to_string()).unwrap_or_default())
            }
            (SourceState::Down, Some(error)) => Some(error.message.clone()),
            _ => None,
        };
        let (kind, address, why) = if let Some(peer) = self.peers.get(&id) {
            (kind_name(peer.kind), peer.address.to_string(), None)
        } else {
            let origin = self.origins.get(&id)?;
            let address = origin.current_url().map(|u| without_password(u.as_str()));
            let kind = match report.kind {
                SourceKind::CacheHost => "CacheServer",
                _ => "Http",
            };
            (kind, address.unwrap_or_default(), http_why(origin))
        };
        Some(SourceExplanation {
            kind: kind.to_owned(),
            address,
            state: standing(report.state),
            rate_bps: report.rate_bps,
            delivered_bytes: report.delivered,
            uploaded_bytes: report.uploaded,
            in_flight: u64::try_from(report.in_flight).unwrap_or(u64::MAX),
            useful_pieces: report.kind.is_peer().then_some(report.interesting),
            why: why.unwrap_or_else(|| report.why.to_owned()),
        })
    }

    /// Peers that are connected and have not said yet what they are.
    fn greeting_peers(&self) -> impl Iterator<Item = SourceExplanation> + '_ {
        let greeting = self.peers.values().filter(|p| p.is_greeting());
        greeting.map(|peer| SourceExplanation {
            kind: kind_name(peer.kind).to_owned(),
            address: peer.address.to_string(),
            ..blank(SourceStanding::Connecting, "it is being greeted")
        })
    }

    fn unconnected_peers(&self, now: Instant) -> impl Iterator<Item = SourceExplanation> + '_ {
        let wanted = self.may_dial();
        self.dials.unconnected().map(move |known| {
            let (state, why) = match (known.due, known.last_error) {
                (None, _) => (SourceStanding::Connecting, "it is being dialled".to_owned()),
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
                    let why = if known.failures == 0 {
                        "it is dialled next".to_owned()
                    } else {
                        why
                    };
                    (SourceStanding::Down, why)
                }
            };
            SourceExplanation {
                address: known.address.to_string(),
                ..blank(state, &why)
            }
        })
    }
}

/// A source that gave and took nothing.
fn blank(state: SourceStanding, why: &str) -> SourceExplanation {
    SourceExplanation {
        kind: String::new(),
        address: String::new(),
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
