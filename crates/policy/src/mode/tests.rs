use super::*;
use crate::{Device, Provider, RawValue, gates};
use DownloadMode::{Bypass, CdnOnly, Group, Internet, Lan, Simple};

const MB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn policies(values: &[(&str, i64)]) -> Policies {
    let mut policies = Policies::default();
    for (key, value) in values {
        policies
            .set(key, &RawValue::Integer(*value), &Provider::Command)
            .unwrap();
    }
    policies
}

fn content(length: u64) -> ContentFacts {
    ContentFacts {
        length: Some(length),
        has_hash_file: Some(true),
    }
}

/// The gates of a machine that has so much memory and disk.
fn gates_of(policies: &Policies, ram: u64, disk: u64) -> Gates {
    let device = Device {
        ram_total: Some(ram),
        disk_total: Some(disk),
        ..Device::default()
    };
    gates(policies, &device, crate::GroupStanding::Member)
}

/// The table of download-modes, section 1, column by column.
#[test]
fn every_mode_permits_what_the_reference_says() {
    #[rustfmt::skip]
    let table = [
        //         peers  lan    group  inet   listen mcast  cloud  hash   http   cache  pin
        (CdnOnly,  [false, false, false, false, false, false, true,  true,  true,  true,  false]),
        (Lan,      [true,  true,  false, false, true,  true,  true,  true,  true,  true,  true]),
        (Group,    [true,  true,  true,  false, true,  true,  true,  true,  true,  true,  true]),
        (Internet, [true,  true,  false, true,  true,  true,  true,  true,  true,  true,  true]),
        (Simple,   [false, false, false, false, false, false, false, false, true,  true,  false]),
        (Bypass,   [false; 11]),
    ];
    for (mode, expected) in table {
        let p = permits(mode);
        let found = [
            p.peers,
            p.lan,
            p.group,
            p.internet,
            p.listen,
            p.multicast,
            p.cloud,
            p.hash_checks,
            p.http,
            p.cache_host,
            p.pin,
        ];
        assert_eq!(found, expected, "{mode}");
    }
}

#[test]
fn bypass_is_refused_with_its_code() {
    let refused = admit(Bypass).unwrap_err();
    assert_eq!(refused.hresult().to_string(), "0x80D03002");
    for (device, requested) in [(100, None), (1, Some(Bypass)), (100, Some(Lan))] {
        assert_eq!(
            effective_mode(
                &policies(&[("download_mode", device)]),
                requested,
                &content(GIB),
                &Gates::default()
            ),
            Err(ModeRefused::Bypass)
        );
    }
}

#[test]
fn requested_mode_is_never_wider_than_the_devices() {
    #[rustfmt::skip]
    let within = [
        (Simple, &[Simple] as &[DownloadMode]),
        (CdnOnly, &[Simple, CdnOnly]),
        (Lan, &[Simple, CdnOnly, Lan]),
        (Group, &[Simple, CdnOnly, Group]),
        (Internet, &[Simple, CdnOnly, Lan, Group, Internet]),
    ];
    for (device, allowed) in within {
        let policies = policies(&[("download_mode", i64::from(device.number()))]);
        for requested in [Simple, CdnOnly, Lan, Group, Internet] {
            let found =
                effective_mode(&policies, Some(requested), &content(GIB), &Gates::default());
            if allowed.contains(&requested) {
                assert_eq!(found.unwrap().mode, requested);
            } else {
                let refused = found.unwrap_err();
                assert_eq!(refused, ModeRefused::Wider { device, requested });
                assert_eq!(refused.hresult(), HResult::MODE_NOT_ALLOWED_BY_DEVICE);
            }
        }
    }
}

/// Length × hash file in the default configuration.
#[test]
fn content_decides_between_peers_plain_checks_and_simple() {
    let policies = Policies::default();
    for (length, hash_file, mode, reasons) in [
        (Some(50 * MB), Some(true), Lan, vec![]),
        (
            Some(50 * MB - 1),
            Some(true),
            CdnOnly,
            vec![
                "the content has 50.0 MiB, less than min_file_size_to_cache (50.0 MiB): no peers, not shared",
            ],
        ),
        (
            Some(10 * MB),
            Some(true),
            CdnOnly,
            vec![
                "the content has 10.0 MiB, less than min_file_size_to_cache (50.0 MiB): no peers, not shared",
            ],
        ),
        (
            Some(0),
            Some(true),
            Simple,
            vec![
                "the content has 0 B, less than min_file_size_to_cache (50.0 MiB): no peers, not shared",
                "the content has 0 B, less than 10.0 MiB: plain HTTP, not shared",
            ],
        ),
        (
            Some(50 * MB),
            Some(false),
            Simple,
            vec!["no hash file that verifies was found: plain HTTP, not shared"],
        ),
        (None, None, Lan, vec![]),
        (
            None,
            Some(false),
            Simple,
            vec!["no hash file that verifies was found: plain HTTP, not shared"],
        ),
    ] {
        let facts = ContentFacts {
            length,
            has_hash_file: hash_file,
        };
        let found = effective_mode(&policies, None, &facts, &Gates::default()).unwrap();
        let found_reasons: Vec<String> = found.reasons.iter().map(ToString::to_string).collect();
        assert_eq!(
            (
                found.mode,
                found_reasons.iter().map(String::as_str).collect()
            ),
            (mode, reasons)
        );
    }
}

#[test]
fn a_lower_minimum_file_size_lowers_the_bound_of_simple_mode_too() {
    let policies = policies(&[("min_file_size_to_cache", 1)]);
    let mode = |length| {
        effective_mode(&policies, None, &content(length), &Gates::default())
            .unwrap()
            .mode
    };
    assert_eq!(mode(MB), Lan);
    assert_eq!(mode(MB - 1), Simple);
}

#[test]
fn a_small_machine_uses_no_peers_and_says_why() {
    let small = gates_of(&Policies::default(), 2 * GIB, 16 * GIB);
    let found = effective_mode(&Policies::default(), None, &content(GIB), &small).unwrap();
    assert_eq!(found.mode, CdnOnly);
    assert!(!found.permits().peers);
    assert!(matches!(
        found.reasons[..],
        [
            ModeReason::Gate(Gate::Ram { .. }),
            ModeReason::Gate(Gate::Disk { .. })
        ]
    ));
}

#[test]
fn gates_say_nothing_where_no_peers_are_permitted_anyhow() {
    let policies = policies(&[("download_mode", 0)]);
    let small = gates_of(&policies, GIB, GIB);
    let found = effective_mode(&policies, None, &content(GIB), &small).unwrap();
    assert_eq!((found.mode, found.reasons), (CdnOnly, vec![]));
}

#[test]
fn gates_that_leave_peers_alone_leave_the_mode_alone() {
    let metered: Gates = [Gate::Metered].into_iter().collect();
    let found = effective_mode(&Policies::default(), None, &content(GIB), &metered).unwrap();
    assert_eq!((found.mode, found.reasons), (Lan, vec![]));
}
