//! The peer port, and the tunnel's, at the machine's gateway: mapped while the mode has peers beyond the LAN, removed when it has none.

use crate::{
    api::{MappedPort, PortMappingStatus},
    cloud,
    quic::QuicUse,
    shared::Shared,
};
use dosvc_content::DownloadMode;
use dosvc_nat::portmap::{Port, PortMapper, PortMapperConfig, Ports, Protocol, State, Status};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

/// Starts, changes or ends it, as the settings say.
pub(crate) async fn review(shared: &Arc<Shared>) {
    let ports = wanted(shared);
    if ports.is_empty() {
        return close(shared).await;
    }
    if let Some(mapper) = shared.port_mapper.load_full() {
        return mapper.set_ports(ports);
    }
    let config = PortMapperConfig {
        root: shared.host.root().clone(),
        ..PortMapperConfig::default()
    };
    match PortMapper::start(config, ports) {
        Ok(mapper) => {
            shared
                .tasks
                .spawn(follow(Arc::clone(shared), mapper.status()));
            shared.port_mapper.store(Some(Arc::new(mapper)));
        }
        Err(error) => tracing::warn!(%error, "the peer port is not mapped at the gateway"),
    }
}

/// Has the gateway forget everything.
pub(crate) async fn close(shared: &Shared) {
    if let Some(mapper) = shared.port_mapper.swap(None) {
        mapper.shutdown().await;
    }
}

/// The ports that others beyond the LAN may come to.
fn wanted(shared: &Shared) -> Ports {
    let settings = shared.settings();
    let beyond = settings.permits.group || settings.permits.internet;
    let listening = shared.listening.load();
    let reached =
        |address: &&SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if !ip.is_loopback());
    let number = listening.iter().find(reached).map(SocketAddr::port);
    let quic = number.filter(|_| settings.config.nat.quic != QuicUse::Off);
    // Behind a gateway that maps this one, symmetric NATs reach the tunnel, too.
    let tunnel = shared.tunnel().map(|tunnel| tunnel.local_port());
    let ports = [
        (Protocol::Tcp, number),
        (Protocol::Udp, quic),
        (Protocol::Udp, tunnel),
    ];
    let port = |(protocol, number): (Protocol, Option<u16>)| {
        let number = number.and_then(NonZeroU16::new)?;
        Some(Port { protocol, number })
    };
    let open = settings.config.port_mapping && settings.peering && beyond;
    let ports = ports.into_iter().filter_map(port);
    ports.filter(|_| open).collect()
}

/// Whoever is told where we are is told anew when that changes.
async fn follow(shared: Arc<Shared>, mut status: tokio::sync::watch::Receiver<Status>) {
    let mut mappings = Vec::new();
    loop {
        let now = status.borrow_and_update().mappings.clone();
        if now != mappings {
            mappings = now;
            cloud::device_changed(&shared);
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = shared.cancel.cancelled() => return,
        }
    }
}

/// The port that Internet peers reach us at, where the gateway has given another number than ours. The address is what
/// the array sees by itself: a gateway that lies about it can't have us name somebody else's.
pub(crate) fn external_port(shared: &Shared) -> Option<u16> {
    let settings = shared.settings();
    let mapper = shared.port_mapper.load();
    let mapper = mapper
        .as_ref()
        .filter(|_| settings.mode == DownloadMode::Internet)?;
    let status = mapper.status();
    let status = status.borrow();
    let own = status
        .mappings
        .iter()
        .find(|m| m.port.protocol == Protocol::Tcp)?
        .port;
    let external = status.public(own.protocol, own.number.get())?;
    let seen = shared.cloud().and_then(|cloud| cloud.external_ip());
    let same = seen.is_none_or(|seen| seen == IpAddr::V4(*external.ip()));
    same.then(|| external.port())
}

/// What is mapped, as the local API has it.
pub(crate) fn status(shared: &Shared) -> Option<PortMappingStatus> {
    let mapper = shared.port_mapper.load_full()?;
    let status = mapper.status();
    let status = status.borrow();
    let mappings = status.mappings.iter().map(|mapping| MappedPort {
        protocol: mapping.port.protocol.to_string(),
        port: mapping.port.number.get(),
        external: mapping.external,
        public: mapping.is_public(),
    });
    let (state, method, failure) = match &status.state {
        State::Off => ("off", None, None),
        State::NoGateway => ("no_gateway", None, None),
        State::Asking => ("asking", None, None),
        State::Mapped(method) => ("mapped", Some(method.to_string()), None),
        State::Failed(why) => ("failed", None, Some(why.to_string())),
    };
    Some(PortMappingStatus {
        state: state.to_owned(),
        method,
        gateway: status.route.map(|route| route.gateway),
        mappings: mappings.collect(),
        failure,
        granted: status.granted,
        failed: status.failed,
    })
}
