//! What can go wrong with an origin, split by whose fault it is.

use std::ops::Range;
use std::time::{Duration, Instant};

use dosvc_content::HResult;

use crate::limits::CAUSE_BYTES_MAX;
use crate::shown::ShownUrl;
use crate::validator::Difference;

/// A failure of one request, or of every URL of a content.
///
/// Messages name the URL without its query, which may hold a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    // The caller's.
    /// No usable URL was given.
    #[error("no URL was given for this content; give at least one http or https URL")]
    NoUrl,
    /// A URL that is not http or https, or that no request can be made of.
    #[error("{url} cannot be downloaded: {cause}; give an http or https URL")]
    BadUrl {
        /// The URL.
        url: ShownUrl,
        /// Why not.
        cause: String,
    },
    /// The range is empty or outside the content.
    #[error("bytes {}..{} are empty or outside the content{}", range.start, range.end, of_total(*total))]
    InvalidRange {
        /// The range asked for.
        range: Range<u64>,
        /// The content's length, if known.
        total: Option<u64>,
    },
    /// Every URL that is not dead waits after a failure; see [`crate::Origin::next_attempt`].
    #[error("every source of this content waits after a failure; the last one was: {last}")]
    BackingOff {
        /// When the first URL is due again.
        until: Instant,
        /// The last failure.
        last: Box<Self>,
    },

    // This machine's.
    /// The HTTP client could not be set up: an unusable user agent or root certificate.
    #[error(
        "the HTTP client could not be set up: {cause}; check the configured certificates and user agent"
    )]
    Setup {
        /// Why not.
        cause: String,
    },

    // The network's: transient.
    /// The host's name did not resolve.
    #[error("the name of {url} did not resolve: {cause}; check the name and this machine's DNS")]
    Dns {
        /// The URL.
        url: ShownUrl,
        /// What the resolver said.
        cause: String,
    },
    /// No connection to the host or to the proxy before it.
    #[error("no connection to {url}: {cause}; check that the server and the proxy are reachable")]
    Connect {
        /// The URL.
        url: ShownUrl,
        /// What the system said.
        cause: String,
    },
    /// No connection or no answer in time.
    #[error("{url} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// The URL.
        url: ShownUrl,
        /// How long it had.
        after: Duration,
    },
    /// The connection was lost, or what came over it is not HTTP.
    #[error("the connection to {url} was lost: {cause}")]
    Lost {
        /// The URL.
        url: ShownUrl,
        /// What the system or the HTTP parser said.
        cause: String,
    },
    /// The body came to a stop, or slower than the floor over the whole idle timeout.
    #[error("{url} stalled: {received} bytes in the last {} s", waited.as_secs_f32())]
    Stalled {
        /// The URL.
        url: ShownUrl,
        /// Bytes that came while waiting.
        received: u64,
        /// How long was waited.
        waited: Duration,
    },

    // The server's.
    /// TLS failed.
    #[error("TLS with {url} failed: {cause}{}", tls_hint(*certificate))]
    Tls {
        /// The URL.
        url: ShownUrl,
        /// What rustls said.
        cause: String,
        /// Whether the certificate was refused (then trying again does not help).
        certificate: bool,
    },
    /// 404 or 410.
    #[error("{url} does not exist (HTTP {status}); check the URL")]
    NotFound {
        /// The URL.
        url: ShownUrl,
        /// The status.
        status: u16,
    },
    /// Any other status that is no answer to what was asked.
    #[error("{url} answered HTTP {status}{}", status_hint(*status))]
    Status {
        /// The URL.
        url: ShownUrl,
        /// The status.
        status: u16,
        /// How long the server asks to stay away, capped.
        retry_after: Option<Duration>,
    },
    /// 416: the server says that the range lies outside its content, and agrees with us on the length or names none.
    #[error("{url} refuses bytes {}..{} as outside its content{}", range.start, range.end, of_total(*total))]
    RangeRefused {
        /// The URL.
        url: ShownUrl,
        /// The range asked for.
        range: Range<u64>,
        /// The length that the server names.
        total: Option<u64>,
    },
    /// The server ignores ranges, and another one that may not was preferred.
    #[error(
        "{url} ignores Range and sends the whole content; a server with range support is needed for parts"
    )]
    RangeIgnored {
        /// The URL.
        url: ShownUrl,
    },
    /// A 206 whose range is missing, malformed, or not the one asked for.
    #[error("{url} answered bytes {}..{} with Content-Range {answered:?}; the server or a cache before it is broken", range.start, range.end)]
    BadContentRange {
        /// The URL.
        url: ShownUrl,
        /// The range asked for.
        range: Range<u64>,
        /// What the server said.
        answered: Option<String>,
    },
    /// The body ended early.
    #[error("{url} sent {got} of {expected} bytes")]
    ShortBody {
        /// The URL.
        url: ShownUrl,
        /// Bytes that were announced.
        expected: u64,
        /// Bytes that came or that the header promised.
        got: u64,
    },
    /// The body goes on after its end.
    #[error(
        "{url} sent more than the {expected} bytes that were due; the server or a cache before it is broken"
    )]
    LongBody {
        /// The URL.
        url: ShownUrl,
        /// Bytes that were due.
        expected: u64,
    },
    /// The body is compressed although `identity` was asked for.
    #[error(
        "{url} sent its content coded as {coding:?} although that was refused; turn compression off for it"
    )]
    Encoded {
        /// The URL.
        url: ShownUrl,
        /// The `Content-Encoding`.
        coding: String,
    },
    /// The content is not the version that the download began with.
    #[error(
        "{url} has another version of the content: {what} was {was}, is {is}; start the download anew"
    )]
    Changed {
        /// The URL.
        url: ShownUrl,
        /// What differs.
        what: &'static str,
        /// Its value when the download began.
        was: String,
        /// Its value now.
        is: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects where it may not: {refusal}")]
    Redirect {
        /// The URL that redirects.
        url: ShownUrl,
        /// Why the redirect is refused.
        refusal: RedirectRefusal,
    },
    /// The content is longer than is allowed.
    #[error("{url} is longer than the {bytes_max} bytes that are allowed here")]
    TooLarge {
        /// The URL.
        url: ShownUrl,
        /// The limit.
        bytes_max: u64,
    },
    /// The answer is something else than what was asked for: a page of a captive portal, or the content itself.
    #[error("{url} answers with something else than what was asked for")]
    Unexpected {
        /// The URL.
        url: ShownUrl,
    },
    /// The answer does not say how long the content is.
    #[error(
        "{url} does not say how long the content is (HTTP {status}); give a hash file, or a server that sends Content-Length"
    )]
    SizeUnknown {
        /// The URL.
        url: ShownUrl,
        /// 200 or 206.
        status: u16,
    },
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectRefusal {
    /// No `Location`.
    #[error("no Location was given")]
    NoLocation,
    /// A `Location` that is not a URL, or too long.
    #[error("its Location is not a usable URL")]
    BadLocation,
    /// Neither http nor https.
    #[error("only http and https are followed")]
    Scheme,
    /// From https to http.
    #[error(
        "from https to http; allow it in the configuration if the content is checked by its hashes"
    )]
    Downgrade,
    /// From a public host to an address that only this machine or its network can reach.
    #[error("from a public server to a private address")]
    PrivateAddress,
    /// Back to where it has been.
    #[error("in a circle")]
    Loop,
    /// More hops than are followed.
    #[error("more than {hops_max} times")]
    TooMany {
        /// Hops that are followed.
        hops_max: u8,
    },
}

impl OriginError {
    /// The code that Delivery Optimization reports for it. Codes outside its own family are those of WinHTTP
    /// (facility 7, 12002 and on) and the `HTTP_E_STATUS_*` of a status.
    pub fn hresult(&self) -> HResult {
        match self {
            Self::NoUrl => HResult::NO_URI,
            Self::BadUrl { .. } => HResult(0x800C_0002),
            Self::InvalidRange { .. } | Self::RangeRefused { .. } => HResult::INVALID_RANGE,
            Self::BackingOff { last, .. } => last.hresult(),
            Self::Setup { .. } => HResult(0x8000_FFFF),
            Self::Dns { .. } => HResult(0x8007_2EE7),
            Self::Connect { .. } => HResult(0x8007_2EFD),
            Self::Timeout { .. } | Self::Stalled { .. } => HResult(0x8007_2EE2),
            Self::Lost { .. } | Self::ShortBody { .. } => HResult(0x8007_2EFE),
            Self::Tls {
                certificate: true, ..
            } => HResult::CERTIFICATE_INVALID,
            Self::Tls { .. } => HResult(0x8007_2F7D),
            Self::NotFound { status, .. } => HResult::from_http_status(*status),
            Self::Status { status, .. } if *status >= 400 => HResult::from_http_status(*status),
            Self::Status { .. } => HResult::UNEXPECTED_STATUS,
            Self::RangeIgnored { .. } => HResult::RANGE_UNSUPPORTED,
            Self::BadContentRange { .. } | Self::LongBody { .. } | Self::Encoded { .. } => {
                HResult(0x8007_2F78)
            }
            Self::Changed { .. } => HResult::FILE_NOT_AVAILABLE,
            Self::Redirect {
                refusal: RedirectRefusal::Downgrade,
                ..
            } => HResult(0x8007_2F08),
            Self::Redirect { .. } => HResult(0x8007_2F7C),
            Self::TooLarge { .. } => HResult(0x8007_00DF),
            Self::Unexpected { .. } => HResult::METAINFO_INVALID,
            Self::SizeUnknown { status: 206, .. } => HResult::SIZE_UNKNOWN_206,
            Self::SizeUnknown { .. } => HResult::SIZE_UNKNOWN_200,
        }
    }

    /// Whether trying the same URL again is of no use.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::BackingOff { .. }
            | Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Lost { .. }
            | Self::Stalled { .. }
            | Self::RangeIgnored { .. }
            | Self::BadContentRange { .. }
            | Self::ShortBody { .. }
            | Self::LongBody { .. } => false,
            Self::Tls { certificate, .. } => *certificate,
            Self::Status { status, .. } => !status_is_transient(*status),
            Self::NoUrl
            | Self::BadUrl { .. }
            | Self::InvalidRange { .. }
            | Self::Setup { .. }
            | Self::NotFound { .. }
            | Self::RangeRefused { .. }
            | Self::Encoded { .. }
            | Self::Changed { .. }
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Unexpected { .. }
            | Self::SizeUnknown { .. } => true,
        }
    }

    /// How long the server asks to stay away (at most [`crate::RETRY_AFTER_MAX`]).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::BackingOff { last, .. } => last.retry_after(),
            _ => None,
        }
    }

    pub(crate) fn changed(url: ShownUrl, difference: Difference) -> Self {
        Self::Changed {
            url,
            what: difference.what,
            was: difference.was,
            is: difference.is,
        }
    }
}

/// Statuses after which the same request may succeed later: 408, 421, 425, 429 and every 5xx.
fn status_is_transient(status: u16) -> bool {
    matches!(status, 408 | 421 | 425 | 429) || status >= 500
}

/// Text from outside, cut to what fits a message.
pub(crate) fn cut(mut text: String) -> String {
    let end = text.floor_char_boundary(CAUSE_BYTES_MAX);
    if end < text.len() {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn of_total(total: Option<u64>) -> String {
    total.map_or_else(String::new, |total| format!(" of {total} bytes"))
}

fn tls_hint(certificate: bool) -> &'static str {
    if certificate {
        "; check the server's certificate, this machine's root certificates and its clock"
    } else {
        ""
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "; the URL may have expired or need a permission",
        407 => "; the proxy wants a user and a password (user:password@ in the proxy's URL)",
        429 => "; the server is asked too often, it is tried again later",
        500.. => "; the server has a problem of its own, it is tried again later",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn status(status: u16) -> OriginError {
        OriginError::Status {
            url: ShownUrl::from(&Url::parse("http://h/a?secret").unwrap()),
            status,
            retry_after: None,
        }
    }

    #[test]
    fn statuses_have_their_codes() {
        assert_eq!(status(404).hresult().to_string(), "0x80190194");
        assert_eq!(status(503).hresult().to_string(), "0x801901F7");
        assert_eq!(status(204).hresult(), HResult::UNEXPECTED_STATUS);
        assert_eq!(status(304).hresult(), HResult::UNEXPECTED_STATUS);
    }

    #[test]
    fn only_overload_and_server_faults_are_tried_again() {
        for transient in [408, 421, 425, 429, 500, 502, 503, 504, 599] {
            assert!(!status(transient).is_permanent(), "{transient}");
        }
        for permanent in [204, 304, 400, 401, 403, 405, 407, 412, 451] {
            assert!(status(permanent).is_permanent(), "{permanent}");
        }
    }

    #[test]
    fn messages_say_what_where_and_what_to_do_without_the_secret() {
        let text = status(403).to_string();
        assert_eq!(
            text,
            "http://h/a?… answered HTTP 403; the URL may have expired or need a permission"
        );
    }
}
