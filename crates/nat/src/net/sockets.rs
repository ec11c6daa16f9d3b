//! The UDP sockets of a client: its own, and those that it opens for single peers.

use super::DATAGRAM_MAX;
use crate::teredo::{
    PORT,
    client::{DISCOVERY_GROUP, LocalPort, Network, Path, Transmit},
    limits::EXTRA_PORTS_MAX,
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
};
use tokio::{net::UdpSocket, sync::mpsc, task::AbortHandle};

/// Datagrams of additional ports that wait to be read; more are dropped.
const WAITING_MAX: usize = 256;

/// What the system is asked to hold for us when we are slow to read or others slow to take, in bytes: a burst of a large
/// window. It may give less.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;

/// IPv4 TTL of everything but bubbles that are not to arrive.
const USUAL_TTL: u32 = 64;

/// A datagram that came to an additional port.
pub(super) struct Came {
    pub(super) port: u16,
    pub(super) from: SocketAddrV4,
    pub(super) bytes: Vec<u8>,
}

struct Extra {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

impl Drop for Extra {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

pub(super) struct Sockets {
    service: UdpSocket,
    local_ip: Ipv4Addr,
    /// Writers change the TTL of the service socket for one datagram.
    ttl: RwLock<()>,
    extra: Mutex<BTreeMap<u16, Extra>>,
    came: mpsc::Sender<Came>,
}

impl Sockets {
    /// Binds the service port; 0 takes a free one.
    pub(super) fn bind(address: SocketAddrV4) -> io::Result<(Self, mpsc::Receiver<Came>)> {
        let (came, receiver) = mpsc::channel(WAITING_MAX);
        let sockets = Self {
            service: bind(address)?,
            local_ip: *address.ip(),
            ttl: RwLock::new(()),
            extra: Mutex::default(),
            came,
        };
        Ok((sockets, receiver))
    }

    pub(super) fn service(&self) -> &UdpSocket {
        &self.service
    }

    pub(super) fn local_port(&self) -> io::Result<u16> {
        Ok(self.service.local_addr()?.port())
    }

    /// Sends as the network does: whether it arrives, nobody knows, and what can't be sent is lost.
    pub(super) fn send(&self, transmit: &Transmit) {
        let sent = match (transmit.path.port, transmit.ttl) {
            (LocalPort::Service, Some(ttl)) => self.send_dying(ttl, transmit),
            _ => self.send_to(transmit.path, &transmit.bytes),
        };
        if let Err(error) = sent {
            tracing::debug!(to = %transmit.path.to, %error, "a datagram could not be sent");
        }
    }

    /// While this is held, what the service socket sends has the usual TTL.
    pub(super) fn usual_ttl(&self) -> RwLockReadGuard<'_, ()> {
        self.ttl.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send_to(&self, path: Path, bytes: &[u8]) -> io::Result<()> {
        match path.port {
            LocalPort::Service => {
                let _usual_ttl = self.usual_ttl();
                send_now(&self.service, path.to, bytes)
            }
            LocalPort::Extra(port) => send_now(&*self.extra(port)?, path.to, bytes),
        }
    }

    fn send_dying(&self, ttl: u8, transmit: &Transmit) -> io::Result<()> {
        let _nobody_else = self.ttl.write().unwrap_or_else(PoisonError::into_inner);
        let socket = SockRef::from(&self.service);
        socket.set_ttl_v4(ttl.into())?;
        let sent = send_now(&self.service, transmit.path.to, &transmit.bytes);
        socket.set_ttl_v4(USUAL_TTL)?;
        sent
    }

    /// An additional port, opened when it isn't open.
    fn extra(&self, port: u16) -> io::Result<Arc<UdpSocket>> {
        let mut extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = extra.get(&port) {
            return Ok(open.socket.clone());
        }
        if extra.len() >= EXTRA_PORTS_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = Arc::new(bind(SocketAddrV4::new(self.local_ip, port))?);
        let reader = tokio::spawn(read(port, socket.clone(), self.came.clone())).abort_handle();
        let open = Extra {
            socket: socket.clone(),
            reader,
        };
        extra.insert(port, open);
        Ok(socket)
    }

    pub(super) fn close_extra(&self, port: u16) {
        let mut extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        extra.remove(&port);
    }

    pub(super) fn close_all_extra(&self) {
        let mut extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        extra.clear();
    }
}

/// Sends at once, or fails. The system is asked, not tokio's `try_send_to`: that calls a socket busy until the runtime has
/// first heard of it, so what is sent right after it was opened, such as the first question to a server, would be lost.
pub(super) fn send_now(socket: &UdpSocket, to: SocketAddrV4, bytes: &[u8]) -> io::Result<()> {
    SockRef::from(socket).send_to(bytes, &to.into()).map(drop)
}

async fn read(port: u16, socket: Arc<UdpSocket>, came: mpsc::Sender<Came>) {
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        let (length, from) = receive(&socket, &mut buffer).await;
        let bytes = buffer[..length].to_vec();
        // Who doesn't read in time loses datagrams, as on any socket.
        let _full = came.try_send(Came { port, from, bytes });
    }
}

/// The next datagram over IPv4. Errors of a UDP socket tell of datagrams that were sent earlier: they are passed over.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddrV4) {
    loop {
        match socket.recv_from(buffer).await {
            Ok((length, SocketAddr::V4(from))) => return (length, from),
            Ok(_) => {}
            Err(error) => {
                tracing::trace!(%error, "an error on a UDP socket");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn bind(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // As far as the system lets us; it is only slower with less.
    let _less = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _less = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&SockAddr::from(address))?;
    UdpSocket::from_std(socket.into())
}

/// A socket that hears the discovery group, and nothing but that, on the private networks among these.
pub(super) fn discovery(networks: &[Network]) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Linux gives a socket with a group's address only what was sent to the group.
    socket.bind(&SockAddr::from(SocketAddrV4::new(DISCOVERY_GROUP, PORT)))?;
    for network in networks
        .iter()
        .filter(|network| network.address.is_private())
    {
        if let Err(error) = socket.join_multicast_v4(&DISCOVERY_GROUP, &network.address) {
            tracing::debug!(address = %network.address, %error, "no local discovery there");
        }
    }
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket as Blocking, time::Duration};

    /// Nothing has run in between, so the runtime knows nothing about the sockets yet: a datagram that is lost here is the
    /// first question to a server, and the next one comes four seconds later.
    #[tokio::test]
    async fn what_is_sent_right_after_a_port_was_opened_arrives() {
        let loopback = Ipv4Addr::LOCALHOST;
        let peer = Blocking::bind((loopback, 0)).expect("a socket");
        let patience = Some(Duration::from_secs(20));
        peer.set_read_timeout(patience).expect("a time");
        let Ok(SocketAddr::V4(to)) = peer.local_addr() else {
            panic!("IPv4");
        };
        let (sockets, _came) = Sockets::bind(SocketAddrV4::new(loopback, 0)).expect("a port");
        for (port, ttl) in [
            (LocalPort::Service, None),
            (LocalPort::Service, Some(2)),
            (LocalPort::Extra(0), None),
        ] {
            let path = Path { port, to };
            let bytes = b"first".to_vec();
            sockets.send(&Transmit { path, bytes, ttl });
            let mut buffer = [0; 16];
            let length = peer.recv(&mut buffer).expect("it arrives");
            assert_eq!(&buffer[..length], b"first");
        }
    }
}
