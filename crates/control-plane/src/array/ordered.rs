//! Numbers in an order that the caller knows, with ranks: what stands between two bounds is found, counted and drawn
//! from without walking over it.

/// The most numbers of a chunk: moved at once when one is put between others.
const CHUNK_MAX: usize = 2 * HALF as usize;
const HALF: u32 = 256;

/// Numbers in chunks, and at which rank each chunk begins. Positions are found by asking `before(number)`: whether a
/// number stands before the place in question; it must be true for a beginning of the order and false for the rest.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    chunks: Vec<Vec<u32>>,
    starts: Vec<u32>,
}

/// A chunk, and a place in it.
type Position = (usize, usize);

impl Ordered {
    /// How many stand before the place.
    pub(super) fn rank(&self, before: impl Fn(u32) -> bool) -> usize {
        let (chunk, at) = self.position(before);
        self.starts.get(chunk).map_or(0, |start| *start as usize) + at
    }

    /// The first position whose number does not stand before the place; in the last chunk at its end, if there is none.
    fn position(&self, before: impl Fn(u32) -> bool) -> Position {
        let chunk = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(|last| before(*last)));
        match self.chunks.get(chunk) {
            Some(numbers) => (chunk, numbers.partition_point(|number| before(*number))),
            None => match self.chunks.last() {
                Some(last) => (self.chunks.len() - 1, last.len()),
                None => (0, 0),
            },
        }
    }

    /// Puts a number at the place.
    pub(super) fn insert(&mut self, number: u32, before: impl Fn(u32) -> bool) {
        let (mut chunk, mut at) = self.position(before);
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
            self.starts.push(0);
        }
        let numbers = &mut self.chunks[chunk];
        if numbers.len() == CHUNK_MAX {
            let upper = numbers.split_off(HALF as usize);
            numbers.shrink_to_fit();
            self.starts.insert(chunk + 1, self.starts[chunk] + HALF);
            self.chunks.insert(chunk + 1, upper);
            if at > HALF as usize {
                chunk += 1;
                at -= HALF as usize;
            }
        }
        let numbers = &mut self.chunks[chunk];
        if numbers.len() == numbers.capacity() {
            numbers.reserve_exact((numbers.len() / 4).max(4));
        }
        numbers.insert(at, number);
        for start in &mut self.starts[chunk + 1..] {
            *start += 1;
        }
    }

    /// Takes the number out that is the first not to stand before the place. Answers whether it was `number`; any other
    /// one stays.
    pub(super) fn remove(&mut self, number: u32, before: impl Fn(u32) -> bool) -> bool {
        let (chunk, at) = self.position(before);
        if self.chunks.get(chunk).and_then(|c| c.get(at)) != Some(&number) {
            return false;
        }
        self.chunks[chunk].remove(at);
        for start in &mut self.starts[chunk + 1..] {
            *start -= 1;
        }
        self.tidy(chunk);
        true
    }

    /// Joins a chunk that has become small with a neighbour.
    fn tidy(&mut self, chunk: usize) {
        if self.chunks[chunk].len() > CHUNK_MAX / 4 {
            return;
        }
        let small = |other: usize, this: &Self| {
            this.chunks
                .get(other)
                .is_some_and(|c| c.len() + this.chunks[chunk].len() <= HALF as usize)
        };
        let lower = match chunk.checked_sub(1) {
            Some(lower) if small(lower, self) => lower,
            _ if small(chunk + 1, self) => chunk,
            _ if self.chunks[chunk].is_empty() => {
                self.chunks.remove(chunk);
                self.starts.remove(chunk);
                return;
            }
            _ => return,
        };
        let upper = self.chunks.remove(lower + 1);
        self.starts.remove(lower + 1);
        self.chunks[lower].extend_from_slice(&upper);
    }

    /// Writes another number where one stands, in the same place.
    pub(super) fn renumber(&mut self, old: u32, new: u32, before: impl Fn(u32) -> bool) {
        let (chunk, at) = self.position(before);
        if let Some(slot) = self.chunks.get_mut(chunk).and_then(|c| c.get_mut(at)) {
            debug_assert_eq!(*slot, old);
            *slot = new;
        }
    }

    /// The number at a rank.
    pub(super) fn at(&self, rank: usize) -> Option<u32> {
        let chunk = self
            .starts
            .partition_point(|start| *start as usize <= rank)
            .checked_sub(1)?;
        self.chunks[chunk]
            .get(rank - self.starts[chunk] as usize)
            .copied()
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        let chunks: usize = self
            .chunks
            .iter()
            .map(|c| c.capacity() * size_of::<u32>())
            .sum();
        chunks
            + self.chunks.capacity() * size_of::<Vec<u32>>()
            + self.starts.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(ordered: &Ordered, model: &std::collections::BTreeSet<u32>) {
        assert!(ordered.chunks.iter().flatten().eq(model.iter()));
        for (rank, number) in model.iter().enumerate() {
            assert_eq!(ordered.at(rank), Some(*number));
        }
        assert_eq!(ordered.at(model.len()), None);
        assert!(
            ordered
                .chunks
                .iter()
                .all(|c| c.len() <= CHUNK_MAX && !c.is_empty())
                || model.is_empty()
        );
    }

    #[test]
    fn thousands_come_and_go_in_any_order() {
        let mut ordered = Ordered::default();
        let mut model = std::collections::BTreeSet::new();
        let mut state = 1_u32;
        for step in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = state >> 18;
            // Grows for the first half, shrinks in the second.
            if (state >> 5 & 3 == 0) == (step < 10_000) {
                assert_eq!(
                    ordered.remove(number, |n| n < number),
                    model.remove(&number)
                );
            } else if model.insert(number) {
                ordered.insert(number, |n| n < number);
            }
        }
        check(&ordered, &model);
        for number in model.clone() {
            assert!(ordered.remove(number, |n| n < number));
        }
        assert!(ordered.at(0).is_none());
    }

    proptest! {
        #[test]
        fn is_a_sorted_set_with_ranks(
            steps in prop::collection::vec((any::<bool>(), 0_u32..40), 0..200),
            bound in 0_u32..40,
        ) {
            let mut ordered = Ordered::default();
            let mut model = std::collections::BTreeSet::new();
            for (add, number) in steps {
                if !add {
                    prop_assert_eq!(ordered.remove(number, |n| n < number), model.remove(&number));
                } else if model.insert(number) {
                    ordered.insert(number, |n| n < number);
                }
            }
            check(&ordered, &model);
            prop_assert_eq!(ordered.rank(|n| n < bound), model.range(..bound).count());
        }
    }
}
