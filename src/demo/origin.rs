//! The demo's web server: one file and its hash file, with ranges, and a count of every content byte that it sends.

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::channel::Channel;
use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::TcpListener, task::AbortHandle};

/// Bytes read and sent at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// Chunks that wait for a slow reader.
const CHUNKS_AHEAD: usize = 4;

/// A server on loopback; stops when dropped.
pub(super) struct Origin {
    address: SocketAddr,
    content: Arc<Content>,
    task: AbortHandle,
}

struct Content {
    file: File,
    length: u64,
    hash_file: Bytes,
    sent: AtomicU64,
}

impl Origin {
    pub(super) async fn start(path: &Path, hash_file: Vec<u8>) -> anyhow::Result<Self> {
        let file = File::open(path).context("open the demo's content")?;
        let content = Arc::new(Content {
            length: file.metadata().context("look at the demo's content")?.len(),
            file,
            hash_file: hash_file.into(),
            sent: AtomicU64::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("listen on loopback")?;
        let address = listener.local_addr().context("find the origin's port")?;
        let router = Router::new()
            .route("/content.bin", get(serve_content))
            .route("/content.bin.phf", get(serve_hash_file))
            .with_state(content.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            content,
            task: task.abort_handle(),
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/content.bin", self.address)
    }

    /// Bytes of the content that were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.content.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_hash_file(State(content): State<Arc<Content>>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        content.hash_file.clone(),
    )
        .into_response()
}

async fn serve_content(State(content): State<Arc<Content>>, headers: HeaderMap) -> Response {
    let length = content.length;
    let asked = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let (status, range) = match asked.map(|text| parse_range(text, length)) {
        None => (StatusCode::OK, 0..length),
        Some(Some(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(None) => {
            let all = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, all).into_response();
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, "\"demo\"")
        .header(header::CONTENT_LENGTH, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let value = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        response = response.header(header::CONTENT_RANGE, value);
    }
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(CHUNKS_AHEAD);
    tokio::spawn(async move {
        let mut at = range.start;
        while at < range.end {
            let bytes = CHUNK_BYTES.min(range.end - at);
            match read(content.clone(), at, bytes).await {
                Ok(chunk) => {
                    if sender.send_data(chunk).await.is_err() {
                        return;
                    }
                    content.sent.fetch_add(bytes, Ordering::Relaxed);
                    at += bytes;
                }
                Err(error) => return sender.abort(error),
            }
        }
    });
    response
        .body(Body::new(body))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn read(content: Arc<Content>, at: u64, bytes: u64) -> io::Result<Bytes> {
    let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; bytes];
        content.file.read_exact_at(&mut buffer, at)?;
        Ok(buffer.into())
    })
    .await?
}

/// One range of bytes: `bytes=0-99`, `bytes=100-`, `bytes=-100`. Nothing when it lies outside.
fn parse_range(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", last) => length.saturating_sub(last.parse().ok()?)..length,
        (first, "") => first.parse().ok()?..length,
        (first, last) => {
            first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(length)
        }
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        assert_eq!(parse_range("bytes=0-99", 1000), Some(0..100));
        assert_eq!(parse_range("bytes=900-2000", 1000), Some(900..1000));
        assert_eq!(parse_range("bytes=900-", 1000), Some(900..1000));
        assert_eq!(parse_range("bytes=-100", 1000), Some(900..1000));
        for outside in [
            "bytes=1000-",
            "bytes=5-4",
            "bytes=-0",
            "lines=1-2",
            "bytes=x-y",
        ] {
            assert_eq!(parse_range(outside, 1000), None, "{outside}");
        }
    }
}
