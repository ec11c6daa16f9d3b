//! SHA-256 values: of one piece, and over all piece hashes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// SHA-256 of one piece's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceHash([u8; 32]);

impl PieceHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of each of these pieces, in their order: on processors that can hash several messages at once, in less
    /// time than one after the other.
    pub fn of_each(pieces: &[&[u8]]) -> Vec<Self> {
        let digests = dosvc_sha_lanes::digests(pieces);
        digests.into_iter().map(Self).collect()
    }

    /// How many pieces [`Self::of_each`] hashes at once here; 1 where it does one after the other.
    pub fn at_once() -> usize {
        if dosvc_sha_lanes::pays() {
            dosvc_sha_lanes::LANES
        } else {
            1
        }
    }

    /// From how many pieces on [`Self::of_each`] is faster with as many as it hashes at once than with half of them, and
    /// the rest one after the other; 1 where it never hashes several.
    pub fn worth_all_at_once() -> usize {
        if dosvc_sha_lanes::pays() {
            dosvc_sha_lanes::LANES_WORTH_ALL
        } else {
            1
        }
    }

    /// From how many pieces on [`Self::of_each`] is faster than one after the other here; 1 where it never is.
    pub fn worth_at_once() -> usize {
        if dosvc_sha_lanes::pays() {
            dosvc_sha_lanes::LANES_WORTH
        } else {
            1
        }
    }
}

/// Pieces that are hashed together while parts of them are read: on processors that can hash several messages at once,
/// in less time than one after the other.
#[derive(Debug)]
pub struct PieceHasher(dosvc_sha_lanes::Hasher);

impl PieceHasher {
    /// For so many pieces.
    ///
    /// # Panics
    /// When those are more than 16, which is the most that [`PieceHash::at_once`] says.
    pub fn new(pieces: usize) -> Self {
        Self(dosvc_sha_lanes::Hasher::new(pieces))
    }

    /// Takes the next part of each piece.
    ///
    /// # Panics
    /// Unless there is a part for each piece, and all of them have the same length, a multiple of 64 bytes.
    pub fn update(&mut self, parts: &[&[u8]]) {
        self.0.update(parts);
    }

    /// Takes what is left of each piece, of any length, and returns their hashes, in their order.
    ///
    /// # Panics
    /// Unless there is an end for each piece.
    pub fn finish(self, ends: &[&[u8]]) -> impl Iterator<Item = PieceHash> {
        self.0.finish(ends).map(PieceHash)
    }
}

/// SHA-256 over a content's dimensions and piece hashes: the anchor of trust of a content, and the swarm hash
/// that peers meet by (content-metadata, "HashOfHashes").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashOfHashes([u8; 32]);

impl HashOfHashes {
    /// The hash of hashes as 64 lower-case hex digits: how files and folders are named after it.
    pub fn to_hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut s, b| {
            use fmt::Write as _;
            let _ = write!(s, "{b:02x}");
            s
        })
    }

    /// Reads [`Self::to_hex`] back.
    ///
    /// # Errors
    /// [`ParseHashError`] when the text is not 64 hex digits.
    pub fn from_hex(text: &str) -> Result<Self, ParseHashError> {
        let bytes = text.as_bytes();
        if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
            return Err(ParseHashError);
        }
        let mut hash = [0; 32];
        for (out, pair) in hash.iter_mut().zip(bytes.chunks_exact(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| ParseHashError)?;
            *out = u8::from_str_radix(text, 16).map_err(|_| ParseHashError)?;
        }
        Ok(Self(hash))
    }
}

/// Text that is no SHA-256 value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 bytes as base64 (44 characters ending in '=')")]
pub struct ParseHashError;

macro_rules! sha256_value {
    ($name:ident) => {
        impl $name {
            /// The raw 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            /// Reads standard base64 with padding.
            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                let mut bytes = [0; 32];
                // The decoder wants room for its estimate, which is a byte more than the value.
                let mut room = [0; 33];
                if text.len() != 44 {
                    return Err(ParseHashError);
                }
                match STANDARD.decode_slice(text, &mut room) {
                    Ok(32) => bytes.copy_from_slice(&room[..32]),
                    _ => return Err(ParseHashError),
                }
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            /// Writes standard base64 with padding.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

sha256_value!(PieceHash);
sha256_value!(HashOfHashes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_piece_hash() {
        // content-metadata: the EICAR string's 34-byte tail is a published one-piece content.
        assert_eq!(
            PieceHash::of(b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE").to_string(),
            "lwNZmN/ezTZciFrht39kHBSZyfbBHDeqQpS1wosp1DY="
        );
    }

    #[test]
    fn text_forms_round_trip_and_bad_text_is_refused() {
        let hash: HashOfHashes = "bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA="
            .parse()
            .unwrap();
        assert_eq!(
            hash.to_string(),
            "bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA="
        );
        assert_eq!(HashOfHashes::from_hex(&hash.to_hex()), Ok(hash));
        for bad in [
            "",
            "bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA",
            "bLR-YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA=",
            "bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJB=",
            "////////////////////////////////////////////",
        ] {
            assert_eq!(bad.parse::<HashOfHashes>(), Err(ParseHashError), "{bad}");
        }
        assert!(HashOfHashes::from_hex("+1").is_err());
        assert!(HashOfHashes::from_hex(&"+1".repeat(32)).is_err());
    }
}
