//! `dosvc teredo relay`: between native IPv6 and Teredo clients.

use super::args::RelayArgs;
use crate::{
    cli::Global,
    load_config,
    run::{Signals, log},
};
use anyhow::Context as _;
use dosvc_nat::net::{self, tun::Device};
use std::net::SocketAddrV4;

/// Runs the relay until it is told to stop.
pub(super) async fn run(global: &Global, args: RelayArgs) -> anyhow::Result<()> {
    let RelayArgs { address, port, tun } = args;
    log::start(&load_config(global)?.daemon, global.no_color)?;
    let mut signals = Signals::new()?;
    let device = Device::open(&tun)
        .context("make the relay's network interface (needs CAP_NET_ADMIN and /dev/net/tun)")?;
    let relay = net::relay(SocketAddrV4::new(address, port), device)
        .await
        .context("start the Teredo relay")?;
    if !forwards() {
        tracing::warn!(
            "this machine does not forward IPv6: nothing will pass the relay (sysctl net.ipv6.conf.all.forwarding=1)"
        );
    }
    tracing::info!(%address, interface = tun, "the Teredo relay is ready");
    let reason = tokio::select! {
        reason = signals.ended() => reason,
        () = relay.ended() => "the interface has failed",
    };
    let (stats, (clients, _)) = (relay.stats(), relay.clients());
    relay.shutdown().await;
    tracing::info!(
        reason,
        clients,
        to_clients = stats.to_clients,
        to_native = stats.to_native,
        bubbles = stats.bubbles,
        dropped = stats.dropped.values().sum::<u64>(),
        "stopped"
    );
    Ok(())
}

fn forwards() -> bool {
    let switch = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding");
    switch.is_ok_and(|switch| switch.trim() != "0")
}
