//! The local API: HTTP/1.1 and JSON over a Unix socket, for the commands of this program and for scripts
//! (`curl --unix-socket …/api.sock http://localhost/v1/status`).
//!
//! Who may connect is a matter of the socket's permissions ([`socket`]). The daemon never opens a path that a caller
//! names: a finished file is handed over as an open, read-only file, and the caller's process makes the destination
//! with its own owner, umask and rights; a file to be imported comes in the same way.
//!
//! Everything a caller can grow is bounded: connections, headers, bodies, time.

mod error;
pub(crate) mod handover;
pub(crate) mod socket;

use crate::{control::Control, local::Local, settings::Setting, teredo};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{delete, get, post, put},
};
use dosvc_content::{DownloadMode, HResult};
use dosvc_engine::api::{
    CacheEntry, EngineStatus, Explanation, GetRequest, JobId, JobStatus, PeerInfo,
};
use error::ApiError;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, watch};

/// Largest body of a request that may carry a hash file: 1.4 million pieces fit.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;
/// Largest body that waits for nobody: with the number of connections the most memory that such ones take.
const UNQUEUED_BYTES_MAX: usize = 256 << 10;
/// Largest body of any other request.
const SMALL_BODY_BYTES_MAX: usize = 16 << 10;
/// Requests that may carry a hash file, at the same time: with the size above the most memory they take.
const LARGE_REQUESTS_MAX: usize = 4;
/// Longest time one request may take, long polls included.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest time a long poll waits.
pub(crate) const WAIT_MS_MAX: u64 = 30_000;
/// Files being handed over, either way, at the same time.
const HANDOVERS_MAX: usize = 16;

#[cfg(test)]
mod tests;

type Answer<T> = Result<Json<T>, ApiError>;

/// What every handler sees.
struct Shared<L> {
    control: Arc<Control<L>>,
    handovers: Arc<Semaphore>,
}

impl<L> Clone for Shared<L> {
    fn clone(&self) -> Self {
        Self {
            control: self.control.clone(),
            handovers: self.handovers.clone(),
        }
    }
}

impl<L: Local> Shared<L> {
    fn engine(&self) -> &L {
        self.control.engine()
    }
}

/// The answer to `POST /v1/downloads`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Created {
    /// The new download.
    pub(crate) id: JobId,
}

/// The body of `PUT /v1/mode`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetMode {
    /// The mode's number.
    pub(crate) mode: u8,
}

/// The answer to `PUT /v1/mode`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ModeSet {
    /// What takes effect only after a restart.
    pub(crate) needs_restart: Vec<String>,
}

/// The answer to a deletion.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Deleted {
    /// Files deleted.
    pub(crate) files: u64,
}

/// All routes.
pub(crate) fn router<L: Local>(control: Arc<Control<L>>) -> Router {
    let shared = Shared {
        control,
        handovers: Arc::new(Semaphore::new(HANDOVERS_MAX)),
    };
    let large = Router::new()
        .route("/v1/downloads", post(begin))
        .route("/v1/import", post(handover::import))
        .layer(middleware::from_fn_with_state(
            Arc::new(Semaphore::new(LARGE_REQUESTS_MAX)),
            in_turn,
        ))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/teredo", get(tunnel))
        .route("/metrics", get(metrics))
        .route("/v1/explain/{id}", get(explain))
        .route("/v1/config", get(config))
        .route("/v1/mode", put(set_mode))
        .route("/v1/downloads", get(downloads))
        .route("/v1/downloads/{id}", get(download))
        .route("/v1/downloads/{id}/file", post(handover::file))
        .route("/v1/downloads/{id}/{verb}", post(steer))
        .route("/v1/cache", get(cache).delete(delete_all))
        .route("/v1/cache/{file_id}", delete(delete_one))
        .route("/v1/cache/{file_id}/pin", post(pin))
        .route("/v1/cache/{file_id}/unpin", post(unpin))
        .layer(DefaultBodyLimit::max(SMALL_BODY_BYTES_MAX))
        .merge(large)
        .fallback(|| async { ApiError::no_such_route() })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .layer(middleware::from_fn(in_time))
        .with_state(shared)
}

/// Cuts requests that take too long (a body that trickles in, an engine that does not answer).
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => error::in_api_form(response).await,
        Err(_) => ApiError::too_slow().into_response(),
    }
}

/// Lets a few large requests in at a time. Others do not wait for them, or somebody whose body never comes would hold
/// everybody's downloads up.
async fn in_turn(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let is_small = length
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .is_some_and(|length| length <= UNQUEUED_BYTES_MAX);
    if is_small {
        return next.run(request).await;
    }
    let _place = places.acquire().await;
    next.run(request).await
}

async fn status<L: Local>(State(shared): State<Shared<L>>) -> Json<EngineStatus> {
    Json(shared.engine().status())
}

async fn peers<L: Local>(State(shared): State<Shared<L>>) -> Json<Vec<PeerInfo>> {
    Json(shared.engine().peers().await)
}

async fn tunnel<L: Local>(State(shared): State<Shared<L>>) -> Json<Option<teredo::Status>> {
    let report = shared.engine().tunnel();
    Json(report.as_ref().map(teredo::Status::of_daemon))
}

async fn metrics<L: Local>(State(shared): State<Shared<L>>) -> Response {
    let engine = shared.engine();
    teredo::metrics_of_daemon(&engine.peers().await, engine.tunnel().as_ref())
}

async fn explain<L: Local>(
    State(shared): State<Shared<L>>,
    Path(id): Path<String>,
) -> Answer<Explanation> {
    Ok(Json(shared.engine().explain(&id).await?))
}

async fn config<L: Local>(State(shared): State<Shared<L>>) -> Json<Vec<Setting>> {
    Json(shared.control.settings().await)
}

async fn set_mode<L: Local>(
    State(shared): State<Shared<L>>,
    Json(SetMode { mode }): Json<SetMode>,
) -> Answer<ModeSet> {
    let mode = DownloadMode::from_number(mode.into())
        .ok_or_else(|| ApiError::bad_request(dosvc_content::ParseModeError.to_string()))?;
    let needs_restart = shared.control.set_mode(mode).await;
    tracing::info!(%mode, "download mode set through the local API");
    Ok(Json(ModeSet { needs_restart }))
}

async fn downloads<L: Local>(State(shared): State<Shared<L>>) -> Json<Vec<JobStatus>> {
    Json(shared.engine().jobs())
}

async fn begin<L: Local>(
    State(shared): State<Shared<L>>,
    Json(request): Json<GetRequest>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let id = shared.engine().get(request).await?;
    Ok((StatusCode::CREATED, Json(Created { id })))
}

/// `?wait=MS&pace=MS`: see [`next_state`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    #[serde(default)]
    wait: u64,
    #[serde(default)]
    pace: u64,
}

/// A download's next state after the one that was `seen`: its end at once, any other change not before `pace` is over,
/// in any case after `wait`.
pub(crate) async fn next_state(
    watch: &mut watch::Receiver<JobStatus>,
    seen: &JobStatus,
    pace: Duration,
    wait: Duration,
) -> JobStatus {
    if !seen.state.is_final() {
        let pace = pace.min(wait);
        let ended = tokio::time::timeout(pace, watch.wait_for(|s| s.state.is_final()))
            .await
            .is_ok();
        if !ended {
            // Neither the end of the time nor the end of the download is an error: the last state is the answer.
            let _ = tokio::time::timeout(wait - pace, watch.wait_for(|s| s != seen)).await;
        }
    }
    watch.borrow().clone()
}

async fn download<L: Local>(
    State(shared): State<Shared<L>>,
    Path(id): Path<JobId>,
    Query(Wait { wait, pace }): Query<Wait>,
) -> Answer<JobStatus> {
    let mut watch = shared
        .engine()
        .watch(id)
        .ok_or_else(|| ApiError::no_such_job(id))?;
    let [pace, wait] = [pace, wait].map(|ms| Duration::from_millis(ms.min(WAIT_MS_MAX)));
    let seen = watch.borrow().clone();
    Ok(Json(next_state(&mut watch, &seen, pace, wait).await))
}

async fn steer<L: Local>(
    State(shared): State<Shared<L>>,
    Path((id, verb)): Path<(JobId, String)>,
) -> Result<StatusCode, ApiError> {
    let engine = shared.engine();
    match verb.as_str() {
        "pause" => engine.pause(id).await?,
        "resume" => engine.resume(id).await?,
        "cancel" => engine.cancel(id).await?,
        "release" => {
            engine.job(id).ok_or_else(|| ApiError::no_such_job(id))?;
            engine.release(id).await;
        }
        _ => return Err(ApiError::no_such_route()),
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn cache<L: Local>(State(shared): State<Shared<L>>) -> Json<Vec<CacheEntry>> {
    Json(shared.engine().cache().await)
}

async fn pin<L: Local>(
    State(shared): State<Shared<L>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    shared.engine().pin(&id, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpin<L: Local>(
    State(shared): State<Shared<L>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    shared.engine().pin(&id, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `?include_pinned=true`: pinned files are deleted too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deletion {
    #[serde(default)]
    include_pinned: bool,
}

async fn delete_one<L: Local>(
    State(shared): State<Shared<L>>,
    Path(file_id): Path<String>,
    Query(Deletion { include_pinned }): Query<Deletion>,
) -> Answer<Deleted> {
    let files = shared
        .engine()
        .delete(Some(&file_id), include_pinned)
        .await?;
    Ok(Json(Deleted { files }))
}

async fn delete_all<L: Local>(
    State(shared): State<Shared<L>>,
    Query(Deletion { include_pinned }): Query<Deletion>,
) -> Answer<Deleted> {
    let files = shared.engine().delete(None, include_pinned).await?;
    Ok(Json(Deleted { files }))
}

impl ApiError {
    fn no_such_job(id: JobId) -> Self {
        Self::new(
            HResult::JOB_NOT_FOUND,
            format!("there is no download {id}; `dosvc status` lists them"),
        )
    }
}
