//! A connection as it is read and written.

use super::{Counted, Id, net::Shared};
use smoltcp::socket::tcp::{RecvError, Socket, State};
use std::{
    future::poll_fn,
    io,
    net::SocketAddrV6,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that somebody has: it ends when nobody has either direction any more.
struct Held {
    shared: Arc<Shared>,
    id: Id,
    peer: SocketAddrV6,
}

impl Held {
    /// Does something with the connection.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Socket<'static>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut stack = self.shared.stack();
        match stack.socket(self.id) {
            Some(socket) => work(socket),
            None => Poll::Ready(Err(reset())),
        }
    }

    /// Reads what is there, at least a byte; 0 at the end.
    fn poll_read(&self, waker: &Waker, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut opens = false;
        let read = self.with(|socket| {
            let full = socket.recv_queue() * 2 > socket.recv_capacity();
            match socket.recv_slice(into) {
                Ok(0) if !into.is_empty() => {
                    socket.register_recv_waker(waker);
                    Poll::Pending
                }
                Ok(length) => {
                    // The peer waits for room only then.
                    opens = full;
                    Poll::Ready(Ok(length))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(0)),
                Err(RecvError::InvalidState) => Poll::Ready(Err(reset())),
            }
        });
        if opens {
            self.shared.wake();
        }
        read
    }

    /// Waits until something is there to be read, the end included.
    fn poll_ready(&self, waker: &Waker) -> Poll<io::Result<()>> {
        self.with(|socket| {
            if socket.can_recv() || !socket.may_recv() {
                return Poll::Ready(Ok(()));
            }
            socket.register_recv_waker(waker);
            Poll::Pending
        })
    }

    fn poll_write(&self, waker: &Waker, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|socket| match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Ok(length) => Poll::Ready(Ok(length)),
            Err(_) => Poll::Ready(Err(reset())),
        });
        if written.is_ready() {
            self.shared.wake();
        }
        written
    }

    fn poll_shutdown(&self) -> Poll<io::Result<()>> {
        let closed = self.with(|socket| {
            socket.close();
            Poll::Ready(Ok(()))
        });
        self.shared.wake();
        closed
    }

    fn counted(&self) -> Counted {
        self.shared.stack().counted(self.id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.stack().release(Instant::now(), self.id);
        self.shared.wake();
    }
}

fn refused() -> io::Error {
    io::ErrorKind::ConnectionRefused.into()
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// A TCP connection through a tunnel. Dropping it sends what was written, and ends it.
pub struct TunnelStream {
    reader: TunnelReader,
    writer: TunnelWriter,
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelStream({})", self.peer_addr())
    }
}

impl TunnelStream {
    pub(super) fn new(shared: Arc<Shared>, id: Id, peer: SocketAddrV6) -> Self {
        let held = Arc::new(Held { shared, id, peer });
        Self {
            reader: TunnelReader {
                held: Arc::clone(&held),
            },
            writer: TunnelWriter { held, shut: false },
        }
    }

    /// The other end: the address is a peer's that the tunnel has checked.
    pub fn peer_addr(&self) -> SocketAddrV6 {
        self.reader.held.peer
    }

    /// The two directions, to be used at the same time. The connection ends when both are dropped.
    pub fn into_halves(self) -> (TunnelReader, TunnelWriter) {
        (self.reader, self.writer)
    }

    /// Waits until a connection that was begun has come about, or has not.
    pub(super) fn poll_established(&self, waker: &Waker) -> Poll<io::Result<()>> {
        self.reader.held.with(|socket| match socket.state() {
            State::SynSent | State::SynReceived => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            State::Closed | State::TimeWait => Poll::Ready(Err(refused())),
            _ => Poll::Ready(Ok(())),
        })
    }
}

/// The receiving direction.
pub struct TunnelReader {
    held: Arc<Held>,
}

impl std::fmt::Debug for TunnelReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelReader({})", self.held.peer)
    }
}

impl TunnelReader {
    /// Reads what is there, at least a byte; 0 at the end. Cancelled, it has read nothing.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.held.poll_read(cx.waker(), into)).await
    }

    /// Waits until something is there to be read, the end included.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn ready(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.held.poll_ready(cx.waker())).await
    }

    /// Bytes that came on the network for this connection, with all headers.
    pub fn counted(&self) -> u64 {
        self.held.counted().came
    }
}

/// The sending direction.
pub struct TunnelWriter {
    held: Arc<Held>,
    shut: bool,
}

impl std::fmt::Debug for TunnelWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelWriter({})", self.held.peer)
    }
}

impl TunnelWriter {
    /// Writes a part of `bytes`, at least a byte.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.held.poll_write(cx.waker(), bytes)).await
    }

    /// Bytes that went out on the network for this connection, with all headers.
    pub fn counted(&self) -> u64 {
        self.held.counted().went
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let into = buf.initialize_unfilled();
        let read = self.reader.held.poll_read(cx.waker(), into);
        read.map_ok(|length| buf.advance(length))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.writer.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.writer.held.poll_write(cx.waker(), buf)
    }

    /// What was written is on its way already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.shut = true;
        self.writer.held.poll_shutdown()
    }
}
