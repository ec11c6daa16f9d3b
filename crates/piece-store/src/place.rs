//! Handing a file over.
#![allow(unused, clippy::todo)]
use crate::DeliverError;
use dosvc_content::PiecesHashFile;
use std::{fs::File, path::Path};

/// How a file came to its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Shares its blocks with the cache until one side writes.
    Reflink,
    /// Is the same file under a second name.
    HardLink,
    /// Is a copy.
    Copy,
}

/// A file that was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// How.
    pub method: Method,
}

/// Puts a content's file at its destination.
pub fn place(
    content: &File,
    len: u64,
    expect: Option<&PiecesHashFile>,
    dest: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Delivered, DeliverError> {
    todo!()
}
