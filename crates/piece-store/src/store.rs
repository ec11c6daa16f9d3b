//! The store.
#![allow(unused, clippy::todo, missing_docs)]
use crate::*;
use dosvc_content::{HashOfHashes, PieceLengths, PiecesHashFile};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Where the store lives and how often it syncs.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The state folder.
    pub dir: PathBuf,
    /// Sync when this many bytes were written since the last time. Default 64 MiB.
    pub sync_bytes: u64,
    /// Sync this long after the first write that is not synced. Default 1 s.
    pub sync_interval: Duration,
}

impl StoreConfig {
    /// The defaults, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            sync_bytes: 64 << 20,
            sync_interval: Duration::from_secs(1),
        }
    }
}

/// The content cache of one device.
#[derive(Debug)]
pub struct Store {}

impl Store {
    pub fn open(config: StoreConfig) -> Result<Arc<Self>, OpenError> {
        todo!()
    }
    pub fn add(
        self: &Arc<Self>,
        hash_file: &PiecesHashFile,
        info: AddInfo,
    ) -> Result<Arc<Content>, StoreError> {
        todo!()
    }
    pub fn add_plain(
        self: &Arc<Self>,
        key: PlainKey,
        lengths: PieceLengths,
        validator: Vec<u8>,
        info: AddInfo,
    ) -> Result<Arc<Content>, StoreError> {
        todo!()
    }
    pub fn content(
        self: &Arc<Self>,
        hash: &HashOfHashes,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        todo!()
    }
    pub fn content_by_key(
        self: &Arc<Self>,
        key: &ContentKey,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        todo!()
    }
    pub fn list(&self) -> Result<Vec<ContentInfo>, StoreError> {
        todo!()
    }
    pub fn remove(&self, key: &ContentKey, force_pinned: bool) -> Result<(), StoreError> {
        todo!()
    }
    pub fn set_pinned(
        &self,
        key: &ContentKey,
        pinned: bool,
        until: Option<SystemTime>,
    ) -> Result<(), StoreError> {
        todo!()
    }
    pub fn set_expiry(
        &self,
        key: &ContentKey,
        expires: Option<SystemTime>,
    ) -> Result<(), StoreError> {
        todo!()
    }
    pub fn enforce(&self, limits: CacheLimits) -> Result<Vec<Evicted>, StoreError> {
        todo!()
    }
    pub fn sync_due(&self, now: Instant) -> Result<Option<Instant>, StoreError> {
        todo!()
    }
    pub fn sync_all(&self) -> Result<(), StoreError> {
        todo!()
    }
    pub fn bytes_on_disk(&self) -> u64 {
        todo!()
    }
    pub fn import(
        self: &Arc<Self>,
        path: &Path,
        hash_file: &PiecesHashFile,
        info: AddInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Arc<Content>, StoreError> {
        todo!()
    }
}
