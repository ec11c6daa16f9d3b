//! The pieces hash file (PHF): JSON that names every piece's SHA-256 (content-metadata).

use crate::{HashOfHashes, LengthsError, PieceHash, PieceIndex, PieceLengths};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor},
};
use sha2::{Digest as _, Sha256};
use std::{borrow::Cow, fmt, sync::Arc};

/// The one major version that exists.
const MAJOR_VERSION: u32 = 1;
/// A piece's hash takes at least 46 bytes of JSON (44 and the quotes); the most pieces that content can have.
const PIECES_MAX: usize = 1 << 24;

/// Why a hash file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashFileError {
    /// Not JSON, or not of the hash file's shape.
    #[error("not a pieces hash file: {0}")]
    Json(#[from] serde_json::Error),
    /// A major version other than 1.
    #[error("hash file version {0} is unknown (expected 1)")]
    Version(u64),
    /// Length or piece size out of bounds.
    #[error(transparent)]
    Lengths(#[from] LengthsError),
    /// The number of hashes is not ceil(ContentLength / PieceSize).
    #[error("hash file lists {got} pieces where the content has {want}")]
    PieceCount {
        /// Hashes listed.
        got: usize,
        /// Pieces that the content has.
        want: u32,
    },
    /// The file contradicts the hash of hashes that it names itself.
    #[error("the hash file does not match the hash of hashes that it names")]
    Inconsistent,
    /// The file is consistent, but for other content than was asked for.
    #[error("hash file is for content {got}, not for {want}")]
    WrongContent {
        /// The hash of hashes computed from the file.
        got: HashOfHashes,
        /// The trusted one.
        want: HashOfHashes,
    },
}

/// A verified pieces hash file: dimensions, piece hashes and the hash of hashes over them, which always agree.
///
/// Cheap to clone: the hashes (32 bytes a piece) are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct PiecesHashFile {
    minor_version: u32,
    lengths: PieceLengths,
    hash_of_hashes: HashOfHashes,
    pieces: Arc<[PieceHash]>,
}

impl PiecesHashFile {
    /// Puts a hash file together from its parts and computes its hash of hashes.
    ///
    /// # Errors
    /// [`HashFileError::PieceCount`] when the number of hashes does not fit the dimensions.
    pub fn new(
        lengths: PieceLengths,
        pieces: impl Into<Arc<[PieceHash]>>,
    ) -> Result<Self, HashFileError> {
        let pieces = pieces.into();
        if pieces.len() != lengths.piece_count() as usize {
            return Err(HashFileError::PieceCount {
                got: pieces.len(),
                want: lengths.piece_count(),
            });
        }
        Ok(Self {
            minor_version: 0,
            lengths,
            hash_of_hashes: hash_of_hashes(&lengths, &pieces),
            pieces,
        })
    }

    /// Parses and verifies a hash file: it must agree with the hash of hashes that it names itself.
    ///
    /// Memory stays in proportion to `json.len()`; the caller bounds that. Unknown fields are skipped.
    ///
    /// # Errors
    /// [`HashFileError`]; nothing is taken from a file that fails.
    pub fn from_json(json: &[u8]) -> Result<Self, HashFileError> {
        let raw: Raw<'_> = serde_json::from_slice(json)?;
        if raw.major_version != u64::from(MAJOR_VERSION) {
            return Err(HashFileError::Version(raw.major_version));
        }
        let lengths = PieceLengths::new(raw.content_length, raw.piece_size)?;
        let mut file = Self::new(lengths, raw.pieces.0)?;
        file.minor_version = raw.minor_version;
        let named: HashOfHashes = raw
            .hash_of_hashes
            .parse()
            .map_err(|_| HashFileError::Inconsistent)?;
        if named != file.hash_of_hashes {
            return Err(HashFileError::Inconsistent);
        }
        Ok(file)
    }

    /// Checks the file against a hash of hashes that is trusted.
    ///
    /// # Errors
    /// [`HashFileError::WrongContent`] when they differ.
    pub fn expect(self, trusted: &HashOfHashes) -> Result<Self, HashFileError> {
        if self.hash_of_hashes == *trusted {
            Ok(self)
        } else {
            Err(HashFileError::WrongContent {
                got: self.hash_of_hashes,
                want: *trusted,
            })
        }
    }

    /// The file as JSON, fields in Microsoft's order, no white space.
    pub fn to_json(&self) -> Vec<u8> {
        let raw = Raw {
            major_version: MAJOR_VERSION.into(),
            minor_version: self.minor_version,
            hash_of_hashes: Cow::Owned(self.hash_of_hashes.to_string()),
            content_length: self.lengths.content_length(),
            piece_size: self.lengths.piece_size().into(),
            pieces: RawPieces(self.pieces.to_vec()),
        };
        serde_json::to_vec(&raw).expect("numbers and strings always serialise")
    }

    /// The content's dimensions.
    pub fn lengths(&self) -> PieceLengths {
        self.lengths
    }

    /// The hash over everything else in the file.
    pub fn hash_of_hashes(&self) -> HashOfHashes {
        self.hash_of_hashes
    }

    /// The hash of one piece.
    ///
    /// # Panics
    /// When the piece is of other content: a mistake of the caller.
    pub fn piece_hash(&self, piece: PieceIndex) -> PieceHash {
        self.pieces[piece.as_usize()]
    }

    /// All piece hashes in order.
    pub fn piece_hashes(&self) -> &[PieceHash] {
        &self.pieces
    }

    /// Whether these are the bytes of that piece (length and SHA-256).
    pub fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        bytes.len() == self.lengths.len(piece) as usize
            && PieceHash::of(bytes) == self.piece_hash(piece)
    }
}

impl fmt::Debug for PiecesHashFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PiecesHashFile({}, {} pieces)",
            self.hash_of_hashes,
            self.pieces.len()
        )
    }
}

fn hash_of_hashes(lengths: &PieceLengths, pieces: &[PieceHash]) -> HashOfHashes {
    let mut hasher = HashOfHashesHasher::new(lengths);
    pieces.iter().for_each(|piece| hasher.push(piece));
    hasher.finish()
}

/// Computes a hash of hashes piece by piece, without keeping the pieces' hashes: what a stranger says about a content
/// can be judged before memory is spent on it.
///
/// SHA-256( u32le major || u64le length || u32le piece size || piece hashes ); content-metadata, "HashOfHashes".
#[derive(Debug, Clone)]
pub struct HashOfHashesHasher(Sha256);

impl HashOfHashesHasher {
    /// For content of these dimensions.
    pub fn new(lengths: &PieceLengths) -> Self {
        let mut sha = Sha256::new();
        sha.update(MAJOR_VERSION.to_le_bytes());
        sha.update(lengths.content_length().to_le_bytes());
        sha.update(lengths.piece_size().to_le_bytes());
        Self(sha)
    }

    /// The next piece's hash.
    pub fn push(&mut self, piece: &PieceHash) {
        self.0.update(piece.as_bytes());
    }

    /// The hash over all of it.
    pub fn finish(self) -> HashOfHashes {
        HashOfHashes::from(<[u8; 32]>::from(self.0.finalize()))
    }
}

/// Builds a hash file piece by piece, for content that is hashed as it is read.
#[derive(Debug)]
pub struct HashFileBuilder {
    lengths: PieceLengths,
    pieces: Vec<PieceHash>,
}

impl HashFileBuilder {
    /// A builder for content of these dimensions.
    pub fn new(lengths: PieceLengths) -> Self {
        Self {
            lengths,
            pieces: Vec::with_capacity(lengths.piece_count() as usize),
        }
    }

    /// Adds the next piece's hash.
    pub fn push(&mut self, hash: PieceHash) {
        self.pieces.push(hash);
    }

    /// The finished file.
    ///
    /// # Errors
    /// [`HashFileError::PieceCount`] when pieces are missing or there are too many.
    pub fn finish(self) -> Result<PiecesHashFile, HashFileError> {
        PiecesHashFile::new(self.lengths, self.pieces)
    }
}

/// Where the hash file of a content URL lies by convention: beside it as `.phf`, or under it as `/pieceshash`,
/// both without the query (content-metadata).
pub fn hash_file_urls(content_url: &str) -> [String; 2] {
    let base = content_url
        .split(['?', '#'])
        .next()
        .unwrap_or(content_url)
        .trim_end_matches('/');
    [format!("{base}.phf"), format!("{base}/pieceshash")]
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw<'a> {
    major_version: u64,
    #[serde(default)]
    minor_version: u32,
    #[serde(borrow)]
    hash_of_hashes: Cow<'a, str>,
    content_length: u64,
    piece_size: u64,
    pieces: RawPieces,
}

/// The list of hashes, decoded as it is read so that no string outlives its element.
struct RawPieces(Vec<PieceHash>);

impl Serialize for RawPieces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(PieceHash::to_string))
    }
}

impl<'de> Deserialize<'de> for RawPieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pieces;

        impl<'de> Visitor<'de> for Pieces {
            type Value = RawPieces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of base64 SHA-256 hashes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawPieces, A::Error> {
                let mut pieces = Vec::new();
                while let Some(text) = seq.next_element::<Cow<'de, str>>()? {
                    if pieces.len() == PIECES_MAX {
                        return Err(A::Error::custom("more than 2^24 pieces"));
                    }
                    pieces.push(text.parse().map_err(A::Error::custom)?);
                }
                Ok(RawPieces(pieces))
            }
        }

        deserializer.deserialize_seq(Pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// content-metadata: a published Microsoft file.
    const PUBLISHED: &str = r#"{"MajorVersion":1,"MinorVersion":0,"HashOfHashes":"bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA=","ContentLength":244530,"PieceSize":1048576,"Pieces":["J/rmYNjGCeAgcDu0Y7ZgHmKBHcddsZl1vLfWjZWbUn0="]}"#;

    #[test]
    fn published_file_verifies_and_is_written_back_byte_for_byte() {
        let file = PiecesHashFile::from_json(PUBLISHED.as_bytes()).unwrap();
        assert_eq!(file.lengths().content_length(), 244_530);
        assert_eq!(String::from_utf8(file.to_json()).unwrap(), PUBLISHED);
    }

    #[test]
    fn every_field_is_covered_by_the_check() {
        for (from, to) in [
            ("\"MajorVersion\":1", "\"MajorVersion\":2"),
            ("244530", "244531"),
            ("\"PieceSize\":1048576", "\"PieceSize\":2097152"),
            ("J/rmYNj", "J/rmYNk"),
            ("bLR+", "bLR/"),
            ("Wbxx", ""),
            ("\"PieceSize\":1048576", "\"PieceSize\":0"),
            ("\"PieceSize\":1048576", "\"PieceSize\":4294967296"),
            ("244530", "18446744073709551615"),
            ("244530", "-1"),
            ("244530", "1e99"),
            (
                "UN0=\"]",
                "Un0=\",\"J/rmYNjGCeAgcDu0Y7ZgHmKBHcddsZl1vLfWjZWbUn0=\"]",
            ),
            (
                "\"Pieces\":[\"J/rmYNjGCeAgcDu0Y7ZgHmKBHcddsZl1vLfWjZWbUn0=\"]",
                "\"Pieces\":[]",
            ),
            (
                "\"Pieces\":[\"J/rmYNjGCeAgcDu0Y7ZgHmKBHcddsZl1vLfWjZWbUn0=\"]",
                "\"Pieces\":null",
            ),
        ] {
            let changed = PUBLISHED.replace(from, to);
            if changed != PUBLISHED {
                assert!(
                    PiecesHashFile::from_json(changed.as_bytes()).is_err(),
                    "{from} -> {to}"
                );
            }
        }
        let other = HashOfHashes::from([7; 32]);
        let file = PiecesHashFile::from_json(PUBLISHED.as_bytes()).unwrap();
        assert!(matches!(
            file.expect(&other),
            Err(HashFileError::WrongContent { .. })
        ));
    }

    #[test]
    fn empty_content_has_a_hash_file() {
        let lengths = PieceLengths::new(0, 1 << 20).unwrap();
        let file = PiecesHashFile::new(lengths, []).unwrap();
        let again = PiecesHashFile::from_json(&file.to_json()).unwrap();
        assert_eq!(again, file);
    }

    #[test]
    fn hash_file_lies_beside_its_content() {
        assert_eq!(
            hash_file_urls("http://h/a/b.cab?P1=1&P2=x"),
            ["http://h/a/b.cab.phf", "http://h/a/b.cab/pieceshash"]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = PiecesHashFile::from_json(&bytes);
        }

        #[test]
        fn a_flipped_byte_never_changes_the_meaning(at in 0usize..PUBLISHED.len(), to in any::<u8>()) {
            let mut bytes = PUBLISHED.as_bytes().to_vec();
            bytes[at] = to;
            if let Ok(file) = PiecesHashFile::from_json(&bytes) {
                prop_assert_eq!(file.hash_of_hashes().to_string(), "bLR+YkW147Gf10YSrQ6lgW3AC9E1aDesK3TaSr0DHJA=");
            }
        }
    }
}
