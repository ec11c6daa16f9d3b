//! A Teredo server (RFC 4380 §5.3) without socket, clock or state of any client.
//!
//! It answers router solicitations and passes bubbles and pings on. It is no open relay: what it passes on is no larger
//! than what came, carries no data, comes from where its source says or goes to a client of this server, and never goes
//! to an address that is not global or that is the server's own.

use crate::teredo::{
    Datagram, PORT, Secret, TeredoAddress,
    icmp::{ALL_ROUTERS, ICMPV6, RouterAdvertisement, RouterSolicitation},
    is_global,
    limits::{FORWARDED_ICMP_MAX, REQUESTS_PER_SECOND_MAX, TRAILERS_MAX},
    packet::origin_bytes,
    rate::Rates,
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Instant,
};

/// One of a server's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is part of its clients' addresses.
    Primary,
    /// The other one.
    Secondary,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address that is part of its clients' addresses.
    pub primary: Ipv4Addr,
    /// The other address; clients expect the one after the primary.
    pub secondary: Ipv4Addr,
    /// What clients must know, if not everybody may be one.
    pub secret: Option<Secret>,
    /// What one IPv4 address may ask for in a second.
    pub requests_per_second: u32,
}

impl ServerConfig {
    /// A server for everybody.
    pub fn new(primary: Ipv4Addr, secondary: Ipv4Addr) -> Self {
        Self {
            primary,
            secondary,
            secret: None,
            requests_per_second: REQUESTS_PER_SECOND_MAX,
        }
    }
}

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// From which of the two addresses.
    pub from: Side,
    /// Where to.
    pub to: SocketAddrV4,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is no Teredo datagram.
    #[error("malformed")]
    Malformed,
    /// It is neither a bubble nor a small ICMPv6 packet.
    #[error("data")]
    Data,
    /// It comes from an address that can't be a client's, or from the server itself.
    #[error("impossible sender")]
    Sender,
    /// Its source names another sender.
    #[error("spoofed source")]
    Spoofed,
    /// It is neither for a client of this server nor from a client.
    #[error("not a client's business")]
    Foreign,
    /// It asks for something that this server doesn't do.
    #[error("not for a server")]
    Unknown,
    /// It goes to an address that nothing may be sent to.
    #[error("the destination points inward")]
    Inward,
    /// It proves no knowledge of the secret.
    #[error("not authenticated")]
    Unauthenticated,
    /// The sender asks too often.
    #[error("over the limit")]
    Limit,
}

/// What a server has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Datagrams that came.
    pub received: u64,
    /// Solicitations that were answered.
    pub advertisements: u64,
    /// Packets that were passed on.
    pub forwarded: u64,
    /// Datagrams that were dropped, by reason.
    pub refused: std::collections::BTreeMap<Refused, u64>,
}

/// A server.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    rates: Rates,
    stats: ServerStats,
}

impl Server {
    /// A server; the seed keeps anybody from guessing which addresses share a place in the table of rates.
    pub fn new(config: ServerConfig, seed: u64) -> Self {
        let rates = Rates::new(config.requests_per_second, seed);
        Self {
            config,
            rates,
            stats: ServerStats::default(),
        }
    }

    /// The counters.
    pub fn stats(&self) -> &ServerStats {
        &self.stats
    }

    /// Something came to one of the two addresses.
    ///
    /// # Errors
    /// [`Refused`]: it is dropped.
    pub fn handle(
        &mut self,
        now: Instant,
        side: Side,
        from: SocketAddrV4,
        bytes: &[u8],
    ) -> Result<Answer, Refused> {
        self.stats.received += 1;
        let result = self.answer(now, side, from, bytes);
        if let Err(reason) = result {
            *self.stats.refused.entry(reason).or_default() += 1;
        }
        result
    }

    fn answer(
        &mut self,
        now: Instant,
        side: Side,
        from: SocketAddrV4,
        bytes: &[u8],
    ) -> Result<Answer, Refused> {
        let datagram = Datagram::parse(bytes).map_err(|_| Refused::Malformed)?;
        let packet = datagram.packet;
        let small = packet.next_header() == ICMPV6 && packet.payload().len() <= FORWARDED_ICMP_MAX;
        if !packet.is_bubble() && !small {
            return Err(Refused::Data);
        }
        let itself = from.port() == PORT && self.is_own(*from.ip());
        if !is_global(*from.ip()) || from.port() == 0 || itself {
            return Err(Refused::Sender);
        }
        if !self.rates.take(now, *from.ip()) {
            return Err(Refused::Limit);
        }
        if packet.destination() == ALL_ROUTERS {
            return self.advertise(side, from, &datagram);
        }
        let target = TeredoAddress::from_ipv6(packet.destination());
        match TeredoAddress::from_ipv6(packet.source()) {
            Some(source) if source.mapped() != from => return Err(Refused::Spoofed),
            None if target.is_none_or(|target| target.server() != self.config.primary) => {
                return Err(Refused::Foreign);
            }
            _ => {}
        }
        self.forward(from, target.ok_or(Refused::Unknown)?, bytes, &datagram)
    }

    fn is_own(&self, ip: Ipv4Addr) -> bool {
        ip == self.config.primary || ip == self.config.secondary
    }

    fn advertise(
        &mut self,
        side: Side,
        from: SocketAddrV4,
        datagram: &Datagram<'_>,
    ) -> Result<Answer, Refused> {
        let solicitation = RouterSolicitation::parse(datagram.packet).ok_or(Refused::Unknown)?;
        let secret = self.config.secret.as_ref();
        if secret.is_some_and(|secret| !secret.verifies(datagram)) {
            return Err(Refused::Unauthenticated);
        }
        let advertisement = RouterAdvertisement {
            destination: solicitation.source,
            server: self.config.primary,
            mtu: crate::teredo::MTU,
        };
        let nonce = datagram.authentication.map(|said| said.nonce);
        self.stats.advertisements += 1;
        Ok(Answer {
            from: if solicitation.is_cone() {
                side.other()
            } else {
                side
            },
            to: from,
            bytes: advertisement.encode(nonce, from, secret),
        })
    }

    /// Passes packet and trailers on, with the sender's address in front for clients of this server.
    fn forward(
        &mut self,
        from: SocketAddrV4,
        target: TeredoAddress,
        bytes: &[u8],
        datagram: &Datagram<'_>,
    ) -> Result<Answer, Refused> {
        let to = target.mapped();
        if !is_global(*to.ip()) || to.port() == 0 || self.is_own(*to.ip()) {
            return Err(Refused::Inward);
        }
        let packet = datagram.packet.bytes();
        let authentication = datagram
            .authentication
            .map_or(0, |said| 13 + said.client_id.len() + said.value.len());
        let start = authentication + datagram.origin.map_or(0, |_| 8);
        let tail = bytes.get(start..).unwrap_or_default();
        if tail.len() - packet.len() > TRAILERS_MAX {
            return Err(Refused::Data);
        }
        let ours = target.server() == self.config.primary;
        let mut out = Vec::with_capacity(8 + tail.len());
        out.extend(ours.then(|| origin_bytes(from)).into_iter().flatten());
        out.extend(tail);
        self.stats.forwarded += 1;
        Ok(Answer {
            from: Side::Primary,
            to,
            bytes: out,
        })
    }
}

#[cfg(test)]
mod tests;
