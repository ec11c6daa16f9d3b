use super::*;
use crate::root::fixture::Tree;

const GUID: &str = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
const NOW: i64 = 1_795_000_000;
const ROUTE: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\neth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0\n";

/// A machine whose default route leads over `eth0`, number 2.
fn machine(files: &[(&str, &str)]) -> Tree {
    let tree = Tree::new(&[
        ("proc/net/route", ROUTE),
        ("sys/class/net/eth0/ifindex", "2\n"),
    ]);
    files.iter().for_each(|(name, text)| tree.write(name, text));
    tree
}

fn hex(text: &str, separator: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|b| format!("{b:02x}")).collect();
    bytes.join(separator)
}

fn full() -> Lease {
    Lease {
        group: Some(GUID.to_owned()),
        cache_hosts: vec!["cache.example.com".to_owned(), "10.0.0.5".to_owned()],
        domain: Some("office.example.com".to_owned()),
    }
}

#[test]
fn networkd_writes_private_options_in_hexadecimal() {
    let text = format!(
        "# This is private data. Do not parse.\nADDRESS=192.168.0.7\nDOMAINNAME=office.example.com\nOPTION_234={}00\nOPTION_235={}\n",
        hex(GUID, ""),
        hex("cache.example.com, 10.0.0.5", "")
    );
    let tree = machine(&[("run/systemd/netif/leases/2", &text)]);
    assert_eq!(lease(&tree.root(), NOW), full());
    // The lease of another adapter is another network's.
    let other = machine(&[("run/systemd/netif/leases/3", &text)]);
    assert_eq!(lease(&other.root(), NOW), Lease::default());
}

#[test]
fn network_managers_own_client_is_read() {
    let run = format!(
        "[device]\nmanaged=true\n[dhcp4]\nprivate_234={}\nprivate_235=cache.example.com,10.0.0.5\n",
        hex(GUID, ":")
    );
    let state = "ADDRESS=192.168.0.7\nDOMAINNAME=office.example.com\n";
    let tree = machine(&[
        ("run/NetworkManager/devices/2", &run),
        ("var/lib/NetworkManager/internal-1234-eth0.lease", state),
        (
            "var/lib/NetworkManager/internal-1234-eth1.lease",
            "DOMAINNAME=elsewhere\n",
        ),
    ]);
    assert_eq!(lease(&tree.root(), NOW), full());
    let options = [
        ("private_234", GUID),
        ("private_235", "cache.example.com,10.0.0.5"),
        ("domain_name", "office.example.com"),
    ];
    assert_eq!(from_options(options), full());
}

fn dhclient_lease(adapter: &str, group: &str, expire: &str) -> String {
    format!(
        "lease {{\n  interface \"{adapter}\";\n  fixed-address 192.168.0.7;\n  option domain-name \"office.example.com\";\n  option unknown-234 {group};\n  option unknown-235 \"cache.example.com,10.0.0.5\";\n  renew 1 2026/11/23 10:00:00;\n  expire {expire};\n}}\n"
    )
}

#[test]
fn of_dhclients_leases_the_last_that_holds_counts() {
    let quoted = format!("\"{GUID}\"");
    let bytes = hex(GUID, ":");
    let other = "\"00000000-0000-0000-0000-000000000001\"";
    let future = "2 2036/11/24 10:00:00";
    let past = "2 2016/11/24 10:00:00";
    let table = [
        (vec![("eth0", quoted.as_str(), future)], true),
        (vec![("eth0", bytes.as_str(), "never")], true),
        (
            vec![("eth0", bytes.as_str(), "epoch 4000000000; # some day")],
            true,
        ),
        (
            vec![("eth0", other, future), ("eth0", &quoted, future)],
            true,
        ),
        (
            vec![("eth0", &quoted, future), ("wlan0", other, future)],
            true,
        ),
        (vec![("wlan0", &quoted, future)], false),
        (vec![("eth0", &quoted, past)], false),
        (vec![("eth0", &quoted, "epoch 1000000000")], false),
        // The machine has moved on: an older lease that still runs is not this network's.
        (
            vec![("eth0", &quoted, future), ("eth0", other, past)],
            false,
        ),
    ];
    for (leases, found) in table {
        let text: String = leases
            .iter()
            .map(|(a, g, e)| dhclient_lease(a, g, e))
            .collect();
        for file in [
            "var/lib/dhcp/dhclient.eth0.leases",
            "var/lib/NetworkManager/dhclient-1-eth0.lease",
        ] {
            let tree = machine(&[(file, &text)]);
            let expected = if found { full() } else { Lease::default() };
            assert_eq!(lease(&tree.root(), NOW), expected, "{file}: {leases:?}");
        }
    }
}

#[test]
fn without_a_default_route_there_is_no_lease() {
    let tree = Tree::new(&[("run/systemd/netif/leases/2", "DOMAINNAME=a\n")]);
    assert_eq!(lease(&tree.root(), NOW), Lease::default());
}

#[test]
fn what_is_no_text_is_left_out() {
    for option in [
        "OPTION_234=",
        "OPTION_234=0a0b0c0d",
        "OPTION_235=,,",
        "OPTION_234=\"\"",
        "private_234=00:00",
    ] {
        assert_eq!(key_values(option), Lease::default(), "{option}");
    }
    let many = vec!["a"; 1000].join(",");
    assert_eq!(
        key_values(&format!("private_235={many}")).cache_hosts.len(),
        CACHE_HOSTS_MAX
    );
}

#[test]
fn suffix_comes_from_dhcp_then_from_the_resolver() {
    let table = [
        ("nameserver 10.0.0.1\n", None),
        (
            "search office.example.com example.com\n",
            Some("office.example.com"),
        ),
        (
            "domain a.example\nsearch b.example c.example\n",
            Some("b.example"),
        ),
        ("search .\n", None),
        ("searching x\n# search y\n", None),
    ];
    for (text, suffix) in table {
        let tree = machine(&[("etc/resolv.conf", text)]);
        assert_eq!(
            dns_suffix(&tree.root(), &Lease::default()).as_deref(),
            suffix,
            "{text}"
        );
        assert_eq!(
            dns_suffix(&tree.root(), &full()).as_deref(),
            Some("office.example.com")
        );
    }
}
