//! The seam between the driver and the kind of connection below it: TCP here, a QUIC stream where QUIC is known.

use super::Loaded;
use dosvc_polite::socket::BorrowedSocket;
use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What handshakes and proofs are exchanged over, before anything is driven.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// Something that bytes go through in both directions, in order.
pub trait Transport: Send + 'static {
    /// What is read from.
    type Read: ReadHalf;
    /// What is written to.
    type Write: WriteHalf;

    /// The two directions, to be used at the same time.
    fn into_halves(self) -> (Self::Read, Self::Write);
}

/// The receiving direction.
pub trait ReadHalf: Send {
    /// Reads what is there, at least a byte, into `first` and what does not fit there into `second`. 0 means
    /// that the peer will send no more. Cancelled, it has read nothing.
    fn read(
        &mut self,
        first: &mut [u8],
        second: &mut [u8],
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Waits until something may be there to read; may be wrong about it.
    fn ready(&mut self) -> impl Future<Output = io::Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The TCP socket below, if that is what it is: how background traffic is steered.
    fn socket(&self) -> Option<BorrowedSocket<'_>> {
        None
    }

    /// Says at how many bytes a second it is read at most, so that not much more is under way. Where there is a
    /// [`socket`](Self::socket), who reads through it sees to that.
    fn set_rate(&mut self, rate: Option<u64>) {
        let _ = rate;
    }

    /// Bytes that came on the network for this connection, with all headers, where somebody else than a
    /// [`socket`](Self::socket) counts them.
    fn counted(&self) -> Option<u64> {
        None
    }
}

/// The sending direction.
pub trait WriteHalf: Send {
    /// As [`ReadHalf::socket`]. Where there is one, [`Self::send_file`] loses nothing when it is cancelled.
    fn socket(&self) -> Option<BorrowedSocket<'_>> {
        None
    }

    /// Writes a part of `bytes`, at least a byte. `more` says that something follows at once, so that a short
    /// packet can wait for it.
    fn write(&mut self, bytes: &[u8], more: bool)
    -> impl Future<Output = io::Result<usize>> + Send;

    /// Says whether what is sent is to give way to whatever else is on the way, and whether somebody waits for it at the
    /// other end nevertheless. Where there is a [`socket`](Self::socket), who writes through it sees to that.
    fn set_background(&mut self, background: bool, waited_for: bool) {
        let _ = (background, waited_for);
    }

    /// As [`ReadHalf::counted`], of what was sent.
    fn counted(&self) -> Option<u64> {
        None
    }

    /// Asks the system to take no more while it holds this many bytes that have not left yet. Where it cannot be
    /// asked, nothing happens.
    fn set_unsent_max(&mut self, bytes: u32) {
        let _ = bytes;
    }

    /// Writes a part of the `len` bytes of the file from `offset` on: at least a byte. `loaded` is what is known of this
    /// file, for those who send from it directly.
    ///
    /// # Errors
    /// [`SendFileError::File`] when the file cannot be read or ends before `offset`.
    fn send_file(
        &mut self,
        file: &Arc<File>,
        offset: u64,
        len: usize,
        loaded: &mut Loaded,
    ) -> impl Future<Output = Result<usize, SendFileError>> + Send {
        let _ = loaded;
        async move {
            let bytes = read_part(file, offset, len)
                .await
                .map_err(SendFileError::File)?;
            let mut sent = 0;
            while sent < bytes.len() {
                match self.write(&bytes[sent..], false).await {
                    Ok(n) => sent += n,
                    Err(error) => return Err(SendFileError::Connection(error)),
                }
            }
            Ok(sent)
        }
    }
}

/// Why a part of a file was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendFileError {
    /// The file's fault.
    #[error("reading the file failed: {0}")]
    File(io::Error),
    /// The connection's.
    #[error("connection lost: {0}")]
    Connection(io::Error),
}

/// The most that is read from a file at once where the system cannot send from it directly.
const COPY_MAX: usize = 256 << 10;

/// Reads a part of the `len` bytes of a file from `offset` on, without stopping the runtime's thread: at least a byte, at
/// most 256 KiB.
///
/// # Errors
/// What the system says; `UnexpectedEof` when the file ends there.
pub async fn read_part(file: &Arc<File>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let len = len.min(COPY_MAX);
    #[cfg(target_os = "linux")]
    if let Some(bytes) = read_from_memory(file, offset, len) {
        return Ok(bytes);
    }
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; len];
        #[cfg(unix)]
        let n = std::os::unix::fs::FileExt::read_at(&*file, &mut bytes, offset)?;
        #[cfg(windows)]
        let n = std::os::windows::fs::FileExt::seek_read(&*file, &mut bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(n);
        Ok(bytes)
    })
    .await?
}

/// What of a part of a file is in memory already: copying that takes less time than asking another thread to.
#[cfg(target_os = "linux")]
fn read_from_memory(file: &File, offset: u64, len: usize) -> Option<Vec<u8>> {
    use rustix::io::{ReadWriteFlags, preadv2};
    let mut bytes = vec![0; len];
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let n = preadv2(file, into, offset, ReadWriteFlags::NOWAIT).ok()?;
    bytes.truncate(n);
    (n > 0).then_some(bytes)
}

impl Transport for TcpStream {
    type Read = OwnedReadHalf;
    type Write = OwnedWriteHalf;

    fn into_halves(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }
}

#[cfg(target_os = "linux")]
impl ReadHalf for OwnedReadHalf {
    async fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        let stream: &TcpStream = (*self).as_ref();
        let room = first.len() + second.len();
        loop {
            stream.readable().await?;
            let read = attempt(stream, Interest::READABLE, || {
                let mut bufs = [IoSliceMut::new(first), IoSliceMut::new(second)];
                let n = rustix::io::readv(stream, &mut bufs)?;
                // Epoll tells of whatever comes after this call, and the runtime knows that from what it told before.
                Ok((n, 0 < n && n < room))
            });
            if let Some(read) = read {
                return read;
            }
        }
    }

    async fn ready(&mut self) -> io::Result<()> {
        self.readable().await
    }

    fn socket(&self) -> Option<BorrowedSocket<'_>> {
        let stream: &TcpStream = self.as_ref();
        Some(stream.as_fd())
    }
}

#[cfg(not(target_os = "linux"))]
impl ReadHalf for OwnedReadHalf {
    async fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        loop {
            self.readable().await?;
            let mut bufs = [IoSliceMut::new(first), IoSliceMut::new(second)];
            match self.try_read_vectored(&mut bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl WriteHalf for OwnedWriteHalf {
    fn socket(&self) -> Option<BorrowedSocket<'_>> {
        let stream: &TcpStream = self.as_ref();
        Some(stream.as_fd())
    }

    async fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        use rustix::net::{SendFlags, send};
        let flags = SendFlags::NOSIGNAL
            | if more {
                SendFlags::MORE
            } else {
                SendFlags::empty()
            };
        let stream: &TcpStream = (*self).as_ref();
        stream
            .async_io(Interest::WRITABLE, || Ok(send(stream, bytes, flags)?))
            .await
    }

    fn set_unsent_max(&mut self, bytes: u32) {
        let stream: &TcpStream = (*self).as_ref();
        // Without it messages wait longer behind blocks.
        let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(bytes);
    }

    async fn send_file(
        &mut self,
        file: &Arc<File>,
        offset: u64,
        len: usize,
        loaded: &mut Loaded,
    ) -> Result<usize, SendFileError> {
        let stream: &TcpStream = (*self).as_ref();
        let part = offset..offset + len as u64;
        loop {
            // However long that takes: only then it matters what is in memory.
            stream.writable().await.map_err(SendFileError::Connection)?;
            let load = loaded.load(file, part.clone(), Instant::now());
            load.await.map_err(SendFileError::File)?;
            let sent = attempt(stream, Interest::WRITABLE, || {
                let mut at = offset;
                let n = rustix::fs::sendfile(stream, file, Some(&mut at), len)?;
                // Trying once more takes as long as to send 40 KiB.
                Ok((n, 0 < n && n < len && is_full(stream)))
            });
            if let Some(sent) = sent {
                return sent_of_file(sent);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl WriteHalf for OwnedWriteHalf {
    async fn write(&mut self, bytes: &[u8], _more: bool) -> io::Result<usize> {
        tokio::io::AsyncWriteExt::write(self, bytes).await
    }
}

/// One try at a socket that was said to be ready; `None` when it is not. `io` also says whether that was all for now:
/// trying once more only to hear so is spared.
#[cfg(target_os = "linux")]
fn attempt(
    stream: &TcpStream,
    interest: Interest,
    io: impl FnOnce() -> io::Result<(usize, bool)>,
) -> Option<io::Result<usize>> {
    let mut all = None;
    let done = stream.try_io(interest, || match io()? {
        (n, true) => {
            all = Some(n);
            Err(io::ErrorKind::WouldBlock.into())
        }
        (n, false) => Ok(n),
    });
    match (all, done) {
        (Some(n), _) => Some(Ok(n)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
        (None, done) => Some(done),
    }
}

/// Whether a socket is waited for that took less than it was given. Else that was all of the file, or an error comes.
#[cfg(target_os = "linux")]
fn is_full(socket: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut asked, Some(&Timespec::default())) == Ok(0)
}

/// sendfile(2) tells both ends' errors in one number, and the file's end by sending nothing.
#[cfg(target_os = "linux")]
fn sent_of_file(sent: io::Result<usize>) -> Result<usize, SendFileError> {
    match sent {
        Ok(0) => Err(SendFileError::File(io::ErrorKind::UnexpectedEof.into())),
        Ok(n) => Ok(n),
        Err(error) if is_about_the_connection(&error) => Err(SendFileError::Connection(error)),
        Err(error) => Err(SendFileError::File(error)),
    }
}

#[cfg(target_os = "linux")]
fn is_about_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::BrokenPipe
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::NotConnected
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
    )
}
