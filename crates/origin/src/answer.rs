//! What an answer's head says, judged against what was asked. Pure: no socket, the time of day is an argument.

use std::ops::Range;
use std::time::SystemTime;

use dosvc_content::CONTENT_LENGTH_MAX;
use hyper::StatusCode;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
    LAST_MODIFIED, RETRY_AFTER,
};

use crate::content_range::ContentRange;
use crate::error::{OriginError, cut};
use crate::retry_after;
use crate::shown::ShownUrl;
use crate::validator;

/// A head that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Whether a 200: the body is the whole content.
    pub(crate) whole: bool,
    /// The content's length, as far as the server says.
    pub(crate) total: Option<u64>,
    /// The entity tag, if one worth keeping.
    pub(crate) etag: Option<String>,
    /// The modification date, if one worth keeping.
    pub(crate) last_modified: Option<String>,
}

/// Judges the head of an answer to a request for `range`.
///
/// # Errors
/// Whatever makes the body unusable: another status, another range, a coding, a length that does not fit.
pub(crate) fn read(
    url: &ShownUrl,
    status: StatusCode,
    headers: &HeaderMap,
    range: &Range<u64>,
    now: SystemTime,
) -> Result<Answer, OriginError> {
    let (whole, total) = match status {
        StatusCode::PARTIAL_CONTENT => (false, partial(url, headers, range)?),
        StatusCode::OK => (true, length(headers)),
        _ => return Err(refusal(url, status, headers, range, now)),
    };
    identity(url, headers)?;
    if total.is_some_and(|total| total > CONTENT_LENGTH_MAX) {
        return Err(OriginError::TooLarge {
            url: url.clone(),
            bytes_max: CONTENT_LENGTH_MAX,
        });
    }
    Ok(Answer::new(whole, total, headers))
}

/// What a 416 says of a content without bytes.
pub(crate) fn of_empty(headers: &HeaderMap) -> Answer {
    Answer::new(false, Some(0), headers)
}

impl Answer {
    fn new(whole: bool, total: Option<u64>, headers: &HeaderMap) -> Self {
        Self {
            whole,
            total,
            etag: value(headers, &ETAG).and_then(validator::etag),
            last_modified: value(headers, &LAST_MODIFIED).and_then(validator::last_modified),
        }
    }
}

/// The length that a head announces for its body.
pub(crate) fn length(headers: &HeaderMap) -> Option<u64> {
    value(headers, &CONTENT_LENGTH).and_then(validator::content_length)
}

/// The total that a 416 names.
fn unsatisfied_total(headers: &HeaderMap) -> Option<u64> {
    match value(headers, &CONTENT_RANGE).and_then(ContentRange::parse) {
        Some(ContentRange::Unsatisfied { total }) => Some(total),
        _ => None,
    }
}

/// Refuses a body that is coded in any way.
///
/// # Errors
/// [`OriginError::Encoded`].
pub(crate) fn identity(url: &ShownUrl, headers: &HeaderMap) -> Result<(), OriginError> {
    for coding in headers.get_all(CONTENT_ENCODING) {
        let coding = String::from_utf8_lossy(coding.as_bytes());
        let coded = coding
            .split(',')
            .map(str::trim)
            .any(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
        if coded {
            return Err(OriginError::Encoded {
                url: url.clone(),
                coding: cut(coding.into_owned()),
            });
        }
    }
    Ok(())
}

/// The error that a status is which brings no content.
pub(crate) fn refusal(
    url: &ShownUrl,
    status: StatusCode,
    headers: &HeaderMap,
    range: &Range<u64>,
    now: SystemTime,
) -> OriginError {
    let url = url.clone();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => OriginError::NotFound {
            url,
            status: status.as_u16(),
        },
        StatusCode::RANGE_NOT_SATISFIABLE => OriginError::RangeRefused {
            url,
            range: range.clone(),
            total: unsatisfied_total(headers),
        },
        _ => OriginError::Status {
            url,
            status: status.as_u16(),
            retry_after: value(headers, &RETRY_AFTER)
                .and_then(|after| retry_after::parse(after, value(headers, &DATE), now)),
        },
    }
}

/// The total of a 206, whose range and length must be exactly what was asked for.
fn partial(
    url: &ShownUrl,
    headers: &HeaderMap,
    range: &Range<u64>,
) -> Result<Option<u64>, OriginError> {
    let total = match value(headers, &CONTENT_RANGE).and_then(ContentRange::parse) {
        Some(ContentRange::Bytes { range: got, total }) if got == *range => total,
        _ => {
            return Err(OriginError::BadContentRange {
                url: url.clone(),
                range: range.clone(),
                answered: headers
                    .get(CONTENT_RANGE)
                    .map(|value| cut(String::from_utf8_lossy(value.as_bytes()).into_owned())),
            });
        }
    };
    let expected = range.end - range.start;
    match length(headers) {
        Some(got) if got < expected => Err(OriginError::ShortBody {
            url: url.clone(),
            expected,
            got,
        }),
        Some(got) if got > expected => Err(OriginError::LongBody {
            url: url.clone(),
            expected,
        }),
        _ => Ok(total),
    }
}

/// The value of a header that stands once; `None` when it is absent or contradicts itself.
fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes());
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    fn url() -> ShownUrl {
        ShownUrl::from(&Url::parse("http://h/a").unwrap())
    }

    fn head(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn judge(status: u16, headers: &[(&'static str, &str)]) -> Result<Answer, OriginError> {
        let status = StatusCode::from_u16(status).unwrap();
        read(
            &url(),
            status,
            &head(headers),
            &(10..20),
            SystemTime::UNIX_EPOCH,
        )
    }

    #[test]
    fn partial_answer_to_the_range_asked_for_is_taken() {
        let answer = judge(
            206,
            &[
                ("content-range", "bytes 10-19/100"),
                ("content-length", "10"),
                ("etag", "\"a\""),
            ],
        )
        .unwrap();
        let expected = Answer {
            whole: false,
            total: Some(100),
            etag: Some("\"a\"".into()),
            last_modified: None,
        };
        assert_eq!(answer, expected);
        assert_eq!(
            judge(206, &[("content-range", "bytes 10-19/*")])
                .unwrap()
                .total,
            None
        );
    }

    #[test]
    fn partial_answer_to_anything_else_is_refused() {
        for range in [
            "bytes 0-9/100",
            "bytes 10-18/100",
            "bytes 10-20/100",
            "bytes */100",
            "chars 10-19/100",
            "",
        ] {
            let error = judge(206, &[("content-range", range)]).unwrap_err();
            assert!(
                matches!(error, OriginError::BadContentRange { .. }),
                "{range}: {error}"
            );
        }
        let multipart =
            judge(206, &[("content-type", "multipart/byteranges; boundary=x")]).unwrap_err();
        assert!(matches!(
            multipart,
            OriginError::BadContentRange { answered: None, .. }
        ));
        let twice = judge(
            206,
            &[
                ("content-range", "bytes 10-19/100"),
                ("content-range", "bytes 0-9/100"),
            ],
        )
        .unwrap_err();
        assert!(matches!(twice, OriginError::BadContentRange { .. }));
    }

    #[test]
    fn partial_answer_whose_length_does_not_fit_is_refused() {
        let short = judge(
            206,
            &[
                ("content-range", "bytes 10-19/100"),
                ("content-length", "9"),
            ],
        )
        .unwrap_err();
        assert!(matches!(
            short,
            OriginError::ShortBody {
                expected: 10,
                got: 9,
                ..
            }
        ));
        let long = judge(
            206,
            &[
                ("content-range", "bytes 10-19/100"),
                ("content-length", "11"),
            ],
        )
        .unwrap_err();
        assert!(matches!(long, OriginError::LongBody { expected: 10, .. }));
    }

    #[test]
    fn coded_bodies_are_refused() {
        for coding in ["gzip", "identity, br", "x-whatever"] {
            let error = judge(200, &[("content-encoding", coding)]).unwrap_err();
            assert!(matches!(error, OriginError::Encoded { .. }), "{coding}");
        }
        assert!(
            judge(200, &[("content-encoding", "Identity")])
                .unwrap()
                .whole
        );
    }

    #[test]
    fn content_past_the_maximum_is_refused() {
        let error = judge(200, &[("content-length", "1099511627777")]).unwrap_err();
        assert!(matches!(error, OriginError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn range_outside_the_content_names_the_total() {
        let error = judge(416, &[("content-range", "bytes */7")]).unwrap_err();
        assert!(matches!(
            error,
            OriginError::RangeRefused { total: Some(7), .. }
        ));
    }

    #[test]
    fn retry_after_of_a_busy_server_is_kept() {
        let error = judge(503, &[("retry-after", "7")]).unwrap_err();
        assert_eq!(error.retry_after().unwrap().as_secs(), 7);
    }

    proptest! {
        #[test]
        fn hostile_heads_never_panic(status in 100u16..1000, values in proptest::collection::vec((0usize..7, proptest::collection::vec(any::<u8>(), 0..60)), 0..12)) {
            let names = [CONTENT_RANGE, CONTENT_LENGTH, CONTENT_ENCODING, ETAG, LAST_MODIFIED, RETRY_AFTER, DATE];
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(names[name].clone(), value);
                }
            }
            let status = StatusCode::from_u16(status).unwrap();
            if let Err(error) = read(&url(), status, &headers, &(0..10), SystemTime::UNIX_EPOCH) {
                prop_assert!(error.to_string().len() < 2000);
            }
        }
    }
}
