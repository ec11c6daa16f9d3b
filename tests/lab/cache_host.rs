//! A real nginx as the cache host, before a real nginx as the origin.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::Daemon,
    namespace::Lab,
    nginx::Nginx,
    process::wait_for,
};
use std::time::Duration;

/// Three machines: the origin, the cache host (at the same port), and one that downloads.
struct Branch {
    lab: Lab,
    content: Content,
}

impl Branch {
    fn new() -> Self {
        Self {
            lab: Lab::new(3, None),
            content: Content::random(1, scenario_bytes(64)),
        }
    }

    fn origin(&self) -> Nginx {
        Nginx::start(self.lab.at(0), &content::folder())
    }

    fn cache(&self) -> Nginx {
        Nginx::start(self.lab.at(1), &content::folder())
    }

    fn cache_ip(&self) -> String {
        self.lab.at(1).ip().to_string()
    }

    /// A daemon without peers, with this cache host and further policies.
    fn daemon(&self, policies: &str) -> Daemon {
        let host = self.cache_ip();
        let policies = format!("download_mode = 0\ncache_host = \"{host}\"\n{policies}");
        Daemon::start(self.lab.at(2), &policies)
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn cache_host_gives_everything_and_is_told_whose_content_it_is() {
    let branch = Branch::new();
    let (origin, cache) = (branch.origin(), branch.cache());
    let content = &branch.content;
    let result = branch
        .daemon("")
        .get(&origin.url(&content.name), content, &[]);
    let from = result.status.downloaded;
    assert_eq!(
        (from.cache_server, from.http),
        (content.bytes, 0),
        "{:?}",
        result.status
    );
    assert_eq!(result.status.cache_host, Some(branch.cache_ip()));
    assert_eq!(origin.bytes_sent(&content.name, None), 0);
    let path = format!("/{}", content.name);
    let asked: Vec<_> = cache
        .requests()
        .into_iter()
        .filter(|r| r.path == path)
        .collect();
    let query = format!("cacheHostOrigin={}", branch.lab.at(0).ip());
    assert!(
        !asked.is_empty() && asked.iter().all(|r| r.query == query),
        "{asked:?}"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn origin_stands_in_at_once_for_a_cache_host_that_is_not_there() {
    let branch = Branch::new();
    let origin = branch.origin();
    let content = &branch.content;
    let daemon = branch.daemon("");
    let result = daemon.get(&origin.url(&content.name), content, &[]);
    assert_eq!(
        result.status.downloaded.http, content.bytes,
        "{:?}",
        result.status
    );
    assert!(
        result.elapsed < Duration::from_secs(10),
        "{:?}",
        result.elapsed
    );
    // For a while nobody asks it again.
    let cache = branch.cache();
    let other = Content::random(2, scenario_bytes(16));
    let result = daemon.get(&origin.url(&other.name), &other, &[]);
    assert_eq!(
        result.status.downloaded.http, other.bytes,
        "{:?}",
        result.status
    );
    assert!(cache.requests().is_empty());
}

#[test]
#[ignore = "needs root and network namespaces"]
fn cache_host_gives_content_without_hash_file_while_the_origin_is_not_there() {
    let branch = Branch::new();
    let cache = branch.cache();
    let content = Content::without_hash_file(4, scenario_bytes(64));
    let daemon = branch.daemon("");
    // As the cache host's, but on the machine where nothing listens.
    let url = cache
        .url(&content.name)
        .replace(&branch.cache_ip(), &branch.lab.at(0).ip().to_string());
    let result = daemon.get(&url, &content, &[]);
    let status = result.status;
    assert_eq!(status.downloaded.cache_server, content.bytes, "{status:?}");
    assert!(!status.verified_by_hash_file, "{status:?}");
}

/// Waits until a download says that this policy holds the origin back.
fn wait_until_held(daemon: &Daemon, policy: &str) {
    wait_for(policy, Duration::from_secs(5), || {
        let waiting = daemon.jobs().into_iter().find_map(|job| job.waiting)?;
        waiting.contains(policy).then_some(())
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn fallback_delay_keeps_the_origin_waiting_for_the_cache_host() {
    const DELAY: Duration = Duration::from_secs(6);
    let branch = Branch::new();
    let origin = branch.origin();
    let content = &branch.content;
    let policies =
        "delay_cache_server_fallback_background = 6\ndelay_cache_server_fallback_foreground = 60";
    let daemon = branch.daemon(policies);
    let get = daemon.start_get(&origin.url(&content.name), &[]);
    wait_until_held(&daemon, "delay_cache_server_fallback_background");
    assert_eq!(origin.bytes_sent(&content.name, None), 0);
    let result = get.finish();
    assert_eq!(
        result.status.downloaded.http, content.bytes,
        "{:?}",
        result.status
    );
    assert!(result.elapsed >= DELAY, "{:?}", result.elapsed);

    // In the foreground the delay is longer; a cache host that comes back within it is used.
    let other = Content::random(2, scenario_bytes(16));
    let fresh = {
        drop(daemon);
        branch.daemon(policies)
    };
    let get = fresh.start_get(&origin.url(&other.name), &["--foreground"]);
    wait_until_held(&fresh, "delay_cache_server_fallback_foreground");
    let _cache = branch.cache();
    let result = get.finish();
    assert_eq!(
        result.status.downloaded.cache_server, other.bytes,
        "{:?}",
        result.status
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn origin_takes_over_from_a_cache_host_that_dies_under_way() {
    let branch = Branch::new();
    let (origin, mut cache) = (branch.origin(), branch.cache());
    let content = Content::random(3, scenario_bytes(256));
    let daemon = branch.daemon("max_background_download_bandwidth = 20480");
    let mut get = daemon.start_get(&origin.url(&content.name), &[]);
    let progress = daemon.wait_for_bytes(&mut get, content.bytes / 8);
    assert_eq!(progress.downloaded.http, 0, "{progress:?}");
    cache.stop();
    let result = get.finish();
    content.assert_same(&result.output);
    let from = result.status.downloaded;
    assert!(
        from.http > 0 && from.cache_server >= content.bytes / 8,
        "{from:?}"
    );
    assert_eq!(from.total(), content.bytes);
}
