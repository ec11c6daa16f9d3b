use super::*;
use crate::{AdapterKind, Power, Provider, RawValue};

const GIB: u64 = 1 << 30;

fn policies(set: &[(&str, &str)]) -> Policies {
    let mut policies = Policies::default();
    for (key, value) in set {
        let value = RawValue::Untyped((*value).to_owned());
        policies.set(key, &value, &Provider::Command).unwrap();
    }
    policies
}

fn adapter(name: &str, description: &str, kind: AdapterKind) -> Adapter {
    Adapter {
        name: name.to_owned(),
        description: description.to_owned(),
        kind,
    }
}

/// The names of the gates that are closed.
fn closed(set: &[(&str, &str)], device: &Device) -> Vec<&'static str> {
    let gates = gates(&policies(set), device, GroupStanding::Member);
    gates.iter().map(Gate::name).collect()
}

#[test]
fn gates_open_at_the_policys_value() {
    let device = |ram, disk| Device {
        ram_total: Some(ram),
        disk_total: Some(disk),
        ..Device::default()
    };
    assert!(closed(&[], &device(4 * GIB, 32 * GIB)).is_empty());
    // 4 GB less what the kernel keeps.
    assert!(closed(&[], &device(3_800_000_000, 32 * GIB)).is_empty());
    let gates = gates(
        &policies(&[]),
        &device(3 * GIB, 32 * GIB - 1),
        GroupStanding::Member,
    );
    assert_eq!(
        gates.iter().map(Gate::to_string).collect::<Vec<_>>(),
        [
            "the machine's memory has 3.00 GiB, less than min_ram_allowed_to_peer (4.00 GiB): no peers",
            "the cache's disk has 32.0 GiB, less than min_disk_size_allowed_to_peer (32.0 GiB): no peers",
        ]
    );
}

#[test]
fn what_is_not_known_closes_no_gate() {
    for mode in ["0", "1", "2", "3", "99"] {
        assert!(closed(&[("download_mode", mode)], &Device::default()).is_empty());
    }
}

#[test]
fn group_mode_without_a_group_has_no_peers() {
    let unproven = GroupStanding::Unproven("no secret");
    for (mode, group, names) in [
        ("1", GroupStanding::None, vec![]),
        ("1", unproven, vec![]),
        ("2", GroupStanding::Member, vec![]),
        ("2", GroupStanding::None, vec!["group"]),
        ("2", unproven, vec!["membership"]),
    ] {
        let gates = gates(
            &policies(&[("download_mode", mode)]),
            &Device::default(),
            group,
        );
        assert_eq!(
            gates.iter().map(Gate::name).collect::<Vec<_>>(),
            names,
            "mode {mode}"
        );
    }
}

/// Policy, battery or mains, charge: open or closed.
#[test]
fn uploads_on_battery_need_the_policys_charge() {
    let table = [
        ("0", false, Some(5), true),
        ("0", true, Some(100), false),
        ("0", true, None, false),
        ("40", false, Some(5), true),
        ("40", false, None, true),
        ("40", true, Some(39), false),
        ("40", true, Some(40), true),
        ("40", true, Some(100), true),
        ("40", true, None, false),
        ("100", true, Some(99), false),
        ("100", true, Some(100), true),
    ];
    for (policy, on_battery, charge, open) in table {
        let device = Device {
            power: Some(Power {
                on_battery,
                charge: charge.and_then(Percent::new),
            }),
            ..Device::default()
        };
        let policies = policies(&[("min_battery_percentage_allowed_to_upload", policy)]);
        let gates = gates(&policies, &device, GroupStanding::Member);
        let case = format!("policy {policy}, on battery {on_battery}, charge {charge:?}");
        for class in PeerClass::ALL {
            assert_eq!(gates.permit_upload(class), open, "{case}, {class:?}");
            assert!(
                gates.permit_peer(class),
                "{case}: downloads from peers go on"
            );
        }
        assert!(
            gates.permit_http(false) && gates.permit_cache_hosts(),
            "{case}"
        );
    }
}

#[test]
fn vpn_is_told_by_kind_and_by_words_in_any_case() {
    let other = AdapterKind::Other;
    let table = [
        (adapter("eth0", "", other), None, false),
        (adapter("wlan0", "Office", other), None, false),
        (adapter("tun0", "", AdapterKind::Tun), None, true),
        (adapter("wg0", "", AdapterKind::WireGuard), None, true),
        (adapter("ppp0", "", AdapterKind::Ppp), None, true),
        (adapter("ipsec0", "", AdapterKind::Ipsec), None, true),
        (adapter("corp", "", AdapterKind::Declared), None, true),
        (adapter("msftvpn0", "", other), None, true),
        (adapter("dummy0", "A secure line", other), None, true),
        (
            adapter("dummy0", "virtual private NETWORK", other),
            None,
            true,
        ),
        (adapter("dummy0", "Contoso Tunnel", other), None, false),
        (
            adapter("dummy0", "Contoso Tunnel", other),
            Some("contoso"),
            true,
        ),
        (
            adapter("contoso0", "", other),
            Some("Fabrikam,CONTOSO"),
            true,
        ),
    ];
    for (adapter, keywords, is_vpn) in table {
        let keywords = policies(&keywords.map_or(vec![], |k| vec![("vpn_keywords", k)]));
        let found = vpn(std::slice::from_ref(&adapter), keywords.vpn_keywords());
        assert_eq!(found.is_some(), is_vpn, "{adapter:?}");
    }
}

/// Every combination of the policies that VPNs have to do with.
#[test]
fn vpn_closes_peers_and_cache_hosts_as_its_policies_say() {
    let device = Device {
        adapters: vec![
            adapter("eth0", "", AdapterKind::Other),
            adapter("tun0", "", AdapterKind::Tun),
        ],
        ..Device::default()
    };
    let table = [
        // allow peers, restriction, disallow cache: gates
        ("0", "0", "0", vec!["vpn"]),
        ("0", "0", "1", vec!["vpn", "vpn_cache_host"]),
        ("0", "1", "0", vec!["vpn"]),
        ("0", "1", "1", vec!["vpn", "vpn_cache_host"]),
        ("0", "2", "0", vec![]),
        ("0", "2", "1", vec!["vpn_cache_host"]),
        ("1", "0", "0", vec![]),
        ("1", "0", "1", vec!["vpn_cache_host"]),
        ("1", "1", "0", vec![]),
        ("1", "1", "1", vec!["vpn_cache_host"]),
        ("1", "2", "0", vec![]),
        ("1", "2", "1", vec!["vpn_cache_host"]),
    ];
    for (allow, restrict, disallow, names) in table {
        let set = [
            ("allow_vpn_peer_caching", allow),
            ("restrict_peer_selection_by", restrict),
            ("disallow_cache_server_downloads_on_vpn", disallow),
        ];
        assert_eq!(closed(&set, &device), names, "{set:?}");
        let without = Device {
            adapters: device.adapters[..1].to_vec(),
            ..Device::default()
        };
        assert!(closed(&set, &without).is_empty(), "{set:?}, no VPN");
    }
    // Modes without peers have no peers to close; cache hosts are used in all of them.
    for mode in ["0", "99"] {
        let set = [
            ("download_mode", mode),
            ("disallow_cache_server_downloads_on_vpn", "1"),
        ];
        assert_eq!(closed(&set, &device), ["vpn_cache_host"]);
    }
}

#[test]
fn metered_connection_closes_what_is_paid_for_and_nobody_waits_for() {
    for (metered, is_closed) in [(None, false), (Some(false), false), (Some(true), true)] {
        let device = Device {
            metered,
            ..Device::default()
        };
        let gates = gates(
            &policies(&[("download_mode", "3")]),
            &device,
            GroupStanding::Member,
        );
        assert_eq!(
            gates.permit_http(false),
            !is_closed,
            "background, {metered:?}"
        );
        assert!(gates.permit_http(true), "foreground, {metered:?}");
        for class in PeerClass::ALL {
            let open = !is_closed || !class.is_distant();
            assert_eq!(gates.permit_peer(class), open, "{class:?}, {metered:?}");
            assert_eq!(gates.permit_upload(class), open, "{class:?}, {metered:?}");
        }
    }
}

#[test]
fn monthly_cap_closes_uploads_to_internet_peers_only() {
    let table = [
        ("3", "20", None, true),
        ("3", "20", Some(20 * GIB - 1), true),
        ("3", "20", Some(20 * GIB), false),
        ("3", "0", Some(u64::MAX), true),
        // Other modes have no Internet peers.
        ("1", "20", Some(21 * GIB), true),
        ("2", "20", Some(21 * GIB), true),
    ];
    for (mode, cap, sent, open) in table {
        let device = Device {
            internet_bytes_this_month: sent,
            ..Device::default()
        };
        let set = [("download_mode", mode), ("monthly_upload_data_cap", cap)];
        let gates = gates(&policies(&set), &device, GroupStanding::Member);
        assert_eq!(
            gates.permit_upload(PeerClass::Internet),
            open,
            "{set:?} {sent:?}"
        );
        for class in PeerClass::ALL {
            assert!(gates.permit_peer(class), "{class:?}");
            let local = class != PeerClass::Internet;
            assert!(!local || gates.permit_upload(class), "{class:?}");
        }
    }
}

/// What each gate closes, which code it has, and what it says.
#[test]
fn every_gate_has_its_code_and_says_what_it_closes() {
    let percent = Percent::new;
    let table = [
        (
            Gate::Ram {
                has: GIB,
                wanted: 4 * GIB,
            },
            "0x80D03806",
            vec!["peers"],
            "no peers",
        ),
        (
            Gate::Disk {
                has: GIB,
                wanted: 32 * GIB,
            },
            "0x80D03806",
            vec!["peers"],
            "no peers",
        ),
        (Gate::NoGroup, "0x80D03806", vec!["peers"], "no peers"),
        (
            Gate::Membership {
                why: "its certificate expired".to_owned(),
            },
            "0x80D03806",
            vec!["peers"],
            "its certificate expired: no peers",
        ),
        (
            Gate::Vpn {
                adapter: "TUN tun0".to_owned(),
            },
            "0x80D03807",
            vec!["peers"],
            "TUN tun0",
        ),
        (
            Gate::CacheHostOnVpn {
                adapter: "TUN tun0".to_owned(),
            },
            "0x80D03807",
            vec!["cache hosts"],
            "TUN tun0",
        ),
        (
            Gate::Battery {
                charge: percent(37),
                wanted: percent(40),
            },
            "0x80D03804",
            vec!["uploads"],
            "37 % left",
        ),
        (
            Gate::Battery {
                charge: None,
                wanted: None,
            },
            "0x80D03804",
            vec!["uploads"],
            "no uploads",
        ),
        (
            Gate::Metered,
            "0x80D03801",
            vec!["peers beyond the LAN", "background downloads over HTTP"],
            "metered",
        ),
        (
            Gate::MonthlyCap {
                sent: GIB,
                cap: GIB,
            },
            "0x80D03001",
            vec!["uploads to Internet peers"],
            "this month",
        ),
    ];
    for (gate, code, closes, says) in table {
        assert_eq!(gate.hresult().to_string(), code, "{gate:?}");
        assert_eq!(gate.closes().names(), closes, "{gate:?}");
        assert!(gate.to_string().contains(says), "{gate}");
        assert!(!gate.remedy().is_empty(), "{gate}");
    }
}
