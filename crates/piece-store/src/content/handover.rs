//! Handing a complete content over, in this process or in another.

use super::{Content, Inner};
use crate::{
    DeliverError, Delivered, Durability, Method, StoreError, place::Source, stamp::FileStamp,
};
use std::{fs::File, path::Path, sync::Arc};

/// How often a file that changes, or seems to, is checked anew before it is not handed over. Others who are handed it
/// at the same moment may link and unlink it, which looks like a change when the two fall between two looks.
const TRIES: usize = 10;

/// How a file is handed over. Owner and mode are those of a file that this process makes at the destination.
pub struct Deliver<'a> {
    /// Called with the bytes done so far: first of the pieces that must still be checked, then of the file.
    pub progress: &'a mut dyn FnMut(u64),
}

impl Deliver<'_> {
    /// For callers that show no progress: `Deliver { progress: &mut Deliver::quiet() }`.
    pub fn quiet() -> impl FnMut(u64) {
        |_| {}
    }
}

impl Content {
    /// Puts the file at `dest`: checks what was not checked yet, makes the claim durable, then shares storage with
    /// the cache where that is possible ([`crate::place`]). A later change by the file's owner is noticed before
    /// anything of it is served.
    ///
    /// # Errors
    /// [`DeliverError`]. After [`DeliverError::Damaged`] the pieces named are not had: fetch them and try again.
    pub fn deliver(&self, dest: &Path, how: Deliver<'_>) -> Result<Delivered, DeliverError> {
        let (file, stamp) = self.ready(how.progress)?;
        self.store.sync_content(&self.inner)?;
        let source = Source {
            file: &file,
            len: self.inner.lengths.content_length(),
            hashes: self.inner.hash_file.as_ref(),
            checked_as: Some(stamp),
        };
        let delivered = source.place(dest, Durability::Now, how.progress)?;
        self.inner.touch();
        if delivered.method == Method::HardLink {
            // The committed stamp shall be that of the file with its new name.
            self.mark_dirty(0);
        }
        Ok(delivered)
    }

    /// The complete, checked file, read-only, for another process to call [`crate::place`] with. Whether the bytes are
    /// durable yet is for the caller to see to; the store claims them after its next sync, as ever.
    ///
    /// # Errors
    /// As [`Self::deliver`].
    pub fn open_for_delivery(&self) -> Result<File, DeliverError> {
        let (_, stamp) = self.ready(&mut |_| {})?;
        let path = self.inner.data_path();
        let file = File::open(&path).map_err(StoreError::at(&path))?;
        let opened = FileStamp::of(&file).map_err(StoreError::at(&path))?;
        if !opened.same_bytes(&stamp) {
            return Err(DeliverError::Changed);
        }
        self.inner.touch();
        Ok(file)
    }

    /// Sees to it that every piece is had and checked; returns the file and its stamp as of then. When somebody
    /// changes the file meanwhile, it is checked again.
    fn ready(&self, progress: &mut dyn FnMut(u64)) -> Result<(Arc<File>, FileStamp), DeliverError> {
        for _ in 0..TRIES {
            let missing = {
                let state = self.inner.state();
                state.have.piece_count() - state.have.count()
            };
            if missing > 0 {
                return Err(DeliverError::Incomplete { missing });
            }
            self.inner.cut_to_length()?;
            let pieces = self.check_all(progress)?;
            if !pieces.is_empty() {
                return Err(DeliverError::Damaged { pieces });
            }
            let written = self.inner.state().stamp;
            written.wait_until_past();
            let mut state = self.inner.state();
            let changed = self.inner.refresh(&mut state)?;
            if !changed && state.checked.is_full() {
                return Ok((state.file.clone(), state.stamp));
            }
        }
        Err(DeliverError::Changed)
    }
}

impl Inner {
    /// A file that is too long would be handed over too long.
    fn cut_to_length(&self) -> Result<(), StoreError> {
        let _turn = self.turn();
        let mut state = self.state();
        let now = FileStamp::of(&state.file).map_err(StoreError::at(&self.data_path()))?;
        if now.size == self.lengths.content_length() {
            return Ok(());
        }
        self.make_private(&mut state)
    }
}
