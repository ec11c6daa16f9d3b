//! Ids: of content, peers and groups.

use crate::HashOfHashes;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// Text that is no id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ParseIdError {
    what: &'static str,
}

/// The longest content id, in bytes.
const CONTENT_ID_MAX: usize = 256;

/// What a caller or the content policy service names a content by: any printable text, or
/// `DO-` + base64url(hash of hashes) for ids derived from the content.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ContentId(String);

impl ContentId {
    /// The id that is derived from the content itself: base64 with `-` for `/` as in the recorded answer of the
    /// content policy service (cloud-services, section 3), which is the other way round than RFC 4648's URL-safe
    /// alphabet; so `_` stands for `+`.
    pub fn derived(hash: &HashOfHashes) -> Self {
        let text = STANDARD.encode(hash.as_bytes());
        Self(format!("DO-{}", text.replace('/', "-").replace('+', "_")))
    }

    /// The hash of hashes inside a derived id.
    pub fn hash_of_hashes(&self) -> Option<HashOfHashes> {
        let text = self.0.strip_prefix("DO-")?;
        text.replace('-', "/").replace('_', "+").parse().ok()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.is_empty() || text.len() > CONTENT_ID_MAX || text.chars().any(char::is_control) {
            return Err(ParseIdError {
                what: "a content id has 1 to 256 bytes and no control characters",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A peer's id: a GUID and a suffix of four bytes, 20 bytes in all, 40 hex digits in JSON (swarm-protocol).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 20]);

impl PeerId {
    /// A peer id from 16 random bytes; version and variant bits are set as in a random GUID (RFC 9562,
    /// section 5.4), the suffix is zero as Windows sends it.
    pub fn from_random(mut guid: [u8; 16]) -> Self {
        guid[6] = guid[6] & 0x0f | 0x40;
        guid[8] = guid[8] & 0x3f | 0x80;
        let mut id = [0; 20];
        id[..16].copy_from_slice(&guid);
        Self(id)
    }

    /// The raw 20 bytes as they stand in the handshake.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl From<[u8; 20]> for PeerId {
    fn from(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = ParseIdError {
            what: "a peer id has 40 hex digits",
        };
        if text.len() != 40 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error);
        }
        let mut id = [0; 20];
        for (i, out) in id.iter_mut().enumerate() {
            *out = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| error.clone())?;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// The id of a peer group, exactly as configured. `DOGroupId` must be a GUID; other sources (site, domain,
/// DNS suffix) give any text (download-modes, section 3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GroupId(String);

impl GroupId {
    /// The hash that stands for the group in reports, on the wire and towards services (reports, section 5):
    /// SHA-256 of the text in UTF-16LE with a NUL at its end.
    pub fn hash(&self) -> GroupHash {
        let mut sha = Sha256::new();
        for unit in self.0.encode_utf16().chain([0]) {
            sha.update(unit.to_le_bytes());
        }
        GroupHash(sha.finalize().into())
    }

    /// The id as configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is a GUID (8-4-4-4-12 hex digits, braces allowed).
    pub fn is_guid(text: &str) -> bool {
        let text = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    }
}

impl FromStr for GroupId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.is_empty() || text.len() > CONTENT_ID_MAX || text.chars().any(char::is_control) {
            return Err(ParseIdError {
                what: "a group id has 1 to 256 bytes and no control characters",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The id is what peers prove to know: it stays out of logs.
        write!(f, "GroupId({})", self.hash())
    }
}

/// The hash of a [`GroupId`]; shown as base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupHash([u8; 32]);

impl GroupHash {
    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for GroupHash {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for GroupHash {
    type Err = ParseIdError;

    /// Reads standard base64 with padding.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        // The same 32 bytes as base64 that a hash of hashes has.
        let hash: Result<HashOfHashes, _> = text.parse();
        hash.map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| ParseIdError {
                what: "a group's hash has 32 bytes as base64",
            })
    }
}

impl fmt::Display for GroupHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for GroupHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_hashes_as_worked_in_the_reference() {
        for (id, hash) in [
            (
                "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
                "f1wUYWDcIiHiqG8I3oGVvf5M2sifiOBuVBqt+Eo9Ako=",
            ),
            (
                "B3B1C2D4-5E6F-4A7B-8C9D-0E1F2A3B4C5D",
                "gl5bO7oyv1u5INW/Nr6ESQBp5uRG1Zb09xGkQ5PvOuw=",
            ),
            (
                "00000000-0000-0000-0000-000000000001",
                "0r970+TqXKBJOI6713Gim10vhu2Eok7Jdrgh9Em9UAU=",
            ),
            (
                "contoso.example",
                "ovuuFQQ0AnFfLBtBC7qrgSovWZSprTVKu0UxJVdIPA8=",
            ),
        ] {
            let worked = id.parse::<GroupId>().unwrap().hash();
            assert_eq!(worked.to_string(), hash);
            assert_eq!(hash.parse(), Ok(worked));
        }
    }

    #[test]
    fn derived_content_id_holds_the_hash() {
        let hash: HashOfHashes = "pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU/cBsHD0="
            .parse()
            .unwrap();
        let id = ContentId::derived(&hash);
        assert_eq!(
            id.as_str(),
            "DO-pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU-cBsHD0="
        );
        assert_eq!(id.hash_of_hashes(), Some(hash));
        assert_eq!("x".parse::<ContentId>().unwrap().hash_of_hashes(), None);
        assert!("".parse::<ContentId>().is_err() && "a\nb".parse::<ContentId>().is_err());
    }

    #[test]
    fn peer_id_is_forty_hex_digits() {
        let id = PeerId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffffffff4fffbfffffffffffffff00000000");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("é".repeat(20).parse::<PeerId>().is_err());
    }

    #[test]
    fn guids_are_told_from_other_text() {
        assert!(GroupId::is_guid("b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d"));
        assert!(GroupId::is_guid("{B3B1C2D4-5E6F-4A7B-8C9D-0E1F2A3B4C5D}"));
        assert!(!GroupId::is_guid("contoso.example"));
        assert!(!GroupId::is_guid("{b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d"));
    }
}
