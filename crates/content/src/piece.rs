//! Piece arithmetic: which bytes a piece covers, and how a piece is cut into blocks.

use std::fmt;

/// The smallest piece size that a hash file may name, in bytes.
pub const PIECE_SIZE_MIN: u32 = 64 << 10;
/// The largest piece size that a hash file may name, in bytes.
pub const PIECE_SIZE_MAX: u32 = 16 << 20;
/// The piece size of every hash file seen in the wild, in bytes.
pub const PIECE_SIZE_DEFAULT: u32 = 1 << 20;
/// The longest content, in bytes (1 TiB).
pub const CONTENT_LENGTH_MAX: u64 = 1 << 40;
/// The longest block that we request, in bytes: a whole piece of the usual size, well inside the largest
/// message that Windows accepts (2 048 000 bytes).
pub const BLOCK_LENGTH_MAX: u32 = 1 << 20;

/// The index of a piece inside its content.
///
/// Made only by [`PieceLengths`], so it is in range for the content that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The index as it stands on the wire.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The index for use with slices.
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A range of bytes inside one piece: what one request asks for. Never empty, never past the piece's end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Block {
    piece: PieceIndex,
    offset: u32,
    length: u32,
}

impl Block {
    /// The piece that the block lies in.
    pub fn piece(self) -> PieceIndex {
        self.piece
    }

    /// Where the block begins, in bytes from the start of its piece.
    pub fn offset(self) -> u32 {
        self.offset
    }

    /// How many bytes the block has; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(self) -> u32 {
        self.length
    }
}

/// Why a content's dimensions were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LengthsError {
    /// The content is longer than [`CONTENT_LENGTH_MAX`].
    #[error("content length {0} is past the limit of {CONTENT_LENGTH_MAX} bytes")]
    ContentTooLong(u64),
    /// The piece size is no power of two between [`PIECE_SIZE_MIN`] and [`PIECE_SIZE_MAX`].
    #[error("piece size {0} is not a power of two from {PIECE_SIZE_MIN} to {PIECE_SIZE_MAX}")]
    BadPieceSize(u64),
}

/// The dimensions of one content: its length and its piece size.
///
/// Every [`PieceIndex`] and [`Block`] comes from here and so lies inside the content. At most 2^24 pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct PieceLengths {
    content_length: u64,
    piece_size: u32,
}

impl PieceLengths {
    /// Checks the two numbers of a hash file.
    ///
    /// # Errors
    /// [`LengthsError`] when one is out of bounds.
    pub fn new(content_length: u64, piece_size: u64) -> Result<Self, LengthsError> {
        if content_length > CONTENT_LENGTH_MAX {
            return Err(LengthsError::ContentTooLong(content_length));
        }
        let size = u32::try_from(piece_size).map_err(|_| LengthsError::BadPieceSize(piece_size))?;
        if !size.is_power_of_two() || !(PIECE_SIZE_MIN..=PIECE_SIZE_MAX).contains(&size) {
            return Err(LengthsError::BadPieceSize(piece_size));
        }
        Ok(Self {
            content_length,
            piece_size: size,
        })
    }

    /// Bytes of the whole content; 0 is possible.
    pub fn content_length(&self) -> u64 {
        self.content_length
    }

    /// Bytes of every piece but the last.
    pub fn piece_size(&self) -> u32 {
        self.piece_size
    }

    /// How many pieces there are; 0 for empty content.
    pub fn piece_count(&self) -> u32 {
        u32::try_from(self.content_length.div_ceil(u64::from(self.piece_size)))
            .expect("1 TiB in pieces of 64 KiB is 2^24 pieces")
    }

    /// The piece with this index, if the content has it.
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.piece_count()).then_some(PieceIndex(index))
    }

    /// All pieces in order.
    pub fn pieces(
        &self,
    ) -> impl ExactSizeIterator<Item = PieceIndex> + DoubleEndedIterator + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// The piece that holds the byte at `offset`.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        if offset >= self.content_length {
            return None;
        }
        u32::try_from(offset / u64::from(self.piece_size))
            .ok()
            .map(PieceIndex)
    }

    /// Where the piece begins, in bytes from the start of the content.
    pub fn offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_size)
    }

    /// Bytes of this piece: the piece size, or less for the last one.
    pub fn len(&self, piece: PieceIndex) -> u32 {
        let rest = self.content_length - self.offset(piece);
        u32::try_from(rest.min(u64::from(self.piece_size))).expect("at most the piece size")
    }

    /// True for content of no bytes.
    pub fn is_empty(&self) -> bool {
        self.content_length == 0
    }

    /// Checks a range that a peer named.
    pub fn block(&self, index: u32, offset: u32, length: u32) -> Option<Block> {
        let piece = self.piece(index)?;
        let end = offset.checked_add(length)?;
        (length > 0 && end <= self.len(piece)).then_some(Block {
            piece,
            offset,
            length,
        })
    }

    /// How many blocks of at most [`BLOCK_LENGTH_MAX`] bytes the piece is requested in.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.len(piece).div_ceil(BLOCK_LENGTH_MAX)
    }

    /// How many blocks every piece but the last is asked for in.
    pub fn blocks_per_piece(&self) -> u32 {
        self.piece_size.div_ceil(BLOCK_LENGTH_MAX)
    }

    /// The blocks of a piece, in order, of [`BLOCK_LENGTH_MAX`] bytes each but the last.
    pub fn blocks(&self, piece: PieceIndex) -> impl ExactSizeIterator<Item = Block> + use<> {
        let len = self.len(piece);
        (0..self.block_count(piece)).map(move |i| {
            let offset = i * BLOCK_LENGTH_MAX;
            Block {
                piece,
                offset,
                length: (len - offset).min(BLOCK_LENGTH_MAX),
            }
        })
    }

    /// Where the block begins, in bytes from the start of the content.
    pub fn block_offset(&self, block: Block) -> u64 {
        self.offset(block.piece) + u64::from(block.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_content_has_no_pieces() {
        let l = PieceLengths::new(0, 1 << 20).unwrap();
        assert_eq!(l.piece_count(), 0);
        assert_eq!(l.piece(0), None);
        assert_eq!(l.piece_at(0), None);
        assert!(l.is_empty());
    }

    #[test]
    fn dimensions_out_of_bounds_are_refused() {
        for size in [0, 1, 3, 65_535, 32 << 10, 96 << 10, 32 << 20, u64::MAX] {
            assert_eq!(
                PieceLengths::new(1, size),
                Err(LengthsError::BadPieceSize(size))
            );
        }
        assert!(PieceLengths::new(CONTENT_LENGTH_MAX, u64::from(PIECE_SIZE_MIN)).is_ok());
        assert!(PieceLengths::new(CONTENT_LENGTH_MAX + 1, 1 << 20).is_err());
    }

    #[test]
    fn a_block_past_the_piece_is_refused() {
        let l = PieceLengths::new((1 << 20) + 10, 1 << 20).unwrap();
        assert!(l.block(0, 0, 1 << 20).is_some());
        assert!(l.block(0, 1, 1 << 20).is_none());
        assert!(l.block(0, 0, 0).is_none());
        assert!(l.block(0, u32::MAX, 2).is_none());
        assert!(l.block(1, 0, 10).is_some());
        assert!(l.block(1, 0, 11).is_none());
        assert!(l.block(2, 0, 1).is_none());
    }

    proptest! {
        #[test]
        fn pieces_and_blocks_tile_the_content(length in 0u64..(1 << 27), shift in 16u32..=24) {
            let l = PieceLengths::new(length, 1 << shift).unwrap();
            let mut at = 0;
            for p in l.pieces() {
                prop_assert_eq!(l.offset(p), at);
                prop_assert_eq!(l.piece_at(at), Some(p));
                let mut within = 0;
                for b in l.blocks(p) {
                    prop_assert_eq!(b.offset(), within);
                    prop_assert!(b.len() > 0 && b.len() <= BLOCK_LENGTH_MAX);
                    prop_assert_eq!(l.block(p.get(), b.offset(), b.len()), Some(b));
                    within += b.len();
                }
                prop_assert_eq!(within, l.len(p));
                at += u64::from(l.len(p));
            }
            prop_assert_eq!(at, length);
        }
    }
}
