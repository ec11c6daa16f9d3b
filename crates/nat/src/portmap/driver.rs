//! The mapper with its gateway, and time.

use super::{
    Action, Failure, Granted, LEASE, Mapper, Ports, Route, Status,
    protocols::{self, Client},
    restart::Restarts,
};
use crate::net::seed;
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::UdpSocket,
    sync::{Mutex, watch},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest time that is spent on removing mappings at the end, after what is being asked just now.
const REMOVAL_MAX: Duration = Duration::from_millis(2000);
/// Longest time that is waited for that.
const FINISH_MAX: Duration = Duration::from_millis(500);
/// Longest time that a gateway has for all ports together.
const MAPPING_MAX: Duration = Duration::from_secs(30);

/// How ports are mapped.
#[derive(Clone, Debug)]
pub struct PortMapperConfig {
    /// For how long mappings are asked for.
    pub lease: Duration,
    /// Where the machine's own files are.
    pub root: dosvc_host::Root,
}

impl Default for PortMapperConfig {
    fn default() -> Self {
        Self {
            lease: LEASE,
            root: dosvc_host::Root::default(),
        }
    }
}

/// Keeps ports mapped until it is dropped or [shut down](Self::shutdown).
#[derive(Debug)]
pub struct PortMapper {
    ports: watch::Sender<Ports>,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl PortMapper {
    /// Starts to keep these ports mapped.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn start(config: PortMapperConfig, ports: Ports) -> io::Result<Self> {
        let (ports, wanted) = watch::channel(ports);
        let mapper = Mapper::new(config.lease, seed()?);
        let (shown, status) = watch::channel(mapper.status());
        let stop = CancellationToken::new();
        let driver = Driver {
            mapper,
            root: config.root,
            client: Arc::default(),
            work: JoinSet::new(),
            shown,
            restarts: None,
        };
        tokio::spawn(driver.run(wanted, stop.clone()));
        Ok(Self {
            ports,
            status,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        })
    }

    /// These ports are wanted from now on.
    pub fn set_ports(&self, ports: Ports) {
        self.ports.send_if_modified(|wanted| {
            let differ = *wanted != ports;
            *wanted = ports;
            differ
        });
    }

    /// How things stand, and when that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Removes what is mapped, and ends. Takes 3 s at most.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut status = self.status.clone();
        // Whose task has ended changes nothing any more.
        while status.changed().await.is_ok() {}
    }
}

/// What is asked one question at a time.
type Shared = Arc<Mutex<Option<Client>>>;

struct Driver {
    mapper: Mapper,
    root: dosvc_host::Root,
    client: Shared,
    /// The question under way.
    work: JoinSet<(u64, Result<Granted, Failure>)>,
    shown: watch::Sender<Status>,
    restarts: Option<(Route, Restarts)>,
}

impl Driver {
    async fn run(mut self, mut wanted: watch::Receiver<Ports>, stop: CancellationToken) {
        let mut changes = dosvc_host::Changes::listen(&self.root).await;
        self.mapper.handle_route(route(&self.root).await);
        let ports = wanted.borrow_and_update().clone();
        self.mapper.handle_ports(ports);
        loop {
            self.carry_out().await;
            let timeout = self.mapper.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                () = at(timeout) => self.mapper.handle_timeout(Instant::now()),
                Some(done) = self.work.join_next() => match done {
                    Ok((id, answer)) => self.answered(id, answer),
                    Err(error) => tracing::debug!(%error, "a question to the gateway was dropped"),
                },
                () = restarted(self.restarts.as_ref()) => {
                    tracing::debug!("the gateway says that it has started anew");
                    self.mapper.handle_restart(Instant::now());
                }
                Ok(()) = wanted.changed() => {
                    let ports = wanted.borrow_and_update().clone();
                    self.mapper.handle_ports(ports);
                }
                () = changes.changed() => self.mapper.handle_route(route(&self.root).await),
            }
        }
        // What is being mapped just now would be forgotten, not removed.
        let _late = tokio::time::timeout(FINISH_MAX, self.work.join_next()).await;
        self.work.shutdown().await;
        let held = self.client.lock().await.take();
        if let Some(client) = held {
            remove_all(client).await;
        }
        self.shown.send_replace(Status::default());
    }

    fn answered(&mut self, id: u64, answer: Result<Granted, Failure>) {
        let before = self.mapper.status();
        self.mapper.handle_answer(Instant::now(), id, answer);
        let status = self.mapper.status();
        if status.mappings != before.mappings || status.state != before.state {
            tracing::info!(state = ?status.state, mappings = ?status.mappings, "port mapping");
        }
    }

    async fn carry_out(&mut self) {
        while let Some(action) = self.mapper.poll_action() {
            match action {
                Action::Map {
                    id,
                    route,
                    ports,
                    lease,
                    search,
                } => {
                    self.work.shutdown().await;
                    let client = self.client.clone();
                    self.work.spawn(async move {
                        let asked = ask(&client, route, &ports, lease, search);
                        let answer = tokio::time::timeout(MAPPING_MAX, asked).await;
                        (id, answer.unwrap_or(Err(Failure::Silent)))
                    });
                }
                Action::Unmap(ports) => {
                    self.work.shutdown().await;
                    let client = self.client.clone();
                    tokio::spawn(async move {
                        let mut client = client.lock().await;
                        let Some(client) = client.as_mut() else {
                            return;
                        };
                        for port in ports {
                            client.unmap(port).await;
                        }
                    });
                }
                Action::Forget => {
                    self.work.shutdown().await;
                    self.client = Shared::default();
                }
            }
        }
        let status = self.mapper.status();
        self.listen(status.route.filter(|_| !status.mappings.is_empty()));
        self.shown.send_if_modified(|shown| {
            let differ = *shown != status;
            *shown = status;
            differ
        });
    }

    /// Hears the gateway's restarts while anything is mapped there.
    fn listen(&mut self, route: Option<Route>) {
        if self.restarts.as_ref().map(|(route, _)| *route) != route {
            self.restarts = route.map(|route| (route, Restarts::listen(route.local)));
        }
    }
}

async fn restarted(restarts: Option<&(Route, Restarts)>) {
    match restarts {
        Some((route, restarts)) => restarts.of(route.gateway).await,
        None => std::future::pending().await,
    }
}

async fn at(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}

async fn ask(
    client: &Mutex<Option<Client>>,
    route: Route,
    ports: &Ports,
    lease: Duration,
    search: bool,
) -> Result<Granted, Failure> {
    let mut client = client.lock().await;
    match client.as_mut().filter(|_| !search) {
        Some(client) => client.map(route, ports, lease).await,
        None => {
            let (found, granted) = protocols::search(route, ports, lease).await?;
            *client = Some(found);
            Ok(granted)
        }
    }
}

async fn remove_all(mut client: Client) {
    let removed = async {
        for port in client.held() {
            client.unmap(port).await;
        }
    };
    if tokio::time::timeout(REMOVAL_MAX, removed).await.is_err() {
        tracing::info!("the gateway keeps mapped ports until their leases end");
    }
}

/// The gateway of the default route, and our address towards it.
async fn route(root: &dosvc_host::Root) -> Option<Route> {
    let gateway = dosvc_host::default_router(root)?;
    let local = towards(gateway)
        .await
        .inspect_err(|error| tracing::debug!(%gateway, %error, "no address towards the gateway"))
        .ok()?;
    Some(Route { gateway, local })
}

/// No packet is sent for this.
async fn towards(gateway: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((gateway, 9)).await?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}
