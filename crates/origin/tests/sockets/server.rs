//! A scripted HTTP/1.1 server on loopback, and what the tests share.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dosvc_origin::{Body, Origin, OriginClient, OriginConfig, OriginError, Url};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The target, with its query.
    pub(crate) target: String,
    /// How many requests came before this one.
    pub(crate) before: usize,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} was sent twice");
        value
    }

    /// The bytes asked for.
    pub(crate) fn range(&self) -> Option<Range<usize>> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some(first.parse().unwrap()..last.parse::<usize>().unwrap() + 1)
    }
}

/// What the server does after it sent the bytes of a reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum After {
    Keep,
    Close,
    Stall,
    /// Sends bytes forever, one every 20 ms.
    Trickle,
}

/// The bytes of a reply, head and all.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) after: After,
}

impl Reply {
    /// A reply with these headers and this body, nothing added.
    pub(crate) fn raw(status: &str, headers: &[&str], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for header in headers {
            bytes.extend(format!("{header}\r\n").bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Self {
            bytes,
            after: After::Keep,
        }
    }

    /// A reply without a body.
    pub(crate) fn status(status: &str, headers: &[&str]) -> Self {
        Self::raw(status, &[headers, &["Content-Length: 0"]].concat(), b"")
    }

    /// The right answer to a request for a range of `content`.
    pub(crate) fn range(request: &Request, content: &[u8], headers: &[&str]) -> Self {
        let range = request.range().expect("a range is asked for");
        let content_range = format!(
            "Content-Range: bytes {}-{}/{}",
            range.start,
            range.end - 1,
            content.len()
        );
        let length = format!("Content-Length: {}", range.len());
        let headers = [headers, &[&content_range, &length]].concat();
        Self::raw("206 Partial Content", &headers, &content[range])
    }

    /// The whole content.
    pub(crate) fn whole(content: &[u8], headers: &[&str]) -> Self {
        let length = format!("Content-Length: {}", content.len());
        Self::raw("200 OK", &[headers, &[length.as_str()]].concat(), content)
    }

    pub(crate) fn then(self, after: After) -> Self {
        Self { after, ..self }
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// The server; it ends when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let script: Arc<Script> = Arc::new(script);
        let shared = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let (seen, script) = (Arc::clone(&shared), Arc::clone(&script));
                tokio::spawn(serve_stream(stream, move |request| {
                    let request = {
                        let mut requests = seen.requests.lock().unwrap();
                        let before = requests.len();
                        requests.push(Request {
                            before,
                            ..request.clone()
                        });
                        requests[before].clone()
                    };
                    script(&request)
                }));
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    pub(crate) fn url(&self, target: &str) -> Url {
        Url::parse(&format!("http://{}{target}", self.address)).unwrap()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// Requests seen so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers the requests of one connection.
pub(crate) async fn serve_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut answer: impl FnMut(&Request) -> Reply,
) {
    let mut before = 0;
    while let Some((target, headers)) = read_head(&mut stream).await {
        let reply = answer(&Request {
            target,
            before,
            headers,
        });
        before += 1;
        if stream.write_all(&reply.bytes).await.is_err() {
            return;
        }
        match reply.after {
            After::Keep => {}
            After::Close => return,
            After::Stall => std::future::pending().await,
            After::Trickle => loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            },
        }
    }
}

async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
) -> Option<(String, Vec<(String, String)>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some((target, headers))
}

/// Bytes that are different everywhere.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

/// Short times, so that what waits is soon over; no proxy of the environment.
pub(crate) fn config() -> OriginConfig {
    OriginConfig {
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_millis(500),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        env_proxies: false,
        ..OriginConfig::default()
    }
}

pub(crate) fn client() -> OriginClient {
    OriginClient::new(config())
}

pub(crate) fn open(url: Url) -> Origin {
    client().open(vec![url], None)
}

/// Reads a body to its end.
pub(crate) async fn read(mut body: Body) -> Result<Vec<u8>, OriginError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Fetches a range, waiting out every back-off, until it is there or the content is dead.
pub(crate) async fn fetch_patiently(
    origin: &Origin,
    range: Range<u64>,
) -> Result<Vec<u8>, OriginError> {
    loop {
        let result = match origin.fetch(range.clone()).await {
            Ok(body) => read(body).await,
            Err(error) => Err(error),
        };
        match (result, origin.is_dead()) {
            (Ok(bytes), _) => return Ok(bytes),
            (Err(_), Some(dead)) => return Err(dead),
            (Err(_), None) => {
                if let Some(next) = origin.next_attempt() {
                    tokio::time::sleep_until(next.into()).await;
                }
            }
        }
    }
}
