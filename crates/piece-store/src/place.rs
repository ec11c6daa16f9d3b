//! Handing a file over: whole at its destination, or not there at all.
//!
//! The file is made without a name (`O_TMPFILE`) in the destination's folder, or, where the file system cannot do
//! that, under a random name; it gets the caller's owner and mode that way. It is filled by sharing blocks with the
//! cache (`FICLONE`); failing that the cache's own file is linked, if its owner fits; failing that it is copied and
//! hashed on the way. Only then, synced if that is asked for,
//! it takes the destination's name, in one step.

use crate::{
    DeliverError, FileError,
    hashing::{for_each_piece, threads_default},
    limits::COPY_CHUNK_BYTES,
    stamp::FileStamp,
    verify_file_pieces,
};
use dosvc_content::{PieceHash, PieceIndex, PiecesHashFile};
use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

/// Names of a cache file that was handed over as a hard link: the cache's and its owner's.
const NAMES_MAX: u64 = 2;
/// When a file that is handed over survives a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Before it has its name. Takes as long as the disk takes.
    Now,
    /// When the system gets to it, as with any file that a program writes. Until then a power cut may leave the name
    /// with some of the bytes.
    Later,
}

/// How a file came to its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// It shares its blocks with the cache until one side writes.
    Reflink,
    /// It is the cache's file under a second name.
    HardLink,
    /// It is a copy.
    Copy,
}

/// A file that was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// How.
    pub method: Method,
}

/// Puts the first `len` bytes of a complete content's file at `dest`, with the owner and mode of a file that this
/// process makes there.
///
/// With `expect`, every byte that arrives is checked, whichever way it comes. Without it the caller vouches for the
/// content: [`crate::Content::open_for_delivery`] gives only files whose pieces were all checked. `progress` gets the
/// bytes done so far. A file at `dest` is replaced in one step; links are not followed.
///
/// # Errors
/// [`DeliverError`] names the destination and the cause. Nothing half written stays, and `dest` is as it was.
pub fn place(
    content: &File,
    len: u64,
    expect: Option<&PiecesHashFile>,
    dest: &Path,
    durability: Durability,
    progress: &mut dyn FnMut(u64),
) -> Result<Delivered, DeliverError> {
    let source = Source {
        file: content,
        len,
        hashes: expect,
        checked_as: None,
    };
    source.place(dest, durability, progress)
}

/// A complete content's file, and what is known of its bytes.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a File,
    pub(crate) len: u64,
    /// Checks what is copied.
    pub(crate) hashes: Option<&'a PiecesHashFile>,
    /// The file's stamp when all its pieces were checked: sharing it needs no second look.
    pub(crate) checked_as: Option<FileStamp>,
}

impl Source<'_> {
    pub(crate) fn place(
        &self,
        dest: &Path,
        durability: Durability,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Delivered, DeliverError> {
        if self
            .hashes
            .is_some_and(|h| h.lengths().content_length() != self.len)
        {
            return Err(DeliverError::Changed);
        }
        let before = self.stamp(dest)?;
        let checked = self.checked_as.unwrap_or(before);
        if before.size != self.len || !before.same_bytes(&checked) {
            return Err(DeliverError::Changed);
        }
        let folder = Folder::open(dest, durability)?;
        if folder.has(&before) {
            if self.checked_as.is_none() {
                self.check(self.file, dest, progress)?;
            }
            progress(self.len);
            return Ok(Delivered {
                method: Method::HardLink,
            });
        }
        let temp = folder.new_file()?;
        let method = if rustix::fs::ioctl_ficlone(&temp.file, self.file).is_ok() {
            if self.checked_as.is_none() {
                self.check(&temp.file, dest, progress)?;
            }
            Method::Reflink
        } else if self.link_fits(&temp.file) {
            if self.checked_as.is_none() {
                self.check(self.file, dest, progress)?;
            }
            Method::HardLink
        } else {
            Method::Copy
        };
        // What was shared is what was checked.
        if method != Method::Copy && !self.stamp(dest)?.same_bytes(&before) {
            return Err(DeliverError::Changed);
        }
        if method == Method::HardLink && self.link(&folder)? {
            progress(self.len);
            return Ok(Delivered { method });
        }
        if method == Method::Reflink {
            folder.publish(temp)?;
            progress(self.len);
            return Ok(Delivered { method });
        }
        self.copy(&temp.file, dest, progress)?;
        folder.publish(temp)?;
        Ok(Delivered {
            method: Method::Copy,
        })
    }

    fn stamp(&self, dest: &Path) -> Result<FileStamp, DeliverError> {
        FileStamp::of(self.file).map_err(DeliverError::at(dest))
    }

    fn check(
        &self,
        file: &File,
        dest: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeliverError> {
        let Some(hashes) = self.hashes else {
            return Ok(());
        };
        let pieces = verify_file_pieces(file, dest, hashes, threads_default(), progress).map_err(
            |e| match e {
                FileError::Io { path, source } => DeliverError::Io { path, source },
                _ => DeliverError::Changed,
            },
        )?;
        if pieces.is_empty() {
            Ok(())
        } else {
            Err(DeliverError::Damaged { pieces })
        }
    }

    /// Whether the cache's file can stand in for a new one: same file system, owner and group, and the mode made
    /// the same (the cache's folder is private, so that its file may have any mode). A file that has a name elsewhere
    /// already is somebody's: two people's files must not be one.
    fn link_fits(&self, new: &File) -> bool {
        let (Ok(new), Ok(own)) = (rustix::fs::fstat(new), rustix::fs::fstat(self.file)) else {
            return false;
        };
        let same_owner =
            (new.st_dev, new.st_uid, new.st_gid) == (own.st_dev, own.st_uid, own.st_gid);
        same_owner
            && own.st_nlink == 1
            && (new.st_mode == own.st_mode
                || rustix::fs::fchmod(self.file, Mode::from_raw_mode(new.st_mode)).is_ok())
    }

    /// Links the cache's file; false when the system refuses and a copy must do.
    fn link(&self, folder: &Folder<'_>) -> Result<bool, DeliverError> {
        folder.sync_file(self.file)?;
        match folder.link(self.file) {
            // Linked for somebody else at the same moment; a copy replaces this link.
            Ok(()) if self.stamp(folder.dest)?.names > NAMES_MAX => Ok(false),
            Ok(()) => folder.sync().map(|()| true),
            Err(
                Errno::PERM
                | Errno::ACCESS
                | Errno::XDEV
                | Errno::MLINK
                | Errno::NOENT
                | Errno::OPNOTSUPP,
            ) => Ok(false),
            Err(e) => Err(folder.error(e)),
        }
    }

    fn copy(
        &self,
        to: &File,
        dest: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeliverError> {
        if self.len > 0 {
            match rustix::fs::fallocate(to, FallocateFlags::empty(), 0, self.len) {
                // A full disk shows before anything is copied; where this is not supported, it shows later.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
                Err(e) => return Err(DeliverError::at(dest)(e)),
            }
        }
        let Some(hashes) = self.hashes else {
            return copy_bytes(self.file, to, self.len, progress).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => DeliverError::Changed,
                _ => DeliverError::at(dest)(e),
            });
        };
        let lengths = hashes.lengths();
        let all: Vec<_> = lengths.pieces().collect();
        let (mut bytes, mut pieces) = (0, Vec::new());
        for_each_piece(
            threads_default(),
            &all,
            |piece| {
                let (at, len) = (lengths.offset(piece), lengths.len(piece));
                copy_and_hash(self.file, to, at, len)
            },
            |piece: PieceIndex, hash| {
                if hash != Some(hashes.piece_hash(piece)) {
                    pieces.push(piece);
                }
                bytes += u64::from(lengths.len(piece));
                progress(bytes);
            },
        )
        .map_err(DeliverError::at(dest))?;
        if pieces.is_empty() {
            return Ok(());
        }
        pieces.sort_unstable();
        Err(DeliverError::Damaged { pieces })
    }
}

/// Copies a range to the same place in another file and hashes it on the way; `None` when the source is too short.
fn copy_and_hash(from: &File, to: &File, offset: u64, len: u32) -> io::Result<Option<PieceHash>> {
    let mut chunk = [0; COPY_CHUNK_BYTES];
    let mut sha = Sha256::new();
    let (mut at, end) = (offset, offset + u64::from(len));
    while at < end {
        let want = usize::try_from(end - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        match from.read_at(&mut chunk[..want], at) {
            Ok(0) => return Ok(None),
            Ok(n) => {
                sha.update(&chunk[..n]);
                to.write_all_at(&chunk[..n], at)?;
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Some(PieceHash::from(<[u8; 32]>::from(sha.finalize()))))
}

/// Copies the first `len` bytes, inside the kernel where it can.
fn copy_bytes(from: &File, to: &File, len: u64, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
    const STEP_BYTES: usize = 8 << 20;
    let (mut read_at, mut write_at) = (0, 0);
    while read_at < len {
        let step = usize::try_from(len - read_at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        let in_kernel =
            rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), step);
        match in_kernel {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let mut chunk = [0; COPY_CHUNK_BYTES];
                let want = step.min(chunk.len());
                from.read_exact_at(&mut chunk[..want], read_at)?;
                to.write_all_at(&chunk[..want], read_at)?;
                read_at += want as u64;
                write_at = read_at;
            }
            Err(e) => return Err(e.into()),
        }
        progress(read_at);
    }
    Ok(())
}

/// The destination's folder, held open so that nobody can swap it under the work.
struct Folder<'a> {
    dir: OwnedFd,
    name: &'a OsStr,
    dest: &'a Path,
    durability: Durability,
}

/// A file without a name, or with a temporary one that goes with it.
struct TempFile<'a> {
    file: File,
    name: Option<TempName<'a>>,
}

struct TempName<'a> {
    dir: &'a OwnedFd,
    name: OsString,
}

impl Drop for TempName<'_> {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
    }
}

impl<'a> Folder<'a> {
    fn open(dest: &'a Path, durability: Durability) -> Result<Self, DeliverError> {
        let is_folder = || DeliverError::IsFolder {
            path: dest.to_path_buf(),
        };
        let name = dest.file_name().ok_or_else(is_folder)?;
        if dest.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(is_folder());
        }
        let parent = match dest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => DeliverError::NoFolder {
                path: parent.to_path_buf(),
            },
            e => DeliverError::at(dest)(e),
        })?;
        let folder = Self {
            dir,
            name,
            dest,
            durability,
        };
        // Followed, so that a link to a device (/dev/stdout) is left alone too.
        match rustix::fs::statat(&folder.dir, name, AtFlags::empty()) {
            Err(_) => Ok(folder),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(folder),
                FileType::Directory => Err(is_folder()),
                _ => Err(DeliverError::NotAFile {
                    path: dest.to_path_buf(),
                }),
            },
        }
    }

    /// Whether the destination is this very file.
    fn has(&self, file: &FileStamp) -> bool {
        rustix::fs::statat(&self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (file.device, file.inode))
    }

    fn error(&self, e: Errno) -> DeliverError {
        match e {
            Errno::ISDIR => DeliverError::IsFolder {
                path: self.dest.to_path_buf(),
            },
            e => DeliverError::at(self.dest)(e),
        }
    }

    fn new_file(&self) -> Result<TempFile<'_>, DeliverError> {
        // The umask, the folder's group and its default ACL apply, as for any file that the caller makes.
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let unnamed = rustix::fs::openat(&self.dir, ".", flags | OFlags::TMPFILE, mode);
        // Giving it a name later takes /proc.
        if let Ok(file) = unnamed
            && rustix::fs::stat(proc_path(&file)).is_ok()
        {
            let file = File::from(file);
            return Ok(TempFile { file, name: None });
        }
        let name = temp_name();
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.dir, &name, flags, mode).map_err(|e| self.error(e))?;
        Ok(TempFile {
            file: file.into(),
            name: Some(TempName {
                dir: &self.dir,
                name,
            }),
        })
    }

    /// Gives a finished file the destination's name.
    fn publish(&self, temp: TempFile<'_>) -> Result<(), DeliverError> {
        self.sync_file(&temp.file)?;
        match &temp.name {
            None => self.link(&temp.file),
            Some(temp) => rustix::fs::renameat(&self.dir, &temp.name, &self.dir, self.name),
        }
        .map_err(|e| self.error(e))?;
        self.sync()
    }

    /// Gives an open file the destination's name, in one step, whatever has that name now.
    fn link(&self, file: &File) -> Result<(), Errno> {
        let from = proc_path(file);
        let link =
            |name: &OsStr| rustix::fs::linkat(CWD, &from, &self.dir, name, AtFlags::SYMLINK_FOLLOW);
        match link(self.name) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
        let temp = TempName {
            dir: &self.dir,
            name: temp_name(),
        };
        link(&temp.name)?;
        // When both names are the same file by now, this does nothing; the temporary one goes either way.
        rustix::fs::renameat(&self.dir, &temp.name, &self.dir, self.name)
    }

    fn sync(&self) -> Result<(), DeliverError> {
        self.sync_file(&self.dir)
    }

    fn sync_file(&self, file: &impl AsFd) -> Result<(), DeliverError> {
        match self.durability {
            Durability::Now => rustix::fs::fsync(file).map_err(|e| self.error(e)),
            Durability::Later => Ok(()),
        }
    }
}

fn proc_path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn temp_name() -> OsString {
    // Seeded by the system at random: nobody can put a file in the way.
    let random = RandomState::new().hash_one(0);
    format!(".dosvc-{random:016x}.part").into()
}
