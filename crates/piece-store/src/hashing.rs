//! Hashing ranges of files, on several threads where that pays. Threads live only as long as the call.

use crate::limits::{HASH_BUFFER_BYTES, HASH_THREADS_MAX};
use dosvc_content::{PieceHash, PieceHasher, PieceIndex, PieceLengths};
use rustix::fs::Advice;
use std::{
    fs::File,
    io,
    num::NonZeroU64,
    os::unix::fs::FileExt as _,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

/// The most of a piece that is read at a time, in bytes.
const PART_MAX: usize = 64 << 10;
/// Parts of pieces begin where the system's pages do.
const PART_ALIGN: usize = 4 << 10;
/// What the system is told at a time of bytes that are read soon: no more than it takes on. The first parts of all pieces
/// come first, so that they are hashed while the rest is read.
const AHEAD_STEP: usize = 256 << 10;
/// How far ahead it is told, in each piece, in bytes.
const AHEAD: usize = 1 << 20;

/// SHA-256 of pieces where they lie in a file, in their order, several hashed together where the processor can; `None`
/// for one that the file ends in.
pub(crate) fn hash_pieces(
    file: &File,
    lengths: &PieceLengths,
    pieces: &[PieceIndex],
) -> io::Result<Vec<Option<PieceHash>>> {
    let mut hashes = Vec::with_capacity(pieces.len());
    // A content's last piece may be shorter than the others.
    for alike in pieces.chunk_by(|&a, &b| lengths.len(a) == lengths.len(b)) {
        for together in alike.chunks(PieceHash::at_once()) {
            let offsets: Vec<_> = together.iter().map(|&p| lengths.offset(p)).collect();
            hashes.extend(hash_together(file, &offsets, lengths.len(together[0]))?);
        }
    }
    Ok(hashes)
}

/// SHA-256 of ranges of the same length: a part of each is read, then these are hashed, and so on.
fn hash_together(file: &File, offsets: &[u64], len: u32) -> io::Result<Vec<Option<PieceHash>>> {
    let part_max = (HASH_BUFFER_BYTES / offsets.len()).min(PART_MAX) / PART_ALIGN * PART_ALIGN;
    let mut buffer = vec![0; part_max * offsets.len()];
    let mut is_whole = vec![true; offsets.len()];
    let mut hasher = PieceHasher::new(offsets.len());
    let len = len as usize;
    let (mut done, mut advised) = (0, 0);
    loop {
        // The system reads ahead for one who reads in order; so many places at once look like none.
        while offsets.len() > 1 && advised < len.min(done + AHEAD) {
            let step = AHEAD_STEP.min(len - advised);
            for offset in offsets {
                let (at, step) = (offset + advised as u64, NonZeroU64::new(step as u64));
                // Only advice.
                let _ = rustix::fs::fadvise(file, at, step, Advice::WillNeed);
            }
            advised += step;
        }
        let left = len - done;
        let part = left.min(part_max);
        let parts = buffer.chunks_exact_mut(part_max);
        for ((bytes, offset), is_whole) in parts.zip(offsets).zip(&mut is_whole) {
            if *is_whole {
                *is_whole = read_whole(file, &mut bytes[..part], offset + done as u64)?;
            }
        }
        let parts: Vec<&[u8]> = buffer.chunks_exact(part_max).map(|b| &b[..part]).collect();
        if left == part {
            let hashes = hasher.finish(&parts).zip(is_whole);
            return Ok(hashes.map(|(hash, is)| is.then_some(hash)).collect());
        }
        hasher.update(&parts);
        done += part;
    }
}

/// Fills the buffer; false when the file ends before.
fn read_whole(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Threads for hashing when the caller names no number: what the machine has, within the limit.
pub(crate) fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// [`for_each_batch`] for work on one piece at a time.
pub(crate) fn for_each_piece<T: Send, E: Send>(
    threads: usize,
    pieces: &[PieceIndex],
    work: impl Fn(PieceIndex) -> Result<T, E> + Sync,
    sink: impl FnMut(PieceIndex, T),
) -> Result<(), E> {
    let one_by_one = |pieces: &[PieceIndex]| pieces.iter().map(|&piece| work(piece)).collect();
    for_each_in_batches(threads, 1, pieces, one_by_one, sink)
}

/// Runs `work` over the pieces on up to `threads` threads, for as many at a time as are best hashed together, and `sink`
/// over what it returns for each of them on the calling thread, in no particular order. After the first error no new
/// pieces are begun, and the error is returned.
pub(crate) fn for_each_batch<T: Send, E: Send>(
    threads: usize,
    pieces: &[PieceIndex],
    work: impl Fn(&[PieceIndex]) -> Result<Vec<T>, E> + Sync,
    sink: impl FnMut(PieceIndex, T),
) -> Result<(), E> {
    for_each_in_batches(threads, PieceHash::at_once(), pieces, work, sink)
}

fn for_each_in_batches<T: Send, E: Send>(
    threads: usize,
    batch_max: usize,
    pieces: &[PieceIndex],
    work: impl Fn(&[PieceIndex]) -> Result<Vec<T>, E> + Sync,
    mut sink: impl FnMut(PieceIndex, T),
) -> Result<(), E> {
    let threads = threads.min(pieces.len()).clamp(1, HASH_THREADS_MAX);
    // As many batches for one thread as for another.
    let rounds = pieces.len().div_ceil(threads * batch_max);
    let batch = pieces.len().div_ceil((rounds * threads).max(1)).max(1);
    let mut sink = |pieces: &[PieceIndex], values: Vec<T>| {
        for (&piece, value) in pieces.iter().zip(values) {
            sink(piece, value);
        }
    };
    if threads == 1 {
        for pieces in pieces.chunks(batch) {
            sink(pieces, work(pieces)?);
        }
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let mut outcome = Ok(());
    std::thread::scope(|scope| {
        let (results, arrived) = mpsc::sync_channel(2 * threads);
        for _ in 0..threads {
            let (results, next, work) = (results.clone(), &next, &work);
            scope.spawn(move || {
                let turn = || {
                    pieces
                        .chunks(batch)
                        .nth(next.fetch_add(1, Ordering::Relaxed))
                };
                while let Some(pieces) = turn() {
                    if results.send((pieces, work(pieces))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        for (pieces, result) in arrived {
            match result {
                Ok(values) => sink(pieces, values),
                Err(e) => {
                    outcome = Err(e);
                    // Leaving drops the receiver, which stops the others at their next result.
                    break;
                }
            }
        }
    });
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::PieceLengths;

    #[test]
    fn every_piece_is_worked_on_once() {
        let lengths = PieceLengths::new(300 << 16, 1 << 16).unwrap();
        let pieces: Vec<_> = lengths.pieces().collect();
        for threads in [1, 3, 1000] {
            let mut seen = vec![0; pieces.len()];
            for_each_piece(
                threads,
                &pieces,
                |p| Ok::<_, ()>(p.get()),
                |p, value| {
                    assert_eq!(p.get(), value);
                    seen[p.as_usize()] += 1;
                },
            )
            .unwrap();
            assert!(seen.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn every_piece_of_any_batch_is_worked_on_once() {
        let lengths = PieceLengths::new(300 << 16, 1 << 16).unwrap();
        let pieces: Vec<_> = lengths.pieces().collect();
        for (count, threads, batch_max) in [
            (0, 1, 16),
            (1, 4, 16),
            (7, 3, 16),
            (100, 4, 16),
            (300, 1, 5),
        ] {
            let mut seen = vec![0; count];
            let work = |batch: &[PieceIndex]| {
                assert!((1..=batch_max).contains(&batch.len()));
                Ok::<_, ()>(batch.iter().map(|p| p.get()).collect())
            };
            let sink = |p: PieceIndex, value| {
                assert_eq!(p.get(), value);
                seen[p.as_usize()] += 1;
            };
            for_each_in_batches(threads, batch_max, &pieces[..count], work, sink).unwrap();
            assert!(seen.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn pieces_of_a_file_have_their_hashes_and_those_that_it_ends_in_have_none() {
        const PIECE: usize = 1 << 16;
        let bytes: Vec<u8> = (0..20 * PIECE + 99)
            .map(|i| (i / 7 + i / PIECE).to_le_bytes()[0])
            .collect();
        let lengths = PieceLengths::new(bytes.len() as u64, PIECE as u64).unwrap();
        let pieces: Vec<_> = lengths.pieces().collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let hash = |p: &PieceIndex| {
            let at = p.as_usize() * PIECE;
            PieceHash::of(&bytes[at..(at + PIECE).min(bytes.len())])
        };
        for range in [0..21, 3..4, 5..16, 19..21, 20..21] {
            let pieces = &pieces[range];
            let want: Vec<_> = pieces.iter().map(|p| Some(hash(p))).collect();
            assert_eq!(hash_pieces(&file, &lengths, pieces).unwrap(), want);
        }
        file.set_len((10 * PIECE + PIECE / 2) as u64).unwrap();
        let whole = |p: &PieceIndex| (p.get() < 10).then(|| hash(p));
        let want: Vec<_> = pieces.iter().map(whole).collect();
        assert_eq!(hash_pieces(&file, &lengths, &pieces).unwrap(), want);
    }

    #[test]
    fn an_error_ends_the_work() {
        let lengths = PieceLengths::new(300 << 16, 1 << 16).unwrap();
        let pieces: Vec<_> = lengths.pieces().collect();
        for threads in [1, 4] {
            let fail_at_7 = |p: PieceIndex| if p.get() == 7 { Err("seven") } else { Ok(()) };
            let mut done = 0;
            let result = for_each_piece(threads, &pieces, fail_at_7, |_, ()| done += 1);
            assert_eq!(result, Err("seven"));
            assert!(done < 300);
        }
        let nothing = for_each_piece(4, &[], |_| Err::<(), _>("called"), |_, ()| {});
        assert_eq!(nothing, Ok(()));
    }
}
