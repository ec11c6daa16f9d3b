use super::*;
use proptest::prelude::*;

fn text(text: &str) -> RawValue {
    RawValue::Text(text.to_owned())
}

fn with(key: &str, raw: RawValue) -> Policies {
    let mut policies = Policies::default();
    policies.set(key, &raw, &Provider::Command).unwrap();
    policies
}

fn refusal(key: &str, raw: RawValue) -> String {
    Policies::default()
        .set(key, &raw, &Provider::Command)
        .unwrap_err()
        .to_string()
}

#[test]
fn table_is_in_the_order_of_the_policies() {
    for (at, spec) in POLICIES.iter().enumerate() {
        assert_eq!(spec.policy as usize, at, "{}", spec.name);
        assert_eq!(spec.policy.spec(), spec);
    }
    let current = POLICIES.iter().filter(|s| s.deprecated.is_none()).count();
    assert_eq!((current, POLICIES.len()), (29, 32));
}

#[test]
fn keys_are_the_names_in_snake_case() {
    for spec in POLICIES {
        let joined = spec.key.replace('_', "");
        assert_eq!(spec.name[2..].to_lowercase(), joined);
        assert!(spec.name.starts_with("DO"));
        assert!(!spec.doc.is_empty() && !spec.source.is_empty());
    }
}

#[test]
fn every_default_is_allowed() {
    for spec in POLICIES {
        let Some(default) = spec.default else {
            continue;
        };
        let raw = RawValue::Integer(i64::try_from(default).unwrap());
        assert_eq!(
            read(spec.allowed, &raw),
            Some(Value::Number(default)),
            "{}",
            spec.name
        );
    }
}

#[test]
fn original_spelling_is_read_in_any_case() {
    for spec in POLICIES {
        let bare = &spec.name[2..];
        for name in [
            spec.key,
            spec.name,
            bare,
            &spec.name.to_lowercase(),
            &spec.name.to_uppercase(),
        ] {
            assert_eq!(Policy::find(name), Some(spec.policy), "{name}");
        }
    }
    for other in ["", "DO", "do_download_mode", "é", "download-mode"] {
        assert_eq!(Policy::find(other), None, "{other}");
    }
}

#[test]
fn defaults_are_those_of_the_reference() {
    const GIB: u64 = 1 << 30;
    let p = Policies::default();
    assert_eq!(p.download_mode(), DownloadMode::Lan);
    assert_eq!(p.group_id(), None);
    assert_eq!(p.group_id_source(), GroupIdSource::Automatic);
    assert_eq!(p.restrict_peer_selection_by(), PeerRestriction::None);
    assert_eq!(p.min_ram_allowed_to_peer(), 4 * GIB);
    assert_eq!(p.min_disk_size_allowed_to_peer(), 32 * GIB);
    assert_eq!(p.min_file_size_to_cache(), 50 << 20);
    assert_eq!(p.min_battery_percentage_allowed_to_upload(), None);
    assert!(!p.allow_vpn_peer_caching());
    assert!(p.vpn_keywords().is_empty());
    assert_eq!(p.max_cache_age(), Some(Duration::from_secs(3 * 24 * 3600)));
    assert_eq!(p.cache_limit(), CacheLimit::Share(Percent::of(20)));
    assert_eq!(p.modify_cache_drive(), None);
    assert_eq!(p.monthly_upload_data_cap(), Some(20 * GIB));
    assert_eq!(p.min_background_qos().bps(), 20 << 20);
    assert_eq!(p.percentage_max_foreground_bandwidth(), None);
    assert_eq!(p.percentage_max_background_bandwidth(), None);
    assert_eq!(p.max_foreground_download_bandwidth(), None);
    assert_eq!(p.max_background_download_bandwidth(), None);
    assert_eq!(p.set_hours_to_limit_foreground_download_bandwidth(), None);
    assert_eq!(p.set_hours_to_limit_background_download_bandwidth(), None);
    assert_eq!(p.delay_foreground_download_from_http(), Duration::ZERO);
    assert_eq!(p.delay_background_download_from_http(), Duration::ZERO);
    assert_eq!(p.cache_host(), None);
    assert_eq!(p.cache_host_source(), None);
    assert_eq!(p.delay_cache_server_fallback_foreground(), Duration::ZERO);
    assert_eq!(p.delay_cache_server_fallback_background(), Duration::ZERO);
    assert!(!p.disallow_cache_server_downloads_on_vpn());
    assert_eq!(p.max_upload_bandwidth(), None);
    assert_eq!(p.provider(Policy::DownloadMode), &Provider::Default);
    assert!(p.warnings().is_empty());
}

/// Each policy's getter gives back what was set, in its typed unit.
#[test]
fn values_come_out_in_typed_units() {
    let number = RawValue::Integer;
    let mut p = Policies::default();
    for (key, raw) in [
        ("DODownloadMode", text("group")),
        ("DOGroupId", text("b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d")),
        ("group_id_source", text("DnsSuffix")),
        ("restrict_peer_selection_by", number(2)),
        ("min_ram_allowed_to_peer", number(1)),
        ("min_disk_size_allowed_to_peer", number(100_000)),
        ("min_file_size_to_cache", number(1)),
        ("min_battery_percentage_allowed_to_upload", number(40)),
        ("allow_vpn_peer_caching", RawValue::Boolean(true)),
        ("vpn_keywords", text("Tunnel, Corp Net")),
        ("max_cache_age", number(0)),
        ("max_cache_size", number(100)),
        ("absolute_max_cache_size", number(i64::from(u32::MAX))),
        ("modify_cache_drive", text("/srv/cache")),
        ("monthly_upload_data_cap", number(0)),
        ("min_background_qos", number(1)),
        ("percentage_max_foreground_bandwidth", number(50)),
        ("percentage_max_background_bandwidth", number(100)),
        ("max_foreground_download_bandwidth", number(10)),
        ("max_background_download_bandwidth", number(20)),
        (
            "set_hours_to_limit_foreground_download_bandwidth",
            text("8,17,10,0"),
        ),
        (
            "set_hours_to_limit_background_download_bandwidth",
            text("22,6,20,30"),
        ),
        ("delay_foreground_download_from_http", number(30)),
        ("delay_background_download_from_http", number(60)),
        (
            "cache_host",
            RawValue::List(vec![text("a.example"), text("10.10.1.7")]),
        ),
        ("cache_host_source", number(2)),
        ("delay_cache_server_fallback_foreground", number(2_592_000)),
        ("delay_cache_server_fallback_background", number(1)),
        ("disallow_cache_server_downloads_on_vpn", number(1)),
        ("max_upload_bandwidth", number(5)),
    ] {
        p.set(key, &raw, &Provider::Command).unwrap();
    }
    assert_eq!(p.download_mode(), DownloadMode::Group);
    assert!(p.group_id().is_some_and(|g| GroupId::is_guid(g.as_str())));
    assert_eq!(p.group_id_source(), GroupIdSource::DnsSuffix);
    assert_eq!(
        p.restrict_peer_selection_by(),
        PeerRestriction::LocalDiscovery
    );
    assert_eq!(p.min_ram_allowed_to_peer(), 1 << 30);
    assert_eq!(p.min_disk_size_allowed_to_peer(), 100_000 << 30);
    assert_eq!(p.min_file_size_to_cache(), 1 << 20);
    assert_eq!(
        p.min_battery_percentage_allowed_to_upload(),
        Some(Percent::of(40))
    );
    assert!(p.allow_vpn_peer_caching());
    assert_eq!(p.vpn_keywords(), ["Tunnel", "Corp Net"]);
    assert_eq!(p.max_cache_age(), None);
    assert_eq!(p.max_cache_size(), Percent::of(100));
    assert_eq!(
        p.cache_limit(),
        CacheLimit::Bytes(u64::from(u32::MAX) << 30)
    );
    assert_eq!(p.modify_cache_drive(), Some(Path::new("/srv/cache")));
    assert_eq!(p.monthly_upload_data_cap(), None);
    assert_eq!(p.min_background_qos().bps(), 1024);
    assert_eq!(
        p.percentage_max_foreground_bandwidth(),
        Some(Percent::of(50))
    );
    assert_eq!(
        p.percentage_max_background_bandwidth(),
        Some(Percent::of(100))
    );
    assert_eq!(
        p.max_foreground_download_bandwidth(),
        ByteRate::from_kbps(10)
    );
    assert_eq!(
        p.max_background_download_bandwidth(),
        ByteRate::from_kbps(20)
    );
    let hours = p
        .set_hours_to_limit_foreground_download_bandwidth()
        .unwrap();
    assert_eq!(
        (hours.share_at(9), hours.share_at(18)),
        (Some(Percent::of(10)), None)
    );
    let hours = p
        .set_hours_to_limit_background_download_bandwidth()
        .unwrap();
    assert_eq!(hours.share_at(0), Some(Percent::of(20)));
    assert_eq!(
        p.delay_foreground_download_from_http(),
        Duration::from_secs(30)
    );
    assert_eq!(
        p.delay_background_download_from_http(),
        Duration::from_secs(60)
    );
    assert_eq!(p.cache_host().unwrap(), ["a.example", "10.10.1.7"]);
    assert_eq!(p.cache_host_source(), Some(CacheHostSource::DhcpForce));
    assert_eq!(
        p.delay_cache_server_fallback_foreground().as_secs(),
        2_592_000
    );
    assert_eq!(p.delay_cache_server_fallback_background().as_secs(), 1);
    assert!(p.disallow_cache_server_downloads_on_vpn());
    assert_eq!(p.max_upload_bandwidth(), ByteRate::from_kbps(5));
}

#[test]
fn refusals_name_key_value_and_range() {
    assert_eq!(
        refusal("DOMaxCacheSize", RawValue::Integer(250)),
        "max_cache_size = 250 is not allowed; allowed: 1 to 100 %"
    );
    assert_eq!(
        refusal("download_mode", text("wide")),
        "download_mode = \"wide\" is not allowed; allowed: 0 (CdnOnly), 1 (Lan), 2 (Group), 3 (Internet), 99 (Simple), 100 (Bypass)"
    );
    assert_eq!(
        refusal("downlod_mode", RawValue::Integer(1)),
        "unknown policy downlod_mode; did you mean download_mode?"
    );
    assert_eq!(
        refusal("DOMaxCachAge", RawValue::Integer(1)),
        "unknown policy DOMaxCachAge; did you mean DOMaxCacheAge?"
    );
    assert_eq!(
        refusal("colour", RawValue::Integer(1)),
        "unknown policy colour"
    );
}

/// Both ends of every numeric range, and one past them.
#[test]
fn ranges_end_where_the_table_says() {
    for spec in POLICIES {
        let Allowed::Number(min, max) = spec.allowed else {
            continue;
        };
        let number = |n: u64| RawValue::Integer(i64::try_from(n).unwrap());
        assert!(read(spec.allowed, &number(min)).is_some());
        assert!(read(spec.allowed, &number(max)).is_some());
        assert!(read(spec.allowed, &number(max + 1)).is_none());
        let below = i64::try_from(min).unwrap() - 1;
        assert!(read(spec.allowed, &RawValue::Integer(below)).is_none());
    }
}

#[test]
fn secrets_are_not_shown() {
    let guid = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
    let p = with("group_id", text(guid));
    let shown = format!("{p:?} {:?}", p.rows().collect::<Vec<_>>());
    assert!(!shown.contains(guid));
    assert_eq!(p.value_text(Policy::GroupId).unwrap(), "(set)");
    assert_eq!(
        refusal("group_id", text(&guid[1..])),
        "group_id = (hidden) is not allowed; allowed: a GUID (8-4-4-4-12 hex digits)"
    );
}

#[test]
fn higher_provider_wins_whatever_comes_first() {
    let file = Provider::File("/etc/dosvc/dosvc.toml".into());
    let order = [
        &file,
        &Provider::Environment,
        &Provider::Managed,
        &Provider::Command,
    ];
    for (i, low) in order.iter().enumerate() {
        for (j, high) in order.iter().enumerate().skip(i) {
            let (low_value, high_value) = (RawValue::Integer(2), RawValue::Integer(3));
            let mut forward = Policies::default();
            forward.set("download_mode", &low_value, low).unwrap();
            forward.set("download_mode", &high_value, high).unwrap();
            assert_eq!(forward.download_mode(), DownloadMode::Internet);
            if i != j {
                let mut backward = Policies::default();
                backward.set("download_mode", &high_value, high).unwrap();
                backward.set("download_mode", &low_value, low).unwrap();
                assert_eq!(backward, forward);
                assert_eq!(backward.provider(Policy::DownloadMode), *high);
            }
        }
    }
}

#[test]
fn deprecated_policies_stand_for_their_successors_until_these_are_set() {
    let mut p = with("max_download_bandwidth", RawValue::Integer(100));
    assert_eq!(
        p.max_foreground_download_bandwidth(),
        ByteRate::from_kbps(100)
    );
    assert_eq!(
        p.max_background_download_bandwidth(),
        ByteRate::from_kbps(100)
    );
    assert_eq!(
        p.provider(Policy::MaxForegroundDownloadBandwidth),
        &Provider::Command
    );
    p.set(
        "max_background_download_bandwidth",
        &RawValue::Integer(7),
        &Provider::Environment,
    )
    .unwrap();
    assert_eq!(
        p.max_background_download_bandwidth(),
        ByteRate::from_kbps(7)
    );
    assert_eq!(
        p.warnings(),
        [
            "max_download_bandwidth is deprecated; set max_foreground_download_bandwidth and max_background_download_bandwidth instead"
        ]
    );
    let p = with("DOPercentageMaxDownloadBandwidth", RawValue::Integer(30));
    assert_eq!(
        p.percentage_max_foreground_bandwidth(),
        Some(Percent::of(30))
    );
    let p = with("DOMaxUploadBandwidth", RawValue::Integer(30));
    assert_eq!(
        p.warnings(),
        ["max_upload_bandwidth is deprecated; it still works"]
    );
}

#[test]
fn empty_cache_host_counts_as_configured() {
    assert_eq!(
        with("cache_host", text("")).cache_host(),
        Some(&[] as &[String])
    );
}

#[test]
fn hosts_are_names_or_addresses() {
    for good in [
        "cache",
        "my-host.example.com",
        "my_host",
        "10.10.1.7",
        "10.10.1.7:8080",
        "fd00::1",
        "[fd00::1]",
        "[fd00::1]:80",
        "http://cache.example",
        "https://cache.example:8443",
    ] {
        assert!(is_host(good), "{good}");
    }
    let long = "a".repeat(64);
    for bad in [
        "",
        "a b",
        "a..b",
        ".",
        "http://",
        "a:b",
        "a:70000",
        "ftp://a",
        "a/b",
        "[fd00::1",
        "é.example",
        &long,
    ] {
        assert!(!is_host(bad), "{bad}");
    }
}

#[test]
fn cache_folder_is_absolute_or_the_default() {
    assert_eq!(
        with("modify_cache_drive", text("%SystemDrive%")).modify_cache_drive(),
        None
    );
    for bad in ["", "cache", "D:", "/a\0b"] {
        refusal("modify_cache_drive", text(bad));
    }
}

#[test]
fn zero_absolute_cache_size_leaves_only_the_disk_as_limit() {
    let p = with("absolute_max_cache_size", RawValue::Integer(0));
    assert_eq!(p.cache_limit(), CacheLimit::Disk);
}

#[test]
fn changed_names_what_differs_in_effect() {
    let mut p = Policies::default();
    p.set("download_mode", &RawValue::Integer(1), &Provider::Command)
        .unwrap();
    // Set to what the default is: nothing differs.
    assert_eq!(p.changed(&Policies::default()), []);
    p.set("download_mode", &RawValue::Integer(2), &Provider::Command)
        .unwrap();
    p.set(
        "max_download_bandwidth",
        &RawValue::Integer(2),
        &Provider::Command,
    )
    .unwrap();
    assert_eq!(
        p.changed(&Policies::default()),
        [
            Policy::DownloadMode,
            Policy::MaxForegroundDownloadBandwidth,
            Policy::MaxBackgroundDownloadBandwidth,
            Policy::MaxDownloadBandwidth
        ]
    );
    p.reset(Policy::DownloadMode);
    assert_eq!(p.download_mode(), DownloadMode::Lan);
}

#[test]
fn values_as_text_are_read_back() {
    let p = with("vpn_keywords", text("a, b"));
    assert_eq!(p.value_text(Policy::VpnKeywords).unwrap(), "a,b");
    assert_eq!(p.value_text(Policy::DownloadMode).unwrap(), "1 (Lan)");
    assert_eq!(p.value_text(Policy::CacheHost), None);
    let p = with(
        "set_hours_to_limit_background_download_bandwidth",
        text(" 8, 17,20 ,0"),
    );
    let shown = p
        .value_text(Policy::SetHoursToLimitBackgroundDownloadBandwidth)
        .unwrap();
    assert_eq!(
        with(
            "set_hours_to_limit_background_download_bandwidth",
            text(&shown)
        ),
        p
    );
}

pub(crate) fn any_raw() -> impl Strategy<Value = RawValue> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(RawValue::Integer),
        (0i64..120).prop_map(RawValue::Integer),
        any::<bool>().prop_map(RawValue::Boolean),
        any::<String>().prop_map(RawValue::Text),
        any::<String>().prop_map(RawValue::Untyped),
        "[0-9,]{0,12}".prop_map(RawValue::Untyped),
        any::<String>().prop_map(RawValue::Other),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(RawValue::List),
            prop::collection::vec(("[a-z]{0,4}", inner), 0..5).prop_map(RawValue::Table),
        ]
    })
}

proptest! {
    /// Whatever is set, every getter works afterwards, and what was refused changed nothing.
    #[test]
    fn any_value_is_taken_or_refused(at in 0..POLICIES.len(), raw in any_raw()) {
        let mut policies = Policies::default();
        let taken = policies.set(POLICIES[at].key, &raw, &Provider::Environment);
        if taken.is_err() {
            prop_assert_eq!(&policies, &Policies::default());
        }
        prop_assert_eq!(policies.rows().count(), POLICIES.len());
        let _ = policies.cache_limit();
        let _ = (policies.download_mode(), policies.min_background_qos(), policies.max_cache_size());
        let _ = crate::effective_mode(
            &policies,
            None,
            &crate::ContentFacts::default(),
            &crate::gates(&policies, &crate::Device::default(), crate::GroupStanding::Member),
        );
    }
}
