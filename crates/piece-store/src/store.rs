//! The store: which contents there are, who has them open, and when what is synced.
//!
//! Locks, in the order in which they are taken: `commit`, `open`, then one of `dirty` and `used`; a content's own
//! locks are never held while one of these is taken.

mod cache_place;
mod evict;
mod import;
mod mode_limit;
mod reconcile;
mod sync;

use crate::{
    AddInfo, Content, ContentInfo, ContentKey, OpenError, PlainKey, StoreError,
    checks::Checks,
    content::{Inner, Parts},
    hashing,
    layout::{self, Layout},
    ledger::Ledger,
    limits::{CONTENT_ID_BYTES_MAX, PIN_MAX, URL_BYTES_MAX, URLS_MAX, VALIDATOR_BYTES_MAX},
    snapshot::{Progress, Record, to_ms},
    steps::WriteSteps,
};
use dosvc_content::{HashOfHashes, PieceLengths, PiecesHashFile};
pub use import::{LocalFile, Sharing};
use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use sync::Dirty;
use tracing::warn;

/// Where the store lives and how often it syncs.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The state folder; made if it does not exist. One process can use it at a time.
    pub dir: PathBuf,
    /// The folder that the contents' data lies in, if it is not the folder `cache` in `dir`. It must exist: a disk that
    /// is not mounted must not be taken for an empty one. One process can use it at a time. Contents in a folder used
    /// before stay there, and are not known any more.
    pub cache_dir: Option<PathBuf>,
    /// Sync when this many bytes were stored since the last time. Default 64 MiB. Less loses less work in a power
    /// cut and costs more syncs.
    pub sync_bytes: u64,
    /// Sync this long after the first piece that is not synced. Default 1 s.
    pub sync_interval: Duration,
    /// Threads that one call hashes on, where it has many pieces to hash. Default: one for each processor.
    pub hash_threads: usize,
}

impl StoreConfig {
    /// The defaults, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_dir: None,
            sync_bytes: 64 << 20,
            sync_interval: Duration::from_secs(1),
            hash_threads: hashing::threads_default(),
        }
    }
}

/// The content cache of one device. Shared by `Arc`; syncs what is due when the last holder lets go.
pub struct Store {
    config: StoreConfig,
    layout: Layout,
    lock: File,
    /// Of a cache outside the state folder.
    _cache_lock: Option<File>,
    ledger: Ledger,
    rebuilt_from: Option<PathBuf>,
    bytes: Arc<AtomicU64>,
    checks: Arc<Checks>,
    write_steps: Arc<WriteSteps>,
    removals: AtomicU64,
    commit: Mutex<()>,
    open: Mutex<HashMap<ContentKey, Slot>>,
    dirty: Mutex<Dirty>,
    /// When contents that were closed since the last commit were last used.
    used: Mutex<HashMap<ContentKey, u64>>,
}

/// An open content: `handle` is alive while somebody uses it, `inner` also while something of it is to be synced.
#[derive(Debug, Default)]
struct Slot {
    handle: Weak<Content>,
    inner: Weak<Inner>,
}

impl Store {
    /// Opens the state folder: takes its lock, opens the database, and brings database and folder in line (leftovers
    /// of a crash go, contents that the database does not know are taken in). No content is opened.
    ///
    /// A damaged database is moved aside and rebuilt from the folder: [`Self::rebuilt_from`].
    ///
    /// # Errors
    /// [`OpenError::InUse`] when somebody has the folder, [`OpenError::NoCacheFolder`], else what the disk says.
    pub fn open(config: StoreConfig) -> Result<Arc<Self>, OpenError> {
        let layout = Layout::new(config.dir.clone(), config.cache_dir.clone());
        layout::create_private_dir(layout.dir())?;
        let lock = take_lock(layout.dir(), &layout.lock())?;
        let cache_lock = cache_place::settle(&layout)?;
        let (ledger, rebuilt_from) = Ledger::open(layout.database())?;
        let bytes = reconcile::reconcile(&layout, &ledger)?;
        Ok(Arc::new(Self {
            config,
            layout,
            lock,
            _cache_lock: cache_lock,
            ledger,
            rebuilt_from,
            bytes: Arc::new(AtomicU64::new(bytes)),
            checks: Arc::default(),
            write_steps: Arc::default(),
            removals: AtomicU64::new(0),
            commit: Mutex::default(),
            open: Mutex::default(),
            dirty: Mutex::default(),
            used: Mutex::default(),
        }))
    }

    /// The folder that the contents' data lies in.
    pub fn cache_dir(&self) -> &Path {
        self.layout.cache()
    }

    /// Where the damaged database was moved to, if the state had to be rebuilt. Contents found in the folder are
    /// there, with no piece had until [`Content::recover`] has hashed them; sources, pins and expiries are lost.
    pub fn rebuilt_from(&self) -> Option<&Path> {
        self.rebuilt_from.as_deref()
    }

    /// The content that the hash file describes: opened if it is there (sources are merged), else made, with no piece
    /// had. Durable when the call returns.
    ///
    /// # Errors
    /// [`StoreError`]; content that could not be made leaves nothing behind.
    pub fn add(
        self: &Arc<Self>,
        hash_file: &PiecesHashFile,
        info: AddInfo,
    ) -> Result<Arc<Content>, StoreError> {
        let key = ContentKey::Hashed(hash_file.hash_of_hashes());
        let mut open = self.lock_open();
        let known = match self.load(&mut open, &key) {
            // The hash file is at hand: the damage is mended.
            Err(StoreError::Corrupt { path, .. } | StoreError::Vanished { path })
                if path == layout::hashes_path(&self.layout.content(&key)) =>
            {
                layout::write_hashes(&self.layout.content(&key), hash_file)?;
                self.load(&mut open, &key)?
            }
            other => other?,
        };
        if let Some(content) = known {
            self.merge(&content, info)?;
            return Ok(content);
        }
        let record = new_record(hash_file.lengths(), Vec::new(), info);
        self.create(&key, record, Some(hash_file))?;
        self.load(&mut open, &key)?
            .ok_or(StoreError::Unknown { key })
    }

    /// Content without a hash file: never served, never shared. Other dimensions or another validator than the
    /// content had mean that it changed at its origin: it starts from nothing then.
    ///
    /// # Errors
    /// As [`Self::add`]; [`StoreError::WrongLength`] for a validator longer than [`VALIDATOR_BYTES_MAX`];
    /// [`StoreError::InUse`] when the content would have to start over while somebody uses it.
    pub fn add_plain(
        self: &Arc<Self>,
        key: PlainKey,
        lengths: PieceLengths,
        validator: Vec<u8>,
        info: AddInfo,
    ) -> Result<Arc<Content>, StoreError> {
        if validator.len() > VALIDATOR_BYTES_MAX {
            return Err(StoreError::WrongLength {
                got: validator.len() as u64,
                want: VALIDATOR_BYTES_MAX as u64,
            });
        }
        let key = ContentKey::Plain(key);
        let _commit = self.lock_commit();
        let mut open = self.lock_open();
        if let Some((record, _)) = self.ledger.load(&key)? {
            if record.validator == validator && record.lengths() == Some(lengths) {
                if let Some(content) = self.load(&mut open, &key)? {
                    self.merge(&content, info)?;
                    return Ok(content);
                }
            } else {
                // The old claim is withdrawn before a byte of the new content is written.
                self.remove_locked(&mut open, &key, true)?;
            }
        }
        let record = new_record(lengths, validator, info);
        self.create(&key, record, None)?;
        self.load(&mut open, &key)?
            .ok_or(StoreError::Unknown { key })
    }

    /// Opens a content with this hash of hashes, if the store has it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its hash file is damaged ([`Self::add`] mends that), else what the disk says.
    pub fn content(
        self: &Arc<Self>,
        hash: &HashOfHashes,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        self.content_by_key(&ContentKey::Hashed(*hash))
    }

    /// Opens any content of the store.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub fn content_by_key(
        self: &Arc<Self>,
        key: &ContentKey,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        let mut open = self.lock_open();
        self.load(&mut open, key)
    }

    /// All contents, from the database; nothing is opened.
    ///
    /// # Errors
    /// What the disk says.
    pub fn list(&self) -> Result<Vec<ContentInfo>, StoreError> {
        let records = self.ledger.records()?.good;
        let open = self.lock_open();
        let used = lock(&self.used);
        let info = |(key, mut record): (ContentKey, Record)| {
            let slot = open.get(&key);
            let in_use = slot.is_some_and(|slot| slot.handle.strong_count() > 0);
            if let Some(inner) = slot.and_then(|slot| slot.inner.upgrade()) {
                return Some(inner.info(in_use));
            }
            if let Some(used) = used.get(&key) {
                record.progress.last_used_ms = record.progress.last_used_ms.max(*used);
            }
            record.info(key, in_use)
        };
        Ok(records.into_iter().filter_map(info).collect())
    }

    /// Pins a content until a time (default: as long as possible), or unpins it. A pinned content stays until its
    /// pin or its expiry ends, outside of the quota (download-modes, section 8).
    ///
    /// # Errors
    /// [`StoreError::TooFarAhead`] past [`PIN_MAX`], [`StoreError::NotShared`] for plain content,
    /// [`StoreError::Unknown`].
    pub fn set_pinned(
        &self,
        key: &ContentKey,
        pinned: bool,
        until: Option<SystemTime>,
    ) -> Result<(), StoreError> {
        if pinned && matches!(key, ContentKey::Plain(_)) {
            return Err(StoreError::NotShared { key: *key });
        }
        let last = SystemTime::now() + PIN_MAX;
        let until = until.unwrap_or(last);
        if pinned && until > last {
            return Err(StoreError::TooFarAhead);
        }
        let until_ms = pinned.then(|| to_ms(until));
        self.update(key, |record| record.pinned_until_ms = until_ms)
    }

    /// Sets or clears a content's own expiry, which then overrides the cache's age limit.
    ///
    /// # Errors
    /// [`StoreError::TooFarAhead`] past [`PIN_MAX`], [`StoreError::Unknown`].
    pub fn set_expiry(
        &self,
        key: &ContentKey,
        expires: Option<SystemTime>,
    ) -> Result<(), StoreError> {
        if expires.is_some_and(|at| at > SystemTime::now() + PIN_MAX) {
            return Err(StoreError::TooFarAhead);
        }
        self.update(key, |record| record.expires_ms = expires.map(to_ms))
    }

    pub(crate) fn hash_threads(&self) -> usize {
        self.config.hash_threads
    }

    /// Bytes of all pieces that are had.
    pub fn bytes_on_disk(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Opens a content, or finds it open. The caller holds the lock on `open`.
    fn load(
        self: &Arc<Self>,
        open: &mut HashMap<ContentKey, Slot>,
        key: &ContentKey,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        if let Some(slot) = open.get_mut(key) {
            if let Some(content) = slot.handle.upgrade() {
                return Ok(Some(content));
            }
            if let Some(inner) = slot.inner.upgrade() {
                let content = Arc::new(Content::new(inner, self.clone()));
                slot.handle = Arc::downgrade(&content);
                return Ok(Some(content));
            }
        }
        let Some((record, have)) = self.ledger.load(key)? else {
            return Ok(None);
        };
        let dir = self.layout.content(key);
        if !dir.exists() {
            warn!(%key, "the content's folder has vanished: forgetting the content");
            self.ledger.remove(&[key.to_bytes()])?;
            let bytes = record.progress.bytes_have;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Ok(None);
        }
        let hash_file = match key {
            ContentKey::Hashed(_) => Some(layout::read_hashes(&dir, key)?),
            ContentKey::Plain(_) => None,
        };
        let lengths = match &hash_file {
            Some(hash_file) => hash_file.lengths(),
            None => record.lengths().ok_or(StoreError::Unknown { key: *key })?,
        };
        if have.piece_count() != lengths.piece_count() {
            return Err(StoreError::Corrupt {
                path: self.ledger.path().to_path_buf(),
                what: format!("the record of {key} has other dimensions than its hash file"),
            });
        }
        let inner = Arc::new(Inner::open(Parts {
            key: *key,
            lengths,
            hash_file,
            dir,
            record,
            have,
            store_bytes: self.bytes.clone(),
            checks: self.checks.clone(),
            write_steps: self.write_steps.clone(),
        })?);
        if inner.claims_too_much() {
            self.mark_dirty(&inner, 0);
        }
        let content = Arc::new(Content::new(inner.clone(), self.clone()));
        open.retain(|_, slot| slot.inner.strong_count() > 0);
        open.insert(
            *key,
            Slot {
                handle: Arc::downgrade(&content),
                inner: Arc::downgrade(&inner),
            },
        );
        Ok(Some(content))
    }

    /// Makes a content's folder and record. The record comes last, so that it never names a folder that is not whole.
    fn create(
        &self,
        key: &ContentKey,
        record: Record,
        hash_file: Option<&PiecesHashFile>,
    ) -> Result<(), StoreError> {
        let dir = self.layout.content(key);
        let make = || {
            if dir.exists() {
                fs::remove_dir_all(&dir).map_err(StoreError::at(&dir))?;
            }
            layout::create_private_dir(&dir)?;
            layout::create_data(&layout::data_path(&dir), record.content_length)?;
            match hash_file {
                Some(hash_file) => layout::write_hashes(&dir, hash_file)?,
                None => layout::sync_dir(&dir)?,
            }
            layout::sync_dir(self.layout.cache())?;
            self.ledger.insert(&[(*key, record.clone())])
        };
        self.check_folder()?;
        let made = make();
        if made.is_err() {
            // The first error is the one to report; a folder that stays is cleared at the next start.
            let _ = fs::remove_dir_all(&dir);
        }
        made
    }

    fn merge(&self, content: &Content, info: AddInfo) -> Result<(), StoreError> {
        let known = content.info();
        let urls = merged(known.urls.clone(), info.urls);
        let id = known
            .content_id
            .clone()
            .or_else(|| bounded_id(info.content_id));
        if urls == known.urls && id == known.content_id {
            return Ok(());
        }
        self.update_locked(content.inner(), |record| {
            record.urls = urls;
            record.content_id = id;
        })
    }

    fn update(&self, key: &ContentKey, change: impl FnOnce(&mut Record)) -> Result<(), StoreError> {
        let open = self.lock_open();
        let inner = open.get(key).and_then(|slot| slot.inner.upgrade());
        match (inner, self.ledger.update(key, change)?) {
            (_, None) => Err(StoreError::Unknown { key: *key }),
            (Some(inner), Some(record)) => {
                inner.set_record(record);
                Ok(())
            }
            (None, Some(_)) => Ok(()),
        }
    }

    /// Changes the record of a content that is open.
    fn update_locked(
        &self,
        inner: &Inner,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), StoreError> {
        let key = inner.key();
        let record = self
            .ledger
            .update(&key, change)?
            .ok_or(StoreError::Unknown { key })?;
        inner.set_record(record);
        Ok(())
    }

    /// Remembers when a content was last used; written with the next commit.
    pub(crate) fn note_use(&self, key: ContentKey, used_ms: u64) {
        lock(&self.used).insert(key, used_ms);
    }

    /// An error when the state folder is gone: whatever is written would be lost.
    fn check_folder(&self) -> Result<(), StoreError> {
        let dir = || self.layout.dir().to_path_buf();
        let stat = rustix::fs::fstat(&self.lock).map_err(StoreError::at(self.layout.dir()))?;
        if stat.st_nlink == 0 || !self.ledger.path().exists() {
            return Err(StoreError::Vanished { path: dir() });
        }
        Ok(())
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<ContentKey, Slot>> {
        lock(&self.open)
    }

    fn lock_commit(&self) -> MutexGuard<'_, ()> {
        lock(&self.commit)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = self.sync_all() {
            warn!(error = %e, "the last sync failed; what was not synced is looked for at the next start");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.layout.dir().display())
    }
}

/// What these locks guard is whole at every moment at which something can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a folder for this process, by the lock file in it.
fn take_lock(dir: &Path, path: &Path) -> Result<File, OpenError> {
    let mut file = layout::open_file(path, OFlags::CREATE)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = (&file).take(32).read_to_string(&mut text);
            return Err(OpenError::InUse {
                dir: dir.to_path_buf(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(e) => return Err(StoreError::io(path, e.into()).into()),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(StoreError::at(path))?;
    Ok(file)
}

fn new_record(lengths: PieceLengths, validator: Vec<u8>, info: AddInfo) -> Record {
    let now_ms = to_ms(info.now);
    Record {
        content_length: lengths.content_length(),
        piece_size: lengths.piece_size(),
        content_id: bounded_id(info.content_id),
        urls: merged(Vec::new(), info.urls),
        validator,
        added_ms: now_ms,
        expires_ms: None,
        pinned_until_ms: None,
        progress: Progress {
            last_used_ms: now_ms,
            // A round of scrubbing is due one period after the content came.
            scrubbed_ms: now_ms,
            ..Progress::default()
        },
    }
}

fn bounded_id(id: Option<String>) -> Option<String> {
    id.filter(|id| id.len() <= CONTENT_ID_BYTES_MAX)
}

fn merged(mut known: Vec<String>, more: Vec<String>) -> Vec<String> {
    for url in more {
        if known.len() < URLS_MAX && url.len() <= URL_BYTES_MAX && !known.contains(&url) {
            known.push(url);
        }
    }
    known
}

#[cfg(test)]
pub(crate) mod tests;
