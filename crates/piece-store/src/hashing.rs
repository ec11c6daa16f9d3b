//! Hashing ranges of files, on several threads where that pays. Threads live only as long as the call.

use crate::limits::{HASH_CHUNK_BYTES, HASH_THREADS_MAX};
use dosvc_content::{PieceHash, PieceIndex};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

/// SHA-256 of a range of a file; `None` when the file ends before the range does.
pub(crate) fn hash_range(file: &File, offset: u64, len: u32) -> io::Result<Option<PieceHash>> {
    let mut chunk = [0; HASH_CHUNK_BYTES];
    let mut sha = Sha256::new();
    let (mut at, end) = (offset, offset + u64::from(len));
    while at < end {
        let want = usize::try_from(end - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        match file.read_at(&mut chunk[..want], at) {
            Ok(0) => return Ok(None),
            Ok(n) => {
                sha.update(&chunk[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Some(PieceHash::from(<[u8; 32]>::from(sha.finalize()))))
}

/// Threads for hashing when the caller names no number: what the machine has, within the limit.
pub(crate) fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `work` over the pieces on up to `threads` threads, and `sink` over the results on the calling thread, in no
/// particular order. After the first error no new piece is begun, and the error is returned.
pub(crate) fn for_each_piece<T: Send, E: Send>(
    threads: usize,
    pieces: &[PieceIndex],
    work: impl Fn(PieceIndex) -> Result<T, E> + Sync,
    mut sink: impl FnMut(PieceIndex, T),
) -> Result<(), E> {
    let threads = threads.min(pieces.len()).clamp(1, HASH_THREADS_MAX);
    if threads == 1 {
        for &piece in pieces {
            sink(piece, work(piece)?);
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
                while let Some(&piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if results.send((piece, work(piece))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        for (piece, result) in arrived {
            match result {
                Ok(value) => sink(piece, value),
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
