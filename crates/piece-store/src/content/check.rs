//! Bytes that go out: only what was hashed in this process's life, from a file that is as it was then.

use super::{Content, Inner, accept::HASH_TRIES};
use crate::{ServeError, StoreError, hashing, snapshot};
use dosvc_content::{Block, PieceIndex, PiecesHashFile};
use rustix::{
    fs::{Advice, SeekFrom},
    io::Errno,
};
use std::{
    fs::File,
    num::NonZeroU64,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tracing::warn;

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
    /// The content's file. Its own read position must not be used.
    pub file: Arc<File>,
    /// Where the block begins in it, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u32,
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
    /// Where a block lies, if it may be served now. Costs one `fstat`; does not read the data.
    ///
    /// # Errors
    /// [`ServeError::Unchecked`] and [`ServeError::Changed`] ask for [`Self::check_piece`]; [`ServeError::Missing`]
    /// is final until the piece is stored. Plain content is never served: always `Missing`.
    pub fn file_range(&self, block: Block) -> Result<FileRange, ServeError> {
        let inner = &self.inner;
        let mut state = inner.state();
        if inner.hash_file.is_none() || !state.have.has(block.piece()) {
            return Err(ServeError::Missing);
        }
        if inner.refresh(&mut state)? {
            return Err(ServeError::Changed);
        }
        if !state.checked.has(block.piece()) {
            return Err(ServeError::Unchecked);
        }
        inner.touch();
        Ok(FileRange {
            file: state.file.clone(),
            offset: inner.lengths.block_offset(block),
            length: block.len(),
        })
    }

    /// Reads a block of a piece that is had, and hashes the piece first if it is unchecked.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when the piece is not had (any more), [`StoreError::WrongLength`] when `into` has not
    /// the block's length, and what the disk says.
    pub fn read_block(&self, block: Block, into: &mut [u8]) -> Result<(), StoreError> {
        if into.len() != block.len() as usize {
            return Err(StoreError::WrongLength {
                got: into.len() as u64,
                want: block.len().into(),
            });
        }
        let inner = &self.inner;
        let piece = block.piece();
        for _ in 0..HASH_TRIES {
            let (file, epoch) = {
                let mut state = inner.state();
                let changed = inner.refresh(&mut state)?;
                if !state.have.has(piece) {
                    return Err(StoreError::Missing { piece });
                }
                if changed || !state.checked.has(piece) {
                    drop(state);
                    self.check_piece(piece)?;
                    continue;
                }
                (state.file.clone(), state.epoch)
            };
            let read = file.read_exact_at(into, inner.lengths.block_offset(block));
            let mut state = inner.state();
            inner.refresh(&mut state)?;
            if state.epoch == epoch {
                read.map_err(StoreError::at(&inner.data_path()))?;
                inner.touch();
                return Ok(());
            }
        }
        Err(StoreError::Missing { piece })
    }

    /// Reads and hashes a piece that is had. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`StoreError`] when the disk refuses to say; the piece stays as it was.
    pub fn check_piece(&self, piece: PieceIndex) -> Result<PieceCheck, StoreError> {
        Ok(self.check_pieces(&[piece])?[0])
    }

    /// [`Self::check_piece`] for several, hashed together where the processor can; in their order.
    fn check_pieces(&self, pieces: &[PieceIndex]) -> Result<Vec<PieceCheck>, StoreError> {
        let inner = &self.inner;
        let (mut to_check, mut lost) = (pieces.to_vec(), Vec::new());
        for _ in 0..HASH_TRIES {
            let mut changing = Vec::new();
            for (&piece, look) in to_check.iter().zip(inner.look_at(&to_check)?) {
                match look {
                    Look::Good => {}
                    Look::Missing => lost.push(piece),
                    Look::Bad => {
                        warn!(key = %inner.key, piece = piece.get(), "piece is damaged on disk");
                        self.mark_dirty(0);
                        lost.push(piece);
                    }
                    Look::Changing => changing.push(piece),
                }
            }
            to_check = changing;
            if to_check.is_empty() {
                break;
            }
        }
        if !to_check.is_empty() {
            // Somebody keeps writing to it: what is there is not ours any more.
            let mut state = inner.state();
            for &piece in &to_check {
                inner.lose(&mut state, piece);
            }
            drop(state);
            self.mark_dirty(0);
            lost.extend(to_check);
        }
        let check = |piece| {
            if lost.contains(piece) {
                PieceCheck::Lost
            } else {
                PieceCheck::Good
            }
        };
        Ok(pieces.iter().map(check).collect())
    }

    /// The next piece that idle time may be spent on with [`Self::check_piece`]: all that are had, in order, one round
    /// per `every`. `None` when there is none, or the next round is not due. The kernel is told to forget the
    /// piece's pages, so that the check reads the disk.
    pub fn scrub_next(&self, now: SystemTime, every: Duration) -> Option<PieceIndex> {
        let inner = &self.inner;
        inner.hash_file.as_ref()?;
        let mut state = inner.state();
        let last = snapshot::from_ms(state.record.progress.scrubbed_ms);
        if state.scrub_at == 0 && now.duration_since(last).is_ok_and(|age| age < every) {
            return None;
        }
        let rest = state.scrub_at..inner.lengths.piece_count();
        let next = rest
            .filter_map(|index| inner.lengths.piece(index))
            .find(|&piece| state.have.has(piece));
        let Some(piece) = next else {
            state.scrub_at = 0;
            if !state.have.is_empty() {
                state.record.progress.scrubbed_ms = snapshot::to_ms(now);
                drop(state);
                self.mark_dirty(0);
            }
            return None;
        };
        state.scrub_at = piece.get() + 1;
        let (at, len) = (inner.lengths.offset(piece), inner.lengths.len(piece));
        // Only advice: what is not dropped is read from memory.
        let _ = rustix::fs::fadvise(
            &*state.file,
            at,
            NonZeroU64::new(len.into()),
            Advice::DontNeed,
        );
        Some(piece)
    }

    /// The pieces that are had but were not hashed in this process's life (or before the file was changed): what
    /// [`Self::check_piece`] is due for before the whole content can be vouched for.
    pub fn unchecked(&self) -> Vec<PieceIndex> {
        let state = self.inner.state();
        state
            .have
            .ones()
            .filter(|p| !state.checked.has(*p))
            .collect()
    }

    /// The missing pieces where the file has data: an earlier life may have written them without claiming them any
    /// more. [`Self::recover_piece`] tells. Costs a few system calls for each run of data and reads none of it; empty
    /// for plain content, where nothing could tell.
    ///
    /// # Errors
    /// [`StoreError`] when the disk refuses to say.
    pub fn unclaimed(&self) -> Result<Vec<PieceIndex>, StoreError> {
        if self.inner.hash_file.is_none() {
            return Ok(Vec::new());
        }
        self.inner.missing_with_data()
    }

    /// Hashes a missing piece where it lies. When it is right it is had and checked from now on, and true is
    /// returned. Downloading may go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the disk refuses; the piece stays missing.
    pub fn recover_piece(&self, piece: PieceIndex) -> Result<bool, StoreError> {
        let found = self.inner.look_for(&[piece])? == [true];
        if found {
            self.mark_dirty(self.inner.lengths.len(piece).into());
        }
        Ok(found)
    }

    /// Finds pieces again that were written but not claimed when the process was killed: hashes, on several threads,
    /// every missing piece where the file has data. Reads no more than the missing pieces' bytes; downloading may go
    /// on meanwhile. `progress` gets the bytes hashed so far.
    ///
    /// # Errors
    /// [`StoreError`] when the disk refuses; what was found before stays found.
    pub fn recover(&self, progress: &mut dyn FnMut(u64)) -> Result<Recovered, StoreError> {
        let inner = &self.inner;
        let candidates = self.unclaimed()?;
        let mut recovered = Recovered {
            looked_at: u32::try_from(candidates.len()).unwrap_or(u32::MAX),
            found: 0,
        };
        let (mut bytes, mut found_bytes) = (0, 0);
        let outcome = hashing::for_each_batch(
            self.store.hash_threads(),
            &candidates,
            |pieces| inner.look_for(pieces),
            |piece, found| {
                let len = u64::from(inner.lengths.len(piece));
                bytes += len;
                if found {
                    recovered.found += 1;
                    found_bytes += len;
                }
                progress(bytes);
            },
        );
        if recovered.found > 0 {
            self.mark_dirty(found_bytes);
        }
        outcome.map(|()| recovered)
    }

    /// Checks every piece that is had and unchecked, on several threads. Returns those that were lost.
    pub(super) fn check_all(
        &self,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<PieceIndex>, StoreError> {
        let inner = &self.inner;
        let unchecked: Vec<_> = {
            let mut state = inner.state();
            inner.refresh(&mut state)?;
            let unchecked = state.have.ones().filter(|&p| !state.checked.has(p));
            unchecked.collect()
        };
        let (mut bytes, mut lost) = (0, Vec::new());
        hashing::for_each_batch(
            self.store.hash_threads(),
            &unchecked,
            |pieces| self.check_pieces(pieces),
            |piece, check| {
                if check == PieceCheck::Lost {
                    lost.push(piece);
                }
                bytes += u64::from(inner.lengths.len(piece));
                progress(bytes);
            },
        )?;
        lost.sort_unstable();
        Ok(lost)
    }
}

enum Look {
    Good,
    Bad,
    /// Not had.
    Missing,
    /// The file changed while it was hashed.
    Changing,
}

impl Inner {
    /// Hashes pieces that are had and acts on the results, which are returned in the pieces' order.
    fn look_at(&self, pieces: &[PieceIndex]) -> Result<Vec<Look>, StoreError> {
        let (file, epoch, had) = {
            let mut state = self.state();
            self.refresh(&mut state)?;
            let had = pieces.iter().copied().filter(|&p| state.have.has(p));
            (state.file.clone(), state.epoch, had.collect::<Vec<_>>())
        };
        let good = match &self.hash_file {
            Some(hash_file) => self.hashes_right(&file, hash_file, &had)?,
            // There is nothing to compare with; a change by somebody else has shown above.
            None => vec![true; had.len()],
        };
        let mut state = self.state();
        self.refresh(&mut state)?;
        let looks = pieces.iter().map(|&piece| {
            let good = had.iter().position(|&p| p == piece).map(|at| good[at]);
            match good.filter(|_| state.have.has(piece)) {
                None => Look::Missing,
                Some(_) if state.epoch != epoch => Look::Changing,
                Some(true) => {
                    state.checked.insert(piece);
                    Look::Good
                }
                Some(false) => {
                    self.lose(&mut state, piece);
                    Look::Bad
                }
            }
        });
        Ok(looks.collect())
    }

    /// Hashes pieces that are missing; says of each, in their order, whether its bytes are there after all.
    pub(super) fn look_for(&self, pieces: &[PieceIndex]) -> Result<Vec<bool>, StoreError> {
        let Some(hash_file) = &self.hash_file else {
            return Ok(vec![false; pieces.len()]);
        };
        let (file, epoch, writes) = {
            let mut state = self.state();
            self.refresh(&mut state)?;
            let writes = pieces.iter().map(|piece| state.partial.get(piece).copied());
            (state.file.clone(), state.epoch, writes.collect::<Vec<_>>())
        };
        let good = self.hashes_right(&file, hash_file, pieces)?;
        if !good.contains(&true) {
            return Ok(good);
        }
        let mut state = self.state();
        self.refresh(&mut state)?;
        let found = pieces.iter().zip(writes).zip(good);
        let found = found.map(|((&piece, write), good)| {
            // A block that was written since the hash began may have spoilt it.
            let same = state.epoch == epoch && state.partial.get(&piece).copied() == write;
            if !good || !same || state.have.has(piece) {
                return false;
            }
            state.unsynced = true;
            self.gain(&mut state, piece);
            true
        });
        Ok(found.collect())
    }

    /// Whether the pieces' bytes in the file have the right hashes, in their order.
    pub(super) fn hashes_right(
        &self,
        file: &File,
        hash_file: &PiecesHashFile,
        pieces: &[PieceIndex],
    ) -> Result<Vec<bool>, StoreError> {
        let hashes = hashing::hash_pieces(file, &self.lengths, pieces)
            .map_err(StoreError::at(&self.data_path()))?;
        let right = pieces.iter().zip(hashes);
        let right = right.map(|(&piece, hash)| hash == Some(hash_file.piece_hash(piece)));
        Ok(right.collect())
    }

    /// The missing pieces whose whole range has storage behind it.
    fn missing_with_data(&self) -> Result<Vec<PieceIndex>, StoreError> {
        let (file, missing) = {
            let state = self.state();
            (state.file.clone(), state.have.clone())
        };
        let mut candidates = Vec::new();
        let mut data = 0..0;
        for piece in missing.zeros() {
            let start = self.lengths.offset(piece);
            let end = start + u64::from(self.lengths.len(piece));
            if data.end < end {
                let Some(next) =
                    data_after(&file, start).map_err(StoreError::at(&self.data_path()))?
                else {
                    break;
                };
                data = next;
            }
            if data.start <= start && end <= data.end {
                candidates.push(piece);
            }
        }
        Ok(candidates)
    }
}

/// The first run of data at or after `at`; `None` when only a hole is left.
fn data_after(file: &File, at: u64) -> Result<Option<std::ops::Range<u64>>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
        Err(e) => return Err(e),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => Ok(Some(start..end)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(start..u64::MAX)),
        Err(e) => Err(e),
    }
}
