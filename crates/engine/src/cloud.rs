//! The fleet's cloud as the engine uses it: open while the mode permits it, told of what may be shared, asked for peers.

use crate::{
    api::{CloudFailure, CloudService, CloudStatus},
    config::CloudSettings,
    mapped,
    shared::{Scope, Settings, Shared},
};
use dosvc_content::{DownloadMode, HashOfHashes};
use dosvc_discovery::cloud::{
    self, Announcement, ArrayPeer, ArraySearch, Cloud, CloudConfig, CloudError, Device, Failure,
    Part, ServiceState,
};
use dosvc_host::{Interface, Links};
use dosvc_piece_store::{ContentInfo, ContentKey};
use dosvc_policy::{PeerClass, PeerRestriction};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use url::Url;

/// The file in the state folder that holds what the services answered.
const STATE_FILE: &str = "cloud.json";
/// Nobody's swarm port is a system's: an array can't send us to mail servers.
const PORT_MIN: u16 = 1024;

/// A client that runs, and the settings that it was made of.
#[derive(Debug)]
pub(crate) struct OpenCloud {
    settings: CloudSettings,
    pub(crate) cloud: Arc<Cloud>,
}

/// Opens and closes what settings permit, and says what is true of the machine. Without peers nothing is joined.
pub(crate) async fn review(shared: &Arc<Shared>) -> Result<(), CloudError> {
    let settings = shared.settings();
    let wanted = settings.config.cloud.clone();
    let wanted = wanted.filter(|_| settings.permits.cloud);
    let open = shared.cloud.load_full();
    if open.as_ref().map(|open| &open.settings) != wanted.as_ref() {
        close(shared).await;
        if let Some(wanted) = wanted {
            let config = CloudConfig {
                geo_url: wanted.geo_url.clone(),
                geo_version_url: wanted.geo_version_url.clone(),
                ca_file: wanted.ca_file.clone(),
                peer_id: shared.peer_id,
                state_file: settings.config.state_dir.join(STATE_FILE),
            };
            // Reads files.
            let started = tokio::task::spawn_blocking(move || Cloud::start(&config)).await;
            if let Ok(started) = started {
                let cloud = Arc::new(started?);
                shared.cloud.store(Some(Arc::new(OpenCloud {
                    settings: wanted,
                    cloud,
                })));
            }
        }
    }
    device_changed(shared);
    if let Some(cloud) = shared.cloud().filter(|_| !joins(&settings)) {
        cloud.withdraw_all();
    }
    Ok(())
}

/// Leaves the arrays and ends the client.
pub(crate) async fn close(shared: &Shared) {
    if let Some(open) = shared.cloud.swap(None) {
        open.cloud.stop().await;
    }
}

/// The machine may have other addresses, or its network back.
pub(crate) fn device_changed(shared: &Shared) {
    if let Some(cloud) = shared.cloud() {
        cloud.set_device(device(shared));
        cloud.try_again();
    }
}

/// Whether an array has anything to do with these settings: peers that only DNS-SD finds are not asked for.
fn joins(settings: &Settings) -> bool {
    let restriction = settings.config.policies.restrict_peer_selection_by();
    settings.peering && restriction != PeerRestriction::LocalDiscovery
}

fn device(shared: &Shared) -> Device {
    let settings = shared.settings();
    let group = settings
        .group
        .filter(|_| settings.mode == DownloadMode::Group)
        .map(|group| *group.group());
    let (ipv4, ipv6) = shared.with_links(addresses_of);
    Device {
        port: mapped::external_port(shared).unwrap_or_else(|| shared.listen_port()),
        ipv4,
        ipv6,
        teredo: None,
        group,
    }
}

/// The addresses that others on the machine's networks reach it at: of the first interface that has one.
fn addresses_of(links: &Links) -> (Option<(Ipv4Addr, Ipv4Addr)>, Option<Ipv6Addr>) {
    let usable = |i: &&Interface| i.up && !i.loopback && !i.point_to_point;
    let addresses = || {
        let interfaces = links.interfaces().iter().filter(usable);
        interfaces.flat_map(|i| i.addrs.iter().copied())
    };
    let ipv4 = addresses().find_map(|(address, prefix)| match address {
        IpAddr::V4(v4) if !v4.is_link_local() => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            Some((v4, Ipv4Addr::from_bits(mask)))
        }
        _ => None,
    });
    let ipv6 = addresses().find_map(|(address, _)| match address {
        IpAddr::V6(v6) if is_routed(v6) => Some(v6),
        _ => None,
    });
    (ipv4, ipv6)
}

/// Global or unique local, and no Teredo address.
fn is_routed(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    let global = first & 0xe000 == 0x2000 && address.segments()[..2] != [0x2001, 0];
    global || address.is_unique_local()
}

/// What an array is told of a content of this scope at least; nothing when it is for no array.
pub(crate) fn announcement(
    settings: &Settings,
    scope: &Scope,
    content: HashOfHashes,
) -> Option<Announcement> {
    let of_mode = cloud::Scope::of_mode(scope.mode)?;
    if !scope.offered || !joins(settings) {
        return None;
    }
    let given = PeerClass::ALL
        .iter()
        .any(|class| settings.gates.permit_upload(*class));
    Some(Announcement {
        restricted_upload: !given,
        ..Announcement::new(content, of_mode, scope.group.map(|group| *group.group()))
    })
}

/// What an array is told of a content that lies in the cache.
pub(crate) fn held(
    settings: &Settings,
    scope: &Scope,
    content: HashOfHashes,
    info: &ContentInfo,
) -> Option<Announcement> {
    let url = info.urls.first().and_then(|url| Url::parse(url).ok());
    Some(Announcement {
        url: url.as_ref().and_then(Announcement::catalog_id),
        part: if info.is_complete() {
            Part::All
        } else {
            Part::Some
        },
        left: info
            .lengths
            .content_length()
            .saturating_sub(info.bytes_have),
        ..announcement(settings, scope, content)?
    })
}

/// Looks for peers of a content of which nothing is here, not even its length.
pub(crate) fn search(
    shared: &Arc<Shared>,
    scope: &Scope,
    content: HashOfHashes,
) -> Option<ArraySearch> {
    let cloud = shared.cloud()?;
    Some(cloud.find(Announcement {
        wanted: true,
        restricted_upload: true,
        left: 1,
        ..announcement(&shared.settings(), scope, content)?
    }))
}

/// Where a peer that an array has named can be dialled, the nearest address first.
/// Addresses that no peer can have for us (this machine, a link's own) are left out, and so are system ports: whoever
/// joins can say anything.
pub(crate) fn addresses(shared: &Shared, peer: &ArrayPeer) -> Vec<SocketAddr> {
    let own = shared.cloud().and_then(|cloud| cloud.external_ip());
    let near = [peer.lan_ip.map(IpAddr::V4), peer.lan_ipv6.map(IpAddr::V6)];
    let far = peer.external_ip.filter(|address| Some(*address) != own);
    let candidates: Vec<IpAddr> = match peer.scope {
        cloud::Scope::Lan => near.into_iter().flatten().collect(),
        cloud::Scope::Group => near.into_iter().chain([far]).flatten().collect(),
        cloud::Scope::Internet => [far, near[1]].into_iter().flatten().collect(),
    };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in candidates.into_iter().filter(is_dialled) {
        let address = address.to_canonical();
        let socket = SocketAddr::new(address, peer.port);
        if peer.port >= PORT_MIN && !addresses.contains(&socket) {
            addresses.push(socket);
        }
    }
    addresses
}

fn is_dialled(address: &IpAddr) -> bool {
    let link_local = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let address = address.to_canonical();
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// The client's status as the local API has it.
pub(crate) fn status(status: &cloud::CloudStatus) -> CloudStatus {
    let services = status.services.iter().map(|service| CloudService {
        service: service.service.to_owned(),
        state: match service.state {
            ServiceState::NotAsked => "not_asked",
            ServiceState::Asking => "asking",
            ServiceState::Answered => "answered",
            ServiceState::Stale => "stale",
            ServiceState::Failing => "failing",
        }
        .to_owned(),
        next_ms: service.next.map(milliseconds),
        known: service.known.clone(),
        failure: service.failure.as_ref().map(failure),
    });
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    CloudStatus {
        geo_url: status.geo_url.clone(),
        external_ip: status.external_ip.map(|address| address.to_string()),
        joined: count(status.joined),
        contents: count(status.members),
        services: services.collect(),
    }
}

fn failure(failure: &Failure) -> CloudFailure {
    CloudFailure {
        name: failure.name().to_owned(),
        code: failure.hresult().to_string(),
        message: failure.to_string(),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Where one content stands with its array, in words.
pub(crate) fn explain(shared: &Shared, key: Option<ContentKey>) -> Option<String> {
    let cloud = shared.cloud()?;
    let Some(ContentKey::Hashed(hash)) = key else {
        return Some("not asked: only content with a hash file is joined".to_owned());
    };
    let settings = shared.settings();
    if !joins(&settings) {
        return Some(match settings.peering {
            true => "not asked: only peers found by DNS-SD are used".to_owned(),
            false => "not asked: peers are not used".to_owned(),
        });
    }
    let Some(member) = cloud.member(&hash) else {
        return Some(
            "not joined: the content is not for others, or nothing of it is here".to_owned(),
        );
    };
    let next = match member.next {
        _ if member.asking => "being asked".to_owned(),
        Some(next) => format!("asked next in {} s", next.as_secs()),
        None => "asked later".to_owned(),
    };
    if let Some(failure) = member.broken.as_ref().or(member.failure.as_ref()) {
        let code = failure.hresult();
        return Some(format!("out of reach: {failure} ({code}); {next}"));
    }
    Some(match member.peers {
        None => format!("not joined yet; {next}"),
        Some(peers) => {
            let listed = match member.listed {
                true => "joined",
                false => "not listed (somebody else has our id there, or there is no room)",
            };
            let array = member.array.unwrap_or_default();
            format!("{listed}; {array} named {peers} peers; {next}")
        }
    })
}
