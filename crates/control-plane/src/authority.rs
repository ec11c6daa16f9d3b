//! The key that the certificates of groups' members are signed with: a file that only the service may read, made when it
//! is missing.

use dosvc_membership::{Authority, KeyError};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Bytes of the file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The file.
    #[error("the group authority {0}: {1}")]
    Io(PathBuf, io::Error),
    /// What stands in it.
    #[error("the group authority {0}: {1}")]
    Key(PathBuf, KeyError),
    /// Others can read it.
    #[error("the group authority {0}: others than its owner may read it (chmod 600)")]
    Open(PathBuf),
}

/// Reads the authority, or makes one. Several processes may begin at once: one of them makes it.
///
/// # Errors
/// [`AuthorityError`].
pub fn open_authority(path: &Path) -> Result<Authority, AuthorityError> {
    let io = |error| AuthorityError::Io(path.to_owned(), error);
    let key = |error| AuthorityError::Key(path.to_owned(), error);
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = [0; 16];
            aws_lc_rs::rand::fill(&mut random).map_err(|e| io(io::Error::other(e)))?;
            let (name, place) = random.split_at(8);
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_secs());
            let name = name.try_into().expect("half of sixteen bytes");
            let made = Authority::generate(now, name).map_err(key)?;
            let place: String = place.iter().map(|byte| format!("{byte:02x}")).collect();
            make(path, &place, &made.to_pem()).map_err(io)?;
        }
        other => {
            other.map_err(io)?;
        }
    }
    let found = fs::metadata(path).map_err(io)?;
    if found.mode() & 0o077 != 0 {
        return Err(AuthorityError::Open(path.to_owned()));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(io(io::Error::other("it is too large")));
    }
    Authority::from_pem(&fs::read_to_string(path).map_err(io)?).map_err(key)
}

/// Writes the file whole, and never over another one.
fn make(path: &Path, place: &str, pem: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let is_new = !folder.exists();
    fs::create_dir_all(folder)?;
    if let (true, Some(above)) = (is_new, folder.parent()) {
        give_to_owner_of(above, folder)?;
    }
    let fresh = path.with_extension(place);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    let written = file
        .write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| give_to_owner_of(folder, &fresh))
        .and_then(|()| match fs::hard_link(&fresh, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
    fs::remove_file(&fresh)?;
    written
}

/// What root makes for the service belongs to the service's user.
fn give_to_owner_of(folder: &Path, path: &Path) -> io::Result<()> {
    let (folder, found) = (fs::metadata(folder)?, fs::metadata(path)?);
    if folder.uid() == found.uid() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/group-authority.pem");
        let first = open_authority(&path).unwrap().certificate_pem();
        assert_eq!(open_authority(&path).unwrap().certificate_pem(), first);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left behind"
        );
        make(&path, "late", "another").unwrap();
        assert_eq!(open_authority(&path).unwrap().certificate_pem(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            open_authority(&path),
            Err(AuthorityError::Open(_))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nothing").unwrap();
        assert!(matches!(
            open_authority(&path),
            Err(AuthorityError::Key(..))
        ));
    }
}
