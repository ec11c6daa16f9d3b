//! What happens next: a timing wheel.

use std::collections::{BTreeMap, VecDeque};

/// Virtual time, nanoseconds from the start of the run.
pub(crate) type Nanos = u64;

/// Nanoseconds of one slot, as a power of two: 65 µs.
const SLOT_BITS: u32 = 16;
/// Slots ahead of now: 1.07 s.
const SLOTS: u64 = 1 << 14;

/// Events in the order of their times; those of one moment in the order in which they were put in.
///
/// Putting in and taking out cost O(1) within the next second, a search in a tree of seconds beyond it.
pub(crate) struct Queue<E> {
    /// What is due in the slot `at`, latest first.
    current: Vec<(Nanos, u64, E)>,
    slots: VecDeque<Vec<(Nanos, u64, E)>>,
    /// The slot of `current`; `slots[0]` is the one after it.
    at: u64,
    waiting: usize,
    later: BTreeMap<(Nanos, u64), E>,
    made: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            current: Vec::new(),
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            at: 0,
            waiting: 0,
            later: BTreeMap::new(),
            made: 0,
        }
    }

    pub(crate) fn push(&mut self, time: Nanos, event: E) {
        self.made += 1;
        let made = self.made;
        let slot = time >> SLOT_BITS;
        if slot <= self.at {
            let after = |other: &(Nanos, u64, E)| (other.0, other.1) > (time, made);
            let place = self.current.partition_point(after);
            self.current.insert(place, (time, made, event));
        } else if slot - self.at <= SLOTS {
            let index = usize::try_from(slot - self.at - 1).expect("few slots");
            self.slots[index].push((time, made, event));
            self.waiting += 1;
        } else {
            self.later.insert((time, made), event);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Nanos, E)> {
        while self.current.is_empty() {
            if self.waiting == 0 {
                // Nothing for a second: straight to what comes then.
                let (time, _) = *self.later.first_key_value()?.0;
                self.at = self.at.max((time >> SLOT_BITS).saturating_sub(1));
            }
            self.advance();
        }
        self.current.pop().map(|(time, _, event)| (time, event))
    }

    fn advance(&mut self) {
        self.at += 1;
        // The slot that was current, empty, becomes the last one and keeps its memory.
        let empty = std::mem::take(&mut self.current);
        self.slots.push_back(empty);
        self.current = self.slots.pop_front().expect("there are slots");
        self.waiting -= self.current.len();
        while let Some(entry) = self.later.first_entry() {
            let &(time, made) = entry.key();
            if time >> SLOT_BITS > self.at {
                break;
            }
            self.current.push((time, made, entry.remove()));
        }
        self.current
            .sort_unstable_by_key(|e| std::cmp::Reverse((e.0, e.1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::next;

    #[test]
    fn events_come_in_order_of_time_and_then_of_making() {
        let (mut queue, mut random) = (Queue::new(), 5);
        let (mut now, mut made, mut last) = (0, 0u32, (0, 0));
        for round in 0..20_000u32 {
            for _ in 0..next(&mut random) % 3 {
                let ahead = 1u64 << (next(&mut random) % 36);
                made += 1;
                queue.push(now + next(&mut random) % ahead, made);
            }
            let Some((time, event)) = queue.pop() else {
                continue;
            };
            assert!(time >= now, "{round}");
            // Of one moment: in the order of making, unless it was made only at that moment.
            assert!(
                (time, event) > last,
                "{round}: {time} {event} after {last:?}"
            );
            now = time;
            last = (time, event);
        }
        let mut rest = Vec::new();
        while let Some((time, event)) = queue.pop() {
            rest.push((time, event));
        }
        assert!(rest.is_sorted());
    }
}
