//! The fleet's cloud as the engine uses it: open while the mode permits it, told of what may be shared, asked for peers.

use crate::{
    api::{CloudFailure, CloudService, CloudStatus},
    calls,
    config::CloudSettings,
    mapped, quic,
    route::Route,
    shared::{Scope, Settings, Shared},
};
use dosvc_content::{DownloadMode, HashOfHashes};
use dosvc_discovery::cloud::{
    self, Announcement, ArrayPeer, ArraySearch, Cloud, CloudConfig, CloudError, Device, Failure,
    Part, ServiceState,
};
use dosvc_host::{Interface, Links};
use dosvc_nat::{quic::PORT, teredo::is_global};
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
                if let Some(seekers) = cloud.seekers() {
                    shared.tasks.spawn(calls::run(Arc::clone(shared), seekers));
                }
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
        teredo: shared.tunnel().and_then(|tunnel| tunnel.address()),
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

/// The ways to a peer that an array has named.
///
/// Whoever joins can say anything, so its addresses can't send us to what is ours: this machine, a link's own addresses and
/// system ports are left out, and beyond LAN and group what leads into private networks, unless the array itself is in one
/// and sees us there.
pub(crate) fn routes(shared: &Shared, peer: &ArrayPeer) -> Vec<Route> {
    let own = shared.cloud().and_then(|cloud| cloud.external_ip());
    let private_too = own.is_some_and(|own| !is_public(own));
    let addresses = addresses(peer, own, private_too);
    let mut routes: Vec<Route> = Vec::new();
    for address in addresses {
        for route in quic::routes(shared, address) {
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
    }
    let teredo = peer.teredo_ipv6.filter(|_| peer.scope != cloud::Scope::Lan);
    if let (Some(teredo), Some(tunnel)) = (teredo, shared.tunnel()) {
        let address = SocketAddr::new(teredo.into(), PORT);
        let of = |transport| Route { transport, address };
        routes.extend(tunnel.transports().map(of));
    }
    routes
}

/// Where it may be dialled without a tunnel, the nearest address first.
fn addresses(peer: &ArrayPeer, own: Option<IpAddr>, private_too: bool) -> Vec<SocketAddr> {
    let near = [peer.lan_ip.map(IpAddr::V4), peer.lan_ipv6.map(IpAddr::V6)];
    let far = peer.external_ip.filter(|address| Some(*address) != own);
    let candidates: Vec<IpAddr> = match peer.scope {
        cloud::Scope::Lan => near.into_iter().flatten().collect(),
        cloud::Scope::Group => near.into_iter().chain([far]).flatten().collect(),
        cloud::Scope::Internet => {
            let known = [far, near[1]].into_iter().flatten();
            known.filter(|a| private_too || is_public(*a)).collect()
        }
    };
    let dialled = candidates.iter().filter(|address| is_dialled(address));
    dialled
        .filter(|_| peer.port >= PORT_MIN)
        .map(|address| SocketAddr::new(address.to_canonical(), peer.port))
        .collect()
}

/// Whether the address is one of the Internet's, as far as ranges tell.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_global(v4),
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}

fn is_dialled(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        // A Teredo address that is no tunnel's end here would go out by somebody else's.
        IpAddr::V6(v6) => v6.is_unicast_link_local() || quic::is_teredo(address),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::PeerId;

    fn peer(scope: cloud::Scope, external: &str, ipv6: &str) -> ArrayPeer {
        ArrayPeer {
            peer_id: PeerId::from_random([1; 16]),
            scope,
            lan_ip: Some(Ipv4Addr::new(10, 1, 2, 3)),
            lan_ipv6: ipv6.parse().ok(),
            external_ip: external.parse().ok(),
            teredo_ipv6: None,
            port: 7680,
        }
    }

    #[test]
    fn who_is_named_can_not_send_us_inward() {
        let own = "93.184.216.34".parse().ok();
        for (external, ipv6, private_too, expected) in [
            (
                "8.8.8.8",
                "2a00::5",
                false,
                vec!["8.8.8.8:7680", "[2a00::5]:7680"],
            ),
            ("192.168.1.1", "fd00::1", false, vec![]),
            ("10.0.0.1", "::1", false, vec![]),
            ("100.64.0.1", "fe80::1", false, vec![]),
            ("127.0.0.1", "ff02::1", true, vec![]),
            ("169.254.169.254", "::ffff:127.0.0.1", true, vec![]),
            ("224.0.0.251", "2001:0:102:304::1", true, vec![]),
            ("255.255.255.255", "::", true, vec![]),
            // Our own.
            ("93.184.216.34", "::1", true, vec![]),
            // The array is in a private network, and so are all whom it names.
            (
                "10.0.0.1",
                "fd00::1",
                true,
                vec!["10.0.0.1:7680", "[fd00::1]:7680"],
            ),
        ] {
            let named = peer(cloud::Scope::Internet, external, ipv6);
            let found = addresses(&named, own, private_too);
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{external} {ipv6}");
        }
        let mut mail = peer(cloud::Scope::Internet, "8.8.8.8", "");
        mail.port = 25;
        assert!(addresses(&mail, own, true).is_empty());
    }

    #[test]
    fn the_lan_is_reached_by_its_own_addresses() {
        let named = peer(cloud::Scope::Lan, "8.8.8.8", "fd00::1");
        let found = addresses(&named, None, false);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.1.2.3:7680", "[fd00::1]:7680"]);
    }
}
