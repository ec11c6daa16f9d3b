//! What happens next: a timing wheel.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    marker::PhantomData,
};

/// Virtual time, nanoseconds from the start of the run.
pub(crate) type Nanos = u64;

/// Nanoseconds of one slot, as a power of two: 16 µs.
const SLOT_BITS: u32 = 14;
/// Slots ahead of now: 0.27 s.
const SLOTS: u64 = 1 << 14;

/// What waits here. It is short: most of it is looked at for the first time after long.
pub(crate) trait Event {
    /// Bits that [`Self::to_bits`] takes at most.
    const BITS: u32 = 64 - SLOT_BITS;

    fn to_bits(self) -> u64;

    /// What had these bits.
    fn from_bits(bits: u64) -> Self;
}

/// An event, and above it when in its slot it happens.
type Entry = u64;

/// When in its slot it happens.
fn within(entry: Entry) -> u64 {
    entry >> (64 - SLOT_BITS)
}

/// Events in the order of their times; those of one moment in the order in which they were put in.
///
/// Putting in and taking out cost O(1) within the next quarter of a second, a search in a tree beyond it.
pub(crate) struct Queue<E> {
    /// What is due in the slot `at`, latest first.
    current: Vec<Entry>,
    slots: VecDeque<Vec<Entry>>,
    /// The slot of `current`; `slots[0]` is the one after it.
    at: u64,
    waiting: usize,
    /// In the order of their times and of their making.
    later: BTreeMap<(Nanos, u64), Entry>,
    made: u64,
    events: PhantomData<E>,
}

impl<E: Event> Queue<E> {
    pub(crate) fn new() -> Self {
        Self {
            current: Vec::new(),
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            at: 0,
            waiting: 0,
            later: BTreeMap::new(),
            made: 0,
            events: PhantomData,
        }
    }

    /// `time` is not before that of the last event that was taken out.
    pub(crate) fn push(&mut self, time: Nanos, event: E) {
        let slot = time >> SLOT_BITS;
        let entry = time << (64 - SLOT_BITS) | event.to_bits();
        if slot <= self.at {
            assert_eq!(slot, self.at, "nothing happens in the past");
            let after = |other: &Entry| within(*other) > within(entry);
            let place = self.current.partition_point(after);
            self.current.insert(place, entry);
        } else if slot - self.at <= SLOTS {
            let index = usize::try_from(slot - self.at - 1).expect("few slots");
            self.slots[index].push(entry);
            self.waiting += 1;
        } else {
            self.made += 1;
            self.later.insert((time, self.made), entry);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Nanos, E)> {
        while self.current.is_empty() {
            if self.waiting == 0 {
                // Nothing for long: straight to what comes then.
                let (time, _) = *self.later.first_key_value()?.0;
                self.at = self.at.max((time >> SLOT_BITS).saturating_sub(1));
            }
            self.advance();
        }
        let entry = self.current.pop()?;
        let time = (self.at << SLOT_BITS) + within(entry);
        Some((time, E::from_bits(entry & (u64::MAX >> SLOT_BITS))))
    }

    fn advance(&mut self) {
        self.at += 1;
        // The slot that was current, empty, becomes the last one and keeps its memory.
        let empty = std::mem::take(&mut self.current);
        self.slots.push_back(empty);
        self.current = self.slots.pop_front().expect("there are slots");
        self.waiting -= self.current.len();
        // What was so far ahead was put in before all that came straight into the slot.
        let mut first = 0;
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 >> SLOT_BITS > self.at {
                break;
            }
            self.current.insert(first, entry.remove());
            first += 1;
        }
        // Keeps those of one moment in their order, the first one last.
        self.current.reverse();
        self.current.sort_by_key(|e| Reverse(within(*e)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::next;

    impl Event for u32 {
        fn to_bits(self) -> u64 {
            self.into()
        }

        fn from_bits(bits: u64) -> Self {
            bits.try_into().unwrap()
        }
    }

    #[test]
    fn events_come_in_order_of_time_and_then_of_making() {
        let (mut queue, mut random) = (Queue::<u32>::new(), 5);
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
