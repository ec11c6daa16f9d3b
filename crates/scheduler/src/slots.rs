//! Who has an upload slot, who waits for one, and who holds one for nothing: in order, so that giving a slot away costs
//! O(log n) among n peers.

use crate::{SourceId, source::Upload};
use std::collections::BTreeSet;

/// How one peer stands towards the slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Slot {
    /// It wants none, or may have none.
    #[default]
    Apart,
    /// It wants one; so many bytes it was served.
    Waits(u64),
    /// It has one and wants something.
    Used,
    /// It has one and wants nothing.
    Idle,
}

impl Slot {
    /// Where the peer belongs; `may`: it is one of those that are given to.
    pub(crate) fn of(up: &Upload, may: bool) -> Self {
        match (up.unchoked, up.interested) {
            (true, true) => Self::Used,
            (true, false) => Self::Idle,
            (false, true) if may => Self::Waits(up.served),
            (false, _) => Self::Apart,
        }
    }
}

/// The slots of all peers. Follows each peer's [`Slot`], which is kept with the peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Who was served least first.
    waiting: BTreeSet<(u64, SourceId)>,
    idle: BTreeSet<SourceId>,
    taken: usize,
}

impl Slots {
    /// A peer's place changes.
    pub(crate) fn change(&mut self, id: SourceId, from: Slot, to: Slot) {
        if from == to {
            return;
        }
        match from {
            Slot::Apart => {}
            Slot::Waits(served) => _ = self.waiting.remove(&(served, id)),
            Slot::Used => self.taken -= 1,
            Slot::Idle => {
                self.taken -= 1;
                self.idle.remove(&id);
            }
        }
        match to {
            Slot::Apart => {}
            Slot::Waits(served) => _ = self.waiting.insert((served, id)),
            Slot::Used => self.taken += 1,
            Slot::Idle => {
                self.taken += 1;
                self.idle.insert(id);
            }
        }
    }

    /// Slots that peers have.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Peers that wait for one.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Who waits and was served least.
    pub(crate) fn next(&self) -> Option<SourceId> {
        self.waiting.first().map(|(_, id)| *id)
    }

    /// Somebody who has a slot and wants nothing.
    pub(crate) fn idle(&self) -> Option<SourceId> {
        self.idle.first().copied()
    }
}
