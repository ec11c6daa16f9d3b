//! Rarest first: missing pieces in buckets by how many neighbours have or fetch them.

use crate::rng::Rng;
use dosvc_content::{Bitfield, PieceIndex, PieceLengths};
use std::collections::VecDeque;

/// Pieces looked at in the buckets before a scan by words takes over.
const WALK_MAX: usize = 256;
/// Candidates kept from one scan.
const SHORTLIST_MAX: usize = 64;

impl Shelf {
    fn index(self) -> Option<usize> {
        match self {
            Self::Missing => Some(0),
            Self::Held => Some(1),
            Self::None => None,
        }
    }
}

/// Candidates for one source, rarest first, kept from its last scan so that a scan pays for many picks.
#[derive(Debug, Default)]
pub struct Shortlist(VecDeque<PieceIndex>);

/// How many neighbours have or fetch each piece, and the candidates for fetching in that order.
///
/// A change of one count costs O(1). A pick walks the buckets from the rarest; where that does not hit soon (a source
/// with few pieces, all of them common), one scan over the words of its bitfield finds the rarest candidates and keeps
/// them for the next picks. Neighbours that have everything are counted once, not for each piece.
#[derive(Debug)]
pub struct Picker {
    lengths: PieceLengths,
    pieces: Vec<Known>,
    full: u32,
    /// The pieces of each shelf, by how many neighbours have or fetch them.
    buckets: [Vec<Vec<u32>>; 2],
    rng: Rng,
}

/// What is known of one piece: together, as each change needs all of it.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Neighbours that have it, those that have all pieces aside.
    holders: u16,
    /// Neighbours that fetch it.
    fetchers: u16,
    /// Where it stands in its bucket, if it is on a shelf.
    place: u32,
    shelf: Shelf,
}

impl Known {
    const NOTHING: Self = Self {
        holders: 0,
        fetchers: 0,
        place: 0,
        shelf: Shelf::None,
    };

    fn bucket(self) -> usize {
        usize::from(self.holders) + usize::from(self.fetchers)
    }
}

/// Where a piece stands: what is missing is picked from, what is held is offered from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shelf {
    /// To be fetched: a candidate for [`Picker::pick`].
    Missing,
    /// Here: a candidate for [`Picker::rarest_held`].
    Held,
    /// Being fetched or checked.
    None,
}

/// What a walk along the buckets came to.
enum Walk {
    Found(PieceIndex),
    /// It saw every candidate: a scan of what the source has would find no more.
    Nothing,
    TooLong,
}

impl Picker {
    /// Those of `missing` missing, the others held, in a random order of this machine's own.
    pub fn new(lengths: PieceLengths, missing: &Bitfield, seed: u64) -> Self {
        let count = lengths.piece_count() as usize;
        let mut order: Vec<PieceIndex> = lengths.pieces().collect();
        let mut rng = Rng::new(seed);
        rng.shuffle(&mut order);
        let mut picker = Self {
            lengths,
            pieces: vec![Known::NOTHING; count],
            full: 0,
            buckets: [Vec::new(), Vec::new()],
            rng,
        };
        for piece in order {
            let held = !missing.has(piece);
            picker.set_shelf(piece, if held { Shelf::Held } else { Shelf::Missing });
        }
        picker
    }

    fn put(&mut self, piece: u32) {
        let known = &mut self.pieces[piece as usize];
        let bucket = known.bucket();
        let Some(shelf) = known.shelf.index() else {
            return;
        };
        let buckets = &mut self.buckets[shelf];
        if buckets.len() <= bucket {
            buckets.resize_with(bucket + 1, Vec::new);
        }
        let list = &mut buckets[bucket];
        known.place = u32::try_from(list.len()).expect("at most 2^24 pieces");
        list.push(piece);
    }

    fn take(&mut self, piece: u32) {
        let known = self.pieces[piece as usize];
        let Some(shelf) = known.shelf.index() else {
            return;
        };
        let list = &mut self.buckets[shelf][known.bucket()];
        list.swap_remove(known.place as usize);
        if let Some(&moved) = list.get(known.place as usize) {
            self.pieces[moved as usize].place = known.place;
        }
    }

    fn change(&mut self, piece: PieceIndex, change: impl FnOnce(&mut u16, &mut u16)) {
        let i = piece.as_usize();
        let before = self.pieces[i];
        let mut after = before;
        change(&mut after.holders, &mut after.fetchers);
        let moves = after.bucket() != before.bucket();
        if moves {
            self.take(piece.get());
        }
        self.pieces[i] = after;
        if moves {
            self.put(piece.get());
        }
    }

    /// Notes that the piece is missing, held, or neither.
    pub fn set_shelf(&mut self, piece: PieceIndex, shelf: Shelf) {
        if self.pieces[piece.as_usize()].shelf != shelf {
            self.take(piece.get());
            self.pieces[piece.as_usize()].shelf = shelf;
            self.put(piece.get());
        }
    }

    fn is_missing(&self, piece: PieceIndex) -> bool {
        self.pieces[piece.as_usize()].shelf == Shelf::Missing
    }

    /// A neighbour has the piece; `was_fetching`: it was counted as fetching it.
    pub fn add_holder(&mut self, piece: PieceIndex, was_fetching: bool) {
        self.change(piece, |holders, fetchers| {
            *holders += 1;
            *fetchers -= u16::from(was_fetching);
        });
    }

    /// A neighbour that had the piece is gone.
    pub fn remove_holder(&mut self, piece: PieceIndex) {
        self.change(piece, |holders, _| *holders -= 1);
    }

    /// A neighbour fetches the piece.
    pub fn add_fetcher(&mut self, piece: PieceIndex) {
        self.change(piece, |_, fetchers| *fetchers += 1);
    }

    /// A neighbour fetches it no longer.
    pub fn remove_fetcher(&mut self, piece: PieceIndex) {
        self.change(piece, |_, fetchers| *fetchers -= 1);
    }

    /// One more (`true`) or one fewer neighbour that has everything.
    pub fn change_full(&mut self, more: bool) {
        if more {
            self.full += 1;
        } else {
            self.full -= 1;
        }
    }

    /// Neighbours that have the piece.
    pub fn holders(&self, piece: PieceIndex) -> u32 {
        u32::from(self.pieces[piece.as_usize()].holders) + self.full
    }

    /// Neighbours that have everything.
    pub fn full(&self) -> u32 {
        self.full
    }

    /// Neighbours that have or fetch the piece.
    pub fn copies(&self, piece: PieceIndex) -> u32 {
        self.holders(piece) + u32::from(self.pieces[piece.as_usize()].fetchers)
    }

    /// Candidates that no neighbour has or fetches, in no particular order; none when somebody has everything.
    pub fn nobodys(&self) -> &[u32] {
        let none: &[u32] = &[];
        let first = self.buckets[0].first();
        first.filter(|_| self.full == 0).map_or(none, Vec::as_slice)
    }

    /// The rarest candidate of what a source has; ties are broken at random.
    pub fn pick(&mut self, has: &Bitfield, shortlist: &mut Shortlist) -> Option<PieceIndex> {
        if has.is_empty() {
            return None;
        }
        match self.walk(Shelf::Missing, |piece| has.has(piece)) {
            Walk::Found(piece) => return Some(piece),
            Walk::Nothing => {
                shortlist.0.clear();
                return None;
            }
            Walk::TooLong => {}
        }
        while let Some(piece) = shortlist.0.pop_front() {
            if self.is_missing(piece) && has.has(piece) {
                return Some(piece);
            }
        }
        self.scan(has, shortlist)
    }

    /// The rarest of the first pieces on the shelf that fits.
    fn walk(&mut self, shelf: Shelf, fits: impl Fn(PieceIndex) -> bool) -> Walk {
        let mut left = WALK_MAX;
        let Some(shelf) = shelf.index() else {
            return Walk::Nothing;
        };
        for bucket in self.buckets[shelf].iter().filter(|b| !b.is_empty()) {
            let start = self.rng.below(bucket.len());
            let (late, early) = bucket.split_at(start);
            for &piece in early.iter().chain(late) {
                let piece = self.lengths.piece(piece).expect("a piece of this content");
                if fits(piece) {
                    return Walk::Found(piece);
                }
                left -= 1;
                if left == 0 {
                    return Walk::TooLong;
                }
            }
        }
        Walk::Nothing
    }

    /// The rarest held piece that fits, or one of the first ones; ties are broken at random.
    pub fn rarest_held(&mut self, fits: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        match self.walk(Shelf::Held, fits) {
            Walk::Found(piece) => Some(piece),
            Walk::Nothing | Walk::TooLong => None,
        }
    }

    /// Finds the rarest candidates by words and keeps them.
    fn scan(&mut self, has: &Bitfield, shortlist: &mut Shortlist) -> Option<PieceIndex> {
        let mut found: Vec<(usize, u64, PieceIndex)> = Vec::new();
        for piece in has.ones() {
            if self.is_missing(piece) {
                found.push((
                    self.pieces[piece.as_usize()].bucket(),
                    self.rng.next(),
                    piece,
                ));
            }
        }
        if found.len() > SHORTLIST_MAX {
            found.select_nth_unstable(SHORTLIST_MAX);
            found.truncate(SHORTLIST_MAX);
        }
        found.sort_unstable();
        shortlist.0.clear();
        shortlist.0.extend(found.iter().map(|(_, _, piece)| piece));
        shortlist.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(pieces: u32) -> PieceLengths {
        PieceLengths::new(u64::from(pieces) << 16, 1 << 16).unwrap()
    }

    #[test]
    fn rarest_of_what_the_source_has_comes_first() {
        let lengths = content(3);
        let all = Bitfield::full(3);
        let mut picker = Picker::new(lengths, &all, 1);
        let [a, b, c] = [0, 1, 2].map(|i| lengths.piece(i).unwrap());
        picker.add_holder(a, false);
        picker.add_holder(a, false);
        picker.add_holder(b, false);
        picker.add_fetcher(c);
        picker.add_holder(c, true);
        picker.add_fetcher(c);
        let mut list = Shortlist::default();
        assert_eq!(picker.pick(&all, &mut list), Some(b));
        picker.set_shelf(b, Shelf::None);
        let mut only_a = Bitfield::new(3);
        only_a.insert(a);
        assert_eq!(picker.pick(&only_a, &mut list), Some(a));
        assert!(picker.nobodys().is_empty());
    }

    #[test]
    fn machines_order_ties_differently() {
        let lengths = content(64);
        let all = Bitfield::full(64);
        let first = |seed| Picker::new(lengths, &all, seed).pick(&all, &mut Shortlist::default());
        let firsts: std::collections::BTreeSet<_> = (0..32).map(first).collect();
        assert!(firsts.len() > 16, "{firsts:?}");
    }

    proptest! {
        /// Whatever happened before, a pick is a candidate that the source has, none rarer exists among the first
        /// ones, and nothing is found only when there is nothing.
        #[test]
        fn picks_are_right(n in 1u32..600, seed: u64, ops in proptest::collection::vec((0u8..5, any::<u32>()), 0..400), few: bool) {
            let lengths = content(n);
            let mut candidates = Bitfield::full(n);
            let mut picker = Picker::new(lengths, &candidates, seed);
            let mut counts = vec![(0u32, 0u32); n as usize];
            for (op, piece) in ops {
                let piece = lengths.piece(piece % n).unwrap();
                let count = &mut counts[piece.as_usize()];
                match op {
                    0 => { picker.add_holder(piece, false); count.0 += 1; }
                    1 if count.0 > 0 => { picker.remove_holder(piece); count.0 -= 1; }
                    2 => { picker.add_fetcher(piece); count.1 += 1; }
                    3 if count.1 > 0 => { picker.add_holder(piece, true); count.0 += 1; count.1 -= 1; }
                    4 => {
                        let on = !candidates.has(piece);
                        picker.set_shelf(piece, if on { Shelf::Missing } else { Shelf::Held });
                        if on { candidates.insert(piece); } else { candidates.remove(piece); }
                    }
                    _ => {}
                }
            }
            let mut has = Bitfield::new(n);
            for piece in lengths.pieces().filter(|p| !few || p.get() % 97 == 3) { has.insert(piece); }
            let mut list = Shortlist::default();
            let rarest = has.ones().filter(|p| candidates.has(*p)).map(|p| picker.copies(p)).min();
            let pick = picker.pick(&has, &mut list);
            prop_assert_eq!(pick.map(|p| picker.copies(p)), rarest);
            if let Some(pick) = pick {
                prop_assert!(candidates.has(pick) && has.has(pick));
                let (holders, fetchers) = counts[pick.as_usize()];
                prop_assert_eq!(picker.copies(pick), holders + fetchers);
            }
        }
    }
}
