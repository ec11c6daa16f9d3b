//! The HTTP sources of a swarm: the origin, and cache hosts before it; what settings and gates leave of them.

use super::Swarm;
use crate::{cache_hosts::BAN_TIME, errors::origin_error};
use dosvc_origin::{Origin, OriginError, Validator};
use dosvc_scheduler::{FetchEnd, SourceId, SourceInfo, SourceKind};
use std::time::Instant;

/// Where bytes come from over HTTP.
#[derive(Debug)]
pub(super) struct HttpSource {
    pub(super) kind: SourceKind,
    pub(super) origin: Origin,
    /// The cache host, as configured; `None`: the origin.
    pub(super) host: Option<String>,
    /// Why it was left last.
    pub(super) left_for: Option<String>,
}

/// Why the cache hosts behind one that failed are not asked.
const PASSED_OVER: &str =
    "the cache host before it failed, and without a fallback delay the origin stands in at once";

impl Swarm {
    pub(super) fn add_origin(&mut self, origin: Origin, now: Instant) {
        let source = HttpSource {
            kind: SourceKind::Origin,
            origin,
            host: None,
            left_for: None,
        };
        self.add_http(source, now);
    }

    /// Takes a source in; a closed gate holds it back.
    fn add_http(&mut self, source: HttpSource, now: Instant) {
        if self.holds_http() {
            self.held.push(source);
            return;
        }
        let id = self.next_source();
        let info = SourceInfo {
            kind: source.kind,
            peer_id: None,
            extended: false,
            relays: false,
        };
        self.core.handle_source_added(SourceId(id), info, now);
        self.origins.insert(id, source);
    }

    fn remove_http(&mut self, id: u32, now: Instant) -> Option<HttpSource> {
        let source = self.origins.remove(&id)?;
        self.fetches.retain(|_, (of, task)| {
            if *of == id {
                task.abort();
            }
            *of != id
        });
        self.core.handle_source_removed(SourceId(id), now);
        Some(source)
    }

    pub(super) fn remove_all_http(&mut self, now: Instant) {
        self.held.clear();
        let ids: Vec<u32> = self.origins.keys().copied().collect();
        for id in ids {
            self.remove_http(id, now);
        }
    }

    /// Whether a gate keeps this download from HTTP.
    fn holds_http(&self) -> bool {
        let settings = self.shared.settings();
        !settings.gates.permit_http(self.is_foreground())
    }

    /// Why HTTP is held back, while it is.
    pub(super) fn why_held(&self) -> Option<String> {
        let settings = self.shared.settings();
        let closes = |gate: &&dosvc_policy::Gate| gate.closes().background_http;
        let gate = settings.gates.iter().find(closes);
        let gate = gate.filter(|_| !self.held.is_empty())?;
        Some(format!("{gate} ({})", gate.hresult()))
    }

    /// After settings, gates or the priority have changed, or a job has come.
    pub(super) fn review_http(&mut self, now: Instant) {
        self.review_cache_hosts(now);
        let ids: Vec<u32> = self.origins.keys().copied().collect();
        if self.holds_http() {
            for id in ids {
                let source = self.remove_http(id, now);
                self.held.extend(source);
            }
        } else {
            for source in std::mem::take(&mut self.held) {
                self.add_http(source, now);
            }
        }
    }

    /// Cache hosts that are to be used no more go, new ones come, those that failed a while ago stay away.
    fn review_cache_hosts(&mut self, now: Instant) {
        let hosts = self.shared.settings().cache_hosts.clone();
        let is_gone = |s: &HttpSource| s.host.as_ref().is_some_and(|host| !hosts.contains(host));
        self.held.retain(|source| !is_gone(source));
        let gone = self.origins.iter().filter(|(_, source)| is_gone(source));
        let gone: Vec<u32> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.remove_http(id, now);
        }
        if !self.is_wanted() || self.urls.is_empty() {
            return;
        }
        for host in hosts {
            let all = self.origins.values().chain(&self.held);
            let is_known = all
                .filter_map(|s| s.host.as_ref())
                .any(|known| *known == host);
            if is_known || self.shared.cache_hosts.is_banned(&host, now) {
                continue;
            }
            let validator = self.validator();
            if let Some(origin) = self.shared.cache_hosts.open(&host, &self.urls, validator) {
                let source = HttpSource {
                    kind: SourceKind::CacheHost,
                    origin,
                    host: Some(host),
                    left_for: None,
                };
                self.add_http(source, now);
            }
        }
    }

    /// What a cache host's answers must agree with: the length, and where no hashes tell versions apart, the version
    /// that the origin has: a cache host hands on the origin's tag and date.
    fn validator(&self) -> Validator {
        let mut all = self.origins.values().chain(&self.held);
        let origin = all.find(|s| s.kind == SourceKind::Origin);
        let version = origin.filter(|_| self.content.hash_file().is_none());
        Validator {
            total: Some(self.content.lengths().content_length()),
            server: None,
            ..version
                .and_then(|s| s.origin.validator())
                .unwrap_or_default()
        }
    }

    pub(super) fn fetch_failed(&mut self, source: SourceId, error: &OriginError) -> FetchEnd {
        let now = Instant::now();
        let Some(failed) = self.origins.get_mut(&source.0) else {
            return FetchEnd::Failed { retry_at: None };
        };
        let host = failed.host.clone();
        tracing::warn!(content = %self.content.key(), cache_host = host.as_deref(), %error, "fetch from HTTP source failed");
        let fatal = failed.origin.is_dead();
        let retry_at = failed.origin.next_attempt().unwrap_or(now);
        let error_now = origin_error(error);
        failed.left_for = Some(error_now.message.clone());
        self.http_error = Some(error_now);
        match (fatal, host) {
            (Some(fatal), host) => {
                self.source_died(source, host.is_some(), &fatal);
                FetchEnd::Failed { retry_at: None }
            }
            (None, Some(host)) if now >= self.core.cache_fallback_at() => {
                self.shared.cache_hosts.ban(&host, now);
                self.leave_cache_hosts(source, now);
                FetchEnd::Failed {
                    retry_at: Some(now + BAN_TIME),
                }
            }
            _ => FetchEnd::Failed {
                retry_at: Some(retry_at),
            },
        }
    }

    /// The first failure of a cache host, or the first after the fallback delay, leads to the origin and not to the
    /// next cache host (policies, section 6.2).
    fn leave_cache_hosts(&mut self, failed: SourceId, now: Instant) {
        let hosts = self.origins.iter_mut().filter(|(_, s)| s.host.is_some());
        for (id, source) in hosts.filter(|(id, _)| **id != failed.0) {
            source.left_for = Some(PASSED_OVER.to_owned());
            self.core
                .handle_source_down(SourceId(*id), Some(now + BAN_TIME), now);
        }
    }

    /// A source failed for good. Peers and other sources may still have everything; without any hope left the job
    /// fails.
    fn source_died(&mut self, source: SourceId, is_cache_host: bool, error: &OriginError) {
        let now = Instant::now();
        self.core.handle_source_down(source, None, now);
        let changed_under_way = !is_cache_host && matches!(error, OriginError::Changed { .. });
        let hopeless = self.origins.values().all(|s| s.origin.is_dead().is_some());
        if changed_under_way || (hopeless && !self.may_have_peers()) {
            self.fail(origin_error(error));
        }
        self.changed = true;
    }
}
