//! Why the swarm does what it does, for people.

use crate::{SourceId, SourceKind, Swarm, source::Source};
use std::{fmt, time::Duration, time::Instant};

/// Why nothing moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Waiting {
    /// Paused by the owner.
    Paused,
    /// No peer is connected and there is no HTTP source.
    NoSource,
    /// No peer has what is missing; HTTP is held back by the delay policy.
    HttpDelay {
        /// Until then.
        until: Instant,
        /// How long that is from now.
        rest: Duration,
    },
    /// No peer has what is missing; the origin is held back for a cache host that fails, by the fallback delay.
    CacheFallback {
        /// Until then.
        until: Instant,
        /// How long that is from now.
        rest: Duration,
    },
    /// Every peer that has what is missing chokes us.
    AllChoked,
    /// Peers are connected, but none has what is missing, and there is no HTTP source.
    NobodyHasIt,
    /// Every source that could help is out of order.
    SourceDown {
        /// The first of them may be tried again then; `None`: none of them ever.
        until: Option<Instant>,
        /// How long that is from now.
        rest: Option<Duration>,
    },
    /// Peers may still be found; HTTP starts in a moment.
    Discovery,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("paused"),
            Self::NoSource => {
                f.write_str("no source is known: no peer connected and no address to download from")
            }
            Self::HttpDelay { rest, .. } => write!(
                f,
                "no peer has what is missing; HTTP is held back by policy for another {} s",
                rest.as_secs().max(1)
            ),
            Self::CacheFallback { rest, .. } => write!(
                f,
                "no peer has what is missing; the origin is held back by policy for another {} s, for the cache host",
                rest.as_secs().max(1)
            ),
            Self::AllChoked => {
                f.write_str("every peer that has what is missing is busy with others")
            }
            Self::NobodyHasIt => {
                f.write_str("no connected peer has what is missing, and there is no HTTP source")
            }
            Self::SourceDown {
                rest: Some(rest), ..
            } => write!(
                f,
                "no source can be reached; trying again in {} s",
                rest.as_secs().max(1)
            ),
            Self::SourceDown { rest: None, .. } => f.write_str("no source can be reached"),
            Self::Discovery => f.write_str("looking for peers"),
        }
    }
}

/// Something that is held back for something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DelayKind {
    /// HTTP waits for peers, by policy ([`crate::SwarmConfig::http_delay`]).
    HttpForPeers,
    /// The origin waits for a cache host that fails, by policy ([`crate::SwarmConfig::cache_fallback_delay`]).
    OriginForCacheHost,
    /// HTTP fetches little while peers may still be found ([`crate::SwarmConfig::discovery_grace`]).
    Discovery,
}

impl fmt::Display for DelayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HttpForPeers => "HTTP waits for peers",
            Self::OriginForCacheHost => "the origin waits for the cache host",
            Self::Discovery => "HTTP fetches little while peers may still be found",
        })
    }
}

/// A delay in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delay {
    /// What waits for what.
    pub kind: DelayKind,
    /// All of it.
    pub total: Duration,
    /// What is left of it.
    pub left: Duration,
}

/// How a source stands with us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SourceState {
    /// Delivering, or asked to.
    Active,
    /// Could be asked; `SourceReport::why` says why it is not.
    Idle,
    /// A peer that does not let us ask.
    Choking,
    /// It went silent; others took over.
    Demoted,
    /// Out of order.
    Down,
}

/// One source, for `explain`.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceReport {
    /// Its name.
    pub source: SourceId,
    /// Its kind.
    pub kind: SourceKind,
    /// How it stands with us.
    pub state: SourceState,
    /// Bytes a second while it was asked for something; `None` before the first byte.
    pub rate_bps: Option<u64>,
    /// Bytes of whole blocks that it delivered.
    pub delivered: u64,
    /// Blocks asked of it (HTTP: pieces of running fetches).
    pub in_flight: usize,
    /// Pieces that it has and we don't; 0 for HTTP sources, which have everything.
    pub interesting: u32,
    /// Bad pieces that it alone delivered.
    pub strikes: u32,
    /// Bytes served to it.
    pub uploaded: u64,
    /// Why it is used or not, in plain words.
    pub why: &'static str,
}

impl Swarm {
    /// Why nothing moves; `None` while something is in flight or nothing is missing.
    pub fn waiting(&self, now: Instant) -> Option<Waiting> {
        if self.pieces.missing().is_empty() && self.pieces.wanted().is_empty() {
            return None;
        }
        if self.paused {
            return Some(Waiting::Paused);
        }
        if self.sources.values().any(Source::is_busy) {
            return None;
        }
        if self.sources.is_empty() {
            return Some(Waiting::NoSource);
        }
        let http = |s: &&Source| !s.is_peer();
        if self.sources.values().filter(http).any(|s| !s.is_down(now)) {
            let (http_at, origin_at) = (self.http_at(), self.cache_fallback_at());
            return Some(if now < http_at {
                let rest = http_at - now;
                Waiting::HttpDelay {
                    until: http_at,
                    rest,
                }
            } else if self.waits_for_cache_host(now) {
                let rest = origin_at - now;
                Waiting::CacheFallback {
                    until: origin_at,
                    rest,
                }
            } else {
                Waiting::Discovery
            });
        }
        let holders = || {
            self.sources
                .values()
                .filter(|s| s.is_peer() && s.interesting > 0)
        };
        if holders().any(|s| s.choking && !s.is_down(now)) {
            return Some(Waiting::AllChoked);
        }
        if self.sources.values().any(|s| s.is_down(now)) || holders().next().is_some() {
            let until = self
                .sources
                .values()
                .filter_map(Source::back_at)
                .filter(|t| *t > now)
                .min();
            let rest = until.map(|t| t - now);
            return Some(Waiting::SourceDown { until, rest });
        }
        Some(Waiting::NobodyHasIt)
    }

    /// What is held back, in the order in which the delays end; those that are zero are left out.
    pub fn delays(&self, now: Instant) -> Vec<Delay> {
        let delay = |kind, total: Duration, end: Instant| {
            let left = end.saturating_duration_since(now);
            (!total.is_zero()).then_some(Delay { kind, total, left })
        };
        let config = &self.config;
        let grace_end = if self.in_grace(now) {
            self.grace_end()
        } else {
            self.start
        };
        let fallback = if self.waits_for_cache_host(now) {
            config.cache_fallback_delay
        } else {
            Duration::ZERO
        };
        [
            delay(DelayKind::Discovery, config.discovery_grace, grace_end),
            delay(
                DelayKind::HttpForPeers,
                config.http_delay,
                self.start + config.http_delay,
            ),
            delay(
                DelayKind::OriginForCacheHost,
                fallback,
                self.cache_fallback_at(),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Every source: what it is, what it does, why it is used or not.
    pub fn explain(&self, now: Instant) -> Vec<SourceReport> {
        self.sources
            .iter()
            .map(|(&id, s)| self.report(id, s, now))
            .collect()
    }

    fn report(&self, source: SourceId, s: &Source, now: Instant) -> SourceReport {
        let state = if s.is_down(now) {
            SourceState::Down
        } else if s.demoted_until.is_some_and(|until| now < until) {
            SourceState::Demoted
        } else if s.is_busy() {
            SourceState::Active
        } else if s.choking {
            SourceState::Choking
        } else {
            SourceState::Idle
        };
        let in_flight = s.asked.len()
            + s.runs
                .iter()
                .map(|r| (r.end - r.next) as usize)
                .sum::<usize>();
        SourceReport {
            source,
            kind: s.info.kind,
            state,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate fits"
            )]
            rate_bps: s.meter.rate().map(|r| r as u64),
            delivered: s.delivered,
            in_flight,
            interesting: s.interesting,
            strikes: s.strikes,
            uploaded: s.up.served,
            why: self.why(s, state, now),
        }
    }

    fn why(&self, s: &Source, state: SourceState, now: Instant) -> &'static str {
        match state {
            SourceState::Down => "it is out of order; it will be tried again later",
            SourceState::Demoted => {
                "it went silent; others took over its blocks until it shows life"
            }
            SourceState::Active => "it delivers",
            SourceState::Choking => "it does not let us ask",
            SourceState::Idle if self.is_complete() => "nothing is missing",
            SourceState::Idle if self.paused => "the download is paused",
            SourceState::Idle if s.is_peer() && s.interesting == 0 => "it has nothing that we lack",
            SourceState::Idle if s.is_peer() => "all that it could give is on its way from others",
            SourceState::Idle => self.why_no_http(now),
        }
    }
}
