//! A Teredo relay (RFC 4380 §5.4) without socket, clock or randomness of its own: between hosts with native IPv6 and
//! Teredo clients.
//!
//! What holds, whatever either side says:
//! - what goes out by UDP is a packet that came by IPv6, to a client that has shown that it receives there; or a bubble
//!   of 40 bytes, at most one for each packet that came by IPv6: nothing is ever amplified, and nothing is sent by itself;
//! - nothing goes to addresses that are not global, to this machine, or from Teredo to Teredo;
//! - what goes out by IPv6 comes from where its source says, and only from clients that somebody with native IPv6 has
//!   called;
//! - peers, waiting packets, bubbles a second, and bubbles a second to one server are bounded.

use crate::teredo::{
    Datagram, Ipv6Packet, Malformed, PORT, TeredoAddress, bubble,
    client::{Network, is_of},
    is_global,
    limits::{
        BUBBLE_INTERVAL, BUBBLE_SILENCE, BUBBLES_MAX, PACKET_MAX, PATH_VALID_FOR, PEER_IDLE_MAX,
        QUEUE_MAX, RELAY_BUBBLES_PER_SECOND_MAX, RELAY_PEERS_MAX,
        RELAY_SERVER_BUBBLES_PER_SECOND_MAX, RELAY_WAITING_MAX,
    },
    random::Random,
    rate::{Rate, Rates},
};
use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::Instant,
};

/// The hop limit of our bubbles; nobody forwards them as IPv6.
const HOP_LIMIT: u8 = 255;

/// How a relay behaves.
#[derive(Clone, Debug, Default)]
pub struct RelayConfig {
    /// This machine's IPv4 addresses: nothing is sent there.
    pub networks: Vec<Network>,
}

/// A datagram to be sent. Its ECN bits are 0 (RFC 9601 §6.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub to: SocketAddrV4,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// What becomes of a packet that came by IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// The caller is to send it, as it is, by UDP.
    Now(SocketAddrV4),
    /// It waits until the client has answered.
    Queued,
}

/// Why something is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum NotRelayed {
    /// It is no IPv6 packet, no Teredo datagram, or too large.
    #[error("malformed")]
    Malformed,
    /// Its source is no address that may use a relay in this direction.
    #[error("the source is not allowed")]
    Source,
    /// Its destination is no address that a relay serves, or names a place that nothing may be sent to.
    #[error("the destination is not allowed")]
    Destination,
    /// It doesn't come from where its source says.
    #[error("spoofed source")]
    Spoofed,
    /// Nobody has called this client.
    #[error("nobody has called this client")]
    Uncalled,
    /// The client does not answer.
    #[error("the client has not answered")]
    Unreachable,
    /// There is too much of it.
    #[error("over the limit")]
    Limit,
}

impl From<Malformed> for NotRelayed {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What a relay has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Packets that went from native IPv6 to clients.
    pub to_clients: u64,
    /// Packets that went from clients to native IPv6.
    pub to_native: u64,
    /// Bubbles that were sent.
    pub bubbles: u64,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<NotRelayed, u64>,
}

/// A client, as far as it is known.
#[derive(Debug)]
struct Peer {
    /// Where it receives, and when it was last heard from there.
    path: Option<(SocketAddrV4, Instant)>,
    /// The end of a link-local address that only it can know.
    cookie: [u8; 8],
    queue: VecDeque<Vec<u8>>,
    bubbles: u8,
    bubble_at: Option<Instant>,
    used_at: Instant,
}

impl Peer {
    fn open(&self, now: Instant) -> Option<SocketAddrV4> {
        let (path, heard) = self.path?;
        (now.saturating_duration_since(heard) < PATH_VALID_FOR).then_some(path)
    }
}

/// A relay.
#[derive(Debug)]
pub struct Relay {
    config: RelayConfig,
    random: Random,
    peers: BTreeMap<Ipv6Addr, Peer>,
    /// Packets that wait, of all peers.
    waiting: usize,
    bubbles: Rate,
    /// Bubbles to each server.
    servers: Rates,
    out: VecDeque<Outgoing>,
    stats: RelayStats,
}

impl Relay {
    /// A relay that knows nobody. The seed must be unpredictable.
    pub fn new(config: RelayConfig, seed: [u8; 32]) -> Self {
        let mut random = Random::new(seed);
        let key = u64::from_be_bytes(random.bytes());
        Self {
            config,
            peers: BTreeMap::new(),
            waiting: 0,
            bubbles: Rate::new(RELAY_BUBBLES_PER_SECOND_MAX),
            servers: Rates::new(RELAY_SERVER_BUBBLES_PER_SECOND_MAX, key),
            random,
            out: VecDeque::new(),
            stats: RelayStats::default(),
        }
    }

    /// The counters.
    pub fn stats(&self) -> &RelayStats {
        &self.stats
    }

    /// Clients that are known, and those of them that have answered lately.
    pub fn clients(&self, now: Instant) -> (usize, usize) {
        let open = self.peers.values().filter(|peer| peer.open(now).is_some());
        (self.peers.len(), open.count())
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    /// Something came by IPv6, for a client.
    ///
    /// # Errors
    /// [`NotRelayed`]: it is dropped.
    pub fn handle_native(&mut self, now: Instant, packet: &[u8]) -> Result<Relayed, NotRelayed> {
        let result = self.relay_inward(now, packet);
        match result {
            Ok(Relayed::Now(_)) => self.stats.to_clients += 1,
            Ok(Relayed::Queued) => {}
            Err(why) => *self.stats.dropped.entry(why).or_default() += 1,
        }
        result
    }

    fn relay_inward(&mut self, now: Instant, packet: &[u8]) -> Result<Relayed, NotRelayed> {
        let parsed = Ipv6Packet::new(packet)?;
        if packet.len() > PACKET_MAX || parsed.bytes().len() != packet.len() {
            return Err(NotRelayed::Malformed);
        }
        if !is_native(parsed.source()) {
            return Err(NotRelayed::Source);
        }
        let client = TeredoAddress::from_ipv6(parsed.destination());
        let client = client.filter(|client| self.is_served(*client));
        let client = client.ok_or(NotRelayed::Destination)?;
        if let Some(peer) = self.peers.get_mut(&parsed.destination()) {
            peer.used_at = now;
            if let Some(path) = peer.open(now) {
                return Ok(Relayed::Now(path));
            }
        }
        self.call(now, client, packet)
    }

    /// Whether a client may be there: at a global address that is not ours, with a server at such an address.
    fn is_served(&self, client: TeredoAddress) -> bool {
        let outside = |ip| is_global(ip) && !is_of(&self.config.networks, ip);
        client.mapped().port() != 0 && outside(*client.mapped().ip()) && outside(client.server())
    }

    /// Keeps the packet, and has the client's server ask it to answer us.
    fn call(
        &mut self,
        now: Instant,
        client: TeredoAddress,
        packet: &[u8],
    ) -> Result<Relayed, NotRelayed> {
        let address = client.to_ipv6();
        self.make_room(now, address)?;
        let cookie = self.random.bytes();
        let peer = self.peers.entry(address).or_insert_with(|| Peer {
            path: None,
            cookie,
            queue: VecDeque::new(),
            bubbles: 0,
            bubble_at: None,
            used_at: now,
        });
        let since = peer.bubble_at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since >= BUBBLE_SILENCE) {
            peer.bubbles = 0;
        }
        if peer.bubbles >= BUBBLES_MAX {
            let gone = std::mem::take(&mut peer.queue).len();
            self.waiting -= gone;
            return Err(NotRelayed::Unreachable);
        }
        if peer.queue.len() == QUEUE_MAX {
            peer.queue.pop_front();
        } else if self.waiting < RELAY_WAITING_MAX {
            self.waiting += 1;
        } else {
            return Err(NotRelayed::Limit);
        }
        peer.queue.push_back(packet.to_owned());
        if since.is_none_or(|since| since >= BUBBLE_INTERVAL) {
            if !self.bubbles.take(now) || !self.servers.take(now, client.server()) {
                return Err(NotRelayed::Limit);
            }
            peer.bubbles += 1;
            peer.bubble_at = Some(now);
            let between = (link_local(peer.cookie), address);
            self.stats.bubbles += 1;
            self.out.push_back(Outgoing {
                to: SocketAddrV4::new(client.server(), PORT),
                bytes: bubble(between, HOP_LIMIT, &[]),
            });
        }
        Ok(Relayed::Queued)
    }

    /// Where there are too many peers, one goes that has not answered, or the one that was of no use for longest; never
    /// one that is in use.
    fn make_room(&mut self, now: Instant, address: Ipv6Addr) -> Result<(), NotRelayed> {
        if self.peers.len() < RELAY_PEERS_MAX || self.peers.contains_key(&address) {
            return Ok(());
        }
        let least = self
            .peers
            .iter()
            .min_by_key(|(_, peer)| (peer.open(now).is_some(), peer.path.is_some(), peer.used_at));
        let (&least, peer) = least.ok_or(NotRelayed::Limit)?;
        if peer.open(now).is_some() {
            return Err(NotRelayed::Limit);
        }
        self.forget(least);
        Ok(())
    }

    fn forget(&mut self, address: Ipv6Addr) {
        if let Some(peer) = self.peers.remove(&address) {
            self.waiting -= peer.queue.len();
        }
    }

    /// Something came by UDP. A packet that is to go out by IPv6 comes back.
    ///
    /// # Errors
    /// [`NotRelayed`]: it is dropped.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        bytes: &'a [u8],
    ) -> Result<Option<Ipv6Packet<'a>>, NotRelayed> {
        let result = self.relay_outward(now, from, bytes);
        match result {
            Ok(Some(_)) => self.stats.to_native += 1,
            Ok(None) => {}
            Err(why) => *self.stats.dropped.entry(why).or_default() += 1,
        }
        result
    }

    fn relay_outward<'a>(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        bytes: &'a [u8],
    ) -> Result<Option<Ipv6Packet<'a>>, NotRelayed> {
        let datagram = Datagram::parse(bytes)?;
        // Only servers say where something came from, and none has anything to say to a relay.
        if datagram.authentication.is_some() || datagram.origin.is_some() {
            return Err(NotRelayed::Malformed);
        }
        let packet = datagram.packet;
        if packet.bytes().len() > PACKET_MAX {
            return Err(NotRelayed::Malformed);
        }
        let client = TeredoAddress::from_ipv6(packet.source());
        let client = client.filter(|client| self.is_served(*client));
        let client = client.ok_or(NotRelayed::Source)?;
        if !is_global(*from.ip()) || from.port() == 0 || is_of(&self.config.networks, *from.ip()) {
            return Err(NotRelayed::Spoofed);
        }
        let address = packet.source();
        let peer = self.peers.get_mut(&address).ok_or(NotRelayed::Uncalled)?;
        if packet.is_bubble() {
            let answers = packet.destination() == link_local(peer.cookie);
            return match answers {
                true => self.answered(now, address, from).map(|()| None),
                false => Err(NotRelayed::Uncalled),
            };
        }
        // Who has answered from another place than its address names is believed there, behind a symmetric NAT.
        let known = peer.path.map(|(path, _)| path);
        if known.is_none() {
            return Err(NotRelayed::Uncalled);
        }
        if known != Some(from) && client.mapped() != from {
            return Err(NotRelayed::Spoofed);
        }
        if !is_native(packet.destination()) {
            return Err(NotRelayed::Destination);
        }
        peer.path = Some((from, now));
        peer.used_at = now;
        peer.bubbles = 0;
        Ok(Some(packet))
    }

    /// The client is there: what waited for it goes out.
    fn answered(
        &mut self,
        now: Instant,
        address: Ipv6Addr,
        from: SocketAddrV4,
    ) -> Result<(), NotRelayed> {
        let peer = self.peers.get_mut(&address).ok_or(NotRelayed::Uncalled)?;
        // Whoever says it first is believed; nobody after.
        peer.cookie = self.random.bytes();
        peer.path = Some((from, now));
        peer.used_at = now;
        peer.bubbles = 0;
        peer.bubble_at = None;
        let queue = std::mem::take(&mut peer.queue);
        self.waiting -= queue.len();
        self.stats.to_clients += queue.len() as u64;
        let out = queue.into_iter().map(|bytes| Outgoing { to: from, bytes });
        self.out.extend(out);
        Ok(())
    }

    /// Forgets clients with which nothing happens. To be called now and then.
    pub fn forget_idle(&mut self, now: Instant) {
        let idle = |peer: &Peer| now.saturating_duration_since(peer.used_at) >= PEER_IDLE_MAX;
        let gone: Vec<_> = (self.peers.iter())
            .filter(|(_, peer)| idle(peer))
            .map(|(&address, _)| address)
            .collect();
        for address in gone {
            self.forget(address);
        }
    }
}

/// A link-local address with this end.
fn link_local(end: [u8; 8]) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(u64::from_be_bytes(end)))
}

/// Whether this is an ordinary global IPv6 address: neither Teredo's nor, with an IPv4 address that nothing may be sent
/// to, 6to4's (RFC 6324).
pub(crate) fn is_native(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xE000 == 0x2000;
    let teredo = TeredoAddress::from_ipv6(address).is_some();
    let inside = u32::from(segments[1]) << 16 | u32::from(segments[2]);
    let inward = segments[0] == 0x2002 && !is_global(Ipv4Addr::from(inside));
    global && !teredo && !inward
}

#[cfg(test)]
mod tests;
