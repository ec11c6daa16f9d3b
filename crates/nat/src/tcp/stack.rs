//! The protocol, as a pure core.

use super::{
    CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, KEEP_ALIVE, LINGER_MAX, PACKETS_MAX, PENDING_MAX,
    PENDING_TIME_MAX, RECEIVE_BYTES, SEND_BYTES, SILENCE_MAX,
};
use crate::teredo::{Ipv6Packet, MTU};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{CongestionControl, Socket, SocketBuffer, State},
    time::{Duration as SmolDuration, Instant as SmolInstant},
    wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint},
};
use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv6Addr, SocketAddrV6},
    task::Waker,
    time::{Duration, Instant},
};

/// TCP as a next header.
const TCP: u8 = 6;
/// Bits of Teredo's prefix: every peer is on the link.
const PREFIX_LEN: u8 = 32;
/// Headers of Ethernet, IPv4 and UDP around each packet.
const OUTER_HEADERS_LEN: u64 = 14 + 20 + 8;
/// Ports that dialled connections come from.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(u64);

/// What a stack has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackStats {
    /// Packets that came.
    pub received: u64,
    /// Packets that were no TCP of ours, or too many.
    pub dropped: u64,
    /// Connections that peers began.
    pub incoming: u64,
    /// Connections of peers that were not taken: too many.
    pub refused: u64,
    /// Connections that we began.
    pub outgoing: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A peer's, not accepted yet, since then.
    Pending(Instant),
    /// Somebody has it.
    Held,
    /// Nobody has it; it may bring away what was written, until then.
    Orphan(Instant),
}

#[derive(Debug)]
struct Connection {
    handle: SocketHandle,
    peer: SocketAddrV6,
    /// Our own port.
    port: u16,
    incoming: bool,
    phase: Phase,
    counted: Counted,
}

/// Bytes of one connection on the network, with all headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// That came.
    pub came: u64,
    /// That went out.
    pub went: u64,
}

/// Packets in and out.
struct Wire {
    came: VecDeque<Vec<u8>>,
    out: VecDeque<Vec<u8>>,
}

struct Came(Vec<u8>);

struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Came;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Came, Out<'_>)> {
        // What comes may be answered at once.
        let room = self.out.len() < PACKETS_MAX;
        let packet = room.then(|| self.came.pop_front()).flatten()?;
        Some((Came(packet), Out(&mut self.out)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Out<'_>> {
        (self.out.len() < PACKETS_MAX).then_some(Out(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU.into();
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::Both;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A TCP stack with one address and one port that peers may dial.
pub struct Stack {
    start: Instant,
    address: Option<Ipv6Addr>,
    port: Option<u16>,
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    connections: BTreeMap<Id, Connection>,
    next_id: u64,
    next_port: u16,
    acceptor: Option<Waker>,
    stats: StackStats,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Stack({:?}, {} connections)",
            self.address,
            self.connections.len()
        )
    }
}

impl Stack {
    /// A stack without address. Peers may dial `port`, if there is one. The seed must be unpredictable.
    pub fn new(port: Option<u16>, seed: u64, now: Instant) -> Self {
        let mut wire = Wire {
            came: VecDeque::new(),
            out: VecDeque::new(),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let interface = Interface::new(config, &mut wire, SmolInstant::ZERO);
        let spread = u16::try_from(seed % 10_000).unwrap_or(0);
        Self {
            start: now,
            address: None,
            port,
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            connections: BTreeMap::new(),
            next_id: 0,
            next_port: EPHEMERAL.start() + spread,
            acceptor: None,
            stats: StackStats::default(),
        }
    }

    /// The counters.
    pub fn stats(&self) -> StackStats {
        self.stats
    }

    /// What a connection has cost so far; nothing when it has ended.
    pub fn counted(&self, id: Id) -> Counted {
        self.connections
            .get(&id)
            .map_or_else(Counted::default, |connection| connection.counted)
    }

    /// Connections of any kind.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// This is our address now. Connections from another one end.
    pub fn set_address(&mut self, address: Option<Ipv6Addr>) {
        if address == self.address {
            return;
        }
        self.address = address;
        for connection in self.connections.values() {
            self.sockets
                .get_mut::<Socket<'_>>(connection.handle)
                .abort();
        }
        self.interface.update_ip_addrs(|all| {
            all.clear();
            let cidr = address.map(|address| IpCidr::new(IpAddress::Ipv6(address), PREFIX_LEN));
            // There is room: it is the only one.
            all.extend(cidr);
        });
    }

    fn time(&self, now: Instant) -> SmolInstant {
        let passed = now.saturating_duration_since(self.start).as_micros();
        SmolInstant::from_micros(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// A packet came through the tunnel. Nothing is done with it before [`poll`](Self::poll).
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.stats.received += 1;
        let Some(Segment { peer, port, begins }) = Segment::that_came(packet) else {
            self.stats.dropped += 1;
            return;
        };
        if self.wire.came.len() >= PACKETS_MAX {
            self.stats.dropped += 1;
            return;
        }
        if begins && self.port == Some(port) && !self.is_known(peer) && !self.admit(now, peer) {
            // As if it had been lost: whoever means it tries again.
            self.stats.refused += 1;
            return;
        }
        if let Some(connection) = self.connection_of(peer, port) {
            connection.counted.came += on_network(packet);
        }
        self.wire.came.push_back(packet.to_owned());
    }

    fn connection_of(&mut self, peer: SocketAddrV6, port: u16) -> Option<&mut Connection> {
        let mut all = self.connections.values_mut();
        all.find(|connection| connection.peer == peer && connection.port == port)
    }

    fn is_known(&self, peer: SocketAddrV6) -> bool {
        let mut all = self.connections.values();
        all.any(|connection| connection.incoming && connection.peer == peer)
    }

    /// Makes a connection for a peer that begins one, if there is room.
    fn admit(&mut self, now: Instant, peer: SocketAddrV6) -> bool {
        let of_peer = |c: &&Connection| c.incoming && c.peer.ip() == peer.ip();
        let is_pending = |c: &&Connection| matches!(c.phase, Phase::Pending(_));
        let all = self.connections.values();
        let pending = all.clone().filter(is_pending).count();
        let theirs = all.clone().filter(of_peer).count();
        let theirs_pending = all.filter(of_peer).filter(is_pending).count();
        if pending >= PENDING_MAX
            || theirs >= CONNECTIONS_PER_PEER_MAX
            || theirs_pending >= PENDING_MAX / 2
            || self.connections.len() >= CONNECTIONS_MAX
        {
            return false;
        }
        let (Some(address), Some(port)) = (self.address, self.port) else {
            return false;
        };
        let mut socket = socket();
        if socket.listen((IpAddress::Ipv6(address), port)).is_err() {
            return false;
        }
        self.stats.incoming += 1;
        self.add(socket, (peer, port), true, Phase::Pending(now));
        true
    }

    fn add(
        &mut self,
        socket: Socket<'static>,
        (peer, port): (SocketAddrV6, u16),
        incoming: bool,
        phase: Phase,
    ) -> Id {
        let handle = self.sockets.add(socket);
        self.next_id += 1;
        let id = Id(self.next_id);
        let connection = Connection {
            handle,
            peer,
            port,
            incoming,
            phase,
            counted: Counted::default(),
        };
        self.connections.insert(id, connection);
        id
    }

    /// Begins a connection; `None` without an address, or with too many connections.
    pub fn dial(&mut self, peer: SocketAddrV6) -> Option<Id> {
        let address = self.address?;
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let port = self.free_port();
        let mut socket = socket();
        let remote = IpEndpoint::new(IpAddress::Ipv6(*peer.ip()), peer.port());
        let local = (IpAddress::Ipv6(address), port);
        socket
            .connect(self.interface.context(), remote, local)
            .ok()?;
        self.stats.outgoing += 1;
        Some(self.add(socket, (peer, port), false, Phase::Held))
    }

    /// There are fewer connections than ports: one is free.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = match port {
                u16::MAX => *EPHEMERAL.start(),
                port => port + 1,
            };
            let mut all = self.connections.values();
            let taken = all.any(|connection| connection.port == port);
            if !taken {
                return port;
            }
        }
    }

    /// A connection of a peer that has come about and nobody has taken; else the waker is woken when there is one.
    pub fn accept(&mut self, waker: &Waker) -> Option<(Id, SocketAddrV6)> {
        let ready = self.connections.iter_mut().find(|(_, connection)| {
            let socket: &Socket<'_> = self.sockets.get(connection.handle);
            matches!(connection.phase, Phase::Pending(_)) && is_established(socket)
        });
        let Some((&id, connection)) = ready else {
            self.acceptor = Some(waker.clone());
            return None;
        };
        connection.phase = Phase::Held;
        Some((id, connection.peer))
    }

    /// What comes and goes on a connection; `None` when it has ended.
    pub fn socket(&mut self, id: Id) -> Option<&mut Socket<'static>> {
        let handle = self.connections.get(&id)?.handle;
        Some(self.sockets.get_mut(handle))
    }

    /// Nobody holds this connection any more. What was written is brought away, unless something came that nobody read.
    pub fn release(&mut self, now: Instant, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.phase = Phase::Orphan(now + LINGER_MAX);
        let socket: &mut Socket<'_> = self.sockets.get_mut(connection.handle);
        match socket.recv_queue() {
            0 => socket.close(),
            _ => socket.abort(),
        }
    }

    /// Does what is due: reads what came, makes what is to be sent, ends what has lasted too long.
    pub fn poll(&mut self, now: Instant) {
        let time = self.time(now);
        self.interface.poll(time, &mut self.wire, &mut self.sockets);
        let (sockets, read_all) = (&mut self.sockets, self.wire.came.is_empty());
        let mut ready = false;
        self.connections.retain(|_, connection| {
            let socket: &mut Socket<'_> = sockets.get_mut(connection.handle);
            // Of several that listen any may have taken the beginning that this one was made for.
            if let Some(remote) = socket.remote_endpoint() {
                connection.peer = socket_address(remote);
            }
            let late = match connection.phase {
                Phase::Pending(since) => {
                    ready |= is_established(socket);
                    now >= since + PENDING_TIME_MAX
                }
                Phase::Held => false,
                Phase::Orphan(until) => now >= until,
            };
            if late {
                socket.abort();
            }
            let over = matches!(socket.state(), State::Closed | State::TimeWait)
                && connection.phase != Phase::Held;
            // A listener that has gone back to listening: its peer gave up.
            let unused = read_all && socket.is_listening();
            if over || unused {
                sockets.remove(connection.handle);
            }
            !(over || unused)
        });
        if ready && let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }

    /// When [`poll`](Self::poll) wants to be called at the latest; something to be read or sent wants it at once.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let time = self.time(now);
        let protocol = self.interface.poll_delay(time, &self.sockets);
        let protocol = protocol.map(|delay| now + Duration::from(delay));
        let ends = self.connections.values().filter_map(|c| match c.phase {
            Phase::Pending(since) => Some(since + PENDING_TIME_MAX),
            Phase::Held => None,
            Phase::Orphan(until) => Some(until),
        });
        ends.chain(protocol).min()
    }

    /// The next packet for the tunnel.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let packet = self.wire.out.pop_front()?;
        if let Some(Segment { peer, port, .. }) = Segment::that_goes(&packet)
            && let Some(connection) = self.connection_of(peer, port)
        {
            connection.counted.went += on_network(&packet);
        }
        Some(packet)
    }

    /// Whether [`poll`](Self::poll) has more to do as soon as packets are taken.
    pub fn is_full(&self) -> bool {
        !self.wire.came.is_empty()
    }
}

fn is_established(socket: &Socket<'_>) -> bool {
    matches!(socket.state(), State::Established | State::CloseWait)
}

fn socket() -> Socket<'static> {
    let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
    let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
    let smol = |time: Duration| {
        Some(SmolDuration::from_micros(
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
        ))
    };
    socket.set_congestion_control(CongestionControl::Cubic);
    socket.set_timeout(smol(SILENCE_MAX));
    socket.set_keep_alive(smol(KEEP_ALIVE));
    // Messages of the peers' protocol are small, and wanted now.
    socket.set_nagle_enabled(false);
    socket
}

fn on_network(packet: &[u8]) -> u64 {
    packet.len() as u64 + OUTER_HEADERS_LEN
}

fn socket_address(endpoint: IpEndpoint) -> SocketAddrV6 {
    let IpAddress::Ipv6(address) = endpoint.addr;
    SocketAddrV6::new(address, endpoint.port, 0, 0)
}

/// What is to be known of a TCP packet.
struct Segment {
    peer: SocketAddrV6,
    /// Ours.
    port: u16,
    /// Whether it begins a connection.
    begins: bool,
}

impl Segment {
    /// Of a packet from a peer. Extension headers have no place in the tunnel: such packets are none.
    fn that_came(packet: &[u8]) -> Option<Self> {
        let packet = Ipv6Packet::new(packet).ok()?;
        let (source, destination, begins) = ports(packet)?;
        let peer = SocketAddrV6::new(packet.source(), source, 0, 0);
        let port = destination;
        (source != 0).then_some(Self { peer, port, begins })
    }

    /// Of a packet of our own.
    fn that_goes(packet: &[u8]) -> Option<Self> {
        let packet = Ipv6Packet::new(packet).ok()?;
        let (port, destination, begins) = ports(packet)?;
        let peer = SocketAddrV6::new(packet.destination(), destination, 0, 0);
        Some(Self { peer, port, begins })
    }
}

/// The ports of a TCP packet, and whether it begins a connection.
fn ports(packet: Ipv6Packet<'_>) -> Option<(u16, u16, bool)> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let &[s0, s1, d0, d1, _, _, _, _, _, _, _, _, _, flags, ..] = packet.payload() else {
        return None;
    };
    let ports = [[s0, s1], [d0, d1]].map(u16::from_be_bytes);
    let begins = flags & (SYN | ACK) == SYN;
    (packet.next_header() == TCP).then_some((ports[0], ports[1], begins))
}

#[cfg(test)]
mod tests;
