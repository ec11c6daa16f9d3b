//! What is known of an open content, and the only functions that change which pieces are had.

use super::Inner;
use crate::{StoreError, layout, snapshot, snapshot::Record, stamp::FileStamp};
use dosvc_content::{Bitfield, PieceIndex};
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};
use tracing::{debug, warn};

/// Further looks at a file that may be in the middle of being linked.
const LOOKS_MAX: usize = 4;

/// Guarded by `Inner::state`.
#[derive(Debug)]
pub(super) struct State {
    pub(super) file: Arc<File>,
    /// The file after our last write or look at it.
    pub(super) stamp: FileStamp,
    /// A write of ours is under way: times may differ from the stamp.
    pub(super) in_write: bool,
    /// Written to since the last fdatasync began.
    pub(super) unsynced: bool,
    /// Grows whenever the bytes may have changed other than by our writes to missing pieces.
    pub(super) epoch: u64,
    /// Pieces that are had.
    pub(super) have: Bitfield,
    /// Those of them that were hashed in this process's life, with the file unchanged since.
    pub(super) checked: Bitfield,
    /// Those of them that the last commit claims.
    pub(super) durable: Bitfield,
    /// Plain content only: the database claims pieces that are lost. Without hashes nothing would find that out after
    /// a crash, so the claim must be withdrawn before anything is written.
    pub(super) withdraw_first: bool,
    /// Bytes had according to the last commit.
    pub(super) durable_bytes: u64,
    /// Missing pieces with blocks written, and the number of the last such write.
    pub(super) partial: HashMap<PieceIndex, u64>,
    pub(super) block_writes: u64,
    /// Next piece to scrub in this round.
    pub(super) scrub_at: u32,
    /// The committed record; its progress is kept true as pieces come and go.
    pub(super) record: Record,
}

impl State {
    pub(super) fn new(file: File, stamp: FileStamp, have: Bitfield, record: Record) -> Self {
        Self {
            file: Arc::new(file),
            stamp,
            in_write: false,
            unsynced: false,
            epoch: 0,
            checked: Bitfield::new(have.piece_count()),
            durable: have.clone(),
            have,
            withdraw_first: false,
            durable_bytes: record.progress.bytes_have,
            partial: HashMap::new(),
            block_writes: 0,
            scrub_at: 0,
            record,
        }
    }
}

impl Inner {
    /// Compares the file with its stamp. True when somebody else changed it: then nothing counts as checked any
    /// more, and plain content, which has no hashes to check with, is lost.
    pub(super) fn refresh(&self, state: &mut State) -> Result<bool, StoreError> {
        let mut now = self.check_names(&state.file)?;
        for _ in 0..LOOKS_MAX {
            if state.in_write || !now.may_be_half_of_a_change(&state.stamp) {
                break;
            }
            std::thread::yield_now();
            now = self.check_names(&state.file)?;
        }
        let changed = if state.in_write {
            !now.same_file(&state.stamp)
        } else {
            now.may_differ_from(&state.stamp)
        };
        if !changed {
            if !state.in_write {
                state.stamp = now;
            }
            return Ok(false);
        }
        if self.hash_file.is_none() && now.same_bytes(&state.stamp) {
            // It got another name or owner: somebody was handed it. Nothing of plain content is ever served, and
            // losing it would cost whoever downloads it at the same time everything.
            state.stamp = now;
            return Ok(false);
        }
        debug!(key = %self.key, "the data file was changed by somebody else");
        state.stamp = now;
        state.epoch += 1;
        state.checked = Bitfield::new(self.lengths.piece_count());
        if self.hash_file.is_none() {
            state.partial.clear();
            state.withdraw_first |= !state.have.is_empty();
            for piece in state.have.clone().ones() {
                self.lose(state, piece);
            }
        }
        Ok(true)
    }

    /// Makes sure that a write reaches nobody else: a file that has a second name (it was handed over as a hard
    /// link) or a wrong length is replaced by a copy of what is had of it.
    pub(super) fn make_private(&self, state: &mut State) -> Result<(), StoreError> {
        self.refresh(state)?;
        let path = self.data_path();
        let stamp = FileStamp::of(&state.file).map_err(StoreError::at(&path))?;
        let len = self.lengths.content_length();
        if stamp.names == 1 && stamp.size == len {
            return Ok(());
        }
        warn!(key = %self.key, names = stamp.names, "the data file is shared or was cut: making a private copy");
        let temp = layout::new_data_path(&self.dir);
        let file = layout::create_data(&temp, len)?;
        let copied = self.copy_had(state, &file, &temp);
        if copied.is_err() {
            // The space is wanted back at once; the error that matters is the first one.
            let _ = fs::remove_file(&temp);
        }
        copied?;
        self.adopt_file(state, file, &temp)
    }

    fn copy_had(&self, state: &State, into: &File, path: &Path) -> Result<(), StoreError> {
        for piece in state.have.ones() {
            let (at, len) = (self.lengths.offset(piece), self.lengths.len(piece));
            copy_range(&state.file, into, at, u64::from(len)).map_err(StoreError::at(path))?;
        }
        rustix::fs::fdatasync(into).map_err(StoreError::at(path))
    }

    /// Puts a file that is ready under a temporary name in place of the data file.
    pub(super) fn adopt_file(
        &self,
        state: &mut State,
        file: File,
        temp: &Path,
    ) -> Result<(), StoreError> {
        let path = self.data_path();
        fs::rename(temp, &path).map_err(StoreError::at(&path))?;
        layout::sync_dir(&self.dir)?;
        let stamp = FileStamp::of(&file).map_err(StoreError::at(&path))?;
        state.file = Arc::new(file);
        state.stamp = stamp;
        state.epoch += 1;
        state.checked = Bitfield::new(self.lengths.piece_count());
        // Blocks of unfinished pieces were not copied.
        state.partial.clear();
        Ok(())
    }

    /// The piece is had, and was hashed just now.
    pub(super) fn gain(&self, state: &mut State, piece: PieceIndex) {
        state.partial.remove(&piece);
        state.checked.insert(piece);
        if !state.have.insert(piece) {
            return;
        }
        let len = u64::from(self.lengths.len(piece));
        self.store_bytes.fetch_add(len, Ordering::Relaxed);
        let progress = &mut state.record.progress;
        progress.bytes_have += len;
        progress.have_count = state.have.count();
        if state.have.is_full() {
            progress.completed_ms = Some(snapshot::to_ms(SystemTime::now()));
        }
    }

    /// The piece is not had any more.
    pub(super) fn lose(&self, state: &mut State, piece: PieceIndex) {
        state.checked.remove(piece);
        state.durable.remove(piece);
        if !state.have.remove(piece) {
            return;
        }
        let len = u64::from(self.lengths.len(piece));
        self.store_bytes.fetch_sub(len, Ordering::Relaxed);
        let progress = &mut state.record.progress;
        progress.bytes_have -= len;
        progress.have_count = state.have.count();
        progress.completed_ms = None;
    }

    /// Brings the numbers of the record, and the store's sum, in line with the bitfield that was loaded.
    pub(super) fn settle_bytes(&self) {
        let mut state = self.state();
        let have: u64 = state
            .have
            .ones()
            .map(|piece| u64::from(self.lengths.len(piece)))
            .sum();
        let counted = state.record.progress.bytes_have;
        self.store_bytes.fetch_add(have, Ordering::Relaxed);
        self.store_bytes.fetch_sub(counted, Ordering::Relaxed);
        let full = state.have.is_full();
        let count = state.have.count();
        let progress = &mut state.record.progress;
        progress.bytes_have = have;
        progress.have_count = count;
        if !full {
            progress.completed_ms = None;
        } else if progress.completed_ms.is_none() {
            progress.completed_ms = Some(progress.last_used_ms);
        }
    }
}

/// Copies a range to the same place in another file, inside the kernel where it can.
fn copy_range(from: &File, to: &File, at: u64, len: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (at, at);
    while read_at < at + len {
        let left = usize::try_from(at + len - read_at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            // The source was cut; what is missing is found by its hash later.
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
