//! One content of the store, open.
#![allow(unused, clippy::todo, missing_docs)]
use crate::{AddInfo, ContentInfo, ContentKey, DeliverError, Delivered, ServeError, StoreError};
use dosvc_content::{Bitfield, Block, PieceIndex, PieceLengths, PiecesHashFile};
use std::{
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// One open content. Shared by `Arc`; it is in use as long as somebody holds it.
#[derive(Debug)]
pub struct Content {}

/// What became of a piece that was handed to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// The piece is had now.
    Stored,
    /// The piece was had before; the bytes were not looked at.
    Duplicate,
    /// Length or hash is wrong; the piece is not had.
    BadHash,
}

/// What a look at a piece on disk showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PieceCheck {
    /// The bytes are right; the piece can be served.
    Good,
    /// The bytes are wrong or gone. The piece is not had any more and must be fetched again.
    Lost,
}

/// Where the bytes of a block lie, for sendfile.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The content's file.
    pub file: Arc<File>,
    /// Where the block begins in it, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u32,
}

/// How a file is handed over.
pub struct Deliver<'a> {
    /// Called with the bytes done so far, now and then.
    pub progress: &'a mut dyn FnMut(u64),
}

/// What [`Content::recover`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Pieces that were hashed because the file has data there.
    pub looked_at: u32,
    /// Pieces that were right and are had now.
    pub found: u32,
}

impl Content {
    pub fn key(&self) -> ContentKey {
        todo!()
    }
    pub fn lengths(&self) -> PieceLengths {
        todo!()
    }
    pub fn hash_file(&self) -> Option<&PiecesHashFile> {
        todo!()
    }
    pub fn have(&self) -> Bitfield {
        todo!()
    }
    pub fn info(&self) -> ContentInfo {
        todo!()
    }
    pub fn is_complete(&self) -> bool {
        todo!()
    }
    pub fn urls(&self) -> Vec<String> {
        todo!()
    }
    pub fn accept_piece(&self, piece: PieceIndex, bytes: &[u8]) -> Result<Accepted, StoreError> {
        todo!()
    }
    pub fn accept_block(&self, block: Block, bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    pub fn finish_piece(&self, piece: PieceIndex) -> Result<Accepted, StoreError> {
        todo!()
    }
    pub fn read_block(&self, block: Block, into: &mut [u8]) -> Result<(), StoreError> {
        todo!()
    }
    pub fn file_range(&self, block: Block) -> Result<FileRange, ServeError> {
        todo!()
    }
    pub fn check_piece(&self, piece: PieceIndex) -> Result<PieceCheck, StoreError> {
        todo!()
    }
    pub fn scrub_next(&self, now: SystemTime, every: Duration) -> Option<PieceIndex> {
        todo!()
    }
    pub fn recover(&self, progress: &mut dyn FnMut(u64)) -> Result<Recovered, StoreError> {
        todo!()
    }
    pub fn deliver(&self, dest: &Path, how: Deliver<'_>) -> Result<Delivered, DeliverError> {
        todo!()
    }
    pub fn open_for_delivery(&self) -> Result<File, DeliverError> {
        todo!()
    }
}
