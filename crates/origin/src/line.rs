//! One TCP connection, read as its limit lets it.
//!
//! The limit lies below TLS and HTTP: all that comes counts, and nothing can come ahead of it but what may wait in the
//! socket, which is bounded before the connection is made (`dosvc_polite::limited` says why that makes limits exact).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use dosvc_polite::socket::BorrowedSocket;
use dosvc_polite::{Intake, Leave, Throttle, Unlimited};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// A connection that nobody hears of is asked whether it is still there after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What comes after a request, or in a handshake, while nobody reads a body: so many bytes don't wait for the limit, they are
/// owed. How soon a server answers is not the limit's business.
const HEAD: usize = 8 << 10;

/// What limits the connections of an [`OriginClient`](crate::OriginClient).
pub trait Limits: fmt::Debug + Send + Sync {
    /// What a connection to this server (`None`: to a proxy) passes through while no body is read from it that
    /// [says otherwise](crate::Body::limit). `background`: whether the requests that it is made for are.
    fn gate(&self, server: Option<IpAddr>, background: bool) -> Arc<dyn Throttle>;
}

impl Limits for Unlimited {
    fn gate(&self, _: Option<IpAddr>, _: bool) -> Arc<dyn Throttle> {
        Arc::new(Self)
    }
}

/// What is known of a connection, and who reads from it. Clones share it.
#[derive(Clone)]
pub(crate) struct LineInfo {
    pub(crate) remote: SocketAddr,
    readers: Arc<Mutex<Readers>>,
}

/// Bodies that are read from a connection: one at a time, or several with HTTP/2.
struct Readers {
    gates: Vec<(u64, Arc<dyn Throttle>)>,
    next: u64,
    /// For what nobody reads.
    standing: Arc<dyn Throttle>,
    /// How long the limit has been waited for, up to …
    held: Duration,
    /// … this wait, if there is one.
    held_since: Option<Instant>,
}

/// Somebody who reads from a connection through a gate of its own, as long as this lives.
pub(crate) struct Reading {
    line: LineInfo,
    number: u64,
}

impl LineInfo {
    /// From now on what comes is limited by this gate: a foreground one before those in the background.
    pub(crate) fn read_through(&self, gate: Arc<dyn Throttle>) -> Reading {
        let mut readers = self.lock();
        let number = readers.next;
        readers.next += 1;
        readers.gates.push((number, gate));
        drop(readers);
        Reading {
            line: self.clone(),
            number,
        }
    }

    /// How long the limit has been waited for, ever: that nothing comes meanwhile is not the server's fault.
    pub(crate) fn held(&self) -> Duration {
        let readers = self.lock();
        let now = readers.held_since.map(|since| since.elapsed());
        readers.held + now.unwrap_or_default()
    }

    fn hold(&self, on: bool) {
        let mut readers = self.lock();
        if let Some(since) = readers.held_since.take() {
            readers.held += since.elapsed();
        }
        readers.held_since = on.then(Instant::now);
    }

    /// Whether the limit is being waited for.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().held_since.is_some()
    }

    /// The gate, and whether somebody reads through it.
    fn gate(&self) -> (Arc<dyn Throttle>, bool) {
        let readers = self.lock();
        let mut gates = readers.gates.iter().map(|(_, gate)| gate);
        let first = readers.gates.first().map(|(_, gate)| gate);
        let gate = gates.find(|gate| !gate.is_background()).or(first);
        let is_read = gate.is_some();
        (Arc::clone(gate.unwrap_or(&readers.standing)), is_read)
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        // Nothing panics while it is held.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = self.line.lock();
        readers.gates.retain(|(number, _)| *number != self.number);
    }
}

impl fmt::Debug for LineInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LineInfo").field(&self.remote).finish()
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line.fmt(f)
    }
}

type Payment = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module's documentation.
pub(crate) struct Line {
    tcp: TcpStream,
    pub(crate) info: LineInfo,
    intake: Intake,
    /// What the limiter is waited for.
    payment: Option<Payment>,
    /// How much of a head may still come; see [`HEAD`].
    head: usize,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn connect(
        address: SocketAddr,
        standing: Arc<dyn Throttle>,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(rate) = standing.rate() {
            bound(&socket, rate);
        }
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
        socket2::SockRef::from(&tcp).set_tcp_keepalive(&alive)?;
        let mut intake = Intake::default();
        intake.begin(socket_of(&tcp), &*standing, Instant::now());
        let info = LineInfo {
            remote: tcp.peer_addr()?,
            readers: Arc::new(Mutex::new(Readers {
                gates: Vec::new(),
                next: 0,
                standing,
                held: Duration::ZERO,
                held_since: None,
            })),
        };
        Ok(Self {
            tcp,
            info,
            intake,
            payment: None,
            head: HEAD,
        })
    }

    /// How many of `wanted` bytes may be read now. Something is there to read, or the answer does no harm.
    fn poll_leave(
        &mut self,
        cx: &mut Context<'_>,
        (gate, is_read): (&Arc<dyn Throttle>, bool),
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(payment) = &mut self.payment {
                ready!(payment.as_mut().poll(cx));
                self.payment = None;
                self.info.hold(false);
            }
            if !is_read && self.head > 0 {
                return Poll::Ready(Ok(wanted.min(self.head)));
            }
            if !gate.is_unlimited() {
                ready!(self.tcp.poll_read_ready(cx))?;
            }
            match self.intake.ask(socket_of(&self.tcp), &**gate, wanted) {
                Leave::Move(bytes) => return Poll::Ready(Ok(bytes)),
                Leave::Pay(bytes) => {
                    let gate = Arc::clone(gate);
                    self.payment = Some(Box::pin(async move { gate.take(bytes).await }));
                    self.info.hold(true);
                }
            }
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (gate, is_read) = this.info.gate();
        let most = ready!(this.poll_leave(cx, (&gate, is_read), buf.remaining()))?;
        let bytes = if most >= buf.remaining() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
            buf.filled().len() - before
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut part))?;
            let bytes = part.filled().len();
            buf.advance(bytes);
            bytes
        };
        this.head = match is_read {
            true => 0,
            false => this.head.saturating_sub(bytes),
        };
        this.intake
            .moved(socket_of(&this.tcp), &*gate, bytes, Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.head = HEAD;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.head = HEAD;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
fn socket_of(tcp: &TcpStream) -> Option<BorrowedSocket<'_>> {
    Some(tcp.as_fd())
}

#[cfg(not(target_os = "linux"))]
fn socket_of(_: &TcpStream) -> Option<BorrowedSocket<'_>> {
    None
}

/// Bounds what can come before the connection is looked at for the first time.
#[cfg(target_os = "linux")]
fn bound(socket: &TcpSocket, rate: u64) {
    let room = dosvc_polite::flow::first_room(rate);
    if let Err(error) = dosvc_polite::socket::set_first_receive_room(socket.as_fd(), room) {
        tracing::debug!(%error, "a new connection's buffer is not bounded");
    }
}

#[cfg(not(target_os = "linux"))]
fn bound(_: &TcpSocket, _: u64) {}
