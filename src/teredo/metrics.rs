//! Counters of `dosvc teredo`'s servers and of the daemon's ways to its peers, as Prometheus reads them.

use anyhow::Context as _;
use axum::{
    Router,
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use dosvc_engine::{
    TunnelReport,
    api::{PeerInfo, Transport},
};
use dosvc_nat::{
    net::{State, TunnelStatus},
    tcp::StackStats,
    teredo::{relay::RelayStats, server::ServerStats},
};
use std::{
    fmt::{Display, Write as _},
    net::SocketAddr,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// The media type of the text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of counters.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// One number; its name ends in `_total` when it only grows.
    fn number(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help);
        let _infallible = writeln!(self.0, "dosvc_teredo_{name} {value}");
    }

    /// A number for each reason.
    fn by_reason<R: Display>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (R, u64)>,
    ) {
        self.head(name, help);
        for (reason, value) in all {
            // Reasons are words of our own, without quotes.
            let _infallible =
                writeln!(self.0, "dosvc_teredo_{name}{{reason=\"{reason}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, help: &str) {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        let _infallible = write!(
            self.0,
            "# HELP dosvc_teredo_{name} {help}\n# TYPE dosvc_teredo_{name} {kind}\n"
        );
    }

    pub(super) fn of_server(stats: &ServerStats) -> Self {
        let mut page = Self::default();
        page.number(
            "server_received_total",
            "Datagrams that came.",
            stats.received,
        );
        page.number(
            "server_advertisements_total",
            "Questions of clients that were answered.",
            stats.advertisements,
        );
        page.number(
            "server_forwarded_total",
            "Bubbles and pings that were passed on.",
            stats.forwarded,
        );
        let refused = stats.refused.iter().map(|(reason, &count)| (reason, count));
        page.by_reason(
            "server_refused_total",
            "Datagrams that were dropped.",
            refused,
        );
        page
    }

    pub(super) fn of_relay(stats: &RelayStats, (clients, open): (usize, usize)) -> Self {
        let mut page = Self::default();
        page.number("relay_clients", "Clients that are known.", clients);
        page.number(
            "relay_clients_open",
            "Clients that have answered lately.",
            open,
        );
        page.number(
            "relay_to_clients_total",
            "Packets from native IPv6 to clients.",
            stats.to_clients,
        );
        page.number(
            "relay_to_native_total",
            "Packets from clients to native IPv6.",
            stats.to_native,
        );
        page.number(
            "relay_bubbles_total",
            "Bubbles that were sent.",
            stats.bubbles,
        );
        let dropped = stats.dropped.iter().map(|(reason, &count)| (reason, count));
        page.by_reason("relay_dropped_total", "Packets that were dropped.", dropped);
        page
    }

    pub(super) fn of_client(status: &TunnelStatus) -> Self {
        let (mut page, stats) = (Self::default(), &status.stats);
        let qualified = matches!(status.state, State::Qualified(_));
        page.number(
            "client_qualified",
            "Whether there is an address.",
            u8::from(qualified),
        );
        let open = status.peers.iter().filter(|peer| peer.path.is_some());
        page.number("client_peers", "Peers that are known.", status.peers.len());
        page.number(
            "client_peers_open",
            "Peers with an open path.",
            open.count(),
        );
        page.number(
            "client_received_total",
            "Datagrams that came.",
            stats.received,
        );
        page.number(
            "client_delivered_total",
            "Packets of the tunnel among them.",
            stats.delivered,
        );
        page.number(
            "client_solicitations_total",
            "Questions to servers.",
            stats.solicitations,
        );
        page.number(
            "client_bubbles_total",
            "Bubbles that were sent.",
            stats.bubbles,
        );
        page.number(
            "client_bubbles_withheld_total",
            "Bubbles through servers that were not sent: too soon after another, or too many.",
            stats.withheld,
        );
        let dropped = stats.dropped.iter().map(|(reason, &count)| (reason, count));
        page.by_reason(
            "client_dropped_total",
            "Datagrams that were dropped.",
            dropped,
        );
        page
    }

    /// How many connections there are by each transport, whether any or not.
    fn connections(&mut self, peers: &[PeerInfo]) {
        const NAME: &str = "dosvc_peer_connections";
        let _infallible = write!(
            self.0,
            "# HELP {NAME} Connected peers, by what is spoken.\n# TYPE {NAME} gauge\n"
        );
        for transport in Transport::ALL {
            let by = |peer: &&PeerInfo| peer.connection_established && peer.transport == transport;
            let count = peers.iter().filter(by).count();
            let _infallible = writeln!(
                self.0,
                "{NAME}{{transport=\"{}\"}} {count}",
                transport.name()
            );
        }
    }

    fn tcp(&mut self, connections: usize, stats: &StackStats) {
        self.number(
            "tcp_connections",
            "TCP connections through the tunnel.",
            connections,
        );
        self.number(
            "tcp_incoming_total",
            "TCP connections through the tunnel that peers began.",
            stats.incoming,
        );
        self.number(
            "tcp_refused_total",
            "Those of them that were too many.",
            stats.refused,
        );
        self.number(
            "tcp_outgoing_total",
            "TCP connections through the tunnel that were begun here.",
            stats.outgoing,
        );
        self.number(
            "tcp_received_total",
            "Packets for TCP through the tunnel.",
            stats.received,
        );
        self.number(
            "tcp_dropped_total",
            "Those of them that were no TCP, or too many.",
            stats.dropped,
        );
    }

    pub(super) fn answer(self) -> Response {
        ([(header::CONTENT_TYPE, MEDIA_TYPE)], self.0).into_response()
    }
}

/// The daemon's page: its peers, and its tunnel while it has one.
pub(crate) fn of_daemon(peers: &[PeerInfo], tunnel: Option<&TunnelReport>) -> Response {
    let mut page = match tunnel {
        Some(report) => {
            let mut page = Page::of_client(&report.status);
            page.tcp(report.tcp_connections, &report.tcp);
            page
        }
        None => Page::default(),
    };
    page.connections(peers);
    page.answer()
}

/// Serves a page at `/metrics`, until told to stop.
pub(super) async fn serve(
    listen: SocketAddr,
    page: impl Fn() -> Page + Send + Sync + 'static,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} for --metrics"))?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served at /metrics");
    let page = Arc::new(page);
    let router = Router::new().route("/metrics", get(move || async move { page().answer() }));
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::warn!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_nat::teredo::server::Refused;

    #[test]
    fn a_page_has_one_line_for_each_number_and_two_before_each_name() {
        let stats = ServerStats {
            received: 7,
            refused: [(Refused::Limit, 3), (Refused::Data, 1)].into(),
            ..ServerStats::default()
        };
        let Page(text) = Page::of_server(&stats);
        assert!(text.contains("# TYPE dosvc_teredo_server_received_total counter\ndosvc_teredo_server_received_total 7\n"));
        assert!(text.contains("dosvc_teredo_server_refused_total{reason=\"over the limit\"} 3\n"));
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("# HELP"))
                .count(),
            4
        );
        let Page(text) = Page::of_relay(&RelayStats::default(), (5, 2));
        assert!(
            text.contains(
                "# TYPE dosvc_teredo_relay_clients gauge\ndosvc_teredo_relay_clients 5\n"
            )
        );
    }
}
