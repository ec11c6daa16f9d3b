//! When and how what was stored becomes durable: data first, then the claim.

use super::{Store, lock};
use crate::{ContentKey, StoreError, content::Inner, ledger::Change};
use std::{
    collections::HashMap,
    sync::{Arc, TryLockError},
    time::Instant,
};

/// What waits for a sync.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    contents: HashMap<ContentKey, Arc<Inner>>,
    bytes: u64,
    since: Option<Instant>,
}

impl Dirty {
    pub(super) fn forget(&mut self, key: &ContentKey) {
        self.contents.remove(key);
    }
}

impl Store {
    /// Syncs if it is time (see [`super::StoreConfig`]), and returns when to call again; `None` when nothing waits, so
    /// that nobody need wake up. Call it after pieces were stored: when nothing is due it costs a few nanoseconds.
    /// Blocks for as long as the disk takes, otherwise.
    ///
    /// # Errors
    /// As [`Self::sync_all`]; call again after the sync interval.
    pub fn sync_due(&self, now: Instant) -> Result<Option<Instant>, StoreError> {
        let interval = self.config.sync_interval;
        {
            let dirty = lock(&self.dirty);
            let Some(since) = dirty.since else {
                return Ok(None);
            };
            if dirty.bytes < self.config.sync_bytes && now < since + interval {
                return Ok(Some(since + interval));
            }
        }
        let turn = match self.commit.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            // Somebody is at it.
            Err(TryLockError::WouldBlock) => return Ok(Some(now + interval)),
        };
        self.sync(None)?;
        drop(turn);
        Ok(lock(&self.dirty).since.map(|since| since + interval))
    }

    /// Makes everything that is had durable, and claims it.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Vanished`]; contents without an error are synced all the same. When the
    /// disk fails to take data, the pieces in question are not had any more ([`crate::Content::have`] says which).
    pub fn sync_all(&self) -> Result<(), StoreError> {
        let _turn = self.lock_commit();
        self.sync(None)
    }

    /// [`Self::sync_all`] for one content.
    pub(crate) fn sync_content(&self, inner: &Inner) -> Result<(), StoreError> {
        let _turn = self.lock_commit();
        self.sync(Some(inner.key()))
    }

    /// Notes that a content has something to sync, `bytes` of data among it.
    pub(crate) fn mark_dirty(&self, inner: &Arc<Inner>, bytes: u64) {
        let mut dirty = lock(&self.dirty);
        dirty
            .contents
            .entry(inner.key())
            .or_insert_with(|| inner.clone());
        dirty.bytes = dirty.bytes.saturating_add(bytes);
        dirty.since.get_or_insert_with(Instant::now);
    }

    /// The caller holds `commit`.
    fn sync(&self, only: Option<ContentKey>) -> Result<(), StoreError> {
        let batch = {
            let mut dirty = lock(&self.dirty);
            match only {
                None => std::mem::take(&mut *dirty).contents,
                Some(key) => dirty.contents.remove_entry(&key).into_iter().collect(),
            }
        };
        let used: Vec<(ContentKey, u64)> = lock(&self.used).drain().collect();
        if batch.is_empty() && used.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.check_folder() {
            self.put_back(batch.into_values(), &used);
            return Err(e);
        }
        let mut first_error = None;
        let (mut inners, mut changes, mut failed): (Vec<_>, Vec<Change>, Vec<_>) =
            Default::default();
        for inner in batch.into_values() {
            match inner.sync_data() {
                Ok(change) => {
                    changes.push(change);
                    inners.push(inner);
                }
                Err(e) => {
                    first_error.get_or_insert(e);
                    failed.push(inner);
                }
            }
        }
        match self.ledger.commit(&changes, &used) {
            Ok(()) => {
                for (inner, change) in inners.into_iter().zip(changes) {
                    inner.committed(change);
                }
            }
            Err(e) => {
                first_error.get_or_insert(e);
                self.put_back(inners.into_iter(), &used);
            }
        }
        // What has vanished cannot be synced ever; it is tried again only when more of it is stored.
        failed.retain(|inner| !inner.has_vanished());
        self.put_back(failed.into_iter(), &[]);
        first_error.map_or(Ok(()), Err)
    }

    fn put_back(&self, inners: impl Iterator<Item = Arc<Inner>>, used: &[(ContentKey, u64)]) {
        for inner in inners {
            self.mark_dirty(&inner, 0);
        }
        let mut known = lock(&self.used);
        for (key, ms) in used {
            known.entry(*key).or_insert(*ms);
        }
    }
}
