//! The cache's folder: in the state folder, or on a disk of its own.

use super::take_lock;
use crate::{
    ContentKey, OpenError, StoreError,
    layout::{self, Layout},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};
use tracing::warn;

/// Makes the cache's folder ready, and says what the one before it still holds. Answers with the lock on a folder
/// outside the state folder: two state folders must not share one.
pub(super) fn settle(layout: &Layout) -> Result<Option<File>, OpenError> {
    let lock = if layout.has_own_cache() {
        let dir = layout.cache();
        if !dir.is_dir() {
            return Err(OpenError::NoCacheFolder {
                dir: dir.to_path_buf(),
            });
        }
        Some(take_lock(dir, &layout.cache_lock())?)
    } else {
        layout::create_private_dir(layout.cache())?;
        None
    };
    let before = place_before(layout)?;
    if before != layout.cache() {
        tell_what_stays(&before, layout.cache());
        remember(layout)?;
    }
    Ok(lock)
}

/// The folder that the cache lay in when the state was opened last.
fn place_before(layout: &Layout) -> Result<PathBuf, StoreError> {
    let path = layout.cache_place();
    match fs::read(&path) {
        Ok(folder) => Ok(Path::new(OsStr::from_bytes(&folder)).to_path_buf()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(layout::default_cache(layout.dir())),
        Err(e) => Err(StoreError::io(&path, e)),
    }
}

fn remember(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.cache_place();
    if !layout.has_own_cache() {
        return layout::remove_if_there(&path);
    }
    fs::write(&path, layout.cache().as_os_str().as_bytes()).map_err(StoreError::at(&path))
}

/// Contents are not moved: between two disks that may take hours.
fn tell_what_stays(before: &Path, now: &Path) {
    let entries = fs::read_dir(before).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let contents = names
        .filter(|name| ContentKey::parse(name).is_some())
        .count();
    if contents > 0 {
        warn!(
            contents,
            before = %before.display(),
            now = %now.display(),
            "the cache lies in another folder now; contents in the one before stay there, unused, until somebody deletes or moves them"
        );
    }
}
