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
    /// What would follow the last segment that was sent, more or less: so connections come about, and end.
    Reply {
        flags: u8,
        ahead: i8,
        beyond: i8,
        window: u16,
        bytes: Vec<u8>,
    },
    /// What came is read, and this is written, on the connection that was accepted or dialled last.
    Use(Vec<u8>),
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

/// An answer to a segment of ours.
fn reply(
    sent: &[u8],
    flags: u8,
    (ahead, beyond): (i8, i8),
    window: u16,
    bytes: &[u8],
) -> Option<Vec<u8>> {
    let packet = Ipv6Packet::new(sent).ok()?;
    let tcp = packet.payload();
    let number = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let header = 4 * usize::from(tcp.get(12)? >> 4);
    let flag = |bit: u8| u32::from(tcp[13] & bit != 0);
    let length = u32::try_from(tcp.len().checked_sub(header)?).ok()? + flag(2) + flag(1);
    let (seq, ack) = (number(8)?, number(4)?.wrapping_add(length));
    let mut answer = tcp[2..4].to_vec();
    answer.extend(&tcp[..2]);
    answer.extend(seq.wrapping_add_signed(ahead.into()).to_be_bytes());
    answer.extend(ack.wrapping_add_signed(beyond.into()).to_be_bytes());
    answer.extend([0x50, flags]);
    answer.extend(window.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(bytes);
    segment(packet.destination(), answer)
}

fuzz_target!(|facts: Vec<Fact>| {
    let mut now = Instant::now();
    let mut stack = Stack::new(Some(7680), 1, now);
    stack.set_address(Some(OWN));
    let mut last = Vec::new();
    let mut held = None;
    for fact in facts {
        match fact {
            Fact::Segment { peer: n, tcp } => {
                if let Some(packet) = segment(peer(n), tcp) {
                    stack.handle_packet(now, &packet);
                }
            }
            Fact::Packet(packet) => stack.handle_packet(now, &packet),
            Fact::Reply {
                flags,
                ahead,
                beyond,
                window,
                bytes,
            } => {
                if let Some(packet) = reply(&last, flags, (ahead, beyond), window, &bytes) {
                    stack.handle_packet(now, &packet);
                }
            }
            Fact::Use(bytes) => {
                if let Some(socket) = held.and_then(|id| stack.socket(id)) {
                    let _none = socket.recv_slice(&mut [0; 4096]);
                    let _none = socket.send_slice(&bytes);
                }
            }
            Fact::Dial { peer: n, port } => {
                let dialled = stack.dial(SocketAddrV6::new(peer(n), port, 0, 0));
                if let Some(before) = dialled.and_then(|id| held.replace(id)) {
                    stack.release(now, before);
                }
            }
            Fact::Accept => {
                let accepted = stack.accept(Waker::noop());
                if let Some(before) = accepted.and_then(|(id, _)| held.replace(id)) {
                    stack.release(now, before);
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
            last = packet;
        }
    }
});
