use super::*;
use crate::{Provider, RawValue};
use proptest::prelude::*;

fn policies(set: &[(&str, &str)]) -> Policies {
    let mut policies = Policies::default();
    for (key, value) in set {
        let raw = RawValue::Untyped((*value).to_owned());
        policies.set(key, &raw, &Provider::Command).unwrap();
    }
    policies
}

/// KB/s of both priorities at an hour, with 1000 KB/s available.
fn limits(set: &[(&str, &str)], hour: u8) -> [Option<u64>; 2] {
    let policies = policies(set);
    [Priority::Foreground, Priority::Background].map(|priority| {
        let available = ByteRate::from_kbps(1000);
        let limit = download_limit(&policies, priority, hour, available);
        limit.rate.map(|rate| rate.bps() / 1024)
    })
}

#[test]
fn limits_follow_the_policies_and_the_hour() {
    const ABSOLUTE: (&str, &str) = ("max_background_download_bandwidth", "200");
    const PERCENT: (&str, &str) = ("percentage_max_background_bandwidth", "30");
    const NIGHT: (&str, &str) = (
        "set_hours_to_limit_background_download_bandwidth",
        "22,6,80,10",
    );
    const NIGHT_ONLY: (&str, &str) = (
        "set_hours_to_limit_background_download_bandwidth",
        "22,6,80,0",
    );
    for (set, hour, foreground, background) in [
        (&[][..], 12, Some(900), Some(450)),
        (&[ABSOLUTE], 12, Some(900), Some(200)),
        (&[PERCENT], 12, Some(900), Some(300)),
        (
            &[("percentage_max_foreground_bandwidth", "100")],
            12,
            None,
            Some(450),
        ),
        (
            &[("max_foreground_download_bandwidth", "7")],
            12,
            Some(7),
            Some(450),
        ),
        // The share is one of what there is under the absolute limit.
        (&[ABSOLUTE, PERCENT], 12, Some(900), Some(60)),
        (
            &[ABSOLUTE, ("percentage_max_background_bandwidth", "100")],
            12,
            Some(900),
            Some(200),
        ),
        // Hours go before the percentage; where they are dynamic, it stands.
        (&[NIGHT], 23, Some(900), Some(800)),
        (&[NIGHT], 5, Some(900), Some(800)),
        (&[NIGHT], 6, Some(900), Some(100)),
        (&[NIGHT, PERCENT], 12, Some(900), Some(100)),
        (&[NIGHT_ONLY, PERCENT], 12, Some(900), Some(300)),
        (&[NIGHT_ONLY, PERCENT], 22, Some(900), Some(800)),
        (&[NIGHT_ONLY], 12, Some(900), Some(450)),
        (&[NIGHT_ONLY, ABSOLUTE], 12, Some(900), Some(200)),
        (&[NIGHT_ONLY, ABSOLUTE], 0, Some(900), Some(160)),
        (
            &[(
                "set_hours_to_limit_foreground_download_bandwidth",
                "8,17,50,100",
            )],
            8,
            Some(500),
            Some(450),
        ),
        (
            &[(
                "set_hours_to_limit_foreground_download_bandwidth",
                "8,17,50,100",
            )],
            17,
            None,
            Some(450),
        ),
        // Deprecated ones stand for both successors.
        (&[("max_download_bandwidth", "70")], 12, Some(70), Some(70)),
        (
            &[("percentage_max_download_bandwidth", "20")],
            12,
            Some(200),
            Some(200),
        ),
    ] {
        assert_eq!(
            limits(set, hour),
            [foreground, background],
            "{set:?} at {hour}"
        );
    }
}

#[test]
fn before_anything_is_measured_only_absolute_limits_hold() {
    let limit = |set: &[(&str, &str)]| {
        download_limit(&policies(set), Priority::Background, 12, None)
            .rate
            .map(|rate| rate.bps() / 1024)
    };
    assert_eq!(limit(&[]), None);
    assert_eq!(
        limit(&[("percentage_max_background_bandwidth", "30")]),
        None
    );
    let absolute = ("max_background_download_bandwidth", "200");
    assert_eq!(limit(&[absolute]), Some(200));
    assert_eq!(
        limit(&[absolute, ("percentage_max_background_bandwidth", "30")]),
        Some(200)
    );
}

#[test]
fn limit_says_where_it_comes_from() {
    let source = |set: &[(&str, &str)]| {
        download_limit(&policies(set), Priority::Background, 12, None)
            .source
            .to_string()
    };
    assert_eq!(source(&[]), "dynamic: 45 % of what is available");
    assert_eq!(
        source(&[("percentage_max_background_bandwidth", "30")]),
        "30 % of what is available"
    );
    assert_eq!(
        source(&[("max_background_download_bandwidth", "1")]),
        "absolute"
    );
    assert_eq!(
        source(&[("percentage_max_background_bandwidth", "100")]),
        "no limit"
    );
}

proptest! {
    /// No limit is more than what is configured as absolute, nor than what is available, and none is nothing.
    #[test]
    fn limits_stay_within_what_there_is(
        hour in 0u8..24,
        available in prop::option::of(1u64..1 << 40),
        percentage in 0u64..=100,
        absolute in 0u64..1 << 32,
        hours in prop::option::of((0u8..24, 0u8..24, 0u8..=100, 0u8..=100)),
    ) {
        let mut set = vec![
            ("percentage_max_background_bandwidth", percentage.to_string()),
            ("max_background_download_bandwidth", absolute.to_string()),
        ];
        if let Some((from, to, inside, outside)) = hours {
            let text = format!("{from},{to},{inside},{outside}");
            set.push(("set_hours_to_limit_background_download_bandwidth", text));
        }
        let set: Vec<_> = set.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let policies = policies(&set);
        let available = available.and_then(ByteRate::from_bps);
        let limit = download_limit(&policies, Priority::Background, hour, available).rate;
        if let Some(limit) = limit {
            prop_assert!(limit.bps() > 0);
            prop_assert!(absolute == 0 || limit.bps() <= absolute * 1024);
        } else {
            prop_assert_eq!(absolute, 0);
        }
    }
}

#[test]
fn foreground_takes_all_that_peers_give_unless_somebody_asked_for_a_share() {
    let limit = |source| DownloadLimit {
        rate: ByteRate::from_bps(90),
        source,
    };
    let share = Percent::of(90);
    let (dynamic, asked) = (LimitSource::Dynamic(share), LimitSource::Share(share));
    for (priority, source, of_peers, limited) in [
        (Priority::Foreground, dynamic, true, false),
        (Priority::Foreground, dynamic, false, true),
        (Priority::Background, dynamic, true, true),
        (Priority::Foreground, asked, true, true),
        (Priority::Foreground, LimitSource::Absolute, true, true),
    ] {
        let limit = limit(source).in_swarm(priority, of_peers);
        assert_eq!(limit.rate.is_some(), limited, "{priority:?} {source}");
        assert_eq!(limit.source, source);
    }
}
