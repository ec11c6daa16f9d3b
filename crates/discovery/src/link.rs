//! One side of the network: an interface and an address family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// An interface and an address family. Multicast DNS over IPv4 and over IPv6 are two worlds (RFC 6762, section
/// 20): an answer goes out where its question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId {
    /// The interface's index.
    pub(crate) index: u32,
    pub(crate) v6: bool,
}

impl LinkId {
    /// Where everybody on the link listens.
    pub(crate) fn group(&self, port: u16) -> SocketAddr {
        if self.v6 {
            SocketAddrV6::new(GROUP_V6, port, 0, self.index).into()
        } else {
            (GROUP_V4, port).into()
        }
    }
}

/// Multicast DNS's group (RFC 6762, section 3).
pub(crate) const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// Multicast DNS's group over IPv6.
pub(crate) const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// A link that packets come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) interface: dosvc_host::Interface,
}

impl Link {
    /// Whether a machine with this address can stand on the link: it is in one of the interface's subnets or
    /// IPv6 link-local. A loopback address only is on a loopback interface.
    pub(crate) fn holds(&self, ip: IpAddr) -> bool {
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !ip.is_unspecified()
            && !ip.is_multicast()
            && ip.is_loopback() == self.interface.loopback
            && (link_local || self.interface.contains(ip))
    }

    /// Our addresses on the interface, of both families.
    pub(crate) fn own_addrs(&self) -> impl Iterator<Item = IpAddr> {
        self.interface.addrs.iter().map(|&(ip, _)| ip)
    }

    /// The address that IPv4 packets are sent from.
    pub(crate) fn own_v4(&self) -> Option<Ipv4Addr> {
        self.own_addrs().find_map(|ip| match ip {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dosvc_host::Interface;

    /// A link of the interface `index` with these addresses.
    pub(crate) fn link(index: u32, v6: bool, addrs: &[(&str, u8)]) -> Link {
        let addrs: Vec<(IpAddr, u8)> = addrs
            .iter()
            .map(|&(ip, prefix)| (ip.parse().unwrap(), prefix))
            .collect();
        Link {
            id: LinkId { index, v6 },
            interface: Interface {
                name: format!("eth{index}"),
                index,
                up: true,
                loopback: addrs.iter().any(|(ip, _)| ip.is_loopback()),
                point_to_point: false,
                multicast: true,
                addrs,
            },
        }
    }

    #[test]
    fn a_link_holds_its_subnets_and_link_local_addresses_only() {
        let eth = link(
            2,
            false,
            &[
                ("10.1.2.3", 24),
                ("2001:db8::3", 64),
                ("fe80::3", 64),
                ("1.2.3.4", 0),
            ],
        );
        for (ip, held) in [
            ("10.1.2.250", true),
            ("10.1.3.250", false),
            ("8.8.8.8", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("0.0.0.0", false),
            ("224.0.0.251", false),
            ("2001:db8::99", true),
            ("2001:db8:1::99", false),
            ("fe80::99", true),
            ("ff02::fb", false),
        ] {
            assert_eq!(eth.holds(ip.parse().unwrap()), held, "{ip}");
        }
        let lo = link(1, false, &[("127.0.0.1", 8), ("::1", 128)]);
        for (ip, held) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("fe80::1", false),
            ("10.1.2.3", false),
        ] {
            assert_eq!(lo.holds(ip.parse().unwrap()), held, "{ip}");
        }
    }
}
