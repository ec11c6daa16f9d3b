//! How a URL is shown in messages and logs: without what may be a secret.

use std::fmt;

use url::Url;

/// A URL fit for messages: scheme, host, port and path. Signed URLs carry their secret in the query, others in
/// the user part; both are left out, as is the fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ShownUrl(String);

/// The longest path that is shown, in bytes.
const PATH_BYTES_MAX: usize = 256;

impl From<&Url> for ShownUrl {
    fn from(url: &Url) -> Self {
        let mut text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        if let Some(port) = url.port() {
            text.push_str(&format!(":{port}"));
        }
        // A URL's path is ASCII (percent-encoded) except where it has no host; cut on a boundary all the same.
        let path = url.path();
        let end = path.floor_char_boundary(PATH_BYTES_MAX);
        text.push_str(&path[..end]);
        if end < path.len() {
            text.push('…');
        }
        if url.query().is_some() {
            text.push_str("?…");
        }
        Self(text)
    }
}

impl fmt::Display for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShownUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_user_and_fragment_are_not_shown() {
        let url = Url::parse("https://me:pw@cdn.test:8443/a/b.bin?sig=SECRET#frag").unwrap();
        assert_eq!(
            ShownUrl::from(&url).to_string(),
            "https://cdn.test:8443/a/b.bin?…"
        );
    }

    #[test]
    fn long_path_is_cut() {
        let url = Url::parse(&format!("http://h/{}", "ä".repeat(2000))).unwrap();
        assert!(ShownUrl::from(&url).to_string().len() < 300);
    }
}
