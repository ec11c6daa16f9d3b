//! Enrolment over HTTP: a device's first certificate, with a token, and its next ones.

use crate::{
    contents::StoreError,
    services::{Refusal, body},
    shared::{Shared, now},
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use dosvc_cloud_protocol::{
    ENROL_BYTES_MAX, ENROL_PATH, EnrolAnswer, EnrolRequest, JSON_MEDIA_TYPE,
};
use dosvc_membership::{IssueError, Request};
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new().route(ENROL_PATH, post(enrol))
}

async fn enrol(State(shared): State<Arc<Shared>>, content: Body) -> Result<Response, Refusal> {
    let Some(authority) = &shared.authority else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no such service here",
        ));
    };
    let content = body(content, ENROL_BYTES_MAX).await?;
    let asked = EnrolRequest::from_json(&content)?;
    let request = Request::from_der(&asked.request)?;
    let (peer, key, now) = (asked.peer_id, request.public_key(), now());
    let groups = match &asked.token {
        Some(token) => shared.contents.enrol(token, &peer, &key, now).await,
        None => shared.contents.renew(&peer, &key, now).await,
    };
    let groups = groups.map_err(|error| match error {
        StoreError::Refused(why) => {
            tracing::info!(%peer, why, "no certificate");
            Refusal::new(StatusCode::FORBIDDEN, why)
        }
        other => other.into(),
    })?;
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the system gives no random numbers",
        )
    })?;
    let lifetime = shared.config.device_certificate_lifetime;
    let times = (now, u64::from(lifetime));
    let certificate = authority.issue(&request, &peer, &groups, times, serial)?;
    if asked.token.is_some() {
        tracing::info!(%peer, groups = groups.len(), "a device has enrolled");
    } else {
        tracing::debug!(%peer, "a certificate renewed");
    }
    let answer = EnrolAnswer {
        certificate,
        renew_in_seconds: lifetime / 2,
    };
    let headers = [
        (header::CONTENT_TYPE, JSON_MEDIA_TYPE),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, answer.to_json()).into_response())
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        let status = match error {
            IssueError::Request(_) | IssueError::KeyKind => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
