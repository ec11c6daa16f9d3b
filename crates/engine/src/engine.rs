//! The engine itself: start, jobs, cache, status, reload, shutdown.

use crate::{
    api::{
        CacheEntry, EngineStatus, Explanation, GateStatus, GetRequest, ImportRequest, JobError,
        JobId, JobState, JobStatus, MonthStatus, PeerInfo,
    },
    bandwidth::{self, HttpLimits},
    cache::{self, JobUse},
    cache_hosts::CacheHosts,
    cloud,
    config::EngineConfig,
    doors::Doors,
    errors::{deliver_error, internal_error, storage_error},
    explain, identity,
    jobs::{Control, Job},
    machine::{self, Facts},
    mapped,
    membership::{self, Membership},
    month,
    request::{Request, parse_hash_file},
    room,
    shared::{Parts, Settings, Shared, lock},
    swarm::Message,
    tunnel::{self, TunnelReport},
    upkeep,
};
use dosvc_content::{BLOCK_LENGTH_MAX, DownloadMode, HResult};
use dosvc_discovery::{DiscoveryError, cloud::CloudError};
use dosvc_host::{Connectivity, Directory, Host, Links, Root};
use dosvc_origin::{OriginClient, OriginConfig};
use dosvc_piece_store::{AddInfo, ContentKey, LocalFile, OpenError, Sharing, Store, StoreConfig};
use dosvc_policy::{Gate, MonthlyUploads, PeerClass};
use dosvc_wire::net::BlockPool;
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::{oneshot, watch};

/// Buffers for blocks under way, of 1 MiB each: what arrives and what waits to be hashed and written.
const BLOCK_BUFFERS_MAX: usize = 24;
/// Jobs remembered after they ended.
const ENDED_JOBS_MAX: usize = 200;
/// Jobs that have not ended.
const JOBS_MAX: usize = 10_000;
/// Pieces of the hash files that callers gave, of all remembered jobs together: 256 MiB of hashes.
const PIECES_KEPT_MAX: u64 = 8 << 20;
/// How long connections and disk work may take to end at shutdown.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long a swarm may take to tell its peers.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// What errors call a file that came open, without a name.
const IMPORTED_NAME: &str = "the file";

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The mode is one that this service refuses (100, Bypass).
    #[error("{message} ({code})")]
    Mode {
        /// The HRESULT.
        code: HResult,
        /// Why, and what to do.
        message: String,
    },
    /// The state folder can't be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The key that the peer id follows from can't be read or made.
    #[error("peer key in {path}: {source}")]
    PeerKey {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An address can't be listened on.
    #[error("cannot listen for peers: {0}")]
    Listen(#[source] std::io::Error),
    /// Discovery can't start.
    #[error("discovery: {0}")]
    Discovery(#[from] DiscoveryError),
    /// The client of the fleet's cloud can't start.
    #[error("the fleet's cloud: {0}")]
    Cloud(#[from] CloudError),
    /// The machine's network interfaces can't be listed.
    #[error("cannot list network interfaces: {0}")]
    Interfaces(#[source] std::io::Error),
}

/// A running engine. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    jobs: Arc<Jobs>,
    doors: Arc<tokio::sync::Mutex<Option<Doors>>>,
}

#[derive(Debug, Default)]
struct Jobs {
    by_id: Mutex<BTreeMap<JobId, Arc<Job>>>,
    next: AtomicU64,
}

impl Engine {
    /// Starts an engine on its state folder: opens the cache, listens for peers and answers for what is held, as far
    /// as the mode permits.
    ///
    /// # Errors
    /// [`EngineError`] says what could not be had. Nothing keeps running then.
    pub async fn start(config: EngineConfig) -> Result<Self, EngineError> {
        refuse_bypass(&config)?;
        let host = Host::new(Root::new(&config.host_root));
        let (store, identity, settings, membership, host) =
            tokio::task::spawn_blocking(move || {
                let mut store_config = StoreConfig::new(&config.state_dir);
                store_config.cache_dir.clone_from(&config.cache_dir);
                if let Some(threads) = config.hash_threads {
                    store_config.hash_threads = threads.get();
                }
                let store = Store::open(store_config)?;
                let identity = identity::load(&config.state_dir)?;
                // Who has to be asked and may not answer is asked later.
                let (bus, directory) = (Connectivity::default(), Directory::default());
                let facts = Facts::look(&host, store.cache_dir(), bus, directory);
                let membership = Membership::open(&config.state_dir);
                let settings = Settings::new(config, facts, &membership);
                Ok::<_, EngineError>((store, identity, settings, membership, host))
            })
            .await
            .map_err(|e| EngineError::Listen(std::io::Error::other(e)))??;
        let http_limits = Arc::new(HttpLimits::default());
        let with_limits = |config: OriginConfig| OriginConfig {
            limits: Arc::clone(&http_limits) as _,
            ..config
        };
        let shared = Arc::new(Shared::new(Parts {
            settings,
            membership,
            identity,
            store,
            host,
            origins: OriginClient::new(with_limits(OriginConfig::default())),
            cache_hosts: CacheHosts::new(with_limits(OriginConfig::cache_host())),
            pool: BlockPool::new(BLOCK_LENGTH_MAX as usize, BLOCK_BUFFERS_MAX),
            links: Links::snapshot().map_err(EngineError::Interfaces)?,
        }));
        http_limits.begin(&shared);
        let engine = Self {
            shared: Arc::clone(&shared),
            jobs: Arc::default(),
            doors: Arc::default(),
        };
        let opened = match engine.open_to_peers().await {
            Ok(()) => cloud::review(&shared).await.map_err(EngineError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            if let Some(doors) = engine.doors.lock().await.take() {
                doors.shut(&shared).await;
            }
            shared.cancel.cancel();
            return Err(error);
        }
        if shared.cloud().is_some() {
            upkeep::review_announcements(&shared).await;
        }
        tunnel::review(&shared).await;
        mapped::review(&shared).await;
        machine::log_changes(None, &shared.settings());
        shared.tasks.spawn(machine::follow(engine.clone()));
        shared.tasks.spawn(upkeep::sync_store(Arc::clone(&shared)));
        shared.tasks.spawn(upkeep::keep_cache(Arc::clone(&shared)));
        shared.tasks.spawn(bandwidth::keep(Arc::clone(&shared)));
        shared.tasks.spawn(month::keep(Arc::clone(&shared)));
        shared.tasks.spawn(membership::keep(Arc::clone(&shared)));
        let (mode, peer_id) = (shared.settings().mode, shared.peer_id);
        tracing::info!(%peer_id, %mode, listening = ?shared.listening.load(), "engine started");
        Ok(engine)
    }

    /// Opens and closes what settings permit to be open.
    async fn open_to_peers(&self) -> Result<(), EngineError> {
        let shared = &self.shared;
        let settings = shared.settings();
        let mut doors = self.doors.lock().await;
        if let Some(unsuitable) = doors.take_if(|doors| !doors.suit(&settings)) {
            unsuitable.shut(shared).await;
        }
        if doors.is_none() {
            *doors = Doors::open(shared).await?;
        }
        Ok(())
    }

    // Jobs

    /// Takes a download on. It runs until it is complete, fails or is cancelled.
    ///
    /// # Errors
    /// When the request makes no sense, or settings forbid it.
    pub async fn get(&self, request: GetRequest) -> Result<JobId, JobError> {
        // A hash file may have millions of pieces.
        let request = tokio::task::spawn_blocking(move || Request::parse(request))
            .await
            .map_err(|e| internal_error(&e))??;
        let mode = self.shared.settings().mode;
        self.check_mode(request.mode)?;
        let mut jobs = lock(&self.jobs.by_id);
        let running = jobs
            .values()
            .filter(|j| !j.status().state.is_final())
            .count();
        if running >= JOBS_MAX {
            return Err(JobError::new(
                HResult(0x80D0_3001),
                format!("{JOBS_MAX} downloads are waiting already"),
            ));
        }
        forget_ended(&mut jobs, ENDED_JOBS_MAX);
        let kept = |jobs: &BTreeMap<JobId, Arc<Job>>| -> u64 {
            jobs.values().map(|j| j.pieces_kept()).sum()
        };
        let job_pieces = request
            .hash_file
            .as_ref()
            .map_or(0, |file| u64::from(file.lengths().piece_count()));
        if job_pieces > 0 && kept(&jobs) + job_pieces > PIECES_KEPT_MAX {
            forget_ended(&mut jobs, 0);
            // A single one is never too large.
            if kept(&jobs) > 0 && kept(&jobs) + job_pieces > PIECES_KEPT_MAX {
                return Err(JobError::new(
                    HResult(0x80D0_3001),
                    "the hash files of the downloads that wait take too much memory; try again when some have ended",
                ));
            }
        }
        let id = JobId(self.jobs.next.fetch_add(1, Ordering::Relaxed) + 1);
        let job = Arc::new(Job::new(id, request, mode));
        jobs.insert(id, Arc::clone(&job));
        drop(jobs);
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let cancel = shared.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => {}
                () = job.run(shared) => {}
            }
        });
        Ok(id)
    }

    fn check_mode(&self, requested: Option<DownloadMode>) -> Result<(), JobError> {
        let settings = self.shared.settings();
        dosvc_policy::effective_mode(
            &settings.config.policies,
            requested,
            &dosvc_policy::ContentFacts::default(),
            &settings.gates,
        )
        .map(|_| ())
        .map_err(|e| JobError::new(e.hresult(), e.to_string()))
    }

    /// One job's state.
    pub fn job(&self, id: JobId) -> Option<JobStatus> {
        self.find(id).ok().map(|j| j.status())
    }

    /// Every job, oldest first; those that ended are remembered for a while.
    pub fn jobs(&self) -> Vec<JobStatus> {
        lock(&self.jobs.by_id)
            .values()
            .map(|j| j.status())
            .collect()
    }

    /// A job's state as it changes.
    pub fn watch(&self, id: JobId) -> Option<watch::Receiver<JobStatus>> {
        self.find(id).ok().map(|j| j.watch())
    }

    fn all_jobs(&self) -> Vec<Arc<Job>> {
        lock(&self.jobs.by_id).values().cloned().collect()
    }

    fn find(&self, id: JobId) -> Result<Arc<Job>, JobError> {
        lock(&self.jobs.by_id)
            .get(&id)
            .cloned()
            .ok_or_else(|| JobError::new(HResult::JOB_NOT_FOUND, format!("there is no job {id}")))
    }

    /// Stops a download for now; what is here stays.
    ///
    /// # Errors
    /// When there is no such job, or it has ended.
    pub async fn pause(&self, id: JobId) -> Result<(), JobError> {
        self.find(id)?.control(Control::Pause)
    }

    /// Lets a paused download go on.
    ///
    /// # Errors
    /// When there is no such job, or it has ended.
    pub async fn resume(&self, id: JobId) -> Result<(), JobError> {
        self.find(id)?.control(Control::Run)
    }

    /// Ends a download for good. What is here stays in the cache, for a later one.
    ///
    /// # Errors
    /// When there is no such job, or it has ended otherwise.
    pub async fn cancel(&self, id: JobId) -> Result<(), JobError> {
        self.find(id)?.control(Control::Cancel)
    }

    /// The complete, verified file of a job, opened read-only, and its length. The caller puts it at its
    /// destination with its own rights (`dosvc_piece_store::place`).
    ///
    /// # Errors
    /// When the job is not complete, or its file can't be opened.
    pub async fn open_file(&self, id: JobId) -> Result<(File, u64), JobError> {
        let job = self.find(id)?;
        let content = job.content().ok_or_else(|| match job.status().state {
            JobState::Complete => JobError::new(
                HResult::NOT_FOUND,
                format!("the file of job {id} was deleted from the cache; download it again"),
            ),
            _ => JobError::new(HResult::INVALID_STATE, format!("job {id} is not complete")),
        })?;
        let length = content.lengths().content_length();
        let file = tokio::task::spawn_blocking(move || content.open_for_delivery())
            .await
            .map_err(|e| internal_error(&e))?
            .map_err(|e| deliver_error(&e))?;
        Ok((file, length))
    }

    /// The caller has what it wanted: the job may be forgotten. Content that is not shared leaves the cache.
    pub async fn release(&self, id: JobId) {
        let Some(job) = lock(&self.jobs.by_id).remove(&id) else {
            return;
        };
        self.shared.taken.remember(&job);
        let _ = job.control(Control::Cancel);
        let plain = job
            .content()
            .map(|c| c.key())
            .filter(|k| matches!(k, ContentKey::Plain(_)));
        drop(job);
        if let Some(key) = plain
            // Whoever else wants it releases it.
            && cache::use_by(&self.all_jobs(), key) == JobUse::None
            && let Err(error) = cache::delete_one(&self.shared, key, true).await
        {
            tracing::info!(%key, %error, "content that was handed over stays in the cache");
        }
    }

    // Cache

    /// What is in the cache.
    pub async fn cache(&self) -> Vec<CacheEntry> {
        cache::entries(&self.shared).await
    }

    /// Pins a content (kept until its expiry, outside the quota; one year from now if it has none) or lets it go.
    ///
    /// # Errors
    /// When there is no such content, or it can't be pinned.
    pub async fn pin(&self, file_id: &str, pinned: bool) -> Result<(), JobError> {
        cache::pin(&self.shared, file_id, pinned).await
    }

    /// Removes one content, or all that no job has to do with, from the cache; returns how many went. A finished file
    /// that its caller has not taken yet counts as in use only when all are deleted.
    ///
    /// # Errors
    /// When there is no such content, a job uses it, or it is pinned and `include_pinned` is false.
    pub async fn delete(
        &self,
        file_id: Option<&str>,
        include_pinned: bool,
    ) -> Result<u64, JobError> {
        cache::delete(&self.shared, file_id, include_pinned, &self.all_jobs()).await
    }

    /// Takes an open file into the cache, so that peers can have it. Every piece is verified. The engine's user need
    /// not be able to open the file.
    ///
    /// # Errors
    /// When the file is not what the hash file says, can't be read or stored, or the cache has no room for it.
    pub async fn import(&self, file: File, request: ImportRequest) -> Result<CacheEntry, JobError> {
        let ImportRequest {
            hash_file_json,
            urls,
            link,
        } = request;
        let hash_file =
            tokio::task::spawn_blocking(move || parse_hash_file(hash_file_json.as_bytes(), None))
                .await
                .map_err(|e| internal_error(&e))??;
        let hash = hash_file.hash_of_hashes();
        let length = hash_file.lengths().content_length();
        let store = Arc::clone(&self.shared.store);
        let written = match link && may_be_linked(&file, store.cache_dir()) {
            true => 0,
            false => length,
        };
        let intake = room::intake(&self.shared, length, written).await?;
        tokio::task::spawn_blocking(move || {
            let info = AddInfo {
                urls,
                content_id: None,
                now: SystemTime::now(),
            };
            let local = LocalFile {
                file: &file,
                name: Path::new(IMPORTED_NAME),
                sharing: if link {
                    Sharing::HardLink
                } else {
                    Sharing::Independent
                },
            };
            let content = store.import_file(local, &hash_file, info, &mut |_| {})?;
            // Whoever hands a file in wants it shared, whatever was asked of it before.
            store.set_mode_limit(&content.key(), None)
        })
        .await
        .map_err(|e| internal_error(&e))?
        .map_err(|e| storage_error(&e))?;
        drop(intake);
        // Others may have to go for it.
        upkeep::enforce_with(&self.shared, 0).await;
        let settings = self.shared.settings();
        if let Some(discovery) = self.shared.discovery()
            && settings.scope(None).offered
            && settings.gates.permit_upload(PeerClass::Lan)
            && settings.is_large_enough(length)
        {
            discovery.announce(hash, true);
        }
        if self.shared.cloud().is_some() {
            upkeep::review_announcements(&self.shared).await;
        }
        self.shared.tell_swarms();
        let key = ContentKey::Hashed(hash).to_string();
        self.cache()
            .await
            .into_iter()
            .find(|e| e.file_id == key)
            .ok_or_else(|| JobError::new(HResult::NOT_FOUND, "the content was removed meanwhile"))
    }

    // Status

    /// The engine as a whole.
    pub fn status(&self) -> EngineStatus {
        let shared = &self.shared;
        let settings = shared.settings();
        let disk = dosvc_host::disk(shared.store.cache_dir()).unwrap_or(dosvc_host::Disk {
            total: 0,
            available: 0,
        });
        let cache_bytes = shared.store.bytes_on_disk();
        EngineStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: shared.started.elapsed().as_secs(),
            peer_id: shared.peer_id.to_string(),
            download_mode: settings.mode.number(),
            listening: shared.listening.load().as_ref().clone(),
            teredo: shared.tunnel().map(|tunnel| tunnel.standing()),
            state_dir: settings.config.state_dir.clone(),
            cache_dir: shared.store.cache_dir().to_owned(),
            cache_bytes,
            cache_bytes_max: cache::bytes_max(&settings, disk, cache_bytes),
            disk_total_bytes: disk.total,
            disk_available_bytes: disk.available,
            gates: gates_now(shared, &settings),
            downloaded: shared.totals.downloaded(),
            uploaded: shared.totals.uploaded(),
            bandwidth: shared.bandwidth.status(&settings.config.policies),
            month: month_status(shared, &settings),
            cloud: shared.cloud().map(|cloud| cloud::status(&cloud.status())),
            membership: shared.membership.status(&settings.config.membership),
            port_mapping: mapped::status(shared),
        }
    }

    /// Why a content is downloaded and shared the way it is; `id` is a download's number, or a file id or the beginning
    /// of one.
    ///
    /// # Errors
    /// When nothing is called that, or its mode is refused.
    pub async fn explain(&self, id: &str) -> Result<Explanation, JobError> {
        explain::explain(&self.shared, &self.all_jobs(), id).await
    }

    /// What goes on in the tunnel, while there is one.
    pub fn tunnel(&self) -> Option<TunnelReport> {
        self.shared.tunnel().map(|tunnel| tunnel.report())
    }

    /// The peers of every content that is active, connected or not.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        let mut infos = Vec::new();
        for (_, swarm) in self.shared.running_swarms() {
            let (reply, answer) = oneshot::channel();
            if swarm.messages.try_send(Message::Peers(reply)).is_ok()
                && let Ok(Ok(mut peers)) = tokio::time::timeout(ANSWER_TIME, answer).await
            {
                infos.append(&mut peers);
            }
        }
        infos
    }

    /// Puts new settings in force, in running downloads too. Returns the names of those that need a restart.
    pub async fn reconfigure(&self, config: EngineConfig) -> Vec<String> {
        let _turn = self.shared.changing.lock().await;
        let old = self.shared.settings();
        let mut restart = Vec::new();
        let mut config = config;
        let mut keep = |name: &str, differs: bool| {
            if differs {
                restart.push(name.to_owned());
            }
        };
        keep("state_dir", config.state_dir != old.config.state_dir);
        keep("cache_dir", config.cache_dir != old.config.cache_dir);
        keep("listen", config.listen != old.config.listen);
        keep("host_root", config.host_root != old.config.host_root);
        keep("dns_sd", config.dns_sd != old.config.dns_sd);
        keep(
            "hash_threads",
            config.hash_threads != old.config.hash_threads,
        );
        config.state_dir.clone_from(&old.config.state_dir);
        config.cache_dir.clone_from(&old.config.cache_dir);
        config.listen.clone_from(&old.config.listen);
        config.host_root.clone_from(&old.config.host_root);
        config.dns_sd = old.config.dns_sd;
        config.hash_threads = old.config.hash_threads;
        let host = self.shared.host.clone();
        let settings = tokio::task::spawn_blocking({
            let (old, shared) = (Arc::clone(&old), Arc::clone(&self.shared));
            move || {
                let facts = old.facts.look_again(&host, shared.store.cache_dir());
                Settings::new(config, facts, &shared.membership)
            }
        });
        let result = match settings.await {
            Ok(settings) => self.put_in_force(settings).await,
            Err(error) => Err(EngineError::Listen(std::io::Error::other(error))),
        };
        if let Err(error) = result {
            tracing::error!(%error, "peers cannot be used");
            restart.push("download_mode".to_owned());
        }
        // Whoever has to be asked may be wanted now.
        self.shared.look.notify_one();
        restart
    }

    /// Replaces the settings, in running downloads too. The caller holds [`Shared::changing`].
    pub(crate) async fn put_in_force(&self, settings: Settings) -> Result<(), EngineError> {
        machine::log_changes(Some(&self.shared.settings()), &settings);
        self.shared.replace_settings(settings);
        let opened = self.open_to_peers().await;
        tunnel::review(&self.shared).await;
        mapped::review(&self.shared).await;
        if let Err(error) = cloud::review(&self.shared).await {
            tracing::error!(%error, "the fleet's cloud is not used");
        }
        upkeep::review_announcements(&self.shared).await;
        // Again: now there is, or isn't, a discovery to search with.
        self.shared.tell_swarms();
        opened
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends everything: no new peers, connections closed, state written.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        tokio::join!(cloud::close(shared), mapped::close(shared));
        tunnel::close(shared).await;
        if let Some(doors) = self.doors.lock().await.take() {
            doors.shut(shared).await;
        }
        shared.cancel.cancel();
        shared.tasks.close();
        if tokio::time::timeout(DRAIN_TIME, shared.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks did not end in time");
        }
        lock(&self.jobs.by_id).clear();
        let ending = Arc::clone(shared);
        let written = tokio::task::spawn_blocking(move || {
            ending.ledger.close();
            ending.store.sync_all()
        });
        match written.await {
            Ok(Ok(())) => tracing::info!("engine stopped"),
            Ok(Err(error)) => tracing::error!(%error, "state could not be written at the end"),
            Err(error) => tracing::error!(%error, "state could not be written at the end"),
        }
    }
}

fn month_status(shared: &Shared, settings: &Settings) -> MonthStatus {
    let cap = settings.config.policies.monthly_upload_data_cap();
    let MonthlyUploads {
        month,
        lan,
        link_local,
        group,
        internet,
    } = shared.ledger.uploads();
    MonthStatus {
        month: month.to_string(),
        lan_bytes: lan,
        link_local_bytes: link_local,
        group_bytes: group,
        internet_bytes: internet,
        upload_limit_reached: shared.ledger.is_reached(cap),
    }
}

/// Every gate that is closed now.
pub(crate) fn gates_now(shared: &Shared, settings: &Settings) -> Vec<GateStatus> {
    let gates = settings.gates.iter();
    let cap = monthly_cap(shared, settings);
    gates.chain(&cap).map(GateStatus::of).collect()
}

/// The gate that the month's uploads close; they are counted as they go, so it is no part of the settings.
fn monthly_cap(shared: &Shared, settings: &Settings) -> Option<Gate> {
    let cap = settings.config.policies.monthly_upload_data_cap()?;
    let closed = settings.permits.internet && shared.ledger.is_reached(Some(cap));
    closed.then(|| Gate::MonthlyCap {
        sent: shared.ledger.uploads().internet,
        cap,
    })
}

fn refuse_bypass(config: &EngineConfig) -> Result<(), EngineError> {
    dosvc_policy::admit(config.policies.download_mode())
        .map(|_| ())
        .map_err(|refused| EngineError::Mode {
            code: refused.hresult(),
            message: refused.to_string(),
        })
}

/// Forgets the oldest jobs that have ended, but for so many.
fn forget_ended(jobs: &mut BTreeMap<JobId, Arc<Job>>, keep: usize) {
    let ended: Vec<JobId> = jobs
        .values()
        .filter(|j| j.status().state.is_final())
        .map(|j| j.id)
        .collect();
    for id in ended.iter().take(ended.len().saturating_sub(keep)) {
        jobs.remove(id);
    }
}

/// Whether the cache can be a hard link to this file: on the cache's file system, and of the same user.
fn may_be_linked(file: &File, cache_dir: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(cache_dir)) {
        (Ok(file), Ok(cache)) => (file.dev(), file.uid()) == (cache.dev(), cache.uid()),
        _ => false,
    }
}
