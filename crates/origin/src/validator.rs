//! What tells one version of a content from another: entity tag, modification date, length. Pure.

use crate::content_range::number;
use crate::limits::{
    ETAG_BYTES_MAX, LAST_MODIFIED_BYTES_MAX, SERVER_BYTES_MAX, VALIDATOR_BYTES_MAX,
};

/// The validator of one version of a content. Kept with a download's resume state ([`Self::to_bytes`]) and given
/// to [`crate::OriginClient::open`], it makes sure that a later run goes on with the same version.
///
/// A caller that knows the length from the hash file sets [`Self::total`] alone: every server must agree with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validator {
    /// The entity tag as the server wrote it. Only a strong one is sent in `If-Range`.
    pub etag: Option<String>,
    /// `Last-Modified` as the server wrote it.
    pub last_modified: Option<String>,
    /// The length of the content in bytes.
    pub total: Option<u64>,
    /// The server that `etag` and `last_modified` are from, as `scheme://host:port`: servers that hold the same
    /// content may have different tags for it. `None`: they hold for every server, and its first answer must confirm one
    /// of them.
    pub server: Option<String>,
}

/// The bytes are not those of a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored validator of the content is damaged; start the download anew")]
pub struct ValidatorError;

/// The first byte of the byte form: what follows and how.
const FORMAT: u8 = 1;

impl Validator {
    /// The byte form, of at most [`VALIDATOR_BYTES_MAX`] bytes; fields that are too long for it are left out.
    ///
    /// One byte of format, one of flags, then the fields that the flags name: the total as a big-endian u64, each
    /// text as a big-endian u16 length and its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let texts = self.texts();
        let mut flags = u8::from(self.total.is_some());
        for (n, text) in texts.iter().enumerate() {
            flags |= u8::from(text.is_some()) << (n + 1);
        }
        let mut bytes = vec![FORMAT, flags];
        bytes.extend(self.total.iter().flat_map(|total| total.to_be_bytes()));
        for text in texts.into_iter().flatten() {
            let length = u16::try_from(text.len()).expect("every text has a cap far below 64 KiB");
            bytes.extend(length.to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// Anything else: another format, a field past its cap, bytes missing or left over.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ValidatorError> {
        let (&[FORMAT, flags], mut rest) = bytes.split_first_chunk().ok_or(ValidatorError)? else {
            return Err(ValidatorError);
        };
        if bytes.len() > VALIDATOR_BYTES_MAX || flags > 0b1111 {
            return Err(ValidatorError);
        }
        let mut validator = Self::default();
        if flags & 1 != 0 {
            let (total, after) = rest.split_first_chunk().ok_or(ValidatorError)?;
            validator.total = Some(u64::from_be_bytes(*total));
            rest = after;
        }
        let fields = [
            &mut validator.etag,
            &mut validator.last_modified,
            &mut validator.server,
        ];
        for (n, (field, cap)) in fields.into_iter().zip(TEXT_CAPS).enumerate() {
            if flags & (2 << n) != 0 {
                let (length, after) = rest.split_first_chunk().ok_or(ValidatorError)?;
                let length = usize::from(u16::from_be_bytes(*length));
                if length > cap || length > after.len() {
                    return Err(ValidatorError);
                }
                let (text, after) = after.split_at(length);
                *field = Some(String::from_utf8(text.to_vec()).map_err(|_| ValidatorError)?);
                rest = after;
            }
        }
        if rest.is_empty() {
            Ok(validator)
        } else {
            Err(ValidatorError)
        }
    }

    fn texts(&self) -> [Option<&String>; 3] {
        let texts = [&self.etag, &self.last_modified, &self.server];
        let mut kept = [None; 3];
        for ((slot, text), cap) in kept.iter_mut().zip(texts).zip(TEXT_CAPS) {
            *slot = text.as_ref().filter(|text| text.len() <= cap);
        }
        kept
    }

    /// What to send as `If-Range` (RFC 9110, section 13.1.5): a strong entity tag, else the date.
    pub(crate) fn if_range(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if is_strong(etag) => Some(etag),
            _ => self.last_modified.as_deref(),
        }
    }

    /// Whether it tells one version from another of the same length.
    pub(crate) fn names_version(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    /// Whether tag and date are those of this server (`scheme://host:port`), or of any.
    pub(crate) fn is_for(&self, server: &str) -> bool {
        self.server.as_deref().is_none_or(|own| own == server)
    }

    /// What differs between this version of the content and the one that an answer describes; `None`: the same,
    /// as far as both say. A tag that both have decides; dates count only without.
    pub(crate) fn difference(
        &self,
        etag: Option<&str>,
        last_modified: Option<&str>,
    ) -> Option<Difference> {
        if let (Some(was), Some(is)) = (self.etag.as_deref(), etag) {
            // Compared weakly: some servers weaken the tag of one and the same file from answer to answer.
            return (opaque(was) != opaque(is)).then(|| Difference::new("ETag", was, is));
        }
        match (self.last_modified.as_deref(), last_modified) {
            (Some(was), Some(is)) if was != is => Some(Difference::new("Last-Modified", was, is)),
            _ => None,
        }
    }

    /// Whether an answer carries a tag or date to compare with, so that no difference means the same version.
    pub(crate) fn is_confirmed_by(&self, etag: Option<&str>, last_modified: Option<&str>) -> bool {
        let both = (self.etag.is_some() && etag.is_some())
            || (self.last_modified.is_some() && last_modified.is_some());
        both && self.difference(etag, last_modified).is_none()
    }
}

/// The caps of etag, last_modified and server, in the order of the byte form.
const TEXT_CAPS: [usize; 3] = [ETAG_BYTES_MAX, LAST_MODIFIED_BYTES_MAX, SERVER_BYTES_MAX];

/// How two versions of a content differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) what: &'static str,
    pub(crate) was: String,
    pub(crate) is: String,
}

impl Difference {
    pub(crate) fn new(what: &'static str, was: &str, is: &str) -> Self {
        Self {
            what,
            was: was.to_owned(),
            is: is.to_owned(),
        }
    }
}

/// An `ETag` value worth keeping: visible ASCII within the cap. Servers that forget the quotes are tolerated, for
/// comparison only.
pub(crate) fn etag(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let fits = !text.is_empty()
        && text.len() <= ETAG_BYTES_MAX
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    fits.then(|| text.to_owned())
}

/// A `Last-Modified` value worth keeping: an HTTP date.
pub(crate) fn last_modified(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let fits = text.len() <= LAST_MODIFIED_BYTES_MAX && httpdate::parse_http_date(text).is_ok();
    fits.then(|| text.to_owned())
}

/// A `Content-Length` value.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    number(std::str::from_utf8(value).ok()?.trim())
}

/// `"…"` without the weak mark and without a quote or space inside.
fn is_strong(etag: &str) -> bool {
    etag.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .is_some_and(|inner| !inner.contains(['"', ' ']))
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATE: &str = "Sat, 21 Nov 2026 12:00:00 GMT";

    fn with(etag: Option<&str>, last_modified: Option<&str>) -> Validator {
        Validator {
            etag: etag.map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
            ..Validator::default()
        }
    }

    #[test]
    fn only_a_strong_tag_goes_into_if_range() {
        assert_eq!(with(Some("\"a\""), Some(DATE)).if_range(), Some("\"a\""));
        for weak in ["W/\"a\"", "a", "\"", "\"a\"b\""] {
            assert_eq!(
                with(Some(weak), Some(DATE)).if_range(),
                Some(DATE),
                "{weak}"
            );
            assert_eq!(with(Some(weak), None).if_range(), None, "{weak}");
        }
    }

    #[test]
    fn tag_decides_before_date() {
        let pinned = with(Some("\"a\""), Some(DATE));
        assert_eq!(pinned.difference(Some("\"a\""), Some("other")), None);
        assert_eq!(pinned.difference(Some("W/\"a\""), None), None);
        assert_eq!(
            pinned.difference(Some("\"b\""), Some(DATE)).unwrap().what,
            "ETag"
        );
        assert_eq!(
            pinned.difference(None, Some("other")).unwrap().what,
            "Last-Modified"
        );
        assert_eq!(pinned.difference(None, None), None);
        assert!(!pinned.is_confirmed_by(None, None));
        assert!(pinned.is_confirmed_by(None, Some(DATE)));
    }

    #[test]
    fn header_values_that_are_not_worth_keeping_are_dropped() {
        assert_eq!(etag(b" \"x\" ").as_deref(), Some("\"x\""));
        assert_eq!(etag(b""), None);
        assert_eq!(etag("\"ä\"".as_bytes()), None);
        assert_eq!(etag("x".repeat(ETAG_BYTES_MAX + 1).as_bytes()), None);
        assert_eq!(last_modified(b"yesterday"), None);
        assert_eq!(last_modified(DATE.as_bytes()).as_deref(), Some(DATE));
        assert_eq!(content_length(b" 12 "), Some(12));
        assert_eq!(content_length(b"+12"), None);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = with(Some("\"a\""), Some(DATE)).to_bytes();
        for end in 0..bytes.len() {
            assert_eq!(
                Validator::from_bytes(&bytes[..end]),
                Err(ValidatorError),
                "cut at {end}"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Validator::from_bytes(&longer), Err(ValidatorError));
        assert_eq!(Validator::from_bytes(&[FORMAT + 1, 0]), Err(ValidatorError));
        assert_eq!(Validator::from_bytes(&[FORMAT, 0x10]), Err(ValidatorError));
        assert_eq!(
            Validator::from_bytes(&[FORMAT, 2, 0xff, 0xff]),
            Err(ValidatorError)
        );
    }

    proptest! {
        #[test]
        fn byte_form_round_trips(etag in proptest::option::of(".{0,80}"), last_modified in proptest::option::of("[ -~]{0,64}"),
            total: Option<u64>, server in proptest::option::of("[a-z:/0-9]{0,80}")) {
            let validator = Validator { etag, last_modified, total, server };
            let bytes = validator.to_bytes();
            prop_assert!(bytes.len() <= VALIDATOR_BYTES_MAX);
            prop_assert_eq!(Validator::from_bytes(&bytes), Ok(validator));
        }

        #[test]
        fn hostile_values_never_panic(bytes: Vec<u8>, flags: u8) {
            let _ = (etag(&bytes), last_modified(&bytes), content_length(&bytes), Validator::from_bytes(&bytes));
            let framed = [&[FORMAT, flags & 0xf], bytes.as_slice()].concat();
            let _ = Validator::from_bytes(&framed);
        }
    }
}
