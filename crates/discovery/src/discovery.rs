//! The handle that programs hold, and what it shares with its tasks.
//!
//! The lock around [`Core`] is held for single calls into it, never across an await. Tasks: one driver, which
//! sends what is due and keeps the sockets, and one reader for each socket.

use crate::{
    core::Core,
    driver::Driver,
    searches::{Found, SearchId},
    sockets,
};
use dosvc_content::{GroupHash, HashOfHashes, PeerId};
use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// The UDP port of multicast DNS.
pub const MDNS_PORT: u16 = 5353;

/// How long the first answers may take: up to 120 ms that answers wait by rule, and as much again for machines
/// that sleep or are busy.
const SETTLE_TIME: Duration = Duration::from_millis(300);

/// Which interfaces take part; one that is down never does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum InterfaceFilter {
    /// Every interface that can multicast and is neither loopback nor point to point.
    #[default]
    Lan,
    /// Only loopback: daemons on this machine find each other, nothing leaves it.
    Loopback,
    /// Only interfaces of these names, whatever their kind.
    Named(Vec<String>),
}

impl InterfaceFilter {
    pub(crate) fn admits(&self, interface: &dosvc_host::Interface) -> bool {
        interface.up
            && match self {
                Self::Lan => {
                    interface.multicast && !interface.loopback && !interface.point_to_point
                }
                Self::Loopback => interface.loopback,
                Self::Named(names) => names.contains(&interface.name),
            }
    }
}

/// What a machine says about itself, and where it says so.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// Our own id: names the service instance and the host. Answers that carry it are our own and ignored.
    pub peer_id: PeerId,
    /// The TCP port that peers shall connect to.
    pub port: u16,
    /// Mixed into the names that contents are asked by, so that machines of other groups cannot even ask.
    pub group: Option<GroupHash>,
    /// Where to listen and ask.
    pub interfaces: InterfaceFilter,
    /// The UDP port: [`MDNS_PORT`] everywhere but in tests.
    pub mdns_port: u16,
}

/// Why discovery could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The machine's interfaces could not be listed.
    #[error("cannot list the network interfaces: {0}")]
    Interfaces(#[source] io::Error),
    /// The multicast DNS port is held by a program that does not share it.
    #[error("cannot use UDP port {port} for multicast DNS: {source}")]
    Bind {
        /// The port that was asked for.
        port: u16,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The machine's presence on its links. Dropping it ends it without a goodbye; see [`Discovery::stop`].
#[derive(Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    _end_tasks: DropGuard,
}

impl Discovery {
    /// Starts, silently: no packet is sent and no multicast group joined before something is announced or searched.
    /// An interface that appears later takes part within a minute, during a search within half a minute.
    ///
    /// # Errors
    /// [`DiscoveryError`] when interfaces cannot be listed or the port cannot be had. That no interface fits is no
    /// error: one may come.
    pub async fn start(config: DiscoveryConfig) -> Result<Self, DiscoveryError> {
        dosvc_host::interfaces().map_err(DiscoveryError::Interfaces)?;
        let port = config.mdns_port;
        sockets::probe(port).map_err(|source| DiscoveryError::Bind { port, source })?;
        let seed = RandomState::new().build_hasher().finish();
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(
                config.peer_id,
                config.port,
                config.group,
                port,
                seed,
            )),
            wake: Notify::new(),
            found: Notify::new(),
            doubtful: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let tasks = TaskTracker::new();
        let token = CancellationToken::new();
        let driver = Driver::new(
            Arc::clone(&shared),
            config.interfaces,
            port,
            tasks.clone(),
            token.clone(),
        );
        tasks.spawn(driver.run());
        Ok(Self {
            shared,
            tasks,
            _end_tasks: token.drop_guard(),
        })
    }

    /// Answers for this content from now on. With `now_downloading` the link is told at once, so that others who
    /// search now learn of us; without, nothing is sent: ten thousand contents cost ten thousand set entries.
    pub fn announce(&self, content: HashOfHashes, now_downloading: bool) {
        self.shared
            .core()
            .announce(Instant::now(), &content, now_downloading);
        self.shared.wake.notify_one();
    }

    /// Answers no more for this content; says goodbye if anybody has been told of it in the last two minutes.
    pub fn withdraw(&self, content: &HashOfHashes) {
        self.shared.core().withdraw(Instant::now(), content);
        self.shared.wake.notify_one();
    }

    /// Asks the link who holds this content: at once, then 1 s, 3 s, 9 s, 27 s and ever again 60 s apart, for as
    /// long as the search lives.
    pub fn find(&self, content: HashOfHashes) -> Search {
        let now = Instant::now();
        let id = self.shared.core().find(now, &content);
        self.shared.wake.notify_one();
        Search {
            shared: Arc::clone(&self.shared),
            id,
            settled_at: now + SETTLE_TIME,
        }
    }

    /// Takes back what others remember of us, ends all searches and all tasks. No multicast socket is open when this
    /// returns.
    pub async fn stop(&self) {
        self.shared.core().leave(Instant::now());
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A search for the holders of one content; dropping it ends it.
#[derive(Debug)]
pub struct Search {
    shared: Arc<Shared>,
    id: SearchId,
    settled_at: Instant,
}

impl Search {
    /// The next holder, or one named before that has new addresses or came back; `None` once discovery has
    /// stopped. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Found> {
        loop {
            let notified = self.shared.found.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(found) = self.shared.core().take_found(self.id) {
                return Some(found);
            }
            if self.shared.has_ended() {
                return None;
            }
            notified.await;
        }
    }

    /// Resolves when the first answers could have arrived: 300 ms after the search began, sooner with the first
    /// answer or when discovery stops.
    pub async fn settled(&self) {
        let answered = async {
            loop {
                let notified = self.shared.found.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.shared.core().is_answered(self.id) || self.shared.has_ended() {
                    return;
                }
                notified.await;
            }
        };
        // An elapsed time limit is the other way to be settled.
        let _ = tokio::time::timeout_at(self.settled_at.into(), answered).await;
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.shared.core().end_search(self.id);
        self.shared.wake.notify_one();
    }
}

/// What handles, driver and readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// The driver has something to do.
    pub(crate) wake: Notify,
    /// A search has found something, or all is over.
    pub(crate) found: Notify,
    /// The interfaces may not be what they were.
    pub(crate) doubtful: AtomicBool,
    /// [`Discovery::stop`] has been called: the driver ends once all is said.
    pub(crate) stopping: AtomicBool,
    /// The driver has ended.
    pub(crate) ended: AtomicBool,
}

impl Shared {
    /// The core, locked for one call. A panic inside it leaves no half-done work that matters to the next call.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
