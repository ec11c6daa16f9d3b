//! The download mode that a caller limited a content to. A file of its own beside the content's data, so that it
//! outlives a lost database: what was asked to stay private must not be shared because of a repair.

use super::Store;
use crate::{ContentKey, StoreError, layout};
use dosvc_content::DownloadMode;
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
};

/// Longer than any mode's number.
const BYTES_MAX: u64 = 16;

impl Store {
    /// The widest mode that the content may be shared in; `None`: the device's. What cannot be read is taken for
    /// the narrowest limit.
    pub fn mode_limit(&self, key: &ContentKey) -> Option<DownloadMode> {
        let mut text = String::new();
        let read = File::open(self.layout.mode_limit(key))
            .and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(DownloadMode::CdnOnly),
            Ok(_) => Some(
                text.trim()
                    .parse::<u32>()
                    .ok()
                    .and_then(|number| DownloadMode::from_number(number.into()))
                    .unwrap_or(DownloadMode::CdnOnly),
            ),
        }
    }

    /// Limits the content to a mode, or lifts the limit. Durable when the call returns.
    ///
    /// # Errors
    /// What the disk says; the old limit is in force then.
    pub fn set_mode_limit(
        &self,
        key: &ContentKey,
        limit: Option<DownloadMode>,
    ) -> Result<(), StoreError> {
        if self.mode_limit(key) == limit {
            return Ok(());
        }
        let path = self.layout.mode_limit(key);
        match limit {
            None => layout::remove_if_there(&path)?,
            Some(mode) => {
                let fresh = path.with_extension("new");
                File::create(&fresh)
                    .and_then(|mut file| {
                        writeln!(file, "{}", mode.number())?;
                        file.sync_all()
                    })
                    .and_then(|()| fs::rename(&fresh, &path))
                    .map_err(StoreError::at(&path))?;
            }
        }
        layout::sync_dir(&self.layout.content(key))
    }
}
