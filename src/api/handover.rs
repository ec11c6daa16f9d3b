//! Files across the socket, as open files instead of as paths.
//!
//! Both ways begin as an HTTP request with `Upgrade: dosvc-fd` that is answered with 101. What reads ahead in an HTTP
//! implementation would swallow a byte that carries a file, and the file with it. So the side that is to *receive* a
//! file first sends one byte, [`READY`], when it has the socket for itself:
//!
//! ```text
//! POST /v1/downloads/{id}/file      caller → READY,  daemon → one byte with the read-only file
//! POST /v1/import                   daemon → READY,  caller → one byte with the file, daemon → JSON, end
//! ```

use super::{ApiError, BODY_BYTES_MAX, Shared};
use crate::{fd, local::Local};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use dosvc_content::HResult;
use dosvc_engine::api::{CacheEntry, ImportRequest, JobError, JobId};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::{fs::File, io, os::fd::AsFd as _, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// The protocol's name in `Upgrade`.
pub(crate) const PROTOCOL: &str = "dosvc-fd";
/// Header of the 101 answer: bytes of the file.
pub(crate) const LENGTH_HEADER: &str = "dosvc-length";
/// Whoever is to receive a file has the socket for itself.
pub(crate) const READY: u8 = b'r';
/// Time for the other side to send its byte.
const BYTE_TIME_MAX: Duration = Duration::from_secs(10);

/// How an import ended; one JSON value, then the end of the stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Imported {
    /// In the cache, verified.
    Entry(CacheEntry),
    /// Refused.
    Error(JobError),
}

/// Hands a finished download's file to the caller.
pub(super) async fn file<L: Local>(
    State(shared): State<Shared<L>>,
    Path(id): Path<JobId>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(&mut request)?;
    let (file, length) = shared.engine().open_file(id).await?;
    let permit = shared
        .handovers
        .clone()
        .try_acquire_owned()
        .map_err(|_| busy())?;
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = tokio::time::timeout(BYTE_TIME_MAX, send_file(upgrade, &file))
            .await
            .map_err(io::Error::from)
            .flatten()
        {
            tracing::warn!(%id, %error, "file not handed over");
        }
    });
    let mut response = switching();
    response
        .headers_mut()
        .insert(LENGTH_HEADER, HeaderValue::from(length));
    Ok(response)
}

async fn send_file(upgrade: OnUpgrade, file: &File) -> io::Result<()> {
    let mut stream = socket_of(upgrade.await.map_err(io::Error::other)?).await?;
    await_ready(&mut stream).await?;
    fd::send(&stream.io, file.as_fd()).await
}

/// Takes a file of the caller's into the cache.
pub(super) async fn import<L: Local>(
    State(shared): State<Shared<L>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(&mut request)?;
    let permit = shared
        .handovers
        .clone()
        .try_acquire_owned()
        .map_err(|_| busy())?;
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX)
        .await
        .map_err(|e| ApiError::bad_request(format!("the request's body: {e}")))?;
    let import: ImportRequest = serde_json::from_slice(&body)
        .map_err(|e| ApiError::bad_request(format!("the request's body: {e}")))?;
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = receive_import(shared, upgrade, import).await {
            tracing::warn!(%error, "import given up");
        }
    });
    Ok(switching())
}

async fn receive_import<L: Local>(
    shared: Shared<L>,
    upgrade: OnUpgrade,
    import: ImportRequest,
) -> io::Result<()> {
    let receive = async {
        let mut stream = socket_of(upgrade.await.map_err(io::Error::other)?).await?;
        stream.io.write_all(&[READY]).await?;
        let file = fd::receive(&stream.io).await?;
        Ok::<_, io::Error>((stream, file))
    };
    let (mut stream, file) = tokio::time::timeout(BYTE_TIME_MAX, receive).await??;
    let answer = match import_file(&shared, file, import).await {
        Ok(entry) => Imported::Entry(entry),
        Err(error) => Imported::Error(error.into_job_error()),
    };
    stream.io.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.io.shutdown().await
}

/// An open file that may be read shows that the caller may read it; its path would show nothing.
async fn import_file<L: Local>(
    shared: &Shared<L>,
    file: File,
    import: ImportRequest,
) -> Result<CacheEntry, ApiError> {
    if !fd::is_readable_file(&file).map_err(|e| ApiError::bad_request(e.to_string()))? {
        return Err(ApiError::bad_request(
            "expected a regular file, opened for reading",
        ));
    }
    let entry = shared.engine().import(file, import).await?;
    tracing::info!(
        file_id = entry.file_id,
        bytes = entry.file_size,
        "file imported through the local API"
    );
    Ok(entry)
}

/// The promise of the connection, if the request asks for it.
fn upgrade_of(request: &mut Request) -> Result<OnUpgrade, ApiError> {
    let asked = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    if asked {
        Ok(hyper::upgrade::on(request))
    } else {
        Err(ApiError::bad_request(format!(
            "this address needs `Connection: upgrade` and `Upgrade: {PROTOCOL}`"
        )))
    }
}

fn switching() -> Response {
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

fn busy() -> ApiError {
    ApiError::new(
        HResult::SERVICE_UNAVAILABLE,
        "too many files are being handed over just now; try again",
    )
}

/// The bare socket after the switch, and what HTTP had read ahead.
pub(crate) struct BareSocket {
    pub(crate) io: UnixStream,
    read_ahead: bytes::Bytes,
}

/// The socket under an HTTP connection that has switched protocols.
pub(crate) async fn socket_of(upgraded: Upgraded) -> io::Result<BareSocket> {
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| io::Error::other("the connection is no Unix socket"))?;
    Ok(BareSocket {
        io: parts.io.into_inner(),
        read_ahead: parts.read_buf,
    })
}

/// Waits for the other side to be [`READY`].
pub(crate) async fn await_ready(stream: &mut BareSocket) -> io::Result<()> {
    let byte = match stream
        .read_ahead
        .split_to(stream.read_ahead.len().min(1))
        .first()
    {
        Some(byte) => *byte,
        None => stream.io.read_u8().await?,
    };
    if byte != READY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "expected the byte that says: ready",
        ));
    }
    Ok(())
}
