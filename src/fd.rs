//! One open file from one process to another over a Unix socket (SCM_RIGHTS).

use rustix::{
    cmsg_space,
    fs::{FileType, OFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};
use tokio::{io::Interest, net::UnixStream};

/// Sends one byte that carries `file`.
pub(crate) async fn send(stream: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    stream
        .async_io(Interest::WRITABLE, || {
            let files = [file];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::Error::other("no room for the file descriptor"));
            }
            sendmsg(
                stream,
                &[IoSlice::new(b"f")],
                &mut control,
                SendFlags::NOSIGNAL,
            )?;
            Ok(())
        })
        .await
}

/// Receives the byte and the file that [`send`] sent. The file is closed on exec.
///
/// # Errors
/// Also when the byte came without a file or with several; a file that came is closed then.
pub(crate) async fn receive(stream: &UnixStream) -> io::Result<File> {
    stream
        .async_io(Interest::READABLE, || {
            let mut byte = [0];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let message = recvmsg(
                stream,
                &mut [IoSliceMut::new(&mut byte)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            if message.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut files = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(files) => Some(files),
                    _ => None,
                })
                .flatten();
            match (files.next(), files.next()) {
                (Some(file), None) => Ok(File::from(file)),
                _ => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "expected exactly one open file",
                )),
            }
        })
        .await
}

/// Whether `file` is a regular file that whoever opened it was allowed to read. A descriptor opened with `O_PATH` or
/// for writing only needs no right to read, so it proves nothing.
pub(crate) fn is_readable_file(file: impl AsFd) -> io::Result<bool> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    let access = flags & OFlags::RWMODE;
    let stat = rustix::fs::fstat(&file)?;
    Ok(!flags.contains(OFlags::PATH)
        && (access == OFlags::RDONLY || access == OFlags::RDWR)
        && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_file_goes_from_one_end_to_the_other() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();
        send(&a, file.as_fd()).await.unwrap();
        let mut text = String::new();
        receive(&b)
            .await
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "content");
    }

    #[tokio::test]
    async fn a_byte_without_a_file_is_an_error() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"f").await.unwrap();
        assert_eq!(
            receive(&b).await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        drop(a);
        assert_eq!(
            receive(&b).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn only_an_open_file_that_can_be_read_proves_the_right_to_read() {
        use rustix::fs::{Mode, open};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"x").unwrap();
        let is = |flags| is_readable_file(open(&path, flags, Mode::empty()).unwrap()).unwrap();
        assert!(is(OFlags::RDONLY) && is(OFlags::RDWR));
        assert!(!is(OFlags::WRONLY) && !is(OFlags::PATH));
        assert!(!is_readable_file(File::open(folder.path()).unwrap()).unwrap());
    }
}
