//! UDP in IPv6: what QUIC's datagrams are wrapped in inside a tunnel.

use crate::teredo::{Ipv6Packet, icmp::checksum, packet::encode_ipv6_header};
use std::{
    net::{Ipv6Addr, SocketAddrV6},
    ops::Range,
};

/// Bytes of both headers.
pub(super) const HEADERS_LEN: usize = 48;

const UDP: u8 = 17;
const UDP_HEADER_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;

/// Appends a datagram with its headers. Nothing is appended when it is longer than UDP allows.
pub(super) fn wrap(
    out: &mut Vec<u8>,
    (source, source_port): (Ipv6Addr, u16),
    to: SocketAddrV6,
    payload: &[u8],
) {
    let Ok(length) = u16::try_from(UDP_HEADER_LEN + payload.len()) else {
        return;
    };
    let between = (source, *to.ip());
    encode_ipv6_header(out, between, UDP, HOP_LIMIT, length);
    let start = out.len();
    out.extend(source_port.to_be_bytes());
    out.extend(to.port().to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend([0; 2]);
    out.extend(payload);
    let sum = match checksum(between, UDP, &out[start..]) {
        // 0 means that there is none, which IPv6 does not allow.
        0 => 0xFFFF,
        sum => sum,
    };
    out[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
}

/// Who sent the datagram in a packet for this port, and where in the packet its payload is.
pub(super) fn unwrap(packet: Ipv6Packet<'_>, port: u16) -> Option<(SocketAddrV6, Range<usize>)> {
    let payload = packet.payload();
    let &[s0, s1, d0, d1, l0, l1, c0, c1] = payload.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let between = (packet.source(), packet.destination());
    let right = packet.next_header() == UDP
        && u16::from_be_bytes([d0, d1]) == port
        && (c0, c1) != (0, 0)
        && length == payload.len()
        && checksum(between, UDP, payload) == 0;
    let source = SocketAddrV6::new(packet.source(), u16::from_be_bytes([s0, s1]), 0, 0);
    right.then_some((source, HEADERS_LEN..packet.bytes().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_datagram_is_unwrapped_as_it_was_wrapped(payload in prop::collection::vec(any::<u8>(), 0..1300), port: u16, bit: u16) {
            let source: Ipv6Addr = "2001::1".parse().unwrap();
            let to = SocketAddrV6::new("2001::2".parse().unwrap(), port, 0, 0);
            let mut out = Vec::new();
            wrap(&mut out, (source, 7680), to, &payload);
            let (from, range) = unwrap(Ipv6Packet::new(&out).unwrap(), port).unwrap();
            prop_assert_eq!(from, SocketAddrV6::new(source, 7680, 0, 0));
            prop_assert_eq!(&out[range], &payload[..]);
            prop_assert_eq!(unwrap(Ipv6Packet::new(&out).unwrap(), port ^ 1), None);
            // One wrong bit behind the IPv6 header.
            let at = 40 * 8 + usize::from(bit) % (8 * (out.len() - 40));
            out[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(unwrap(Ipv6Packet::new(&out).unwrap(), port), None);
        }
    }
}
