//! The machine's side of the settings: looked at when the kernel, NetworkManager or a file says that it has changed,
//! and put in force when that makes a difference.

use crate::{Engine, cloud, config::EngineConfig, shared::Settings};
use dosvc_content::DownloadMode;
use dosvc_host::{Changes, Connectivity, Directory, Host, Lease};
use dosvc_policy::{
    CacheHostSource, Device, Gate, GroupFacts, GroupIdSource, Policies, ResolvedGroup,
    resolve_group,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often the machine is looked at while it has a battery and anything is going on: a charge that falls is not
/// always told.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What is known about the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) device: Device,
    lease: Lease,
    dns_suffix: Option<String>,
    connectivity: Connectivity,
    directory: Directory,
}

impl Facts {
    /// Looks at the machine, its directory left out, and at the disk that the cache lies on: reads files, blocks
    /// shortly.
    pub(crate) fn look(
        host: &Host,
        cache_dir: &Path,
        connectivity: Connectivity,
        directory: Directory,
    ) -> Self {
        let lease = host.lease(&connectivity);
        Self {
            device: host.device(cache_dir, &connectivity),
            dns_suffix: host.dns_suffix(&lease),
            lease,
            connectivity,
            directory,
        }
    }

    /// The same, with what is known from asking others kept.
    pub(crate) fn look_again(&self, host: &Host, cache_dir: &Path) -> Self {
        let (connectivity, directory) = (self.connectivity.clone(), self.directory.clone());
        Self::look(host, cache_dir, connectivity, directory)
    }

    /// The device's group. Other modes than 2 have no sources for it, only a configured id.
    pub(crate) fn group(&self, config: &EngineConfig) -> Option<ResolvedGroup> {
        let mut facts = GroupFacts {
            tenant_id: config.tenant_id.clone(),
            ..GroupFacts::default()
        };
        if config.policies.download_mode() == DownloadMode::Group {
            facts = GroupFacts {
                ad_site: self.directory.site.clone(),
                domain_sid: self.directory.sid.clone(),
                dhcp_option: self.lease.group.clone(),
                dns_suffix: self.dns_suffix.clone(),
                ..facts
            };
        } else {
            facts.tenant_id = None;
        }
        resolve_group(&config.policies, &facts)
    }

    /// Cache hosts in the order in which they are tried (policies, section 6.3). An empty `cache_host` counts as
    /// configured.
    pub(crate) fn cache_hosts(&self, policies: &Policies) -> Vec<String> {
        let dhcp = || self.lease.cache_hosts.clone();
        let configured = policies.cache_host().map(<[String]>::to_vec);
        match policies.cache_host_source() {
            Some(CacheHostSource::DhcpForce) if !self.lease.cache_hosts.is_empty() => dhcp(),
            Some(CacheHostSource::Dhcp | CacheHostSource::DhcpForce) => {
                configured.unwrap_or_else(dhcp)
            }
            Some(CacheHostSource::NotSet) | None => configured.unwrap_or_default(),
        }
    }

    /// Whether the directory can change the group's id.
    fn wants_directory(&self, config: &EngineConfig) -> bool {
        let policies = &config.policies;
        let has_value = match policies.group_id_source() {
            GroupIdSource::TenantId => true,
            GroupIdSource::DhcpOption => self.lease.group.is_some(),
            GroupIdSource::DnsSuffix => self.dns_suffix.is_some(),
            GroupIdSource::Automatic | GroupIdSource::AdSite | GroupIdSource::DomainSid => false,
        };
        policies.download_mode() == DownloadMode::Group
            && policies.group_id().is_none()
            && !has_value
    }
}

/// Follows the machine until the engine ends.
pub(crate) async fn follow(engine: Engine) {
    let shared = engine.shared();
    let ended = shared.cancel.clone();
    let following = async {
        let mut changes = Changes::listen(shared.host.root()).await;
        loop {
            engine.look(changes.connectivity().await).await;
            let looked = Instant::now();
            // One future for the whole wait: a change that it waits out is not lost.
            let mut changed = std::pin::pin!(changes.changed());
            loop {
                let watched = shared.settings().facts.device.power.is_some();
                let busy = watched && shared.has_swarms();
                tokio::select! {
                    () = &mut changed => break,
                    () = shared.look.notified() => break,
                    // Nothing was looked at while nothing was going on.
                    () = shared.swarm_started.notified() => {
                        if watched && looked.elapsed() >= LOOK_INTERVAL {
                            break;
                        }
                    }
                    () = tokio::time::sleep_until(looked + LOOK_INTERVAL), if busy => break,
                }
            }
        }
    };
    tokio::select! {
        () = ended.cancelled() => {}
        () = following => {}
    }
}

impl Engine {
    /// Looks at the machine and puts in force what follows.
    async fn look(&self, connectivity: Connectivity) {
        let shared = self.shared();
        let _turn = shared.changing.lock().await;
        let old = shared.settings();
        let host = shared.host.clone();
        let looking = tokio::task::spawn_blocking({
            let (old, store) = (old.clone(), Arc::clone(&shared.store));
            move || {
                let none = Directory::default();
                let mut facts = Facts::look(&host, store.cache_dir(), connectivity, none);
                if facts.wants_directory(&old.config) {
                    facts.directory = dosvc_host::directory(host.root());
                }
                facts
            }
        });
        let Ok(facts) = looking.await else { return };
        shared.forget_links();
        cloud::device_changed(shared);
        let settings = Settings::new(old.config.clone(), facts, &shared.membership);
        if settings.facts == old.facts
            && settings.group_key == old.group_key
            && settings.gates == old.gates
        {
            return;
        }
        tracing::debug!(facts = ?settings.facts, "the machine has changed");
        if let Err(error) = self.put_in_force(settings).await {
            tracing::error!(%error, "peers cannot be used");
        }
    }
}

/// Says which gates have closed and opened, and which group this is.
pub(crate) fn log_changes(old: Option<&Settings>, new: &Settings) {
    let closed = |settings: &Settings, name| settings.gates.iter().any(|g| g.name() == name);
    let was_closed = |gate: &&Gate| old.is_some_and(|old| closed(old, gate.name()));
    for gate in new.gates.iter().filter(|gate| !was_closed(gate)) {
        tracing::warn!(gate = gate.name(), code = %gate.hresult(), "{gate}");
    }
    let reopened = old.into_iter().flat_map(|old| old.gates.iter());
    for gate in reopened.filter(|gate| !closed(new, gate.name())) {
        tracing::info!(gate = gate.name(), "open again");
    }
    let group = |settings: &Settings| settings.group_id.clone();
    if let Some(found) = group(new).filter(|found| old.and_then(group).as_ref() != Some(found)) {
        tracing::info!(from = %found.from, "this machine is of a group");
        // The id and its hash are what members prove to know: as in the original, only the verbose log has them.
        tracing::debug!("Using groupID = {}", found.id.as_str());
        tracing::debug!("Hashed groupID = {}", found.id.hash());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_policy::{Provider, RawValue};

    /// Every combination of `cache_host`, `cache_host_source` and DHCP option 235.
    #[test]
    fn cache_hosts_come_from_where_the_policies_say() {
        let table = [
            // configured, source, DHCP: hosts
            (None, None, "", ""),
            (None, None, "d", ""),
            (None, Some(0), "d", ""),
            (None, Some(1), "d", "d"),
            (None, Some(1), "", ""),
            (None, Some(2), "d", "d"),
            (Some("c"), None, "d", "c"),
            (Some("c"), Some(0), "d", "c"),
            (Some("c"), Some(1), "d", "c"),
            (Some("c"), Some(2), "d", "d"),
            (Some("c"), Some(2), "", "c"),
            // Empty counts as configured.
            (Some(""), Some(1), "d", ""),
            (Some(""), Some(2), "d", "d"),
        ];
        for (configured, source, dhcp, expected) in table {
            let mut policies = Policies::default();
            let mut set = |key, value| policies.set(key, &value, &Provider::Command).unwrap();
            if let Some(hosts) = configured {
                set("cache_host", RawValue::Text(hosts.to_owned()));
            }
            if let Some(source) = source {
                set("cache_host_source", RawValue::Integer(source));
            }
            let mut facts = Facts::default();
            facts.lease.cache_hosts = dhcp.chars().map(String::from).collect();
            let case = format!("{configured:?} {source:?} {dhcp:?}");
            assert_eq!(facts.cache_hosts(&policies).concat(), expected, "{case}");
        }
    }

    #[test]
    fn sources_of_the_group_count_in_mode_2_only() {
        let facts = Facts {
            dns_suffix: Some("office.example".to_owned()),
            ..Facts::default()
        };
        for (mode, has_group) in [(0, false), (1, false), (2, true), (3, false), (99, false)] {
            let mut policies = Policies::default();
            for (key, value) in [("download_mode", mode), ("group_id_source", 4)] {
                let value = RawValue::Integer(value);
                policies.set(key, &value, &Provider::Command).unwrap();
            }
            let config = EngineConfig::new("/nowhere".into(), policies);
            assert_eq!(facts.group(&config).is_some(), has_group, "mode {mode}");
        }
    }
}
