use super::*;
use DownloadMode::{Bypass, CdnOnly, Group, Internet, Lan, Simple};

/// Facts as bits: 1 on the link, 2 discovered, 4 group proven, 8 loopback.
fn facts(bits: usize) -> RemoteFacts {
    RemoteFacts {
        on_link: bits & 1 != 0,
        link_local_discovered: bits & 2 != 0,
        group_proven: bits & 4 != 0,
        loopback: bits & 8 != 0,
        behind_same_nat: false,
    }
}

/// Every mode × restriction × combination of facts. A column is the facts' number; `L` LAN, `K` link local, `G` group,
/// `I` Internet; outside because of `m` the mode, `g` the group, `l` the LAN, `s` the subnet, `d` DNS-SD.
#[test]
fn scope_of_every_mode_restriction_and_facts() {
    use PeerRestriction::{LocalDiscovery, None as Nothing, Subnet};
    const OUTSIDE: &str = "mmmmmmmmmmmmmmmm";
    #[rustfmt::skip]
    let table = [
        //                            loopback:       no no no no no no no no yes …
        //                            group:          no no no no yes…    no       yes
        //                            discovered:     0  0  1  1
        //                            on link:        0  1  0  1
        (Lan,      Nothing,        "lLlKlLlKLLKKLLKK"),
        (Lan,      Subnet,         "lLlKlLlKLLKKLLKK"),
        (Lan,      LocalDiscovery, "ddlKddlKddKKddKK"),
        (Group,    Nothing,        "ggggGLGKggggLLKK"),
        (Group,    Subnet,         "ggggsLsKggggLLKK"),
        (Group,    LocalDiscovery, "ggggddsKggggddKK"),
        (Internet, Nothing,        "ILIKILIKLLKKLLKK"),
        (Internet, Subnet,         "sLsKsLsKLLKKLLKK"),
        (Internet, LocalDiscovery, "ddsKddsKddKKddKK"),
        (CdnOnly,  Nothing,        OUTSIDE),
        (CdnOnly,  Subnet,         OUTSIDE),
        (CdnOnly,  LocalDiscovery, OUTSIDE),
        (Simple,   Nothing,        OUTSIDE),
        (Simple,   Subnet,         OUTSIDE),
        (Simple,   LocalDiscovery, OUTSIDE),
        (Bypass,   Nothing,        OUTSIDE),
        (Bypass,   Subnet,         OUTSIDE),
        (Bypass,   LocalDiscovery, OUTSIDE),
    ];
    for (mode, restrict, expected) in table {
        let found: String = (0..16)
            .map(|bits| match peer_class(mode, facts(bits), restrict) {
                Ok(PeerClass::Lan) => 'L',
                Ok(PeerClass::LinkLocal) => 'K',
                Ok(PeerClass::Group) => 'G',
                Ok(PeerClass::Internet) => 'I',
                Err(OutOfScope::Mode(_)) => 'm',
                Err(OutOfScope::Group) => 'g',
                Err(OutOfScope::NotInLan) => 'l',
                Err(OutOfScope::NotInSubnet) => 's',
                Err(OutOfScope::NotDiscovered) => 'd',
            })
            .collect();
        assert_eq!(found, expected, "{mode}, restricted by {restrict}");
    }
}

/// Behind the same NAT is the LAN, and changes nothing where somebody is on the link, outside or restricted.
#[test]
fn same_nat_is_the_lan_unless_restricted() {
    for mode in DownloadMode::ALL {
        for bits in 0..16 {
            let without = facts(bits);
            let with = RemoteFacts {
                behind_same_nat: true,
                ..without
            };
            for restrict in [PeerRestriction::Subnet, PeerRestriction::LocalDiscovery] {
                assert_eq!(
                    peer_class(mode, with, restrict),
                    peer_class(mode, without, restrict)
                );
            }
            let class = peer_class(mode, with, PeerRestriction::None);
            match peer_class(mode, without, PeerRestriction::None) {
                Err(OutOfScope::NotInLan) | Ok(PeerClass::Group | PeerClass::Internet) => {
                    assert_eq!(class, Ok(PeerClass::Lan), "{mode} {bits}");
                }
                other => assert_eq!(class, other, "{mode} {bits}"),
            }
        }
    }
}

/// Scope and permissions come from two places; they must not disagree.
#[test]
fn a_class_is_given_only_where_the_mode_permits_it() {
    for mode in DownloadMode::ALL {
        let permits = crate::permits(mode);
        for bits in 0..16 {
            let permitted = match peer_class(mode, facts(bits), PeerRestriction::None) {
                Err(_) => true,
                Ok(PeerClass::Lan | PeerClass::LinkLocal) => permits.lan,
                Ok(PeerClass::Group) => permits.group,
                Ok(PeerClass::Internet) => permits.internet,
            };
            assert!(permitted, "{mode}: {:?}", facts(bits));
        }
    }
}
