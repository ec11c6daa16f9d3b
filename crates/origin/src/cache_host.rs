//! The URL under which a cache host has a content (Connected Cache, section 4). Pure.

use url::Url;

/// The URL of `content` on the cache host `host` (a name or address, `host:port`, IPv6 in brackets): same scheme,
/// path and query, the origin's name appended as `cacheHostOrigin`. A port that `host` names wins; without one the
/// content URL's own stays. `None` when `host` is not a host.
///
/// ```
/// # use dosvc_origin::{Url, cache_host_url};
/// let content = Url::parse("http://dl.delivery.mp.microsoft.com/files/a?P1=1").unwrap();
/// let cached = cache_host_url(&content, "10.0.0.5").unwrap();
/// assert_eq!(cached.as_str(), "http://10.0.0.5/files/a?P1=1&cacheHostOrigin=dl.delivery.mp.microsoft.com");
/// ```
pub fn cache_host_url(content: &Url, host: &str) -> Option<Url> {
    let origin = content.host_str()?;
    // Parsed as a URL of its own, so that nothing but a host and a port can come in.
    let node = Url::parse(&format!("{}://{}/", content.scheme(), host.trim())).ok()?;
    let only_host = node.path() == "/"
        && node.query().is_none()
        && node.fragment().is_none()
        && node.username().is_empty()
        && node.password().is_none();
    if !only_host {
        return None;
    }
    let mut url = content.clone();
    url.set_fragment(None);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    url.set_host(node.host_str()).ok()?;
    if names_port(host.trim()) {
        url.set_port(node.port()).ok()?;
    }
    // Appended as text: the origin's own query may be signed and must stay byte for byte.
    let query = match content.query() {
        Some(query) if !query.is_empty() => format!("{query}&cacheHostOrigin={origin}"),
        _ => format!("cacheHostOrigin={origin}"),
    };
    url.set_query(Some(&query));
    Some(url)
}

/// Whether `host:port` was written, also for the scheme's own port, which a URL does not keep.
fn names_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && !host.ends_with(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(content: &str, host: &str) -> Option<String> {
        cache_host_url(&Url::parse(content).unwrap(), host).map(String::from)
    }

    #[test]
    fn host_is_replaced_and_origin_appended() {
        for (content, host, url) in [
            (
                "http://o.test/a",
                "mcc",
                "http://mcc/a?cacheHostOrigin=o.test",
            ),
            (
                "http://o.test/a?sig=%2Fx",
                "mcc",
                "http://mcc/a?sig=%2Fx&cacheHostOrigin=o.test",
            ),
            (
                "https://o.test/a",
                "mcc",
                "https://mcc/a?cacheHostOrigin=o.test",
            ),
            (
                "http://o.test:8080/a",
                "mcc",
                "http://mcc:8080/a?cacheHostOrigin=o.test",
            ),
            (
                "http://o.test:8080/a",
                "mcc:81",
                "http://mcc:81/a?cacheHostOrigin=o.test",
            ),
            (
                "http://o.test:8080/a",
                "mcc:80",
                "http://mcc/a?cacheHostOrigin=o.test",
            ),
            (
                "http://o.test/a",
                "[fd00::5]",
                "http://[fd00::5]/a?cacheHostOrigin=o.test",
            ),
            (
                "http://o.test/a",
                "[fd00::5]:81",
                "http://[fd00::5]:81/a?cacheHostOrigin=o.test",
            ),
            (
                "http://me:pw@o.test/a#f",
                " mcc ",
                "http://mcc/a?cacheHostOrigin=o.test",
            ),
        ] {
            assert_eq!(
                cached(content, host).as_deref(),
                Some(url),
                "{content} on {host}"
            );
        }
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        for host in ["", "a/b", "a?b", "a#b", "u@a", "a b", "http://a", "a:99999"] {
            assert_eq!(cached("http://o.test/a", host), None, "{host:?}");
        }
    }
}
