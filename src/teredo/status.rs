//! `dosvc teredo status`.

use super::{
    args::{Control, StatusArgs},
    no_client, running,
};
use crate::{cli::Global, client::ClientError, show};
use dosvc_engine::TunnelReport;
use dosvc_nat::{
    net::{State, TunnelStatus},
    teredo::client::{LocalPort, Offline},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::Duration,
};

/// A client as others see it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    state: String,
    address: Option<Ipv6Addr>,
    server: Option<Ipv4Addr>,
    mapped: Option<SocketAddrV4>,
    local_port: u16,
    nat: Option<String>,
    keeps_port: Option<bool>,
    mtu: Option<u16>,
    peers: Vec<Peer>,
    received: u64,
    delivered: u64,
    bubbles: u64,
    /// Bubbles that the limits kept back.
    #[serde(default)]
    bubbles_withheld: u64,
    solicitations: u64,
    dropped: BTreeMap<String, u64>,
    /// How long ago a server last answered.
    #[serde(default)]
    answered_s: Option<u64>,
    /// What is spoken through the tunnel of a daemon.
    #[serde(default)]
    speaks: Option<Speaks>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Speaks {
    quic: bool,
    tcp_connections: usize,
    tcp_incoming: u64,
    tcp_refused: u64,
    tcp_outgoing: u64,
    tcp_received: u64,
    tcp_dropped: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    address: Ipv6Addr,
    /// Where packets for it go, once it has shown that it receives there.
    path: Option<SocketAddrV4>,
    /// The additional local port that they come from, where the NAT needs one.
    from_port: Option<u16>,
    /// Bubbles through its server since something last came from it.
    bubbles: u8,
    waiting_packets: usize,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: StatusArgs) -> anyhow::Result<()> {
    let StatusArgs { control, json } = args;
    let status = ask(global, &control).await?;
    if json {
        show::pretty_json(&status)?;
    } else {
        status.lines().into_iter().try_for_each(show::line)?;
    }
    Ok(())
}

/// The daemon's tunnel, or the client's where the daemon has none. Who names a client's socket means the client.
async fn ask(global: &Global, control: &Control) -> anyhow::Result<Status> {
    let client = running(global, control)?;
    if control.control.is_some() {
        return client.read("/v1/status").await.map_err(no_client);
    }
    let daemon = match crate::client(global)?.tunnel().await {
        Ok(Some(status)) => return Ok(status),
        Ok(None) => {
            "the daemon has no tunnel: that takes mode 2 or 3, [nat] teredo_servers, and that nothing closes peers (`dosvc doctor`)"
                .to_owned()
        }
        Err(error) => error.to_string(),
    };
    let status: Result<Status, ClientError> = client.read("/v1/status").await;
    status.map_err(|error| match error {
        ClientError::NoDaemon(path) => {
            anyhow::anyhow!(
                "{daemon}; and no `dosvc teredo client` answers at {}",
                path.display()
            )
        }
        error => error.into(),
    })
}

impl Status {
    /// A daemon's.
    pub(crate) fn of_daemon(report: &TunnelReport) -> Self {
        let tcp = report.tcp;
        let speaks = Speaks {
            quic: report.quic,
            tcp_connections: report.tcp_connections,
            tcp_incoming: tcp.incoming,
            tcp_refused: tcp.refused,
            tcp_outgoing: tcp.outgoing,
            tcp_received: tcp.received,
            tcp_dropped: tcp.dropped,
        };
        Self {
            speaks: Some(speaks),
            ..Self::of(&report.status)
        }
    }

    pub(crate) fn of(status: &TunnelStatus) -> Self {
        let own = match status.state {
            State::Qualified(own) => Some(own),
            State::Starting | State::Offline(_) => None,
        };
        let stats = &status.stats;
        let peers = status.peers.iter().map(|peer| Peer {
            address: peer.address,
            path: peer.path.map(|path| path.to),
            from_port: peer.path.and_then(|path| match path.port {
                LocalPort::Service => None,
                LocalPort::Extra(port) => Some(port),
            }),
            bubbles: peer.bubbles,
            waiting_packets: peer.queued,
        });
        let dropped = stats.dropped.iter();
        Self {
            state: status.state.to_string(),
            address: own.map(|own| own.address.to_ipv6()),
            server: status.server.map(|server| server.primary),
            mapped: own.map(|own| own.address.mapped()),
            local_port: status.local_port,
            nat: own.map(|own| own.nat.to_string()),
            keeps_port: own.map(|own| own.keeps_port),
            mtu: own.map(|own| own.mtu),
            peers: peers.collect(),
            received: stats.received,
            delivered: stats.delivered,
            bubbles: stats.bubbles,
            bubbles_withheld: stats.withheld,
            solicitations: stats.solicitations,
            dropped: dropped
                .map(|(reason, &count)| (reason.to_string(), count))
                .collect(),
            answered_s: status.answered.map(|answered| answered.as_secs()),
            speaks: None,
        }
    }

    /// Our address, while there is one.
    pub(crate) fn address(&self) -> Option<Ipv6Addr> {
        self.address
    }

    /// Whether no server answers.
    pub(crate) fn is_offline(&self) -> bool {
        self.state == State::Offline(Offline::NoAnswer).to_string()
    }

    /// All of it in a line.
    pub(crate) fn summary(&self) -> String {
        let server = self.server.map(|server| format!("server {server}"));
        let answered = self.answered_s.map(|s| {
            let ago = show::duration(Duration::from_secs(s));
            format!("last answer {ago} ago")
        });
        let nat = self.nat.as_ref().map(|nat| format!("NAT: {nat}"));
        let address = self.address.map(|address| address.to_string());
        let parts = [Some(self.state.clone()), address, nat, server, answered];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("; ")
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("state        {}", self.state)];
        let mut add = |name: &str, value: Option<String>| {
            lines.extend(value.map(|value| format!("{name:<12} {value}")));
        };
        add("address", self.address.map(|address| address.to_string()));
        add("server", self.server.map(|server| server.to_string()));
        let local_port = self.local_port;
        add(
            "seen as",
            self.mapped
                .map(|mapped| format!("{mapped} (local port {local_port})")),
        );
        add("NAT", self.nat.clone());
        add(
            "last answer",
            self.answered_s
                .map(|s| format!("{} ago", show::duration(Duration::from_secs(s)))),
        );
        add(
            "datagrams",
            Some(format!(
                "{} received, {} of them for the tunnel",
                self.received, self.delivered
            )),
        );
        add(
            "sent",
            Some(format!(
                "{} bubbles ({} more kept back by the limits), {} questions to servers",
                self.bubbles, self.bubbles_withheld, self.solicitations
            )),
        );
        for (reason, count) in &self.dropped {
            add("dropped", Some(format!("{count}: {reason}")));
        }
        if let Some(speaks) = &self.speaks {
            let quic = match speaks.quic {
                true => "QUIC and TCP",
                false => "TCP alone",
            };
            add("speaks", Some(quic.to_owned()));
            let Speaks {
                tcp_connections,
                tcp_incoming,
                tcp_refused,
                tcp_outgoing,
                ..
            } = speaks;
            add(
                "TCP",
                Some(format!(
                    "{tcp_connections} connections; {tcp_incoming} came so far ({tcp_refused} more were too many), {tcp_outgoing} were begun"
                )),
            );
        }
        for peer in &self.peers {
            let path = match peer.path {
                Some(path) => format!("open, by {path}"),
                None => "no open path".to_owned(),
            };
            add("peer", Some(format!("{}  {path}", peer.address)));
        }
        lines
    }
}
