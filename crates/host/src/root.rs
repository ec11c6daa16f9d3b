//! Where the machine's own files are.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

/// The most of one file that is read: leases and tables are far smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most entries of one folder that are looked at.
const ENTRIES_MAX: usize = 4096;

/// The folder under which the machine's files are seen: `/`, or in a container where the host's are mounted, or in a
/// test a tree made for it. Links with absolute targets lead out of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self::new("/")
    }
}

impl Root {
    /// Files are looked for under this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// A file's path, given without a slash at its beginning.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// A file's text, cut at 1 MiB; what is no UTF-8 is replaced. `None` when it cannot be read.
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(name)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A small file's text without the space around it, as sysfs has them.
    pub(crate) fn value(&self, name: impl AsRef<Path>) -> Option<String> {
        self.read(name).map(|text| text.trim().to_owned())
    }

    /// The names in a folder, sorted; none when it cannot be read.
    pub(crate) fn names(&self, folder: impl AsRef<Path>) -> Vec<OsString> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<OsString> = names.take(ENTRIES_MAX).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::Root;
    use std::fs;

    /// A tree of files for one test; gone when dropped.
    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            files.iter().for_each(|(name, text)| tree.write(name, text));
            tree
        }

        pub(crate) fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn root(&self) -> Root {
            Root::new(self.0.path())
        }
    }
}
