//! What a content is found by in the store.

use dosvc_content::{HashOfHashes, PieceHash};
use std::fmt;

/// Key of content without a hash file: the SHA-256 of its URL. Such content is never shared with peers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlainKey([u8; 32]);

impl PlainKey {
    /// The key for content that is known by this URL only.
    pub fn of_url(url: &str) -> Self {
        Self(*PieceHash::of(url.as_bytes()).as_bytes())
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PlainKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainKey({})", hex(&self.0))
    }
}

/// Key of any content in the store. Displayed, it is the name of the content's folder in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ContentKey {
    /// Content with a hash file.
    Hashed(HashOfHashes),
    /// Content without one.
    Plain(PlainKey),
}

/// Marks the folder of plain content; cannot begin a hex number of 64 digits.
const PLAIN_PREFIX: &str = "url-";

impl ContentKey {
    /// Reads the displayed form back; `None` when the text names no content.
    pub fn parse(text: &str) -> Option<Self> {
        let (plain, digits) = match text.strip_prefix(PLAIN_PREFIX) {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let hash = HashOfHashes::from_hex(digits).ok()?;
        // One content, one name: upper case would be a second one.
        (hash.to_hex() == digits).then_some(if plain {
            Self::Plain(PlainKey(*hash.as_bytes()))
        } else {
            Self::Hashed(hash)
        })
    }

    /// The key in the state database: a kind and 32 bytes.
    pub(crate) fn to_bytes(self) -> [u8; 33] {
        let (kind, hash) = match &self {
            Self::Hashed(hash) => (0, hash.as_bytes()),
            Self::Plain(key) => (1, key.as_bytes()),
        };
        let mut bytes = [kind; 33];
        bytes[1..].copy_from_slice(hash);
        bytes
    }

    /// Reads [`Self::to_bytes`] back.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, hash) = bytes.split_first()?;
        let hash: [u8; 32] = hash.try_into().ok()?;
        match kind {
            0 => Some(Self::Hashed(hash.into())),
            1 => Some(Self::Plain(PlainKey(hash))),
            _ => None,
        }
    }
}

impl From<HashOfHashes> for ContentKey {
    fn from(hash: HashOfHashes) -> Self {
        Self::Hashed(hash)
    }
}

impl From<PlainKey> for ContentKey {
    fn from(key: PlainKey) -> Self {
        Self::Plain(key)
    }
}

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hashed(hash) => f.write_str(&hash.to_hex()),
            Self::Plain(key) => write!(f, "{PLAIN_PREFIX}{}", hex(&key.0)),
        }
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    HashOfHashes::from(*bytes).to_hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_as_text_and_bytes() {
        for key in [
            ContentKey::Hashed([0xab; 32].into()),
            ContentKey::Plain([0xab; 32].into()),
        ] {
            assert_eq!(ContentKey::parse(&key.to_string()), Some(key));
            assert_eq!(ContentKey::from_bytes(&key.to_bytes()), Some(key));
        }
    }

    #[test]
    fn other_names_are_no_keys() {
        let name = ContentKey::Hashed([0xab; 32].into()).to_string();
        for text in ["", "url-", "lost+found", &name[1..], &name.to_uppercase()] {
            assert_eq!(ContentKey::parse(text), None, "{text}");
        }
        assert_eq!(ContentKey::from_bytes(&[2; 33]), None);
        assert_eq!(ContentKey::from_bytes(&[0; 32]), None);
        assert_ne!(PlainKey::of_url("http://a/"), PlainKey::of_url("http://b/"));
        assert!(
            ContentKey::parse(&format!("url-{name}")).unwrap() != ContentKey::parse(&name).unwrap()
        );
    }
}
