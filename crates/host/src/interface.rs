//! The machine's network interfaces.

use std::{fs, io, net::IpAddr};

/// `IFF_LOOPBACK` of `linux/if.h`.
const FLAG_LOOPBACK: u32 = 0x8;
/// `IFF_POINTOPOINT`: tunnels, PPP, most VPNs.
const FLAG_POINT_TO_POINT: u32 = 0x10;
/// `IFF_MULTICAST`.
const FLAG_MULTICAST: u32 = 0x1000;

/// A network interface that has at least one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name, `eth0`.
    pub name: String,
    /// The kernel's number for it, which is also the scope id of its link-local addresses; never 0.
    pub index: u32,
    /// Its addresses, each with the length of its subnet's prefix in bits.
    pub addrs: Vec<(IpAddr, u8)>,
    /// Switched on and with a carrier.
    pub up: bool,
    /// Reaches this machine only.
    pub loopback: bool,
    /// Has one other end instead of a link with many machines: a tunnel, PPP, most VPNs.
    pub point_to_point: bool,
    /// Can send to many machines at once.
    pub multicast: bool,
}

impl Interface {
    /// Whether an address lies in the subnet of one of the interface's addresses. A prefix of no bits is no subnet.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addrs
            .iter()
            .any(|&(own, prefix)| prefix > 0 && same_subnet(own, addr, prefix))
    }
}

/// Every interface that has an address, in the kernel's order.
///
/// # Errors
/// What the operating system says when it cannot list them.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    for entry in if_addrs::get_if_addrs()? {
        // An interface that has just been removed has no index any more.
        let Some(index) = entry.index else { continue };
        let (ip, prefix) = match &entry.addr {
            if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        };
        if let Some(known) = found.iter_mut().find(|i| i.index == index) {
            known.addrs.push((ip, prefix));
            continue;
        }
        let up = entry.is_oper_up();
        let flags = flags(&entry.name).unwrap_or_else(|| guess_flags(ip, entry.is_p2p));
        found.push(Interface {
            name: entry.name,
            index,
            addrs: vec![(ip, prefix)],
            up,
            loopback: flags & FLAG_LOOPBACK != 0,
            point_to_point: entry.is_p2p || flags & FLAG_POINT_TO_POINT != 0,
            multicast: flags & FLAG_MULTICAST != 0,
        });
    }
    Ok(found)
}

/// The kernel's flags of an interface; `None` where there is no sysfs, or where sysfs shows another network
/// namespace than the one this thread lives in.
fn flags(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/flags")).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Flags as they nearly always are, judged by an address.
fn guess_flags(ip: IpAddr, point_to_point: bool) -> u32 {
    match (ip.is_loopback(), point_to_point) {
        (true, _) => FLAG_LOOPBACK,
        (false, true) => FLAG_POINT_TO_POINT | FLAG_MULTICAST,
        (false, false) => FLAG_MULTICAST,
    }
}

/// Whether the first `prefix` bits are the same; never between IPv4 and IPv6.
fn same_subnet(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differing = a.to_bits() ^ b.to_bits();
            prefix <= 32 && differing.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differing = a.to_bits() ^ b.to_bits();
            prefix <= 128 && differing.leading_zeros() >= u32::from(prefix)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let all = interfaces().unwrap();
        let lo = all.iter().find(|i| i.loopback).unwrap();
        assert!(lo.up && !lo.point_to_point && lo.index > 0);
        assert!(lo.addrs.iter().all(|(ip, _)| ip.is_loopback()), "{lo:?}");
        assert!(lo.contains("127.0.0.9".parse().unwrap()));
        for (i, one) in all.iter().enumerate() {
            assert!(!one.addrs.is_empty() && !one.name.is_empty());
            assert!(all[..i].iter().all(|other| other.index != one.index));
        }
    }

    #[test]
    fn subnets_end_where_their_prefix_ends() {
        let cases = [
            ("192.168.4.1", "192.168.7.255", 22, true),
            ("192.168.4.1", "192.168.8.0", 22, false),
            ("10.0.0.1", "10.0.0.1", 32, true),
            ("10.0.0.1", "10.0.0.2", 32, false),
            ("10.0.0.0", "10.0.0.1", 31, true),
            ("10.0.0.1", "10.0.0.1", 33, false),
            ("2001:db8::1", "2001:db8::ffff", 64, true),
            ("2001:db8::1", "2001:db8:0:1::1", 64, false),
            ("2001:db8::1", "2001:db8::1", 128, true),
            ("2001:db8::1", "2001:db8::2", 128, false),
            ("::ffff:10.0.0.1", "10.0.0.1", 96, false),
        ];
        for (a, b, prefix, same) in cases {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(same_subnet(a, b, prefix), same, "{a} {b} /{prefix}");
        }
    }

    #[test]
    fn flags_are_read_from_the_kernel_and_guessed_without_it() {
        assert_eq!(flags("lo").map(|f| f & FLAG_LOOPBACK), Some(FLAG_LOOPBACK));
        assert_eq!(flags("no such interface"), None);
        assert_eq!(
            guess_flags("::1".parse().unwrap(), false) & FLAG_MULTICAST,
            0
        );
        assert_eq!(
            guess_flags("10.8.0.2".parse().unwrap(), true) & FLAG_POINT_TO_POINT,
            FLAG_POINT_TO_POINT
        );
    }
}
