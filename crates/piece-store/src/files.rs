//! Hashing and verifying whole files that are not in the store (`publish`, `verify`).
#![allow(unused, clippy::todo)]
use crate::FileError;
use dosvc_content::{PieceIndex, PiecesHashFile};
use std::path::Path;

/// Hashes a file.
pub fn hash_file_of(
    path: &Path,
    piece_size: u32,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<PiecesHashFile, FileError> {
    todo!()
}

/// Verifies a file; returns the bad pieces.
pub fn verify_file(
    path: &Path,
    hash_file: &PiecesHashFile,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<PieceIndex>, FileError> {
    todo!()
}
