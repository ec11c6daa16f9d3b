//! What every task of one engine shares: settings, store, HTTP client, budgets, the registry of running swarms.

use crate::{
    api::JobId,
    bandwidth::Bandwidth,
    bans::Bans,
    cache_hosts::CacheHosts,
    cloud::OpenCloud,
    config::EngineConfig,
    counters::Totals,
    explain::Taken,
    limiter::{Budgets, Limiter},
    machine::Facts,
    mapped,
    membership::Membership,
    month::Ledger,
    places::Places,
    room::Room,
    route::Route,
    swarm::{Attachment, Counted, DialError, Established, Message, Progress, Swarm, SwarmHandle},
    tunnel::OpenTunnel,
    turns::Turns,
    uploads::UploadTurns,
    workers::Workers,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use dosvc_content::{DownloadMode, HashOfHashes, PeerId};
use dosvc_discovery::{Discovery, cloud::Cloud};
use dosvc_host::{Host, Links};
use dosvc_nat::{
    portmap::PortMapper,
    quic::{Identity, OwnLine, QuicEndpoint},
};
use dosvc_origin::OriginClient;
use dosvc_piece_store::{Content, ContentKey, Store};
use dosvc_policy::{Gate, Gates, GroupStanding, PeerClass, Permits, RemoteFacts, ResolvedGroup};
use dosvc_scheduler::{Giving, SwarmConfig};
use dosvc_wire::{
    CAPABILITY_PARTS, CAPABILITY_RELAYS, CAPABILITY_WAITS, EXTENSION_VERSION, Extension, GroupKey,
    net::{BlockPool, GroupParams, Reached},
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
use tokio::sync::{Notify, Semaphore, mpsc::error::TrySendError, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections of peers that dialled us.
pub(crate) const INCOMING_MAX: usize = 750;
/// Connections to peers that we dialled. Apart from the others, so that nobody's knocking keeps us from downloading.
const OUTGOING_MAX: usize = 250;
/// What we can do, as our Hello says.
const CAPABILITIES: u32 = CAPABILITY_PARTS | CAPABILITY_RELAYS;
/// How long a foreground download looks for peers before HTTP runs at full speed: the first answers on the link.
const DISCOVERY_GRACE_FOREGROUND: Duration = Duration::from_millis(500);
/// The same in the background, where nobody waits: the answers to the second question too, for a question or an
/// answer by multicast may be lost, and RFC 6762 (section 5.2) has the second one a second after the first.
const DISCOVERY_GRACE_BACKGROUND: Duration = Duration::from_millis(1500);
/// What peers must give so that a foreground download leaves HTTP alone. No policy says so; it is the default of the one
/// for background downloads.
const FOREGROUND_QOS_BPS: u64 = 20 << 20;
/// How old a snapshot of the machine's links may be.
const LINKS_AGE_MAX: Duration = Duration::from_secs(5);

/// Settings with what follows from them; replaced as a whole.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: EngineConfig,
    pub(crate) mode: DownloadMode,
    pub(crate) permits: Permits,
    /// What is known about the machine.
    pub(crate) facts: Facts,
    /// What is closed although the mode permits it.
    pub(crate) gates: Gates,
    /// Whether peers are used: the mode permits them and no gate closes them.
    pub(crate) peering: bool,
    /// The group's id, whatever the mode.
    pub(crate) group_id: Option<ResolvedGroup>,
    /// The group as members prove to be of it, whatever the mode; `None`: there is none, or we can't prove it.
    pub(crate) group_key: Option<GroupKey>,
    /// The group that peers must prove to be of in the device's mode.
    pub(crate) group: Option<GroupKey>,
    /// Cache hosts, in the order in which they are tried; none when they may not be used.
    pub(crate) cache_hosts: Vec<String>,
}

/// What one content may have to do with peers: the device's mode, narrowed by what its caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) mode: DownloadMode,
    /// Whether it may have peers at all.
    pub(crate) peering: bool,
    /// The group that its peers must prove to be of.
    pub(crate) group: Option<GroupKey>,
    /// Whether peers that dial us, and the link, may hear of it: they know us as the device's mode has it.
    pub(crate) offered: bool,
}

impl Settings {
    /// The scope of a content that its caller limited to a mode, or did not.
    pub(crate) fn scope(&self, limit: Option<DownloadMode>) -> Scope {
        let mode = match limit {
            None => self.mode,
            Some(limit) if dosvc_policy::is_within(limit, self.mode) => limit,
            Some(limit) if dosvc_policy::is_within(self.mode, limit) => self.mode,
            // Neither is inside the other (Lan and Group): no peer is in both.
            Some(_) => DownloadMode::CdnOnly,
        };
        let permits = dosvc_policy::permits(mode);
        let group = self.group_key.filter(|_| permits.group);
        let peering =
            self.peering && permits.peers && (mode != DownloadMode::Group || group.is_some());
        Scope {
            mode,
            peering,
            group,
            offered: peering && group == self.group,
        }
    }

    /// Whether a content of this length is large enough to be shared.
    pub(crate) fn is_large_enough(&self, length: u64) -> bool {
        length >= self.config.policies.min_file_size_to_cache()
    }

    pub(crate) fn new(config: EngineConfig, facts: Facts, membership: &Membership) -> Self {
        let policies = &config.policies;
        let mode = policies.download_mode();
        let permits = dosvc_policy::permits(mode);
        let group_id = facts.group(&config);
        let group = group_id
            .as_ref()
            .map(|group| membership.group_key(&config.membership, group.id.hash()));
        let standing = match &group {
            None => GroupStanding::None,
            Some(Ok(_)) => GroupStanding::Member,
            Some(Err(why)) => GroupStanding::Unproven(why),
        };
        let gates = dosvc_policy::gates(policies, &facts.device, standing);
        let group_key = group.and_then(Result::ok);
        let cache_hosts = if permits.cache_host && gates.permit_cache_hosts() {
            facts.cache_hosts(policies)
        } else {
            Vec::new()
        };
        Self {
            mode,
            permits,
            peering: permits.peers && !gates.closed().peers,
            group: group_key.filter(|_| permits.group),
            group_key,
            cache_hosts,
            gates,
            group_id,
            facts,
            config,
        }
    }

    /// Which peers gates let have anything.
    fn giving(&self) -> Giving {
        let permits = |class| self.gates.permit_upload(class);
        Giving {
            lan: permits(PeerClass::Lan),
            group: permits(PeerClass::Group),
            internet: permits(PeerClass::Internet),
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
        let delays = dosvc_policy::http_delays(policies, foreground);
        config.cache_fallback_delay = delays.cache_fallback;
        // Without peers there is nothing to wait for.
        if peers {
            config.http_delay = delays.for_peers;
            config.discovery_grace = if foreground {
                DISCOVERY_GRACE_FOREGROUND
            } else {
                DISCOVERY_GRACE_BACKGROUND
            };
        } else {
            config.discovery_grace = Duration::ZERO;
        }
        config.qos_bps = Some(if foreground {
            FOREGROUND_QOS_BPS
        } else {
            policies.min_background_qos().bps()
        });
        config
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: ArcSwap<Settings>,
    pub(crate) membership: Membership,
    pub(crate) identity: Identity,
    /// What all ends of QUIC leave by.
    pub(crate) line: OwnLine,
    /// What follows from it.
    pub(crate) peer_id: PeerId,
    pub(crate) started: Instant,
    pub(crate) store: Arc<Store>,
    pub(crate) host: Host,
    pub(crate) origins: OriginClient,
    pub(crate) cache_hosts: CacheHosts,
    pub(crate) hash_file_fetches: Semaphore,
    pub(crate) pool: BlockPool,
    pub(crate) workers: Arc<Workers>,
    pub(crate) budgets: Arc<Budgets>,
    /// What keeps the budgets at what they should be.
    pub(crate) bandwidth: Arc<Bandwidth>,
    /// What was uploaded this month.
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) totals: Totals,
    pub(crate) turns: Turns,
    /// Where files that were taken came from.
    pub(crate) taken: Taken,
    /// What downloads under way need of the disk.
    pub(crate) room: Room,
    pub(crate) upload_turns: UploadTurns,
    pub(crate) incoming: Arc<Semaphore>,
    pub(crate) outgoing: Arc<Semaphore>,
    /// Connections of peers that dialled us, by their address.
    pub(crate) places: Arc<Places>,
    /// Those of them that introduce themselves.
    pub(crate) introductions: Arc<Places>,
    /// Where QUIC goes out and comes in, straight.
    pub(crate) quic: ArcSwap<Vec<QuicEndpoint>>,
    /// The same through NATs, while there is a tunnel.
    pub(crate) tunnel: ArcSwapOption<OpenTunnel>,
    pub(crate) discovery: ArcSwapOption<Discovery>,
    /// The fleet's cloud, while one is configured and the mode permits it.
    pub(crate) cloud: ArcSwapOption<OpenCloud>,
    pub(crate) listening: ArcSwap<Vec<SocketAddr>>,
    /// What keeps the peer port mapped, while it is.
    pub(crate) port_mapper: ArcSwapOption<PortMapper>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
    pub(crate) dirty: Notify,
    links: Mutex<(Instant, Links)>,
    swarms: Mutex<HashMap<ContentKey, SwarmHandle>>,
    bans: Mutex<Bans>,
    /// Held by who replaces the settings.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// The machine is to be looked at.
    pub(crate) look: Notify,
    /// A swarm has begun.
    pub(crate) swarm_started: Notify,
    /// A swarm has ended: its content may leave the cache.
    pub(crate) swarm_ended: Notify,
    /// Counts the changes of settings; every swarm watches it.
    settings_changes: watch::Sender<u64>,
    deleting: Mutex<Vec<ContentKey>>,
    next_nonce: AtomicU64,
}

/// What a new [`Shared`] is made of, beside what it makes itself.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) membership: Membership,
    pub(crate) identity: Identity,
    pub(crate) store: Arc<Store>,
    pub(crate) host: Host,
    pub(crate) origins: OriginClient,
    pub(crate) cache_hosts: CacheHosts,
    pub(crate) pool: BlockPool,
    pub(crate) links: Links,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            settings,
            membership,
            identity,
            store,
            host,
            origins,
            cache_hosts,
            pool,
            links,
        } = parts;
        let now = Instant::now();
        let turns = Turns::new(
            settings.config.active_foreground_max,
            settings.config.active_background_max,
        );
        let upload_turns = UploadTurns::new(settings.config.active_uploads_max);
        let budgets = Budgets {
            foreground: Limiter::new(None),
            background: Limiter::new(None),
            upload: Limiter::new(None),
        };
        let bandwidth = Bandwidth::default();
        bandwidth.apply(&budgets, &settings.config.policies);
        Self {
            budgets: Arc::new(budgets),
            bandwidth: Arc::new(bandwidth),
            ledger: Arc::new(Ledger::open(&settings.config.state_dir)),
            workers: Arc::new(Workers::new(settings.config.hash_threads, pool.clone())),
            settings: ArcSwap::from_pointee(settings),
            membership,
            peer_id: identity.peer_id(),
            identity,
            line: OwnLine::default(),
            started: now,
            store,
            host,
            origins,
            cache_hosts,
            hash_file_fetches: Semaphore::new(crate::metadata::HTTP_FETCHES_MAX),
            pool,
            totals: Totals::default(),
            turns,
            taken: Taken::default(),
            room: Room::default(),
            upload_turns,
            incoming: Arc::new(Semaphore::new(INCOMING_MAX)),
            outgoing: Arc::new(Semaphore::new(OUTGOING_MAX)),
            places: Arc::default(),
            introductions: Arc::default(),
            quic: ArcSwap::default(),
            tunnel: ArcSwapOption::empty(),
            discovery: ArcSwapOption::empty(),
            cloud: ArcSwapOption::empty(),
            listening: ArcSwap::default(),
            port_mapper: ArcSwapOption::empty(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            dirty: Notify::new(),
            links: Mutex::new((now, links)),
            swarms: Mutex::new(HashMap::new()),
            bans: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            look: Notify::new(),
            swarm_started: Notify::new(),
            swarm_ended: Notify::new(),
            settings_changes: watch::Sender::new(0),
            deleting: Mutex::new(Vec::new()),
            next_nonce: AtomicU64::new(0),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts new settings in force, in running swarms too.
    pub(crate) fn replace_settings(&self, settings: Settings) {
        self.bandwidth
            .apply(&self.budgets, &settings.config.policies);
        self.upload_turns
            .set_max(settings.config.active_uploads_max);
        self.turns.set_limits(
            settings.config.active_foreground_max,
            settings.config.active_background_max,
        );
        self.settings.store(Arc::new(settings));
        self.tell_swarms();
    }

    /// Who may be given anything, as far as the whole device is concerned.
    pub(crate) fn giving(&self) -> Giving {
        let settings = self.settings();
        let cap = settings.config.policies.monthly_upload_data_cap();
        settings.giving().and(Giving {
            internet: !self.ledger.is_reached(cap),
            ..Giving::ALL
        })
    }

    /// Lets every swarm look at its scope and at the settings again.
    pub(crate) fn tell_swarms(&self) {
        self.settings_changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn settings_changes(&self) -> watch::Receiver<u64> {
        self.settings_changes.subscribe()
    }

    pub(crate) fn discovery(&self) -> Option<Arc<Discovery>> {
        self.discovery.load_full()
    }

    pub(crate) fn cloud(&self) -> Option<Arc<Cloud>> {
        self.cloud
            .load()
            .as_ref()
            .map(|open| Arc::clone(&open.cloud))
    }

    pub(crate) fn tunnel(&self) -> Option<Arc<OpenTunnel>> {
        self.tunnel.load_full()
    }

    /// Whether we announce by DNS-SD: who is on the link and dials us may have found us so.
    pub(crate) fn may_be_found(&self) -> bool {
        self.discovery.load().is_some()
    }

    /// Our greeting to a peer; `waits`: somebody waits for what is fetched from it.
    pub(crate) fn hello(&self, waits: bool) -> Extension {
        Extension::Hello {
            version: EXTENSION_VERSION,
            capabilities: CAPABILITIES | if waits { CAPABILITY_WAITS } else { 0 },
            listen_port: self.listen_port(),
            nonce: self.nonce(),
        }
    }

    /// What we and a peer prove to each other in group mode.
    pub(crate) fn group_params(
        &self,
        group: GroupKey,
        swarm: HashOfHashes,
        remote: PeerId,
        reached: Reached,
    ) -> GroupParams {
        let settings = self.settings();
        GroupParams {
            group,
            credentials: self.membership.credentials(&settings.config.membership),
            reached,
            swarm,
            local: self.peer_id,
            remote,
            capabilities: CAPABILITIES,
            listen_port: self.listen_port(),
            nonce: self.nonce(),
        }
    }

    /// How a peer that has dialled us may have come here: where its connection ended, what the cloud sees of us with our
    /// port or the one that the gateway has mapped, and what is configured.
    pub(crate) fn reached_at(&self, local: Option<SocketAddr>) -> Reached {
        let external = self.cloud().and_then(|cloud| cloud.external_ip());
        let ports = [Some(self.listen_port()), mapped::external_port(self)];
        let ports = ports.into_iter().flatten();
        let external = external.into_iter().flat_map(|ip| {
            let at = move |port| SocketAddr::new(ip, port);
            ports.clone().map(at)
        });
        let settings = self.settings();
        let public = &settings.config.membership.public_addresses;
        let ours = local.into_iter().chain(external);
        Reached::At(ours.chain(public.iter().copied()).collect())
    }

    pub(crate) fn listen_port(&self) -> u16 {
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

    /// What a peer at this address is to us, or why it is nothing.
    pub(crate) fn peer_class(
        &self,
        scope: &Scope,
        address: IpAddr,
        discovered: bool,
        group_proven: bool,
    ) -> Result<PeerClass, DialError> {
        let settings = self.settings();
        if self.is_banned_address(address) {
            return Err(DialError::BANNED);
        }
        let refused = |why: &dyn std::fmt::Display| DialError::Refused(why.to_string().into());
        if !scope.peering {
            let gate = settings.gates.iter().find(|gate| gate.closes().peers);
            return Err(gate.map_or(DialError::NO_PEERS, |gate| refused(gate)));
        }
        let address = address.to_canonical();
        let on_link = self.with_links(|links| links.on_link(address));
        let facts = RemoteFacts {
            on_link,
            link_local_discovered: discovered && on_link,
            group_proven,
            loopback: address.is_loopback(),
            behind_same_nat: self
                .cloud()
                .is_some_and(|cloud| cloud.is_neighbour(address)),
        };
        let restrict = settings.config.policies.restrict_peer_selection_by();
        let class = dosvc_policy::peer_class(scope.mode, facts, restrict)
            .map_err(|outside| refused(&outside))?;
        if settings.gates.permit_peer(class) {
            return Ok(class);
        }
        let closes = |gate: &&Gate| gate.closes().peers || gate.closes().distant_peers;
        let gate = settings.gates.iter().find(closes);
        Err(gate.map_or(DialError::NO_PEERS, |gate| refused(gate)))
    }

    pub(crate) fn with_links<T>(&self, ask: impl FnOnce(&Links) -> T) -> T {
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

    /// The links have changed: they are listed anew when they are needed next.
    pub(crate) fn forget_links(&self) {
        let mut links = lock(&self.links);
        links.0 = links.0.checked_sub(LINKS_AGE_MAX * 2).unwrap_or(links.0);
    }

    /// Whether the address lies in one of our subnets, or on this machine.
    pub(crate) fn is_in_lan(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.with_links(|links| links.on_link(address))
    }

    /// Whether the way leads to ourselves.
    pub(crate) fn is_own_route(&self, route: Route) -> bool {
        let tunnel = self.tunnel().and_then(|tunnel| tunnel.address());
        self.is_own_address(route.address) || tunnel.map(IpAddr::V6) == Some(route.address.ip())
    }

    /// Whether the address is one of this machine's.
    fn is_own_address(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let listening = self.listening.load();
        listening.iter().any(|l| l.port() == address.port())
            && (ip.is_loopback() || self.with_links(|links| links.is_own(ip)))
    }

    /// Bans a peer: its id for this content, its address for every one (unless it is this machine's).
    pub(crate) fn ban(&self, peer: PeerId, address: IpAddr, content: ContentKey) {
        let now = Instant::now();
        let address = address.to_canonical();
        let is_here = address.is_loopback() || self.with_links(|links| links.is_own(address));
        let mut bans = lock(&self.bans);
        bans.ban_id(peer, content, now);
        if !is_here {
            bans.ban_address(address, now);
        }
    }

    pub(crate) fn is_banned(&self, peer: PeerId, content: ContentKey) -> bool {
        lock(&self.bans).has_id(peer, content, Instant::now())
    }

    pub(crate) fn is_banned_address(&self, address: IpAddr) -> bool {
        lock(&self.bans).has_address(address.to_canonical(), Instant::now())
    }

    /// What a content may have to do with peers, as things are.
    pub(crate) fn scope_of(&self, key: &ContentKey) -> Scope {
        self.settings().scope(self.store.mode_limit(key))
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
        reply: oneshot::Sender<Counted>,
    ) -> Option<watch::Receiver<Progress>> {
        self.send_to_swarm(content, Message::Attach(Box::new(attachment), reply))
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
            self.swarm_started.notify_one();
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

    pub(crate) fn swarm(&self, key: ContentKey) -> Option<SwarmHandle> {
        lock(&self.swarms).get(&key).cloned()
    }

    pub(crate) fn has_swarms(&self) -> bool {
        !lock(&self.swarms).is_empty()
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

    /// Takes back, on the link and at the array, that we have to do with a content.
    pub(crate) fn withdraw(&self, content: &HashOfHashes) {
        if let Some(discovery) = self.discovery() {
            discovery.withdraw(content);
        }
        if let Some(cloud) = self.cloud() {
            cloud.withdraw(content);
        }
    }

    /// The last job of a content went: what we have stays on offer, unless a gate closes uploads; an empty content does
    /// not.
    pub(crate) fn download_ended(&self, content: &Content) {
        let given = self.settings().gates.permit_upload(PeerClass::Lan);
        if let Some(file) = content.hash_file()
            && (content.have().is_empty() || !given)
            && file.lengths().piece_count() > 0
        {
            self.withdraw(&file.hash_of_hashes());
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

/// A mutex is poisoned only when its holder panicked; the data of these is valid after every single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
