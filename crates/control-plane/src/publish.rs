//! Publishing over HTTP, with an API token.

use crate::{
    contents::{StoreError, hash_of},
    services::{Refusal, body},
    shared::{Shared, now},
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use dosvc_cloud_protocol::{
    PUBLISH_BYTES_MAX, PUBLISH_PATH, PublishRequest, REVOKE_PATH, RevokeRequest,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Bytes of a revocation.
const REVOKE_BYTES_MAX: usize = 4096;

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route(PUBLISH_PATH, post(publish))
        .route(REVOKE_PATH, post(revoke))
}

/// The name of the token that a request shows.
async fn publisher(shared: &Shared, headers: &HeaderMap) -> Result<String, Refusal> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let name = match token {
        Some(token) => shared.contents.token_name(token).await?,
        None => None,
    };
    let name = name.ok_or_else(|| {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            "an API token is needed: Authorization: Bearer TOKEN",
        )
    })?;
    let hash = hash_of(&name);
    let key = u128::from_le_bytes(std::array::from_fn(|at| hash[at]));
    if !shared.token_pace.admits_key(key, shared.elapsed()) {
        shared.metrics.too_fast.fetch_add(1, Relaxed);
        let refusal = "too many requests with this token";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, refusal));
    }
    Ok(name)
}

async fn publish(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    content: Body,
) -> Result<StatusCode, Refusal> {
    let publisher = publisher(&shared, &headers).await?;
    let content = body(content, PUBLISH_BYTES_MAX).await?;
    let request = PublishRequest::from_json(&content)?;
    let id = request.policy.content_id.clone();
    match shared
        .contents
        .publish(request, publisher.clone(), now())
        .await
    {
        Err(StoreError::Refused(why)) => return Err(Refusal::new(StatusCode::CONFLICT, why)),
        other => other?,
    }
    tracing::info!(content = %id, publisher, "published");
    Ok(StatusCode::NO_CONTENT)
}

async fn revoke(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    content: Body,
) -> Result<StatusCode, Refusal> {
    let publisher = publisher(&shared, &headers).await?;
    let content = body(content, REVOKE_BYTES_MAX).await?;
    let bad = |error: serde_json::Error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string());
    let RevokeRequest { content_id } = serde_json::from_slice(&content).map_err(bad)?;
    if !shared.contents.revoke(&content_id).await? {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "this content is not known here",
        ));
    }
    tracing::info!(content = content_id, publisher, "revoked");
    Ok(StatusCode::NO_CONTENT)
}
