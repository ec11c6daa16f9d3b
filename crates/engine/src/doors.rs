//! The peer port and multicast DNS: open while the mode permits peers, closed for real while it does not.

use crate::{
    engine::EngineError,
    incoming::accept_peers,
    shared::{Settings, Shared},
    upkeep,
};
use dosvc_discovery::{Discovery, DiscoveryConfig, InterfaceFilter, MDNS_PORT};
use dosvc_wire::{GroupKey, net::Listener};
use std::{net::SocketAddr, sync::Arc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What is open.
#[derive(Debug)]
pub(crate) struct Doors {
    close: CancellationToken,
    accepting: JoinHandle<()>,
    /// What discovery mixes into the names that contents are asked by.
    group: Option<GroupKey>,
    multicast: bool,
}

impl Doors {
    /// Opens what the settings permit; nothing when they permit no peers.
    pub(crate) async fn open(shared: &Arc<Shared>) -> Result<Option<Self>, EngineError> {
        let settings = shared.settings();
        let config = &settings.config;
        if !settings.peering || config.listen.is_empty() {
            return Ok(None);
        }
        let listener = Listener::bind(&config.listen).map_err(EngineError::Listen)?;
        let addresses = listener.local_addrs();
        let port = addresses.first().map_or(0, SocketAddr::port);
        let close = shared.cancel.child_token();
        let mut doors = Self {
            group: settings.group,
            multicast: wants_multicast(&settings),
            accepting: shared.tasks.spawn(accept_peers(
                Arc::clone(shared),
                listener,
                close.clone(),
            )),
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
            && (self.group == settings.group || !self.multicast)
    }

    /// Closes the port, says goodbye on multicast DNS and leaves it. Neither is open when this returns.
    pub(crate) async fn shut(self, shared: &Shared) {
        self.close.cancel();
        // A task that panicked is gone as well.
        let _ = self.accepting.await;
        shared.listening.store(Arc::default());
        if let Some(discovery) = shared.discovery.swap(None) {
            discovery.stop().await;
        }
    }
}

fn wants_multicast(settings: &Settings) -> bool {
    settings.config.dns_sd && settings.permits.multicast
}
