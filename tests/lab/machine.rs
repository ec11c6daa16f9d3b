//! A machine on loopback: a folder of its own, no network of its own.

use crate::namespace::Node;
use std::path::Path;

/// The machine; its folder is gone when the test is over.
pub(crate) struct Machine {
    pub(crate) node: Node,
    folder: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the target folder can be written");
        Self {
            node: Node::here(folder.path()),
            folder,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}
