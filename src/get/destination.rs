//! Where a download goes, checked before a byte of it is fetched.

use anyhow::{Context as _, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A place where a file can be put: its folder exists and may be written, and nothing but a regular file is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination(PathBuf);

impl Destination {
    /// Looks, without leaving a trace.
    ///
    /// # Errors
    /// Say what is in the way and what to do.
    pub(crate) fn check(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
        let folder = path
            .parent()
            .with_context(|| format!("{} is no file's name", path.display()))?;
        match fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => bail!("{} is not a folder", folder.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "the folder {} does not exist; make it first",
                    folder.display()
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("look at {}", folder.display()));
            }
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                bail!(
                    "{} is a folder; name the file in it: -o {}/NAME",
                    path.display(),
                    path.display()
                )
            }
            Ok(metadata) if !metadata.is_file() => {
                bail!("{} is not a regular file", path.display())
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        }
        // The file is made beside its name and renamed, so the folder's permission is what counts.
        accessat(
            CWD,
            folder,
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::EACCESS,
        )
        .with_context(|| format!("the folder {} cannot be written", folder.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        format!("{:#}", Destination::check(path).unwrap_err())
    }

    #[test]
    fn what_is_in_the_way_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refused(folder.path()).contains("is a folder"));
        assert!(refused(&folder.path().join("no/x")).contains("does not exist"));
        assert!(refused(Path::new("/dev/null")).contains("not a regular file"));
        fs::write(folder.path().join("file"), "old").unwrap();
        assert!(refused(&folder.path().join("file/x")).contains("not a folder"));
    }

    #[test]
    fn an_existing_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let destination = Destination::check(&path).unwrap();
        assert_eq!(destination.path(), path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
