//! What happens next: a timing wheel.

use std::collections::{BTreeMap, VecDeque};

/// Virtual time, nanoseconds from the start of the run.
pub(crate) type Nanos = u64;

/// Nanoseconds of one slot, as a power of two: 65 µs.
const SLOT_BITS: u32 = 16;
/// Slots ahead of now: 1.07 s.
const SLOTS: u64 = 1 << 14;

/// An event, and when in its slot it happens.
type Entry<E> = (u16, E);

/// Events in the order of their times; those of one moment in the order in which they were put in.
///
/// Putting in and taking out cost O(1) within the next second, a search in a tree of seconds beyond it.
pub(crate) struct Queue<E> {
    /// What is due in the slot `at`, latest first.
    current: Vec<Entry<E>>,
    slots: VecDeque<Vec<Entry<E>>>,
    /// The slot of `current`; `slots[0]` is the one after it.
    at: u64,
    waiting: usize,
    /// In the order of their times and of their making.
    later: BTreeMap<(Nanos, u64), E>,
    made: u64,
}

/// Of a time its slot, and when in it.
fn place(time: Nanos) -> (u64, u16) {
    let within = u16::try_from(time & ((1 << SLOT_BITS) - 1)).expect("16 bits");
    (time >> SLOT_BITS, within)
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

    /// `time` is not before that of the last event that was taken out.
    pub(crate) fn push(&mut self, time: Nanos, event: E) {
        let (slot, within) = place(time);
        if slot <= self.at {
            assert_eq!(slot, self.at, "nothing happens in the past");
            let after = |other: &Entry<E>| other.0 > within;
            let place = self.current.partition_point(after);
            self.current.insert(place, (within, event));
        } else if slot - self.at <= SLOTS {
            let index = usize::try_from(slot - self.at - 1).expect("few slots");
            self.slots[index].push((within, event));
            self.waiting += 1;
        } else {
            self.made += 1;
            self.later.insert((time, self.made), event);
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
        let (within, event) = self.current.pop()?;
        Some(((self.at << SLOT_BITS) + Nanos::from(within), event))
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
            let (slot, within) = place(entry.key().0);
            if slot > self.at {
                break;
            }
            self.current.insert(first, (within, entry.remove()));
            first += 1;
        }
        // Keeps those of one moment in their order, the first one last.
        self.current.reverse();
        self.current.sort_by_key(|e| std::cmp::Reverse(e.0));
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
