//! Boxes that translate addresses (RFC 4787's words: mapping and filtering).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

/// How a box behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Same mapping towards everybody; everybody may answer.
    Cone,
    /// Same mapping towards everybody; addresses that were sent to may answer.
    Address,
    /// Same mapping towards everybody; addresses and ports that were sent to may answer.
    Port,
    /// As `Port`, and the mapped port is never the local one.
    PortShift,
    /// As `Port`, but what comes unasked takes the port for its sender: Linux without a filter on its own input.
    Leaky,
    /// Another, random port for each destination; only that may answer.
    Symmetric,
    /// As `Symmetric`, but a local port keeps its number towards whom it is used for first.
    PortPreservingSymmetric,
}

pub(super) const ALL: [Kind; 7] = [
    Kind::Cone,
    Kind::Address,
    Kind::Port,
    Kind::PortShift,
    Kind::Leaky,
    Kind::Symmetric,
    Kind::PortPreservingSymmetric,
];

/// One box.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) kind: Kind,
    pub(super) public: Ipv4Addr,
    pub(super) hairpin: bool,
    /// Ports by inner address and, where it matters, destination.
    mappings: BTreeMap<(SocketAddrV4, Option<SocketAddrV4>), u16>,
    inner: BTreeMap<u16, SocketAddrV4>,
    sent: BTreeSet<(u16, SocketAddrV4)>,
    /// Ports that belong to somebody outside.
    taken: BTreeSet<(u16, SocketAddrV4)>,
    next: u16,
}

impl Gateway {
    pub(super) fn new(kind: Kind, public: Ipv4Addr) -> Self {
        Self {
            kind,
            public,
            hairpin: false,
            mappings: BTreeMap::new(),
            inner: BTreeMap::new(),
            sent: BTreeSet::new(),
            taken: BTreeSet::new(),
            next: 20_000,
        }
    }

    /// As after a restart: all mappings are gone, and new ones have other ports.
    pub(super) fn forget(&mut self) {
        self.mappings.clear();
        self.inner.clear();
        self.sent.clear();
        // Somebody else has the ports that were used until now.
        self.next += 1000;
        self.inner
            .extend((1..50_000).map(|port| (port, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1))));
    }

    fn random(&mut self) -> u16 {
        self.next += 17;
        self.next
    }

    /// The address that a packet from inside has outside.
    pub(super) fn outbound(&mut self, inner: SocketAddrV4, to: SocketAddrV4) -> SocketAddrV4 {
        let symmetric = matches!(self.kind, Kind::Symmetric | Kind::PortPreservingSymmetric);
        let mut key = (inner, symmetric.then_some(to));
        let kept = self.mappings.get(&key).copied();
        let usable = kept.filter(|&port| !self.taken.contains(&(port, to)));
        let port = usable.unwrap_or_else(|| {
            let wanted = match self.kind {
                Kind::Symmetric => self.random(),
                Kind::PortShift => inner.port() ^ 0x2000,
                _ => inner.port(),
            };
            let free = !self.inner.contains_key(&wanted) && !self.taken.contains(&(wanted, to));
            let port = if free { wanted } else { self.random() };
            if kept.is_some() {
                key.1 = Some(to);
            }
            port
        });
        self.mappings.insert(key, port);
        self.inner.insert(port, inner);
        self.sent.insert((port, to));
        SocketAddrV4::new(self.public, port)
    }

    /// Who inside gets a packet that came to a port.
    pub(super) fn inbound(&mut self, port: u16, from: SocketAddrV4) -> Option<SocketAddrV4> {
        let inner = self.inner.get(&port).copied();
        let allowed = match self.kind {
            Kind::Cone => true,
            Kind::Address => self
                .sent
                .iter()
                .any(|(p, to)| *p == port && to.ip() == from.ip()),
            _ => self.sent.contains(&(port, from)),
        };
        if self.kind == Kind::Leaky && !allowed {
            self.taken.insert((port, from));
        }
        inner.filter(|_| allowed)
    }
}
