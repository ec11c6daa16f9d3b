//! `dosvc teredo client`: an address, and answers to pings.

use super::{
    args::ClientArgs,
    metrics::Page,
    ping::{self, Pings},
    second_address, socket_path, status,
};
use crate::{
    api::socket::ApiSocket,
    cli::Global,
    load_config,
    run::{Signals, log},
};
use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State as Shared},
    routing::{get, post},
};
use dosvc_nat::{
    net::{
        Incoming, State, Tunnel, TunnelConfig,
        tun::{self, Device},
    },
    teredo::{Ipv6Packet, client::ServerAddresses, icmp},
};
use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Largest body of a request to the control socket.
const BODY_BYTES_MAX: usize = 4 << 10;

/// Runs the client until it is told to stop.
pub(super) async fn run(global: &Global, args: ClientArgs) -> anyhow::Result<()> {
    let ClientArgs {
        server,
        server2,
        port,
        addr_file,
        control,
        no_local_discovery,
        tun,
        native,
    } = args;
    let servers = vec![ServerAddresses {
        primary: server,
        secondary: Some(second_address(server, server2)?),
    }];
    log::start(&load_config(global)?.daemon, global.no_color)?;
    let mut signals = Signals::new()?;
    let control = socket_path(global, &control)?;
    let socket = ApiSocket::bind(&control, None)?;
    let config = TunnelConfig {
        servers,
        bind: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
        discovery: !no_local_discovery,
    };
    let device = tun
        .map(|name| Device::open(&name))
        .transpose()
        .context("make a network interface (needs CAP_NET_ADMIN and /dev/net/tun)")?;
    let (tunnel, incoming) = Tunnel::bind(config)
        .await
        .with_context(|| format!("open UDP port {port}"))?;
    if native {
        tunnel.take_natives();
    }
    tracing::info!(%server, control = %control.display(), "the Teredo client asks its server");
    let pings = Arc::new(Pings::new(tunnel.clone()));
    let stop = CancellationToken::new();
    let mut reader = tokio::spawn(read(tunnel.clone(), incoming, device, pings.clone()));
    let api = tokio::spawn(socket.serve(router(pings), stop.clone()));
    let addresses = follow_address(&tunnel, addr_file.as_deref());
    let reason = tokio::select! {
        failed = addresses => {
            failed?;
            "the tunnel has ended"
        }
        ended = &mut reader => {
            ended.context("read from the tunnel")?.context("the network interface")?;
            "the tunnel has ended"
        }
        reason = signals.ended() => reason,
    };
    tracing::info!(reason, "stopping");
    stop.cancel();
    reader.abort();
    api.abort();
    Ok(())
}

fn router(pings: Arc<Pings>) -> Router {
    Router::new()
        .route("/v1/status", get(read_status))
        .route("/metrics", get(read_metrics))
        .route("/v1/ping", post(ping))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(pings)
}

async fn read_status(Shared(pings): Shared<Arc<Pings>>) -> Json<status::Status> {
    Json(status::Status::of(&pings.tunnel().status()))
}

async fn read_metrics(Shared(pings): Shared<Arc<Pings>>) -> axum::response::Response {
    Page::of_client(&pings.tunnel().status()).answer()
}

async fn ping(
    Shared(pings): Shared<Arc<Pings>>,
    Json(request): Json<ping::Request>,
) -> Json<ping::Outcome> {
    Json(pings.ping(&request).await)
}

/// Takes what comes through the tunnel: for the machine, where it has an interface, else for ourselves.
async fn read(
    tunnel: Tunnel,
    incoming: Incoming,
    device: Option<Device>,
    pings: Arc<Pings>,
) -> std::io::Result<()> {
    let Some(device) = device else {
        return answer(tunnel, incoming, pings).await;
    };
    let is_ours = |packet: &[u8]| {
        let reply = Ipv6Packet::new(packet).ok().and_then(|packet| {
            let (kind, body) = icmp::parse(packet)?;
            (kind == icmp::ECHO_REPLY).then(|| pings.answered(packet.source(), body))
        });
        reply.unwrap_or(false)
    };
    tun::join(tunnel, incoming, device, is_ours).await
}

/// Answers pings of peers, and tells our own ones of their answers.
async fn answer<T>(tunnel: Tunnel, mut incoming: Incoming, pings: Arc<Pings>) -> T {
    loop {
        let Ok(packet) = Ipv6Packet::new(incoming.recv().await) else {
            continue;
        };
        if let Some(reply) = icmp::echo_reply(packet) {
            if let Err(error) = tunnel.send(&reply) {
                tracing::debug!(to = %packet.source(), %error, "a ping could not be answered");
            }
        } else if let Some((icmp::ECHO_REPLY, body)) = icmp::parse(packet) {
            pings.answered(packet.source(), body);
        }
    }
}

/// Keeps the address in a file.
async fn follow_address(tunnel: &Tunnel, file: Option<&Path>) -> anyhow::Result<()> {
    let mut state = tunnel.state();
    loop {
        let address = match *state.borrow_and_update() {
            State::Qualified(own) => own.address.to_string(),
            _ => String::new(),
        };
        if let Some(file) = file {
            write(file, &address).with_context(|| format!("write {}", file.display()))?;
        }
        if state.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Replaces the file whole: who reads it sees the old address or the new one.
fn write(file: &Path, address: &str) -> anyhow::Result<()> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut new = tempfile::NamedTempFile::new_in(folder.unwrap_or_else(|| Path::new(".")))?;
    new.write_all(address.as_bytes())?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o644))?;
    new.persist(file)?;
    Ok(())
}
