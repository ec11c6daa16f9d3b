//! Opening paths: bubbles straight to a peer open our NAT, bubbles through its server make it open its own (RFC 4380
//! §5.2.6, RFC 6081 §5.2, §5.4, §5.6).

use super::{
    Alternates, BUBBLE_INTERVAL, Client, Discovery, Event, Ipv6Packet, LocalPort, Nat, PACKET_MAX,
    Path, Refusal, Sent, TeredoAddress, Trailer, bubble,
};
use crate::teredo::{PORT, is_global, limits::EXTRA_PORTS_MAX};
use std::{
    net::{Ipv6Addr, SocketAddrV4},
    time::Instant,
};

/// The hop limit of our bubbles; nobody forwards them as IPv6.
pub(super) const HOP_LIMIT: u8 = 255;

/// Additional ports are chosen from here up.
const EXTRA_PORT_MIN: u16 = 0xC000;

/// The two ends of a conversation, as far as we may know them.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    own: TeredoAddress,
    pub(super) peer: TeredoAddress,
}

/// Why a bubble goes through a peer's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// We want to reach it.
    Try,
    /// It wants to reach us.
    Answer,
    /// Something came in its name, from another place than its address names.
    Question,
}

impl Client {
    /// A packet of the tunnel is to be sent.
    pub fn send(&mut self, now: Instant, packet: &[u8]) -> Sent {
        let Some(own) = self.qualified() else {
            return Sent::Refused(Refusal::NotQualified);
        };
        let Ok(parsed) = Ipv6Packet::new(packet) else {
            return Sent::Refused(Refusal::NotOurs);
        };
        if parsed.source() != own.address.to_ipv6() || packet.len() > PACKET_MAX {
            return Sent::Refused(Refusal::NotOurs);
        }
        self.reach(now, parsed.destination(), Some(packet))
    }

    /// Opens the path to a peer, if it isn't open: something is going to be sent. [`Sent::Now`] when it is.
    pub fn connect(&mut self, now: Instant, peer: Ipv6Addr) -> Sent {
        self.reach(now, peer, None)
    }

    fn reach(&mut self, now: Instant, address: Ipv6Addr, packet: Option<&[u8]>) -> Sent {
        if let Some(native) = self.reach_native(now, address) {
            return native;
        }
        if let Some(peer) = self.peers.get(address) {
            peer.wanted = true;
            peer.touch(now);
            if let Some(path) = peer.open_path(now) {
                return Sent::Now(path);
            }
        }
        let ends = match self.ends(address) {
            Ok(ends) => ends,
            Err(refusal) => return Sent::Refused(refusal),
        };
        let Some((peer, evicted)) = self.peers.enter(now, address, true) else {
            return Sent::Refused(Refusal::Full);
        };
        peer.touch(now);
        let hopeless = peer.may_bubble(now).is_err() && peer.retry_at.is_none();
        if let Some(packet) = packet.filter(|_| !hopeless) {
            peer.enqueue(packet);
        }
        let tried = peer.retry_at.is_some();
        self.close(evicted.extra_port);
        if hopeless {
            return Sent::Refused(Refusal::Unreachable);
        }
        if !tried {
            self.attempt(now, ends);
        }
        Sent::Queued
    }

    /// The two ends, if we may talk to that one at all.
    pub(super) fn ends(&self, address: Ipv6Addr) -> Result<Ends, Refusal> {
        let own = self.qualified().ok_or(Refusal::NotQualified)?.address;
        let peer = TeredoAddress::from_ipv6(address).ok_or(Refusal::Destination)?;
        let allowed = self.may_be_peer(peer.mapped()) && self.may_be_server(peer.server());
        allowed
            .then_some(Ends { own, peer })
            .ok_or(Refusal::Destination)
    }

    /// One try: straight, and through the peer's server.
    fn attempt(&mut self, now: Instant, ends: Ends) {
        let address = ends.peer.to_ipv6();
        let Some(peer) = self.peers.get(address) else {
            return;
        };
        peer.retry_at = Some(now + BUBBLE_INTERVAL);
        let opening = peer.nonce_received.is_none();
        let local = peer.local(now);
        self.take_extra_port(ends);
        let extra = self
            .peers
            .get(address)
            .is_some_and(|peer| peer.extra_port.is_some());
        // An additional port keeps its number towards whom it is used for first: not before we know who that is.
        if !(opening && extra) {
            self.bubble_directly(ends, self.config.opening_ttl.filter(|_| opening));
        }
        if let Some(local) = local {
            self.bubble_to(Path::from_service(local), None, ends, None);
            self.discover(now);
        }
        self.bubble_through_server(now, ends, Call::Try);
    }

    /// The time for another try has come, or for giving up.
    pub(super) fn retry(&mut self, now: Instant, address: Ipv6Addr) {
        let Some(peer) = self.peers.get(address) else {
            return;
        };
        peer.retry_at = None;
        let open = peer.open_path(now).is_some();
        let hopeless = peer.may_bubble(now).is_err();
        if open {
            return;
        }
        match self.ends(address) {
            Ok(ends) if !hopeless => self.attempt(now, ends),
            _ => self.give_up(address),
        }
    }

    fn give_up(&mut self, address: Ipv6Addr) {
        let Some(peer) = self.peers.get(address) else {
            return;
        };
        peer.queue.clear();
        peer.nonce_received = None;
        peer.random_port = None;
        let port = peer.extra_port.take();
        self.close(port);
        self.event(Event::Unreachable(address));
    }

    pub(super) fn close(&mut self, port: Option<u16>) {
        if let Some(port) = port {
            self.event(Event::PortClosed(port));
        }
    }

    pub(super) fn forget_idle_peers(&mut self, now: Instant) {
        for port in self.peers.forget_idle(now) {
            self.close(Some(port));
        }
    }

    /// Behind a symmetric NAT that keeps port numbers, a fresh port's number can be foretold (RFC 6081 §5.4). Whether the
    /// peer has a new one now: nothing from there can reach it yet.
    pub(super) fn take_extra_port(&mut self, ends: Ends) -> bool {
        let foretold = |own: super::Qualified| own.nat == Nat::Symmetric && own.keeps_port;
        let full = self.peers.extra_ports().count() >= EXTRA_PORTS_MAX;
        if full || !self.qualified().is_some_and(foretold) {
            return false;
        }
        let port = EXTRA_PORT_MIN | self.random.u16();
        let free = port != self.config.local_port && self.peers.extra_ports().all(|p| p != port);
        let peer = self.peers.get(ends.peer.to_ipv6());
        let Some(peer) = peer.filter(|peer| free && peer.extra_port.is_none()) else {
            return false;
        };
        peer.extra_port = Some(port);
        true
    }

    /// Bubbles to where the peer's NAT will receive, from the port of ours that is for it, and to where the peer may be in
    /// our own network.
    pub(super) fn bubble_directly(&mut self, ends: Ends, ttl: Option<u8>) {
        let Some(peer) = self.peers.get(ends.peer.to_ipv6()) else {
            return;
        };
        let nonce = peer.nonce_received;
        let mapped = ends.peer.mapped();
        let announced = peer
            .random_port
            .map(|port| SocketAddrV4::new(*mapped.ip(), port));
        let path = Path {
            port: peer.extra_port.map_or(LocalPort::Service, LocalPort::Extra),
            to: announced.unwrap_or(mapped),
        };
        let alternates = peer.alternates.clone();
        if self.may_be_peer(path.to) {
            self.bubble_to(path, ttl, ends, nonce);
        }
        for to in alternates {
            if self.may_be_neighbour(to) {
                self.bubble_to(Path::from_service(to), None, ends, nonce);
            }
        }
    }

    pub(super) fn bubble_to(
        &mut self,
        path: Path,
        ttl: Option<u8>,
        ends: Ends,
        nonce: Option<[u8; 4]>,
    ) {
        let trailer = nonce.map(Trailer::Nonce);
        self.send_bubble(path, ttl, ends, trailer.as_slice());
    }

    fn send_bubble(&mut self, path: Path, ttl: Option<u8>, ends: Ends, trailers: &[Trailer]) {
        let between = (ends.own.to_ipv6(), ends.peer.to_ipv6());
        self.stats.bubbles += 1;
        self.transmit(path, ttl, bubble(between, HOP_LIMIT, trailers));
    }

    /// Says that this path is open.
    pub(super) fn advertise(&mut self, path: Path, ends: Ends) {
        let trailer = Trailer::NeighborDiscovery(Discovery::Advertisement);
        self.send_bubble(path, None, ends, &[trailer]);
    }

    /// A bubble that the peer's server passes on, unless there were too many already.
    ///
    /// A peer that knows RFC 6081 answers with the nonce that is in it. One that doesn't would answer from where its NAT
    /// puts it, and we could not tell who that is: every other try comes from an address that we invented for this peer
    /// alone, and the answer goes there (miredo does so always).
    pub(super) fn bubble_through_server(&mut self, now: Instant, ends: Ends, call: Call) {
        let random: [u8; 8] = self.random.bytes();
        let Some(peer) = self.peers.get(ends.peer.to_ipv6()) else {
            return;
        };
        if peer.may_bubble(now) != Ok(true) {
            self.stats.withheld += 1;
            return;
        }
        let invented = match call {
            Call::Try => peer.bubbles % 2 == 1,
            Call::Answer => false,
            Call::Question => true,
        };
        peer.bubbled(now);
        let to = Path::from_service(SocketAddrV4::new(ends.peer.server(), PORT));
        if invented {
            peer.cookie = Some(random);
            let between = (link_local(random), ends.peer.to_ipv6());
            self.stats.bubbles += 1;
            return self.transmit(to, None, bubble(between, HOP_LIMIT, &[]));
        }
        let [nonce, _] = random.as_chunks::<4>().0 else {
            return;
        };
        peer.nonce_sent = Some(*nonce);
        let mut trailers = vec![Trailer::Nonce(*nonce)];
        trailers.extend(peer.extra_port.map(Trailer::RandomPort));
        if ends.own.mapped().ip() == ends.peer.mapped().ip() {
            let port = self.config.local_port;
            let inside = self.config.networks.iter().map(|network| network.address);
            let inside = inside.filter(|ip| !ip.is_loopback());
            let inside = Alternates::new(inside.map(|ip| SocketAddrV4::new(ip, port)));
            trailers.extend(inside.map(Trailer::AlternateAddress));
        }
        self.send_bubble(to, None, ends, &trailers);
    }

    /// The peer is there: what waited for it goes out, as soon as it will take it. `believes` when what came shows that it
    /// does already.
    pub(super) fn opened(&mut self, now: Instant, ends: Ends, path: Path, believes: bool) {
        let address = ends.peer.to_ipv6();
        let symmetric = self
            .qualified()
            .is_some_and(|own| own.nat == Nat::Symmetric);
        let Some(peer) = self.peers.get(address) else {
            return;
        };
        let new = peer.open_path(now) != Some(path);
        peer.heard(now, path);
        let nonce = peer.nonce_received;
        // Who sees us at another place than our address names believes a bubble with its own nonce, nothing else.
        let elsewhere =
            (symmetric || !is_global(*path.to.ip())) && peer.local(now) != Some(path.to);
        peer.unheard = new && elsewhere && nonce.is_none() && !believes;
        if new && !peer.unheard {
            // Who is not where its address says waits for this to know that it has been found.
            if elsewhere || path.to != ends.peer.mapped() {
                self.bubble_to(path, None, ends, nonce);
            }
            self.believed(now, ends, path);
        }
    }

    /// The peer takes what comes on this path: what waited for it goes out.
    pub(super) fn believed(&mut self, now: Instant, ends: Ends, path: Path) {
        let address = ends.peer.to_ipv6();
        let Some(peer) = self.peers.get(address) else {
            return;
        };
        peer.unheard = false;
        peer.retry_at = None;
        let waiting = std::mem::take(&mut peer.queue);
        let unused = match path.port {
            LocalPort::Service => peer.extra_port.take(),
            LocalPort::Extra(_) => None,
        };
        peer.touch(now);
        for packet in waiting {
            self.transmit(path, None, packet);
        }
        self.close(unused);
        self.event(Event::Reachable(address));
    }
}

/// A link-local address with this end.
pub(super) fn link_local(end: [u8; 8]) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(u64::from_be_bytes(end)))
}
