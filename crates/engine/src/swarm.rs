//! A swarm's owner task: the one place that holds a content's scheduler, its connections and its HTTP sources.
//!
//! Facts come in as messages (from connections, HTTP fetches, disk work, jobs), go to the scheduler, and what it
//! answers is carried out. Nothing else touches the scheduler, so there is no lock around it. The task lives while
//! a job wants the content or a peer is connected, and ends by itself some time after that.

mod candidates;
mod dials;
mod disk;
mod explain;
mod http;
mod peers;
mod relay;
mod sources;
mod transfer;

use crate::{
    api::{JobError, JobId, PeerInfo, SourceBytes, SourceExplanation},
    cache, cloud,
    counters::RateMeter,
    errors::storage_error,
    limiter::{DownloadGate, Inflow, SwarmPriority},
    places::Place,
    route::Route,
    shared::{Scope, Shared},
    stream::PeerStream,
    terms::Qos,
    uploads::Standing,
};
pub(crate) use candidates::HEAD_START;
use dials::Dials;
pub(crate) use dials::{DialError, Finder};
use disk::{Disk, DiskEvent};
use dosvc_content::{Bitfield, PeerId, PieceIndex};
use dosvc_discovery::{
    Search,
    cloud::{Announcement, ArrayPeer, ArraySearch, Part},
};
use dosvc_origin::Origin;
use dosvc_piece_store::{Content, StoreError};
use dosvc_policy::{PeerClass, Policy};
use dosvc_scheduler::{DelayKind, FetchId, Giving, SourceId, SourceKind, Swarm as Core, Waiting};
use dosvc_wire::{GroupKey, net};
pub(crate) use explain::{SOURCES_KEPT_MAX, SwarmView, blank, http_name, other_url};
use http::{FetchKey, HttpEvent};
use peers::Peer;
use relay::Relays;
use sources::HttpSource;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::AbortHandle,
};
use url::Url;

/// How long a swarm without jobs and connections stays in memory.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How long a content that lost a piece tries to mend itself; what is still missing then comes with the next download.
const REPAIR_TIME: Duration = Duration::from_secs(3600);
/// How often progress is published at most.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is published while nothing changes.
const PUBLISH_INTERVAL_QUIET: Duration = Duration::from_secs(1);
/// Events handled in one go before commands are carried out.
const EVENT_BATCH: usize = 64;
/// Room for events of connections and fetches: they wait when their swarm is behind.
const EVENTS_MAX: usize = 256;
/// Room for messages of jobs and of the listener.
pub(crate) const MESSAGES_MAX: usize = 64;

/// A connection whose handshakes are done, on its way to its swarm.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) stream: PeerStream,
    pub(crate) route: Route,
    pub(crate) peer_id: PeerId,
    pub(crate) class: PeerClass,
    /// We dialled.
    pub(crate) outgoing: bool,
    /// The group that the peer proved to be of; Hellos were exchanged with the proof.
    pub(crate) group: Option<GroupKey>,
    /// When its certificate ends, if it has shown one: then the connection does, too.
    pub(crate) proven_until: Option<SystemTime>,
    pub(crate) places: ConnectionPlaces,
}

/// Places among the engine's peer connections, and among those of the peer's address; given back when dropped.
pub(crate) type ConnectionPlaces = (OwnedSemaphorePermit, Option<Place>);

/// A job's wish that its content be downloaded.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) job: JobId,
    pub(crate) foreground: bool,
    /// Missing pieces that may be in the file all the same, from before a crash.
    pub(crate) unclaimed: Vec<PieceIndex>,
    /// Where the content is, for those who have it as the origin has.
    pub(crate) urls: Vec<Url>,
    /// What peers must give so that HTTP is left alone, if a content policy says so.
    pub(crate) qos: Option<Qos>,
    /// The origin; opened by the job, which may have asked it for facts already.
    pub(crate) origin: Option<Origin>,
    /// Peers to try beside those that are discovered.
    pub(crate) peers: Vec<SocketAddr>,
}

/// What others ask of a swarm.
#[derive(Debug)]
pub(crate) enum Message {
    /// A peer dialled us and wants this content.
    Incoming(Box<Established>),
    /// A job wants the content. The answer is what was received before, this wish counted.
    Attach(Box<Attachment>, oneshot::Sender<Counted>),
    /// A job doesn't want it any more.
    Detach(JobId),
    /// Who is connected?
    Connected(oneshot::Sender<HashSet<PeerId>>),
    /// Who are the peers?
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    /// Why is what used, and what not?
    Explain(oneshot::Sender<SwarmView>),
    /// End: the content is to be deleted. Answered when that is so; a job that wants the content wins, and nobody is
    /// answered.
    Stop(oneshot::Sender<()>),
}

/// What a swarm has received so far, and for how many.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counted {
    pub(crate) downloaded: SourceBytes,
    pub(crate) wasted_bytes: u64,
    /// Bytes found in the file from before a crash.
    pub(crate) recovered_bytes: u64,
    /// How often somebody began to want the content.
    pub(crate) wishes: u64,
}

/// A swarm as its jobs see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) bytes_done: u64,
    /// Of these, bytes that were in the file from before a crash.
    pub(crate) recovered_bytes: u64,
    pub(crate) complete: bool,
    /// Something of it is missing, and somebody wants it.
    pub(crate) wanted: bool,
    pub(crate) downloaded: SourceBytes,
    pub(crate) uploaded: SourceBytes,
    pub(crate) wasted_bytes: u64,
    pub(crate) rate_bps: u64,
    pub(crate) connections: SourceBytes,
    pub(crate) num_peers: u32,
    pub(crate) waiting: Option<String>,
    /// The cache host that gave something last.
    pub(crate) cache_host: Option<String>,
    pub(crate) error: Option<JobError>,
    /// The sources at the end: when all was here, or nothing more could be had.
    pub(crate) last_sources: Option<Arc<[SourceExplanation]>>,
}

/// The way to a running swarm.
#[derive(Debug, Clone)]
pub(crate) struct SwarmHandle {
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) progress: watch::Receiver<Progress>,
}

/// Both ends of a channel: the sender is handed to every connection or fetch.
type Events<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// See the module's documentation.
pub(crate) struct Swarm {
    shared: Arc<Shared>,
    content: Arc<Content>,
    core: Core,
    messages: mpsc::Receiver<Message>,
    progress: watch::Sender<Progress>,

    peer_events: Events<(u32, net::Event)>,
    http_events: Events<(FetchKey, HttpEvent)>,
    disk_events: mpsc::Receiver<DiskEvent>,
    disk: Disk,

    jobs: HashMap<JobId, Attachment>,
    settings_changes: watch::Receiver<u64>,
    /// What this content may have to do with peers.
    scope: Scope,
    upload_turns: watch::Receiver<u64>,
    /// Who is given anything of this content just now.
    giving: Giving,
    /// When to look again whether it is this content's turn to be uploaded.
    upload_turn_due: Option<Instant>,
    /// A content that was complete once and lost a piece mends itself until then.
    repair_until: Option<Instant>,
    priority: SwarmPriority,
    /// Whether peers are to be waited for, as the scheduler was told last.
    with_peers: bool,
    download_gate: Arc<DownloadGate>,

    next_source: u32,
    peers: HashMap<u32, Peer>,
    /// Until when a Hello of which peer is awaited: those of `peers` that are greeting, by time.
    greetings: BTreeSet<(Instant, u32)>,
    dials: Dials,
    search: Option<Search>,
    /// The search at the fleet's array.
    array: Option<ArraySearch>,
    /// HTTP sources that the scheduler knows, and those that a closed gate keeps from it.
    origins: HashMap<u32, HttpSource>,
    held: Vec<HttpSource>,
    /// Where the content is, as those who want it say.
    urls: Vec<Url>,
    cache_host: Option<String>,
    /// Fetches under way, with their source.
    fetches: HashMap<FetchId, (u32, AbortHandle)>,

    /// Blocks of a piece with several, that are written.
    blocks_written: HashMap<PieceIndex, u32>,
    /// Who delivered what of a piece that is not verified yet.
    unverified: HashMap<PieceIndex, Vec<(SourceKind, u64)>>,
    /// What is passed on while it arrives.
    relays: Relays,
    /// Uploads that wait for their piece to be read back and checked.
    unchecked_uploads: HashMap<PieceIndex, Vec<(SourceId, dosvc_content::Block)>>,

    /// Pieces that nobody claims and that may be here all the same; the scheduler asks nobody for them meanwhile.
    to_recover: Vec<PieceIndex>,
    recovered_bytes: u64,
    /// Pieces from earlier times that are to be read back before the content counts as complete.
    to_check: Vec<PieceIndex>,
    /// How many of them are being read.
    checking: usize,

    downloaded: SourceBytes,
    uploaded: SourceBytes,
    wasted_bytes: u64,
    /// See [`Counted::wishes`].
    wishes: u64,
    rate: RateMeter,
    /// The best of it, for the connections.
    inflow: Inflow,
    /// Nothing more can be downloaded: the swarm ends, its jobs with it.
    error: Option<JobError>,
    /// The sources when the content was complete, or the swarm failed; nothing before.
    last_sources: Option<Arc<[SourceExplanation]>>,
    /// Who asked the swarm to end; it does unless a job comes. As many as delete the content at once, so few.
    stopping: Vec<oneshot::Sender<()>>,
    /// What HTTP sources last failed with.
    http_error: Option<JobError>,
    changed: bool,
    published_at: Instant,
    idle_since: Option<Instant>,
}

impl Swarm {
    /// Starts the owner task of a content.
    pub(crate) fn spawn(shared: &Arc<Shared>, content: Arc<Content>) -> SwarmHandle {
        let now = Instant::now();
        let (message_sender, messages) = mpsc::channel(MESSAGES_MAX);
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let (disk_sender, disk_events) = mpsc::channel(EVENTS_MAX);
        let settings = shared.settings();
        let priority = SwarmPriority::default();
        let have = content.have();
        let scope = settings.scope(shared.store.mode_limit(&content.key()));
        let with_peers = content.hash_file().is_some()
            && scope.peering
            && settings.is_large_enough(content.lengths().content_length());
        let mut config = settings.swarm_config(shared.peer_id, false, with_peers);
        config.giving = Giving::NONE;
        let mut core = Core::new(content.lengths(), have, config, now);
        core.set_paused(true, now);
        let mut swarm = Self {
            disk: Disk::new(
                Arc::clone(&content),
                Arc::clone(&shared.workers),
                disk_sender,
            ),
            core,
            messages,
            progress,
            peer_events: mpsc::channel(EVENTS_MAX),
            http_events: mpsc::channel(EVENTS_MAX),
            disk_events,
            jobs: HashMap::new(),
            settings_changes: shared.settings_changes(),
            scope,
            upload_turns: shared.upload_turns.changes(),
            giving: Giving::NONE,
            upload_turn_due: None,
            repair_until: None,
            download_gate: Arc::new(DownloadGate {
                budgets: Arc::clone(&shared.budgets),
                priority: priority.clone(),
            }),
            priority,
            with_peers,
            next_source: 0,
            peers: HashMap::new(),
            greetings: BTreeSet::new(),
            dials: Dials::default(),
            search: None,
            array: None,
            origins: HashMap::new(),
            held: Vec::new(),
            urls: Vec::new(),
            cache_host: None,
            fetches: HashMap::new(),
            blocks_written: HashMap::new(),
            unverified: HashMap::new(),
            relays: Relays::default(),
            unchecked_uploads: HashMap::new(),
            to_recover: Vec::new(),
            recovered_bytes: 0,
            to_check: Vec::new(),
            checking: 0,
            downloaded: SourceBytes::default(),
            uploaded: SourceBytes::default(),
            wasted_bytes: 0,
            wishes: 0,
            rate: RateMeter::default(),
            inflow: Inflow::default(),
            error: None,
            last_sources: None,
            stopping: Vec::new(),
            http_error: None,
            changed: true,
            published_at: now,
            idle_since: None,
            shared: Arc::clone(shared),
            content,
        };
        swarm.publish(now);
        let handle = SwarmHandle {
            messages: message_sender,
            progress: progress_receiver,
        };
        shared.tasks.spawn(swarm.run());
        handle
    }

    async fn run(mut self) {
        let cancel = self.shared.cancel.clone();
        loop {
            self.carry_out();
            let now = Instant::now();
            if self.error.is_some() || self.retire_if_idle(now) {
                break;
            }
            let deadline = self.next_deadline(now);
            tokio::select! {
                () = cancel.cancelled() => break,
                message = self.messages.recv() => match message {
                    None => break,
                    Some(message) => self.handle_message(message),
                },
                Some((key, event)) = self.peer_events.1.recv() => {
                    self.handle_peer_event(key, event);
                    self.drain_peer_events();
                }
                Some((key, event)) = self.http_events.1.recv() => self.handle_http_event(key, event),
                Some(event) = self.disk_events.recv() => self.handle_disk_events(event),
                Some(outcome) = self.dials.next() => self.handle_dialled(outcome),
                found = next_found(&mut self.search) => self.handle_found(found),
                named = next_named(&mut self.array) => self.handle_named(named),
                Ok(()) = self.settings_changes.changed() => self.apply_settings(),
                Ok(()) = self.upload_turns.changed() => self.review_uploads(Instant::now()),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.handle_time(Instant::now());
        }
        self.end();
    }

    fn drain_peer_events(&mut self) {
        for _ in 0..EVENT_BATCH {
            match self.peer_events.1.try_recv() {
                Ok((key, event)) => self.handle_peer_event(key, event),
                Err(_) => break,
            }
        }
    }

    fn handle_message(&mut self, message: Message) {
        match message {
            Message::Incoming(peer) => self.add_peer(*peer),
            Message::Attach(attachment, reply) => {
                let before = self.attach(*attachment);
                let _ = reply.send(before);
            }
            Message::Detach(job) => self.detach(job),
            Message::Connected(reply) => {
                let _ = reply.send(self.peers.values().map(|p| p.peer_id).collect());
            }
            Message::Peers(reply) => {
                let _ = reply.send(self.peer_infos(Instant::now()));
            }
            Message::Explain(reply) => {
                let _ = reply.send(self.explain(Instant::now()));
            }
            Message::Stop(reply) => {
                if self.jobs.is_empty() {
                    self.stopping.push(reply);
                }
            }
        }
    }

    fn handle_time(&mut self, now: Instant) {
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        self.end_greetings(now);
        self.dial_due(now);
        if self.upload_turn_due.is_some_and(|at| at <= now) {
            self.review_uploads(now);
        }
        if self.repair_until.is_some_and(|until| until <= now) {
            tracing::warn!(content = %self.content.key(), "damage could not be mended: no source has had the piece");
            self.end_repair(now);
        }
        if self.publish_at().is_some_and(|at| at <= now) || self.news_is_urgent() {
            self.publish(now);
        }
    }

    /// When progress is to be published next: soon when something has changed, and now and then while bytes are
    /// wanted, for rates and reasons change by themselves.
    fn publish_at(&self) -> Option<Instant> {
        if self.changed {
            Some(self.published_at + PUBLISH_INTERVAL)
        } else {
            self.is_wanted()
                .then(|| self.published_at + PUBLISH_INTERVAL_QUIET)
        }
    }

    /// When there is something to do without any event. Whatever is due must be done by [`Self::handle_time`] or
    /// [`Self::carry_out`], or the loop would turn without end.
    fn next_deadline(&self, now: Instant) -> Instant {
        [
            self.core.poll_timeout(),
            self.next_greeting_end(),
            self.dials.next_due().filter(|_| self.may_dial()),
            self.publish_at(),
            self.repair_until,
            self.upload_turn_due,
            self.idle_since.map(|at| at + IDLE_TIME),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now + Duration::from_secs(3600))
        .max(now)
    }

    /// True when the content is to be completed: a job asks for it, or it has to be mended.
    fn is_wanted(&self) -> bool {
        (!self.jobs.is_empty() || self.repair_until.is_some())
            && self.error.is_none()
            && !self.core.is_complete()
    }

    fn may_have_peers(&self) -> bool {
        let length = self.content.lengths().content_length();
        self.content.hash_file().is_some()
            && self.scope.peering
            && self.shared.settings().is_large_enough(length)
    }

    /// Takes a job in; answers with what was received before it.
    fn attach(&mut self, mut attachment: Attachment) -> Counted {
        let now = Instant::now();
        self.stopping.clear();
        self.wishes += 1;
        let before = Counted {
            downloaded: self.downloaded,
            wasted_bytes: self.wasted_bytes,
            recovered_bytes: self.recovered_bytes,
            wishes: self.wishes,
        };
        let first = self.jobs.is_empty();
        if first {
            self.http_error = None;
        }
        if self.urls.is_empty() {
            self.urls.clone_from(&attachment.urls);
        }
        let http = self.origins.values().chain(&self.held);
        let mut origins = http.filter(|s| s.kind == SourceKind::Origin);
        let origins_are_dead = origins.all(|s| s.origin.is_dead().is_some());
        if let Some(origin) = attachment.origin.clone().filter(|_| origins_are_dead) {
            self.add_origin(origin, now);
        }
        if attachment.origin.is_some() {
            self.shared.bandwidth.new_source();
        }
        let unclaimed = std::mem::take(&mut attachment.unclaimed);
        self.jobs.insert(attachment.job, attachment);
        self.update_priority(now);
        // Cache hosts are there before the origin can begin.
        self.review_http(now);
        if first {
            // Before anything is asked for.
            self.start_checking(unclaimed);
        }
        self.core.set_paused(!self.is_wanted(), now);
        self.apply_settings();
        if first && self.search.is_none() && self.array.is_none() && self.dials.peer_count() == 0 {
            // Nobody can be found: HTTP need not wait for peers.
            self.core.handle_discovery_ended(now);
        }
        // The job is told what is true now, not what was.
        self.publish(now);
        before
    }

    /// Puts what settings and the content's own limit permit in force: peers that have fallen out of scope go, and
    /// those that have come into it are looked for.
    fn apply_settings(&mut self) {
        let now = Instant::now();
        self.scope = self.shared.scope_of(&self.content.key());
        self.set_core_config(now);
        self.review_http(now);
        self.review_uploads(now);
        self.drop_out_of_scope(now);
        if !self.may_have_peers() || !self.scope.offered {
            self.search = None;
            self.array = None;
        }
        if !self.may_have_peers() || !self.may_be_announced() {
            cache::withdraw(&self.shared, self.content.key());
        }
        if self.may_have_peers() {
            self.add_configured(now);
            self.start_search();
            self.start_array_search();
        } else {
            self.dials.clear();
        }
        self.changed = true;
    }

    /// Peers that are named by callers and by the configuration.
    fn add_configured(&mut self, now: Instant) {
        if !self.is_wanted() {
            return;
        }
        let named: Vec<SocketAddr> = self.jobs.values().flat_map(|j| &j.peers).copied().collect();
        let statics = self.shared.settings().config.static_peers.clone();
        for address in named.into_iter().chain(statics) {
            self.add_address(address, None, Finder::Configured, now);
        }
    }

    /// A content that was complete and lost a piece mends itself from where it came from.
    fn start_repair(&mut self, now: Instant) {
        self.wishes += 1;
        self.repair_until = Some(now + REPAIR_TIME);
        let urls: Vec<Url> = self
            .content
            .urls()
            .iter()
            .filter_map(|u| Url::parse(u).ok())
            .collect();
        if !urls.is_empty() {
            let origin = self.shared.origins.open(urls.clone(), None);
            self.add_origin(origin, now);
            self.urls = urls;
        }
        self.review_http(now);
        self.core.set_paused(!self.is_wanted(), now);
        self.apply_settings();
    }

    fn end_repair(&mut self, now: Instant) {
        if self.repair_until.take().is_some() && self.jobs.is_empty() {
            self.stop_downloading(now);
            self.core.set_paused(!self.is_wanted(), now);
        }
    }

    fn detach(&mut self, job: JobId) {
        let now = Instant::now();
        self.jobs.remove(&job);
        if self.jobs.is_empty() && self.repair_until.is_none() {
            self.stop_downloading(now);
        }
        self.update_priority(now);
        self.core.set_paused(!self.is_wanted(), now);
        self.changed = true;
    }

    /// Nobody wants the content any more: what there is of it stays on offer.
    fn stop_downloading(&mut self, now: Instant) {
        self.search = None;
        self.array = None;
        self.dials.clear();
        self.remove_all_http(now);
        self.urls.clear();
        self.shared.download_ended(&self.content);
    }

    /// While a gate closes uploads only downloads are announced: who looks for the same content finds each other.
    fn may_be_announced(&self) -> bool {
        let gates = &self.shared.settings().gates;
        self.scope.offered && (self.is_wanted() || gates.permit_upload(PeerClass::Lan))
    }

    fn start_search(&mut self) {
        let may_search = self.may_have_peers() && self.scope.offered;
        if !self.is_wanted() || !may_search || self.search.is_some() {
            return;
        }
        if let (Some(discovery), Some(file)) = (self.shared.discovery(), self.content.hash_file()) {
            discovery.announce(file.hash_of_hashes(), true);
            self.search = Some(discovery.find(file.hash_of_hashes()));
        }
    }

    /// Asks the fleet's array, too, and says there what is said of this content from now on.
    fn start_array_search(&mut self) {
        if !self.is_wanted() || self.array.is_some() {
            return;
        }
        if let (Some(cloud), Some(announcement)) = (self.shared.cloud(), self.announcement()) {
            self.array = Some(cloud.find(announcement));
            self.tell_array();
        }
    }

    /// What the array is told of this content; nothing when it is not for others.
    fn announcement(&self) -> Option<Announcement> {
        let hash = self.content.hash_file()?.hash_of_hashes();
        let usable = self.may_have_peers() && self.may_be_announced();
        let scope = Some(self.scope).filter(|_| usable)?;
        let mut announcement = cloud::announcement(&self.shared.settings(), &scope, hash)?;
        let have = held_bytes(&self.content, self.core.have());
        announcement.part = match have {
            _ if self.core.is_complete() => Part::All,
            0 => Part::Nothing,
            _ => Part::Some,
        };
        let url = self.urls.first().and_then(Announcement::catalog_id);
        Some(Announcement {
            url,
            wanted: self.is_wanted(),
            foreground: self.is_foreground(),
            left: self.content.lengths().content_length() - have,
            uploaded: self.uploaded.peers(),
            downloaded: self.downloaded.peers(),
            downloaded_cdn: self.downloaded.http,
            downloaded_doinc: self.downloaded.cache_server,
            ..announcement
        })
    }

    /// Brings what the array is told up to date. What is wanted by nobody and of which nothing is here is left alone.
    fn tell_array(&self) {
        if let (Some(cloud), Some(mut announcement)) = (self.shared.cloud(), self.announcement())
            && (announcement.wanted || announcement.part != Part::Nothing)
        {
            announcement.downloaded_bps = self.progress.borrow().rate_bps;
            cloud.announce(announcement);
        }
    }

    /// What the content policy of the latest download wants of peers. A value that somebody has configured here counts
    /// before it.
    fn content_qos(&self) -> Option<u64> {
        let with_policy = self.jobs.values().filter(|job| job.qos.is_some());
        let qos = with_policy.max_by_key(|job| job.job)?.qos?;
        let settings = self.shared.settings();
        let is_set = settings.config.policies.is_set(Policy::MinBackgroundQos);
        qos.for_priority(self.is_foreground(), is_set)
    }

    fn set_core_config(&mut self, now: Instant) {
        self.with_peers = self.may_have_peers();
        let mut config = self.shared.settings().swarm_config(
            self.shared.peer_id,
            self.is_foreground(),
            self.with_peers,
        );
        config.giving = self.giving;
        config.qos_bps = self.content_qos().or(config.qos_bps);
        self.core.set_config(config, now);
    }

    /// Takes a turn among the contents that are uploaded, or leaves it, as peers want this one; gives nothing to whom
    /// the device gives nothing.
    pub(super) fn review_uploads(&mut self, now: Instant) {
        let device = self.shared.giving();
        let wanted = self.core.is_wanted_by(device);
        let standing = self
            .shared
            .upload_turns
            .update(self.content.key(), wanted, now);
        self.upload_turn_due = match standing {
            Standing::Waits(until) => Some(until),
            Standing::Holds | Standing::Out => None,
        };
        let giving = match standing {
            Standing::Holds => device,
            Standing::Out | Standing::Waits(_) => Giving::NONE,
        };
        if std::mem::replace(&mut self.giving, giving) != giving {
            self.set_core_config(now);
        }
    }

    fn is_foreground(&self) -> bool {
        self.priority.is_foreground()
    }

    /// Tells the scheduler what the jobs make of the swarm: its priority, and whether peers are to be waited for.
    fn update_priority(&mut self, now: Instant) {
        let foreground = self.jobs.values().any(|j| j.foreground);
        let with_peers = self.may_have_peers();
        let was_foreground = self.priority.swap(foreground);
        if (foreground, with_peers) != (was_foreground, self.with_peers) {
            self.set_core_config(now);
            self.review_http(now);
        }
        if foreground != was_foreground && !self.content.is_complete() {
            self.greet_again();
        }
    }

    fn next_source(&mut self) -> u32 {
        self.next_source += 1;
        self.next_source
    }

    /// An error of our own disk.
    fn storage_failed(&mut self, error: &StoreError) {
        tracing::error!(content = %self.content.key(), %error, "storage failed; download stopped");
        self.fail(storage_error(error));
    }

    /// Nothing more can be downloaded. What the scheduler believes of pieces under way is not true any more, so the
    /// swarm ends: its jobs fail, and whoever wants the content next, a job that is tried again or a peer, gets a fresh
    /// one. It leaves the registry before anybody hears of the failure.
    fn fail(&mut self, error: JobError) {
        self.shared.forget(self.content.key(), &self.progress);
        self.error = Some(error);
        self.core.set_paused(true, Instant::now());
        self.changed = true;
    }

    /// Every piece is here, and was hashed by this process.
    fn is_complete(&self) -> bool {
        self.core.is_complete() && self.to_check.is_empty() && self.checking == 0
    }

    fn waiting(&self, now: Instant) -> Option<String> {
        let waiting = self.core.waiting(now).filter(|_| self.is_wanted())?;
        if let Some(gate) = self.why_held() {
            return Some(gate);
        }
        let waiting = self.waiting_text(&waiting);
        Some(match &self.http_error {
            Some(error) => format!("{waiting}; HTTP: {}", error.message),
            None => waiting,
        })
    }

    /// The scheduler's reason, and the policy behind it.
    fn waiting_text(&self, waiting: &Waiting) -> String {
        let policy = match waiting {
            Waiting::HttpDelay { .. } => DelayKind::HttpForPeers,
            Waiting::CacheFallback { .. } => DelayKind::OriginForCacheHost,
            _ => return waiting.to_string(),
        };
        format!("{waiting} ({})", self.delay_policy(policy))
    }

    fn news_is_urgent(&self) -> bool {
        let last = self.progress.borrow();
        last.complete != self.is_complete() || last.error != self.error
    }

    fn publish(&mut self, now: Instant) {
        let mut connections = SourceBytes::default();
        for peer in self.peers.values() {
            *connections.of(peer.kind) += 1;
        }
        for (source, _) in self.fetches.values() {
            let source = self.origins.get(source);
            *connections.of(source.map_or(SourceKind::Origin, |s| s.kind)) += 1;
        }
        let has_ended = self.error.is_some() || self.is_complete();
        if !has_ended && !self.core.is_complete() {
            self.last_sources = None;
        } else if has_ended && self.last_sources.is_none() && !self.jobs.is_empty() {
            self.last_sources = Some(self.sources_to_keep(now));
        }
        let rate_bps = self.rate.bps(now);
        self.inflow.note(rate_bps, self.core.activity().arriving);
        let progress = Progress {
            bytes_done: held_bytes(&self.content, self.core.have()),
            recovered_bytes: self.recovered_bytes,
            complete: self.is_complete(),
            wanted: self.is_wanted(),
            downloaded: self.downloaded,
            uploaded: self.uploaded,
            wasted_bytes: self.wasted_bytes,
            rate_bps,
            connections,
            num_peers: self.dials.peer_count(),
            waiting: self.waiting(now),
            cache_host: self.cache_host.clone(),
            error: self.error.clone(),
            last_sources: self.last_sources.clone(),
        };
        self.progress.send_if_modified(|old| {
            let changed = *old != progress;
            *old = progress;
            changed
        });
        self.tell_array();
        self.changed = false;
        self.published_at = now;
    }

    /// True when the task may end: nobody wants anything, and no message can be lost by ending.
    fn retire_if_idle(&mut self, now: Instant) -> bool {
        let retire = || {
            self.shared
                .retire(self.content.key(), || self.messages.is_empty())
        };
        if !self.stopping.is_empty() {
            return retire();
        }
        if !self.jobs.is_empty() || !self.peers.is_empty() || self.repair_until.is_some() {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        now >= since + IDLE_TIME && retire()
    }

    fn end(&mut self) {
        for (_, (_, fetch)) in self.fetches.drain() {
            fetch.abort();
        }
        self.disconnect_all(Instant::now());
        self.shared
            .upload_turns
            .update(self.content.key(), false, Instant::now());
        self.publish(Instant::now());
        self.shared.forget(self.content.key(), &self.progress);
        self.shared.swarm_ended.notify_one();
        for reply in self.stopping.drain(..) {
            let _ = reply.send(());
        }
    }
}

fn held_bytes(content: &Content, have: &Bitfield) -> u64 {
    let lengths = content.lengths();
    let Some(last) = lengths.pieces().next_back() else {
        return 0;
    };
    let whole = u64::from(have.count()) * u64::from(lengths.piece_size());
    if have.has(last) {
        whole - u64::from(lengths.piece_size() - lengths.len(last))
    } else {
        whole
    }
}

/// The next peer of the link; never, when none are looked for.
pub(crate) async fn next_found(search: &mut Option<Search>) -> Option<dosvc_discovery::Found> {
    match search {
        Some(search) => search.next().await,
        None => std::future::pending().await,
    }
}

/// The next peers that the array names; never, when it is not asked.
pub(crate) async fn next_named(array: &mut Option<ArraySearch>) -> Option<Vec<ArrayPeer>> {
    match array {
        Some(array) => array.next().await,
        None => std::future::pending().await,
    }
}

/// Pieces of a set, as the wire's numbers.
fn numbers(pieces: &[PieceIndex]) -> Vec<u32> {
    pieces.iter().map(|p| p.get()).collect()
}
