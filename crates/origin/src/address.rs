//! Which addresses are public. Pure.
//!
//! A server on the Internet must not be able to send us to something that only we can reach: a router's web
//! page, a cloud's metadata address, a service on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether an address can be that of a server on the public Internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// What a URL says about where its host is, without asking the DNS: `Some(false)` for an address that is not
/// public and for the names of loopback, `None` for any other name.
pub(crate) fn host_is_public(url: &Url) -> Option<bool> {
    match url.host()? {
        Host::Ipv4(v4) => Some(is_public_v4(v4)),
        Host::Ipv6(v6) => Some(is_public_v6(v6)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            // RFC 6761: these always mean loopback. The url crate has made the name lower case.
            (name == "localhost" || name.ends_with(".localhost")).then_some(false)
        }
    }
}

/// The IANA special-purpose registry, as far as nothing public is in it.
fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = a == 0
        || v4.is_loopback()
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_documentation()
        || (a == 100 && b & 0xc0 == 64) // shared address space of carriers, RFC 6598
        || (a == 192 && b == 0 && c == 0) // IETF protocol assignments
        || (a == 198 && b & 0xfe == 18) // benchmarking
        || a >= 224; // multicast, reserved, broadcast
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    if let Some(v4) = embedded_v4(v6) {
        return is_public_v4(v4);
    }
    // Only 2000::/3 is global unicast; what is special in it follows.
    let global = v6.segments()[0] & 0xe000 == 0x2000;
    let special = matches!(
        v6.segments(),
        [0x2001, 0x0010..=0x002f, ..] // ORCHID
            | [0x2001, 0x0db8, ..] // documentation
            | [0x3fff, 0..=0x0fff, ..] // documentation
    );
    global && !special
}

/// The IPv4 address that an IPv6 address leads to: mapped, NAT64, 6to4 and Teredo.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let [.., a, b, c, d] = v6.octets();
    match s {
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            Some(Ipv4Addr::new(a, b, c, d))
        }
        [0x2002, high, low, ..] => Some(from_segments(high, low)),
        // Teredo hides the client's address by inverting its bits.
        [0x2001, 0, ..] => Some(Ipv4Addr::new(!a, !b, !c, !d)),
        _ => None,
    }
}

fn from_segments(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn addresses_that_only_we_can_reach_are_not_public() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::fb",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::1",
            "2001:0:1::f5ff:fffe",
            "2001:db8::1",
            "3fff::1",
            "100::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn loopback_is_recognised_in_every_spelling() {
        for text in [
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://0/",
        ] {
            assert_eq!(
                host_is_public(&Url::parse(text).unwrap()),
                Some(false),
                "{text}"
            );
        }
        assert_eq!(
            host_is_public(&Url::parse("http://cdn.test/").unwrap()),
            None
        );
        assert_eq!(
            host_is_public(&Url::parse("http://9.9.9.9/").unwrap()),
            Some(true)
        );
    }
}
