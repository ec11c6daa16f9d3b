//! One question to a service, and its whole answer: for JSON services, where status and media type matter to the
//! caller. No redirects, no back-off; the caller decides what an answer means.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use url::Url;

use crate::answer;
use crate::body::Reader;
use crate::client::{Hop, OriginClient, Response};
use crate::error::{OriginError, cut};
use crate::retry_after;
use crate::shown::ShownUrl;

/// Bytes of a refusal's JSON.
const REFUSAL_BYTES_MAX: usize = 4096;

/// What a service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The media type in lower case, without parameters; `None`: not said.
    pub media_type: Option<String>,
    /// How long the answer counts (`Cache-Control: max-age`); `None`: not said.
    pub max_age: Option<Duration>,
    /// How long the service asks to stay away, capped at [`crate::RETRY_AFTER_MAX`].
    pub retry_after: Option<Duration>,
    /// The body of status 200, or the JSON of a refusal (4xx) if it is short; else it is empty, and was not read.
    pub body: Bytes,
}

impl OriginClient {
    /// Asks a service: GET, or POST of a JSON body. The whole exchange has `time_max`; a body of more than `bytes_max`
    /// bytes is given up. When a kept connection turns out to be closed the question is sent once more, so it must be
    /// one that may come twice. Any status is an answer, a redirect too: it is not followed.
    ///
    /// # Errors
    /// [`OriginError::TooLarge`] past `bytes_max`, [`OriginError::Timeout`] past `time_max`; else what a request can
    /// fail with.
    pub async fn ask(
        &self,
        url: &Url,
        json: Option<Bytes>,
        bytes_max: usize,
        time_max: Duration,
    ) -> Result<Reply, OriginError> {
        let exchange = async {
            let mut headers = HeaderMap::new();
            if json.is_some() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            let response = self.send(&Hop::given(url.clone()), headers, json).await?;
            self.read_reply(url, response, bytes_max).await
        };
        match tokio::time::timeout(time_max, exchange).await {
            Ok(reply) => reply,
            Err(_) => Err(OriginError::Timeout {
                url: ShownUrl::from(url),
                after: time_max,
            }),
        }
    }

    async fn read_reply(
        &self,
        url: &Url,
        response: Response,
        bytes_max: usize,
    ) -> Result<Reply, OriginError> {
        let shown = ShownUrl::from(url);
        let headers = response.headers();
        let text = |name| {
            headers
                .get(name)
                .and_then(|v: &HeaderValue| v.to_str().ok())
        };
        let mut reply = Reply {
            status: response.status().as_u16(),
            media_type: text(CONTENT_TYPE).map(media_type),
            max_age: text(CACHE_CONTROL).and_then(max_age),
            retry_after: headers.get(RETRY_AFTER).and_then(|value| {
                let date = headers.get(DATE).map(HeaderValue::as_bytes);
                retry_after::parse(value.as_bytes(), date, SystemTime::now())
            }),
            body: Bytes::new(),
        };
        if response.status() == StatusCode::OK {
            reply.body = self.read_body(&shown, response, bytes_max).await?;
        } else if response.status().is_client_error()
            && reply.media_type.as_deref() == Some("application/json")
        {
            // Why the service refuses; its status is the answer all the same.
            let why = self.read_body(&shown, response, REFUSAL_BYTES_MAX).await;
            reply.body = why.unwrap_or_default();
        }
        Ok(reply)
    }

    async fn read_body(
        &self,
        url: &ShownUrl,
        response: Response,
        bytes_max: usize,
    ) -> Result<Bytes, OriginError> {
        answer::identity(url, response.headers())?;
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let too_large = || OriginError::TooLarge {
            url: url.clone(),
            bytes_max: limit,
        };
        if says_more(response.headers(), limit) {
            return Err(too_large());
        }
        let mut reader = Reader::new(response, url.clone(), self.config().idle_timeout);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.next().await? {
            if chunk.len() > bytes_max - bytes.len() {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn says_more(headers: &HeaderMap, limit: u64) -> bool {
    answer::length(headers).is_some_and(|length| length > limit)
}

fn media_type(value: &str) -> String {
    let essence = value.split(';').next().unwrap_or_default().trim();
    cut(essence.to_ascii_lowercase())
}

/// The `max-age` of a `Cache-Control`; nothing when the answer may not be kept at all.
fn max_age(value: &str) -> Option<Duration> {
    let mut age = None;
    for directive in value.split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return Some(Duration::ZERO);
        }
        if let Some((name, seconds)) = directive.split_once('=')
            && name.trim().eq_ignore_ascii_case("max-age")
        {
            age = seconds.trim().parse().ok().map(Duration::from_secs);
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_types_are_read_as_servers_write_them() {
        let table = [
            ("max-age=60", Some(60)),
            ("public, Max-Age = 3600", Some(3600)),
            ("no-store", Some(0)),
            ("max-age=60, no-cache", Some(0)),
            ("max-age=x", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999999", None),
            ("", None),
        ];
        for (value, seconds) in table {
            assert_eq!(max_age(value), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(media_type("Text/HTML; charset=utf-8"), "text/html");
        assert_eq!(media_type(""), "");
    }
}
