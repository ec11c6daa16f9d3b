//! Hashing and verifying files that are not in the store (`publish`, `verify`).

use crate::{
    FileError,
    hashing::{for_each_batch, hash_pieces},
    stamp::FileStamp,
};
use dosvc_content::{HashFileError, PieceHash, PieceIndex, PieceLengths, PiecesHashFile};
use std::{fs::File, path::Path};

/// Makes the hash file of a file: reads it once and hashes its pieces on up to `threads` threads. `progress` gets the
/// bytes hashed so far. A symbolic link is followed.
///
/// # Errors
/// [`FileError::Changed`] when somebody wrote to the file meanwhile, [`FileError::HashFile`] for a file longer than
/// 1 TiB or a piece size that hash files do not have, else what the system says.
pub fn hash_file_of(
    path: &Path,
    piece_size: u32,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<PiecesHashFile, FileError> {
    let (file, before) = open_regular(path)?;
    let lengths =
        PieceLengths::new(before.size, piece_size.into()).map_err(HashFileError::Lengths)?;
    let all: Vec<_> = lengths.pieces().collect();
    let mut hashes = vec![PieceHash::from([0; 32]); all.len()];
    let mut cut_short = false;
    let mut bytes = 0;
    for_each_batch(
        threads,
        &all,
        |pieces| hash_pieces(&file, &lengths, pieces),
        |piece, hash| {
            match hash {
                Some(hash) => hashes[piece.as_usize()] = hash,
                None => cut_short = true,
            }
            bytes += u64::from(lengths.len(piece));
            progress(bytes);
        },
    )
    .map_err(FileError::at(path))?;
    let after = FileStamp::of(&file).map_err(FileError::at(path))?;
    if cut_short || !after.same_bytes(&before) {
        return Err(FileError::Changed {
            path: path.to_path_buf(),
        });
    }
    Ok(PiecesHashFile::new(lengths, hashes)?)
}

/// Checks a file against its hash file on up to `threads` threads, and returns the pieces that are wrong, in order.
/// `progress` gets the bytes checked so far.
///
/// # Errors
/// [`FileError::WrongLength`] before anything is read; [`FileError::Changed`] when somebody wrote to the file
/// meanwhile; else what the system says.
pub fn verify_file(
    path: &Path,
    hash_file: &PiecesHashFile,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<PieceIndex>, FileError> {
    let (file, before) = open_regular(path)?;
    let want = hash_file.lengths().content_length();
    if before.size != want {
        return Err(FileError::WrongLength {
            path: path.to_path_buf(),
            got: before.size,
            want,
        });
    }
    verify_file_pieces(&file, path, hash_file, threads, progress)
}

/// [`verify_file`] for a file that is open; `path` is for errors.
pub(crate) fn verify_file_pieces(
    file: &File,
    path: &Path,
    hash_file: &PiecesHashFile,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<PieceIndex>, FileError> {
    let before = FileStamp::of(file).map_err(FileError::at(path))?;
    let lengths = hash_file.lengths();
    let all: Vec<_> = lengths.pieces().collect();
    let (mut bytes, mut bad) = (0, Vec::new());
    for_each_batch(
        threads,
        &all,
        |pieces| hash_pieces(file, &lengths, pieces),
        |piece, hash| {
            if hash != Some(hash_file.piece_hash(piece)) {
                bad.push(piece);
            }
            bytes += u64::from(lengths.len(piece));
            progress(bytes);
        },
    )
    .map_err(FileError::at(path))?;
    let after = FileStamp::of(file).map_err(FileError::at(path))?;
    if !after.same_bytes(&before) {
        return Err(FileError::Changed {
            path: path.to_path_buf(),
        });
    }
    bad.sort_unstable();
    Ok(bad)
}

fn open_regular(path: &Path) -> Result<(File, FileStamp), FileError> {
    // Looked at first: opening a pipe would wait for a writer.
    let kind = std::fs::metadata(path).map_err(FileError::at(path))?;
    if !kind.is_file() {
        return Err(FileError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    let file = File::open(path).map_err(FileError::at(path))?;
    let stamp = FileStamp::of(&file).map_err(FileError::at(path))?;
    Ok((file, stamp))
}
