//! The `Retry-After` header (RFC 9110, section 10.2.3). Pure: the time of day is an argument.

use std::time::{Duration, SystemTime};

use crate::content_range::number;
use crate::limits::RETRY_AFTER_MAX;

/// How long the server asks to stay away, capped at [`RETRY_AFTER_MAX`]; `None` for a value that is neither
/// seconds nor an HTTP date.
///
/// A date is taken relative to the answer's own `Date` where there is one, so that a wrong clock on either
/// side doesn't matter, else relative to `now`. A date that has passed is zero.
pub(crate) fn parse(value: &[u8], date: Option<&[u8]>, now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than an u64 holds is still a number of seconds: the cap applies.
        let seconds = number(text).unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let since = date
        .and_then(|date| std::str::from_utf8(date).ok())
        .and_then(|date| httpdate::parse_http_date(date.trim()).ok())
        .unwrap_or(now);
    let wait = until.duration_since(since).unwrap_or_default();
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: &str = "Sat, 21 Nov 2026 12:00:00 GMT";

    fn noon() -> SystemTime {
        httpdate::parse_http_date(NOON).unwrap()
    }

    #[test]
    fn seconds_are_read_and_capped() {
        assert_eq!(parse(b"120", None, noon()), Some(Duration::from_secs(120)));
        assert_eq!(parse(b" 0 ", None, noon()), Some(Duration::ZERO));
        for huge in ["86400", "99999999999999999999999999"] {
            assert_eq!(parse(huge.as_bytes(), None, noon()), Some(RETRY_AFTER_MAX));
        }
    }

    #[test]
    fn date_is_read_in_every_form_and_capped() {
        for date in [
            "Sat, 21 Nov 2026 12:01:30 GMT",
            "Saturday, 21-Nov-26 12:01:30 GMT",
            "Sat Nov 21 12:01:30 2026",
        ] {
            assert_eq!(
                parse(date.as_bytes(), None, noon()),
                Some(Duration::from_secs(90)),
                "{date}"
            );
        }
        assert_eq!(
            parse(b"Sat, 21 Nov 2099 12:00:00 GMT", None, noon()),
            Some(RETRY_AFTER_MAX)
        );
    }

    #[test]
    fn date_that_has_passed_is_now() {
        assert_eq!(
            parse(b"Fri, 20 Nov 2026 12:00:00 GMT", None, noon()),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn date_counts_from_the_servers_own_clock() {
        let wrong_clock = noon() + Duration::from_secs(100_000);
        let wait = parse(
            b"Sat, 21 Nov 2026 12:00:10 GMT",
            Some(NOON.as_bytes()),
            wrong_clock,
        );
        assert_eq!(wait, Some(Duration::from_secs(10)));
    }

    #[test]
    fn nonsense_is_none() {
        for text in ["", " ", "soon", "-5", "1.5", "12 s"] {
            assert_eq!(parse(text.as_bytes(), None, noon()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(value: Vec<u8>, date: Vec<u8>, near in "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT") {
            for wait in [parse(&value, Some(&date), noon()), parse(near.as_bytes(), Some(&date), noon())].into_iter().flatten() {
                prop_assert!(wait <= RETRY_AFTER_MAX);
            }
        }
    }
}
