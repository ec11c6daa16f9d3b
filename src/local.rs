//! The seam between the commands and the engine: everything that the local API, `get` and `run` ask of it.
//!
//! A trait, so that the API and its client are tested against an engine that does what a test says.

use crate::config::{Config, DaemonConfig, DiscoveryConfig, TransferConfig};
pub(crate) use dosvc_engine::Engine;
use dosvc_engine::{
    EngineConfig,
    api::{
        CacheEntry, EngineStatus, GetRequest, ImportRequest, JobError, JobId, JobStatus, PeerInfo,
    },
};
use std::{fs::File, future::Future};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) mod fake;

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
    /// Every peer of every content.
    fn peers(&self) -> impl Future<Output = Vec<PeerInfo>> + Send;
}

/// Starts an engine with this configuration.
pub(crate) async fn start(config: &Config) -> anyhow::Result<Engine> {
    Ok(Engine::start(engine_config(config)).await?)
}

/// The part of the configuration that the engine needs.
fn engine_config(config: &Config) -> EngineConfig {
    let DaemonConfig {
        state_dir, listen, ..
    } = &config.daemon;
    let DiscoveryConfig { dns_sd, peers } = &config.discovery;
    let TransferConfig {
        max_active_foreground,
        max_active_background,
        ..
    } = config.transfers;
    EngineConfig {
        policies: config.policies.clone(),
        state_dir: state_dir.clone(),
        listen: listen.clone(),
        dns_sd: *dns_sd,
        static_peers: peers.clone(),
        active_foreground_max: max_active_foreground,
        active_background_max: max_active_background,
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

    async fn peers(&self) -> Vec<PeerInfo> {
        Self::peers(self).await
    }
}
