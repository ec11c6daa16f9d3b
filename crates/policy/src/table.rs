//! The one table of policies: what each is called, what it may hold, what holds when nobody sets it.
//!
//! The parser ([`Policies::set`](crate::Policies::set)), `docs/policies.md`, the commented `config/dosvc.toml` and
//! `dosvc config --verbose` all come from here, so that they cannot differ.

use std::fmt;

/// A policy, in the order of [`POLICIES`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "each is explained by its row in the table")]
pub enum Policy {
    DownloadMode,
    GroupId,
    GroupIdSource,
    RestrictPeerSelectionBy,
    MinRamAllowedToPeer,
    MinDiskSizeAllowedToPeer,
    MinFileSizeToCache,
    MinBatteryPercentageAllowedToUpload,
    AllowVpnPeerCaching,
    VpnKeywords,
    MaxCacheAge,
    MaxCacheSize,
    AbsoluteMaxCacheSize,
    ModifyCacheDrive,
    MonthlyUploadDataCap,
    MinBackgroundQos,
    PercentageMaxForegroundBandwidth,
    PercentageMaxBackgroundBandwidth,
    MaxForegroundDownloadBandwidth,
    MaxBackgroundDownloadBandwidth,
    SetHoursToLimitForegroundDownloadBandwidth,
    SetHoursToLimitBackgroundDownloadBandwidth,
    DelayForegroundDownloadFromHttp,
    DelayBackgroundDownloadFromHttp,
    CacheHost,
    CacheHostSource,
    DelayCacheServerFallbackForeground,
    DelayCacheServerFallbackBackground,
    DisallowCacheServerDownloadsOnVpn,
    MaxDownloadBandwidth,
    PercentageMaxDownloadBandwidth,
    MaxUploadBandwidth,
}

impl Policy {
    /// The policy's row in the table.
    pub fn spec(self) -> &'static PolicySpec {
        &POLICIES[self as usize]
    }

    /// The policy with this name: snake_case, or the original spelling in any case of the letters, with its `DO` as
    /// in MDM or without it as in Group Policy.
    pub fn find(name: &str) -> Option<Self> {
        POLICIES
            .iter()
            .find(|s| {
                s.key == name
                    || s.name.eq_ignore_ascii_case(name)
                    || s.name[2..].eq_ignore_ascii_case(name)
            })
            .map(|s| s.policy)
    }
}

/// What a policy's number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Not a quantity.
    None,
    /// Powers of 1024: 2³⁰ bytes.
    Gigabytes,
    /// 2²⁰ bytes.
    Megabytes,
    /// 1024 bytes a second.
    KilobytesPerSecond,
    /// Per cent.
    Percent,
    /// Seconds.
    Seconds,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "",
            Self::Gigabytes => "GB",
            Self::Megabytes => "MB",
            Self::KilobytesPerSecond => "KB/s",
            Self::Percent => "%",
            Self::Seconds => "s",
        })
    }
}

/// What a policy may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// A whole number between two bounds, both included.
    Number(u64, u64),
    /// One of these numbers, or its name in any case.
    Choice(&'static [(u64, &'static str)]),
    /// 0 or 1, false or true.
    Flag,
    /// A GUID; a secret that is never shown.
    Guid,
    /// Host names or IP addresses.
    Hosts,
    /// Words.
    Words,
    /// An absolute folder, or `%SYSTEMDRIVE%` for the default.
    Folder,
    /// Business hours: from, to, in, out.
    Hours,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(min, max) => write!(f, "{min} to {max}"),
            Self::Choice(choices) => {
                let mut separator = "";
                choices.iter().try_for_each(|(number, name)| {
                    write!(
                        f,
                        "{}{number} ({name})",
                        std::mem::replace(&mut separator, ", ")
                    )
                })
            }
            Self::Flag => f.write_str("0 (false), 1 (true)"),
            Self::Guid => f.write_str("a GUID (8-4-4-4-12 hex digits)"),
            Self::Hosts => f.write_str(
                "host names or IP addresses, with an optional http:// or https:// and an optional port, separated by commas or as a list",
            ),
            Self::Words => f.write_str("words, separated by commas or as a list"),
            Self::Folder => f.write_str("an absolute folder, or %SYSTEMDRIVE% for the default"),
            Self::Hours => f.write_str(
                "{ from = 0 to 23, to = 0 to 23, in = 0 to 100, out = 0 to 100 }, or \"from,to,in,out\"",
            ),
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicySpec {
    /// The row's policy.
    pub policy: Policy,
    /// The original name, as in MDM and the registry.
    pub name: &'static str,
    /// The key in the table `[delivery_optimization]`.
    pub key: &'static str,
    /// What a number counts.
    pub unit: Unit,
    /// What the policy may hold.
    pub allowed: Allowed,
    /// What holds when nobody sets it; `None`: not set. Only numbers have a default that is set.
    pub default: Option<u64>,
    /// For a deprecated policy: those that take its value when they are not set themselves. Empty: it has no
    /// successor and still works.
    pub deprecated: Option<&'static [Policy]>,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Where name, range and default come from.
    pub source: &'static str,
}

impl PolicySpec {
    /// The default as it stands in documents.
    pub fn default_text(&self) -> String {
        match (self.default, self.allowed) {
            (None, _) => "not set".to_owned(),
            (Some(number), Allowed::Choice(choices)) => choices
                .iter()
                .find(|(n, _)| *n == number)
                .map_or_else(|| number.to_string(), |(n, name)| format!("{n} ({name})")),
            (Some(number), _) => number.to_string(),
        }
    }
}

/// The values of `download_mode`.
pub(crate) const MODES: &[(u64, &str)] = &[
    (0, "CdnOnly"),
    (1, "Lan"),
    (2, "Group"),
    (3, "Internet"),
    (99, "Simple"),
    (100, "Bypass"),
];

const U32_MAX: u64 = u32::MAX as u64;
/// 30 days, the longest fallback delay.
const FALLBACK_DELAY_MAX: u64 = 30 * 24 * 3600;

const CSP: &str = "CSP 2025-07";
const REFERENCE: &str = "reference 2025-08";
const BOTH: &str = "CSP 2025-07; reference 2025-08";

/// A row with neither unit nor default; the rows below change what differs.
const fn row(
    policy: Policy,
    name: &'static str,
    key: &'static str,
    allowed: Allowed,
    source: &'static str,
    doc: &'static str,
) -> PolicySpec {
    PolicySpec {
        policy,
        name,
        key,
        unit: Unit::None,
        allowed,
        default: None,
        deprecated: None,
        doc,
        source,
    }
}

impl PolicySpec {
    const fn unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    const fn default(self, default: u64) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    const fn deprecated(self, successors: &'static [Policy]) -> Self {
        Self {
            deprecated: Some(successors),
            ..self
        }
    }
}

/// Every policy: 29 current ones and 3 deprecated ones.
pub const POLICIES: &[PolicySpec] = &[
    row(
        Policy::DownloadMode,
        "DODownloadMode",
        "download_mode",
        Allowed::Choice(MODES),
        REFERENCE,
        "Where content may come from: HTTP only, peers on the LAN, of the group, on the Internet; number or name.",
    )
    .default(1),
    row(
        Policy::GroupId,
        "DOGroupId",
        "group_id",
        Allowed::Guid,
        BOTH,
        "The group whose members may exchange content in mode 2; a secret of the group.",
    ),
    row(
        Policy::GroupIdSource,
        "DOGroupIdSource",
        "group_id_source",
        Allowed::Choice(&[
            (0, "NotSet"),
            (1, "AdSite"),
            (2, "DomainSid"),
            (3, "DhcpOption234"),
            (4, "DnsSuffix"),
            (5, "TenantId"),
        ]),
        BOTH,
        "Where the group id comes from when group_id is not set; 0: the first that exists of 1, 2, 5.",
    )
    .default(0),
    row(
        Policy::RestrictPeerSelectionBy,
        "DORestrictPeerSelectionBy",
        "restrict_peer_selection_by",
        Allowed::Choice(&[(0, "None"), (1, "Subnet"), (2, "LocalDiscovery")]),
        "CSP 2025-07; default: see Choices",
        "Narrows the peers that the mode permits to the own subnets, or to those found by DNS-SD.",
    )
    .default(0),
    row(
        Policy::MinRamAllowedToPeer,
        "DOMinRAMAllowedToPeer",
        "min_ram_allowed_to_peer",
        Allowed::Number(1, 100_000),
        BOTH,
        "Less memory than this: no peers.",
    )
    .unit(Unit::Gigabytes)
    .default(4),
    row(
        Policy::MinDiskSizeAllowedToPeer,
        "DOMinDiskSizeAllowedToPeer",
        "min_disk_size_allowed_to_peer",
        Allowed::Number(1, 100_000),
        BOTH,
        "The cache's disk is smaller than this: no peers.",
    )
    .unit(Unit::Gigabytes)
    .default(32),
    row(
        Policy::MinFileSizeToCache,
        "DOMinFileSizeToCache",
        "min_file_size_to_cache",
        Allowed::Number(1, 100_000),
        BOTH,
        "Smaller contents are neither taken from peers nor given to them.",
    )
    .unit(Unit::Megabytes)
    .default(50),
    row(
        Policy::MinBatteryPercentageAllowedToUpload,
        "DOMinBatteryPercentageAllowedToUpload",
        "min_battery_percentage_allowed_to_upload",
        Allowed::Number(0, 100),
        "CSP 2025-07 (reference: from 1)",
        "On battery, upload to peers only from this charge on; 0: never on battery.",
    )
    .unit(Unit::Percent)
    .default(0),
    row(
        Policy::AllowVpnPeerCaching,
        "DOAllowVPNPeerCaching",
        "allow_vpn_peer_caching",
        Allowed::Flag,
        BOTH,
        "Peers may be used while a VPN is active.",
    )
    .default(0),
    row(
        Policy::VpnKeywords,
        "DOVpnKeywords",
        "vpn_keywords",
        Allowed::Words,
        BOTH,
        "Words that tell a VPN adapter by its name, beside VPN, Secure and Virtual Private Network.",
    ),
    row(
        Policy::MaxCacheAge,
        "DOMaxCacheAge",
        "max_cache_age",
        Allowed::Number(0, U32_MAX),
        BOTH,
        "How long a content is kept after it was downloaded; 0: until space is needed.",
    )
    .unit(Unit::Seconds)
    .default(259_200),
    row(
        Policy::MaxCacheSize,
        "DOMaxCacheSize",
        "max_cache_size",
        Allowed::Number(1, 100),
        BOTH,
        "The cache's share of the available disk space.",
    )
    .unit(Unit::Percent)
    .default(20),
    row(
        Policy::AbsoluteMaxCacheSize,
        "DOAbsoluteMaxCacheSize",
        "absolute_max_cache_size",
        Allowed::Number(0, U32_MAX),
        "CSP 2025-07; reference 2025-08; 0: Intune",
        "The cache's size; when set, max_cache_size does not count; 0: only the disk limits it.",
    )
    .unit(Unit::Gigabytes),
    row(
        Policy::ModifyCacheDrive,
        "DOModifyCacheDrive",
        "modify_cache_drive",
        Allowed::Folder,
        BOTH,
        "The folder of the cache, if not the one in the state folder. It must exist; a change takes effect at the next start.",
    ),
    row(
        Policy::MonthlyUploadDataCap,
        "DOMonthlyUploadDataCap",
        "monthly_upload_data_cap",
        Allowed::Number(0, U32_MAX),
        BOTH,
        "The most that is sent to Internet peers in a calendar month; 0: no limit.",
    )
    .unit(Unit::Gigabytes)
    .default(20),
    row(
        Policy::MinBackgroundQos,
        "DOMinBackgroundQos",
        "min_background_qos",
        Allowed::Number(1, U32_MAX),
        BOTH,
        "Background downloads use HTTP beside the peers while the peers give less than this.",
    )
    .unit(Unit::KilobytesPerSecond)
    .default(20_480),
    row(
        Policy::PercentageMaxForegroundBandwidth,
        "DOPercentageMaxForegroundBandwidth",
        "percentage_max_foreground_bandwidth",
        Allowed::Number(0, 100),
        BOTH,
        "The share of the available bandwidth for all foreground downloads together; 0: dynamic (90 %).",
    )
    .unit(Unit::Percent)
    .default(0),
    row(
        Policy::PercentageMaxBackgroundBandwidth,
        "DOPercentageMaxBackgroundBandwidth",
        "percentage_max_background_bandwidth",
        Allowed::Number(0, 100),
        BOTH,
        "The share of the available bandwidth for all background downloads together; 0: dynamic (45 %).",
    )
    .unit(Unit::Percent)
    .default(0),
    row(
        Policy::MaxForegroundDownloadBandwidth,
        "DOMaxForegroundDownloadBandwidth",
        "max_foreground_download_bandwidth",
        Allowed::Number(0, U32_MAX),
        BOTH,
        "The most for all foreground downloads together; 0: dynamic.",
    )
    .unit(Unit::KilobytesPerSecond)
    .default(0),
    row(
        Policy::MaxBackgroundDownloadBandwidth,
        "DOMaxBackgroundDownloadBandwidth",
        "max_background_download_bandwidth",
        Allowed::Number(0, U32_MAX),
        BOTH,
        "The most for all background downloads together; 0: dynamic.",
    )
    .unit(Unit::KilobytesPerSecond)
    .default(0),
    row(
        Policy::SetHoursToLimitForegroundDownloadBandwidth,
        "DOSetHoursToLimitForegroundDownloadBandwidth",
        "set_hours_to_limit_foreground_download_bandwidth",
        Allowed::Hours,
        CSP,
        "Foreground bandwidth in per cent inside and outside business hours (local time, whole hours).",
    ),
    row(
        Policy::SetHoursToLimitBackgroundDownloadBandwidth,
        "DOSetHoursToLimitBackgroundDownloadBandwidth",
        "set_hours_to_limit_background_download_bandwidth",
        Allowed::Hours,
        CSP,
        "Background bandwidth in per cent inside and outside business hours (local time, whole hours).",
    ),
    row(
        Policy::DelayForegroundDownloadFromHttp,
        "DODelayForegroundDownloadFromHttp",
        "delay_foreground_download_from_http",
        Allowed::Number(0, U32_MAX),
        BOTH,
        "How long a foreground download waits for peers before it uses HTTP.",
    )
    .unit(Unit::Seconds),
    row(
        Policy::DelayBackgroundDownloadFromHttp,
        "DODelayBackgroundDownloadFromHttp",
        "delay_background_download_from_http",
        Allowed::Number(0, U32_MAX),
        BOTH,
        "How long a background download waits for peers before it uses HTTP.",
    )
    .unit(Unit::Seconds),
    row(
        Policy::CacheHost,
        "DOCacheHost",
        "cache_host",
        Allowed::Hosts,
        BOTH,
        "Connected Cache servers, in the order in which they are tried.",
    ),
    row(
        Policy::CacheHostSource,
        "DOCacheHostSource",
        "cache_host_source",
        Allowed::Choice(&[
            (0, "NotSet"),
            (1, "DhcpOption235"),
            (2, "DhcpOption235Force"),
        ]),
        "CSP 2025-07; 0: troubleshooter script",
        "Where cache hosts come from: DHCP option 235 behind cache_host (1) or before it (2).",
    ),
    row(
        Policy::DelayCacheServerFallbackForeground,
        "DODelayCacheServerFallbackForeground",
        "delay_cache_server_fallback_foreground",
        Allowed::Number(0, FALLBACK_DELAY_MAX),
        CSP,
        "How long a foreground download stays with failing cache servers before it goes to the origin.",
    )
    .unit(Unit::Seconds),
    row(
        Policy::DelayCacheServerFallbackBackground,
        "DODelayCacheServerFallbackBackground",
        "delay_cache_server_fallback_background",
        Allowed::Number(0, FALLBACK_DELAY_MAX),
        CSP,
        "How long a background download stays with failing cache servers before it goes to the origin.",
    )
    .unit(Unit::Seconds),
    row(
        Policy::DisallowCacheServerDownloadsOnVpn,
        "DODisallowCacheServerDownloadsOnVPN",
        "disallow_cache_server_downloads_on_vpn",
        Allowed::Flag,
        BOTH,
        "Cache servers are not used while a VPN is active.",
    )
    .default(0),
    row(
        Policy::MaxDownloadBandwidth,
        "DOMaxDownloadBandwidth",
        "max_download_bandwidth",
        Allowed::Number(0, U32_MAX),
        "reference 2025-08; range: as its successors",
        "The most for all downloads of one priority together; 0: dynamic.",
    )
    .unit(Unit::KilobytesPerSecond)
    .deprecated(&[
        Policy::MaxForegroundDownloadBandwidth,
        Policy::MaxBackgroundDownloadBandwidth,
    ]),
    row(
        Policy::PercentageMaxDownloadBandwidth,
        "DOPercentageMaxDownloadBandwidth",
        "percentage_max_download_bandwidth",
        Allowed::Number(0, 100),
        "reference 2025-08; range: as its successors",
        "The share of the available bandwidth for all downloads of one priority together; 0: dynamic.",
    )
    .unit(Unit::Percent)
    .deprecated(&[
        Policy::PercentageMaxForegroundBandwidth,
        Policy::PercentageMaxBackgroundBandwidth,
    ]),
    row(
        Policy::MaxUploadBandwidth,
        "DOMaxUploadBandwidth",
        "max_upload_bandwidth",
        Allowed::Number(0, U32_MAX),
        REFERENCE,
        "The most for uploads to Internet peers; 0: no limit.",
    )
    .unit(Unit::KilobytesPerSecond)
    .default(0)
    .deprecated(&[]),
];
