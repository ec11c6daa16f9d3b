//! Which addresses stand on one link with this machine.

use crate::interface::{Interface, interfaces};
use std::{io, net::IpAddr};

/// The machine's links at one moment. Taking it costs one system call and a small file per interface: take a
/// new one when connections are judged, no more often than every few seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    interfaces: Vec<Interface>,
}

impl Links {
    /// The links as they are now.
    ///
    /// # Errors
    /// Those of [`interfaces`].
    pub fn snapshot() -> io::Result<Self> {
        interfaces().map(Self::new)
    }

    /// Links that consist of these interfaces.
    pub fn new(interfaces: Vec<Interface>) -> Self {
        Self { interfaces }
    }

    /// Reads the interfaces again; whether anything has changed.
    ///
    /// # Errors
    /// Those of [`interfaces`]; what was known before is kept then.
    pub fn refresh(&mut self) -> io::Result<bool> {
        let now = interfaces()?;
        let changed = now != self.interfaces;
        self.interfaces = now;
        Ok(changed)
    }

    /// The interfaces of this snapshot.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Whether a machine with this address can be reached without a router: it is inside a subnet of one of our
    /// interfaces that is up and neither loopback nor point to point (a VPN is no link), or its address is an IPv6
    /// link-local one. A loopback address is on link, for nobody but this machine can have it. An IPv4 address
    /// mapped into IPv6 counts as the IPv4 address.
    pub fn on_link(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        if addr.is_loopback() {
            return true;
        }
        if addr.is_unspecified() || addr.is_multicast() {
            return false;
        }
        if let IpAddr::V6(v6) = addr
            && v6.is_unicast_link_local()
        {
            return true;
        }
        self.interfaces
            .iter()
            .filter(|i| i.up && !i.loopback && !i.point_to_point)
            .any(|i| i.contains(addr))
    }

    /// Whether one of our interfaces, whatever its kind, has this address.
    pub fn is_own(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.interfaces
            .iter()
            .flat_map(|i| &i.addrs)
            .any(|&(own, _)| own == addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, index: u32, addrs: &[(&str, u8)]) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            addrs: addrs
                .iter()
                .map(|&(ip, prefix)| (ip.parse().unwrap(), prefix))
                .collect(),
            up: true,
            loopback: name == "lo",
            point_to_point: name.starts_with("tun"),
            multicast: name != "lo",
        }
    }

    fn office() -> Links {
        let mut down = interface("eth1", 4, &[("172.16.0.5", 16)]);
        down.up = false;
        Links::new(vec![
            interface(
                "lo",
                1,
                &[("127.0.0.1", 8), ("10.99.0.1", 16), ("::1", 128)],
            ),
            interface(
                "eth0",
                2,
                &[
                    ("192.168.1.20", 24),
                    ("fe80::1", 64),
                    ("2001:db8:1::20", 64),
                ],
            ),
            interface("tun0", 3, &[("10.8.0.2", 24)]),
            down,
            interface("odd0", 5, &[("203.0.113.9", 0)]),
        ])
    }

    #[test]
    fn on_link_is_what_needs_no_router() {
        let links = office();
        for (addr, expected) in [
            ("192.168.1.77", true),
            ("192.168.2.77", false),
            ("::ffff:192.168.1.77", true),
            ("::ffff:192.168.2.77", false),
            ("2001:db8:1::99", true),
            ("2001:db8:2::99", false),
            ("fe80::abcd", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            // Subnets of loopback, of a tunnel, of an interface without carrier: no link.
            ("10.99.0.2", false),
            ("10.8.0.3", false),
            ("172.16.0.6", false),
            // A prefix of no bits would make the whole Internet a neighbour.
            ("8.8.8.8", false),
            ("0.0.0.0", false),
            ("224.0.0.251", false),
            ("ff02::fb", false),
        ] {
            assert_eq!(links.on_link(addr.parse().unwrap()), expected, "{addr}");
        }
    }

    #[test]
    fn own_addresses_are_known_on_every_interface() {
        let links = office();
        for (addr, own) in [
            ("10.8.0.2", true),
            ("::ffff:192.168.1.20", true),
            ("172.16.0.5", true),
            ("192.168.1.21", false),
        ] {
            assert_eq!(links.is_own(addr.parse().unwrap()), own, "{addr}");
        }
    }

    #[test]
    fn a_snapshot_knows_this_machine() {
        let mut links = Links::snapshot().unwrap();
        assert!(links.is_own("127.0.0.1".parse().unwrap()));
        for interface in links.interfaces().to_vec() {
            for (addr, prefix) in interface.addrs {
                assert!(links.is_own(addr));
                if interface.up && !interface.point_to_point && prefix > 0 {
                    assert!(links.on_link(addr), "{addr}");
                }
            }
        }
        assert!(links.refresh().is_ok());
    }
}
