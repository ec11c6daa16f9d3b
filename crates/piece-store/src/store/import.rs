//! Taking a local file in, to seed from it.

use super::Store;
use crate::{AddInfo, Content, StoreError};
use dosvc_content::PiecesHashFile;
use std::{path::Path, sync::Arc};

impl Store {
    /// Takes a local file into the cache as the content that the hash file describes, complete and checked. Storage
    /// is shared with the file where that is possible (reflink; hard link where the file is ours), else copied; a
    /// content that has pieces already gets the missing ones. `progress` gets the bytes done so far.
    ///
    /// # Errors
    /// [`StoreError::NotTheContent`] when the file differs from the hash file: nothing is added then, and pieces that
    /// were right are kept if the content was there before. Else what the disk says.
    pub fn import(
        self: &Arc<Self>,
        path: &Path,
        hash_file: &PiecesHashFile,
        info: AddInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Arc<Content>, StoreError> {
        let not_the_content = |bad| StoreError::NotTheContent {
            path: path.to_path_buf(),
            bad,
        };
        let kind = std::fs::metadata(path).map_err(StoreError::at(path))?;
        let pieces = hash_file.lengths().piece_count() as usize;
        if !kind.is_file() || kind.len() != hash_file.lengths().content_length() {
            return Err(not_the_content(pieces));
        }
        let known = self.content(&hash_file.hash_of_hashes())?.is_some();
        let content = self.add(hash_file, info)?;
        let bad = match content.take_in(path, progress) {
            Ok(0) => return Ok(content),
            Ok(bad) => not_the_content(bad),
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
