//! Addresses that the services hand out.

use crate::{limits::URL_BYTES_MAX, text::Text};
use dosvc_content::ContentId;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{fmt, str::FromStr};
use url::Url;

/// What stands for the content's id in the addresses of content policy and discovery.
pub const CONTENT_ID_PLACEHOLDER: &str = "{contentId}";

/// Text that is no usable address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseUrlError(&'static str);

/// An `http` or `https` address with a host and without user or password, at most 2048 bytes, kept as it was written.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address taken apart.
    pub fn to_url(&self) -> Url {
        Url::parse(&self.0).expect("parsed when it was made")
    }

    /// The address with `query` behind it; `&` where it has one already.
    pub fn with_query(&self, query: &str) -> String {
        let joint = if self.0.contains('?') { '&' } else { '?' };
        format!("{}{joint}{query}", self.0)
    }
}

impl FromStr for HttpUrl {
    type Err = ParseUrlError;

    fn from_str(text: &str) -> Result<Self, ParseUrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(ParseUrlError("an address has at most 2048 bytes"));
        }
        // The parser would drop these silently.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(ParseUrlError("an address has no spaces"));
        }
        let url = Url::parse(text).map_err(|_| ParseUrlError("not an address"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(ParseUrlError("expected an http or https address"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ParseUrlError("an address has no user or password in it"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A content's URL as services are told of it and find it by: written as the URL standard has it, without user, password,
/// query and fragment, any of which may be a secret. `None`: it is too long.
pub fn catalog_id(url: &Url) -> Option<Text<URL_BYTES_MAX>> {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Text::new(url)
}

/// An address with the placeholder `{contentId}` in it, once.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct UrlTemplate(HttpUrl);

impl UrlTemplate {
    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The address for one content; the id is percent-encoded.
    pub fn fill(&self, id: &ContentId) -> String {
        let id = encoded(id.as_str());
        self.as_str().replacen(CONTENT_ID_PLACEHOLDER, &id, 1)
    }
}

impl FromStr for UrlTemplate {
    type Err = ParseUrlError;

    fn from_str(text: &str) -> Result<Self, ParseUrlError> {
        let url: HttpUrl = text.parse()?;
        let rest = url.to_url();
        // In the host it would let a content choose whom the client asks.
        let after_host = &rest[url::Position::BeforePath..];
        if text.matches(CONTENT_ID_PLACEHOLDER).count() != 1
            || !(after_host.contains("%7BcontentId%7D") || after_host.contains("{contentId}"))
        {
            return Err(ParseUrlError(
                "expected an address with {contentId} in its path or query, once",
            ));
        }
        Ok(Self(url))
    }
}

/// The text with all but RFC 3986's unreserved characters percent-encoded.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        use fmt::Write as _;
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(D::Error::custom)
            }
        }
    };
}

as_text!(HttpUrl);
as_text!(UrlTemplate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_content_has_one_catalog_id_however_its_url_is_written() {
        for text in [
            "http://a.test/x/y",
            "HTTP://A.test:80/x/y?token=1#part",
            "http://user:secret@a.test/x/./y",
            "http://a.test/x/z/../y?",
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(catalog_id(&url).unwrap().as_str(), "http://a.test/x/y");
        }
        for (text, expected) in [
            ("https://a.test:444", "https://a.test:444/"),
            (
                "http://bücher.test/ä b",
                "http://xn--bcher-kva.test/%C3%A4%20b",
            ),
            ("http://a.test/%7e", "http://a.test/%7e"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(catalog_id(&url).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn addresses_are_http_with_a_host() {
        for good in [
            "http://a",
            "https://[::1]:8443/x?y=1",
            "https://a.example/b/",
        ] {
            assert_eq!(good.parse::<HttpUrl>().unwrap().as_str(), good);
        }
        let long = format!("http://a/{}", "x".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "a",
            "ftp://a/",
            "file:///etc/passwd",
            "http://",
            "http://u:p@a/",
            "http://a/\nb",
            "http://a/ b",
            &long,
        ] {
            assert!(bad.parse::<HttpUrl>().is_err(), "{bad}");
        }
        let plain: HttpUrl = "http://a/x".parse().unwrap();
        assert_eq!(plain.with_query("b=1"), "http://a/x?b=1");
        let asked: HttpUrl = "http://a/x?c=2".parse().unwrap();
        assert_eq!(asked.with_query("b=1"), "http://a/x?c=2&b=1");
    }

    #[test]
    fn template_takes_the_id_in_its_path_encoded() {
        let template: UrlTemplate = "https://a/content/{contentId}/contentpolicy"
            .parse()
            .unwrap();
        let id = "DO-a=/../?x".parse().unwrap();
        assert_eq!(
            template.fill(&id),
            "https://a/content/DO-a%3D%2F..%2F%3Fx/contentpolicy"
        );
        assert!("https://a/?id={contentId}".parse::<UrlTemplate>().is_ok());
        for bad in [
            "https://a/",
            "https://{contentId}.example/",
            "https://a/{contentId}/{contentId}",
            "https://a/{contentid}",
        ] {
            assert!(bad.parse::<UrlTemplate>().is_err(), "{bad}");
        }
    }
}
