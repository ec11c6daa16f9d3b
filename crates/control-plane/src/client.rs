//! What the commands ask a running control plane: figures, and to publish.

use crate::{admin::Figures, tls_client};
use dosvc_cloud_protocol::{
    HttpUrl, JSON_MEDIA_TYPE, PUBLISH_PATH, PublishRequest, REVOKE_PATH, RevokeRequest,
};
use reqwest::{Client, RequestBuilder, StatusCode, header};
use std::{error::Error, time::Duration};

/// Time for a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for a whole request; a publication may be large.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(150);
/// Bytes of an error's text that are shown.
const ERROR_BYTES_MAX: usize = 1024;

/// Why a control plane did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// This machine's TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// The way there.
    #[error("{0}")]
    Transport(String),
    /// The control plane has refused.
    #[error("refused ({0}): {1}")]
    Refused(StatusCode, String),
    /// An answer of another version, or of something else.
    #[error("no answer of a control plane: {0}")]
    Answer(#[from] serde_json::Error),
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        // The last cause says what happened ("connection refused").
        let mut cause: &dyn Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::Transport(cause.to_string())
    }
}

/// A client of one control plane.
#[derive(Debug, Clone)]
pub struct ControlPlaneClient {
    http: Client,
    base: HttpUrl,
}

impl ControlPlaneClient {
    /// A client of the control plane at this address, which may have a path. Certificates are checked as the system does.
    ///
    /// # Errors
    /// When this machine can do no TLS.
    pub fn new(base: HttpUrl) -> Result<Self, ClientError> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(REQUEST_TIME_MAX);
        // The metrics of a machine without root certificates can still be read.
        if base.as_str().starts_with("https") {
            let tls = tls_client::config(None).map_err(|e| ClientError::Tls(e.to_string()))?;
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder.build()?;
        Ok(Self { http, base })
    }

    fn url(&self, path: &str) -> String {
        crate::shared::below(&self.base, path)
    }

    /// The figures of a control plane; asked at its address for administrators.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn figures(&self) -> Result<Figures, ClientError> {
        let body = send(self.http.get(self.url("/status.json"))).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Publishes a content.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn publish(&self, token: &str, request: &PublishRequest) -> Result<(), ClientError> {
        self.post(PUBLISH_PATH, token, request.to_json()).await
    }

    /// Takes a content back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revoke(&self, token: &str, content_id: &str) -> Result<(), ClientError> {
        let content_id = content_id.to_owned();
        let body = serde_json::to_vec(&RevokeRequest { content_id })?;
        self.post(REVOKE_PATH, token, body).await
    }

    async fn post(&self, path: &str, token: &str, body: Vec<u8>) -> Result<(), ClientError> {
        let request = self
            .http
            .post(self.url(path))
            .bearer_auth(token)
            .header(header::CONTENT_TYPE, JSON_MEDIA_TYPE)
            .body(body);
        send(request).await.map(|_| ())
    }
}

async fn send(request: RequestBuilder) -> Result<Vec<u8>, ClientError> {
    let response = request.send().await?;
    let status = response.status();
    let body = response.bytes().await?;
    if status.is_success() {
        return Ok(body.to_vec());
    }
    #[derive(serde::Deserialize)]
    struct Refused {
        error: String,
    }
    let text = match serde_json::from_slice::<Refused>(&body) {
        Ok(refused) => refused.error,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)]).into_owned(),
    };
    Err(ClientError::Refused(status, text))
}
