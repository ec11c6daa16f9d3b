//! A Teredo client without socket, clock or randomness of its own.
//!
//! Facts come in by [`Client::handle_datagram`], [`Client::handle_multicast`] and [`Client::handle_timeout`], what is to
//! be done comes out of [`Client::poll_transmit`], [`Client::poll_timeout`] and [`Client::poll_event`]; all three are to
//! be asked after every call that changed something. Packets of the tunnel go in by [`Client::send`].
//!
//! What holds, whatever the network says:
//! - nothing is sent to an address that is private, multicast, this machine's or otherwise not global, except to peers
//!   behind the same NAT at addresses of attached networks, and then bubbles until the peer has answered;
//! - a path to a peer is used only after the peer has shown that it receives there or sends from the address that its
//!   Teredo address names;
//! - others make us send at most [`ANSWERS_PER_SECOND_MAX`] bubbles a second through servers, of less than twice the size of
//!   theirs, and [`UNASKED_PER_SECOND_MAX`] straight.

use crate::teredo::{
    Alternates, Datagram, Discovery, Ipv6Packet, Malformed, PORT, Secret, TeredoAddress, Trailer,
    bubble, is_global,
    limits::{
        ANSWERS_PER_SECOND_MAX, BUBBLE_INTERVAL, DISCOVERY_INTERVAL, EVENTS_MAX, PACKET_MAX,
        TRANSMITS_MAX, UNASKED_PER_SECOND_MAX,
    },
    random::Random,
    rate::Rate,
};
use native::Natives;
use peers::Peers;
use qualify::Phase;
use std::{
    collections::VecDeque,
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::Instant,
};

mod connect;
mod native;
mod peers;
mod qualify;
mod receive;
#[cfg(test)]
mod tests;

/// Where local discovery happens (RFC 4380 §2.17).
pub const DISCOVERY_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 253);

/// All nodes of the link: the destination of a discovery bubble.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// IPv4 TTL of a discovery bubble.
const DISCOVERY_TTL: u8 = 1;

/// A server, by its two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddresses {
    /// The one that becomes part of our address.
    pub primary: Ipv4Addr,
    /// The one that shows whether our NAT is symmetric. Without it nobody can tell.
    pub secondary: Option<Ipv4Addr>,
}

/// An address of this machine, and the subnet that it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The machine's address.
    pub address: Ipv4Addr,
    /// Bits of the subnet's prefix, up to 32.
    pub prefix_len: u8,
}

impl Network {
    fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix_len.min(32)))
            .unwrap_or(0)
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.address) & self.mask()
    }

    fn broadcast(self) -> Ipv4Addr {
        (u32::from(self.address) | !self.mask()).into()
    }
}

/// Whether this is an address of the machine with these networks, or everybody's on one of them.
pub(crate) fn is_of(networks: &[Network], ip: Ipv4Addr) -> bool {
    networks.iter().any(|network| {
        network.address == ip || (network.prefix_len < 31 && network.broadcast() == ip)
    })
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The servers, best first; the next one is asked when one doesn't answer.
    pub servers: Vec<ServerAddresses>,
    /// The socket's port on this machine.
    pub local_port: u16,
    /// This machine's addresses.
    pub networks: Vec<Network>,
    /// What the server knows us by, if it wants that.
    pub secret: Option<Secret>,
    /// IPv4 TTL of a bubble that has only to open our own NAT; `None` for the usual one. With 2 it passes one NAT and dies
    /// before the peer's: some gateways answer an unexpected packet in a way that spoils what comes after it.
    pub opening_ttl: Option<u8>,
    /// Whether peers of the same network are looked for by multicast.
    pub discovery: bool,
}

/// What a client found out about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qualified {
    /// Our address.
    pub address: TeredoAddress,
    /// What stands between us and the Internet.
    pub nat: Nat,
    /// Whether our port is seen as it is here.
    pub keeps_port: bool,
    /// Bytes of the largest packet in the tunnel.
    pub mtu: u16,
}

/// Kinds of NAT that a client can tell apart (RFC 5991 leaves out what only told cone NATs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// None: the server sees an address of this machine.
    Open,
    /// One that gives us the same port towards everybody: cone, address-restricted or port-restricted.
    Consistent,
    /// One that gives us another port for each destination.
    Symmetric,
    /// One, but the server has no second address to tell more.
    Unknown,
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "none: this machine has a public address",
            Self::Consistent => "one that gives us the same port towards everybody",
            Self::Symmetric => "symmetric: another port for each destination",
            Self::Unknown => "unknown: the server has no second address",
        })
    }
}

/// Why a client has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline {
    /// No server has answered.
    NoAnswer,
    /// Our NAT gave us another address or port: the old Teredo address is dead.
    MappingChanged,
    /// The machine's networks changed, or somebody wanted a new start.
    Restarted,
}

/// What a client has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// We have an address. Peers that were known under another one are forgotten.
    Qualified(Qualified),
    /// We have none any more, or still none.
    Offline(Offline),
    /// The path to this peer is open.
    Reachable(Ipv6Addr),
    /// No path to this peer was found; what waited for it is lost.
    Unreachable(Ipv6Addr),
    /// This additional port is not needed any more.
    PortClosed(u16),
}

/// One of our own UDP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LocalPort {
    /// The client's own.
    Service,
    /// One more, for one peer; to be opened when something is sent from it.
    Extra(u16),
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// From which of our ports.
    pub port: LocalPort,
    /// To which address.
    pub to: SocketAddrV4,
}

/// A datagram to be sent. Its ECN bits are 0 (RFC 9601 §6.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From where to where.
    pub path: Path,
    /// IPv4 TTL, if it shall be an unusual one.
    pub ttl: Option<u8>,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// What became of a packet that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The caller is to send it, as it is, on this path.
    Now(Path),
    /// It waits for the path to open; [`Event::Reachable`] or [`Event::Unreachable`] will come.
    Queued,
    /// It is not sent.
    Refused(Refusal),
}

/// Why a packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// We have no address.
    #[error("not qualified")]
    NotQualified,
    /// It is no IPv6 packet from our address, or has more bytes than the tunnel takes.
    #[error("no packet of ours")]
    NotOurs,
    /// Its destination is no Teredo address, or names a place that nothing may be sent to.
    #[error("the destination is not allowed")]
    Destination,
    /// The peer has not answered, and may be tried again only later.
    #[error("the peer has not answered")]
    Unreachable,
    /// There are too many peers.
    #[error("too many peers")]
    Full,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Dropped {
    /// It is no Teredo datagram.
    #[error("malformed")]
    Malformed,
    /// It is no answer to a solicitation of ours.
    #[error("unexpected advertisement")]
    Advertisement,
    /// We have no address yet.
    #[error("not qualified")]
    NotQualified,
    /// It is for somebody else.
    #[error("not for us")]
    NotForUs,
    /// Its source is no Teredo address.
    #[error("native or link-local source")]
    NotTeredo,
    /// Its source names a place that nothing may be sent to.
    #[error("the source points inward")]
    Inward,
    /// It doesn't come from where its source says.
    #[error("spoofed source")]
    Spoofed,
    /// A trailer says what can't be.
    #[error("bad trailer")]
    BadTrailer,
    /// There are too many like it.
    #[error("over the limit")]
    Limit,
    /// It is a data packet that came through a server.
    #[error("data through a server")]
    Forwarded,
}

impl From<Malformed> for Dropped {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What a client has counted since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams that came.
    pub received: u64,
    /// Packets of them that were for the upper layer.
    pub delivered: u64,
    /// Bubbles that were sent, in answer or on our own account.
    pub bubbles: u64,
    /// Bubbles through servers that were not sent: too soon after another one, or too many without anything from the peer.
    pub withheld: u64,
    /// Solicitations that were sent.
    pub solicitations: u64,
    /// Datagrams that were dropped, by reason.
    pub dropped: std::collections::BTreeMap<Dropped, u64>,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its address.
    pub address: Ipv6Addr,
    /// The open path to it, if there is one.
    pub path: Option<Path>,
    /// Bubbles through its server since something last came from it.
    pub bubbles: u8,
    /// Packets that wait for the path.
    pub queued: usize,
}

/// The state machine of a client.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    random: Random,
    phase: Phase,
    /// Which server is in use.
    server: usize,
    peers: Peers,
    /// Hosts with native IPv6, for clients that want them.
    natives: Option<Natives>,
    /// Answers to what servers forward.
    answers: Rate,
    /// Answers to what comes straight from somebody unknown.
    unasked: Rate,
    discover_at: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    /// When a server last answered what was asked.
    answered_at: Option<Instant>,
    stats: Stats,
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random(…)")
    }
}

impl Client {
    /// A client that begins to qualify at once. The seed must be unpredictable: answers are told from forgeries by it.
    pub fn new(config: ClientConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut client = Self {
            config,
            random: Random::new(seed),
            phase: Phase::off(now),
            server: 0,
            peers: Peers::default(),
            natives: None,
            answers: Rate::new(ANSWERS_PER_SECOND_MAX),
            unasked: Rate::new(UNASKED_PER_SECOND_MAX),
            discover_at: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            answered_at: None,
            stats: Stats::default(),
        };
        client.start(now);
        client
    }

    /// What is known about ourselves, while we have an address.
    pub fn qualified(&self) -> Option<Qualified> {
        match &self.phase {
            Phase::Qualified { qualified, .. } => Some(*qualified),
            _ => None,
        }
    }

    /// The server in use; none when none is configured.
    pub fn server(&self) -> Option<ServerAddresses> {
        self.config.servers.get(self.server).copied()
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// When a server last answered what it was asked: each answer keeps the NAT's mapping.
    pub fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// All known peers.
    pub fn peers(&self, now: Instant) -> impl Iterator<Item = PeerStatus> {
        self.peers.iter().map(move |(&address, peer)| PeerStatus {
            address,
            path: peer.open_path(now),
            bubbles: peer.bubbles,
            queued: peer.queue.len(),
        })
    }

    /// From now on packets of hosts with native IPv6 are taken, from relays that our server has passed bubbles of.
    pub fn take_natives(&mut self) {
        self.natives.get_or_insert_default();
    }

    /// The machine has other networks now, or has slept: everything begins anew.
    pub fn restart(&mut self, now: Instant, networks: Vec<Network>) {
        self.config.networks = networks;
        self.lose_address(Offline::Restarted);
        self.server = 0;
        self.start(now);
    }

    /// Something came to one of our ports. A packet for the upper layer comes back; anything else is taken care of.
    ///
    /// # Errors
    /// [`Dropped`]: why nothing was done with it.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        port: LocalPort,
        from: SocketAddrV4,
        bytes: &'a [u8],
    ) -> Result<Option<Ipv6Packet<'a>>, Dropped> {
        let result = self.receive(now, Path { port, to: from }, bytes);
        self.count(result)
    }

    /// Something came to the discovery group.
    ///
    /// # Errors
    /// [`Dropped`]: why nothing was done with it.
    pub fn handle_multicast(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        bytes: &[u8],
    ) -> Result<(), Dropped> {
        let result = self.receive_discovery(now, from, bytes).map(|()| None);
        self.count(result).map(|_| ())
    }

    fn count<'a>(
        &mut self,
        result: Result<Option<Ipv6Packet<'a>>, Dropped>,
    ) -> Result<Option<Ipv6Packet<'a>>, Dropped> {
        self.stats.received += 1;
        match result {
            Ok(Some(_)) => self.stats.delivered += 1,
            Ok(None) => {}
            Err(reason) => *self.stats.dropped.entry(reason).or_default() += 1,
        }
        result
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.phase_timeout(now);
        if self.discover_at.is_some_and(|at| at <= now) {
            self.discover(now);
        }
        for address in self.peers.due(now) {
            self.retry(now, address);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.phase.timeout(), self.discover_at, self.peers.timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn transmit(&mut self, path: Path, ttl: Option<u8>, bytes: Vec<u8>) {
        if self.transmits.len() < TRANSMITS_MAX {
            self.transmits.push_back(Transmit { path, ttl, bytes });
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Whether a peer may be at this address of the Internet: global, and neither we nor our server.
    fn may_be_peer(&self, to: SocketAddrV4) -> bool {
        let ip = *to.ip();
        let ours = self
            .qualified()
            .is_some_and(|own| own.address.mapped() == to);
        let servers = &self.config.servers;
        let server = to.port() == PORT
            && servers
                .iter()
                .any(|s| s.primary == ip || s.secondary == Some(ip));
        to.port() != 0 && is_global(ip) && !self.is_own(ip) && !ours && !server
    }

    /// Whether a peer's server may be at this address: global, and not this machine, unless it is our server too.
    fn may_be_server(&self, ip: Ipv4Addr) -> bool {
        let mut servers = self.config.servers.iter();
        servers.any(|server| server.primary == ip) || is_global(ip) && !self.is_own(ip)
    }

    /// Whether a peer behind the same NAT may be at this address: in a subnet of ours, and not we.
    fn may_be_neighbour(&self, to: SocketAddrV4) -> bool {
        let attached = self.config.networks.iter();
        let inside = attached.filter(|network| !network.address.is_loopback());
        let special = to.ip().is_multicast() || to.ip().is_loopback() || to.ip().is_unspecified();
        to.port() != 0
            && !special
            && !self.is_own(*to.ip())
            && inside.clone().any(|network| network.contains(*to.ip()))
    }

    fn is_own(&self, ip: Ipv4Addr) -> bool {
        is_of(&self.config.networks, ip)
    }

    /// Sends a multicast bubble that tells peers of the same network about us (RFC 4380 §5.2.8).
    fn discover(&mut self, now: Instant) {
        self.discover_at = None;
        let behind_nat = self.qualified().filter(|own| own.nat != Nat::Open);
        let Some(own) = behind_nat.filter(|_| self.config.discovery) else {
            return;
        };
        let bytes = bubble((own.address.to_ipv6(), ALL_NODES), 1, &[]);
        let path = Path {
            port: LocalPort::Service,
            to: SocketAddrV4::new(DISCOVERY_GROUP, PORT),
        };
        self.stats.bubbles += 1;
        self.transmit(path, Some(DISCOVERY_TTL), bytes);
        self.discover_at = Some(now + self.random.between(DISCOVERY_INTERVAL));
    }
}
