//! What every task of one engine shares: settings, store, HTTP client, budgets, the registry of running swarms.

use crate::{
    api::JobId,
    config::EngineConfig,
    counters::Totals,
    limiter::Budgets,
    swarm::{Attachment, Established, Message, Progress, Swarm, SwarmHandle},
    turns::Turns,
    workers::Workers,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use dosvc_content::{DownloadMode, GroupHash, HashOfHashes, PeerId};
use dosvc_discovery::Discovery;
use dosvc_host::Links;
use dosvc_origin::OriginClient;
use dosvc_piece_store::{Content, ContentKey, Store};
use dosvc_policy::{Device, PeerClass, Permits, RemoteFacts};
use dosvc_scheduler::SwarmConfig;
use dosvc_wire::{
    EXTENSION_VERSION, Extension,
    net::{BlockPool, GroupParams},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, mpsc::error::TrySendError, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Peer connections of the whole engine.
pub(crate) const CONNECTIONS_MAX: usize = 1000;
/// Banned (peer, content) pairs remembered.
const BANS_MAX: usize = 10_000;
/// How long a foreground download looks for peers before HTTP runs at full speed: the first answers on the link.
const DISCOVERY_GRACE_FOREGROUND: Duration = Duration::from_millis(500);
/// The same in the background, where nobody waits: the answers to the second question too, for a question or an
/// answer by multicast may be lost, and RFC 6762 (section 5.2) has the second one a second after the first.
const DISCOVERY_GRACE_BACKGROUND: Duration = Duration::from_millis(1500);
/// How old a snapshot of the machine's links may be.
const LINKS_AGE_MAX: Duration = Duration::from_secs(5);

/// Settings with what follows from them; replaced as a whole.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: EngineConfig,
    pub(crate) mode: DownloadMode,
    pub(crate) permits: Permits,
    /// The machine as policies see it.
    pub(crate) device: Device,
    /// Why peers aren't used although the mode permits them.
    pub(crate) gates: Vec<String>,
    /// Whether peers are used: the mode permits them and every gate is open.
    pub(crate) peering: bool,
    pub(crate) group: Option<GroupHash>,
}

impl Settings {
    pub(crate) fn new(config: EngineConfig) -> Self {
        let policies = &config.policies;
        let mode = policies.download_mode();
        let permits = dosvc_policy::permits(mode);
        let device = Device {
            ram_total: dosvc_host::memory_total().ok(),
            disk_total: dosvc_host::disk(&config.state_dir).ok().map(|d| d.total),
        };
        let mut gates = Vec::new();
        let group = policies.group_id().map(|g| g.hash());
        if permits.peers {
            gates.extend(
                dosvc_policy::peering_gates(policies, &device)
                    .iter()
                    .map(ToString::to_string),
            );
            if mode == DownloadMode::Group && group.is_none() {
                gates.push(
                    "download mode 2 (Group) needs group_id; without one there are no peers"
                        .to_owned(),
                );
            }
        }
        Self {
            mode,
            permits,
            device,
            peering: permits.peers && gates.is_empty(),
            gates,
            group: group.filter(|_| permits.group),
            config,
        }
    }

    /// How a swarm downloads at this priority; `peers`: whether it may have any.
    pub(crate) fn swarm_config(
        &self,
        self_id: PeerId,
        foreground: bool,
        peers: bool,
    ) -> SwarmConfig {
        let policies = &self.config.policies;
        let mut seed = [0; 8];
        seed.copy_from_slice(&self_id.as_bytes()[..8]);
        let mut config = SwarmConfig::new(self_id, u64::from_be_bytes(seed));
        config.foreground = foreground;
        let delay = if foreground {
            policies.delay_foreground_download_from_http()
        } else {
            policies.delay_background_download_from_http()
        };
        // Without peers there is nothing to wait for.
        if peers {
            config.http_delay = delay;
            config.discovery_grace = if foreground {
                DISCOVERY_GRACE_FOREGROUND
            } else {
                DISCOVERY_GRACE_BACKGROUND
            };
        } else {
            config.discovery_grace = Duration::ZERO;
        }
        config.qos_bps = Some(policies.min_background_qos().bps());
        config
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: ArcSwap<Settings>,
    pub(crate) peer_id: PeerId,
    pub(crate) started: Instant,
    pub(crate) store: Arc<Store>,
    pub(crate) origins: OriginClient,
    pub(crate) pool: BlockPool,
    pub(crate) workers: Arc<Workers>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) totals: Totals,
    pub(crate) turns: Turns,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) discovery: ArcSwapOption<Discovery>,
    pub(crate) listening: ArcSwap<Vec<SocketAddr>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
    pub(crate) dirty: Notify,
    links: Mutex<(Instant, Links)>,
    swarms: Mutex<HashMap<ContentKey, SwarmHandle>>,
    bans: Mutex<Vec<(PeerId, ContentKey)>>,
    deleting: Mutex<Vec<ContentKey>>,
    next_nonce: AtomicU64,
}

/// What a new [`Shared`] is made of, beside what it makes itself.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) peer_id: PeerId,
    pub(crate) store: Arc<Store>,
    pub(crate) origins: OriginClient,
    pub(crate) pool: BlockPool,
    pub(crate) links: Links,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            settings,
            peer_id,
            store,
            origins,
            pool,
            links,
        } = parts;
        let now = Instant::now();
        let turns = Turns::new(
            settings.config.active_foreground_max,
            settings.config.active_background_max,
        );
        Self {
            budgets: Arc::new(budgets(&settings)),
            workers: Arc::new(Workers::new(settings.config.hash_threads)),
            settings: ArcSwap::from_pointee(settings),
            peer_id,
            started: now,
            store,
            origins,
            pool,
            totals: Totals::default(),
            turns,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            discovery: ArcSwapOption::empty(),
            listening: ArcSwap::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            dirty: Notify::new(),
            links: Mutex::new((now, links)),
            swarms: Mutex::new(HashMap::new()),
            bans: Mutex::new(Vec::new()),
            deleting: Mutex::new(Vec::new()),
            next_nonce: AtomicU64::new(0),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts new settings in force, in running swarms too.
    pub(crate) fn replace_settings(&self, settings: Settings) {
        self.budgets
            .foreground
            .set_rate(settings.config.policies.max_foreground_download_bandwidth());
        self.budgets
            .background
            .set_rate(settings.config.policies.max_background_download_bandwidth());
        self.budgets
            .upload
            .set_rate(settings.config.policies.max_upload_bandwidth());
        self.turns.set_limits(
            settings.config.active_foreground_max,
            settings.config.active_background_max,
        );
        self.settings.store(Arc::new(settings));
        for swarm in lock(&self.swarms).values() {
            let _ = swarm.messages.try_send(Message::Reconfigure);
        }
    }

    pub(crate) fn discovery(&self) -> Option<Arc<Discovery>> {
        self.discovery.load_full()
    }

    /// Our greeting to a peer.
    pub(crate) fn hello(&self) -> Extension {
        Extension::Hello {
            version: EXTENSION_VERSION,
            capabilities: 0,
            listen_port: self.listen_port(),
            nonce: self.nonce(),
        }
    }

    /// What we and a peer prove to each other in group mode.
    pub(crate) fn group_params(
        &self,
        group: GroupHash,
        swarm: HashOfHashes,
        remote: PeerId,
    ) -> GroupParams {
        GroupParams {
            group,
            swarm,
            local: self.peer_id,
            remote,
            capabilities: 0,
            listen_port: self.listen_port(),
            nonce: self.nonce(),
        }
    }

    fn listen_port(&self) -> u16 {
        self.listening.load().first().map_or(0, SocketAddr::port)
    }

    /// Sixteen bytes never used before: random, or at least unique when the system has no randomness to give.
    pub(crate) fn nonce(&self) -> [u8; 16] {
        let mut nonce = [0; 16];
        if getrandom::fill(&mut nonce).is_err() {
            let count = self.next_nonce.fetch_add(1, Ordering::Relaxed);
            nonce[..8].copy_from_slice(&count.to_be_bytes());
        }
        nonce
    }

    /// What a peer at this address is to us; `None`: outside the mode's scope.
    pub(crate) fn peer_class(
        &self,
        address: IpAddr,
        discovered: bool,
        group_proven: bool,
    ) -> Option<PeerClass> {
        let settings = self.settings();
        if !settings.peering {
            return None;
        }
        let address = address.to_canonical();
        let on_link = self.with_links(|links| links.on_link(address));
        let facts = RemoteFacts {
            on_link,
            link_local_discovered: discovered && on_link,
            group_proven,
            loopback: address.is_loopback(),
        };
        dosvc_policy::peer_class(
            settings.mode,
            facts,
            settings.config.policies.restrict_peer_selection_by(),
        )
    }

    fn with_links<T>(&self, ask: impl FnOnce(&Links) -> T) -> T {
        let mut links = lock(&self.links);
        if links.0.elapsed() > LINKS_AGE_MAX {
            match Links::snapshot() {
                Ok(fresh) => links.1 = fresh,
                Err(error) => {
                    tracing::warn!(%error, "cannot list network interfaces; using an older list")
                }
            }
            links.0 = Instant::now();
        }
        ask(&links.1)
    }

    /// Whether the address is one of this machine's.
    pub(crate) fn is_own_address(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let listening = self.listening.load();
        listening.iter().any(|l| l.port() == address.port())
            && (ip.is_loopback() || self.with_links(|links| links.is_own(ip)))
    }

    pub(crate) fn ban(&self, peer: PeerId, content: ContentKey) {
        let mut bans = lock(&self.bans);
        if bans.len() >= BANS_MAX {
            bans.remove(0);
        }
        bans.push((peer, content));
    }

    pub(crate) fn is_banned(&self, peer: &PeerId, content: ContentKey) -> bool {
        lock(&self.bans).contains(&(*peer, content))
    }

    /// Something was written to the store that has to be synced.
    pub(crate) fn store_is_dirty(&self) {
        self.dirty.notify_one();
    }

    // Swarms

    /// Takes a peer into the content's swarm, starting its task when there is none. False when the swarm has too many
    /// messages waiting, or the content is being deleted.
    pub(crate) fn admit(self: &Arc<Self>, content: &Arc<Content>, peer: Established) -> bool {
        let message = Message::Incoming(Box::new(peer));
        !self.is_deleting(content.key()) && self.send_to_swarm(content, message).is_some()
    }

    /// Takes a job's wish to the content's swarm, starting its task when there is none. `None` when the swarm has too
    /// many messages waiting; else how that very swarm gets on.
    pub(crate) fn attach(
        self: &Arc<Self>,
        content: &Arc<Content>,
        attachment: Attachment,
    ) -> Option<watch::Receiver<Progress>> {
        self.send_to_swarm(content, Message::Attach(Box::new(attachment)))
    }

    fn send_to_swarm(
        self: &Arc<Self>,
        content: &Arc<Content>,
        message: Message,
    ) -> Option<watch::Receiver<Progress>> {
        let mut swarms = lock(&self.swarms);
        let key = content.key();
        if swarms.get(&key).is_none_or(|s| s.messages.is_closed()) {
            swarms.insert(key, Swarm::spawn(self, Arc::clone(content)));
        }
        let swarm = swarms.get(&key)?;
        swarm.messages.try_send(message).ok()?;
        Some(swarm.progress.clone())
    }

    /// Keeps peers away from a content while it is being deleted.
    pub(crate) fn begin_deleting(&self, key: ContentKey) -> Deleting<'_> {
        lock(&self.deleting).push(key);
        Deleting { shared: self, key }
    }

    pub(crate) fn is_deleting(&self, key: ContentKey) -> bool {
        lock(&self.deleting).contains(&key)
    }

    /// Sends a message to the content's swarm if it is running.
    pub(crate) fn send_to_running(&self, key: ContentKey, message: Message) -> bool {
        lock(&self.swarms)
            .get(&key)
            .is_some_and(|swarm| swarm.messages.try_send(message).is_ok())
    }

    /// Takes a job's wish back, however busy the swarm is.
    pub(crate) fn detach(&self, key: ContentKey, job: JobId) {
        let Some(messages) = lock(&self.swarms).get(&key).map(|s| s.messages.clone()) else {
            return;
        };
        if let Err(TrySendError::Full(message)) = messages.try_send(Message::Detach(job)) {
            self.tasks.spawn(async move {
                let _ = messages.send(message).await;
            });
        }
    }

    pub(crate) fn progress_of(&self, key: ContentKey) -> Option<watch::Receiver<Progress>> {
        lock(&self.swarms).get(&key).map(|s| s.progress.clone())
    }

    pub(crate) fn running_swarms(&self) -> Vec<(ContentKey, SwarmHandle)> {
        lock(&self.swarms)
            .iter()
            .map(|(key, swarm)| (*key, swarm.clone()))
            .collect()
    }

    /// Takes an idle swarm out of the registry, unless a message reached it meanwhile. Messages are sent under the
    /// same lock, so none can be lost.
    pub(crate) fn retire(&self, key: ContentKey, is_empty: impl FnOnce() -> bool) -> bool {
        let mut swarms = lock(&self.swarms);
        let retire = is_empty();
        if retire {
            swarms.remove(&key);
        }
        retire
    }

    /// A swarm has ended for another reason than idleness: takes it out if it is still the one registered.
    pub(crate) fn forget(&self, key: ContentKey, progress: &watch::Sender<Progress>) {
        let mut swarms = lock(&self.swarms);
        if swarms
            .get(&key)
            .is_some_and(|s| progress.subscribe().same_channel(&s.progress))
        {
            swarms.remove(&key);
        }
    }

    /// The last job of a content went: what we have stays on offer, an empty content does not.
    pub(crate) fn download_ended(&self, content: &Content) {
        if let (Some(discovery), Some(file)) = (self.discovery(), content.hash_file())
            && content.have().is_empty()
            && file.lengths().piece_count() > 0
        {
            discovery.withdraw(&file.hash_of_hashes());
        }
    }
}

/// See [`Shared::begin_deleting`]; ends when dropped.
#[derive(Debug)]
pub(crate) struct Deleting<'a> {
    shared: &'a Shared,
    key: ContentKey,
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        let mut deleting = lock(&self.shared.deleting);
        if let Some(at) = deleting.iter().position(|key| *key == self.key) {
            deleting.swap_remove(at);
        }
    }
}

fn budgets(settings: &Settings) -> Budgets {
    let policies = &settings.config.policies;
    Budgets {
        foreground: crate::limiter::Limiter::new(policies.max_foreground_download_bandwidth()),
        background: crate::limiter::Limiter::new(policies.max_background_download_bandwidth()),
        upload: crate::limiter::Limiter::new(policies.max_upload_bandwidth()),
    }
}

/// A mutex is poisoned only when its holder panicked; the data of these is valid after every single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
