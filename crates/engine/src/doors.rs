//! The peer port, TCP and UDP, and multicast DNS: open while the mode permits peers, closed for real while it does not.

use crate::{
    engine::EngineError,
    incoming::{Door, accept_peers, accept_quic},
    quic::{self, QuicUse},
    route::Transport,
    shared::{Settings, Shared},
    upkeep,
};
use dosvc_discovery::{Discovery, DiscoveryConfig, InterfaceFilter, MDNS_PORT};
use dosvc_nat::quic::QuicEndpoint;
use dosvc_wire::{GroupKey, net::Listener};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often it is tried to have a port for TCP and UDP …
const PORT_TRIES: u32 = 16;
/// … with pauses in between, where it must be the same.
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// What is open.
#[derive(Debug)]
pub(crate) struct Doors {
    close: CancellationToken,
    accepting: Vec<JoinHandle<()>>,
    /// What discovery mixes into the names that contents are asked by.
    group: Option<GroupKey>,
    multicast: bool,
    quic: bool,
}

impl Doors {
    /// Opens what the settings permit; nothing when they permit no peers.
    pub(crate) async fn open(shared: &Arc<Shared>) -> Result<Option<Self>, EngineError> {
        let settings = shared.settings();
        let config = &settings.config;
        if !settings.peering || config.listen.is_empty() {
            return Ok(None);
        }
        let (listener, ends) = bind(shared, &settings).await.map_err(EngineError::Listen)?;
        let addresses = listener.local_addrs();
        let port = addresses.first().map_or(0, SocketAddr::port);
        let close = shared.cancel.child_token();
        let by_quic = ends.iter().map(|end| {
            let door = Door {
                end: end.clone(),
                transport: Transport::Quic,
                close: close.clone(),
            };
            shared.tasks.spawn(accept_quic(Arc::clone(shared), door))
        });
        let mut accepting: Vec<_> = by_quic.collect();
        shared.quic.store(Arc::new(ends));
        let by_tcp = accept_peers(Arc::clone(shared), listener, close.clone());
        accepting.push(shared.tasks.spawn(by_tcp));
        let mut doors = Self {
            group: settings.group,
            multicast: wants_multicast(&settings),
            quic: wants_quic(&settings),
            accepting,
            close,
        };
        shared.listening.store(Arc::new(addresses));
        if doors.multicast {
            match doors.start_discovery(shared, port).await {
                Ok(()) => upkeep::review_announcements(shared).await,
                Err(error) => {
                    doors.multicast = false;
                    doors.shut(shared).await;
                    return Err(error);
                }
            }
        }
        Ok(Some(doors))
    }

    async fn start_discovery(&self, shared: &Arc<Shared>, port: u16) -> Result<(), EngineError> {
        let discovery = Discovery::start(DiscoveryConfig {
            peer_id: shared.peer_id,
            port,
            // Who knows the group's id and not its secret can't ask.
            group: self.group.map(|group| (*group.key()).into()),
            interfaces: InterfaceFilter::default(),
            mdns_port: MDNS_PORT,
        })
        .await?;
        shared.discovery.store(Some(Arc::new(discovery)));
        Ok(())
    }

    /// Whether what is open is what these settings want.
    pub(crate) fn suit(&self, settings: &Settings) -> bool {
        settings.peering
            && self.multicast == wants_multicast(settings)
            && self.quic == wants_quic(settings)
            && (self.group == settings.group || !self.multicast)
    }

    /// Closes the port, says goodbye on multicast DNS and leaves it. Neither is open when this returns.
    pub(crate) async fn shut(self, shared: &Shared) {
        self.close.cancel();
        for accepting in self.accepting {
            // A task that panicked is gone as well.
            let _ = accepting.await;
        }
        for end in shared.quic.swap(Arc::default()).iter() {
            end.close().await;
        }
        shared.listening.store(Arc::default());
        if let Some(discovery) = shared.discovery.swap(None) {
            discovery.stop().await;
        }
    }
}

/// Binds TCP and, on the same ports, UDP. Where any free port will do, one has to be free for both; else the system may need
/// a moment to give back a UDP port that was ours.
async fn bind(shared: &Shared, settings: &Settings) -> io::Result<(Listener, Vec<QuicEndpoint>)> {
    let config = &settings.config;
    let any = config.listen.iter().any(|address| address.port() == 0);
    for again in (0..PORT_TRIES).rev() {
        let listener = Listener::bind(&config.listen)?;
        if !wants_quic(settings) {
            return Ok((listener, Vec::new()));
        }
        match quic::bind(shared, &listener.local_addrs()) {
            Ok(ends) => return Ok((listener, ends)),
            Err(error) if again == 0 || error.kind() != io::ErrorKind::AddrInUse => {
                return Err(error);
            }
            Err(_) if any => {}
            Err(_) => tokio::time::sleep(PORT_PAUSE).await,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn wants_multicast(settings: &Settings) -> bool {
    settings.config.dns_sd && settings.permits.multicast
}

/// Whether there is anybody to speak QUIC with: no port is open for nothing.
fn wants_quic(settings: &Settings) -> bool {
    match settings.config.nat.quic {
        QuicUse::Off => false,
        QuicUse::Distant => settings.permits.group || settings.permits.internet,
        QuicUse::Everywhere => true,
    }
}
