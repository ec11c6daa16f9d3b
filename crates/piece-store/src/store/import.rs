//! Taking a local file in, to seed from it.

use super::Store;
use crate::{AddInfo, Content, StoreError};
use dosvc_content::PiecesHashFile;
use std::{fs::File, path::Path, sync::Arc};

/// Whether the cache may be the imported file itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// The cache has bytes of its own: a reflink, or else a copy. What the owner does to the file is the owner's.
    #[default]
    Independent,
    /// A hard link where neither reflink nor another owner's file stands against it, which needs no space; else as
    /// [`Self::Independent`]. Whoever edits the file in place spoils the cache's copy, which is noticed.
    HardLink,
}

/// An open file of this machine that is to be taken in.
#[derive(Clone, Copy, Debug)]
pub struct LocalFile<'a> {
    /// The file, open for reading. Its read position is not used.
    pub file: &'a File,
    /// What errors call it.
    pub name: &'a Path,
    /// How much the cache may have in common with it.
    pub sharing: Sharing,
}

impl Store {
    /// [`Self::import_file`] for a file that this process may open, independent of the cache afterwards.
    ///
    /// # Errors
    /// As [`Self::import_file`], and what the system says when the file is opened.
    pub fn import(
        self: &Arc<Self>,
        path: &Path,
        hash_file: &PiecesHashFile,
        info: AddInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Arc<Content>, StoreError> {
        // Looked at first: opening a pipe would wait for a writer.
        let kind = std::fs::metadata(path).map_err(StoreError::at(path))?;
        if !kind.is_file() {
            return Err(not_the_content(path, hash_file));
        }
        let file = File::open(path).map_err(StoreError::at(path))?;
        let local = LocalFile {
            file: &file,
            name: path,
            sharing: Sharing::Independent,
        };
        self.import_file(local, hash_file, info, progress)
    }

    /// Takes an open file into the cache as the content that the hash file describes, complete and checked. A content
    /// that has pieces already gets the missing ones. `progress` gets the bytes done so far.
    ///
    /// # Errors
    /// [`StoreError::NotTheContent`] when the file differs from the hash file: nothing is added then, and pieces that
    /// were right are kept if the content was there before. Else what the disk says.
    pub fn import_file(
        self: &Arc<Self>,
        local: LocalFile<'_>,
        hash_file: &PiecesHashFile,
        info: AddInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Arc<Content>, StoreError> {
        let kind = local.file.metadata().map_err(StoreError::at(local.name))?;
        if !kind.is_file() || kind.len() != hash_file.lengths().content_length() {
            return Err(not_the_content(local.name, hash_file));
        }
        let known = self.content(&hash_file.hash_of_hashes())?.is_some();
        let content = self.add(hash_file, info)?;
        let bad = match content.take_in(local, progress) {
            Ok(0) => return Ok(content),
            Ok(bad) => StoreError::NotTheContent {
                path: local.name.to_path_buf(),
                bad,
            },
            Err(e) => e,
        };
        if !known {
            let key = content.key();
            drop(content);
            // The reason of the failure is what the caller must hear of.
            let _ = self.remove(&key, false);
        }
        Err(bad)
    }
}

/// Another length, or no file: not one piece is right.
fn not_the_content(path: &Path, hash_file: &PiecesHashFile) -> StoreError {
    StoreError::NotTheContent {
        path: path.to_path_buf(),
        bad: hash_file.lengths().piece_count() as usize,
    }
}
