//! Disk work of a swarm: hashing and writing by the engine's workers, the outcome sent back as an event.
//!
//! At most as many blocks are under way as the buffer pool has buffers, so nothing here needs a bound of its own.

use crate::workers::{ArrivedPiece, Workers};
use dosvc_content::{Block, PieceIndex};
use dosvc_piece_store::{Accepted, Arrival, Content, PieceCheck, StoreError};
use dosvc_wire::net::BlockBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a piece of disk work came to.
#[derive(Debug)]
pub(super) enum DiskEvent {
    /// A whole piece was hashed, and written if it was good.
    Piece(PieceIndex, Result<Accepted, StoreError>),
    /// One block of a piece that has several was written, unverified.
    BlockWritten(Block, Result<(), StoreError>),
    /// A piece that was had was read back.
    Checked(PieceIndex, Result<PieceCheck, StoreError>),
    /// A missing piece was looked for in the file; true: it is there and right.
    Recovered(PieceIndex, Result<bool, StoreError>),
    /// A piece that was had was read back, for nobody in particular.
    Scrubbed(PieceIndex, Result<PieceCheck, StoreError>),
}

/// Starts disk work for one content.
#[derive(Clone)]
pub(super) struct Disk {
    content: Arc<Content>,
    workers: Arc<Workers>,
    events: mpsc::Sender<DiskEvent>,
}

impl Disk {
    pub(super) fn new(
        content: Arc<Content>,
        workers: Arc<Workers>,
        events: mpsc::Sender<DiskEvent>,
    ) -> Self {
        Self {
            content,
            workers,
            events,
        }
    }

    /// Hashes and writes a piece that came as one block.
    pub(super) fn accept_piece(&self, piece: PieceIndex, data: BlockBuf) {
        let events = self.events.clone();
        self.workers.accept(ArrivedPiece {
            arrival: Arrival {
                content: Arc::clone(&self.content),
                piece,
                bytes: data,
            },
            // A swarm that has ended needs no events.
            done: Box::new(move |result| {
                let _ = events.blocking_send(DiskEvent::Piece(piece, result));
            }),
        });
    }

    /// Writes one block of a larger piece.
    pub(super) fn write_block(&self, block: Block, data: BlockBuf) {
        self.spawn(move |content| {
            DiskEvent::BlockWritten(block, content.accept_block(block, &data))
        });
    }

    /// Hashes a piece whose blocks are all written.
    pub(super) fn finish_piece(&self, piece: PieceIndex) {
        self.spawn(move |content| DiskEvent::Piece(piece, content.finish_piece(piece)));
    }

    /// Reads a piece back and hashes it.
    pub(super) fn check(&self, piece: PieceIndex) {
        self.spawn(move |content| DiskEvent::Checked(piece, content.check_piece(piece)));
    }

    /// Reads a piece back and hashes it, without an upload waiting for it.
    pub(super) fn scrub(&self, piece: PieceIndex) {
        self.spawn(move |content| DiskEvent::Scrubbed(piece, content.check_piece(piece)));
    }

    /// Looks for a missing piece in the file.
    pub(super) fn recover(&self, piece: PieceIndex) {
        self.spawn(move |content| DiskEvent::Recovered(piece, content.recover_piece(piece)));
    }

    fn spawn(&self, work: impl FnOnce(&Content) -> DiskEvent + Send + 'static) {
        let content = Arc::clone(&self.content);
        let events = self.events.clone();
        self.workers.run(move || {
            let event = work(&content);
            // A swarm that has ended needs no events.
            let _ = events.blocking_send(event);
        });
    }
}
