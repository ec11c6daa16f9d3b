//! The set of pieces that somebody has, in the order of the wire: the most significant bit of byte 0 is piece 0.

use crate::{PieceIndex, PieceLengths};
use std::fmt;

/// Why a bitfield from the wire was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// The number of bytes is not ceil(pieces / 8).
    #[error("bitfield of {got} bytes where {want} were expected")]
    WrongLength {
        /// Bytes received.
        got: usize,
        /// Bytes that the content's piece count needs.
        want: usize,
    },
    /// A bit past the last piece is set.
    #[error("bitfield sets a bit past the last piece")]
    SpareBits,
}

/// A set of pieces of one content. Bits past the last piece are always zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    len: u32,
    ones: u32,
}

impl Bitfield {
    /// The empty set over `piece_count` pieces.
    pub fn new(piece_count: u32) -> Self {
        Self {
            words: vec![0; (piece_count as usize).div_ceil(64)],
            len: piece_count,
            ones: 0,
        }
    }

    /// The full set over `piece_count` pieces.
    pub fn full(piece_count: u32) -> Self {
        let mut field = Self::new(piece_count);
        field.words.fill(u64::MAX);
        if let (spare @ 1.., Some(last)) = ((64 - piece_count % 64) % 64, field.words.last_mut()) {
            *last <<= spare;
        }
        field.ones = piece_count;
        field
    }

    /// Bytes that a bitfield of `piece_count` pieces takes on the wire.
    pub fn wire_len(piece_count: u32) -> usize {
        (piece_count as usize).div_ceil(8)
    }

    /// Reads the payload of a BitField message.
    ///
    /// # Errors
    /// [`BitfieldError`] when the length is wrong or a spare bit is set.
    pub fn from_wire(piece_count: u32, bytes: &[u8]) -> Result<Self, BitfieldError> {
        let want = Self::wire_len(piece_count);
        if bytes.len() != want {
            return Err(BitfieldError::WrongLength {
                got: bytes.len(),
                want,
            });
        }
        if let (used @ 1.., Some(last)) = (piece_count % 8, bytes.last())
            && last & (0xff >> used) != 0
        {
            return Err(BitfieldError::SpareBits);
        }
        let mut words = Vec::with_capacity(bytes.len().div_ceil(8));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_be_bytes(word));
        }
        let ones = words.iter().map(|w| w.count_ones()).sum();
        Ok(Self {
            words,
            len: piece_count,
            ones,
        })
    }

    /// The payload of a BitField message.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_be_bytes()).collect();
        bytes.truncate(Self::wire_len(self.len));
        bytes
    }

    /// How many pieces the content has.
    pub fn piece_count(&self) -> u32 {
        self.len
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// True when no piece is missing (also for content without pieces).
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// True when no piece is in the set.
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Whether the piece is in the set. A piece of longer content is not.
    pub fn has(&self, piece: PieceIndex) -> bool {
        let i = piece.get();
        i < self.len && self.words[i as usize / 64] & bit(i) != 0
    }

    /// Adds a piece; true if it was not in the set.
    ///
    /// # Panics
    /// When the piece belongs to content with more pieces than this set has: a mistake of the caller.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let i = piece.get();
        assert!(i < self.len, "piece of other content");
        let word = &mut self.words[i as usize / 64];
        let fresh = *word & bit(i) == 0;
        *word |= bit(i);
        self.ones += u32::from(fresh);
        fresh
    }

    /// Removes a piece; true if it was in the set.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let i = piece.get();
        if !self.has(piece) {
            return false;
        }
        self.words[i as usize / 64] &= !bit(i);
        self.ones -= 1;
        true
    }

    /// The pieces in the set, in order.
    pub fn ones(&self) -> Ones<'_> {
        Ones {
            field: self,
            invert: false,
            word: 0,
            bits: self.words.first().copied().unwrap_or(0),
        }
    }

    /// The pieces missing from the set, in order.
    pub fn zeros(&self) -> Ones<'_> {
        Ones {
            field: self,
            invert: true,
            word: 0,
            bits: !self.words.first().copied().unwrap_or(u64::MAX),
        }
    }

    /// True when `other` has a piece that this set lacks.
    ///
    /// # Panics
    /// When the two sets are of different piece counts: a mistake of the caller.
    pub fn lacks_any_of(&self, other: &Self) -> bool {
        assert_eq!(self.len, other.len, "bitfields of different contents");
        self.words
            .iter()
            .zip(&other.words)
            .any(|(mine, theirs)| theirs & !mine != 0)
    }

    /// The words of the set, 64 pieces each, piece 0 in the most significant bit of word 0.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

fn bit(i: u32) -> u64 {
    1 << (63 - i % 64)
}

impl fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bitfield({}/{})", self.ones, self.len)
    }
}

/// Iterator over the pieces of a [`Bitfield`]; see [`Bitfield::ones`] and [`Bitfield::zeros`].
#[derive(Debug, Clone)]
pub struct Ones<'a> {
    field: &'a Bitfield,
    invert: bool,
    word: usize,
    bits: u64,
}

impl Iterator for Ones<'_> {
    type Item = PieceIndex;

    fn next(&mut self) -> Option<PieceIndex> {
        while self.bits == 0 {
            self.word += 1;
            let word = *self.field.words.get(self.word)?;
            self.bits = if self.invert { !word } else { word };
        }
        let at = self.bits.leading_zeros();
        self.bits &= !(1 << (63 - at));
        let index = u32::try_from(self.word).ok()? * 64 + at;
        // Only the complement can reach the spare bits, and they are the last ones.
        (index < self.field.len).then(|| PieceIndex::trusted(index))
    }
}

impl PieceIndex {
    /// For an index that was inside a bitfield, and so inside the content.
    pub(crate) fn trusted(index: u32) -> Self {
        PieceLengths::new(u64::from(index + 1) << 16, 1 << 16)
            .ok()
            .and_then(|l| l.piece(index))
            .expect("bitfields have at most 2^24 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn most_significant_bit_is_piece_zero() {
        let lengths = PieceLengths::new(10 << 16, 1 << 16).unwrap();
        let mut field = Bitfield::new(10);
        field.insert(lengths.piece(0).unwrap());
        field.insert(lengths.piece(9).unwrap());
        assert_eq!(field.to_wire(), [0x80, 0x40]);
        assert_eq!(field.count(), 2);
    }

    #[test]
    fn spare_bits_and_wrong_lengths_are_refused() {
        assert_eq!(
            Bitfield::from_wire(10, &[0xff, 0xff]),
            Err(BitfieldError::SpareBits)
        );
        assert_eq!(
            Bitfield::from_wire(10, &[0xff]),
            Err(BitfieldError::WrongLength { got: 1, want: 2 })
        );
        assert!(Bitfield::from_wire(10, &[0xff, 0xc0]).unwrap().is_full());
        assert!(Bitfield::from_wire(0, &[]).unwrap().is_full());
        assert!(Bitfield::from_wire(0, &[0]).is_err());
    }

    proptest! {
        #[test]
        fn wire_form_round_trips(set in proptest::collection::vec(any::<bool>(), 0..500)) {
            let n = u32::try_from(set.len()).unwrap();
            let mut field = Bitfield::new(n);
            for (i, on) in set.iter().enumerate() {
                if *on { field.insert(PieceIndex::trusted(u32::try_from(i).unwrap())); }
            }
            prop_assert_eq!(Bitfield::from_wire(n, &field.to_wire()).unwrap(), field.clone());
            let ones: Vec<usize> = field.ones().map(PieceIndex::as_usize).collect();
            let zeros: Vec<usize> = field.zeros().map(PieceIndex::as_usize).collect();
            let want = |on| set.iter().enumerate().filter(move |(_, b)| **b == on).map(|(i, _)| i).collect::<Vec<_>>();
            prop_assert_eq!(&ones, &want(true));
            prop_assert_eq!(&zeros, &want(false));
            prop_assert_eq!(field.count() as usize, ones.len());
            prop_assert_eq!(Bitfield::full(n).lacks_any_of(&field), false);
            prop_assert_eq!(field.lacks_any_of(&Bitfield::full(n)), !zeros.is_empty());
            for p in Bitfield::full(n).ones() { field.remove(p); }
            prop_assert!(field.is_empty());
            prop_assert!(Bitfield::full(n).is_full() && Bitfield::full(n).ones().count() == n as usize);
        }

        #[test]
        fn any_bytes_are_read_or_refused(n in 0u32..200, bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(field) = Bitfield::from_wire(n, &bytes) {
                prop_assert_eq!(field.to_wire(), bytes);
            }
        }
    }
}
