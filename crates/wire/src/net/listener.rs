//! Listening and dialing.

use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 512;
/// How long to wait after the system ran out of something (descriptors, memory).
const BACK_OFF: Duration = Duration::from_millis(200);

/// Accepts peers on several addresses at once.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    /// Which socket is asked first; it moves on, so that none starves another.
    turn: AtomicUsize,
}

impl Listener {
    /// Binds all addresses or none. An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` go together;
    /// port 0 is any free port. Needs a tokio runtime.
    ///
    /// # Errors
    /// The first that fails, with its address in the text.
    pub fn bind(addrs: &[SocketAddr]) -> io::Result<Self> {
        let sockets = addrs
            .iter()
            .map(|addr| {
                bind_one(*addr).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            sockets,
            turn: AtomicUsize::new(0),
        })
    }

    /// The addresses that are listened on, with their ports.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .filter_map(|socket| socket.local_addr().ok())
            .collect()
    }

    /// Waits for the next peer. Errors that pass (a peer that is gone already, no free descriptor) are waited
    /// out. Without any address it waits for ever.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.accept_any().await {
                Ok((stream, peer)) => {
                    // Without it a peer is only slower.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                Err(error) if is_about_one_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept peers for a moment");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    async fn accept_any(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        poll_fn(|cx| {
            for i in 0..self.sockets.len() {
                let at = turn.wrapping_add(i) % self.sockets.len();
                if let Poll::Ready(result) = self.sockets[at].poll_accept(cx) {
                    return Poll::Ready(result);
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn bind_one(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted daemon must not wait for old connections to expire. On Windows the option means another
    // thing (two daemons on one port).
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Errors that accept(2) passes on from the connection that it was about to return.
fn is_about_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::Interrupted
    )
}

/// Connects to a peer.
///
/// # Errors
/// What the system says; `TimedOut` after `timeout`.
pub async fn dial(addr: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(addr)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn loopback(port: u16) -> [SocketAddr; 2] {
        [
            ([127, 0, 0, 1], port).into(),
            ([0, 0, 0, 0, 0, 0, 0, 1], port).into(),
        ]
    }

    #[tokio::test]
    async fn both_address_families_are_accepted() {
        let listener = Listener::bind(&loopback(0)).expect("free ports");
        for addr in listener.local_addrs() {
            assert_ne!(addr.port(), 0);
            let mut out = dial(addr, Duration::from_secs(5)).await.expect("listening");
            let (mut stream, peer) = listener.accept().await;
            assert_eq!(peer, out.local_addr().expect("connected"));
            assert!(stream.nodelay().expect("open") && out.nodelay().expect("open"));
            stream.write_all(b"x").await.expect("open");
            assert_eq!(out.read_u8().await.expect("a byte"), b'x');
        }
    }

    #[tokio::test]
    async fn the_address_stands_in_the_error() {
        let first = Listener::bind(&loopback(0)[..1]).expect("free port");
        let taken = first.local_addrs()[0];
        let error = Listener::bind(&[taken]).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }

    #[tokio::test]
    async fn wildcards_of_both_families_share_a_port() {
        let v4 = Listener::bind(&[([0, 0, 0, 0], 0).into()]).expect("free port");
        let port = v4.local_addrs()[0].port();
        let v6 = Listener::bind(&[([0u16; 8], port).into()]);
        assert!(v6.is_ok(), "{v6:?}");
    }

    #[tokio::test]
    async fn dialing_a_closed_port_fails() {
        let addr = Listener::bind(&loopback(0)[..1])
            .expect("free port")
            .local_addrs()[0];
        let error = dial(addr, Duration::from_secs(5))
            .await
            .expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
