//! Brings database and cache folder in line when the store is opened.
//!
//! A folder with a valid hash file that the database does not know is taken in, with no piece had: that is what a
//! lost database leaves, and what a crash inside [`crate::Store::add`] leaves. Any other folder of ours is a leftover.
//! A record without a folder is forgotten.

use crate::{
    AddInfo, ContentKey, StoreError,
    layout::{self, Layout, REMOVED_PREFIX},
    ledger::Ledger,
};
use std::{
    collections::{HashMap, HashSet},
    fs,
    time::SystemTime,
};
use tracing::{info, warn};

/// Returns the bytes that all records together have.
pub(super) fn reconcile(layout: &Layout, ledger: &Ledger) -> Result<u64, StoreError> {
    let records = ledger.records()?;
    let mut known: HashMap<ContentKey, u64> = records
        .good
        .iter()
        .map(|(key, record)| (*key, record.progress.bytes_have))
        .collect();
    let mut forget = records.unreadable;
    if !forget.is_empty() {
        warn!(
            records = forget.len(),
            "records of the state database are damaged: forgotten"
        );
    }
    let (found, mut adopted) = (scan(layout)?, Vec::new());
    known.retain(|key, _| {
        let there = found.contains(key);
        if !there {
            warn!(%key, "the content's folder has vanished: forgetting the content");
            forget.push(key.to_bytes().to_vec());
        }
        there
    });
    let cache = layout.cache();
    for key in found.into_iter().filter(|key| !known.contains_key(key)) {
        let dir = layout.content(&key);
        let hashes = match key {
            ContentKey::Hashed(_) => layout::read_hashes(&dir, &key).map(Some),
            ContentKey::Plain(_) => Ok(None),
        };
        match hashes {
            Ok(Some(hashes)) => {
                info!(%key, "took in a content that the state database does not know");
                let unknown = AddInfo {
                    urls: Vec::new(),
                    content_id: None,
                    now: SystemTime::now(),
                };
                adopted.push((
                    key,
                    super::new_record(hashes.lengths(), Vec::new(), unknown),
                ));
            }
            Ok(None) | Err(StoreError::Corrupt { .. } | StoreError::Vanished { .. }) => {
                info!(%key, "cleared the leftover of a content that was never added");
                fs::remove_dir_all(&dir).map_err(StoreError::at(&dir))?;
            }
            Err(e) => warn!(%key, error = %e, "a folder in the cache cannot be read: left alone"),
        }
    }
    if !forget.is_empty() {
        ledger.remove(&forget)?;
    }
    if !adopted.is_empty() {
        layout::sync_dir(cache)?;
        ledger.insert(&adopted)?;
    }
    Ok(known.values().sum())
}

/// The contents' folders. Deletions that were interrupted are finished; what is not ours is left alone.
fn scan(layout: &Layout) -> Result<HashSet<ContentKey>, StoreError> {
    let cache = layout.cache();
    let mut found = HashSet::new();
    for entry in fs::read_dir(cache).map_err(StoreError::at(cache))? {
        let entry = entry.map_err(StoreError::at(cache))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        if name.starts_with(REMOVED_PREFIX) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(StoreError::at(&path))?;
        } else if let Some(key) = ContentKey::parse(name) {
            found.insert(key);
        }
    }
    Ok(found)
}
