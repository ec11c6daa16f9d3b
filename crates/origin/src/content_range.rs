//! The `Content-Range` header (RFC 9110, section 14.4). Pure.

use std::ops::Range;

/// A parsed `Content-Range`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContentRange {
    /// `bytes 0-9/100` or `bytes 0-9/*`: these bytes of so many.
    Bytes {
        range: Range<u64>,
        total: Option<u64>,
    },
    /// `bytes */100`: the range asked for lies outside these many bytes (with a 416).
    Unsatisfied { total: u64 },
}

impl ContentRange {
    /// Parses a header value; `None` for anything that is not a well-formed range of bytes within its total.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
        let (unit, rest) = text.split_once([' ', '\t'])?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (span, total) = rest.trim_start_matches([' ', '\t']).split_once('/')?;
        if span == "*" {
            return Some(Self::Unsatisfied {
                total: number(total)?,
            });
        }
        let total = if total == "*" {
            None
        } else {
            Some(number(total)?)
        };
        let (first, last) = span.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let end = last.checked_add(1)?;
        if first > last || total.is_some_and(|total| end > total) {
            return None;
        }
        Some(Self::Bytes {
            range: first..end,
            total,
        })
    }
}

/// A decimal number of digits only: `u64::from_str` would take a sign too.
pub(crate) fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_of_the_rfc_are_read() {
        let bytes = |range, total| Some(ContentRange::Bytes { range, total });
        assert_eq!(
            ContentRange::parse(b"bytes 0-9/25006511"),
            bytes(0..10, Some(25_006_511))
        );
        assert_eq!(
            ContentRange::parse(b"Bytes  42-1233/*"),
            bytes(42..1234, None)
        );
        assert_eq!(
            ContentRange::parse(b"bytes */1234"),
            Some(ContentRange::Unsatisfied { total: 1234 })
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-9",
            "bytes 0-9/",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes +0-9/10",
            "bytes 0-9/+10",
            "bytes -9/10",
            "bytes 0-/10",
            "bytes */*",
            "items 0-9/10",
            "bytes 0-9/10/11",
            "bytes 0-18446744073709551615/*",
            "bytes 0-18446744073709551616/*",
            "bytes 0 - 9/10",
            "0-9/10",
            "bytes=0-9/10",
        ] {
            assert_eq!(ContentRange::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(value: Vec<u8>) {
            let _ = ContentRange::parse(&value);
        }

        #[test]
        fn hostile_values_near_the_grammar_never_panic(value in "[Bb]ytes {0,2}[0-9*]{0,22}-?[0-9]{0,22}/?[0-9*]{0,22}") {
            if let Some(ContentRange::Bytes { range, total }) = ContentRange::parse(value.as_bytes()) {
                prop_assert!(range.start < range.end);
                prop_assert!(total.is_none_or(|total| range.end <= total));
            }
        }

        #[test]
        fn what_is_written_is_read_back(first in 0..u64::MAX / 2, length in 1..u64::MAX / 4, after in 0..u64::MAX / 4) {
            let range = first..first + length;
            let total = range.end + after;
            let text = format!("bytes {}-{}/{}", first, range.end - 1, total);
            prop_assert_eq!(ContentRange::parse(text.as_bytes()), Some(ContentRange::Bytes { range, total: Some(total) }));
        }
    }
}
