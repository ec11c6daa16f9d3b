//! Drawing without putting back.

use super::record::Record;
use dosvc_cloud_protocol::Scope;
use fastrand::Rng;
use std::ops::Range;

/// A peer that was drawn, and how it was met.
pub(crate) type Drawn = (Scope, Record);

/// So many ranks are shuffled as a whole; among more, one that was drawn before is drawn again so seldom that trying
/// once more is cheaper.
const SHUFFLED_MAX: u32 = 4096;

/// Ranks drawn one after the other from several ranges as if they were one, each once, until none is left. From ranges
/// with more than 4096 ranks, at most a quarter of that may be asked for.
#[derive(Debug)]
pub(crate) struct Draws<'a> {
    ranges: &'a [Range<usize>],
    total: u32,
    /// The ranks that are left, if they are few.
    left: Vec<u32>,
    /// The ranks that were drawn, if they are many.
    drawn: Vec<u32>,
}

impl<'a> Draws<'a> {
    pub(crate) fn from(ranges: &'a [Range<usize>]) -> Self {
        let total: usize = ranges.iter().map(Range::len).sum();
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let few = if total <= SHUFFLED_MAX { total } else { 0 };
        Self {
            ranges,
            total,
            left: (0..few).collect(),
            drawn: Vec::new(),
        }
    }

    pub(crate) fn next(&mut self, random: &mut Rng) -> Option<usize> {
        let nth = if self.total > SHUFFLED_MAX {
            debug_assert!(self.drawn.len() < SHUFFLED_MAX as usize / 2, "few of many");
            loop {
                let nth = random.u32(..self.total);
                if !self.drawn.contains(&nth) {
                    self.drawn.push(nth);
                    break nth;
                }
            }
        } else {
            let bound = u32::try_from(self.left.len())
                .ok()
                .filter(|left| *left > 0)?;
            self.left.swap_remove(random.u32(..bound) as usize)
        };
        self.rank(nth as usize)
    }

    fn rank(&self, mut nth: usize) -> Option<usize> {
        for range in self.ranges {
            if nth < range.len() {
                return Some(range.start + nth);
            }
            nth -= range.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_once_and_evenly() {
        let mut random = Rng::with_seed(7);
        let ranges = [3..5, 10..18, 30..30];
        let mut hits = [0; 40];
        for _ in 0..10_000 {
            let mut draws = Draws::from(&ranges);
            let mut drawn: Vec<_> = (0..4).filter_map(|_| draws.next(&mut random)).collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 4);
            for rank in drawn {
                hits[rank] += 1;
            }
        }
        for (rank, hits) in hits.iter().enumerate() {
            let inside = ranges.iter().any(|r| r.contains(&rank));
            // 4 of 10 in 10 000 draws, five standard deviations to both sides.
            assert!(
                if inside {
                    (3755..=4245).contains(hits)
                } else {
                    *hits == 0
                },
                "{rank}: {hits}"
            );
        }
        let mut all = Draws::from(&ranges);
        let mut drawn: Vec<_> = std::iter::from_fn(|| all.next(&mut random)).collect();
        drawn.sort_unstable();
        assert!(drawn.into_iter().eq((3..5).chain(10..18)));
        assert_eq!(Draws::from(&[]).next(&mut random), None);
        let many = [5..5000, 6000..9000];
        let mut draws = Draws::from(&many);
        let drawn: std::collections::BTreeSet<_> =
            (0..1000).filter_map(|_| draws.next(&mut random)).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(
            drawn
                .iter()
                .all(|rank| many.iter().any(|r| r.contains(rank)))
        );
    }
}
