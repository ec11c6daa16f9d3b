//! What content is, for every other crate: pieces and their arithmetic, bitfields, the pieces hash file,
//! ids, download modes, rates and Delivery Optimization's error codes.
//!
//! Nothing here does I/O, reads a clock or draws a random number. Values that come from a network or a
//! file are checked when they are made: a [`PieceIndex`] lies inside its content, a [`Bitfield`] has no bit
//! set past the last piece, a [`PiecesHashFile`] agrees with its own hash of hashes.
//!
//! Entry types: [`PieceLengths`], [`Bitfield`], [`PiecesHashFile`], [`HashOfHashes`], [`ContentId`],
//! [`PeerId`], [`GroupId`], [`DownloadMode`], [`HResult`].

mod bitfield;
mod hash;
mod hash_file;
mod hresult;
mod ids;
mod mode;
mod piece;
mod rate;

pub use bitfield::{Bitfield, BitfieldError, Ones};
pub use hash::{HashOfHashes, ParseHashError, PieceHash, PieceHasher};
pub use hash_file::{
    HashFileBuilder, HashFileError, HashOfHashesHasher, PiecesHashFile, hash_file_urls,
};
pub use hresult::HResult;
pub use ids::{ContentId, GroupHash, GroupId, ParseIdError, PeerId};
pub use mode::{DownloadMode, ParseModeError};
pub use piece::{
    BLOCK_LENGTH_MAX, Block, CONTENT_LENGTH_MAX, LengthsError, PIECE_SIZE_DEFAULT, PIECE_SIZE_MAX,
    PIECE_SIZE_MIN, PieceIndex, PieceLengths,
};
pub use rate::{ByteRate, ParseRateError, format_bytes};
