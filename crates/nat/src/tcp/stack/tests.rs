use super::*;
use crate::teredo::{icmp::checksum, packet::encode_ipv6_header};

const PORT: u16 = 7680;
const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0xc633, 0x640a, 0x1111, 0x6000, 0x34ff, 0x8ef5);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0xc633, 0x640a, 0x2222, 0x6001, 0x3fff, 0xfdeb);

/// A server, a client, and a network that loses what it is told to.
struct Rig {
    server: Stack,
    client: Stack,
    now: Instant,
    start: Instant,
    loses: fn(u64) -> bool,
    packets: u64,
}

impl Rig {
    fn new(loses: fn(u64) -> bool) -> Self {
        let now = Instant::now();
        let mut server = Stack::new(Some(PORT), 1, now);
        let mut client = Stack::new(None, 2, now);
        server.set_address(Some(SERVER));
        client.set_address(Some(CLIENT));
        Self {
            server,
            client,
            now,
            start: now,
            loses,
            packets: 0,
        }
    }

    /// Runs both ends at this moment until nothing moves.
    fn settle(&mut self) {
        loop {
            self.server.poll(self.now);
            self.client.poll(self.now);
            let mut moved = false;
            for (from, to) in [(&mut self.server, &mut self.client)] {
                while let Some(packet) = from.poll_transmit() {
                    assert!(packet.len() <= MTU.into());
                    self.packets += 1;
                    moved = true;
                    if !(self.loses)(self.packets) {
                        to.handle_packet(self.now, &packet);
                    }
                }
                while let Some(packet) = to.poll_transmit() {
                    assert!(packet.len() <= MTU.into());
                    self.packets += 1;
                    moved = true;
                    if !(self.loses)(self.packets) {
                        from.handle_packet(self.now, &packet);
                    }
                }
            }
            if !moved && !self.server.is_full() && !self.client.is_full() {
                return;
            }
        }
    }

    /// On to the next timer.
    fn sleep(&mut self) {
        let timers = [
            self.server.poll_timeout(self.now),
            self.client.poll_timeout(self.now),
        ];
        let next = timers.into_iter().flatten().min().expect("somebody waits");
        self.now = next.max(self.now + Duration::from_micros(1));
        self.settle();
    }

    fn connect(&mut self) -> (Id, Id) {
        let dialled = self.client.dial(to_server()).unwrap();
        loop {
            self.settle();
            if let Some((accepted, peer)) = self.server.accept(Waker::noop()) {
                assert_eq!(*peer.ip(), CLIENT);
                return (dialled, accepted);
            }
            self.sleep();
        }
    }
}

fn to_server() -> SocketAddrV6 {
    SocketAddrV6::new(SERVER, PORT, 0, 0)
}

fn pattern(n: usize) -> u8 {
    u8::try_from(n % 251).unwrap()
}

/// A megabyte from the client to the server; how long it took.
fn transfer(loses: fn(u64) -> bool) -> Duration {
    const SIZE: usize = 1 << 20;
    let mut rig = Rig::new(loses);
    let (client, server) = rig.connect();
    let (mut sent, mut came) = (0, 0);
    let mut buffer = vec![0; 64 << 10];
    while came < SIZE {
        let part: Vec<u8> = (sent..SIZE.min(sent + 100_000)).map(pattern).collect();
        let before = (sent, came);
        sent += rig
            .client
            .socket(client)
            .unwrap()
            .send_slice(&part)
            .unwrap();
        rig.settle();
        loop {
            let length = rig
                .server
                .socket(server)
                .unwrap()
                .recv_slice(&mut buffer)
                .unwrap();
            if length == 0 {
                break;
            }
            assert!(
                buffer[..length]
                    .iter()
                    .enumerate()
                    .all(|(n, &byte)| byte == pattern(came + n))
            );
            came += length;
        }
        if (sent, came) == before {
            rig.sleep();
        }
    }
    // Both let go: nothing is left.
    rig.client.release(rig.now, client);
    rig.settle();
    rig.server.release(rig.now, server);
    for _ in 0..100 {
        if rig.client.connections() + rig.server.connections() == 0 {
            return rig.now - rig.start;
        }
        rig.sleep();
    }
    panic!("{:?}, {:?} are left", rig.client, rig.server);
}

#[test]
fn bytes_arrive_in_order_and_both_ends_forget_the_connection() {
    assert!(transfer(|_| false) < Duration::from_secs(1));
}

#[test]
fn lost_packets_are_sent_again() {
    assert!(transfer(|n| n % 50 == 7) < Duration::from_secs(60));
}

/// The first packet of a connection, or a later one.
fn segment(from: (Ipv6Addr, u16), port: u16, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.1.to_be_bytes());
    tcp.extend(port.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    let between = (from.0, SERVER);
    let sum = checksum(between, TCP, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = Vec::new();
    encode_ipv6_header(&mut packet, between, TCP, 64, 20);
    packet.extend(tcp);
    packet
}

fn stranger(n: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(CLIENT) ^ u128::from(n) << 32)
}

#[test]
fn a_flood_of_beginnings_holds_little_and_passes() {
    let mut rig = Rig::new(|_| false);
    for n in 0..10_000 {
        rig.server
            .handle_packet(rig.now, &segment((stranger(n), 50_000), PORT, 0x02));
        rig.server.poll(rig.now);
        while rig.server.poll_transmit().is_some() {}
        assert!(rig.server.connections() <= PENDING_MAX);
    }
    assert!(rig.server.stats().refused >= 9_000);
    // Those that never come about make room.
    let start = rig.now;
    while rig.server.connections() > 0 {
        rig.sleep();
    }
    assert!(rig.now - start <= PENDING_TIME_MAX);
    rig.connect();
}

/// Several listen at once, in places that were free: whose beginning comes first takes the first of them, whomever it was
/// made for. Whose beginning is broken leaves his to somebody else.
#[test]
fn whoever_is_accepted_is_who_dialled() {
    let mut rig = Rig::new(|_| false);
    let mut broken = segment((stranger(1), 50_000), PORT, 0x02);
    broken[40 + 16] ^= 1;
    rig.server.handle_packet(rig.now, &broken);
    let dialled = rig.client.dial(to_server()).unwrap();
    rig.client.poll(rig.now);
    while let Some(packet) = rig.client.poll_transmit() {
        rig.server.handle_packet(rig.now, &packet);
    }
    rig.settle();
    let (accepted, peer) = rig.server.accept(Waker::noop()).expect("it comes about");
    assert_eq!(*peer.ip(), CLIENT);
    assert!(rig.server.accept(Waker::noop()).is_none());
    // What it costs is counted with it, the same at both ends.
    let part = [7; 10_000];
    let sent = rig.client.socket(dialled).unwrap().send_slice(&part);
    assert_eq!(sent, Ok(part.len()));
    rig.settle();
    let (went, came) = (
        rig.client.counted(dialled).went,
        rig.server.counted(accepted).came,
    );
    let headers = went - part.len() as u64;
    assert!((9 * 102..20 * 102).contains(&headers), "{headers}");
    // The first packet came before the connection was known to be his.
    assert!(went - came <= 102 + 20, "{went} {came}");
}

#[test]
fn one_peer_does_not_take_all_places() {
    let mut rig = Rig::new(|_| false);
    for port in 50_000..50_100 {
        rig.server
            .handle_packet(rig.now, &segment((stranger(1), port), PORT, 0x02));
        rig.server.poll(rig.now);
        while rig.server.poll_transmit().is_some() {}
    }
    assert_eq!(rig.server.connections(), PENDING_MAX / 2);
    rig.connect();
    // Nor by connections that come about.
    let mut rig = Rig::new(|_| false);
    let mut dialled = Vec::new();
    for _ in 0..2 * CONNECTIONS_PER_PEER_MAX {
        dialled.extend(rig.client.dial(to_server()));
        rig.settle();
        let _accepted = rig.server.accept(Waker::noop());
    }
    assert_eq!(rig.server.connections(), CONNECTIONS_PER_PEER_MAX);
}

#[test]
fn what_is_for_another_port_is_refused_and_what_is_no_tcp_is_nothing() {
    let mut rig = Rig::new(|_| false);
    rig.server
        .handle_packet(rig.now, &segment((CLIENT, 50_000), 22, 0x02));
    rig.server.poll(rig.now);
    let reset = rig.server.poll_transmit().expect("it is refused");
    assert_eq!(reset[40 + 13] & 0x04, 0x04);
    assert!(rig.server.poll_transmit().is_none());
    // A refusal is not refused.
    rig.server
        .handle_packet(rig.now, &segment((CLIENT, 50_000), 22, 0x04));
    // Extension headers, other protocols, and what is cut.
    let mut packet = segment((CLIENT, 50_000), PORT, 0x02);
    packet[6] = 0;
    rig.server.handle_packet(rig.now, &packet);
    packet[6] = 17;
    rig.server.handle_packet(rig.now, &packet);
    rig.server.handle_packet(rig.now, &packet[..44]);
    rig.server.handle_packet(rig.now, &[]);
    assert_eq!(rig.server.stats().dropped, 4);
    rig.server.poll(rig.now);
    assert!(rig.server.poll_transmit().is_none());
    assert_eq!(rig.server.connections(), 0);
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    let mut rig = Rig::new(|n| n > 10);
    let (client, server) = rig.connect();
    rig.settle();
    let start = rig.now;
    while rig.client.socket(client).unwrap().is_active()
        || rig.server.socket(server).unwrap().is_active()
    {
        rig.sleep();
        if rig.packets < 10 {
            rig.packets = 10;
        }
    }
    assert!(rig.now - start <= SILENCE_MAX + 2 * KEEP_ALIVE);
}

#[test]
fn with_another_address_old_connections_end() {
    let mut rig = Rig::new(|_| false);
    let (client, _) = rig.connect();
    rig.client.set_address(Some(stranger(5)));
    assert!(!rig.client.socket(client).unwrap().is_active());
    rig.connect_from_new();
}

impl Rig {
    fn connect_from_new(&mut self) {
        self.client.dial(to_server()).unwrap();
        self.settle();
        let (_, peer) = self.server.accept(Waker::noop()).expect("it comes about");
        assert_eq!(*peer.ip(), stranger(5));
    }
}
