//! Contents that go: on request, or because time or space is up.

use super::{Slot, Store, lock};
use crate::{
    CacheLimits, Candidate, ContentKey, EvictReason, Evicted, StoreError,
    layout::{self, REMOVED_PREFIX},
    plan_eviction,
};
use std::{
    collections::HashMap, fs, os::unix::fs::MetadataExt as _, sync::atomic::Ordering,
    time::SystemTime,
};
use tracing::{info, warn};

impl Store {
    /// Removes a content from the cache. Files that were handed over stay.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while somebody holds it open, [`StoreError::Pinned`] without `force_pinned`,
    /// [`StoreError::Unknown`], and what the disk says.
    pub fn remove(&self, key: &ContentKey, force_pinned: bool) -> Result<(), StoreError> {
        // No sync is under way now: none can bring a claim back that is withdrawn here.
        let _commit = self.lock_commit();
        let mut open = self.lock_open();
        self.remove_locked(&mut open, key, force_pinned)
    }

    /// Removes what is over the limits, in the order of [`plan_eviction`], and returns what went. Contents in use are
    /// never removed.
    ///
    /// # Errors
    /// What the disk says when the contents cannot be listed. A content that cannot be removed is left and logged.
    pub fn enforce(&self, limits: CacheLimits) -> Result<Vec<Evicted>, StoreError> {
        let dir = self.layout.cache();
        let space = rustix::fs::statvfs(dir).map_err(StoreError::at(dir))?;
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        let short = free_bytes < limits.keep_free_bytes;
        let candidates: Vec<_> = self
            .list()?
            .into_iter()
            .map(|info| Candidate {
                // Only asked of the disk when the answer counts.
                frees_bytes: if short {
                    self.frees_bytes(&info.key)
                } else {
                    info.bytes_have
                },
                info,
            })
            .collect();
        let mut evicted = plan_eviction(&candidates, &limits, free_bytes);
        // Only a content's own expiry overrides its pin.
        let removed = |gone: &Evicted| self.remove(&gone.key, gone.reason == EvictReason::Expired);
        evicted.retain(|gone| match removed(gone) {
            Ok(()) => {
                info!(key = %gone.key, bytes = gone.bytes, reason = ?gone.reason, "evicted");
                true
            }
            // Somebody began to use it, pinned it or removed it just now.
            Err(
                StoreError::InUse { .. } | StoreError::Pinned { .. } | StoreError::Unknown { .. },
            ) => false,
            Err(e) => {
                warn!(key = %gone.key, error = %e, "cannot be evicted");
                false
            }
        });
        Ok(evicted)
    }

    /// Storage that goes when the content goes: none while a delivered file shares it.
    fn frees_bytes(&self, key: &ContentKey) -> u64 {
        match fs::metadata(layout::data_path(&self.layout.content(key))) {
            Ok(data) if data.nlink() == 1 => data.blocks() * 512,
            _ => 0,
        }
    }

    /// The caller holds `commit` and `open`. The folder's new name is what makes the removal final: a crash before
    /// the record goes leaves a record without a folder, which is forgotten at the next start.
    pub(super) fn remove_locked(
        &self,
        open: &mut HashMap<ContentKey, Slot>,
        key: &ContentKey,
        force_pinned: bool,
    ) -> Result<(), StoreError> {
        let slot = open.get(key);
        if slot.is_some_and(|slot| slot.handle.strong_count() > 0) {
            return Err(StoreError::InUse { key: *key });
        }
        let inner = slot.and_then(|slot| slot.inner.upgrade());
        let Some((record, _)) = self.ledger.load(key)? else {
            return Err(StoreError::Unknown { key: *key });
        };
        let info = match &inner {
            Some(inner) => Some(inner.info(false)),
            None => record.info(*key, false),
        };
        let info = info.ok_or(StoreError::Unknown { key: *key })?;
        if info.is_pinned(SystemTime::now()) && !force_pinned {
            return Err(StoreError::Pinned { key: *key });
        }
        let dir = self.layout.content(key);
        let number = self.removals.fetch_add(1, Ordering::Relaxed);
        let cache = self.layout.cache();
        let gone = cache.join(format!("{REMOVED_PREFIX}{number}-{key}"));
        match fs::rename(&dir, &gone) {
            Ok(()) => layout::sync_dir(cache)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io(&dir, e)),
        }
        self.ledger.remove(&[key.to_bytes()])?;
        open.remove(key);
        lock(&self.dirty).forget(key);
        lock(&self.used).remove(key);
        // Its last holder: now only what the record says is in the sum.
        drop(inner);
        self.bytes
            .fetch_sub(record.progress.bytes_have, Ordering::Relaxed);
        match fs::remove_dir_all(&gone) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io(&gone, e)),
            _ => Ok(()),
        }
    }
}
