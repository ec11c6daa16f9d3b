//! The values of all policies, with who set each.

use crate::{
    Allowed, CacheLimit, Hours, POLICIES, Percent, Policy, Provider, RawValue, nearest, shown_key,
};
use dosvc_content::{ByteRate, DownloadMode, GroupId};
use std::{fmt, path::Path, time::Duration};

/// The longest text of a policy, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// The most entries of a list policy.
const LIST_LENGTH_MAX: usize = 256;

/// A checked value.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Number(u64),
    Group(GroupId),
    List(Vec<String>),
    Folder(String),
    Hours(Hours),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Slot {
    value: Option<Value>,
    provider: Provider,
}

/// The values of all policies, each checked against its row in [`POLICIES`], with who set it.
///
/// A new one holds the defaults. A successor of a deprecated policy takes the deprecated one's value while nobody
/// sets it itself. [`Debug`](fmt::Debug) shows those that are set, without the secret of the group.
#[derive(Clone, PartialEq, Eq)]
pub struct Policies {
    slots: Vec<Slot>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); POLICIES.len()],
        }
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = POLICIES
            .iter()
            .filter(|spec| self.slots[spec.policy as usize].value.is_some());
        f.debug_map()
            .entries(set.map(|spec| (spec.key, &self.slots[spec.policy as usize])))
            .finish()
    }
}

/// Why a value was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// No policy has this name.
    #[error("unknown policy {key}{}", did_you_mean(*nearest))]
    Unknown {
        /// The name.
        key: String,
        /// The key that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The value has another type, or is out of range.
    #[error("{key} = {value} is not allowed; allowed: {allowed}")]
    NotAllowed {
        /// The policy's key.
        key: &'static str,
        /// The value; never that of a secret.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

/// `; did you mean …?`, or nothing.
fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}

impl Policies {
    /// Sets a policy. The value counts if nobody of a higher rank (see [`Provider`]) has set it.
    ///
    /// # Errors
    ///
    /// The name is that of no policy, or the value is not allowed; nothing is changed then.
    pub fn set(
        &mut self,
        name: &str,
        raw: &RawValue,
        provider: &Provider,
    ) -> Result<(), PolicyError> {
        let policy = Policy::find(name).ok_or_else(|| PolicyError::Unknown {
            key: shown_key(name),
            nearest: nearest(name, POLICIES.iter().flat_map(|s| [s.key, s.name])),
        })?;
        let spec = policy.spec();
        let value = read(spec.allowed, raw).ok_or_else(|| PolicyError::NotAllowed {
            key: spec.key,
            value: match spec.allowed {
                Allowed::Guid => "(hidden)".to_owned(),
                _ => raw.to_string(),
            },
            allowed: match spec.unit.to_string().as_str() {
                "" => spec.allowed.to_string(),
                unit => format!("{} {unit}", spec.allowed),
            },
        })?;
        let slot = &mut self.slots[policy as usize];
        if provider.rank() >= slot.provider.rank() {
            *slot = Slot {
                value: Some(value),
                provider: provider.clone(),
            };
        }
        Ok(())
    }

    /// Back to the default, whoever set it.
    pub fn reset(&mut self, policy: Policy) {
        self.slots[policy as usize] = Slot::default();
    }

    /// Who set the value in effect.
    pub fn provider(&self, policy: Policy) -> &Provider {
        &self.slot(policy).provider
    }

    /// Whether somebody set the value in effect.
    pub fn is_set(&self, policy: Policy) -> bool {
        self.slot(policy).value.is_some()
    }

    /// The value in effect as people read it, a choice with its name; `None`: not set. Of a secret, that it is set: the
    /// hash of a group's id is what members prove to know, so it is a secret too.
    pub fn value_text(&self, policy: Policy) -> Option<String> {
        match (&self.slot(policy).value, policy.spec().allowed) {
            (Some(Value::Number(number)), Allowed::Choice(choices)) => choices
                .iter()
                .find(|(n, _)| n == number)
                .map(|(n, name)| format!("{n} ({name})")),
            (Some(Value::Number(number)), _) => Some(number.to_string()),
            (Some(Value::Group(_)), _) => Some("(set)".to_owned()),
            (Some(Value::List(items)), _) => Some(items.join(",")),
            (Some(Value::Folder(folder)), _) => Some(folder.clone()),
            (Some(Value::Hours(hours)), _) => Some(hours.to_string()),
            (None, _) => policy.spec().default.map(|_| policy.spec().default_text()),
        }
    }

    /// Every policy with its value and provider, in the order of the table.
    pub fn rows(&self) -> impl Iterator<Item = PolicyRow> + '_ {
        POLICIES.iter().map(|spec| PolicyRow {
            name: spec.name,
            key: spec.key,
            value: self.value_text(spec.policy),
            unit: spec.unit.to_string(),
            provider: self.provider(spec.policy).to_string(),
            provider_number: self.provider(spec.policy).number(),
        })
    }

    /// The policies whose values differ; who set them does not matter.
    pub fn changed(&self, other: &Self) -> Vec<Policy> {
        POLICIES
            .iter()
            .map(|spec| spec.policy)
            .filter(|&policy| self.effective(policy) != other.effective(policy))
            .collect()
    }

    /// What whoever set the policies should know: deprecated policies in use.
    pub fn warnings(&self) -> Vec<String> {
        POLICIES
            .iter()
            .filter(|spec| self.slots[spec.policy as usize].value.is_some())
            .filter_map(|spec| match spec.deprecated? {
                [] => Some(format!("{} is deprecated; it still works", spec.key)),
                successors => {
                    let keys: Vec<_> = successors.iter().map(|p| p.spec().key).collect();
                    Some(format!(
                        "{} is deprecated; set {} instead",
                        spec.key,
                        keys.join(" and ")
                    ))
                }
            })
            .collect()
    }

    /// The slot whose value is in effect: the policy's own, or that of a deprecated one that maps to it.
    fn slot(&self, policy: Policy) -> &Slot {
        let own = &self.slots[policy as usize];
        if own.value.is_some() {
            return own;
        }
        POLICIES
            .iter()
            .filter(|spec| spec.deprecated.is_some_and(|to| to.contains(&policy)))
            .map(|spec| &self.slots[spec.policy as usize])
            .find(|slot| slot.value.is_some())
            .unwrap_or(own)
    }

    /// The value in effect, the default filled in.
    fn effective(&self, policy: Policy) -> Option<Value> {
        self.slot(policy)
            .value
            .clone()
            .or_else(|| policy.spec().default.map(Value::Number))
    }

    fn number_if_set(&self, policy: Policy) -> Option<u64> {
        match self.slot(policy).value {
            Some(Value::Number(number)) => Some(number),
            _ => policy.spec().default,
        }
    }

    /// The number in effect; 0 where the table has no default, which means "none" for all of those.
    fn number(&self, policy: Policy) -> u64 {
        self.number_if_set(policy).unwrap_or(0)
    }

    fn seconds(&self, policy: Policy) -> Duration {
        Duration::from_secs(self.number(policy))
    }

    fn percent(&self, policy: Policy) -> Percent {
        Percent::new(self.number(policy)).expect("the table allows no more than 100")
    }

    fn bytes(&self, policy: Policy, shift: u32) -> u64 {
        // At most 2³² GB of 2³⁰ bytes.
        self.number(policy) << shift
    }

    fn list(&self, policy: Policy) -> Option<&[String]> {
        match &self.slot(policy).value {
            Some(Value::List(items)) => Some(items),
            _ => None,
        }
    }

    fn hours(&self, policy: Policy) -> Option<Hours> {
        match self.slot(policy).value {
            Some(Value::Hours(hours)) => Some(hours),
            _ => None,
        }
    }
}

const GB: u32 = 30;
const MB: u32 = 20;

/// One getter for each policy, in the order of the table.
impl Policies {
    /// Where content may come from.
    pub fn download_mode(&self) -> DownloadMode {
        DownloadMode::from_number(self.number(Policy::DownloadMode))
            .expect("the table allows modes only")
    }

    /// The group's id as configured. It wins over [`Self::group_id_source`].
    pub fn group_id(&self) -> Option<&GroupId> {
        match &self.slot(Policy::GroupId).value {
            Some(Value::Group(group)) => Some(group),
            _ => None,
        }
    }

    /// Where the group's id comes from when none is configured.
    pub fn group_id_source(&self) -> GroupIdSource {
        match self.number(Policy::GroupIdSource) {
            1 => GroupIdSource::AdSite,
            2 => GroupIdSource::DomainSid,
            3 => GroupIdSource::DhcpOption,
            4 => GroupIdSource::DnsSuffix,
            5 => GroupIdSource::TenantId,
            _ => GroupIdSource::Automatic,
        }
    }

    /// What narrows the peers that the mode permits.
    pub fn restrict_peer_selection_by(&self) -> PeerRestriction {
        match self.number(Policy::RestrictPeerSelectionBy) {
            1 => PeerRestriction::Subnet,
            2 => PeerRestriction::LocalDiscovery,
            _ => PeerRestriction::None,
        }
    }

    /// The least memory of a machine that uses peers, in bytes.
    pub fn min_ram_allowed_to_peer(&self) -> u64 {
        self.bytes(Policy::MinRamAllowedToPeer, GB)
    }

    /// The least capacity of the cache's disk of a machine that uses peers, in bytes.
    pub fn min_disk_size_allowed_to_peer(&self) -> u64 {
        self.bytes(Policy::MinDiskSizeAllowedToPeer, GB)
    }

    /// The least length of a content that is exchanged with peers, in bytes.
    pub fn min_file_size_to_cache(&self) -> u64 {
        self.bytes(Policy::MinFileSizeToCache, MB)
    }

    /// On battery, upload from this charge on; `None`: never.
    pub fn min_battery_percentage_allowed_to_upload(&self) -> Option<Percent> {
        Some(self.percent(Policy::MinBatteryPercentageAllowedToUpload)).filter(|p| p.get() > 0)
    }

    /// Whether peers may be used while a VPN is active.
    pub fn allow_vpn_peer_caching(&self) -> bool {
        self.number(Policy::AllowVpnPeerCaching) == 1
    }

    /// Words that tell a VPN adapter, beside [`BUILT_IN_VPN_KEYWORDS`].
    pub fn vpn_keywords(&self) -> &[String] {
        self.list(Policy::VpnKeywords).unwrap_or_default()
    }

    /// How long a content is kept after its download; `None`: until space is needed.
    pub fn max_cache_age(&self) -> Option<Duration> {
        Some(self.seconds(Policy::MaxCacheAge)).filter(|age| !age.is_zero())
    }

    /// The cache's share of the available disk space. See [`Self::cache_limit`] for what counts.
    pub fn max_cache_size(&self) -> Percent {
        self.percent(Policy::MaxCacheSize)
    }

    /// The cache's size in bytes, when it is configured; 0: no limit but the disk. See [`Self::cache_limit`].
    pub fn absolute_max_cache_size(&self) -> Option<u64> {
        self.number_if_set(Policy::AbsoluteMaxCacheSize)
            .map(|gigabytes| gigabytes << GB)
    }

    /// The limit that counts of [`Self::max_cache_size`] and [`Self::absolute_max_cache_size`].
    pub fn cache_limit(&self) -> CacheLimit {
        match self.absolute_max_cache_size() {
            None => CacheLimit::Share(self.max_cache_size()),
            Some(0) => CacheLimit::Disk,
            Some(bytes) => CacheLimit::Bytes(bytes),
        }
    }

    /// The cache's folder; `None`: the one in the state folder.
    pub fn modify_cache_drive(&self) -> Option<&Path> {
        match &self.slot(Policy::ModifyCacheDrive).value {
            Some(Value::Folder(folder)) if !is_system_drive(folder) => Some(Path::new(folder)),
            _ => None,
        }
    }

    /// The most bytes for Internet peers in a calendar month; `None`: no limit.
    pub fn monthly_upload_data_cap(&self) -> Option<u64> {
        Some(self.bytes(Policy::MonthlyUploadDataCap, GB)).filter(|cap| *cap > 0)
    }

    /// The rate of the peers below which a background download uses HTTP beside them.
    pub fn min_background_qos(&self) -> ByteRate {
        ByteRate::from_kbps(self.number(Policy::MinBackgroundQos))
            .expect("the table allows no less than 1")
    }

    /// The share of the bandwidth for foreground downloads; `None`: dynamic.
    pub fn percentage_max_foreground_bandwidth(&self) -> Option<Percent> {
        Some(self.percent(Policy::PercentageMaxForegroundBandwidth)).filter(|p| p.get() > 0)
    }

    /// The share of the bandwidth for background downloads; `None`: dynamic.
    pub fn percentage_max_background_bandwidth(&self) -> Option<Percent> {
        Some(self.percent(Policy::PercentageMaxBackgroundBandwidth)).filter(|p| p.get() > 0)
    }

    /// The most for foreground downloads; `None`: dynamic.
    pub fn max_foreground_download_bandwidth(&self) -> Option<ByteRate> {
        ByteRate::from_kbps(self.number(Policy::MaxForegroundDownloadBandwidth))
    }

    /// The most for background downloads; `None`: dynamic.
    pub fn max_background_download_bandwidth(&self) -> Option<ByteRate> {
        ByteRate::from_kbps(self.number(Policy::MaxBackgroundDownloadBandwidth))
    }

    /// Business hours for foreground downloads.
    pub fn set_hours_to_limit_foreground_download_bandwidth(&self) -> Option<Hours> {
        self.hours(Policy::SetHoursToLimitForegroundDownloadBandwidth)
    }

    /// Business hours for background downloads.
    pub fn set_hours_to_limit_background_download_bandwidth(&self) -> Option<Hours> {
        self.hours(Policy::SetHoursToLimitBackgroundDownloadBandwidth)
    }

    /// How long a foreground download waits for peers before it uses HTTP.
    pub fn delay_foreground_download_from_http(&self) -> Duration {
        self.seconds(Policy::DelayForegroundDownloadFromHttp)
    }

    /// How long a background download waits for peers before it uses HTTP.
    pub fn delay_background_download_from_http(&self) -> Duration {
        self.seconds(Policy::DelayBackgroundDownloadFromHttp)
    }

    /// Connected Cache servers in the order in which they are tried. An empty list counts as configured.
    pub fn cache_host(&self) -> Option<&[String]> {
        self.list(Policy::CacheHost)
    }

    /// Where cache hosts come from beside [`Self::cache_host`]; `None`: nobody said so. Windows takes an explicit
    /// [`CacheHostSource::NotSet`] as "do not look for cache hosts by DNS-SD".
    pub fn cache_host_source(&self) -> Option<CacheHostSource> {
        self.number_if_set(Policy::CacheHostSource)
            .map(|number| match number {
                1 => CacheHostSource::Dhcp,
                2 => CacheHostSource::DhcpForce,
                _ => CacheHostSource::NotSet,
            })
    }

    /// How long a foreground download stays with failing cache servers.
    pub fn delay_cache_server_fallback_foreground(&self) -> Duration {
        self.seconds(Policy::DelayCacheServerFallbackForeground)
    }

    /// How long a background download stays with failing cache servers.
    pub fn delay_cache_server_fallback_background(&self) -> Duration {
        self.seconds(Policy::DelayCacheServerFallbackBackground)
    }

    /// Whether cache servers are left alone while a VPN is active.
    pub fn disallow_cache_server_downloads_on_vpn(&self) -> bool {
        self.number(Policy::DisallowCacheServerDownloadsOnVpn) == 1
    }

    /// The most for uploads to Internet peers (deprecated, still obeyed); `None`: no limit.
    pub fn max_upload_bandwidth(&self) -> Option<ByteRate> {
        ByteRate::from_kbps(self.number(Policy::MaxUploadBandwidth))
    }
}

/// Words in an adapter's name that tell a VPN (policies, section 3).
pub const BUILT_IN_VPN_KEYWORDS: [&str; 3] = ["VPN", "Secure", "Virtual Private Network"];

/// What narrows the peers that a mode permits (download-modes, section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerRestriction {
    /// Nothing beyond the mode.
    #[default]
    None,
    /// Only peers in one of our subnets.
    Subnet,
    /// Only peers found by DNS-SD on the link.
    LocalDiscovery,
}

/// Where the group's id comes from (policies, section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GroupIdSource {
    /// The first that exists: AD site, domain SID, tenant id.
    #[default]
    Automatic,
    /// The Active Directory site.
    AdSite,
    /// The SID of the domain that the machine authenticated to.
    DomainSid,
    /// DHCP option 234.
    DhcpOption,
    /// The connection's DNS suffix.
    DnsSuffix,
    /// The Entra tenant's id.
    TenantId,
}

/// Where cache hosts come from (policies, section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheHostSource {
    /// From `cache_host` only.
    NotSet,
    /// DHCP option 235, when `cache_host` is not set.
    Dhcp,
    /// DHCP option 235, before `cache_host`.
    DhcpForce,
}

/// One line of `dosvc config --verbose`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct PolicyRow {
    /// The original name.
    pub name: &'static str,
    /// The key in the configuration.
    pub key: &'static str,
    /// The value in effect; `None`: not set. Of the group's id, only that it is set.
    pub value: Option<String>,
    /// What a number counts; empty when it counts nothing.
    pub unit: String,
    /// Who set it.
    pub provider: String,
    /// Windows' number for the provider, where it has one.
    pub provider_number: Option<u8>,
}

/// Reads a value; `None`: not allowed.
fn read(allowed: Allowed, raw: &RawValue) -> Option<Value> {
    match allowed {
        Allowed::Number(min, max) => raw.number(min, max).map(Value::Number),
        Allowed::Flag => raw.flag().map(|flag| Value::Number(u64::from(flag))),
        Allowed::Choice(choices) => {
            let number = match raw {
                RawValue::Text(text) | RawValue::Untyped(text) => read_choice(choices, text.trim()),
                other => other.number(0, u64::MAX),
            }?;
            choices
                .iter()
                .any(|(n, _)| *n == number)
                .then_some(Value::Number(number))
        }
        Allowed::Guid => {
            let text = raw.text()?.trim();
            GroupId::is_guid(text)
                .then(|| text.parse().ok())?
                .map(Value::Group)
        }
        Allowed::Hosts => read_list(raw, is_host),
        Allowed::Words => read_list(raw, |word| {
            !word.contains(',') && !word.chars().any(char::is_control)
        }),
        Allowed::Folder => {
            let text = short_text(raw)?;
            (is_system_drive(text) || Path::new(text).is_absolute())
                .then(|| Value::Folder(text.to_owned()))
        }
        Allowed::Hours => Hours::read(raw).map(Value::Hours),
    }
}

/// A choice by its number or its name; `HttpOnly` is another name of CdnOnly.
fn read_choice(choices: &[(u64, &str)], text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let text = match text {
        text if text.eq_ignore_ascii_case("HttpOnly") => "CdnOnly",
        text => text,
    };
    choices
        .iter()
        .find(|(_, name)| name.eq_ignore_ascii_case(text))
        .map(|(number, _)| *number)
}

fn short_text(raw: &RawValue) -> Option<&str> {
    raw.text()
        .filter(|text| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control))
}

fn read_list(raw: &RawValue, accept: fn(&str) -> bool) -> Option<Value> {
    let items = raw.texts()?;
    let good = items.len() <= LIST_LENGTH_MAX
        && items
            .iter()
            .all(|item| item.len() <= TEXT_BYTES_MAX && accept(item));
    good.then(|| Value::List(items.into_iter().map(str::to_owned).collect()))
}

fn is_system_drive(folder: &str) -> bool {
    folder.eq_ignore_ascii_case("%SYSTEMDRIVE%")
}

/// A host name or an IP address, with an optional scheme (as the Linux agent takes it) and an optional port.
fn is_host(text: &str) -> bool {
    let text = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    if text.parse::<std::net::IpAddr>().is_ok() || text.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    if let Some(inner) = text.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()),
        None => (text, Some(0)),
    };
    port.is_some()
        && host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl fmt::Display for PeerRestriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "None",
            Self::Subnet => "Subnet",
            Self::LocalDiscovery => "LocalDiscovery",
        })
    }
}

#[cfg(test)]
mod tests;
