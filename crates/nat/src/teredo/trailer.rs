//! Trailers behind the IPv6 packet (RFC 6081 §4).

use std::net::{Ipv4Addr, SocketAddrV4};

/// Addresses that one Alternate Address trailer can name (RFC 6081 §4.3).
pub const ALTERNATES_MAX: usize = 4;

mod kind {
    pub(super) const NONCE: u8 = 0x01;
    /// The number that RFC 6081's list for IANA has for Random Port; §4.5 says 0x05.
    pub(super) const RANDOM_PORT_ALSO: u8 = 0x02;
    pub(super) const ALTERNATE_ADDRESS: u8 = 0x03;
    pub(super) const NEIGHBOR_DISCOVERY: u8 = 0x04;
    pub(super) const RANDOM_PORT: u8 = 0x05;
}

/// One trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trailer {
    /// What the receiver of a bubble shall say in its answer.
    Nonce([u8; 4]),
    /// Where the sender can be reached inside its own network.
    AlternateAddress(Alternates),
    /// Is this path still open?
    NeighborDiscovery(Discovery),
    /// The external port that the sender's NAT will use.
    RandomPort(u16),
    /// One that we know, with a value that it can't have: its bubble is to be dropped.
    Bad(u8),
    /// One that we don't know and may skip.
    Unknown(u8),
}

/// Question and answer about a path that has been silent (RFC 6081 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Answer, please.
    Solicitation,
    /// It is open.
    Advertisement,
}

/// One to [`ALTERNATES_MAX`] addresses and ports, none of them multicast, no port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternates {
    addresses: [SocketAddrV4; ALTERNATES_MAX],
    count: usize,
}

impl Alternates {
    /// The first [`ALTERNATES_MAX`] usable ones of these; nothing when there is none.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddrV4>) -> Option<Self> {
        let mut all = Self {
            addresses: [SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0); ALTERNATES_MAX],
            count: 0,
        };
        let usable = addresses.into_iter().filter(|&address| is_usable(address));
        for (slot, address) in all.addresses.iter_mut().zip(usable) {
            *slot = address;
            all.count += 1;
        }
        (all.count > 0).then_some(all)
    }

    /// The addresses.
    pub fn as_slice(&self) -> &[SocketAddrV4] {
        &self.addresses[..self.count]
    }

    /// Two reserved bytes, then address and port of each, not inverted.
    fn parse(value: &[u8]) -> Option<Self> {
        let (entries, rest) = value.get(2..)?.as_chunks::<6>();
        let addresses = entries.iter().map(|&[a, b, c, d, p, q]| {
            SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q]))
        });
        let all = Self::new(addresses)?;
        (rest.is_empty() && entries.len() == all.count).then_some(all)
    }
}

fn is_usable(address: SocketAddrV4) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified()
}

impl Trailer {
    fn parse(kind: u8, value: &[u8]) -> Self {
        match (kind, value) {
            (kind::NONCE, &[a, b, c, d]) => Self::Nonce([a, b, c, d]),
            (kind::ALTERNATE_ADDRESS, value) => {
                Alternates::parse(value).map_or(Self::Bad(kind), Self::AlternateAddress)
            }
            (kind::NEIGHBOR_DISCOVERY, &[0, ..]) if value.len() == 4 => {
                Self::NeighborDiscovery(Discovery::Solicitation)
            }
            (kind::NEIGHBOR_DISCOVERY, &[1, ..]) if value.len() == 4 => {
                Self::NeighborDiscovery(Discovery::Advertisement)
            }
            (kind::RANDOM_PORT | kind::RANDOM_PORT_ALSO, &[p, q]) if (p, q) != (0, 0) => {
                Self::RandomPort(u16::from_be_bytes([p, q]))
            }
            (kind::NONCE | kind::NEIGHBOR_DISCOVERY | kind::RANDOM_PORT, _) => Self::Bad(kind),
            _ => Self::Unknown(kind),
        }
    }

    /// Appends it. [`Bad`](Self::Bad) and [`Unknown`](Self::Unknown) ones are never ours to send: nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nonce(nonce) => {
                out.extend([kind::NONCE, 4]);
                out.extend(nonce);
            }
            Self::AlternateAddress(alternates) => {
                // At most 2 + 4 * 6.
                #[expect(clippy::cast_possible_truncation, reason = "at most 26")]
                let length = (2 + 6 * alternates.count) as u8;
                out.extend([kind::ALTERNATE_ADDRESS, length, 0, 0]);
                for address in alternates.as_slice() {
                    out.extend(address.ip().octets());
                    out.extend(address.port().to_be_bytes());
                }
            }
            Self::NeighborDiscovery(discovery) => {
                let kind = u8::from(*discovery == Discovery::Advertisement);
                out.extend([kind::NEIGHBOR_DISCOVERY, 4, kind, 0, 0, 0]);
            }
            Self::RandomPort(port) => {
                out.extend([kind::RANDOM_PORT, 2]);
                out.extend(port.to_be_bytes());
            }
            Self::Bad(_) | Self::Unknown(_) => {}
        }
    }
}

/// The trailers of one datagram, in order. The list ends where one does not fit into the datagram (RFC 6081 §5.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailers<'a>(&'a [u8]);

impl<'a> Trailers<'a> {
    /// The trailers in these bytes; `Err` with the type of one that we don't know and whose sender wants the packet
    /// discarded then (types 0x40 to 0x7F).
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, u8> {
        let all = Self(bytes);
        match all
            .clone()
            .find(|trailer| matches!(trailer, Trailer::Unknown(kind) if kind >> 6 == 1))
        {
            Some(Trailer::Unknown(kind)) => Err(kind),
            _ => Ok(all),
        }
    }

    /// The nonce, if there is one.
    pub fn nonce(self) -> Option<[u8; 4]> {
        self.into_iter().find_map(|trailer| match trailer {
            Trailer::Nonce(nonce) => Some(nonce),
            _ => None,
        })
    }

    /// The port that the sender's NAT will use, if it says so.
    pub fn random_port(self) -> Option<u16> {
        self.into_iter().find_map(|trailer| match trailer {
            Trailer::RandomPort(port) => Some(port),
            _ => None,
        })
    }

    /// Where the sender can be reached inside its network, if it says so.
    pub fn alternates(self) -> Option<Alternates> {
        self.into_iter().find_map(|trailer| match trailer {
            Trailer::AlternateAddress(alternates) => Some(alternates),
            _ => None,
        })
    }

    /// Question or answer about the path, if there is one.
    pub fn discovery(self) -> Option<Discovery> {
        self.into_iter().find_map(|trailer| match trailer {
            Trailer::NeighborDiscovery(discovery) => Some(discovery),
            _ => None,
        })
    }

    /// Whether one of them has a value that it can't have.
    pub fn are_bad(self) -> bool {
        self.into_iter()
            .any(|trailer| matches!(trailer, Trailer::Bad(_)))
    }
}

impl Iterator for Trailers<'_> {
    type Item = Trailer;

    fn next(&mut self) -> Option<Trailer> {
        let (&[kind, length], rest) = self.0.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(Trailer::parse(kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_trailer() -> impl Strategy<Value = Trailer> {
        let address = (1..0xE000_0000_u32, 1..=u16::MAX)
            .prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port));
        prop_oneof![
            any::<[u8; 4]>().prop_map(Trailer::Nonce),
            prop::collection::vec(address, 1..=ALTERNATES_MAX)
                .prop_map(|all| Trailer::AlternateAddress(Alternates::new(all).unwrap())),
            Just(Trailer::NeighborDiscovery(Discovery::Solicitation)),
            Just(Trailer::NeighborDiscovery(Discovery::Advertisement)),
            (1..=u16::MAX).prop_map(Trailer::RandomPort),
        ]
    }

    proptest! {
        #[test]
        fn trailers_are_read_as_they_were_written(trailers in prop::collection::vec(any_trailer(), 0..6)) {
            let mut bytes = Vec::new();
            trailers.iter().for_each(|trailer| trailer.encode(&mut bytes));
            prop_assert_eq!(Trailers::parse(&bytes).unwrap().collect::<Vec<_>>(), trailers);
        }

        #[test]
        fn any_bytes_end_the_list(bytes: Vec<u8>) {
            let most = bytes.len() / 2;
            prop_assert!(Trailers(&bytes).count() <= most);
        }
    }

    #[test]
    fn what_does_not_fit_ends_the_list_and_keeps_the_rest() {
        let nonce = [1, 4, 1, 2, 3, 4];
        for tail in [&[1][..], &[1, 4, 9][..], &[0x41, 200, 0][..]] {
            let bytes = [&nonce, tail].concat();
            let trailers = Trailers::parse(&bytes).unwrap();
            assert_eq!(trailers.collect::<Vec<_>>(), [Trailer::Nonce([1, 2, 3, 4])]);
        }
    }

    #[test]
    fn unknown_ones_are_skipped_or_discard_the_packet() {
        assert_eq!(Trailers::parse(&[0x7F, 0]), Err(0x7F));
        for kind in [0x06, 0x3F, 0x80, 0xFF] {
            let bytes = [kind, 1, 0, 1, 4, 5, 6, 7, 8];
            let trailers = Trailers::parse(&bytes).unwrap();
            assert_eq!(trailers.nonce(), Some([5, 6, 7, 8]));
        }
    }

    #[test]
    fn values_that_can_not_be_are_bad() {
        let bad: [&[u8]; 6] = [
            &[1, 3, 0, 0, 0],
            &[3, 2, 0, 0],
            &[3, 9, 0, 0, 10, 0, 0, 1, 1, 1, 1],
            &[3, 8, 0, 0, 224, 0, 0, 1, 1, 1],
            &[4, 4, 2, 0, 0, 0],
            &[5, 2, 0, 0],
        ];
        for bytes in bad {
            assert!(Trailers::parse(bytes).unwrap().are_bad(), "{bytes:?}");
        }
    }

    #[test]
    fn both_numbers_of_the_random_port_are_known() {
        for kind in [2, 5] {
            let bytes = [kind, 2, 0xEE, 0x48];
            assert_eq!(Trailers::parse(&bytes).unwrap().random_port(), Some(61_000));
        }
    }
}
