//! A connection as it is read and written.

use super::{Id, net::Shared};
use smoltcp::socket::tcp::{RecvError, Socket, State};
use std::{
    io,
    net::SocketAddrV6,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TCP connection through a tunnel. Dropping it sends what was written, and ends it.
pub struct TunnelStream {
    shared: Arc<Shared>,
    id: Id,
    peer: SocketAddrV6,
    shut: bool,
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TunnelStream({})", self.peer)
    }
}

impl TunnelStream {
    pub(super) fn new(shared: Arc<Shared>, id: Id, peer: SocketAddrV6) -> Self {
        Self {
            shared,
            id,
            peer,
            shut: false,
        }
    }

    /// The other end: the address is a peer's that the tunnel has checked.
    pub fn peer_addr(&self) -> SocketAddrV6 {
        self.peer
    }

    /// Waits until a connection that was begun has come about, or has not.
    pub(super) fn poll_established(&self, waker: &Waker) -> Poll<io::Result<()>> {
        self.with(|socket| match socket.state() {
            State::SynSent | State::SynReceived => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            State::Closed | State::TimeWait => Poll::Ready(Err(refused())),
            _ => Poll::Ready(Ok(())),
        })
    }

    /// Does something with the connection, and has what follows from that done.
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
}

fn refused() -> io::Error {
    io::ErrorKind::ConnectionRefused.into()
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut opens = false;
        let read = self.with(|socket| {
            let full = socket.recv_queue() * 2 > socket.recv_capacity();
            match socket.recv_slice(buf.initialize_unfilled()) {
                Ok(0) if buf.remaining() > 0 => {
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
                Ok(length) => {
                    // The peer waits for room only then.
                    opens = full;
                    buf.advance(length);
                    Poll::Ready(Ok(()))
                }
                Err(RecvError::Finished) => Poll::Ready(Ok(())),
                Err(RecvError::InvalidState) => Poll::Ready(Err(reset())),
            }
        });
        if opens {
            self.shared.wake();
        }
        read
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = self.with(|socket| match socket.send_slice(buf) {
            Ok(0) if !buf.is_empty() => {
                socket.register_send_waker(cx.waker());
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

    /// What was written is on its way already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        let closed = self.with(|socket| {
            socket.close();
            Poll::Ready(Ok(()))
        });
        self.shared.wake();
        closed
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared.stack().release(Instant::now(), self.id);
        self.shared.wake();
    }
}
