//! Each of the 32 policies, as the reference has it: written down here once more, from the published pages and not from
//! the program's own table, so that the two check each other.

use dosvc_policy::{POLICIES, Policies, Policy, Provider, RawValue};

/// One policy as published.
struct Published {
    name: &'static str,
    unit: &'static str,
    /// As `dosvc config --verbose` shows it.
    default: Option<&'static str>,
    /// Values that are allowed, with how they are shown: the ends of the range first.
    allowed: &'static [(&'static str, &'static str)],
    /// Values that are not: beside the ends, and nonsense.
    refused: &'static [&'static str],
    /// What the refusal says is allowed.
    range: &'static str,
}

const fn number(
    name: &'static str,
    unit: &'static str,
    default: Option<&'static str>,
    allowed: &'static [(&'static str, &'static str)],
    refused: &'static [&'static str],
    range: &'static str,
) -> Published {
    Published {
        name,
        unit,
        default,
        allowed,
        refused,
        range,
    }
}

const U32: &[(&str, &str)] = &[("0", "0"), ("4294967295", "4294967295")];
const NO_U32: &[&str] = &["-1", "4294967296", "1.5", "", "many"];
const GB_U32: &str = "0 to 4294967295 GB";
const KBPS_U32: &str = "0 to 4294967295 KB/s";
const SECONDS_U32: &str = "0 to 4294967295 s";
const FLAG: &[(&str, &str)] = &[("0", "0"), ("1", "1"), ("true", "1"), ("False", "0")];
const NO_FLAG: &[&str] = &["2", "-1", "yes", ""];
const FLAGS: &str = "0 (false), 1 (true)";
const PERCENT: &[(&str, &str)] = &[("0", "0"), ("100", "100")];
const NO_PERCENT: &[&str] = &["-1", "101", "50%", ""];
const PERCENTS: &str = "0 to 100 %";
const PEERS: &[(&str, &str)] = &[("1", "1"), ("100000", "100000")];
const NO_PEERS: &[&str] = &["0", "100001", "-1", "four"];
const DELAY: &[(&str, &str)] = &[("0", "0"), ("2592000", "2592000")];
const NO_DELAY: &[&str] = &["-1", "2592001", "1 min"];
const HOURS: &[(&str, &str)] = &[
    ("0,0,0,0", "0,0,0,0"),
    ("23,23,100,100", "23,23,100,100"),
    (" 22, 6,80,10", "22,6,80,10"),
];
const NO_HOURS: &[&str] = &[
    "24,6,1,1",
    "1,24,1,1",
    "1,2,101,1",
    "1,2,1,101",
    "1,2,3",
    "08:00-17:00",
];
const HOURS_RANGE: &str =
    "{ from = 0 to 23, to = 0 to 23, in = 0 to 100, out = 0 to 100 }, or \"from,to,in,out\"";

#[rustfmt::skip]
const PUBLISHED: &[Published] = &[
    number("DODownloadMode", "", Some("1 (Lan)"),
        &[("0", "0 (CdnOnly)"), ("100", "100 (Bypass)"), ("1", "1 (Lan)"), ("2", "2 (Group)"), ("3", "3 (Internet)"),
          ("99", "99 (Simple)"), ("httponly", "0 (CdnOnly)"), ("LAN", "1 (Lan)")],
        &["4", "98", "101", "-1", "peer"],
        "0 (CdnOnly), 1 (Lan), 2 (Group), 3 (Internet), 99 (Simple), 100 (Bypass)"),
    number("DOGroupId", "", None,
        &[("b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d", "(set)")],
        &["", "office", "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5"],
        "a GUID (8-4-4-4-12 hex digits)"),
    number("DOGroupIdSource", "", Some("0 (NotSet)"),
        &[("0", "0 (NotSet)"), ("5", "5 (TenantId)"), ("1", "1 (AdSite)"), ("2", "2 (DomainSid)"),
          ("3", "3 (DhcpOption234)"), ("4", "4 (DnsSuffix)")],
        &["6", "-1", "site"],
        "0 (NotSet), 1 (AdSite), 2 (DomainSid), 3 (DhcpOption234), 4 (DnsSuffix), 5 (TenantId)"),
    number("DORestrictPeerSelectionBy", "", Some("0 (None)"),
        &[("0", "0 (None)"), ("2", "2 (LocalDiscovery)"), ("1", "1 (Subnet)")], &["3", "-1", "nat"],
        "0 (None), 1 (Subnet), 2 (LocalDiscovery)"),
    number("DOMinRAMAllowedToPeer", "GB", Some("4"), PEERS, NO_PEERS, "1 to 100000 GB"),
    number("DOMinDiskSizeAllowedToPeer", "GB", Some("32"), PEERS, NO_PEERS, "1 to 100000 GB"),
    number("DOMaxCacheAge", "s", Some("259200"), U32, NO_U32, SECONDS_U32),
    number("DOMaxCacheSize", "%", Some("20"), &[("1", "1"), ("100", "100")], &["0", "101", "-1"], "1 to 100 %"),
    number("DOAbsoluteMaxCacheSize", "GB", None, U32, NO_U32, GB_U32),
    number("DOModifyCacheDrive", "", None,
        &[("%SYSTEMDRIVE%", "%SYSTEMDRIVE%"), ("/srv/cache", "/srv/cache")], &["", "D:", "cache"],
        "an absolute folder, or %SYSTEMDRIVE% for the default"),
    number("DOMinFileSizeToCache", "MB", Some("50"), PEERS, NO_PEERS, "1 to 100000 MB"),
    number("DOMonthlyUploadDataCap", "GB", Some("20"), U32, NO_U32, GB_U32),
    number("DOMinBackgroundQos", "KB/s", Some("20480"),
        &[("1", "1"), ("4294967295", "4294967295")], &["0", "4294967296", "-1"], "1 to 4294967295 KB/s"),
    number("DOAllowVPNPeerCaching", "", Some("0"), FLAG, NO_FLAG, FLAGS),
    number("DOVpnKeywords", "", None, &[("", ""), ("Tunnel, Corp Net", "Tunnel,Corp Net")], &["a,,b", "a\u{7}"],
        "words, separated by commas or as a list"),
    number("DODisallowCacheServerDownloadsOnVPN", "", Some("0"), FLAG, NO_FLAG, FLAGS),
    number("DOMinBatteryPercentageAllowedToUpload", "%", Some("0"), PERCENT, NO_PERCENT, PERCENTS),
    number("DOPercentageMaxForegroundBandwidth", "%", Some("0"), PERCENT, NO_PERCENT, PERCENTS),
    number("DOPercentageMaxBackgroundBandwidth", "%", Some("0"), PERCENT, NO_PERCENT, PERCENTS),
    number("DOMaxForegroundDownloadBandwidth", "KB/s", Some("0"), U32, NO_U32, KBPS_U32),
    number("DOMaxBackgroundDownloadBandwidth", "KB/s", Some("0"), U32, NO_U32, KBPS_U32),
    number("DOSetHoursToLimitForegroundDownloadBandwidth", "", None, HOURS, NO_HOURS, HOURS_RANGE),
    number("DOSetHoursToLimitBackgroundDownloadBandwidth", "", None, HOURS, NO_HOURS, HOURS_RANGE),
    number("DODelayForegroundDownloadFromHttp", "s", None, U32, NO_U32, SECONDS_U32),
    number("DODelayBackgroundDownloadFromHttp", "s", None, U32, NO_U32, SECONDS_U32),
    number("DODelayCacheServerFallbackForeground", "s", None, DELAY, NO_DELAY, "0 to 2592000 s"),
    number("DODelayCacheServerFallbackBackground", "s", None, DELAY, NO_DELAY, "0 to 2592000 s"),
    number("DOCacheHost", "", None,
        &[("", ""), ("myhost.example.com,10.10.1.7", "myhost.example.com,10.10.1.7"), ("http://a:80", "http://a:80")],
        &["a b", "ftp://a", "a,,b", "a:99999"],
        "host names or IP addresses, with an optional http:// or https:// and an optional port, separated by commas or as a list"),
    number("DOCacheHostSource", "", None,
        &[("0", "0 (NotSet)"), ("2", "2 (DhcpOption235Force)"), ("1", "1 (DhcpOption235)")], &["3", "-1"],
        "0 (NotSet), 1 (DhcpOption235), 2 (DhcpOption235Force)"),
    number("DOMaxDownloadBandwidth", "KB/s", None, U32, NO_U32, KBPS_U32),
    number("DOPercentageMaxDownloadBandwidth", "%", None, PERCENT, NO_PERCENT, PERCENTS),
    number("DOMaxUploadBandwidth", "KB/s", Some("0"), U32, NO_U32, KBPS_U32),
];

const DEPRECATED: [&str; 3] = [
    "DOMaxDownloadBandwidth",
    "DOPercentageMaxDownloadBandwidth",
    "DOMaxUploadBandwidth",
];

fn untyped(text: &str) -> RawValue {
    RawValue::Untyped(text.to_owned())
}

fn find(published: &Published) -> Policy {
    Policy::find(published.name).unwrap_or_else(|| panic!("{} is missing", published.name))
}

#[test]
fn every_published_policy_is_there_and_no_other() {
    let mut published: Vec<_> = PUBLISHED.iter().map(|p| p.name).collect();
    let mut ours: Vec<_> = POLICIES.iter().map(|spec| spec.name).collect();
    published.sort_unstable();
    ours.sort_unstable();
    assert_eq!(published, ours);
    assert_eq!(PUBLISHED.len(), 29 + 3);
}

#[test]
fn defaults_and_units_are_the_published_ones() {
    let policies = Policies::default();
    for published in PUBLISHED {
        let spec = find(published).spec();
        let value = policies.value_text(spec.policy);
        assert_eq!(value.as_deref(), published.default, "{}", published.name);
        assert_eq!(spec.unit.to_string(), published.unit, "{}", published.name);
        assert!(!policies.is_set(spec.policy), "{}", published.name);
    }
}

#[test]
fn values_of_the_range_are_taken_in_every_spelling() {
    for published in PUBLISHED {
        let spec = find(published).spec();
        for spelling in [
            spec.key,
            spec.name,
            &spec.name[2..],
            &spec.name.to_lowercase(),
        ] {
            for (value, shown) in published.allowed {
                let mut policies = Policies::default();
                policies
                    .set(spelling, &untyped(value), &Provider::Environment)
                    .unwrap_or_else(|error| panic!("{spelling} = {value}: {error}"));
                let text = policies.value_text(spec.policy);
                assert_eq!(text.as_deref(), Some(*shown), "{spelling} = {value}");
                assert_eq!(*policies.provider(spec.policy), Provider::Environment);
            }
        }
    }
}

#[test]
fn other_values_are_refused_with_the_range_and_change_nothing() {
    for published in PUBLISHED {
        let spec = find(published).spec();
        for value in published.refused {
            let mut policies = Policies::default();
            let refused = policies.set(spec.name, &untyped(value), &Provider::Command);
            let error = refused
                .map(|()| panic!("{} = {value:?} was taken", spec.name))
                .unwrap_err()
                .to_string();
            let tail = format!(" is not allowed; allowed: {}", published.range);
            assert!(
                error.starts_with(spec.key) && error.ends_with(&tail),
                "{error}"
            );
            assert_eq!(policies, Policies::default(), "{} = {value:?}", spec.name);
        }
    }
}

#[test]
fn deprecated_policies_warn_and_current_ones_do_not() {
    for published in PUBLISHED {
        let mut policies = Policies::default();
        let (value, _) = published.allowed[1.min(published.allowed.len() - 1)];
        policies
            .set(published.name, &untyped(value), &Provider::Command)
            .expect("allowed");
        let warned = policies.warnings().len();
        let deprecated = usize::from(DEPRECATED.contains(&published.name));
        assert_eq!(
            warned,
            deprecated,
            "{}: {:?}",
            published.name,
            policies.warnings()
        );
    }
}
