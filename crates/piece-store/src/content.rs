//! One content of the store, open: what is had, what was checked, and the file that holds it.
//!
//! Locks, in the order in which they are taken: `Inner::writing`, then `Inner::state`. `writing` is held during a
//! positional write, so that the file's stamp always tells our writes from other people's; `state` only for moments.
//! Nothing of the store is locked while one of them is held.

mod accept;
mod check;
mod handover;
mod state;
mod take_in;

use crate::{
    ContentInfo, ContentKey, StoreError,
    checks::Checks,
    layout,
    ledger::Change,
    snapshot::{self, Record},
    stamp::FileStamp,
    steps::WriteSteps,
    store::Store,
};
use dosvc_content::{Bitfield, PieceLengths, PiecesHashFile};
use state::State;
use std::{
    fmt,
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

pub use accept::{Accepted, Arrival, accept_pieces};
pub use check::{FileRange, PieceCheck, Recovered};
pub use handover::Deliver;

/// One open content. Shared by `Arc`; it is in use, and safe from eviction, as long as somebody holds it.
///
/// All methods may block on the disk, except [`Self::key`], [`Self::lengths`], [`Self::hash_file`], [`Self::have`],
/// [`Self::info`], [`Self::is_complete`], [`Self::urls`] and [`Self::file_range`], which take at most a few
/// microseconds.
pub struct Content {
    inner: Arc<Inner>,
    store: Arc<Store>,
}

/// What outlives the handle while something of it is not synced yet. Knows nothing of the store, so that the store
/// can hold it.
#[derive(Debug)]
pub(crate) struct Inner {
    key: ContentKey,
    lengths: PieceLengths,
    hash_file: Option<PiecesHashFile>,
    dir: PathBuf,
    last_used_ms: AtomicU64,
    /// Bytes that the whole store has.
    store_bytes: Arc<AtomicU64>,
    /// What the store remembers of closed contents.
    checks: Arc<Checks>,
    write_steps: Arc<WriteSteps>,
    writing: Mutex<()>,
    state: Mutex<State>,
}

impl Content {
    pub(crate) fn new(inner: Arc<Inner>, store: Arc<Store>) -> Self {
        Self { inner, store }
    }

    /// What the content is found by.
    pub fn key(&self) -> ContentKey {
        self.inner.key
    }

    /// Length and piece size.
    pub fn lengths(&self) -> PieceLengths {
        self.inner.lengths
    }

    /// The hash file; `None` for plain content.
    pub fn hash_file(&self) -> Option<&PiecesHashFile> {
        self.inner.hash_file.as_ref()
    }

    /// The pieces that are had: stored by this process, or claimed by a commit of an earlier one. The latter are
    /// hashed before they are served.
    pub fn have(&self) -> Bitfield {
        self.inner.state().have.clone()
    }

    /// The content as of now.
    pub fn info(&self) -> ContentInfo {
        self.inner.info(true)
    }

    /// Whether every piece is had.
    pub fn is_complete(&self) -> bool {
        self.inner.state().have.is_full()
    }

    /// HTTP sources, best first.
    pub fn urls(&self) -> Vec<String> {
        self.inner.state().record.urls.clone()
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Tells the store that something of this content waits for a sync.
    fn mark_dirty(&self, bytes: u64) {
        self.store.mark_dirty(&self.inner, bytes);
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let used = self.inner.last_used_ms.load(Ordering::Relaxed);
        self.store.note_use(self.inner.key, used);
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({}, {:?})", self.inner.key, self.have())
    }
}

impl Drop for Inner {
    /// What was never committed does not count for the store any more; what was checked is remembered.
    fn drop(&mut self) {
        let (durable, have) = {
            let mut state = self.state();
            let checked = std::mem::replace(&mut state.checked, Bitfield::new(0));
            self.checks.remember(self.key, state.stamp, checked);
            (state.durable_bytes, state.record.progress.bytes_have)
        };
        self.store_bytes.fetch_add(durable, Ordering::Relaxed);
        self.store_bytes.fetch_sub(have, Ordering::Relaxed);
    }
}

/// What [`Inner::open`] needs.
pub(crate) struct Parts {
    pub(crate) key: ContentKey,
    pub(crate) lengths: PieceLengths,
    pub(crate) hash_file: Option<PiecesHashFile>,
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
    /// The committed bitfield.
    pub(crate) have: Bitfield,
    pub(crate) store_bytes: Arc<AtomicU64>,
    pub(crate) checks: Arc<Checks>,
    pub(crate) write_steps: Arc<WriteSteps>,
}

impl Inner {
    /// Opens the data file and decides how much of the committed claim stands.
    pub(crate) fn open(parts: Parts) -> Result<Self, StoreError> {
        let path = layout::data_path(&parts.dir);
        layout::remove_if_there(&layout::new_data_path(&parts.dir))?;
        let len = parts.lengths.content_length();
        let (file, fresh) = match layout::open_file(&path, rustix::fs::OFlags::empty()) {
            Ok(file) => (file, false),
            Err(StoreError::Vanished { .. }) => {
                let file = layout::create_data(&path, len)?;
                layout::sync_dir(&parts.dir)?;
                (file, true)
            }
            Err(e) => return Err(e),
        };
        let stamp = FileStamp::of(&file).map_err(StoreError::at(&path))?;
        let committed = &parts.record.progress;
        // Without hashes there is no way to tell good bytes from changed ones. While pieces are missing, a stamp
        // that differs is the normal trace of a crash after unsynced writes; a complete file has no more writes.
        let untrusted = parts.hash_file.is_none()
            && if parts.have.is_full() {
                !committed.stamp_is(&stamp)
            } else {
                stamp.size != len || stamp.names != 1
            };
        let start_over = fresh || untrusted;
        let withdraw_first = start_over && parts.hash_file.is_none() && !parts.have.is_empty();
        let have = if start_over {
            Bitfield::new(parts.lengths.piece_count())
        } else {
            parts.have
        };
        let mut state = State::new(file, stamp, have, parts.record);
        state.withdraw_first = withdraw_first;
        if let Some(checked) = parts.checks.take(&parts.key, &stamp) {
            let still_had = checked.ones().filter(|&piece| state.have.has(piece));
            for piece in still_had.collect::<Vec<_>>() {
                state.checked.insert(piece);
            }
        }
        let inner = Self {
            key: parts.key,
            lengths: parts.lengths,
            hash_file: parts.hash_file,
            dir: parts.dir,
            last_used_ms: AtomicU64::new(state.record.progress.last_used_ms),
            store_bytes: parts.store_bytes,
            checks: parts.checks,
            write_steps: parts.write_steps,
            writing: Mutex::new(()),
            state: Mutex::new(state),
        };
        inner.settle_bytes();
        Ok(inner)
    }

    pub(crate) fn key(&self) -> ContentKey {
        self.key
    }

    /// Whether the database still claims pieces that were found to be gone when the content was opened.
    pub(crate) fn claims_too_much(&self) -> bool {
        let state = self.state();
        state.withdraw_first || state.durable_bytes != state.record.progress.bytes_have
    }

    pub(crate) fn info(&self, in_use: bool) -> ContentInfo {
        let state = self.state();
        let mut record = state.record.clone();
        record.progress.last_used_ms = self.last_used_ms.load(Ordering::Relaxed);
        record
            .info(self.key, in_use)
            .expect("the record's dimensions were checked when it was opened")
    }

    /// Takes over what was committed to the record outside of a sync: URLs, pin, expiry.
    pub(crate) fn set_record(&self, record: Record) {
        let mut state = self.state();
        let progress = state.record.progress;
        state.record = Record { progress, ..record };
    }

    /// First half of a sync: makes everything durable that is had now, and returns what may be claimed then.
    ///
    /// When the disk reports an error, nobody can say which of the bytes since the last sync it has; the pieces of
    /// that time are no longer had.
    pub(crate) fn sync_data(&self) -> Result<Change, StoreError> {
        let (file, change, unsynced) = {
            let mut state = self.state();
            self.check_names(&state.file)?;
            let unsynced = std::mem::take(&mut state.unsynced);
            state.record.progress.last_used_ms = self.last_used_ms.load(Ordering::Relaxed);
            let mut progress = state.record.progress;
            progress.set_stamp(&state.stamp);
            let change = Change {
                key: self.key,
                progress,
                have: state.have.clone(),
            };
            (state.file.clone(), change, unsynced)
        };
        if unsynced {
            rustix::fs::fdatasync(&*file).map_err(|e| {
                self.withdraw_unsynced();
                StoreError::io(&self.data_path(), e.into())
            })?;
            #[cfg(test)]
            crate::store::tests::note_data_sync(&self.data_path());
        }
        Ok(change)
    }

    /// Second half of a sync: the claim is durable.
    pub(crate) fn committed(&self, change: Change) {
        let mut state = self.state();
        let lost_meanwhile = state.have.lacks_any_of(&change.have);
        state.durable = change.have;
        state.durable_bytes = change.progress.bytes_have;
        if !lost_meanwhile {
            state.withdraw_first = false;
        } else {
            for piece in state.have.clone().zeros() {
                state.durable.remove(piece);
            }
        }
    }

    /// An error when the data file has no name any more: a claim about it would be false.
    fn check_names(&self, file: &File) -> Result<FileStamp, StoreError> {
        let path = self.data_path();
        match FileStamp::of(file) {
            Ok(stamp) if stamp.names == 0 => Err(StoreError::Vanished { path }),
            Ok(stamp) => Ok(stamp),
            Err(e) => Err(StoreError::io(&path, e)),
        }
    }

    /// Whether the data file has no name any more.
    pub(crate) fn has_vanished(&self) -> bool {
        matches!(
            self.check_names(&self.state().file),
            Err(StoreError::Vanished { .. })
        )
    }

    /// The pieces since the last commit are not had any more.
    pub(crate) fn withdraw_unsynced(&self) {
        let mut state = self.state();
        let doubtful: Vec<_> = state
            .have
            .ones()
            .filter(|&piece| !state.durable.has(piece))
            .collect();
        for piece in doubtful {
            self.lose(&mut state, piece);
        }
    }

    fn data_path(&self) -> PathBuf {
        layout::data_path(&self.dir)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of one writer.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        let now = snapshot::to_ms(SystemTime::now());
        self.last_used_ms.fetch_max(now, Ordering::Relaxed);
    }
}
