//! TCP packets from anybody at the stack in user space: nothing panics, connections and packets stay within their limits,
//! and what it sends are packets of the tunnel.
#![no_main]

use dosvc_nat::{
    tcp::{CONNECTIONS_MAX, PACKETS_MAX, Stack},
    teredo::{Ipv6Packet, MTU},
};
use libfuzzer_sys::fuzz_target;
use std::{
    net::{Ipv6Addr, SocketAddrV6},
    task::Waker,
    time::{Duration, Instant},
};

const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0xc633, 0x640a, 0x1111, 0x6000, 0x34ff, 0x8ef5);

#[derive(Debug, arbitrary::Arbitrary)]
enum Fact {
    /// A TCP segment, with its checksum made right.
    Segment {
        peer: u8,
        tcp: Vec<u8>,
    },
    Packet(Vec<u8>),
    Dial {
        peer: u8,
        port: u16,
    },
    Accept,
    Later(u16),
}

fn peer(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(
        0x2001,
        0,
        0xc633,
        0x640a,
        0x2222,
        0x6001,
        0x3fff,
        u16::from(n),
    )
}

fn segment(from: Ipv6Addr, mut tcp: Vec<u8>) -> Option<Vec<u8>> {
    tcp.truncate(usize::from(MTU) - 40);
    tcp.get_mut(16..18)?.fill(0);
    let sum = dosvc_nat::teredo::icmp::checksum((from, OWN), 6, &tcp);
    tcp.get_mut(16..18)?.copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(tcp.len()).ok()?;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([6, 64]);
    packet.extend(from.octets());
    packet.extend(OWN.octets());
    packet.extend(tcp);
    Some(packet)
}

fuzz_target!(|facts: Vec<Fact>| {
    let mut now = Instant::now();
    let mut stack = Stack::new(Some(7680), 1, now);
    stack.set_address(Some(OWN));
    for fact in facts {
        match fact {
            Fact::Segment { peer: n, tcp } => {
                if let Some(packet) = segment(peer(n), tcp) {
                    stack.handle_packet(now, &packet);
                }
            }
            Fact::Packet(packet) => stack.handle_packet(now, &packet),
            Fact::Dial { peer: n, port } => {
                let _full = stack.dial(SocketAddrV6::new(peer(n), port, 0, 0));
            }
            Fact::Accept => {
                if let Some((id, _)) = stack.accept(Waker::noop()) {
                    stack.release(now, id);
                }
            }
            Fact::Later(ms) => now += Duration::from_millis(ms.into()),
        }
        stack.poll(now);
        assert!(stack.connections() <= CONNECTIONS_MAX);
        let sent = std::iter::from_fn(|| stack.poll_transmit()).take(2 * PACKETS_MAX);
        for packet in sent {
            assert!(packet.len() <= MTU.into());
            let parsed = Ipv6Packet::new(&packet).expect("it is a packet");
            assert_eq!(parsed.source(), OWN);
        }
    }
});
