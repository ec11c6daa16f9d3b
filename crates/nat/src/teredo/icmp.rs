//! Router solicitations and advertisements between a client and its server, and the checksum in IPv6.

use crate::teredo::{
    Authentication, Ipv6Packet, MTU, PREFIX, Secret, TeredoAddress,
    packet::{encode_ipv6_header, origin_bytes},
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// ICMPv6 as a next header.
pub const ICMPV6: u8 = 58;

/// ICMPv6's echo request.
pub const ECHO_REQUEST: u8 = 128;
/// ICMPv6's answer to it.
pub const ECHO_REPLY: u8 = 129;

/// Where solicitations go: all routers of the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The link-local address that our solicitations come from: its cone bit is 0 (RFC 5991 §3.2).
pub const SOLICITING: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xffff, 0xffff, 0xfffe);

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const PREFIX_INFORMATION: u8 = 3;
const MTU_OPTION: u8 = 5;
/// What RFC 4861 wants of router messages: nobody has forwarded them.
const HOP_LIMIT: u8 = 255;
const ECHO_HOP_LIMIT: u8 = 64;
const RETRANSMIT_MS: u32 = 2000;

/// The Internet checksum of an upper-layer packet in IPv6 (RFC 8200 §8.1); 0 when the packet's own checksum is right.
pub fn checksum(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next_header: u8,
    payload: &[u8],
) -> u16 {
    let mut sum = words(&source.octets()) + words(&destination.octets());
    sum += words(payload) + payload.len() as u64 + u64::from(next_header);
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let sum = sum as u16;
    !sum
}

/// The sum of the big-endian 16-bit words, the last one filled with a zero.
fn words(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let whole: u64 = pairs
        .iter()
        .map(|&pair| u64::from(u16::from_be_bytes(pair)))
        .sum();
    whole + rest.first().map_or(0, |&byte| u64::from(byte) << 8)
}

/// An ICMPv6 packet; `body` begins behind the checksum. Empty when the body is longer than IPv6 allows.
pub fn encode(
    between: (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    (kind, code): (u8, u8),
    body: &[u8],
) -> Vec<u8> {
    let Ok(length) = u16::try_from(4 + body.len()) else {
        return Vec::new();
    };
    let mut message = vec![kind, code, 0, 0];
    message.extend(body);
    let sum = checksum(between, ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = Vec::new();
    encode_ipv6_header(&mut out, between, ICMPV6, hop_limit, length);
    out.extend(message);
    out
}

/// The type and what follows the checksum of an ICMPv6 packet with code 0 whose checksum is right.
pub fn parse(packet: Ipv6Packet<'_>) -> Option<(u8, &[u8])> {
    let &[kind, 0, _, _, ref body @ ..] = packet.payload() else {
        return None;
    };
    let between = (packet.source(), packet.destination());
    let right = packet.next_header() == ICMPV6 && checksum(between, ICMPV6, packet.payload()) == 0;
    right.then_some((kind, body))
}

/// The answer to an echo request; nothing when it is none.
pub fn echo_reply(packet: Ipv6Packet<'_>) -> Option<Vec<u8>> {
    let (kind, body) = parse(packet)?;
    let between = (packet.destination(), packet.source());
    (kind == ECHO_REQUEST).then(|| encode(between, ECHO_HOP_LIMIT, (ECHO_REPLY, 0), body))
}

/// An echo request; the answer has the same body.
pub fn echo_request(between: (Ipv6Addr, Ipv6Addr), body: &[u8]) -> Vec<u8> {
    encode(between, ECHO_HOP_LIMIT, (ECHO_REQUEST, 0), body)
}

/// A client's question to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterSolicitation {
    /// The link-local address that the answer shall go to.
    pub source: Ipv6Addr,
}

impl RouterSolicitation {
    /// The whole datagram.
    pub fn encode(self, nonce: [u8; 8], secret: Option<&Secret>) -> Vec<u8> {
        let between = (self.source, ALL_ROUTERS);
        let packet = encode(between, HOP_LIMIT, (ROUTER_SOLICITATION, 0), &[0; 4]);
        datagram(nonce, secret, None, &packet)
    }

    /// Reads one, with the checks of RFC 4861 §6.1.1; the options don't matter to a Teredo server.
    pub fn parse(packet: Ipv6Packet<'_>) -> Option<Self> {
        let source = packet.source();
        let (kind, body) = parse(packet)?;
        let right = kind == ROUTER_SOLICITATION
            && packet.destination() == ALL_ROUTERS
            && packet.hop_limit() == HOP_LIMIT
            && source.is_unicast_link_local()
            && body.len() >= 4
            && options(&body[4..]).all(|option| option.is_some());
        right.then_some(Self { source })
    }

    /// Whether the client claims to sit behind a cone NAT: then the answer comes from the other address.
    pub fn is_cone(self) -> bool {
        self.source.octets()[8] & 0x80 != 0
    }
}

/// The server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// The link-local address that it goes to: that of the solicitation.
    pub destination: Ipv6Addr,
    /// The server that the prefix names: its primary address.
    pub server: Ipv4Addr,
    /// Bytes of the largest packet in the tunnel.
    pub mtu: u16,
}

impl RouterAdvertisement {
    /// The whole datagram, for a client that was seen as `origin`. `nonce` is that of the solicitation, if it had one.
    pub fn encode(
        self,
        nonce: Option<[u8; 8]>,
        origin: SocketAddrV4,
        secret: Option<&Secret>,
    ) -> Vec<u8> {
        // Hop limit, flags, lifetime and reachable time are none of a Teredo server's business.
        let mut body = vec![0; 8];
        body.extend(RETRANSMIT_MS.to_be_bytes());
        // Autonomous, not on-link, for ever.
        body.extend([PREFIX_INFORMATION, 4, 64, 0x40]);
        body.extend([0xFF; 8]);
        body.extend([0; 4]);
        body.extend(PREFIX);
        body.extend(self.server.octets());
        body.extend([0; 8]);
        body.extend([MTU_OPTION, 1, 0, 0]);
        body.extend(u32::from(self.mtu).to_be_bytes());
        let between = (TeredoAddress::of_server(self.server), self.destination);
        let packet = encode(between, HOP_LIMIT, (ROUTER_ADVERTISEMENT, 0), &body);
        match nonce {
            Some(nonce) => datagram(nonce, secret, Some(origin), &packet),
            None => [&origin_bytes(origin)[..], &packet].concat(),
        }
    }

    /// Reads one, with the checks of RFC 4861 §6.1.2 and RFC 4380 §5.2.1: exactly one prefix, a /64 of a Teredo server.
    pub fn parse(packet: Ipv6Packet<'_>) -> Option<Self> {
        let (kind, body) = parse(packet)?;
        if kind != ROUTER_ADVERTISEMENT || packet.hop_limit() != HOP_LIMIT || body.len() < 12 {
            return None;
        }
        let (mut server, mut mtu) = (None, u32::from(MTU));
        for option in options(&body[12..]) {
            match option? {
                (PREFIX_INFORMATION, value) => {
                    let found = prefix_server(value)?;
                    if server.replace(found).is_some() {
                        return None;
                    }
                }
                (MTU_OPTION, &[_, _, a, b, c, d]) => mtu = u32::from_be_bytes([a, b, c, d]),
                (MTU_OPTION, _) => return None,
                _ => {}
            }
        }
        Some(Self {
            destination: packet.destination(),
            server: server?,
            mtu: u16::try_from(mtu).ok().filter(|&mtu| mtu >= MTU)?,
        })
    }
}

/// The server in the value of a prefix option, type and length not included.
fn prefix_server(value: &[u8]) -> Option<Ipv4Addr> {
    let (&[64, ..], prefix) = value.split_first_chunk::<14>()? else {
        return None;
    };
    let &[p0, p1, p2, p3, a, b, c, d, ..] = prefix.first_chunk::<16>()?;
    ([p0, p1, p2, p3] == PREFIX).then(|| Ipv4Addr::new(a, b, c, d))
}

/// Type and value of every neighbour discovery option; `None`, once, where one does not fit.
fn options(bytes: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let option = match *rest {
            [kind, length, ..] if length > 0 => rest
                .split_at_checked(8 * usize::from(length))
                .map(|(option, rest)| (kind, &option[2..], rest)),
            _ => None,
        };
        rest = option.map_or(&[], |(.., rest)| rest);
        Some(option.map(|(kind, value, _)| (kind, value)))
    })
}

/// A datagram with authentication.
fn datagram(
    nonce: [u8; 8],
    secret: Option<&Secret>,
    origin: Option<SocketAddrV4>,
    packet: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    match secret {
        Some(secret) => secret.encode(&mut out, nonce, origin, packet),
        None => Authentication {
            nonce,
            ..Authentication::default()
        }
        .encode(&mut out),
    }
    out.extend(origin.iter().flat_map(|&origin| origin_bytes(origin)));
    out.extend(packet);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teredo::Datagram;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_advertisement_is_read_as_it_was_written(
            server: u32,
            identifier: u64,
            mtu in 1280_u16..,
            nonce in prop::option::of(any::<[u8; 8]>()),
            ip: u32,
            port: u16,
            with_secret: bool,
        ) {
            let secret = Secret::new(b"client-1", b"0123456789abcdef").filter(|_| with_secret);
            let origin = SocketAddrV4::new(ip.into(), port);
            let sent = RouterAdvertisement {
                destination: Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(identifier)),
                server: server.into(),
                mtu,
            };
            let bytes = sent.encode(nonce, origin, secret.as_ref());
            let read = Datagram::parse(&bytes).unwrap();
            prop_assert_eq!(read.origin, Some(origin));
            prop_assert_eq!(read.authentication.map(|said| said.nonce), nonce);
            prop_assert_eq!(RouterAdvertisement::parse(read.packet), Some(sent));
            if let Some(secret) = secret.filter(|_| nonce.is_some()) {
                prop_assert!(secret.verifies(&read));
            }
        }

        #[test]
        fn one_wrong_bit_is_found(bit in 0_usize..8 * 48) {
            let bytes = RouterSolicitation { source: SOLICITING }.encode([7; 8], None);
            let mut packet = bytes[13..].to_vec();
            prop_assert!(RouterSolicitation::parse(Ipv6Packet::new(&packet).unwrap()).is_some());
            packet[bit / 8] ^= 1 << (bit % 8);
            // Traffic class and flow label mean nothing here.
            prop_assume!(bit >= 4 && !(8..32).contains(&bit));
            let read = Ipv6Packet::new(&packet).ok().and_then(RouterSolicitation::parse);
            prop_assert_eq!(read, None);
        }
    }

    #[test]
    fn a_solicitation_is_61_bytes() {
        let bytes =
            RouterSolicitation { source: SOLICITING }.encode([1, 2, 3, 4, 5, 6, 7, 8], None);
        assert_eq!(bytes.len(), 61);
    }

    #[test]
    fn an_echo_request_is_answered_with_its_body_and_an_answer_is_not() {
        let between = ("2001::1".parse().unwrap(), "2001::2".parse().unwrap());
        let request = echo_request(between, b"12 bytes or so");
        let reply = echo_reply(Ipv6Packet::new(&request).unwrap()).unwrap();
        let packet = Ipv6Packet::new(&reply).unwrap();
        assert_eq!((packet.destination(), packet.source()), between);
        assert_eq!(parse(packet), Some((ECHO_REPLY, &b"12 bytes or so"[..])));
        assert_eq!(echo_reply(packet), None);
    }

    #[test]
    fn the_cone_bit_is_in_the_source() {
        let cone = RouterSolicitation {
            source: "fe80::8000:ffff:ffff:fffe".parse().unwrap(),
        };
        assert!(cone.is_cone());
        assert!(!RouterSolicitation { source: SOLICITING }.is_cone());
    }
}
