//! `dosvc teredo`: servers and clients of their own, beside the daemon.

pub(crate) mod args;
mod client;
mod metrics;
mod ping;
mod relay;
mod status;

use crate::{
    Usage,
    cli::Global,
    client::{Client, ClientError},
    load_config,
    run::{Signals, log},
};
use anyhow::Context as _;
use args::{Control, ServerArgs, TeredoAction, TeredoArgs};
use dosvc_nat::{
    net,
    teredo::{is_global, server::ServerConfig},
};
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;

pub(crate) use metrics::of_daemon as metrics_of_daemon;
pub(crate) use status::Status;

/// Runs the command.
pub(crate) async fn run(global: &Global, args: TeredoArgs) -> anyhow::Result<()> {
    match args.action {
        TeredoAction::Server(args) => serve(global, args).await,
        TeredoAction::Relay(args) => relay::run(global, args).await,
        TeredoAction::Client(args) => client::run(global, args).await,
        TeredoAction::Ping(args) => ping::run(global, args).await,
        TeredoAction::Status(args) => status::run(global, args).await,
    }
}

async fn serve(global: &Global, args: ServerArgs) -> anyhow::Result<()> {
    let ServerArgs {
        primary,
        secondary,
        metrics,
    } = args;
    let secondary = second_address(primary, secondary)?;
    log::start(&load_config(global)?.daemon, global.no_color)?;
    let mut signals = Signals::new()?;
    let server = net::serve(ServerConfig::new(primary, secondary))
        .await
        .context("start the Teredo server")?;
    let (server, stop) = (Arc::new(server), CancellationToken::new());
    if let Some(listen) = metrics {
        let counted = server.clone();
        let page = move || metrics::Page::of_server(&counted.stats());
        metrics::serve(listen, page, stop.clone()).await?;
    }
    tracing::info!(%primary, %secondary, "the Teredo server is ready");
    let reason = signals.ended().await;
    let stats = server.stats();
    stop.cancel();
    server.shutdown().await;
    tracing::info!(
        reason,
        received = stats.received,
        advertisements = stats.advertisements,
        forwarded = stats.forwarded,
        refused = stats.refused.values().sum::<u64>(),
        "stopped"
    );
    Ok(())
}

/// A server's second address: the one that is named, or the one after the first, where clients look for it.
fn second_address(primary: Ipv4Addr, named: Option<Ipv4Addr>) -> Result<Ipv4Addr, Usage> {
    let address = named.unwrap_or_else(|| Ipv4Addr::from_bits(primary.to_bits().wrapping_add(1)));
    if address == primary {
        return Err(Usage(format!(
            "a Teredo server has two addresses, not {primary} twice"
        )));
    }
    if !is_global(address) {
        return Err(Usage(format!(
            "{address}, the address after {primary}, is not a public one: name the server's second address"
        )));
    }
    Ok(address)
}

/// Where the client's control socket is.
fn socket_path(global: &Global, control: &Control) -> anyhow::Result<PathBuf> {
    match &control.control {
        Some(path) => Ok(path.clone()),
        None => Ok(load_config(global)?
            .daemon
            .api_socket
            .with_file_name("teredo.sock")),
    }
}

/// The running client.
fn running(global: &Global, control: &Control) -> anyhow::Result<Client> {
    Ok(Client::new(socket_path(global, control)?))
}

/// What is wrong with the running client: unlike all others of that kind it is no daemon.
fn no_client(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::NoDaemon(path) => anyhow::anyhow!(
            "no `dosvc teredo client` answers at {}; start one, or name its socket with --control",
            path.display()
        ),
        error => error.into(),
    }
}
