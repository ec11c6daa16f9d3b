//! The stack over a tunnel, with time.

use super::{Id, PACKETS_MAX, Stack, StackStats, TunnelStream};
use crate::net::{ConnectError, Incoming, State, Tunnel, seed};
use std::{
    future::poll_fn,
    io,
    net::{Ipv6Addr, SocketAddrV6},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest time for a handshake, once the path is open.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No path to the peer opened.
    #[error("no path through the tunnel: {0}")]
    Path(#[from] ConnectError),
    /// There are too many connections, or we have no address any more.
    #[error("too many connections, or no address")]
    Full,
    /// The peer refuses, or does not answer.
    #[error("the peer refuses or does not answer: {0}")]
    Handshake(#[source] io::Error),
}

pub(super) struct Shared {
    stack: Mutex<Stack>,
    changed: Notify,
}

impl Shared {
    pub(super) fn stack(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is to be sent, or there is room again.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }
}

/// TCP through a tunnel. Clones are the same stack; it ends with the last one. Streams that are held stay what they are,
/// but nothing comes or goes on them then.
#[derive(Clone)]
pub struct TcpStack {
    shared: Arc<Shared>,
    tunnel: Tunnel,
    _running: Arc<DropGuard>,
}

impl std::fmt::Debug for TcpStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpStack({:?})", self.tunnel)
    }
}

impl TcpStack {
    /// A stack that reads everything that comes through the tunnel. Peers may dial `port`.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn alone(tunnel: Tunnel, mut incoming: Incoming, port: Option<u16>) -> io::Result<Self> {
        let (stack, packets) = Self::start(tunnel, port)?;
        tokio::spawn(async move {
            loop {
                let packet = incoming.recv().await.to_vec();
                match packets.try_send(packet) {
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                    // As any network does.
                    Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                }
            }
        });
        Ok(stack)
    }

    /// A stack beside somebody who reads from the tunnel and leaves it what is not for itself, as a QUIC endpoint does.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn beside(tunnel: Tunnel, port: Option<u16>) -> io::Result<Self> {
        let (stack, packets) = Self::start(tunnel, port)?;
        stack.tunnel.leave_others_to(packets);
        Ok(stack)
    }

    fn start(tunnel: Tunnel, port: Option<u16>) -> io::Result<(Self, mpsc::Sender<Vec<u8>>)> {
        let stack = Stack::new(port, u64::from_be_bytes(seed()?), Instant::now());
        let shared = Arc::new(Shared {
            stack: Mutex::new(stack),
            changed: Notify::new(),
        });
        let (packets, came) = mpsc::channel(PACKETS_MAX);
        let stop = CancellationToken::new();
        let running = Arc::new(stop.clone().drop_guard());
        let driver = drive(shared.clone(), tunnel.clone(), came);
        tokio::spawn(async move { stop.run_until_cancelled(driver).await });
        let stack = Self {
            shared,
            tunnel,
            _running: running,
        };
        Ok((stack, packets))
    }

    /// Opens a connection to a port of a peer.
    ///
    /// # Errors
    /// [`DialError`], at the latest after about 18 s.
    pub async fn dial(&self, peer: Ipv6Addr, port: u16) -> Result<TunnelStream, DialError> {
        self.tunnel.connect(peer).await?;
        let peer = SocketAddrV6::new(peer, port, 0, 0);
        let id = self.shared.stack().dial(peer).ok_or(DialError::Full)?;
        self.shared.wake();
        let stream = self.stream(id, peer);
        let established = poll_fn(|cx| stream.poll_established(cx.waker()));
        let established = tokio::time::timeout(HANDSHAKE_MAX, established).await;
        let established = established.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        established.map_err(DialError::Handshake)?;
        Ok(stream)
    }

    /// The next connection of a peer.
    pub async fn accept(&self) -> TunnelStream {
        poll_fn(|cx| match self.shared.stack().accept(cx.waker()) {
            Some((id, peer)) => Poll::Ready(self.stream(id, peer)),
            None => Poll::Pending,
        })
        .await
    }

    fn stream(&self, id: Id, peer: SocketAddrV6) -> TunnelStream {
        TunnelStream::new(self.shared.clone(), id, peer)
    }

    /// The tunnel below.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// The counters.
    pub fn stats(&self) -> StackStats {
        self.shared.stack().stats()
    }

    /// Connections at present, those that are coming about or ending included.
    pub fn connections(&self) -> usize {
        self.shared.stack().connections()
    }
}

async fn drive(shared: Arc<Shared>, tunnel: Tunnel, mut came: mpsc::Receiver<Vec<u8>>) {
    let mut state = tunnel.state();
    let mut batch = Vec::with_capacity(PACKETS_MAX);
    loop {
        let timeout = {
            let mut stack = shared.stack();
            let address = match *state.borrow_and_update() {
                State::Qualified(own) => Some(own.address.to_ipv6()),
                State::Starting | State::Offline(_) => None,
            };
            stack.set_address(address);
            let now = Instant::now();
            batch
                .drain(..)
                .for_each(|packet: Vec<u8>| stack.handle_packet(now, &packet));
            loop {
                stack.poll(now);
                let mut sent = false;
                while let Some(packet) = stack.poll_transmit() {
                    sent = true;
                    // What can't be sent is sent again by TCP.
                    if let Err(why) = tunnel.send(&packet) {
                        tracing::trace!(%why, "a packet could not be sent through the tunnel");
                    }
                }
                if !sent && !stack.is_full() {
                    break;
                }
            }
            stack.poll_timeout(now)
        };
        let timer = async {
            match timeout {
                Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = came.recv_many(&mut batch, PACKETS_MAX) => if count == 0 { return },
            () = shared.changed.notified() => {}
            () = timer => {}
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}
