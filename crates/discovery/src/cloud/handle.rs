//! The handle that programs hold, and what it shares with its task.

use super::{
    core::Core,
    driver,
    failure::Failure,
    file,
    limits::{LEAVE_TIME, MEMBERS_MAX, QUESTION_TIME, SEEKERS_WAITING_MAX},
    member::{Announcement, Device},
    policies::PolicyState,
    question::PolicyKey,
    service::{Service, certificates},
    status::{CloudStatus, MemberStatus},
};
use dosvc_cloud_protocol::{ArrayPeer, ContentPolicy, GEO_PATH, GEO_VERSION_PATH, HttpUrl};
use dosvc_content::{ContentId, HashOfHashes, PeerId};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

/// How long a download waits for its content policy: three services, one after the other.
const POLICY_TIME: Duration = QUESTION_TIME.saturating_mul(2);

/// Whom to ask, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudConfig {
    /// Geo's whole address (`Geo_EndpointFullUri`); without a path it is `/geo`.
    pub geo_url: HttpUrl,
    /// Where geo's version is asked (`GeoVersion_EndpointFullUri`); `None`: `/geoversion` beside geo.
    pub geo_version_url: Option<HttpUrl>,
    /// A PEM file of certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own id.
    pub peer_id: PeerId,
    /// Where answers are kept over a restart.
    pub state_file: PathBuf,
}

impl CloudConfig {
    fn geo_url(&self) -> HttpUrl {
        let url = self.geo_url.to_url();
        match url.path() {
            "" | "/" => with_path(url, GEO_PATH),
            _ => self.geo_url.clone(),
        }
    }

    fn geo_version_url(&self) -> HttpUrl {
        let beside = || {
            let url = self.geo_url().to_url();
            let folder = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            let path = format!("{folder}{GEO_VERSION_PATH}");
            with_path(url, &path)
        };
        self.geo_version_url.clone().unwrap_or_else(beside)
    }
}

pub(crate) fn with_path(mut url: Url, path: &str) -> HttpUrl {
    url.set_path(path);
    let text = url.as_str();
    text.parse()
        .expect("an http address with another path is one")
}

/// Why the client can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloudError {
    /// The file with certificates.
    #[error("certificates in {path}: {why}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The machine's place in the fleet's cloud. Dropping it ends it without a word; see [`Cloud::stop`].
#[derive(Debug)]
pub struct Cloud {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<Option<()>>>>,
    seekers: Mutex<Option<mpsc::Receiver<Seekers>>>,
    _end_task: DropGuard,
}

/// Peers that an array has named for a content that nobody here looks for.
pub type Seekers = (HashOfHashes, Vec<ArrayPeer>);

impl Cloud {
    /// Starts, silently: nothing is asked before something is announced, searched or waited for. Reads two small files.
    ///
    /// # Errors
    /// [`CloudError`].
    pub fn start(config: &CloudConfig) -> Result<Self, CloudError> {
        let roots = match &config.ca_file {
            None => Vec::new(),
            Some(path) => certificates(path).map_err(|why| CloudError::Certificates {
                path: path.clone(),
                why,
            })?,
        };
        let seed = RandomState::new().build_hasher().finish();
        let now = Instant::now();
        let mut core = Core::new(
            config.peer_id,
            config.geo_url(),
            config.geo_version_url(),
            seed,
            now,
        );
        if let Some(saved) = file::read(&config.state_file) {
            core.restore(now, SystemTime::now(), config.peer_id, saved);
        }
        let (named, seekers) = mpsc::channel(SEEKERS_WAITING_MAX);
        let shared = Arc::new(Shared {
            named,
            core: Mutex::new(core),
            wake: Notify::new(),
            answered: Notify::new(),
            found: Mutex::default(),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            peer_id: config.peer_id,
            state_file: config.state_file.clone(),
        });
        let token = CancellationToken::new();
        let task = driver::run(Arc::clone(&shared), Service::new(roots));
        let task = tokio::spawn(token.clone().run_until_cancelled_owned(task));
        Ok(Self {
            shared,
            task: Mutex::new(Some(task)),
            seekers: Mutex::new(Some(seekers)),
            _end_task: token.drop_guard(),
        })
    }

    /// What is said of the machine from now on; joined contents are joined again when it differs.
    pub fn set_device(&self, device: Device) {
        self.change(|core, now| core.set_device(now, device));
    }

    /// Says this of a content from now on, in place of what was said before.
    pub fn announce(&self, announcement: Announcement) {
        let content = announcement.content;
        if !self.change(|core, now| core.announce(now, announcement)) {
            tracing::debug!(content = %content.to_hex(), "not joined: {MEMBERS_MAX} contents are");
        }
    }

    /// Leaves a content, unless it is searched.
    pub fn withdraw(&self, content: &HashOfHashes) {
        self.change(|core, now| core.withdraw(now, content));
    }

    /// Leaves everything.
    pub fn withdraw_all(&self) {
        self.change(Core::withdraw_all);
    }

    /// Looks for peers of a content: joins it, whatever else is announced, for as long as the search lives. `default` is
    /// what is said of it while nothing is announced.
    pub fn find(&self, default: Announcement) -> ArraySearch {
        let content = default.content;
        let peers = {
            let mut found = lock(&self.shared.found);
            let sender = found
                .entry(content)
                .or_insert_with(|| watch::Sender::new(Vec::new()));
            let mut peers = sender.subscribe();
            // What was named for another search counts for this one too.
            peers.mark_changed();
            peers
        };
        self.change(|core, now| core.begin_search(now, default));
        ArraySearch {
            shared: Arc::clone(&self.shared),
            content,
            peers,
        }
    }

    /// Whom arrays name for contents that are announced and not searched: who looks for them, where all is here. What
    /// nobody takes in time is dropped. The first to ask gets it.
    pub fn seekers(&self) -> Option<mpsc::Receiver<Seekers>> {
        lock(&self.seekers).take()
    }

    /// Somebody dialled us for this content whom nobody has named: it is joined again soon, for the array may know.
    pub fn stranger(&self, content: &HashOfHashes) {
        self.change(|core, now| core.stranger(now, content));
    }

    /// The network may be back: what failed is tried again.
    pub fn try_again(&self) {
        self.change(Core::try_again);
    }

    /// Asks for a content's policy, by its URL (without query and secrets) or its id; `None`: the service knows none for
    /// us.
    ///
    /// # Errors
    /// Which service did not answer, and why. That takes half a minute at most.
    pub async fn content_policy(
        &self,
        url: Option<&Url>,
        content_id: Option<&ContentId>,
    ) -> Result<Option<ContentPolicy>, Failure> {
        let key = PolicyKey {
            url: url.and_then(Announcement::catalog_id),
            content_id: content_id.map(ToString::to_string),
        };
        let since = Instant::now();
        if !self.change(|core, now| core.want_policy(now, &key)) {
            return Err(Failure::Unreachable(
                "too many content policies are waited for".to_owned(),
            ));
        }
        let _wanted = Wanted {
            shared: &self.shared,
            key: &key,
        };
        let answer = async {
            loop {
                let notified = self.shared.answered.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                let state = self.shared.core().policy(Instant::now(), &key, since);
                match state {
                    PolicyState::Known(policy) => return Ok(policy.map(|policy| *policy)),
                    PolicyState::Failed(failure) => return Err(failure),
                    PolicyState::Pending if self.shared.ended.load(Ordering::Acquire) => {
                        return Err(Failure::Unreachable("the client has ended".to_owned()));
                    }
                    PolicyState::Pending => notified.await,
                }
            }
        };
        let timeout =
            || Failure::Unreachable(format!("no answer within {} s", POLICY_TIME.as_secs()));
        let answer = tokio::time::timeout(POLICY_TIME, answer).await;
        answer.unwrap_or_else(|_| Err(timeout()))
    }

    /// The address that the services see us at.
    pub fn external_ip(&self) -> Option<IpAddr> {
        self.shared.core().external_ip()
    }

    /// Whether an array has named a peer at this address as one of our LAN, lately: it is behind the same NAT.
    pub fn is_neighbour(&self, address: IpAddr) -> bool {
        self.shared.core().is_neighbour(Instant::now(), address)
    }

    /// Where everything stands.
    pub fn status(&self) -> CloudStatus {
        self.shared.core().status(Instant::now())
    }

    /// Where one content stands; `None`: it is not joined, nor to be.
    pub fn member(&self, content: &HashOfHashes) -> Option<MemberStatus> {
        self.shared.core().member_status(Instant::now(), content)
    }

    /// Leaves the arrays, for three seconds at most, writes the file, and ends.
    pub async fn stop(&self) {
        self.shared.core().withdraw_all(Instant::now());
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        let task = lock(&self.task).take();
        if let Some(task) = task {
            // More than the task takes: it ends by itself.
            let _ = tokio::time::timeout(LEAVE_TIME * 2, task).await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let now = Instant::now();
        let (result, earlier) = {
            let mut core = self.shared.core();
            let before = core.timeout(now);
            let result = change(&mut core, now);
            let after = core.timeout(now);
            (
                result,
                after.is_some_and(|at| before.is_none_or(|before| at < before)),
            )
        };
        if earlier {
            self.shared.wake.notify_one();
        }
        result
    }
}

/// A wait for a content policy.
struct Wanted<'a> {
    shared: &'a Shared,
    key: &'a PolicyKey,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.shared.core().unwant_policy(self.key);
    }
}

/// A search for the peers of one content; dropping it ends it.
#[derive(Debug)]
pub struct ArraySearch {
    shared: Arc<Shared>,
    content: HashOfHashes,
    peers: watch::Receiver<Vec<ArrayPeer>>,
}

impl ArraySearch {
    /// What the array names next: all peers of its answer, those before that match best; at most 255. `None` once the
    /// client has ended. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Vec<ArrayPeer>> {
        loop {
            self.peers.changed().await.ok()?;
            let peers = self.peers.borrow_and_update().clone();
            if !peers.is_empty() {
                return Some(peers);
            }
        }
    }
}

impl Drop for ArraySearch {
    fn drop(&mut self) {
        self.shared.core().end_search(Instant::now(), &self.content);
        let mut found = lock(&self.shared.found);
        // Ours is the last.
        if found
            .get(&self.content)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            found.remove(&self.content);
        }
        drop(found);
        self.shared.wake.notify_one();
    }
}

/// What handles and task share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What arrays name for contents that are not searched.
    pub(crate) named: mpsc::Sender<Seekers>,
    core: Mutex<Core>,
    /// The task has something to do earlier than it thinks.
    pub(crate) wake: Notify,
    /// An answer or a failure has come.
    pub(crate) answered: Notify,
    /// What arrays named last, for contents that are searched.
    pub(crate) found: Mutex<HashMap<HashOfHashes, watch::Sender<Vec<ArrayPeer>>>>,
    pub(crate) stopping: AtomicBool,
    /// The task has ended.
    pub(crate) ended: AtomicBool,
    pub(crate) peer_id: PeerId,
    pub(crate) state_file: PathBuf,
}

impl Shared {
    /// The core, locked for one call. A panic inside it leaves no half-done work that matters to the next call.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
