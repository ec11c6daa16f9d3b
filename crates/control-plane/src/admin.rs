//! What administrators see: metrics, figures as JSON, and a page that shows them live.

use crate::{
    array::{GroupView, SwarmView},
    config::Service,
    shared::Shared,
    swarms::Overview,
};
use axum::{
    Router,
    extract::State,
    http::header,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Rows of each table of the page.
const ROWS: usize = 50;

/// Figures of one control plane, as `/status.json` has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The version of the program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Whether clients come by TLS.
    pub tls: bool,
    /// Whether the array's store can be asked; always, where the swarms are in the process.
    pub array_up: bool,
    /// Connections now.
    pub connections: u64,
    /// Requests refused for their rate.
    pub too_fast: u64,
    /// Services that run here, with the requests that they have answered.
    pub services: Vec<ServiceFigures>,
    /// Peers in swarms.
    pub entries: u64,
    /// Swarms.
    pub swarms: u64,
    /// Joins answered.
    pub joins: u64,
    /// Joins that were not listed: under another's id, or beyond a limit.
    pub unlisted: u64,
    /// Memory of swarms and peers.
    pub memory_bytes: u64,
    /// Contents that have a policy.
    pub contents: u64,
    /// The largest swarms.
    pub largest_swarms: Vec<SwarmFigures>,
    /// The largest groups.
    pub largest_groups: Vec<GroupFigures>,
    /// The contents published last.
    pub latest_contents: Vec<ContentFigures>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFigures {
    /// Its name.
    pub name: String,
    /// Requests answered.
    pub requests: u64,
}

/// One swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmFigures {
    /// The content.
    pub content_id: String,
    /// Peers.
    pub peers: usize,
    /// Those that have everything.
    pub seeds: usize,
    /// Groups that they are in.
    pub groups: usize,
    /// External addresses that they are behind.
    pub sites: usize,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupFigures {
    /// The beginning of its hash.
    pub group: String,
    /// Its peers, counted in each swarm.
    pub peers: usize,
    /// Swarms that they are in.
    pub swarms: usize,
}

/// One content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentFigures {
    /// Its id.
    pub content_id: String,
    /// Who published it: the token's name.
    pub publisher: String,
    /// Seconds since 1970.
    pub published: u64,
    /// Whether it was taken back.
    pub revoked: bool,
    /// The part of the fleet that may share it, in per cent.
    pub percent: u8,
}

/// Everything for administrators.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status.json", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(shared)
}

async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy)];
    (headers, Html(include_str!("page.html"))).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let stats = shared.swarms.overview(0).await.stats;
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (headers, shared.metrics.text(&stats, shared.swarms.is_up())).into_response()
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let Overview {
        stats,
        swarms,
        groups,
    } = shared.swarms.overview(ROWS).await;
    let services = Service::ALL.into_iter().filter(|s| shared.has(*s));
    let figures = Figures {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.started.elapsed().as_secs(),
        tls: shared.is_tls,
        array_up: shared.swarms.is_up(),
        connections: shared.metrics.connections.load(Relaxed),
        too_fast: shared.metrics.too_fast.load(Relaxed),
        services: services
            .map(|service| ServiceFigures {
                name: service.name().to_owned(),
                requests: shared.metrics.requests(service),
            })
            .collect(),
        entries: stats.entries,
        swarms: stats.swarms,
        joins: stats.joins,
        unlisted: stats.unlisted_foreign + stats.unlisted_full,
        memory_bytes: stats.memory_bytes,
        contents: shared.contents.count().await.unwrap_or_default(),
        largest_swarms: swarms.into_iter().map(swarm_figures).collect(),
        largest_groups: groups.into_iter().map(group_figures).collect(),
        latest_contents: shared.contents.latest(ROWS).await.unwrap_or_default(),
    };
    axum::Json(figures).into_response()
}

fn swarm_figures(view: SwarmView) -> SwarmFigures {
    SwarmFigures {
        content_id: view.content_id.to_string(),
        peers: view.peers,
        seeds: view.seeds,
        groups: view.groups,
        sites: view.sites,
    }
}

fn group_figures(view: GroupView) -> GroupFigures {
    GroupFigures {
        group: view.group,
        peers: view.entries,
        swarms: view.swarms,
    }
}
