//! The Teredo tunnel: open while a server is configured and the mode reaches beyond the LAN.

use crate::{
    cloud,
    incoming::{Door, accept_peers, accept_quic},
    quic::QuicUse,
    route::Transport,
    shared::{Settings, Shared},
};
use dosvc_content::DownloadMode;
use dosvc_nat::{
    net::{State, Tunnel, TunnelConfig, TunnelStatus},
    quic::{PORT, QuicEndpoint},
    tcp::{StackStats, TcpStack},
    teredo::client::ServerAddresses,
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    sync::Arc,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Which servers, and from which port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TeredoSettings {
    /// The servers, best first; none: no tunnel.
    pub servers: Vec<ServerAddresses>,
    /// The UDP port on this machine; 0 takes a free one.
    pub port: u16,
}

impl Default for TeredoSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            port: dosvc_nat::teredo::PORT,
        }
    }
}

/// A tunnel that is open, and the settings that it was made of.
#[derive(Debug)]
pub(crate) struct OpenTunnel {
    wanted: Wanted,
    tunnel: Tunnel,
    /// The end of QUIC in it, unless QUIC is off.
    pub(crate) end: Option<QuicEndpoint>,
    /// TCP in it.
    pub(crate) tcp: TcpStack,
    close: CancellationToken,
    accepting: Vec<JoinHandle<()>>,
}

/// What goes on in a running engine's tunnel.
#[derive(Clone, Debug)]
pub struct TunnelReport {
    /// Of the tunnel itself.
    pub status: TunnelStatus,
    /// Whether QUIC is spoken through it, beside TCP.
    pub quic: bool,
    /// TCP connections through it at present.
    pub tcp_connections: usize,
    /// What TCP through it has counted.
    pub tcp: StackStats,
}

/// What a tunnel is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    teredo: TeredoSettings,
    quic: bool,
}

impl OpenTunnel {
    /// Our address in it, while there is one.
    pub(crate) fn address(&self) -> Option<Ipv6Addr> {
        self.tunnel.address()
    }

    /// What is spoken through it, best first.
    pub(crate) fn transports(&self) -> impl Iterator<Item = Transport> + use<> {
        let quic = self.end.as_ref().map(|_| Transport::Teredo);
        quic.into_iter().chain([Transport::TeredoTcp])
    }

    pub(crate) fn report(&self) -> TunnelReport {
        TunnelReport {
            status: self.tunnel.status(),
            quic: self.end.is_some(),
            tcp_connections: self.tcp.connections(),
            tcp: self.tcp.stats(),
        }
    }

    /// The UDP port on this machine.
    pub(crate) fn local_port(&self) -> u16 {
        self.tunnel.status().local_port
    }

    /// Whether there is an address, in words.
    pub(crate) fn standing(&self) -> String {
        match *self.tunnel.state().borrow() {
            State::Qualified(own) => format!("{} (NAT: {})", own.address.to_ipv6(), own.nat),
            other => other.to_string(),
        }
    }
}

/// Whether these settings want a tunnel: it leads beyond the LAN only.
fn wanted(settings: &Settings) -> Option<Wanted> {
    let distant = matches!(settings.mode, DownloadMode::Group | DownloadMode::Internet);
    let open = settings.peering && distant && !settings.gates.closed().distant_peers;
    let nat = &settings.config.nat;
    (open && !nat.teredo.servers.is_empty()).then(|| Wanted {
        teredo: nat.teredo.clone(),
        quic: nat.quic != QuicUse::Off,
    })
}

/// Opens and closes what settings permit. A tunnel that can't be opened is named in the log: everything else goes on.
pub(crate) async fn review(shared: &Arc<Shared>) {
    let settings = shared.settings();
    let wanted = wanted(&settings);
    let open = shared.tunnel();
    if open.as_ref().map(|open| &open.wanted) == wanted.as_ref() {
        return;
    }
    drop(open);
    close(shared).await;
    if let Some(wanted) = wanted {
        let port = wanted.teredo.port;
        match OpenTunnel::open(shared, wanted).await {
            Ok(tunnel) => shared.tunnel.store(Some(Arc::new(tunnel))),
            Err(error) => tracing::error!(%error, port, "no Teredo tunnel"),
        }
    }
    // There may be an address already, or none any more.
    cloud::device_changed(shared);
}

/// Closes the tunnel. Nothing comes through it when this returns.
pub(crate) async fn close(shared: &Shared) {
    if let Some(open) = shared.tunnel.swap(None) {
        open.close.cancel();
        if let Some(end) = &open.end {
            end.close().await;
        }
    }
}

impl OpenTunnel {
    async fn open(shared: &Arc<Shared>, wanted: Wanted) -> io::Result<Self> {
        let config = TunnelConfig {
            servers: wanted.teredo.servers.clone(),
            bind: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, wanted.teredo.port),
            // Who is on the link is found by DNS-SD.
            discovery: false,
            // Peers with native IPv6 are reached without a tunnel, and know of no relay that leads into ours.
        };
        let (tunnel, incoming) = Tunnel::bind(config).await?;
        let (tcp, end) = match wanted.quic {
            false => (TcpStack::alone(tunnel.clone(), incoming, Some(PORT))?, None),
            true => {
                let tcp = TcpStack::beside(tunnel.clone(), Some(PORT))?;
                let end = QuicEndpoint::tunnelled(&shared.identity, tunnel.clone(), incoming, PORT);
                (tcp, Some(end?.on_line(shared.line.clone())))
            }
        };
        let close = shared.cancel.child_token();
        let by_tcp = accept_peers(Arc::clone(shared), tcp.clone(), close.clone());
        let mut accepting = vec![shared.tasks.spawn(by_tcp)];
        accepting.extend(end.iter().map(|end| {
            let door = Door {
                end: end.clone(),
                transport: Transport::Teredo,
                close: close.clone(),
            };
            shared.tasks.spawn(accept_quic(Arc::clone(shared), door))
        }));
        shared
            .tasks
            .spawn(tell(Arc::clone(shared), tunnel.clone(), close.clone()));
        Ok(Self {
            wanted,
            tunnel,
            end,
            tcp,
            close,
            accepting,
        })
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

/// Tells the fleet's array of our address, and of another one.
async fn tell(shared: Arc<Shared>, tunnel: Tunnel, close: CancellationToken) {
    let mut state = tunnel.state();
    loop {
        tokio::select! {
            () = close.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
        cloud::device_changed(&shared);
        // Those who have said nothing of themselves may be reached now.
        shared.tell_swarms();
    }
}
