//! The five services over HTTP.

use crate::{
    array::Seen,
    config::Service,
    contents::{Found, StoreError},
    enrol, publish,
    remote::Unavailable,
    shared::{Shared, below, draw, now},
};
use axum::{
    Extension, Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dosvc_cloud_protocol::{
    CollectiveArray, ContentPolicyRequest, DiscoveryAnswer, DiscoveryRequest, GEO_MEDIA_TYPE,
    GEO_PATH, GEO_VERSION_PATH, GeoAnswer, GeoRequest, GeoVersionAnswer, HttpUrl, JSON_MEDIA_TYPE,
    JoinRequest, KeyValueAnswer, KeyValueRequest, PUBLISH_PATH, ProtocolError, Text, limits,
};
use dosvc_content::ContentId;
use http_body_util::{BodyExt as _, Collected, Limited};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Who asks: the other end of the connection, or whom a trusted proxy names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client(pub(crate) IpAddr);

/// Time for one request, its body included.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// The same for publications, which may be large.
const PUBLISH_TIME_MAX: Duration = Duration::from_secs(120);

/// When peers come back that could not be answered.
const RETRY_SECONDS: RangeInclusive<u64> = 10..=40;

/// How long clients keep geo's, key-value's and content policy's answers, in seconds.
const KEPT: &str = "private, max-age=3600";

/// An answer that is an error, as JSON.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self(status, message.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.1 }).to_string();
        let mut response =
            (self.0, [(header::CONTENT_TYPE, JSON_MEDIA_TYPE)], body).into_response();
        if self.0 == StatusCode::SERVICE_UNAVAILABLE || self.0 == StatusCode::TOO_MANY_REQUESTS {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
        }
        response
    }
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        let status = match error {
            ProtocolError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "administration data");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "administration data can't be read",
        )
    }
}

/// Everything that clients may ask, with its bounds.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    if shared.has(Service::Geo) {
        router = router
            .route(GEO_PATH, get(geo))
            .route(GEO_VERSION_PATH, get(geo_version));
    }
    if shared.has(Service::KeyValue) {
        router = router.route("/all", get(key_value));
    }
    if shared.has(Service::ContentPolicy) {
        router = router
            .route("/content/{id}/contentpolicy", get(content_policy))
            .route("/content/{id}/pieceshash", get(hash_file))
            .merge(publish::router())
            .merge(enrol::router());
    }
    if shared.has(Service::Discovery) {
        router = router.route("/content/{id}/discovery", get(discovery));
    }
    if shared.has(Service::Array) {
        router = router
            .route("/array/join", post(join))
            .route("/array/join/", post(join));
    }
    router
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such service here") })
        .layer(middleware::from_fn_with_state(shared.clone(), bounds))
        .with_state(shared)
}

/// Rate, time, counters and the access log.
async fn bounds(
    State(shared): State<Arc<Shared>>,
    Extension(Client(client)): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let client = behind_proxy(&shared, client, request.headers());
    request.extensions_mut().insert(Client(client));
    let service = service_of(request.uri().path());
    if !shared.pace.admits(client, shared.elapsed()) {
        shared.metrics.too_fast.fetch_add(1, Relaxed);
        return Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests from this address",
        )
        .into_response();
    }
    let logged = tracing::enabled!(target: "access", tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().clone()));
    let time = match request.uri().path() {
        PUBLISH_PATH => PUBLISH_TIME_MAX,
        _ => REQUEST_TIME_MAX,
    };
    let response = match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response()
        }
    };
    let took = began.elapsed();
    let status = response.status().as_u16();
    match service {
        Some(service) => shared.metrics.answered(service, status, took),
        None => {
            shared.metrics.others.fetch_add(1, Relaxed);
        }
    }
    if let Some((method, uri)) = logged {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(target: "access", %client, %method, path = uri.path(), status, micros);
    }
    response
}

/// Whom a proxy speaks for: the last one that it names itself. What stands before may come from anybody.
fn behind_proxy(shared: &Shared, connected: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !shared.config.is_proxy(connected) {
        return connected;
    }
    headers
        .get_all("x-forwarded-for")
        .iter()
        .next_back()
        .and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
        .map_or(connected, |named: IpAddr| named.to_canonical())
}

fn service_of(path: &str) -> Option<Service> {
    match path {
        "/array/join/" | "/array/join" => Some(Service::Array),
        GEO_PATH | GEO_VERSION_PATH => Some(Service::Geo),
        "/all" => Some(Service::KeyValue),
        _ if path.ends_with("/contentpolicy") => Some(Service::ContentPolicy),
        _ if path.ends_with("/discovery") => Some(Service::Discovery),
        _ => None,
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.ready.load(Relaxed) && shared.swarms.is_up() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

fn answer(media_type: &'static str, kept: &'static str, body: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, kept),
    ];
    (headers, body).into_response()
}

fn base(shared: &Shared, headers: &HeaderMap) -> Result<HttpUrl, Refusal> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let missing = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "the header Host is missing or no host",
        )
    };
    shared.base(host).ok_or_else(missing)
}

fn internal(_: impl Sized) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "an address of this service is configured wrongly",
    )
}

async fn geo(
    State(shared): State<Arc<Shared>>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    GeoRequest::from_query(query.as_deref().unwrap_or_default())?;
    let base = base(&shared, &headers)?;
    let json = geo_answer(&shared, client, &base)?.to_json();
    Ok(answer(GEO_MEDIA_TYPE, KEPT, json))
}

async fn geo_version(
    State(shared): State<Arc<Shared>>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    GeoRequest::from_query(query.as_deref().unwrap_or_default())?;
    let base = base(&shared, &headers)?;
    let version = geo_answer(&shared, client, &base)?.version;
    let json = GeoVersionAnswer { version }.to_json();
    Ok(answer(GEO_MEDIA_TYPE, "no-cache", json))
}

fn geo_answer(shared: &Shared, client: IpAddr, base: &HttpUrl) -> Result<GeoAnswer, Refusal> {
    let place = shared.place(client);
    let hosts = &shared.config.cache_hosts;
    let mut answer = GeoAnswer {
        external_ip_address: client.to_canonical(),
        country_code: place.country,
        key_value_endpoint_full_uri: below(base, "/all").parse().map_err(internal)?,
        version: Text::default(),
        compact_version: Text::default(),
        cache_id: Text::default(),
        cache_host: Text::new(hosts.join(",")).filter(|hosts| !hosts.is_empty()),
        cache_host_flag: 0,
        is_vpn: place.vpn,
        content_cert: false,
        download_mode_fail_safe: Text::default(),
    };
    // The version changes with everything that the answer says.
    let digest = Sha256::digest(answer.to_json());
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
    answer.version = Text::new(hex(&digest[..8])).unwrap_or_default();
    answer.compact_version = Text::new(hex(&digest[..2])).unwrap_or_default();
    Ok(answer)
}

async fn key_value(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    KeyValueRequest::from_query(query.as_deref().unwrap_or_default())?;
    let base = base(&shared, &headers)?;
    let template = |path| below(&base, path).parse().map_err(internal);
    let callers = &shared.config.registered_callers;
    let json = KeyValueAnswer {
        content_policy_endpoint_full_uri: template("/content/{contentId}/contentpolicy")?,
        discovery_endpoint_full_uri: template("/content/{contentId}/discovery")?,
        registered_callers: (!callers.is_empty()).then(|| callers.clone()),
        settings: BTreeMap::new(),
    }
    .to_json();
    Ok(answer(JSON_MEDIA_TYPE, KEPT, json))
}

fn content_id(id: &str) -> Result<ContentId, Refusal> {
    let bad = |error: dosvc_content::ParseIdError| {
        Refusal::new(StatusCode::BAD_REQUEST, error.to_string())
    };
    id.parse().map_err(bad)
}

async fn content_policy(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let id = content_id(&id)?;
    let request = ContentPolicyRequest::from_query(query.as_deref().unwrap_or_default())?;
    let now = now();
    let found = shared
        .contents
        .find(&id, request.alt_catalog_id.as_ref().map(Text::as_str))
        .await?;
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "this content is not known here");
    let Found { policy, rollout } = found.ok_or_else(unknown)?;
    let group = request.e_id.as_ref().and_then(|e| e.as_str().parse().ok());
    if !rollout.admits(
        &policy.content_id,
        group.as_ref(),
        request.peer_id.as_ref(),
        now,
    ) {
        return Err(unknown());
    }
    // A revocation should not wait for an hour.
    Ok(answer(
        JSON_MEDIA_TYPE,
        "private, max-age=300",
        policy.to_json(),
    ))
}

async fn hash_file(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let file = shared.contents.hash_file(&content_id(&id)?).await?;
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "this content is not known here");
    Ok(answer(JSON_MEDIA_TYPE, KEPT, file.ok_or_else(unknown)?))
}

async fn discovery(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let id = content_id(&id)?;
    DiscoveryRequest::from_query(query.as_deref().unwrap_or_default())?;
    let arrays = match shared.config.arrays.as_slice() {
        [] => vec![
            below(&base(&shared, &headers)?, "/array/")
                .parse()
                .map_err(internal)?,
        ],
        arrays => ranked(arrays, &id),
    };
    let arrays = arrays
        .into_iter()
        .map(|collective_array| CollectiveArray { collective_array });
    Ok(answer(
        JSON_MEDIA_TYPE,
        KEPT,
        DiscoveryAnswer(arrays.collect()).to_json(),
    ))
}

/// Array services named for one content: the one that holds it, and one to ask when that doesn't answer.
const ARRAYS_NAMED: usize = 2;

/// Arrays by rendezvous hashing (Thaler and Ravishankar, 1998): every process comes to the same order without being told,
/// and an array that comes or goes moves only the contents that it has or had.
fn ranked(arrays: &[HttpUrl], id: &ContentId) -> Vec<HttpUrl> {
    let mut ranked: Vec<_> = arrays
        .iter()
        .map(|array| {
            let weight = Sha256::new_with_prefix(array.as_str())
                .chain_update([0])
                .chain_update(id.as_str())
                .finalize();
            (weight, array)
        })
        .collect();
    ranked.sort();
    ranked
        .into_iter()
        .rev()
        .take(ARRAYS_NAMED.min(limits::ARRAYS_MAX))
        .map(|(_, array)| array.clone())
        .collect()
}

/// A body of at most so many bytes.
pub(crate) async fn body(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let refused = || {
        let why = format!("the body has more than {max} bytes, or broke off");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    // Who says so itself is not waited for.
    if body.size_hint().lower() > max as u64 {
        return Err(refused());
    }
    let body = Limited::new(body, max).collect().await;
    body.map(Collected::to_bytes).map_err(|_| refused())
}

async fn join(
    State(shared): State<Arc<Shared>>,
    Extension(Client(client)): Extension<Client>,
    content: Body,
) -> Result<Response, Refusal> {
    let content = body(content, limits::JOIN_BYTES_MAX).await?;
    let request = JoinRequest::from_json(&content)?;
    let draw = draw().ok_or_else(|| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the system gives no random numbers",
        )
    })?;
    let seen = Seen {
        address: client,
        country: shared.place(client).country,
    };
    match shared.swarms.join(draw, seen, &request).await {
        Ok(joined) => Ok(answer(JSON_MEDIA_TYPE, "no-store", joined.to_json())),
        Err(Unavailable) => Ok(come_back(draw.seed)),
    }
}

/// The array's store can't be asked. Peers come back late, and not all at once.
fn come_back(seed: u64) -> Response {
    let text = "the array's store can't be asked now";
    let mut response = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    let seconds = RETRY_SECONDS.start() + seed % (RETRY_SECONDS.end() - RETRY_SECONDS.start());
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, seconds.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_that_come_and_go_move_only_their_own_contents() {
        let url = |n| format!("https://array{n}.example/array/").parse().unwrap();
        let five: Vec<HttpUrl> = (0..5).map(url).collect();
        let mut moved = 0;
        let mut firsts = BTreeMap::<String, usize>::new();
        for n in 0..1000 {
            let id = format!("content {n}").parse().unwrap();
            let before = ranked(&five, &id);
            *firsts.entry(before[0].to_string()).or_default() += 1;
            let after = ranked(&five[..4], &id);
            if before[0] == five[4] {
                moved += 1;
                assert_eq!(after[0], before[1], "the second takes over");
            } else {
                assert_eq!(after[0], before[0]);
            }
        }
        assert!((150..250).contains(&moved), "{moved}");
        assert!(
            firsts.values().all(|n| (150..250).contains(n)),
            "{firsts:?}"
        );
    }
}
