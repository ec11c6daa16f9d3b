//! Bytes that come in: hashed, written in place, then had.

use super::Content;
use super::Inner;
use crate::{StoreError, processor_time, steps::WriteSteps};
use dosvc_content::{Block, PieceHash, PieceIndex};
use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

/// What became of a piece that was handed to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// The piece is had now.
    Stored,
    /// The piece was had before; nothing was written.
    Duplicate,
    /// Length or hash is wrong; the piece is not had.
    BadHash,
}

/// A whole piece that came in.
#[derive(Debug)]
pub struct Arrival<B> {
    /// The content that it is of.
    pub content: Arc<Content>,
    /// Which piece.
    pub piece: PieceIndex,
    /// Its bytes, unverified.
    pub bytes: B,
}

/// What is known of a piece that came in before it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Had,
    Bad,
    Good,
}

/// Takes whole pieces, of any contents: hashes them in memory, several at once where the processor can, then writes
/// each in place and counts it as had; `sink` gets each piece's number in `arrivals` and what became of it, once its
/// bytes are dropped. They are durable, and claimed on disk, after the next sync. Plain content is taken as it is.
///
/// `sink` gets a [`StoreError`] when the disk refuses; the piece is not had then, and everything else is as before.
pub fn accept_pieces<B: AsRef<[u8]>>(
    arrivals: Vec<Arrival<B>>,
    mut sink: impl FnMut(usize, Result<Accepted, StoreError>),
) {
    let pieces = arrivals
        .iter()
        .map(|a| (&*a.content, a.piece, a.bytes.as_ref()));
    let verdicts = judge(pieces);
    for (number, (arrival, verdict)) in arrivals.into_iter().zip(verdicts).enumerate() {
        let Arrival {
            content,
            piece,
            bytes,
        } = arrival;
        let accepted = content.accept_judged(piece, bytes.as_ref(), verdict);
        // Whoever waits for the memory need not wait for the other pieces.
        drop(bytes);
        sink(number, accepted);
    }
}

fn judge<'a>(pieces: impl Iterator<Item = (&'a Content, PieceIndex, &'a [u8])>) -> Vec<Verdict> {
    let (mut verdicts, mut to_hash, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (content, piece, bytes)) in pieces.enumerate() {
        let inner = &content.inner;
        let right_length = bytes.len() == inner.lengths.len(piece) as usize;
        verdicts.push(if inner.state().have.has(piece) {
            Verdict::Had
        } else if !right_length {
            Verdict::Bad
        } else if let Some(hash_file) = &inner.hash_file {
            to_hash.push(bytes);
            wanted.push((number, hash_file.piece_hash(piece)));
            // Until its hash says otherwise.
            Verdict::Bad
        } else {
            Verdict::Good
        });
    }
    for (hash, (number, wanted)) in PieceHash::of_each(&to_hash).into_iter().zip(wanted) {
        if hash == wanted {
            verdicts[number] = Verdict::Good;
        }
    }
    verdicts
}

/// How often bytes are hashed again because the file changed meanwhile.
pub(super) const HASH_TRIES: usize = 3;

impl Content {
    /// [`accept_pieces`] for one.
    ///
    /// # Errors
    /// [`StoreError`] when the disk refuses; the piece is not had then, and everything else is as before.
    pub fn accept_piece(&self, piece: PieceIndex, bytes: &[u8]) -> Result<Accepted, StoreError> {
        let verdicts = judge([(self, piece, bytes)].into_iter());
        self.accept_judged(piece, bytes, verdicts[0])
    }

    fn accept_judged(
        &self,
        piece: PieceIndex,
        bytes: &[u8],
        verdict: Verdict,
    ) -> Result<Accepted, StoreError> {
        match verdict {
            Verdict::Had => return Ok(Accepted::Duplicate),
            Verdict::Bad => return Ok(Accepted::BadHash),
            Verdict::Good => {}
        }
        let accepted = self.write(piece, 0, bytes, true)?;
        if accepted == Accepted::Stored {
            self.inner.touch();
            self.mark_dirty(bytes.len() as u64);
        }
        Ok(accepted)
    }

    /// Takes a block of a piece that has several: writes it in place, unverified. The piece counts as had only after
    /// [`Self::finish_piece`]. A block of a piece that is had is left out.
    ///
    /// # Errors
    /// [`StoreError::WrongLength`] when `bytes` has not the block's length; else as [`Self::accept_piece`].
    pub fn accept_block(&self, block: Block, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() != block.len() as usize {
            return Err(StoreError::WrongLength {
                got: bytes.len() as u64,
                want: block.len().into(),
            });
        }
        self.write(block.piece(), block.offset(), bytes, false)
            .map(drop)
    }

    /// Reads a piece back whose blocks were all written, and hashes it. Plain content is taken as it is: the caller
    /// must have written every block; [`Accepted::BadHash`] then means that the blocks were lost.
    ///
    /// # Errors
    /// As [`Self::accept_piece`].
    pub fn finish_piece(&self, piece: PieceIndex) -> Result<Accepted, StoreError> {
        let accepted = self.inner.finish(piece)?;
        if accepted == Accepted::Stored {
            self.inner.touch();
            self.mark_dirty(self.inner.lengths.len(piece).into());
        }
        Ok(accepted)
    }

    fn write(
        &self,
        piece: PieceIndex,
        offset: u32,
        bytes: &[u8],
        verified: bool,
    ) -> Result<Accepted, StoreError> {
        loop {
            if let Some(accepted) = self.inner.write(piece, offset, bytes, verified)? {
                return Ok(accepted);
            }
            self.mark_dirty(0);
            self.store.sync_content(&self.inner)?;
        }
    }
}

impl Inner {
    /// Writes into a missing piece. `verified`: the bytes are the whole piece and its hash is right. `None`: a claim
    /// must be withdrawn before anything is written.
    fn write(
        &self,
        piece: PieceIndex,
        offset: u32,
        bytes: &[u8],
        verified: bool,
    ) -> Result<Option<Accepted>, StoreError> {
        let _turn = self.turn();
        let file = {
            let mut state = self.state();
            // Under the lock of writers: nothing unverified is ever written over a piece that is had.
            if state.have.has(piece) {
                return Ok(Some(Accepted::Duplicate));
            }
            self.make_private(&mut state)?;
            if state.withdraw_first {
                return Ok(None);
            }
            state.in_write = true;
            state.unsynced = true;
            state.block_writes += 1;
            let number = state.block_writes;
            state.partial.insert(piece, number);
            state.file.clone()
        };
        let at = self.lengths.offset(piece) + u64::from(offset);
        let written = write_in_steps(&file, bytes, at, &self.write_steps);
        let mut state = self.state();
        state.in_write = false;
        let stamp = self.check_names(&file);
        if let Ok(stamp) = &stamp {
            state.stamp = *stamp;
        }
        written.map_err(StoreError::at(&self.data_path()))?;
        stamp?;
        if verified {
            // A sync that began during the write has taken the flag, but not these bytes.
            state.unsynced = true;
            self.gain(&mut state, piece);
        }
        Ok(Some(Accepted::Stored))
    }

    fn finish(&self, piece: PieceIndex) -> Result<Accepted, StoreError> {
        for _ in 0..HASH_TRIES {
            let (file, epoch, write) = {
                let mut state = self.state();
                if state.have.has(piece) {
                    return Ok(Accepted::Duplicate);
                }
                self.refresh(&mut state)?;
                let write = state.partial.get(&piece).copied();
                (state.file.clone(), state.epoch, write)
            };
            let good = match &self.hash_file {
                // Blocks that somebody else's change has cost are not in the list any more.
                None => write.is_some(),
                Some(hash_file) => self.hashes_right(&file, hash_file, &[piece])? == [true],
            };
            let mut state = self.state();
            if state.have.has(piece) {
                return Ok(Accepted::Duplicate);
            }
            self.refresh(&mut state)?;
            if state.epoch != epoch || state.partial.get(&piece).copied() != write {
                continue;
            }
            state.partial.remove(&piece);
            if !good {
                return Ok(Accepted::BadHash);
            }
            state.unsynced = true;
            self.gain(&mut state, piece);
            return Ok(Accepted::Stored);
        }
        Ok(Accepted::BadHash)
    }
}

fn write_in_steps(file: &File, bytes: &[u8], mut at: u64, steps: &WriteSteps) -> io::Result<()> {
    let (step, begun) = (steps.next(), processor_time());
    for part in bytes.chunks(step) {
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    steps.note(step, bytes.len(), processor_time().saturating_sub(begun));
    Ok(())
}
