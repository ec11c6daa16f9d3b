//! What comes from the network (RFC 4380 §5.2.3, RFC 6081 §5.2.4).

use super::{
    ALL_NODES, Client, Datagram, Discovery, Dropped, Ipv6Packet, LocalPort, Path,
    connect::{Call, Ends, HOP_LIMIT, link_local},
};
use crate::teredo::{PORT, TeredoAddress, icmp::SOLICITING};
use std::{net::SocketAddrV4, time::Instant};

impl Client {
    pub(super) fn receive<'a>(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &'a [u8],
    ) -> Result<Option<Ipv6Packet<'a>>, Dropped> {
        let datagram = Datagram::parse(bytes)?;
        let packet = datagram.packet;
        if path.port == LocalPort::Service && self.is_server(path.to) {
            if packet.destination() == SOLICITING {
                self.receive_advertisement(now, path.to, &datagram)?;
            } else {
                self.receive_forwarded(now, &datagram)?;
            }
            return Ok(None);
        }
        // Only servers say where something came from.
        if datagram.authentication.is_some() || datagram.origin.is_some() {
            return Err(Dropped::Malformed);
        }
        if packet.is_bubble() && packet.destination().is_unicast_link_local() {
            return self.accept_cookie(now, path, packet).map(|()| None);
        }
        if packet.is_bubble() && packet.source().is_unicast_link_local() {
            // From behind a symmetric NAT this is where its sender is: the server knows another place.
            let answer = self.cookie_answer(path, packet)?;
            if !self.unasked.take(now) {
                return Err(Dropped::Limit);
            }
            self.send_answer(path, answer);
            return Ok(None);
        }
        if self.came_as_ever(now, path, packet) {
            return Ok(Some(packet));
        }
        if let Some(accepted) = self.accept_native(now, path, packet) {
            return accepted.map(|()| Some(packet));
        }
        let ends = self.sender(packet)?;
        let accepted = self.accept(now, path, ends, &datagram);
        if !packet.is_bubble() {
            return accepted
                .inspect_err(|_| self.question(now, path, ends))
                .map(|()| Some(packet));
        }
        accepted?;
        if datagram.trailers.discovery() == Some(Discovery::Solicitation) {
            self.advertise(path, ends);
        }
        Ok(None)
    }

    /// Data from a peer whose path is open, on that path: what nearly every datagram is.
    fn came_as_ever(&mut self, now: Instant, path: Path, packet: Ipv6Packet<'_>) -> bool {
        let own = self.qualified().map(|own| own.address.to_ipv6());
        if packet.is_bubble() || own != Some(packet.destination()) {
            return false;
        }
        let peer = self.peers.get(packet.source());
        let peer = peer.filter(|peer| peer.open_path(now) == Some(path));
        peer.map(|peer| peer.heard(now, path)).is_some()
    }

    fn is_server(&self, from: SocketAddrV4) -> bool {
        let ip = *from.ip();
        from.port() == PORT
            && self
                .server()
                .is_some_and(|server| server.primary == ip || server.secondary == Some(ip))
    }

    /// The two ends, when the packet is for us and from a peer that we may talk to.
    fn sender(&self, packet: Ipv6Packet<'_>) -> Result<Ends, Dropped> {
        let own = self.qualified().ok_or(Dropped::NotQualified)?.address;
        if packet.destination() != own.to_ipv6() {
            return Err(Dropped::NotForUs);
        }
        if TeredoAddress::from_ipv6(packet.source()).is_none() {
            return Err(Dropped::NotTeredo);
        }
        self.ends(packet.source()).map_err(|_| Dropped::Inward)
    }

    /// Does it come from where its sender is? If so, that is the path to it.
    fn accept(
        &mut self,
        now: Instant,
        path: Path,
        ends: Ends,
        datagram: &Datagram<'_>,
    ) -> Result<(), Dropped> {
        let packet = datagram.packet;
        if packet.is_bubble() && datagram.trailers.are_bad() {
            return Err(Dropped::BadTrailer);
        }
        let nonce = datagram.trailers.nonce().filter(|_| packet.is_bubble());
        let address = packet.source();
        let named = path.to == ends.peer.mapped();
        let Some(peer) = self.peers.get(address) else {
            if !named || path.port != LocalPort::Service {
                return Err(Dropped::Spoofed);
            }
            let (_, evicted) = self
                .peers
                .enter(now, address, false)
                .ok_or(Dropped::Limit)?;
            self.close(evicted.extra_port);
            self.opened(now, ends, path, !packet.is_bubble());
            return Ok(());
        };
        let own_port = match path.port {
            LocalPort::Service => true,
            LocalPort::Extra(port) => peer.extra_port == Some(port),
        };
        let known = peer.is_known(path);
        let nearby = peer.local(now) == Some(path.to);
        let said = nonce.is_some() && nonce == peer.nonce_sent;
        if !own_port || !(known || named || nearby || said) {
            return Err(Dropped::Spoofed);
        }
        if said {
            // Whoever says it first is believed; nobody after.
            peer.nonce_sent = None;
        }
        self.opened(now, ends, path, !packet.is_bubble());
        Ok(())
    }

    /// A bubble to an address that we have invented for one peer: it is from there.
    fn accept_cookie(
        &mut self,
        now: Instant,
        path: Path,
        packet: Ipv6Packet<'_>,
    ) -> Result<(), Dropped> {
        let ends = self.ends(packet.source()).map_err(|_| Dropped::NotForUs)?;
        let peer = self.peers.get(packet.source()).ok_or(Dropped::NotForUs)?;
        let known = peer.cookie.map(link_local) == Some(packet.destination());
        if !known || path.port != LocalPort::Service {
            return Err(Dropped::NotForUs);
        }
        // Whoever says it first is believed; nobody after.
        peer.cookie = None;
        self.opened(now, ends, path, false);
        Ok(())
    }

    /// Something that our server has passed on.
    fn receive_forwarded(&mut self, now: Instant, datagram: &Datagram<'_>) -> Result<(), Dropped> {
        let packet = datagram.packet;
        if !packet.is_bubble() {
            return Err(Dropped::Forwarded);
        }
        if datagram.trailers.are_bad() {
            return Err(Dropped::BadTrailer);
        }
        if packet.source().is_unicast_link_local() {
            let to = datagram.origin.ok_or(Dropped::Spoofed)?;
            let path = Path::from_service(to);
            let answer = self.cookie_answer(path, packet)?;
            if !self.answers.take(now) {
                return Err(Dropped::Limit);
            }
            self.send_answer(path, answer);
            if let Some(natives) = &mut self.natives {
                natives.answered(now, to);
            }
            return Ok(());
        }
        let ends = self.sender(packet)?;
        // A server drops what was not sent from there; we don't rely on it.
        if datagram.origin != Some(ends.peer.mapped()) {
            return Err(Dropped::Spoofed);
        }
        if !self.answers.take(now) {
            return Err(Dropped::Limit);
        }
        let same_nat = self
            .qualified()
            .is_some_and(|own| own.address.mapped().ip() == ends.peer.mapped().ip());
        let (peer, evicted) = self
            .peers
            .enter(now, packet.source(), false)
            .ok_or(Dropped::Limit)?;
        peer.touch(now);
        peer.nonce_received = datagram.trailers.nonce();
        peer.random_port = datagram.trailers.random_port();
        peer.alternates = match datagram.trailers.alternates() {
            Some(alternates) if same_nat => alternates.as_slice().to_vec(),
            _ => Vec::new(),
        };
        let (path, nonce, unheard) = (peer.path(now), peer.nonce_received, peer.unheard);
        self.close(evicted.extra_port);
        let Some(path) = path else {
            let opening = self
                .take_extra_port(ends)
                .then_some(self.config.opening_ttl);
            self.bubble_directly(ends, opening.flatten());
            self.bubble_through_server(now, ends, Call::Answer);
            return Ok(());
        };
        self.bubble_to(path, None, ends, nonce);
        if unheard {
            self.believed(now, ends, path);
        } else {
            // It may have lost the path that we still have.
            self.bubble_directly(ends, None);
        }
        Ok(())
    }

    /// What answers a bubble of miredo's, or of a relay: its source is an invented link-local address, and the answer goes to
    /// the place that the server has named, or that it came from.
    fn cookie_answer(&self, path: Path, packet: Ipv6Packet<'_>) -> Result<Vec<u8>, Dropped> {
        let own = self.qualified().ok_or(Dropped::NotQualified)?.address;
        if packet.destination() != own.to_ipv6() || path.port != LocalPort::Service {
            return Err(Dropped::NotForUs);
        }
        if !self.may_be_peer(path.to) {
            return Err(Dropped::Inward);
        }
        let between = (own.to_ipv6(), packet.source());
        Ok(super::bubble(between, HOP_LIMIT, &[]))
    }

    fn send_answer(&mut self, path: Path, bubble: Vec<u8>) {
        self.stats.bubbles += 1;
        self.transmit(path, None, bubble);
    }

    /// A packet that doesn't come from where its source is: whoever has this address is asked, through its server, to show
    /// itself. miredo behind a symmetric NAT sends so, since it knows no other way to tell where it is.
    fn question(&mut self, now: Instant, path: Path, ends: Ends) {
        if path.port != LocalPort::Service || !self.may_be_peer(path.to) || !self.unasked.take(now)
        {
            return;
        }
        let entered = self.peers.enter(now, ends.peer.to_ipv6(), false);
        if let Some((_, evicted)) = entered {
            self.close(evicted.extra_port);
            self.bubble_through_server(now, ends, Call::Question);
        }
    }

    /// A multicast bubble of a peer in our own network.
    pub(super) fn receive_discovery(
        &mut self,
        now: Instant,
        from: SocketAddrV4,
        bytes: &[u8],
    ) -> Result<(), Dropped> {
        let datagram = Datagram::parse(bytes)?;
        let packet = datagram.packet;
        let own = self.qualified().ok_or(Dropped::NotQualified)?.address;
        if !packet.is_bubble() || packet.destination() != ALL_NODES || datagram.origin.is_some() {
            return Err(Dropped::NotForUs);
        }
        let peer = TeredoAddress::from_ipv6(packet.source()).ok_or(Dropped::NotTeredo)?;
        if peer == own {
            return Err(Dropped::NotForUs);
        }
        let same_nat = peer.mapped().ip() == own.mapped().ip();
        let ends = self.ends(packet.source()).map_err(|_| Dropped::Inward)?;
        if !same_nat || !self.may_be_neighbour(from) {
            return Err(Dropped::Spoofed);
        }
        if !self.answers.take(now) {
            return Err(Dropped::Limit);
        }
        let (peer, evicted) = self
            .peers
            .enter(now, packet.source(), false)
            .ok_or(Dropped::Limit)?;
        peer.seen_locally(now, from);
        self.close(evicted.extra_port);
        self.bubble_to(Path::from_service(from), None, ends, None);
        Ok(())
    }
}
