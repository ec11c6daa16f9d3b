//! Our own requests: open ones, and those withdrawn a moment ago whose answers may still come.

use crate::limits::{WITHDRAWN_FOR, WITHDRAWN_MAX};
use dosvc_content::Block;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

/// What a block that arrives is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Wanted,
    Withdrawn,
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    open: BTreeSet<Block>,
    /// Oldest first.
    withdrawn: VecDeque<(Block, Instant)>,
}

impl Requests {
    /// False when it is open already.
    pub(super) fn insert(&mut self, block: Block) -> bool {
        self.open.insert(block)
    }

    /// False when it is not open.
    pub(super) fn withdraw(&mut self, now: Instant, block: Block) -> bool {
        let was_open = self.open.remove(&block);
        if was_open {
            self.remember(now, block);
        }
        was_open
    }

    pub(super) fn withdraw_all(&mut self, now: Instant) {
        for block in std::mem::take(&mut self.open) {
            self.remember(now, block);
        }
    }

    fn remember(&mut self, now: Instant, block: Block) {
        self.forget_old(now);
        if self.withdrawn.len() == WITHDRAWN_MAX {
            self.withdrawn.pop_front();
        }
        self.withdrawn.push_back((block, now));
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((_, at)) = self.withdrawn.front()
            && now.saturating_duration_since(*at) > WITHDRAWN_FOR
        {
            self.withdrawn.pop_front();
        }
    }

    /// Matches a block that arrives; each request is answered once. A block that was withdrawn and asked for
    /// again is wanted the first time that it comes.
    pub(super) fn answer(&mut self, now: Instant, block: Block) -> Option<Answer> {
        if self.open.remove(&block) {
            return Some(Answer::Wanted);
        }
        self.forget_old(now);
        let at = self.withdrawn.iter().position(|(b, _)| *b == block)?;
        self.withdrawn.remove(at);
        Some(Answer::Withdrawn)
    }

    /// The peer will not answer. True when the block was waited for; a request that was withdrawn before is meant first.
    pub(super) fn abandon(&mut self, block: Block) -> bool {
        if let Some(at) = self.withdrawn.iter().position(|(b, _)| *b == block) {
            self.withdrawn.remove(at);
            return false;
        }
        self.open.remove(&block)
    }

    /// An open request that fits, else a withdrawn one.
    pub(super) fn find(&self, fits: impl Fn(&Block) -> bool) -> Option<Block> {
        let withdrawn = self.withdrawn.iter().map(|(block, _)| block);
        self.open
            .iter()
            .chain(withdrawn)
            .copied()
            .find(|block| fits(block))
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}
