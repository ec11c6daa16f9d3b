//! Messages to bytes and back.
//!
//! A message is `u32 length`, `u8 id`, payload; everything is big-endian. [`Header`] is the part of a message
//! whose size is known beforehand: all of a short message, and of a long one (bitfield, block, extension) what
//! comes before its data. The driver decodes headers and puts the data where it belongs without a copy;
//! [`Message`] holds a whole message, for tests and simulations.

use crate::limits::{MESSAGE_LEN_MAX, PIECE_PAYLOAD_MAX};
use bytes::{BufMut, Bytes};
use dosvc_content::{Block, HResult};

/// The longest header, in bytes: the fixed part of a Piece, the whole of a Request needs 17.
pub const HEADER_LEN_MAX: usize = 17;

mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const EXTENSION: u8 = 20;
}

/// Which rule of the format a peer's bytes broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The length prefix is past [`MESSAGE_LEN_MAX`].
    #[error("message of {0} bytes is past the limit of {MESSAGE_LEN_MAX}")]
    TooLong(u32),
    /// No message has this id.
    #[error("unknown message id {0}")]
    UnknownId(u8),
    /// The length does not fit the id.
    #[error("message {id} cannot have {length} bytes")]
    WrongLength {
        /// The message's id.
        id: u8,
        /// The length prefix.
        length: u32,
    },
    /// An extension message of ours has a length that its type cannot have.
    #[error("extension message {kind} cannot have {length} bytes")]
    ExtensionLength {
        /// The extension's type.
        kind: u8,
        /// Bytes after the type.
        length: u32,
    },
    /// An extension message of ours names more items than one message may.
    #[error("extension message {kind} names {count} items")]
    ExtensionCount {
        /// The extension's type.
        kind: u8,
        /// How many.
        count: u32,
    },
}

impl DecodeError {
    /// The code that Windows reports for it.
    pub fn hresult(self) -> HResult {
        match self {
            Self::TooLong(_) => HResult::MESSAGE_TOO_LONG,
            _ => HResult::MESSAGE_INVALID,
        }
    }
}

/// A range of bytes as a message names it; not checked against any content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawBlock {
    /// The piece's index.
    pub piece: u32,
    /// Bytes from the start of the piece.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

impl From<Block> for RawBlock {
    fn from(block: Block) -> Self {
        Self {
            piece: block.piece().get(),
            offset: block.offset(),
            length: block.len(),
        }
    }
}

/// The part of a message whose size is known before it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Nothing to say, still here.
    KeepAlive,
    /// Requests are not answered from now on.
    Choke,
    /// Requests are welcome.
    Unchoke,
    /// The sender wants something that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender verified this piece.
    Have(u32),
    /// This many bytes of bitfield follow.
    Bitfield {
        /// Bytes that follow.
        length: u32,
    },
    /// Asks for a block.
    Request(RawBlock),
    /// The bytes of this block follow.
    Piece(RawBlock),
    /// Withdraws a request.
    Cancel(RawBlock),
    /// This many bytes for id 20 follow.
    Extension {
        /// Bytes that follow.
        length: u32,
    },
}

impl Header {
    /// Reads a header from the start of `bytes`: the header and how many bytes it took, or `None` when more
    /// are needed. What is wrong is found with the fewest bytes that show it.
    ///
    /// # Errors
    /// [`DecodeError`] names the rule broken; nothing after it can be read.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, DecodeError> {
        let Some((prefix, rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix);
        if length == 0 {
            return Ok(Some((Self::KeepAlive, 4)));
        }
        if length > MESSAGE_LEN_MAX {
            return Err(DecodeError::TooLong(length));
        }
        let Some((&id, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let fits = match id {
            id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED => length == 1,
            id::HAVE => length == 5,
            id::REQUEST | id::CANCEL => length == 13,
            id::PIECE => length > 9,
            id::BITFIELD | id::EXTENSION => true,
            _ => return Err(DecodeError::UnknownId(id)),
        };
        if !fits {
            return Err(DecodeError::WrongLength { id, length });
        }
        Ok(match id {
            id::CHOKE => Some((Self::Choke, 5)),
            id::UNCHOKE => Some((Self::Unchoke, 5)),
            id::INTERESTED => Some((Self::Interested, 5)),
            id::NOT_INTERESTED => Some((Self::NotInterested, 5)),
            id::HAVE => words(rest).map(|[piece]| (Self::Have(piece), 9)),
            id::BITFIELD => Some((Self::Bitfield { length: length - 1 }, 5)),
            id::REQUEST => raw_block(rest).map(|block| (Self::Request(block), 17)),
            id::CANCEL => raw_block(rest).map(|block| (Self::Cancel(block), 17)),
            id::PIECE => words(rest).map(|[piece, offset]| {
                let length = length - 9;
                (
                    Self::Piece(RawBlock {
                        piece,
                        offset,
                        length,
                    }),
                    13,
                )
            }),
            _ => Some((Self::Extension { length: length - 1 }, 5)),
        })
    }

    /// Writes the header.
    ///
    /// # Panics
    /// When the payload it announces does not fit a message: a mistake of the caller.
    pub fn encode(&self, out: &mut impl BufMut) {
        assert!(
            self.payload_len() <= PIECE_PAYLOAD_MAX.max(MESSAGE_LEN_MAX - 1)
                && !matches!(self, Self::Piece(block) if block.length > PIECE_PAYLOAD_MAX),
            "payload of {} bytes does not fit a message",
            self.payload_len()
        );
        let (length, id) = match self {
            Self::KeepAlive => return out.put_u32(0),
            Self::Choke => (1, id::CHOKE),
            Self::Unchoke => (1, id::UNCHOKE),
            Self::Interested => (1, id::INTERESTED),
            Self::NotInterested => (1, id::NOT_INTERESTED),
            Self::Have(_) => (5, id::HAVE),
            Self::Bitfield { length } => (1 + length, id::BITFIELD),
            Self::Request(_) => (13, id::REQUEST),
            Self::Piece(block) => (9 + block.length, id::PIECE),
            Self::Cancel(_) => (13, id::CANCEL),
            Self::Extension { length } => (1 + length, id::EXTENSION),
        };
        let (words, count) = match self {
            Self::Have(piece) => ([*piece, 0, 0], 1),
            Self::Request(block) | Self::Cancel(block) => {
                ([block.piece, block.offset, block.length], 3)
            }
            Self::Piece(block) => ([block.piece, block.offset, 0], 2),
            _ => ([0; 3], 0),
        };
        // Appended at once: each part would look for room by itself.
        let mut bytes = [0; HEADER_LEN_MAX];
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4] = id;
        bytes[5..].copy_from_slice(words.map(u32::to_be_bytes).as_flattened());
        out.put_slice(&bytes[..5 + 4 * count]);
    }

    /// Bytes of data that follow the header.
    pub fn payload_len(&self) -> u32 {
        match self {
            Self::Bitfield { length } | Self::Extension { length } => *length,
            Self::Piece(block) => block.length,
            _ => 0,
        }
    }
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    let words = bytes.as_chunks().0.first_chunk()?;
    Some(words.map(u32::from_be_bytes))
}

fn raw_block(bytes: &[u8]) -> Option<RawBlock> {
    words(bytes).map(|[piece, offset, length]| RawBlock {
        piece,
        offset,
        length,
    })
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing to say, still here.
    KeepAlive,
    /// Requests are not answered from now on.
    Choke,
    /// Requests are welcome.
    Unchoke,
    /// The sender wants something that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender verified this piece.
    Have(u32),
    /// The pieces that the sender has, most significant bit first.
    Bitfield(Bytes),
    /// Asks for a block.
    Request(RawBlock),
    /// A block.
    Piece {
        /// The piece's index.
        piece: u32,
        /// Bytes from the start of the piece.
        offset: u32,
        /// The block's bytes, at least one.
        data: Bytes,
    },
    /// Withdraws a request.
    Cancel(RawBlock),
    /// The payload of id 20; see [`Extension`](crate::Extension).
    Extension(Bytes),
}

impl Message {
    /// Takes one message from the front of `bytes`; `None` when more bytes are needed (and `bytes` is as it
    /// was).
    ///
    /// # Errors
    /// [`DecodeError`] names the rule broken.
    pub fn decode(bytes: &mut Bytes) -> Result<Option<Self>, DecodeError> {
        let Some((header, used)) = Header::decode(bytes)? else {
            return Ok(None);
        };
        let end = used + header.payload_len() as usize;
        if bytes.len() < end {
            return Ok(None);
        }
        let payload = bytes.split_to(end).split_off(used);
        Ok(Some(match header {
            Header::KeepAlive => Self::KeepAlive,
            Header::Choke => Self::Choke,
            Header::Unchoke => Self::Unchoke,
            Header::Interested => Self::Interested,
            Header::NotInterested => Self::NotInterested,
            Header::Have(piece) => Self::Have(piece),
            Header::Bitfield { .. } => Self::Bitfield(payload),
            Header::Request(block) => Self::Request(block),
            Header::Piece(RawBlock { piece, offset, .. }) => Self::Piece {
                piece,
                offset,
                data: payload,
            },
            Header::Cancel(block) => Self::Cancel(block),
            Header::Extension { .. } => Self::Extension(payload),
        }))
    }

    /// Writes the message.
    ///
    /// # Panics
    /// When its payload does not fit a message: a mistake of the caller.
    pub fn encode(&self, out: &mut impl BufMut) {
        self.header().encode(out);
        match self {
            Self::Bitfield(payload) | Self::Extension(payload) => out.put_slice(payload),
            Self::Piece { data, .. } => out.put_slice(data),
            _ => {}
        }
    }

    /// The message's header.
    ///
    /// # Panics
    /// When the payload is longer than 4 GiB: a mistake of the caller.
    pub fn header(&self) -> Header {
        let length = |payload: &Bytes| {
            u32::try_from(payload.len()).expect("the caller made no payload of 4 GiB")
        };
        match self {
            Self::KeepAlive => Header::KeepAlive,
            Self::Choke => Header::Choke,
            Self::Unchoke => Header::Unchoke,
            Self::Interested => Header::Interested,
            Self::NotInterested => Header::NotInterested,
            Self::Have(piece) => Header::Have(*piece),
            Self::Bitfield(payload) => Header::Bitfield {
                length: length(payload),
            },
            Self::Request(block) => Header::Request(*block),
            Self::Piece {
                piece,
                offset,
                data,
            } => Header::Piece(RawBlock {
                piece: *piece,
                offset: *offset,
                length: length(data),
            }),
            Self::Cancel(block) => Header::Cancel(*block),
            Self::Extension(payload) => Header::Extension {
                length: length(payload),
            },
        }
    }
}

#[cfg(test)]
mod tests;
