//! The file system under a path.

use std::{io, path::Path};

/// Size of the file system that holds a path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// What an unprivileged process may still write; less than what is free where blocks are reserved.
    pub available: u64,
}

/// The file system that holds `path`.
///
/// # Errors
/// When the path does not exist or may not be searched; the message names the path.
pub fn disk(path: &Path) -> io::Result<Disk> {
    let stat = rustix::fs::statvfs(path).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(
            error.kind(),
            format!("cannot read the disk space of {}: {error}", path.display()),
        )
    })?;
    Ok(Disk {
        total: stat.f_frsize.saturating_mul(stat.f_blocks),
        available: stat.f_frsize.saturating_mul(stat.f_bavail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_a_size_and_no_more_available_than_that() {
        let root = disk(Path::new("/")).unwrap();
        assert!(root.total > 0);
        assert!(root.available <= root.total);
    }

    #[test]
    fn a_missing_folder_is_named_in_the_error() {
        let error = disk(Path::new("/no/such/folder")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
