//! An Internet: clients, NATs, one server, latency; everything that happens is a function of the seed.

use super::{
    Client, ClientConfig, DISCOVERY_GROUP, Event, Ipv6Packet, LocalPort, Network, Sent,
    ServerAddresses,
    nat::{Gateway, Kind},
};
use crate::teredo::{
    PORT, is_global,
    packet::encode_ipv6_header,
    server::{Server, ServerConfig, Side},
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::{Duration, Instant},
};

pub(super) const PRIMARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub(super) const SECONDARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
const LATENCY: Duration = Duration::from_millis(10);
/// Routers on the way to a public address, the NATs not counted.
const HOPS: u8 = 2;

/// Two sides, a packet on its way between them.
struct Flight {
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// Whose network it is in; the Internet otherwise.
    inside: Option<usize>,
    bytes: Vec<u8>,
}

pub(super) struct Node {
    pub(super) client: Client,
    ip: Ipv4Addr,
    port: u16,
    /// The box in front of it.
    nat: Option<usize>,
    pub(super) events: Vec<Event>,
    /// Payloads that came, and when.
    pub(super) inbox: Vec<(Ipv6Addr, Vec<u8>, Instant)>,
}

pub(super) struct Net {
    pub(super) now: Instant,
    start: Instant,
    pub(super) nats: Vec<Gateway>,
    pub(super) nodes: Vec<Node>,
    server: Server,
    /// Whether each side of the server answers.
    pub(super) server_up: [bool; 2],
    pub(super) multicast: bool,
    flights: BTreeMap<(Instant, u64), Flight>,
    count: u64,
    seed: u8,
    /// Every datagram that left a machine: when, from where inside, to where, how long.
    pub(super) sent: Vec<(Instant, SocketAddrV4, SocketAddrV4, usize)>,
    /// Runs of everything for the replay test.
    pub(super) log: Vec<String>,
}

impl Net {
    pub(super) fn new(seed: u8) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            nats: Vec::new(),
            nodes: Vec::new(),
            server: Server::new(ServerConfig::new(PRIMARY, SECONDARY), 7),
            server_up: [true; 2],
            multicast: false,
            flights: BTreeMap::new(),
            count: 0,
            seed,
            sent: Vec::new(),
            log: Vec::new(),
        }
    }

    pub(super) fn nat(&mut self, kind: Kind) -> usize {
        let n = u8::try_from(self.nats.len()).unwrap();
        self.nats
            .push(Gateway::new(kind, Ipv4Addr::new(203, 0, 113, 10 + n)));
        self.nats.len() - 1
    }

    /// A client behind a box, or without one.
    pub(super) fn client(&mut self, nat: Option<usize>) -> usize {
        self.client_with(nat, |config| config)
    }

    pub(super) fn client_with(
        &mut self,
        nat: Option<usize>,
        change: impl FnOnce(ClientConfig) -> ClientConfig,
    ) -> usize {
        let n = self.nodes.len();
        let host = u8::try_from(n).unwrap() + 2;
        let ip = match nat {
            Some(nat) => Ipv4Addr::new(192, 168, u8::try_from(nat).unwrap(), host),
            None => Ipv4Addr::new(192, 0, 2, host),
        };
        let network = Network {
            address: ip,
            prefix_len: 24,
        };
        let port = 3545 + u16::from(host);
        let servers = [ServerAddresses {
            primary: PRIMARY,
            secondary: Some(SECONDARY),
        }];
        let config = change(super::config(&servers, &[network], port));
        let mut seed = [self.seed; 32];
        seed[0] = host;
        let client = Client::new(config, seed, self.now);
        self.nodes.push(Node {
            client,
            ip,
            port,
            nat,
            events: Vec::new(),
            inbox: Vec::new(),
        });
        self.drain(n);
        n
    }

    pub(super) fn address(&self, node: usize) -> Ipv6Addr {
        let qualified = self.nodes[node].client.qualified();
        qualified.expect("it is qualified").address.to_ipv6()
    }

    /// A packet from one client to another: what it became.
    pub(super) fn send(&mut self, from: usize, to: Ipv6Addr, payload: &[u8]) -> Sent {
        let mut packet = Vec::new();
        let length = u16::try_from(payload.len()).unwrap();
        encode_ipv6_header(&mut packet, (self.address(from), to), 17, 64, length);
        packet.extend(payload);
        let sent = self.nodes[from].client.send(self.now, &packet);
        if let Sent::Now(path) = sent {
            self.launch(from, path.port, path.to, None, packet);
        }
        self.drain(from);
        sent
    }

    /// Something that nobody of us has sent, with a forged source.
    pub(super) fn forge(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: Vec<u8>) {
        self.fly(from, to, None, bytes);
    }

    /// A client's machine has other networks.
    pub(super) fn restart(&mut self, node: usize, networks: Vec<Network>) {
        self.nodes[node].client.restart(self.now, networks);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(transmit) = self.nodes[node].client.poll_transmit() {
            self.launch(
                node,
                transmit.path.port,
                transmit.path.to,
                transmit.ttl,
                transmit.bytes,
            );
        }
        let start = self.start;
        let Self {
            nodes, log, now, ..
        } = self;
        while let Some(event) = nodes[node].client.poll_event() {
            log.push(format!("{:?} {node} {event:?}", *now - start));
            nodes[node].events.push(event);
        }
    }

    /// A datagram leaves a machine.
    fn launch(
        &mut self,
        node: usize,
        port: LocalPort,
        to: SocketAddrV4,
        ttl: Option<u8>,
        bytes: Vec<u8>,
    ) {
        let Node {
            ip, port: own, nat, ..
        } = self.nodes[node];
        let port = match port {
            LocalPort::Service => own,
            LocalPort::Extra(port) => port,
        };
        let from = SocketAddrV4::new(ip, port);
        self.sent.push((self.now, from, to, bytes.len()));
        self.log.push(format!(
            "{:?} {from} {to} {bytes:02x?}",
            self.now - self.start
        ));
        let Some(nat) = nat else {
            let passes = ttl.is_none_or(|ttl| ttl > HOPS) && is_global(*to.ip());
            if passes {
                self.fly(from, to, None, bytes);
            }
            return;
        };
        if !is_global(*to.ip()) {
            return self.fly(from, to, Some(nat), bytes);
        }
        if *to.ip() == self.nats[nat].public {
            if self.nats[nat].hairpin {
                let from = self.nats[nat].outbound(from, to);
                self.fly(from, to, None, bytes);
            }
            return;
        }
        let from = self.nats[nat].outbound(from, to);
        if ttl.is_none_or(|ttl| ttl > 1 + HOPS) {
            self.fly(from, to, None, bytes);
        }
    }

    fn fly(&mut self, from: SocketAddrV4, to: SocketAddrV4, inside: Option<usize>, bytes: Vec<u8>) {
        self.count += 1;
        let flight = Flight {
            from,
            to,
            inside,
            bytes,
        };
        self.flights
            .insert((self.now + LATENCY, self.count), flight);
    }

    /// Goes on until the time is over.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timer = (self.nodes.iter().enumerate())
                .filter_map(|(n, node)| Some((node.client.poll_timeout()?, n)))
                .min();
            let flight = self.flights.first_key_value().map(|(&(at, _), _)| at);
            match (timer, flight) {
                (timer, Some(at)) if at <= end && timer.is_none_or(|(t, _)| at <= t) => {
                    self.now = at;
                    if let Some((_, flight)) = self.flights.pop_first() {
                        self.land(flight);
                    }
                }
                (Some((at, node)), _) if at <= end => {
                    self.now = self.now.max(at);
                    let now = self.now;
                    self.nodes[node].client.handle_timeout(now);
                    self.drain(node);
                    let next = self.nodes[node].client.poll_timeout();
                    assert!(
                        next.is_none_or(|next| next > now),
                        "a timer that fires again at once"
                    );
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Goes on until it is so; fails when it never is.
    pub(super) fn run_until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let end = self.now + super::PATIENCE;
        while !so(self) {
            assert!(self.now < end, "in vain waited for {what}");
            self.run(Duration::from_millis(5));
        }
    }

    fn land(&mut self, flight: Flight) {
        let Flight {
            from,
            to,
            inside,
            bytes,
        } = flight;
        if to.port() == PORT && [PRIMARY, SECONDARY].contains(to.ip()) {
            return self.at_server(from, to, &bytes);
        }
        if *to.ip() == DISCOVERY_GROUP {
            if self.multicast {
                for node in 0..self.nodes.len() {
                    let hears = self.nodes[node].nat == inside && self.nodes[node].ip != *from.ip();
                    if hears {
                        let _dropped = self.nodes[node]
                            .client
                            .handle_multicast(self.now, from, &bytes);
                        self.drain(node);
                    }
                }
            }
            return;
        }
        let nat = self
            .nats
            .iter()
            .position(|nat| nat.public == *to.ip() && inside.is_none());
        let (to, behind) = match nat {
            Some(nat) => match self.nats[nat].inbound(to.port(), from) {
                Some(inner) => (inner, Some(nat)),
                None => return,
            },
            None => (to, inside),
        };
        let at = |node: &Node| node.ip == *to.ip() && node.nat == behind;
        if let Some(node) = self.nodes.iter().position(at) {
            self.arrive(node, to.port(), from, &bytes);
        }
    }

    fn at_server(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        let side = if *to.ip() == PRIMARY {
            Side::Primary
        } else {
            Side::Secondary
        };
        if !self.server_up[usize::from(side == Side::Secondary)] {
            return;
        }
        if let Ok(answer) = self.server.handle(self.now, side, from, bytes) {
            let from = match answer.from {
                Side::Primary => PRIMARY,
                Side::Secondary => SECONDARY,
            };
            self.fly(SocketAddrV4::new(from, PORT), answer.to, None, answer.bytes);
        }
    }

    fn arrive(&mut self, node: usize, port: u16, from: SocketAddrV4, bytes: &[u8]) {
        let own = self.nodes[node].port;
        let port = if port == own {
            LocalPort::Service
        } else {
            LocalPort::Extra(port)
        };
        let now = self.now;
        let Node { client, inbox, .. } = &mut self.nodes[node];
        if let Ok(Some(packet)) = client.handle_datagram(now, port, from, bytes) {
            let packet: Ipv6Packet<'_> = packet;
            inbox.push((packet.source(), packet.payload().to_vec(), now));
        }
        self.drain(node);
    }

    /// Whether a payload has come to a client.
    pub(super) fn has(&self, node: usize, payload: &[u8]) -> bool {
        self.nodes[node].inbox.iter().any(|(_, p, _)| p == payload)
    }
}
