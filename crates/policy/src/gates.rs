//! What keeps a device from what its mode permits: gates. Each closes only what it must.

use crate::{
    Adapter, BUILT_IN_VPN_KEYWORDS, Device, PeerClass, PeerRestriction, Percent, Policies, permits,
};
use dosvc_content::{DownloadMode, HResult, format_bytes};
use std::fmt;

/// A closed gate, and what closed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gate {
    /// `min_ram_allowed_to_peer`.
    Ram {
        /// What the machine has, in bytes.
        has: u64,
        /// What the policy wants, in bytes.
        wanted: u64,
    },
    /// `min_disk_size_allowed_to_peer`.
    Disk {
        /// What the cache's disk has, in bytes.
        has: u64,
        /// What the policy wants, in bytes.
        wanted: u64,
    },
    /// Mode 2, and no source has a group id.
    NoGroup,
    /// Mode 2, and this machine can't prove to be of its group.
    Membership {
        /// Why it can't.
        why: String,
    },
    /// A VPN is active, and `allow_vpn_peer_caching` is 0.
    Vpn {
        /// The adapter, as people name it.
        adapter: String,
    },
    /// A VPN is active, and `disallow_cache_server_downloads_on_vpn` is 1.
    CacheHostOnVpn {
        /// The adapter, as people name it.
        adapter: String,
    },
    /// `min_battery_percentage_allowed_to_upload`.
    Battery {
        /// How full the battery is, if that is known.
        charge: Option<Percent>,
        /// What the policy wants; `None`: mains.
        wanted: Option<Percent>,
    },
    /// The connection is metered.
    Metered,
    /// `monthly_upload_data_cap`.
    MonthlyCap {
        /// What went to Internet peers this month, in bytes.
        sent: u64,
        /// What the policy allows, in bytes.
        cap: u64,
    },
}

/// What a gate closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Closed {
    /// Peers of every kind, to download from and to upload to.
    pub peers: bool,
    /// Peers beyond the LAN, both ways.
    pub distant_peers: bool,
    /// Uploads to peers of every kind. Downloading from them goes on.
    pub uploads: bool,
    /// Uploads to Internet peers.
    pub internet_uploads: bool,
    /// HTTP sources, for background downloads.
    pub background_http: bool,
    /// Cache hosts.
    pub cache_hosts: bool,
}

impl Closed {
    /// Both together.
    fn and(self, other: Self) -> Self {
        Self {
            peers: self.peers || other.peers,
            distant_peers: self.distant_peers || other.distant_peers,
            uploads: self.uploads || other.uploads,
            internet_uploads: self.internet_uploads || other.internet_uploads,
            background_http: self.background_http || other.background_http,
            cache_hosts: self.cache_hosts || other.cache_hosts,
        }
    }

    /// What is closed, in the words of the status.
    pub fn names(self) -> Vec<&'static str> {
        let Self {
            peers,
            distant_peers,
            uploads,
            internet_uploads,
            background_http,
            cache_hosts,
        } = self;
        [
            (peers, "peers"),
            (distant_peers, "peers beyond the LAN"),
            (uploads, "uploads"),
            (internet_uploads, "uploads to Internet peers"),
            (background_http, "background downloads over HTTP"),
            (cache_hosts, "cache hosts"),
        ]
        .into_iter()
        .filter_map(|(closed, name)| closed.then_some(name))
        .collect()
    }
}

impl Gate {
    /// What it closes, and nothing more (policies, section 3; download-modes, section 7).
    pub fn closes(&self) -> Closed {
        let none = Closed::default();
        match self {
            Self::Ram { .. }
            | Self::Disk { .. }
            | Self::NoGroup
            | Self::Membership { .. }
            | Self::Vpn { .. } => Closed {
                peers: true,
                ..none
            },
            Self::CacheHostOnVpn { .. } => Closed {
                cache_hosts: true,
                ..none
            },
            Self::Battery { .. } => Closed {
                uploads: true,
                ..none
            },
            Self::Metered => Closed {
                distant_peers: true,
                background_http: true,
                ..none
            },
            Self::MonthlyCap { .. } => Closed {
                internet_uploads: true,
                ..none
            },
        }
    }

    /// The error code that says so (monitoring, section 11).
    pub fn hresult(&self) -> HResult {
        match self {
            Self::Ram { .. } | Self::Disk { .. } | Self::NoGroup | Self::Membership { .. } => {
                HResult::MODE_NOT_ALLOWED_BY_DEVICE
            }
            Self::Vpn { .. } | Self::CacheHostOnVpn { .. } => HResult::VPN,
            Self::Battery { .. } => HResult::POWER_STATE,
            Self::Metered => HResult::COST_POLICY,
            Self::MonthlyCap { .. } => HResult::PARTICIPATION_THROTTLED,
        }
    }

    /// What an administrator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Ram { .. } => {
                "a lower min_ram_allowed_to_peer lets the machine use peers all the same"
            }
            Self::Disk { .. } => {
                "a lower min_disk_size_allowed_to_peer, or modify_cache_drive on a larger disk, lets it use peers"
            }
            Self::NoGroup => {
                "set group_id, or group_id_source to one that this machine has; or use download_mode 1 (Lan)"
            }
            Self::Membership { .. } => {
                "`dosvc enrol` gets a certificate; [group] in the configuration says what members prove"
            }
            Self::Vpn { .. } => {
                "allow_vpn_peer_caching = 1 lets peers be used over a VPN; restrict_peer_selection_by = 2 those on the link"
            }
            Self::CacheHostOnVpn { .. } => {
                "disallow_cache_server_downloads_on_vpn = 0 lets cache hosts be used over a VPN"
            }
            Self::Battery { .. } => {
                "uploads go on with mains power; min_battery_percentage_allowed_to_upload allows them from a charge on"
            }
            Self::Metered => {
                "`dosvc get --foreground` downloads all the same; else it goes on when the connection is not metered any more (NetworkManager says so)"
            }
            Self::MonthlyCap { .. } => {
                "uploads to Internet peers go on with the next month; a higher monthly_upload_data_cap (0: none) allows more"
            }
        }
    }

    /// A word for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ram { .. } => "ram",
            Self::Disk { .. } => "disk",
            Self::NoGroup => "group",
            Self::Membership { .. } => "membership",
            Self::Vpn { .. } => "vpn",
            Self::CacheHostOnVpn { .. } => "vpn_cache_host",
            Self::Battery { .. } => "battery",
            Self::Metered => "metered",
            Self::MonthlyCap { .. } => "monthly_cap",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram { has, wanted } => write!(
                f,
                "the machine's memory has {}, less than min_ram_allowed_to_peer ({}): no peers",
                format_bytes(*has),
                format_bytes(*wanted)
            ),
            Self::Disk { has, wanted } => write!(
                f,
                "the cache's disk has {}, less than min_disk_size_allowed_to_peer ({}): no peers",
                format_bytes(*has),
                format_bytes(*wanted)
            ),
            Self::NoGroup => f.write_str(
                "download mode 2 (Group) has no group id (group_id, group_id_source): no peers",
            ),
            Self::Membership { why } => write!(
                f,
                "this machine can't prove to be of its group: {why}: no peers"
            ),
            Self::Vpn { adapter } => write!(
                f,
                "a VPN is active ({adapter}), and allow_vpn_peer_caching is 0: no peers"
            ),
            Self::CacheHostOnVpn { adapter } => write!(
                f,
                "a VPN is active ({adapter}), and disallow_cache_server_downloads_on_vpn is 1: no cache hosts"
            ),
            Self::Battery { charge, wanted } => {
                f.write_str("the machine runs on battery")?;
                if let Some(charge) = charge {
                    write!(f, " ({charge} left)")?;
                }
                match wanted {
                    None => {
                        f.write_str(", and min_battery_percentage_allowed_to_upload is 0")?;
                    }
                    Some(wanted) => write!(
                        f,
                        ", less than min_battery_percentage_allowed_to_upload ({wanted})"
                    )?,
                }
                f.write_str(": no uploads")
            }
            Self::Metered => f.write_str(
                "the connection is metered: background downloads take from the LAN only, and no peers beyond it are used",
            ),
            Self::MonthlyCap { sent, cap } => write!(
                f,
                "{} went to Internet peers this month, monthly_upload_data_cap is {}: no uploads to them",
                format_bytes(*sent),
                format_bytes(*cap)
            ),
        }
    }
}

/// The gates that are closed; none: everything that the mode permits is open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gates(Vec<Gate>);

impl Gates {
    /// The closed ones, in the order of [`Gate`].
    pub fn iter(&self) -> impl Iterator<Item = &Gate> {
        self.0.iter()
    }

    /// Whether all are open.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is closed by any of them.
    pub fn closed(&self) -> Closed {
        let all = self.0.iter().map(Gate::closes);
        all.fold(Closed::default(), Closed::and)
    }

    /// Whether a peer of this class may be used at all.
    pub fn permit_peer(&self, class: PeerClass) -> bool {
        let closed = self.closed();
        !(closed.peers || closed.distant_peers && class.is_distant())
    }

    /// Whether a peer of this class may have anything from us.
    pub fn permit_upload(&self, class: PeerClass) -> bool {
        let closed = self.closed();
        self.permit_peer(class)
            && !closed.uploads
            && !(closed.internet_uploads && class == PeerClass::Internet)
    }

    /// Whether downloads of this priority may use HTTP.
    pub fn permit_http(&self, foreground: bool) -> bool {
        foreground || !self.closed().background_http
    }

    /// Whether cache hosts may be used.
    pub fn permit_cache_hosts(&self) -> bool {
        !self.closed().cache_hosts
    }
}

impl FromIterator<Gate> for Gates {
    fn from_iter<T: IntoIterator<Item = Gate>>(gates: T) -> Self {
        Self(gates.into_iter().collect())
    }
}

/// Part of the memory that firmware and kernel may keep for themselves: a machine sold with 4 GB reports between
/// 3.6 and 3.9 GiB and counts as one of 4 GB.
const RAM_RESERVED_DIVISOR: u64 = 8;

/// What is known of the device's group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupStanding<'a> {
    /// There is no group id.
    None,
    /// The device is of a group and can prove it.
    Member,
    /// The device is of a group and can't prove it, for this reason.
    Unproven(&'a str),
}

/// Every gate that is closed, given the device's mode. What the mode does not permit anyhow closes no gate.
pub fn gates(policies: &Policies, device: &Device, group: GroupStanding<'_>) -> Gates {
    let mode = policies.download_mode();
    let permits = permits(mode);
    let mut gates = Vec::new();
    if permits.peers {
        gates.extend(too_small(policies, device));
        if mode == DownloadMode::Group {
            gates.extend(match group {
                GroupStanding::None => Some(Gate::NoGroup),
                GroupStanding::Member => None,
                GroupStanding::Unproven(why) => Some(Gate::Membership {
                    why: why.to_owned(),
                }),
            });
        }
    }
    if let Some(adapter) = vpn(&device.adapters, policies.vpn_keywords()) {
        // What DNS-SD finds is on the link, whatever else is up (policies, section 2.4).
        let peers_allowed = policies.allow_vpn_peer_caching()
            || policies.restrict_peer_selection_by() == PeerRestriction::LocalDiscovery;
        if permits.peers && !peers_allowed {
            let adapter = shown(adapter);
            gates.push(Gate::Vpn { adapter });
        }
        if permits.cache_host && policies.disallow_cache_server_downloads_on_vpn() {
            let adapter = shown(adapter);
            gates.push(Gate::CacheHostOnVpn { adapter });
        }
    }
    if permits.peers {
        gates.extend(battery(policies, device));
    }
    if permits.http && device.metered == Some(true) {
        gates.push(Gate::Metered);
    }
    if let (true, Some(cap), Some(sent)) = (
        permits.internet,
        policies.monthly_upload_data_cap(),
        device.internet_bytes_this_month,
    ) && sent >= cap
    {
        gates.push(Gate::MonthlyCap { sent, cap });
    }
    Gates(gates)
}

fn too_small(policies: &Policies, device: &Device) -> impl Iterator<Item = Gate> {
    let wanted = policies.min_ram_allowed_to_peer();
    let least = wanted - wanted / RAM_RESERVED_DIVISOR;
    let ram = device.ram_total.filter(|has| *has < least);
    let ram = ram.map(|has| Gate::Ram { has, wanted });
    let wanted = policies.min_disk_size_allowed_to_peer();
    let disk = device.disk_total.filter(|has| *has < wanted);
    ram.into_iter()
        .chain(disk.map(|has| Gate::Disk { has, wanted }))
}

/// On battery nothing is uploaded, or only from a charge on. A charge that is not known is too low.
fn battery(policies: &Policies, device: &Device) -> Option<Gate> {
    let power = device.power.filter(|power| power.on_battery)?;
    let wanted = policies.min_battery_percentage_allowed_to_upload();
    let enough = wanted.is_some_and(|least| power.charge.is_some_and(|charge| charge >= least));
    (!enough).then_some(Gate::Battery {
        charge: power.charge,
        wanted,
    })
}

/// The first adapter that is a VPN: by its kind, or by a word in its name or description, whatever the case of its
/// letters (policies, section 3: `MSFTVPN` has the word `VPN`).
pub fn vpn<'a>(adapters: &'a [Adapter], keywords: &[String]) -> Option<&'a Adapter> {
    let words: Vec<String> = BUILT_IN_VPN_KEYWORDS
        .into_iter()
        .chain(keywords.iter().map(String::as_str))
        .map(str::to_lowercase)
        .filter(|word| !word.is_empty())
        .collect();
    adapters.iter().find(|adapter| {
        let names = [&adapter.name, &adapter.description].map(|name| name.to_lowercase());
        adapter.kind.is_vpn()
            || words
                .iter()
                .any(|word| names.iter().any(|name| name.contains(word)))
    })
}

fn shown(adapter: &Adapter) -> String {
    let Adapter {
        name,
        description,
        kind,
    } = adapter;
    match description.as_str() {
        "" => format!("{kind} {name}"),
        description => format!("{kind} {name}, {description}"),
    }
}

#[cfg(test)]
mod tests;
