//! A client with its socket: IPv6 packets in and out, through NATs.

use super::{
    DATAGRAM_MAX, seed,
    sockets::{self, Came, Sockets},
};
use crate::teredo::{
    client::{
        Client, ClientConfig, Event, LocalPort, Network, Offline, Path, PeerStatus, Qualified,
        Refusal, Sent, ServerAddresses, Stats,
    },
    limits::{BUBBLE_INTERVAL, BUBBLES_MAX, PEERS_MAX},
};
use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddrV4},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::UdpSocket,
    sync::{Notify, broadcast, mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A path that is not open after all tries of the core, and one interval more, will not open.
const CONNECT_MAX: Duration = BUBBLE_INTERVAL.saturating_mul(BUBBLES_MAX as u32 + 1);

/// IPv4 TTL of bubbles that only open our own NAT: one NAT, and not the peer's.
const OPENING_TTL: u8 = 2;

/// How a tunnel is set up.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// The servers, best first.
    pub servers: Vec<ServerAddresses>,
    /// The local address; port 0 takes a free one.
    pub bind: SocketAddrV4,
    /// Whether peers of the same network are looked for by multicast.
    pub discovery: bool,
}

/// Whether there is an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    Starting,
    /// There is.
    Qualified(Qualified),
    /// Not any more, or no server answers; it is tried again.
    Offline(Offline),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "asking the server",
            Self::Qualified(_) => "qualified",
            Self::Offline(Offline::NoAnswer) => "off-line: no server answers on UDP port 3544",
            Self::Offline(Offline::MappingChanged) => "the NAT has changed our port; asking again",
            Self::Offline(Offline::Restarted) => "the network has changed; asking again",
        })
    }
}

/// What is going on.
#[derive(Clone, Debug)]
pub struct TunnelStatus {
    /// Whether there is an address.
    pub state: State,
    /// The server in use.
    pub server: Option<ServerAddresses>,
    /// How long ago a server last answered.
    pub answered: Option<Duration>,
    /// The UDP port on this machine.
    pub local_port: u16,
    /// Known peers.
    pub peers: Vec<PeerStatus>,
    /// Counters.
    pub stats: Stats,
}

/// Why no path to a peer opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It was not even tried.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer has not answered.
    #[error("the peer has not answered")]
    Unreachable,
    /// Our own address is gone.
    #[error("our own address is gone")]
    Offline,
}

struct Shared {
    core: Mutex<Client>,
    sockets: Sockets,
    /// The core may have an earlier timer than before.
    changed: Notify,
    state: watch::Sender<State>,
    events: broadcast::Sender<Event>,
    /// Who takes what is not for whoever reads from the tunnel.
    others: OnceLock<mpsc::Sender<Vec<u8>>>,
}

/// A Teredo client. Clones are the same client; it ends when all of them and [`Incoming`] are gone.
#[derive(Clone)]
pub struct Tunnel {
    shared: Arc<Shared>,
    _running: Arc<DropGuard>,
}

/// Where packets come out of the tunnel.
pub struct Incoming {
    shared: Arc<Shared>,
    extra: mpsc::Receiver<Came>,
    buffer: Vec<u8>,
    _running: Arc<DropGuard>,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({:?})", self.address())
    }
}

impl Tunnel {
    /// Opens the socket and begins to qualify.
    ///
    /// # Errors
    /// When the port can't be had, or the machine's addresses can't be read.
    pub async fn bind(config: TunnelConfig) -> io::Result<(Self, Incoming)> {
        let (sockets, extra) = Sockets::bind(config.bind)?;
        let networks = networks()?;
        let client = ClientConfig {
            servers: config.servers,
            local_port: sockets.local_port()?,
            networks: networks.clone(),
            secret: None,
            opening_ttl: Some(OPENING_TTL),
            discovery: config.discovery,
        };
        let shared = Arc::new(Shared {
            core: Mutex::new(Client::new(client, seed()?, Instant::now())),
            sockets,
            changed: Notify::new(),
            state: watch::Sender::new(State::Starting),
            events: broadcast::Sender::new(PEERS_MAX),
            others: OnceLock::new(),
        });
        let token = CancellationToken::new();
        let running = Arc::new(token.clone().drop_guard());
        let driver = Driver {
            shared: shared.clone(),
            discovery: config.discovery.then(|| discovery(&networks)).flatten(),
            discovers: config.discovery,
            networks,
        };
        tokio::spawn(async move {
            // The last of the others ends it.
            tokio::select! {
                () = driver.run() => {}
                () = token.cancelled() => {}
            }
        });
        let incoming = Incoming {
            shared: shared.clone(),
            extra,
            buffer: vec![0; DATAGRAM_MAX],
            _running: running.clone(),
        };
        let tunnel = Self {
            shared,
            _running: running,
        };
        Ok((tunnel, incoming))
    }

    /// From now on packets of hosts with native IPv6 are taken from relays.
    pub fn take_natives(&self) {
        self.with_core(Client::take_natives);
    }

    /// Who reads from the tunnel for one purpose leaves what it has no use for to this one: TCP beside QUIC, say. The first
    /// to ask gets it.
    pub fn leave_others_to(&self, others: mpsc::Sender<Vec<u8>>) {
        let _taken_already = self.shared.others.set(others);
    }

    /// A packet that the reader has no use for. Who doesn't take it in time loses it.
    #[cfg(feature = "quic")]
    pub(crate) fn leave(&self, packet: &[u8]) {
        if let Some(others) = self.shared.others.get() {
            let _full = others.try_send(packet.to_owned());
        }
    }

    /// Whether there is an address, and when that changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Our address, while there is one.
    pub fn address(&self) -> Option<Ipv6Addr> {
        match *self.shared.state.borrow() {
            State::Qualified(own) => Some(own.address.to_ipv6()),
            _ => None,
        }
    }

    /// Sends an IPv6 packet. It waits, with a few others, until the path to the peer is open; whether it arrives,
    /// nobody knows.
    ///
    /// # Errors
    /// [`Refusal`]: it is not sent.
    pub fn send(&self, packet: &[u8]) -> Result<(), Refusal> {
        match self.route(packet) {
            Sent::Now(path) => {
                self.send_on(path, packet);
                Ok(())
            }
            Sent::Queued => Ok(()),
            Sent::Refused(why) => Err(why),
        }
    }

    /// Where a packet is to go, if the caller sends it by itself; else it is taken care of.
    pub(crate) fn route(&self, packet: &[u8]) -> Sent {
        self.with_core(|core| core.send(Instant::now(), packet))
    }

    /// Sends on a path that [`route`](Self::route) has given.
    pub(crate) fn send_on(&self, path: Path, packet: &[u8]) {
        if let Err(error) = self.shared.sockets.send_to(path, packet) {
            tracing::trace!(%error, "a packet could not be sent");
        }
    }

    /// Uses the core, and does what it wants done then.
    pub(crate) fn with_core<T>(&self, work: impl FnOnce(&mut Client) -> T) -> T {
        let mut core = self.shared.core();
        let result = work(&mut core);
        self.shared.carry_out(&mut core);
        result
    }

    /// The socket of the client's own port.
    #[cfg(feature = "quic")]
    pub(crate) fn service(&self) -> &UdpSocket {
        self.shared.sockets.service()
    }

    /// To be held while something is sent from there.
    #[cfg(feature = "quic")]
    pub(crate) fn usual_ttl(&self) -> std::sync::RwLockReadGuard<'_, ()> {
        self.shared.sockets.usual_ttl()
    }

    /// Waits until the path to a peer is open.
    ///
    /// # Errors
    /// [`ConnectError`], at the latest after about 8 s.
    pub async fn connect(&self, peer: Ipv6Addr) -> Result<(), ConnectError> {
        let opened = tokio::time::timeout(CONNECT_MAX, self.opened(peer)).await;
        opened.unwrap_or(Err(ConnectError::Unreachable))
    }

    async fn opened(&self, peer: Ipv6Addr) -> Result<(), ConnectError> {
        loop {
            let mut events = self.shared.events.subscribe();
            match self.with_core(|core| core.connect(Instant::now(), peer)) {
                Sent::Now(_) => return Ok(()),
                Sent::Refused(why) => return Err(why.into()),
                Sent::Queued => {}
            }
            loop {
                match events.recv().await {
                    Ok(Event::Reachable(address)) if address == peer => return Ok(()),
                    Ok(Event::Unreachable(address)) if address == peer => {
                        return Err(ConnectError::Unreachable);
                    }
                    Ok(Event::Offline(_)) => return Err(ConnectError::Offline),
                    Ok(_) => {}
                    // Events were missed: ask the core again.
                    Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(ConnectError::Offline),
                }
            }
        }
    }

    /// What is going on.
    pub fn status(&self) -> TunnelStatus {
        let core = self.shared.core();
        let now = Instant::now();
        TunnelStatus {
            state: *self.shared.state.borrow(),
            server: core.server(),
            answered: core
                .answered_at()
                .map(|at| now.saturating_duration_since(at)),
            local_port: self.shared.sockets.local_port().unwrap_or(0),
            peers: core.peers(now).collect(),
            stats: core.stats().clone(),
        }
    }
}

impl Incoming {
    /// The next IPv6 packet from a peer; its source has been checked.
    pub async fn recv(&mut self) -> &[u8] {
        let range = loop {
            let arrived = tokio::select! {
                (length, from) = sockets::receive(self.shared.sockets.service(), &mut self.buffer) => {
                    self.shared.arrived(LocalPort::Service, from, &self.buffer[..length])
                }
                Some(came) = self.extra.recv() => {
                    let length = came.bytes.len();
                    self.buffer[..length].copy_from_slice(&came.bytes);
                    self.shared.arrived(LocalPort::Extra(came.port), came.from, &came.bytes)
                }
            };
            if let Some(range) = arrived {
                break range;
            }
        };
        &self.buffer[range]
    }
}

#[cfg(feature = "quic")]
impl Incoming {
    /// The next datagram of an additional port.
    pub(crate) fn poll_extra(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<(LocalPort, SocketAddrV4, Vec<u8>)>> {
        let came = self.extra.poll_recv(cx);
        came.map(|came| {
            came.map(|Came { port, from, bytes }| (LocalPort::Extra(port), from, bytes))
        })
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Client> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where in the datagram the packet for the reader is, if there is one.
    fn arrived(&self, port: LocalPort, from: SocketAddrV4, bytes: &[u8]) -> Option<Range<usize>> {
        let mut core = self.core();
        let handled = core.handle_datagram(Instant::now(), port, from, bytes);
        let length = match handled {
            Ok(packet) => packet.map(|packet| packet.bytes().len()),
            Err(why) => {
                tracing::trace!(%from, %why, "a datagram was dropped");
                None
            }
        };
        self.carry_out(&mut core);
        // Whatever comes straight from a peer begins with the packet.
        length.map(|length| 0..length)
    }

    /// Does what the core wants done.
    fn carry_out(&self, core: &mut Client) {
        let mut anything = false;
        while let Some(transmit) = core.poll_transmit() {
            self.sockets.send(&transmit);
            anything = true;
        }
        while let Some(event) = core.poll_event() {
            self.tell(event);
            anything = true;
        }
        if anything {
            self.changed.notify_one();
        }
    }

    fn tell(&self, event: Event) {
        match event {
            Event::Qualified(own) => {
                tracing::info!(address = %own.address, nat = ?own.nat, "Teredo is qualified");
                self.state.send_replace(State::Qualified(own));
            }
            Event::Offline(why) => {
                tracing::info!(?why, "Teredo is off-line");
                self.sockets.close_all_extra();
                self.state.send_replace(State::Offline(why));
            }
            Event::PortClosed(port) => self.sockets.close_extra(port),
            _ => {}
        }
        let _nobody_listens = self.events.send(event);
    }
}

/// What drives the core: its timers, local discovery, the machine's networks.
struct Driver {
    shared: Arc<Shared>,
    discovery: Option<UdpSocket>,
    discovers: bool,
    networks: Vec<Network>,
}

impl Driver {
    async fn run(self) {
        // Listening may take its time, where other services have to be asked.
        let moved = Notify::new();
        let watch = async {
            let mut changes = dosvc_host::Changes::listen(&dosvc_host::Root::default()).await;
            loop {
                changes.changed().await;
                moved.notify_one();
            }
        };
        tokio::select! {
            () = watch => {}
            () = self.drive(&moved) => {}
        }
    }

    async fn drive(mut self, moved: &Notify) {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            let deadline = {
                let mut core = self.shared.core();
                self.shared.carry_out(&mut core);
                core.poll_timeout()
            };
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let discovered = async {
                match &self.discovery {
                    Some(socket) => sockets::receive(socket, &mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => self.shared.core().handle_timeout(Instant::now()),
                () = self.shared.changed.notified() => {}
                (length, from) = discovered => {
                    let mut core = self.shared.core();
                    if let Err(why) = core.handle_multicast(Instant::now(), from, &buffer[..length]) {
                        tracing::trace!(%from, %why, "a discovery bubble was dropped");
                    }
                }
                () = moved.notified() => self.follow_networks(),
            }
        }
    }

    fn follow_networks(&mut self) {
        match networks() {
            Ok(networks) if networks != self.networks => {
                tracing::debug!(?networks, "the machine's networks changed");
                self.discovery = self.discovers.then(|| discovery(&networks)).flatten();
                self.networks.clone_from(&networks);
                self.shared.core().restart(Instant::now(), networks);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the machine's networks can't be read"),
        }
    }
}

fn discovery(networks: &[Network]) -> Option<UdpSocket> {
    sockets::discovery(networks)
        .inspect_err(|error| tracing::debug!(%error, "no local discovery of Teredo peers"))
        .ok()
}

/// This machine's IPv4 addresses, loopback included.
pub(super) fn networks() -> io::Result<Vec<Network>> {
    let ipv4 = |(ip, prefix_len)| match ip {
        IpAddr::V4(address) => Some(Network {
            address,
            prefix_len,
        }),
        IpAddr::V6(_) => None,
    };
    let interfaces = dosvc_host::interfaces()?;
    let up = interfaces
        .into_iter()
        .filter(|interface| interface.up || interface.loopback);
    let mut networks: Vec<_> = up
        .flat_map(|interface| interface.addrs)
        .filter_map(ipv4)
        .collect();
    networks.sort_by_key(|network| network.address);
    Ok(networks)
}
