//! Cache hosts (Connected Cache): where they have a content, and which of them are left alone for a while.

use crate::shared::lock;
use dosvc_origin::{Origin, OriginClient, OriginConfig, Validator, cache_host_url};
use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use url::Url;

/// How long a cache host that failed is left alone: as long as the Linux agent leaves it (do-client, section 3.5).
pub(crate) const BAN_TIME: Duration = Duration::from_secs(15 * 60);
/// Bans that are remembered; a configuration names fewer.
const BANS_MAX: usize = 512;

/// What the engine knows of cache hosts.
#[derive(Debug)]
pub(crate) struct CacheHosts {
    client: OriginClient,
    bans: Mutex<HashMap<String, Instant>>,
}

impl CacheHosts {
    pub(crate) fn new(config: OriginConfig) -> Self {
        Self {
            client: OriginClient::new(config),
            bans: Mutex::default(),
        }
    }

    pub(crate) fn client(&self) -> &OriginClient {
        &self.client
    }

    /// A content on a cache host; `None` when it cannot have it.
    pub(crate) fn open(&self, host: &str, urls: &[Url], validator: Validator) -> Option<Origin> {
        let urls: Vec<Url> = urls.iter().filter_map(|url| url_on(host, url)).collect();
        if urls.is_empty() {
            return None;
        }
        Some(self.client.open(urls, Some(validator)))
    }

    /// The host failed: no new download asks it for a while.
    pub(crate) fn ban(&self, host: &str, now: Instant) {
        let mut bans = lock(&self.bans);
        bans.retain(|_, until| *until > now);
        if bans.len() < BANS_MAX {
            bans.insert(host.to_owned(), now + BAN_TIME);
        }
    }

    pub(crate) fn is_banned(&self, host: &str, now: Instant) -> bool {
        self.banned_for(host, now).is_some()
    }

    /// How long the host is still left alone.
    pub(crate) fn banned_for(&self, host: &str, now: Instant) -> Option<Duration> {
        let bans = lock(&self.bans);
        let until = bans.get(host)?;
        until.checked_duration_since(now).filter(|t| !t.is_zero())
    }
}

/// Where a cache host has what is at this URL. A scheme that the host is given with replaces the URL's.
pub(crate) fn url_on(host: &str, url: &Url) -> Option<Url> {
    match host.split_once("://") {
        Some((scheme, host)) => {
            let mut url = url.clone();
            url.set_scheme(scheme).ok()?;
            cache_host_url(&url, host)
        }
        // An address alone needs brackets in a URL.
        None if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            cache_host_url(url, &format!("[{host}]"))
        }
        None => cache_host_url(url, host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_bare_addresses_of_hosts_are_understood() {
        let url = Url::parse("https://origin.test/a?b=1").unwrap();
        let table = [
            ("cache", "https://cache/a?b=1&cacheHostOrigin=origin.test"),
            (
                "http://cache:81",
                "http://cache:81/a?b=1&cacheHostOrigin=origin.test",
            ),
            (
                "fd00::5",
                "https://[fd00::5]/a?b=1&cacheHostOrigin=origin.test",
            ),
            (
                "10.0.0.5:8080",
                "https://10.0.0.5:8080/a?b=1&cacheHostOrigin=origin.test",
            ),
        ];
        for (host, expected) in table {
            assert_eq!(url_on(host, &url).unwrap().as_str(), expected, "{host}");
        }
        assert_eq!(url_on("", &url), None);
    }

    #[test]
    fn ban_ends() {
        let (hosts, now) = (CacheHosts::new(OriginConfig::cache_host()), Instant::now());
        hosts.ban("a", now);
        assert!(hosts.is_banned("a", now) && !hosts.is_banned("b", now));
        assert!(!hosts.is_banned("a", now + BAN_TIME));
    }
}
