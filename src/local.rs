//! The seam between the commands and the engine: everything that the local API, `get` and `run` ask of it.
//!
//! A trait, so that the API and its client are tested against an engine that does what a test says.

use crate::config::{
    CacheConfig, Config, DaemonConfig, DiscoveryConfig, NatConfig, PublicKey, TransferConfig,
};
pub(crate) use dosvc_engine::Engine;
use dosvc_engine::{
    CloudSettings, EngineConfig, NatSettings, TeredoSettings, TunnelReport,
    api::{
        CacheEntry, EngineStatus, Explanation, GetRequest, ImportRequest, JobError, JobId,
        JobStatus, PeerInfo,
    },
};
use std::{fs::File, future::Future, num::NonZeroUsize};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod membership;

/// What the engine does for its callers.
pub(crate) trait Local: Clone + Send + Sync + 'static {
    /// Begins a download.
    fn get(&self, request: GetRequest) -> impl Future<Output = Result<JobId, JobError>> + Send;
    /// A download's present state.
    fn job(&self, id: JobId) -> Option<JobStatus>;
    /// All downloads.
    fn jobs(&self) -> Vec<JobStatus>;
    /// A download's state as it changes.
    fn watch(&self, id: JobId) -> Option<watch::Receiver<JobStatus>>;
    /// Stops a download so that it can go on.
    fn pause(&self, id: JobId) -> impl Future<Output = Result<(), JobError>> + Send;
    /// Goes on with it.
    fn resume(&self, id: JobId) -> impl Future<Output = Result<(), JobError>> + Send;
    /// Ends it.
    fn cancel(&self, id: JobId) -> impl Future<Output = Result<(), JobError>> + Send;
    /// The complete, verified file, read-only, and its length in bytes.
    fn open_file(&self, id: JobId) -> impl Future<Output = Result<(File, u64), JobError>> + Send;
    /// The caller has taken the file.
    fn release(&self, id: JobId) -> impl Future<Output = ()> + Send;
    /// What is in the cache.
    fn cache(&self) -> impl Future<Output = Vec<CacheEntry>> + Send;
    /// Pins a file, or takes the pin away.
    fn pin(&self, file_id: &str, pinned: bool)
    -> impl Future<Output = Result<(), JobError>> + Send;
    /// Deletes one file, or all that are not in use; answers with how many.
    fn delete(
        &self,
        file_id: Option<&str>,
        include_pinned: bool,
    ) -> impl Future<Output = Result<u64, JobError>> + Send;
    /// Takes an open file of this machine into the cache, once it agrees with its hash file.
    fn import(
        &self,
        file: File,
        request: ImportRequest,
    ) -> impl Future<Output = Result<CacheEntry, JobError>> + Send;
    /// Takes a new configuration over; answers with what needs a restart to take effect.
    fn reconfigure(&self, config: &Config) -> impl Future<Output = Vec<String>> + Send;
    /// The engine as a whole.
    fn status(&self) -> EngineStatus;
    /// Why a content is downloaded and shared the way it is.
    fn explain(&self, id: &str) -> impl Future<Output = Result<Explanation, JobError>> + Send;
    /// What goes on in the tunnel, while there is one.
    fn tunnel(&self) -> Option<TunnelReport>;
    /// Every peer of every content.
    fn peers(&self) -> impl Future<Output = Vec<PeerInfo>> + Send;
}

/// Starts an engine with this configuration.
pub(crate) async fn start(config: &Config) -> anyhow::Result<Engine> {
    Ok(Engine::start(engine_config(config)).await?)
}

/// The part of the configuration that the engine needs.
fn engine_config(config: &Config) -> EngineConfig {
    // Without `..`: a new key must go somewhere.
    let DaemonConfig {
        state_dir,
        listen,
        host_root,
        // What `run` itself goes by.
        api_socket: _,
        api_group: _,
        log_format: _,
        log_level: _,
    } = &config.daemon;
    let DiscoveryConfig {
        dns_sd,
        peers,
        tenant_id,
        geo_url,
        geo_version_url,
        cloud_ca_file,
        publisher_key,
    } = &config.discovery;
    let TransferConfig {
        max_active_foreground,
        max_active_background,
        max_active_uploads,
        pass_on_early,
        hash_threads,
    } = config.transfers;
    let NatConfig {
        quic,
        teredo_servers,
        teredo_port,
        port_mapping,
    } = &config.nat;
    let CacheConfig { keep_free } = config.cache;
    EngineConfig {
        policies: config.policies.clone(),
        state_dir: state_dir.clone(),
        cache_dir: config.policies.modify_cache_drive().map(Into::into),
        listen: listen.clone(),
        host_root: host_root.clone(),
        tenant_id: tenant_id.clone(),
        dns_sd: *dns_sd,
        port_mapping: *port_mapping,
        cloud: geo_url.clone().map(|geo_url| CloudSettings {
            geo_url,
            geo_version_url: geo_version_url.clone(),
            ca_file: cloud_ca_file.clone(),
            publisher_key: publisher_key.as_ref().map(PublicKey::bytes),
        }),
        membership: membership::settings(config),
        nat: NatSettings {
            quic: *quic,
            teredo: TeredoSettings {
                servers: teredo_servers.clone(),
                port: *teredo_port,
            },
        },
        static_peers: peers.clone(),
        active_foreground_max: max_active_foreground,
        active_background_max: max_active_background,
        active_uploads_max: max_active_uploads,
        pass_on_early,
        keep_free,
        hash_threads: hash_threads.and_then(NonZeroUsize::new),
    }
}

impl Local for Engine {
    async fn get(&self, request: GetRequest) -> Result<JobId, JobError> {
        Self::get(self, request).await
    }

    fn job(&self, id: JobId) -> Option<JobStatus> {
        Self::job(self, id)
    }

    fn jobs(&self) -> Vec<JobStatus> {
        Self::jobs(self)
    }

    fn watch(&self, id: JobId) -> Option<watch::Receiver<JobStatus>> {
        Self::watch(self, id)
    }

    async fn pause(&self, id: JobId) -> Result<(), JobError> {
        Self::pause(self, id).await
    }

    async fn resume(&self, id: JobId) -> Result<(), JobError> {
        Self::resume(self, id).await
    }

    async fn cancel(&self, id: JobId) -> Result<(), JobError> {
        Self::cancel(self, id).await
    }

    async fn open_file(&self, id: JobId) -> Result<(File, u64), JobError> {
        Self::open_file(self, id).await
    }

    async fn release(&self, id: JobId) {
        Self::release(self, id).await;
    }

    async fn cache(&self) -> Vec<CacheEntry> {
        Self::cache(self).await
    }

    async fn pin(&self, file_id: &str, pinned: bool) -> Result<(), JobError> {
        Self::pin(self, file_id, pinned).await
    }

    async fn delete(&self, file_id: Option<&str>, include_pinned: bool) -> Result<u64, JobError> {
        Self::delete(self, file_id, include_pinned).await
    }

    async fn import(&self, file: File, request: ImportRequest) -> Result<CacheEntry, JobError> {
        Self::import(self, file, request).await
    }

    async fn reconfigure(&self, config: &Config) -> Vec<String> {
        Self::reconfigure(self, engine_config(config)).await
    }

    fn status(&self) -> EngineStatus {
        Self::status(self)
    }

    async fn explain(&self, id: &str) -> Result<Explanation, JobError> {
        Self::explain(self, id).await
    }

    fn tunnel(&self) -> Option<TunnelReport> {
        Self::tunnel(self)
    }

    async fn peers(&self) -> Vec<PeerInfo> {
        Self::peers(self).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, keys::KEYS};

    /// Another value than the default for every key that is no policy, and whether the engine goes by it; the others
    /// are `run`'s own.
    const OTHER_VALUES: &[(&str, &str, bool)] = &[
        ("daemon.state_dir", "/elsewhere", true),
        ("daemon.listen", "127.0.0.1:1", true),
        ("daemon.api_socket", "/elsewhere/api.sock", false),
        ("daemon.api_group", "fleet", false),
        ("daemon.host_root", "/host", true),
        ("daemon.log_format", "json", false),
        ("daemon.log_level", "debug", false),
        ("discovery.dns_sd", "false", true),
        ("discovery.peers", "192.0.2.1", true),
        (
            "discovery.tenant_id",
            "00000000-0000-0000-0000-000000000009",
            true,
        ),
        ("discovery.geo_endpoint_full_uri", "https://c.test/", true),
        // These say more about a cloud, and alone there is none.
        (
            "discovery.geo_version_endpoint_full_uri",
            "https://c.test/v",
            false,
        ),
        ("discovery.cloud_ca_file", "/etc/ca.pem", false),
        (
            "discovery.publisher_key",
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            false,
        ),
        ("group.membership", "secret", true),
        // Read only where it is demanded.
        ("group.secret_file", "/x", false),
        ("group.authority_file", "/x", false),
        ("group.enrolment_url", "https://c.test/enrol", true),
        // Alone it enrols nowhere.
        ("group.enrolment_token_file", "/x", false),
        ("group.public_addresses", "192.0.2.1", true),
        ("nat.quic", "off", true),
        ("nat.teredo_servers", "198.51.100.10", true),
        ("nat.teredo_port", "1", true),
        ("nat.port_mapping", "false", true),
        ("cache.keep_free_percent", "37", true),
        ("transfers.max_active_foreground", "3", true),
        ("transfers.max_active_background", "3", true),
        ("transfers.max_active_uploads", "3", true),
        ("transfers.pass_on_early", "false", true),
        ("transfers.hash_threads", "3", true),
        ("managed.file", "/elsewhere/managed.toml", false),
        (
            "managed.public_key",
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            false,
        ),
        ("control_plane.services", "geo", false),
        ("control_plane.listen", "127.0.0.1:1", false),
        ("control_plane.certificate", "/x", false),
        ("control_plane.key", "/x", false),
        ("control_plane.allow_http", "true", false),
        ("control_plane.admin_listen", "127.0.0.1:1", false),
        ("control_plane.public_url", "http://x/", false),
        ("control_plane.arrays", "http://x/array/", false),
        ("control_plane.redis", "redis://x", false),
        ("control_plane.redis_sentinel", "x", false),
        ("control_plane.redis_password_file", "/x", false),
        ("control_plane.redis_ca_file", "/x", false),
        ("control_plane.redis_prefix", "x", false),
        ("control_plane.postgres", "postgresql://x@y/z", false),
        ("control_plane.postgres_password_file", "/x", false),
        ("control_plane.postgres_ca_file", "/x", false),
        ("control_plane.networks", "/x", false),
        ("control_plane.registered_callers", "x", false),
        ("control_plane.cache_hosts", "x", false),
        ("control_plane.trusted_proxies", "192.0.2.1", false),
        ("control_plane.join_interval", "60", false),
        ("control_plane.peers_per_answer", "3", false),
        ("control_plane.entries_max", "3", false),
        ("control_plane.entries_per_address_max", "3", false),
        ("control_plane.requests_per_second", "3", false),
        ("control_plane.token_requests_per_second", "3", false),
        ("control_plane.group_authority", "/x", false),
        ("control_plane.device_certificate_lifetime", "60", false),
        ("control_plane.connections_max", "3", false),
    ];

    #[test]
    fn every_key_reaches_the_engine_or_is_the_daemons_own() {
        let engine_with = |overrides: Vec<(String, String)>| {
            let options = LoadOptions {
                overrides,
                ..LoadOptions::default()
            };
            let config = Config::load(options).unwrap();
            let mut engine = engine_config(&config);
            // Only the other keys are looked at.
            engine.policies = dosvc_policy::Policies::default();
            (format!("{engine:?}"), config)
        };
        let (default, default_config) = engine_with(Vec::new());
        let paths: Vec<_> = OTHER_VALUES.iter().map(|(path, ..)| *path).collect();
        let all: Vec<_> = KEYS.iter().map(|spec| spec.path).collect();
        assert_eq!(paths, all);
        for (spec, (path, value, for_engine)) in KEYS.iter().zip(OTHER_VALUES) {
            let (engine, config) = engine_with(vec![((*path).into(), (*value).into())]);
            assert_ne!((spec.show)(&config), (spec.show)(&default_config), "{path}");
            assert_eq!(engine != default, *for_engine, "{path}");
        }
    }
}
