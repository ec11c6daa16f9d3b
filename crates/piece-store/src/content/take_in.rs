//! A local file becomes the content's data.

use super::{Accepted, Content, Inner};
use crate::{LocalFile, Sharing, StoreError, hashing, layout};
use dosvc_content::PieceIndex;
use rustix::fs::{AtFlags, CWD, OFlags};
use std::{
    fs::{self, File},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::Path,
};

impl Content {
    /// Takes missing pieces from a file of the content's length; returns how many of them are wrong there.
    pub(crate) fn take_in(
        &self,
        local: LocalFile<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<usize, StoreError> {
        let inner = &self.inner;
        let shared = inner.share(local)?;
        let missing: Vec<_> = self.have().zeros().collect();
        let (mut bytes, mut bad) = (0, 0);
        let taken = |piece, good: bool| {
            bytes += u64::from(inner.lengths.len(piece));
            bad += usize::from(!good);
            progress(bytes);
        };
        let threads = self.store.hash_threads();
        if shared {
            hashing::for_each_batch(threads, &missing, |pieces| inner.look_for(pieces), taken)
        } else {
            let copy = |piece| self.copy_in(local.file, local.name, piece);
            hashing::for_each_piece(threads, &missing, copy, taken)
        }?;
        self.mark_dirty(bytes);
        self.store.sync_content(inner)?;
        inner.touch();
        Ok(bad)
    }

    fn copy_in(&self, file: &File, path: &Path, piece: PieceIndex) -> Result<bool, StoreError> {
        let mut bytes = vec![0; self.inner.lengths.len(piece) as usize];
        file.read_exact_at(&mut bytes, self.inner.lengths.offset(piece))
            .map_err(StoreError::at(path))?;
        Ok(self.accept_piece(piece, &bytes)? != Accepted::BadHash)
    }
}

impl Inner {
    /// Makes the data file share the storage of `local`, if nothing is had yet: blocks, or else the file itself if
    /// that is wanted and it is ours. False when neither can be.
    fn share(&self, local: LocalFile<'_>) -> Result<bool, StoreError> {
        let file = local.file;
        let _turn = self.turn();
        let mut state = self.state();
        if !state.have.is_empty() {
            return Ok(false);
        }
        let temp = layout::new_data_path(&self.dir);
        let clone = layout::create_data(&temp, 0)?;
        if rustix::fs::ioctl_ficlone(&clone, file).is_ok() {
            state.unsynced = true;
            self.adopt_file(&mut state, clone, &temp)?;
            return Ok(true);
        }
        layout::remove_if_there(&temp)?;
        let ours = local.sharing == Sharing::HardLink
            && file
                .metadata()
                .is_ok_and(|stat| stat.uid() == rustix::process::geteuid().as_raw());
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        if !ours || rustix::fs::linkat(CWD, from, CWD, &temp, AtFlags::SYMLINK_FOLLOW).is_err() {
            return Ok(false);
        }
        // Also refuses a file that we may not write to; a copy does then.
        match layout::open_file(&temp, OFlags::empty()) {
            Ok(linked) => {
                state.unsynced = true;
                self.adopt_file(&mut state, linked, &temp)?;
                Ok(true)
            }
            Err(_) => {
                fs::remove_file(&temp).map_err(StoreError::at(&temp))?;
                Ok(false)
            }
        }
    }
}
