//! The datagram: what is in the payload of one UDP packet.

use crate::teredo::{Trailer, Trailers};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// Bytes of an IPv6 header.
pub(crate) const IPV6_HEADER_LEN: usize = 40;

/// The next header that says "nothing follows" (RFC 8200 §4.7): with no payload it makes a bubble.
pub const NO_NEXT_HEADER: u8 = 59;

const AUTHENTICATION: [u8; 2] = [0, 1];
const ORIGIN: [u8; 2] = [0, 0];

/// Why bytes are no Teredo datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The authentication does not fit into the datagram.
    #[error("authentication is cut")]
    Authentication,
    /// The origin indication does not fit into the datagram.
    #[error("origin indication is cut")]
    Origin,
    /// There is no IPv6 header where one must be.
    #[error("no IPv6 header")]
    NoIpv6,
    /// The IPv6 packet is longer than the datagram.
    #[error("IPv6 packet of {0} bytes is cut")]
    Cut(usize),
    /// A trailer that we don't know, whose sender wants the packet discarded then.
    #[error("unknown trailer {0:#04x}")]
    Trailer(u8),
}

/// The authentication that router solicitations and advertisements carry (RFC 4380 §5.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Authentication<'a> {
    /// Whose key it is; up to 255 bytes, empty where there is no key.
    pub client_id: &'a [u8],
    /// HMAC-SHA1 over nonce, confirmation, origin and packet; empty where there is no key.
    pub value: &'a [u8],
    /// What tells an answer from anything else.
    pub nonce: [u8; 8],
    /// Other than 0 in an answer: the key is no longer good.
    pub confirmation: u8,
}

/// One IPv6 packet: a header, and exactly the payload that it announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Packet<'a>(&'a [u8]);

/// What is in the payload of one UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Only in solicitations and advertisements.
    pub authentication: Option<Authentication<'a>>,
    /// Where the packet came from, as a server saw it.
    pub origin: Option<SocketAddrV4>,
    /// The packet.
    pub packet: Ipv6Packet<'a>,
    /// What comes behind it.
    pub trailers: Trailers<'a>,
}

impl<'a> Datagram<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`Malformed`]: the datagram is to be dropped.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (authentication, bytes) = match bytes.strip_prefix(&AUTHENTICATION) {
            Some(rest) => {
                let (authentication, rest) =
                    Authentication::parse(rest).ok_or(Malformed::Authentication)?;
                (Some(authentication), rest)
            }
            None => (None, bytes),
        };
        let (origin, bytes) = match bytes.strip_prefix(&ORIGIN) {
            Some(rest) => {
                let (&[p, q, a, b, c, d], rest) =
                    rest.split_first_chunk().ok_or(Malformed::Origin)?;
                let origin =
                    SocketAddrV4::new(Ipv4Addr::new(!a, !b, !c, !d), !u16::from_be_bytes([p, q]));
                (Some(origin), rest)
            }
            None => (None, bytes),
        };
        let (packet, rest) = Ipv6Packet::parse_prefix(bytes)?;
        Ok(Self {
            authentication,
            origin,
            packet,
            trailers: Trailers::parse(rest).map_err(Malformed::Trailer)?,
        })
    }
}

impl<'a> Authentication<'a> {
    /// Reads what follows the indicator.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[id_len, value_len], rest) = bytes.split_first_chunk()?;
        let (client_id, rest) = rest.split_at_checked(id_len.into())?;
        let (value, rest) = rest.split_at_checked(value_len.into())?;
        let (&nonce, rest) = rest.split_first_chunk::<8>()?;
        let (&confirmation, rest) = rest.split_first()?;
        let authentication = Self {
            client_id,
            value,
            nonce,
            confirmation,
        };
        Some((authentication, rest))
    }

    /// Appends it, indicator included. Of id and value at most 255 bytes are written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let [client_id, value] =
            [self.client_id, self.value].map(|bytes| &bytes[..bytes.len().min(255)]);
        out.extend(AUTHENTICATION);
        #[expect(clippy::cast_possible_truncation, reason = "at most 255")]
        out.extend([client_id.len() as u8, value.len() as u8]);
        out.extend(client_id);
        out.extend(value);
        out.extend(self.nonce);
        out.push(self.confirmation);
    }
}

/// An origin indication: address and port with every bit inverted, for NATs that rewrite what looks like theirs.
pub(crate) fn origin_bytes(origin: SocketAddrV4) -> [u8; 8] {
    let [a, b, c, d] = origin.ip().octets().map(|byte| !byte);
    let [p, q] = (!origin.port()).to_be_bytes();
    [ORIGIN[0], ORIGIN[1], p, q, a, b, c, d]
}

impl<'a> Ipv6Packet<'a> {
    /// A packet that fills these bytes exactly.
    ///
    /// # Errors
    /// [`Malformed`] when it does not.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Self::parse_prefix(bytes)? {
            (packet, []) => Ok(packet),
            (packet, _) => Err(Malformed::Cut(packet.0.len())),
        }
    }

    /// The packet at the beginning of these bytes, and what follows it.
    fn parse_prefix(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        if bytes.len() < IPV6_HEADER_LEN || bytes[0] >> 4 != 6 {
            return Err(Malformed::NoIpv6);
        }
        let length = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let (packet, rest) = bytes
            .split_at_checked(length)
            .ok_or(Malformed::Cut(length))?;
        Ok((Self(packet), rest))
    }

    /// Header and payload.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// What the payload begins with.
    pub fn next_header(self) -> u8 {
        self.0[6]
    }

    /// How many routers it may still pass.
    pub fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// Who sent it.
    pub fn source(self) -> Ipv6Addr {
        self.address(8)
    }

    /// Whom it is for.
    pub fn destination(self) -> Ipv6Addr {
        self.address(24)
    }

    fn address(self, start: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[start..start + 16]);
        octets.into()
    }

    /// What follows the header.
    pub fn payload(self) -> &'a [u8] {
        &self.0[IPV6_HEADER_LEN..]
    }

    /// Whether it carries nothing but itself (RFC 4380 §2.8).
    pub fn is_bubble(self) -> bool {
        self.next_header() == NO_NEXT_HEADER && self.payload().is_empty()
    }
}

/// Appends the header of a packet with `payload_len` bytes of payload.
pub(crate) fn encode_ipv6_header(
    out: &mut Vec<u8>,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next_header: u8,
    hop_limit: u8,
    payload_len: u16,
) {
    out.extend([0x60, 0, 0, 0]);
    out.extend(payload_len.to_be_bytes());
    out.extend([next_header, hop_limit]);
    out.extend(source.octets());
    out.extend(destination.octets());
}

/// A bubble from the first to the second of the two, with its trailers (RFC 4380 §2.8).
pub fn bubble(between: (Ipv6Addr, Ipv6Addr), hop_limit: u8, trailers: &[Trailer]) -> Vec<u8> {
    let mut out = Vec::with_capacity(IPV6_HEADER_LEN + 6 * trailers.len());
    encode_ipv6_header(&mut out, between, NO_NEXT_HEADER, hop_limit, 0);
    trailers.iter().for_each(|trailer| trailer.encode(&mut out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0xc633, 0x640a, 0, 0x63bf, 0x34ff, 0x8ef5);
    const B: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0xc633, 0x640a, 0, 0x3cae, 0x34ff, 0x8eeb);

    fn datagram(
        authentication: Option<&Authentication<'_>>,
        origin: Option<SocketAddrV4>,
        payload: &[u8],
        trailers: &[Trailer],
    ) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(authentication) = authentication {
            authentication.encode(&mut out);
        }
        out.extend(origin.iter().flat_map(|&origin| origin_bytes(origin)));
        let length = u16::try_from(payload.len()).unwrap();
        encode_ipv6_header(&mut out, (A, B), 17, 64, length);
        out.extend(payload);
        trailers.iter().for_each(|trailer| trailer.encode(&mut out));
        out
    }

    proptest! {
        #[test]
        fn a_datagram_is_read_as_it_was_written(
            keys in prop::option::of((prop::collection::vec(any::<u8>(), 0..256), prop::collection::vec(any::<u8>(), 0..256), any::<[u8; 8]>(), any::<u8>())),
            origin in prop::option::of((any::<u32>(), any::<u16>())),
            payload in prop::collection::vec(any::<u8>(), 0..1500),
            nonce in prop::option::of(any::<[u8; 4]>()),
        ) {
            let authentication = keys.as_ref().map(|(client_id, value, nonce, confirmation)| Authentication {
                client_id, value, nonce: *nonce, confirmation: *confirmation,
            });
            let origin = origin.map(|(ip, port)| SocketAddrV4::new(ip.into(), port));
            let trailers: Vec<_> = nonce.map(Trailer::Nonce).into_iter().collect();
            let bytes = datagram(authentication.as_ref(), origin, &payload, &trailers);
            let read = Datagram::parse(&bytes).unwrap();
            prop_assert_eq!(read.authentication, authentication);
            prop_assert_eq!(read.origin, origin);
            prop_assert_eq!((read.packet.source(), read.packet.destination()), (A, B));
            prop_assert_eq!((read.packet.next_header(), read.packet.hop_limit()), (17, 64));
            prop_assert_eq!(read.packet.payload(), &payload[..]);
            prop_assert_eq!(read.trailers.nonce(), nonce);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = Datagram::parse(&bytes) {
                prop_assert!(read.packet.bytes().len() >= IPV6_HEADER_LEN);
            }
        }

        #[test]
        fn a_cut_datagram_is_refused(cut in 0_usize..13 + 8 + IPV6_HEADER_LEN + 20) {
            let authentication = Authentication::default();
            let origin = SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 337);
            let bytes = datagram(Some(&authentication), Some(origin), &[7; 20], &[]);
            prop_assert!(Datagram::parse(&bytes[..cut]).is_err());
            prop_assert!(Datagram::parse(&bytes).is_ok());
        }
    }

    #[test]
    fn a_bubble_is_40_bytes_and_nothing_else_is_one() {
        let bytes = bubble((A, B), 255, &[]);
        assert_eq!(bytes.len(), 40);
        assert!(Ipv6Packet::new(&bytes).unwrap().is_bubble());
        let mut with_payload = bytes.clone();
        with_payload[5] = 1;
        with_payload.push(0);
        assert!(!Ipv6Packet::new(&with_payload).unwrap().is_bubble());
        assert_eq!(
            Ipv6Packet::new(&[&bytes[..], &[1, 0]].concat()),
            Err(Malformed::Cut(40))
        );
    }
}
