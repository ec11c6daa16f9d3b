//! The network adapters that are up, by kind, and the one that leads to the Internet. From `/sys/class/net` and
//! `/proc/net`, which show the network namespace that they were mounted in.

use crate::Root;
use dosvc_policy::{Adapter, AdapterKind};
use std::{net::Ipv4Addr, path::Path};

const ADAPTERS: &str = "sys/class/net";
const IPV6_ADDRESSES: &str = "proc/net/if_inet6";
/// What the addresses of Teredo (`2001::/32`) begin with, as the kernel writes them.
const TEREDO: &str = "20010000";
/// `IFF_UP`.
const FLAG_UP: u32 = 0x1;
/// `IFF_LOOPBACK`.
const FLAG_LOOPBACK: u32 = 0x8;
/// `IFF_TUN` of `linux/if_tun.h`; TAP devices have 0x2.
const TUN: u32 = 0x1;
/// `ARPHRD_PPP`.
const TYPE_PPP: u32 = 512;
/// `RTF_UP` of a route.
const ROUTE_UP: u32 = 0x1;

/// Every adapter that is up, loopback left out.
pub fn adapters(root: &Root) -> Vec<Adapter> {
    let names = root.names(ADAPTERS).into_iter();
    names
        .filter_map(|name| adapter(root, name.to_str()?))
        .collect()
}

fn adapter(root: &Root, name: &str) -> Option<Adapter> {
    let folder = Path::new(ADAPTERS).join(name);
    let value = |key: &str| root.value(folder.join(key));
    let flags = hexadecimal(&value("flags")?)?;
    let state = value("operstate").unwrap_or_default();
    // Tunnels have no carrier to speak of: their state is `unknown`.
    let is_down = ["down", "lowerlayerdown", "notpresent"].contains(&state.as_str());
    if flags & FLAG_UP == 0 || flags & FLAG_LOOPBACK != 0 || is_down {
        return None;
    }
    let device_type = value("uevent").and_then(|text| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("DEVTYPE=").map(str::to_owned))
    });
    let kind = match device_type.as_deref() {
        Some("wireguard") => AdapterKind::WireGuard,
        Some("vti" | "vti6" | "xfrm") => AdapterKind::Ipsec,
        _ if value("type").as_deref() == Some(&TYPE_PPP.to_string()) => AdapterKind::Ppp,
        _ => match value("tun_flags").and_then(|text| hexadecimal(&text)) {
            Some(flags) if flags & TUN != 0 && !is_teredo(root, name) => AdapterKind::Tun,
            _ => AdapterKind::Other,
        },
    };
    Some(Adapter {
        name: name.to_owned(),
        description: value("ifalias").unwrap_or_default(),
        kind,
    })
}

/// Whether it is the way to Teredo's peers, such as `dosvc teredo client --tun` makes it: nobody's network is behind that.
fn is_teredo(root: &Root, name: &str) -> bool {
    // `address number prefix scope flags device`
    let table = root.read(IPV6_ADDRESSES).unwrap_or_default();
    let mut lines = table.lines().map(str::split_whitespace);
    lines.any(|mut fields| {
        let address = fields.next().unwrap_or_default();
        address.starts_with(TEREDO) && fields.next_back() == Some(name)
    })
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The adapter that the default route leads over, with its number: IPv4 before IPv6, the least metric first.
pub(crate) fn default_adapter(root: &Root) -> Option<(String, u32)> {
    let name = default_ipv4(&root.read("proc/net/route")?)
        .map(|(name, _)| name)
        .or_else(|| default_ipv6(&root.read("proc/net/ipv6_route")?))?;
    let index = root.value(Path::new(ADAPTERS).join(&name).join("ifindex"));
    Some((name, index.and_then(|text| text.parse().ok()).unwrap_or(0)))
}

/// The router that the IPv4 default route leads to; the one with the least metric, where there are several.
pub fn default_router(root: &Root) -> Option<Ipv4Addr> {
    let (_, router) = default_ipv4(&root.read("proc/net/route")?)?;
    Some(router).filter(|router| !router.is_unspecified())
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`
fn default_ipv4(table: &str) -> Option<(String, Ipv4Addr)> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, flags) = (
            *fields.first()?,
            u32::from_str_radix(fields.get(3)?, 16).ok()?,
        );
        let is_default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        // The kernel prints the address as a number of its own byte order.
        let router = u32::from_str_radix(fields.get(2)?, 16).ok()?.to_ne_bytes();
        let metric: u32 = fields.get(6)?.parse().ok()?;
        (is_default && flags & ROUTE_UP != 0).then_some((metric, name, router))
    });
    let (_, name, router) = routes.min()?;
    Some((name.to_owned(), router.into()))
}

/// `destination prefix source prefix next-hop metric refcount use flags device`, numbers in hexadecimal.
fn default_ipv6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, _, metric, _, _, flags, name] = fields[..] else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let metric = u32::from_str_radix(metric, 16).ok()?;
        let leads_somewhere = flags & ROUTE_UP != 0 && name != "lo";
        (leads_somewhere && destination.bytes().all(|b| b == b'0')).then_some((metric, name))
    });
    routes.min().map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::fixture::Tree;

    fn plug(tree: &Tree, name: &str, values: &[(&str, &str)]) {
        for (key, value) in [("flags", "0x1003"), ("operstate", "up"), ("type", "1")]
            .iter()
            .chain(values)
        {
            tree.write(&format!("{ADAPTERS}/{name}/{key}"), &format!("{value}\n"));
        }
    }

    #[test]
    fn adapters_are_told_by_what_the_kernel_says_of_them() {
        let tree = Tree::new(&[]);
        plug(&tree, "lo", &[("flags", "0x9")]);
        plug(&tree, "eth0", &[("ifalias", "Office line")]);
        plug(&tree, "eth1", &[("flags", "0x1002")]);
        plug(&tree, "eth2", &[("operstate", "down")]);
        plug(
            &tree,
            "wlan0",
            &[("uevent", "DEVTYPE=wlan\nINTERFACE=wlan0")],
        );
        plug(
            &tree,
            "wg0",
            &[
                ("uevent", "DEVTYPE=wireguard\nINTERFACE=wg0"),
                ("type", "65534"),
                ("operstate", "unknown"),
            ],
        );
        plug(
            &tree,
            "tun0",
            &[("tun_flags", "0x1001"), ("operstate", "unknown")],
        );
        plug(
            &tree,
            "teredo",
            &[("tun_flags", "0x1001"), ("operstate", "unknown")],
        );
        tree.write(
            IPV6_ADDRESSES,
            "20010db8000000000000000000000001 05 40 00 80     tun0\n\
             20010000c633640a08ba7e563ffffdeb 06 20 00 80   teredo\n\
             fe80000000000000aadc091fb0529503 06 40 20 80   teredo\n",
        );
        plug(&tree, "vnet0", &[("tun_flags", "0x1002")]);
        plug(&tree, "ppp0", &[("type", "512"), ("operstate", "unknown")]);
        let found: Vec<_> = adapters(&tree.root())
            .into_iter()
            .map(|a| (a.name, a.description, a.kind))
            .collect();
        let expected = [
            ("eth0", "Office line", AdapterKind::Other),
            ("ppp0", "", AdapterKind::Ppp),
            ("teredo", "", AdapterKind::Other),
            ("tun0", "", AdapterKind::Tun),
            ("vnet0", "", AdapterKind::Other),
            ("wg0", "", AdapterKind::WireGuard),
            ("wlan0", "", AdapterKind::Other),
        ];
        let expected = expected.map(|(name, text, kind)| (name.to_owned(), text.to_owned(), kind));
        assert_eq!(found, expected);
        assert_eq!(adapters(&Tree::new(&[]).root()), []);
    }

    #[test]
    fn default_route_names_the_adapter() {
        let header =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let table = format!(
            "{header}eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
             wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        );
        let tree = Tree::new(&[
            ("proc/net/route", &table),
            ("sys/class/net/eth0/ifindex", "2\n"),
        ]);
        assert_eq!(default_adapter(&tree.root()), Some(("eth0".to_owned(), 2)));
        let router = Some(Ipv4Addr::new(192, 168, 0, 1));
        #[cfg(target_endian = "little")]
        assert_eq!(default_router(&tree.root()), router);
        let zeros = "0".repeat(32);
        let gateway = "fe80".to_owned() + &"0".repeat(27) + "1";
        let ipv6 = format!(
            "{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 lo\n\
             {zeros} 00 {zeros} 00 {gateway} 00000400 00000001 00000000 00000003 eth7\n"
        );
        tree.write("proc/net/route", header);
        assert_eq!(default_adapter(&tree.root()), None, "no route at all");
        assert_eq!(default_router(&tree.root()), None);
        tree.write("proc/net/ipv6_route", &ipv6);
        assert_eq!(default_adapter(&tree.root()), Some(("eth7".to_owned(), 0)));
    }
}
