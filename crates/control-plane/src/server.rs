//! A control plane from start to stop.

use crate::{
    admin,
    authority::{AuthorityError, open_authority},
    config::ControlPlaneConfig,
    contents::{Contents, StoreError},
    listen::{Door, Guests},
    metrics::Metrics,
    networks::Networks,
    pace::Pace,
    remote::RedisError,
    services,
    shared::{Shared, seconds},
    snapshot,
    swarms::Swarms,
    tls::{Certificate, TlsError},
};
use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often what has expired is removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How often swarms are written to disk.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(60);
/// How often the certificate's files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(10);
/// Connections of administrators at one time.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration does not go together.
    #[error("{0}")]
    Config(String),
    /// An address that can't be listened on.
    #[error("listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of networks.
    #[error("{0}: {1}")]
    Networks(PathBuf, String),
    /// Who signs the certificates of groups' members.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The array's store.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Administration data.
    #[error("administration data: {0}")]
    Store(#[from] StoreError),
}

/// A running control plane. It stops with [`Self::stop`].
#[derive(Debug)]
pub struct ControlPlane {
    shared: Arc<Shared>,
    certificate: Option<Arc<Certificate>>,
    listening: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// Starts everything; when this returns, clients are answered.
    ///
    /// # Errors
    /// Whatever keeps it from doing what it is told. A snapshot that can't be read does not: it is said in the log, and
    /// the swarms begin empty.
    pub async fn start(config: ControlPlaneConfig) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let certificate = match config.tls() {
            Some((certificate, key)) => Some(Certificate::load(certificate, key)?),
            None => None,
        };
        let tls = match &certificate {
            Some(certificate) => Some(TlsAcceptor::from(Arc::new(certificate.server_config()?))),
            None => None,
        };
        let networks = read_networks(&config)?;
        let contents = open_contents(&config).await?;
        let authority = match config.has(crate::Service::ContentPolicy) {
            true => Some(open_authority(&config.authority_file())?),
            false => None,
        };
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            authority,
            swarms: Swarms::open(&config, stop.clone()).await?,
            contents,
            metrics: Metrics::default(),
            pace: Pace::new(config.requests_per_second),
            networks: RwLock::new(Arc::new(networks)),
            started: Instant::now(),
            ready: AtomicBool::new(false),
            is_tls: tls.is_some(),
            config,
        });
        restore(&shared).await;
        let mut this = Self {
            certificate,
            listening: Vec::new(),
            admin: None,
            stop,
            tasks: TaskTracker::new(),
            shared,
        };
        this.open_doors(tls).await?;
        this.spawn_housekeeping();
        this.shared.ready.store(true, Relaxed);
        Ok(this)
    }

    async fn open_doors(&mut self, tls: Option<TlsAcceptor>) -> Result<(), StartError> {
        let config = &self.shared.config;
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push(listen(*address).await?);
        }
        let admin = match config.admin_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let door = Arc::new(Door {
            router: services::router(self.shared.clone()),
            shared: self.shared.clone(),
            tls,
            places: Arc::new(Semaphore::new(config.connections_max)),
            guests: Guests::default(),
            stop: self.stop.clone(),
        });
        for (listener, address) in listeners {
            self.listening.push(address);
            self.tasks.spawn(door.clone().serve(listener));
        }
        if let Some((listener, address)) = admin {
            self.admin = Some(address);
            let door = Door {
                router: admin::router(self.shared.clone()),
                shared: self.shared.clone(),
                tls: None,
                places: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)),
                guests: Guests::default(),
                stop: self.stop.clone(),
            };
            self.tasks.spawn(Arc::new(door).serve(listener));
        }
        Ok(())
    }

    fn spawn_housekeeping(&self) {
        let stop = self.stop.clone();
        let (shared, certificate) = (self.shared.clone(), self.certificate.clone());
        let has_array = shared.has(crate::Service::Array);
        self.tasks.spawn(async move {
            let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
            let mut save = tokio::time::interval(SNAPSHOT_INTERVAL);
            let mut look = tokio::time::interval(CERTIFICATE_INTERVAL);
            save.reset();
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = sweep.tick(), if has_array => shared.swarms.expire().await,
                    _ = save.tick(), if has_array => snapshot(&shared).await,
                    _ = look.tick() => refresh(certificate.as_deref()),
                }
            }
        });
    }

    /// Where clients connect.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Where administrators connect.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Reads the certificate and the networks again; what can't be read leaves everything as it was.
    pub fn reload(&self) {
        refresh(self.certificate.as_deref());
        match read_networks(&self.shared.config) {
            Ok(networks) => {
                let mut present = self
                    .shared
                    .networks
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *present = Arc::new(networks);
            }
            Err(error) => {
                tracing::error!(%error, "networks not reloaded: the old ones stay in force")
            }
        }
    }

    /// Stops: no new connections, requests under way are answered, swarms are written to disk.
    pub async fn stop(self) {
        self.shared.ready.store(false, Relaxed);
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        snapshot(&self.shared).await;
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |error| StartError::Listen(address, error);
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

fn read_networks(config: &ControlPlaneConfig) -> Result<Networks, StartError> {
    let Some(path) = &config.networks else {
        return Ok(Networks::default());
    };
    let error = |error: String| StartError::Networks(path.clone(), error);
    let text = fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    Networks::parse(&text).map_err(error)
}

/// A server that is out of reach is waited for: until it is there, publishers and content policy are refused.
async fn open_contents(config: &ControlPlaneConfig) -> Result<Contents, StoreError> {
    let contents = Contents::of(config).await?;
    match contents.check().await {
        Err(StoreError::OutOfReach(why)) => {
            tracing::error!(%why, "the database is out of reach: nobody is told of contents until it is there");
        }
        checked => checked?,
    }
    Ok(contents)
}

async fn restore(shared: &Arc<Shared>) {
    let Some(array) = shared.own_swarms() else {
        return;
    };
    let file = snapshot::path(&shared.config.state_dir);
    let to = shared.clone();
    let restored = blocking(move || snapshot::restore(&array, &to.config.state_dir, seconds()));
    match restored.await {
        Some(Ok(0)) | None => {}
        Some(Ok(peers)) => tracing::info!(peers, "swarms restored"),
        Some(Err(error)) => {
            tracing::warn!(file = %file.display(), %error, "snapshot not used: the swarms begin empty");
        }
    }
}

async fn snapshot(shared: &Arc<Shared>) {
    let Some(array) = shared.own_swarms() else {
        return;
    };
    let from = shared.clone();
    let saved = blocking(move || snapshot::save(&array, &from.config.state_dir)).await;
    match saved {
        Some(Ok(bytes)) => tracing::debug!(bytes, "snapshot written"),
        Some(Err(error)) => {
            tracing::error!(%error, "snapshot not written: a restart would begin with the last one")
        }
        None => {}
    }
}

fn refresh(certificate: Option<&Certificate>) {
    match certificate.map(Certificate::refresh) {
        Some(Ok(true)) => tracing::info!("certificate reloaded"),
        Some(Err(error)) => {
            tracing::error!(%error, "certificate not reloaded: the old one stays in force")
        }
        Some(Ok(false)) | None => {}
    }
}

/// Runs what takes long or waits for a disk; `None` when it could not be run to its end.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
