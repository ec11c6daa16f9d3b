//! Which contents are uploaded just now: a few at a time, and they take turns, so that each of them gets out at a rate
//! that is of use (download-modes, section 7). Everything is announced all the same.

use crate::shared::lock;
use dosvc_piece_store::ContentKey;
use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long a content may be uploaded while others wait.
const TURN: Duration = Duration::from_secs(10);

/// The turns.
#[derive(Debug)]
pub(crate) struct UploadTurns {
    state: Mutex<State>,
    /// Counts the changes of who has a turn.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    max: usize,
    /// Contents that have a turn, the longest first.
    holders: VecDeque<ContentKey>,
    /// Contents that wait for one, in order. As many as there are swarms.
    waiting: VecDeque<ContentKey>,
    /// When those who wait get the turns of those who have had one longest.
    rotate_at: Option<Instant>,
}

/// How a content stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It may be uploaded.
    Holds,
    /// Nobody wants it.
    Out,
    /// It waits; ask again at this time, or when the turns have changed.
    Waits(Instant),
}

impl UploadTurns {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                max,
                holders: VecDeque::new(),
                waiting: VecDeque::new(),
                rotate_at: None,
            }),
            changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn set_max(&self, max: usize) {
        let mut state = lock(&self.state);
        state.max = max;
        // Who has a turn keeps it until it is over.
        let changed = state.settle(Instant::now());
        drop(state);
        self.tell(changed);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether peers want this content of us, and how it stands then.
    pub(crate) fn update(&self, key: ContentKey, wanted: bool, now: Instant) -> Standing {
        let mut state = lock(&self.state);
        let mut changed = state.note(key, wanted);
        changed |= state.settle(now);
        let standing = state.standing(key);
        drop(state);
        self.tell(changed);
        standing
    }

    fn tell(&self, changed: bool) {
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl State {
    /// True when a turn has ended.
    fn note(&mut self, key: ContentKey, wanted: bool) -> bool {
        let held = self.holders.contains(&key);
        match (wanted, held) {
            (true, false) if !self.waiting.contains(&key) => self.waiting.push_back(key),
            (false, true) => self.holders.retain(|holder| *holder != key),
            (false, false) => self.waiting.retain(|waiting| *waiting != key),
            _ => {}
        }
        held && !wanted
    }

    /// Lets those who wait have the turns that have lasted, and gives free ones. True when anybody's standing has changed.
    fn settle(&mut self, now: Instant) -> bool {
        let mut changed = false;
        let full = self.holders.len() >= self.max;
        if full && !self.waiting.is_empty() && self.rotate_at.is_none_or(|at| at <= now) {
            for _ in 0..self.waiting.len().min(self.holders.len()) {
                let longest = self.holders.pop_front();
                self.waiting.extend(longest);
            }
            changed = true;
        }
        while self.holders.len() < self.max && self.promote() {
            changed = true;
            self.rotate_at = Some(now + TURN);
        }
        changed
    }

    fn promote(&mut self) -> bool {
        let next = self.waiting.pop_front();
        self.holders.extend(next);
        next.is_some()
    }

    fn standing(&self, key: ContentKey) -> Standing {
        if self.holders.contains(&key) {
            return Standing::Holds;
        }
        match self.rotate_at {
            Some(at) if self.waiting.contains(&key) => Standing::Waits(at),
            _ => Standing::Out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::HashOfHashes;

    fn key(n: u8) -> ContentKey {
        let hex = format!("{n:02x}").repeat(32);
        ContentKey::Hashed(HashOfHashes::from_hex(&hex).expect("64 digits"))
    }

    #[test]
    fn four_contents_at_a_time_and_all_in_turn() {
        let turns = UploadTurns::new(4);
        let mut now = Instant::now();
        let mut seconds = [0; 6];
        for _ in 0..60 {
            for n in 0..6 {
                turns.update(key(n), true, now);
            }
            let holders = lock(&turns.state).holders.clone();
            assert_eq!(holders.len(), 4);
            for n in (0..6).filter(|n| holders.contains(&key(*n))) {
                seconds[usize::from(n)] += 1;
            }
            now += Duration::from_secs(1);
        }
        // Four sixths of a minute each.
        assert_eq!(seconds, [40; 6]);
    }

    #[test]
    fn turn_lasts_ten_seconds_when_others_wait_and_for_ever_when_none_do() {
        let turns = UploadTurns::new(2);
        let now = Instant::now();
        let holds = |n, at| turns.update(key(n), true, at) == Standing::Holds;
        assert!(holds(0, now) && holds(1, now));
        let later = now + TURN * 10;
        assert!(holds(0, later) && holds(1, later));
        // One who comes then need not wait: the longest turn is over.
        assert!(holds(2, later));
        let waits = Standing::Waits(later + TURN);
        assert_eq!(turns.update(key(0), true, later), waits);
        assert!(!holds(0, later + TURN / 2));
        let mut changes = turns.changes();
        assert!(holds(0, later + TURN) && holds(2, later + TURN));
        assert!(changes.has_changed().expect("the sender lives"));
        changes.mark_unchanged();
        // One who has enough makes room, one who waits and gives up holds nobody up.
        assert_eq!(turns.update(key(0), false, later + TURN), Standing::Out);
        assert!(changes.has_changed().expect("the sender lives"));
        assert!(holds(1, later + TURN));
        changes.mark_unchanged();
        assert!(!holds(3, later + TURN));
        assert_eq!(turns.update(key(3), false, later + TURN), Standing::Out);
        assert!(!changes.has_changed().expect("the sender lives"));
    }

    #[test]
    fn more_turns_are_given_at_once() {
        let turns = UploadTurns::new(1);
        let now = Instant::now();
        turns.update(key(0), true, now);
        assert_ne!(turns.update(key(1), true, now), Standing::Holds);
        turns.set_max(2);
        assert_eq!(turns.update(key(1), true, now), Standing::Holds);
    }
}
