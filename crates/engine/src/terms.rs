//! How a content is to be treated, as the fleet's content policy says.

use dosvc_discovery::cloud::{ContentPolicies, ContentPolicy, HttpUrl};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use url::Url;

/// What peers must give together, in bytes a second, so that HTTP is left alone; `None`: as the device's policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Qos {
    pub(crate) foreground: Option<u64>,
    pub(crate) background: Option<u64>,
}

impl Qos {
    /// What counts for a download of this priority; `configured`: somebody has set the device's own for the background.
    pub(crate) fn for_priority(self, foreground: bool, configured: bool) -> Option<u64> {
        match foreground {
            true => self.foreground,
            false => self.background.filter(|_| !configured),
        }
    }
}

/// See the module's documentation; the default is that nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Terms {
    pub(crate) qos: Qos,
    /// How long the content is kept after its download.
    age_max: Option<Duration>,
    /// When it must go.
    expires: Option<SystemTime>,
    /// Where it is beside the addresses that the caller gave, in order.
    urls: Vec<Url>,
}

impl Terms {
    /// What a policy says.
    pub(crate) fn of(policy: &ContentPolicy) -> Self {
        // What `DownloadToExpire` asks for is recorded nowhere.
        let ContentPolicies {
            foreground_qos_bps,
            background_qos_bps,
            max_cache_age_secs,
            expire_at_secs_since_epoch,
            download_to_expire: _,
        } = policy.policies;
        let urls = policy.content_cdn_urls.iter().flatten();
        Self {
            qos: Qos {
                foreground: foreground_qos_bps,
                background: background_qos_bps,
            },
            age_max: max_cache_age_secs.map(Duration::from_secs),
            expires: expire_at_secs_since_epoch
                .and_then(|at| UNIX_EPOCH.checked_add(Duration::from_secs(at))),
            urls: urls.map(HttpUrl::to_url).collect(),
        }
    }

    /// Whether the content must have gone by now.
    pub(crate) fn have_ended(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Where the content is: at the addresses that the caller gave, then at the others.
    pub(crate) fn urls_after(&self, given: &[Url]) -> Vec<Url> {
        let mut urls = given.to_vec();
        for url in &self.urls {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls
    }

    /// When the content leaves the cache at the latest, given when it was downloaded (or is still being) and the
    /// device's own age limit; `None`: what the device's limits say.
    pub(crate) fn expiry(
        &self,
        downloaded: SystemTime,
        device_age_max: Option<Duration>,
    ) -> Option<SystemTime> {
        // A publisher may shorten what an administrator allows, and not lengthen it.
        let age = match (self.age_max, device_age_max) {
            (Some(own), Some(device)) => Some(own.min(device)),
            (Some(own), None) => Some(own),
            // An expiry of its own stands for the age limit, so it must hold that too.
            (None, device) => device.filter(|_| self.expires.is_some()),
        };
        let aged = age.and_then(|age| downloaded.checked_add(age));
        [aged, self.expires].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn content_goes_at_the_earliest_of_its_limits() {
        for (age, expires, device, expected) in [
            (None, None, None, None),
            (None, None, Some(50), None),
            (Some(20), None, None, Some(120)),
            (Some(20), None, Some(50), Some(120)),
            (Some(80), None, Some(50), Some(150)),
            (None, Some(130), None, Some(130)),
            (None, Some(170), Some(50), Some(150)),
            (Some(20), Some(110), Some(50), Some(110)),
            (Some(u64::MAX), None, None, None),
        ] {
            let terms = Terms {
                age_max: age.map(Duration::from_secs),
                expires: expires.map(at),
                ..Terms::default()
            };
            let found = terms.expiry(at(100), device.map(Duration::from_secs));
            assert_eq!(found, expected.map(at), "{age:?} {expires:?} {device:?}");
            assert_eq!(terms.have_ended(at(130)), expires.is_some_and(|e| e <= 130));
        }
    }

    #[test]
    fn what_is_configured_here_counts_before_the_policy() {
        let qos = Qos {
            foreground: Some(1),
            background: Some(2),
        };
        for (foreground, configured, expected) in [
            (true, false, Some(1)),
            (true, true, Some(1)),
            (false, false, Some(2)),
            (false, true, None),
        ] {
            assert_eq!(qos.for_priority(foreground, configured), expected);
        }
        assert_eq!(Qos::default().for_priority(true, false), None);
    }

    #[test]
    fn the_callers_addresses_come_first_and_none_comes_twice() {
        let url = |text: &str| Url::parse(text).unwrap();
        let terms = Terms {
            urls: vec![url("http://b/x"), url("http://a/x"), url("http://c/x")],
            ..Terms::default()
        };
        let urls = terms.urls_after(&[url("http://a/x")]);
        assert_eq!(urls, ["http://a/x", "http://b/x", "http://c/x"].map(url));
    }
}
