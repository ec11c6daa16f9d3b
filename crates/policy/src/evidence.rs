//! How the effect of each policy is seen: on a running daemon, and by which test.

use crate::Policy;

/// How a policy's effect is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// What shows it on a running daemon, in Markdown.
    pub shown: &'static str,
    /// The source file of the test that shows it, from the root of the project.
    pub test_file: &'static str,
    /// That test.
    pub test: &'static str,
}

const fn seen(shown: &'static str, test_file: &'static str, test: &'static str) -> Evidence {
    Evidence {
        shown,
        test_file,
        test,
    }
}

const GATES: &str = "tests/lab/gates.rs";
const LIMITS: &str = "tests/lab/policy.rs";
const CACHE: &str = "tests/lab/cache.rs";
const CACHE_HOST: &str = "tests/lab/cache_host.rs";
const CLOSING: &str = "whatever_closes_peers_does_so_in_a_running_download_and_gives_them_back";
const LIMIT_SHOWN: &str = "`dosvc status`: limits, with their source";
const DELAY_SHOWN: &str = "`dosvc explain ID`: delay, what is left of it; the origin waits";

impl Policy {
    /// How the policy's effect is seen.
    pub fn evidence(self) -> Evidence {
        match self {
            Self::DownloadMode => seen(
                "`dosvc status`: mode, peer port; `dosvc explain ID`: mode in effect, and why",
                "tests/lab/scope.rs",
                "modes_without_peers_open_no_port_and_send_no_multicast",
            ),
            Self::GroupId => seen(
                "log: `this machine is of a group`; peers of type Group in `dosvc status --peer-info`",
                "crates/engine/tests/engine.rs",
                "group_members_share_and_strangers_get_nothing",
            ),
            Self::GroupIdSource => seen(
                "log: source; at level `debug` `Using groupID`, `Hashed groupID`",
                GATES,
                "group_id_comes_from_dhcp_and_is_logged_as_in_the_original",
            ),
            Self::RestrictPeerSelectionBy => seen(
                "`dosvc explain ID`: the restriction, and each peer that it refuses",
                "tests/lab/selection.rs",
                "subnet_restriction_shuts_out_who_is_behind_a_router_and_nobody_else",
            ),
            Self::MinRamAllowedToPeer | Self::MinDiskSizeAllowedToPeer => {
                seen("`dosvc status`: closed now, 0x80D03806", GATES, CLOSING)
            }
            Self::MinFileSizeToCache => seen(
                "`dosvc explain ID`: mode in effect, and why",
                GATES,
                CLOSING,
            ),
            Self::MinBatteryPercentageAllowedToUpload => seen(
                "`dosvc status`: closed now, 0x80D03804",
                GATES,
                "battery_that_gets_low_ends_a_running_upload_and_mains_power_resumes_it",
            ),
            Self::AllowVpnPeerCaching | Self::VpnKeywords => seen(
                "`dosvc status`: closed now, 0x80D03807, with the adapter",
                GATES,
                "vpn_closes_peers_in_a_running_daemon_until_it_is_gone",
            ),
            Self::MaxCacheAge => seen(
                "`dosvc cache list`: expiry",
                CACHE,
                "share_of_the_available_space_and_age_bound_the_cache",
            ),
            Self::MaxCacheSize => seen(
                "`dosvc status`: cache, of at most",
                CACHE,
                "share_of_the_available_space_and_age_bound_the_cache",
            ),
            Self::AbsoluteMaxCacheSize => seen(
                "`dosvc status`: cache, of at most",
                CACHE,
                "size_in_gigabytes_stands_for_the_share",
            ),
            Self::ModifyCacheDrive => seen(
                "`dosvc status`: cache in",
                CACHE,
                "cache_that_moves_takes_effect_at_the_next_start_and_leaves_what_it_had",
            ),
            Self::MonthlyUploadDataCap => seen(
                "`dosvc status`: this month; closed now, 0x80D03001",
                LIMITS,
                "monthly_cap_ends_uploads_to_internet_peers_and_survives_a_crash",
            ),
            Self::MinBackgroundQos => seen(
                "`dosvc explain ID`: the origin idle, since peers are fast enough",
                LIMITS,
                "http_joins_slow_peers_and_leaves_when_they_give_enough",
            ),
            Self::PercentageMaxForegroundBandwidth | Self::PercentageMaxBackgroundBandwidth => {
                seen(
                    LIMIT_SHOWN,
                    LIMITS,
                    "shares_are_of_what_the_way_to_the_source_gives",
                )
            }
            Self::MaxForegroundDownloadBandwidth | Self::MaxBackgroundDownloadBandwidth => seen(
                LIMIT_SHOWN,
                LIMITS,
                "absolute_limits_are_exact_and_without_bursts",
            ),
            Self::SetHoursToLimitForegroundDownloadBandwidth
            | Self::SetHoursToLimitBackgroundDownloadBandwidth => {
                seen(LIMIT_SHOWN, LIMITS, "hours_decide_by_the_local_time")
            }
            Self::DelayForegroundDownloadFromHttp => seen(
                DELAY_SHOWN,
                "crates/scheduler/tests/delays.rs",
                "every_combination_of_the_delays_holds_back_what_it_must_and_no_longer",
            ),
            Self::DelayBackgroundDownloadFromHttp => seen(
                DELAY_SHOWN,
                "tests/lab/sharing.rs",
                "later_machines_take_all_from_peers_when_http_is_delayed",
            ),
            Self::CacheHost => seen(
                "`dosvc get` and `dosvc explain ID`: bytes from the cache server",
                CACHE_HOST,
                "cache_host_gives_everything_and_is_told_whose_content_it_is",
            ),
            Self::CacheHostSource => seen(
                "`dosvc explain ID`: the cache server among the sources",
                GATES,
                "cache_host_comes_from_dhcp",
            ),
            Self::DelayCacheServerFallbackForeground => seen(
                DELAY_SHOWN,
                "crates/scheduler/tests/delays.rs",
                "every_combination_of_the_delays_holds_back_what_it_must_and_no_longer",
            ),
            Self::DelayCacheServerFallbackBackground => seen(
                DELAY_SHOWN,
                CACHE_HOST,
                "fallback_delay_keeps_the_origin_waiting_for_the_cache_host",
            ),
            Self::DisallowCacheServerDownloadsOnVpn => seen(
                "`dosvc status`: closed now, 0x80D03807, cache hosts",
                GATES,
                "vpn_takes_the_cache_host_from_a_running_download_where_a_policy_says_so",
            ),
            Self::MaxDownloadBandwidth | Self::PercentageMaxDownloadBandwidth => seen(
                "`dosvc config --verbose`: its successors, and a warning; then as these",
                "crates/policy/src/policies/tests.rs",
                "deprecated_policies_stand_for_their_successors_until_these_are_set",
            ),
            Self::MaxUploadBandwidth => seen(
                "`dosvc status`: limits, uploads to Internet peers",
                LIMITS,
                "uploads_to_internet_peers_keep_their_limit",
            ),
        }
    }
}
