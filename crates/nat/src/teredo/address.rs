//! Teredo addresses, and which IPv4 addresses a Teredo node may send to.

use crate::teredo::{PORT, PREFIX};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

/// The flags that may be random: RFC 5991 §3.1 leaves cone, the reserved bit, U and G at zero.
const RANDOM_FLAGS: u16 = 0x3CFF;

/// What an IPv6 address of `2001::/32` says: the client's server, and the address and port that its NAT gave it.
///
/// Two addresses that differ in their flags alone name the same mapping: compare [`mapped`](Self::mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TeredoAddress {
    server: Ipv4Addr,
    flags: u16,
    mapped: SocketAddrV4,
}

impl TeredoAddress {
    /// The address of a client of `server` that is seen as `mapped`. Of `random` those bits are taken that RFC 5991 lets
    /// be random.
    pub fn new(server: Ipv4Addr, mapped: SocketAddrV4, random: u16) -> Self {
        Self {
            server,
            flags: random & RANDOM_FLAGS,
            mapped,
        }
    }

    /// The link-local address of a server itself (RFC 4380 §4): its own port in place of a mapping, with the cone bit.
    pub fn of_server(server: Ipv4Addr) -> Ipv6Addr {
        let own = Self {
            server,
            flags: 0x8000,
            mapped: SocketAddrV4::new(server, PORT),
        };
        let mut octets = own.to_ipv6().octets();
        octets[..8].copy_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
        octets.into()
    }

    /// Reads an address; nothing when it has another prefix.
    pub fn from_ipv6(address: Ipv6Addr) -> Option<Self> {
        let octets = address.octets();
        if octets[..4] != PREFIX {
            return None;
        }
        let [.., s0, s1, s2, s3, f0, f1, p0, p1, m0, m1, m2, m3] = octets;
        let mapped = Ipv4Addr::new(!m0, !m1, !m2, !m3);
        Some(Self {
            server: Ipv4Addr::new(s0, s1, s2, s3),
            flags: u16::from_be_bytes([f0, f1]),
            mapped: SocketAddrV4::new(mapped, !u16::from_be_bytes([p0, p1])),
        })
    }

    /// The address as IPv6 has it.
    pub fn to_ipv6(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&PREFIX);
        octets[4..8].copy_from_slice(&self.server.octets());
        octets[8..10].copy_from_slice(&self.flags.to_be_bytes());
        octets[10..12].copy_from_slice(&(!self.mapped.port()).to_be_bytes());
        octets[12..].copy_from_slice(&self.mapped.ip().octets().map(|byte| !byte));
        octets.into()
    }

    /// The server that forwards bubbles to this client.
    pub fn server(self) -> Ipv4Addr {
        self.server
    }

    /// The flags: random bits, and the cone bit of old clients.
    pub fn flags(self) -> u16 {
        self.flags
    }

    /// Where the client's NAT receives for it, as its server sees it.
    pub fn mapped(self) -> SocketAddrV4 {
        self.mapped
    }
}

impl fmt::Display for TeredoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ipv6().fmt(f)
    }
}

/// Whether a Teredo node may send to this address: it is global unicast (RFC 4380 §5.2.4), and none of the ranges that
/// later became special (RFC 6598, 6890, 2544, 1112). Documentation prefixes count as global: nobody routes them, and
/// laboratories use them.
pub fn is_global(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || a >= 240
        || (a, b, c) == (192, 88, 99)
        || (a, b, c) == (192, 0, 0)
        || (a, b & 0xC0) == (100, 64)
        || (a, b & 0xFE) == (198, 18))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_survive_ipv6(server: u32, ip: u32, port: u16, random: u16) {
            let mapped = SocketAddrV4::new(ip.into(), port);
            let address = TeredoAddress::new(server.into(), mapped, random);
            prop_assert_eq!(address.flags() & !0x3CFF, 0);
            prop_assert_eq!(TeredoAddress::from_ipv6(address.to_ipv6()), Some(address));
        }

        #[test]
        fn whatever_has_the_prefix_is_written_as_it_was_read(octets: [u8; 16]) {
            let mut octets = octets;
            octets[..4].copy_from_slice(&PREFIX);
            let address = Ipv6Addr::from(octets);
            prop_assert_eq!(TeredoAddress::from_ipv6(address).map(TeredoAddress::to_ipv6), Some(address));
        }
    }

    #[test]
    fn other_prefixes_are_no_teredo_addresses() {
        for address in ["2001:1::1", "fe80::1", "::", "3ffe:831f::1"] {
            assert_eq!(TeredoAddress::from_ipv6(address.parse().unwrap()), None);
        }
    }

    #[test]
    fn a_servers_own_address_is_the_known_one() {
        let own = TeredoAddress::of_server(Ipv4Addr::new(198, 51, 100, 10));
        assert_eq!(own.to_string(), "fe80::8000:f227:39cc:9bf5");
    }

    #[test]
    fn inward_and_special_addresses_are_not_global() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.253",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_global(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "192.0.2.20",
            "192.88.98.1",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.100.10",
            "203.0.113.10",
            "223.255.255.255",
        ] {
            assert!(is_global(ip.parse().unwrap()), "{ip}");
        }
    }
}
