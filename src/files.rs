//! Whole files: hashing, verifying, and putting a finished one at its destination.
//! Stand-in until the piece store's functions of the same names are here.

use dosvc_content::{HashFileBuilder, PieceHash, PieceIndex, PieceLengths, PiecesHashFile};
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    Copy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    pub(crate) method: Method,
}

pub(crate) fn place(
    content: &File,
    _len: u64,
    _expect: Option<&PiecesHashFile>,
    dest: &Path,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Delivered> {
    let temporary =
        tempfile::NamedTempFile::new_in(dest.parent().unwrap_or_else(|| Path::new(".")))?;
    let copied = io::copy(&mut &*content, &mut temporary.as_file())?;
    progress(copied);
    temporary.persist(dest)?;
    Ok(Delivered {
        method: Method::Copy,
    })
}

pub(crate) fn hash_file_of(
    path: &Path,
    piece_size: u32,
    _threads: usize,
    progress: &mut dyn FnMut(u64),
) -> io::Result<PiecesHashFile> {
    let mut file = File::open(path)?;
    let lengths =
        PieceLengths::new(file.metadata()?.len(), piece_size.into()).map_err(io::Error::other)?;
    let mut builder = HashFileBuilder::new(lengths);
    let mut done = 0;
    for piece in lengths.pieces() {
        let mut buffer = vec![0; lengths.len(piece) as usize];
        file.read_exact(&mut buffer)?;
        builder.push(PieceHash::of(&buffer));
        done += buffer.len() as u64;
        progress(done);
    }
    builder.finish().map_err(io::Error::other)
}

pub(crate) fn verify_file(
    path: &Path,
    hash_file: &PiecesHashFile,
    _threads: usize,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Vec<PieceIndex>> {
    let mut file = File::open(path)?;
    let lengths = hash_file.lengths();
    let mut bad = Vec::new();
    let mut done = 0;
    for piece in lengths.pieces() {
        let mut buffer = vec![0; lengths.len(piece) as usize];
        if file.read_exact(&mut buffer).is_err() || !hash_file.verify(piece, &buffer) {
            bad.push(piece);
        }
        done += buffer.len() as u64;
        progress(done);
    }
    Ok(bad)
}
