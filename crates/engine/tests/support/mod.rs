//! What engine tests share: content, an HTTP origin with ranges, engines in temporary folders.

use dosvc_content::{PieceHash, PieceLengths, PiecesHashFile};
use dosvc_engine::{
    Engine, EngineConfig,
    api::{GetRequest, JobId, JobState, JobStatus},
};
use dosvc_policy::{Percent, Policies, Provider, RawValue};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How long something that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

/// What a future comes to, within a minute.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Bytes that look random and are the same for the same seed.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

pub fn hash_file(bytes: &[u8], piece_size: u64) -> PiecesHashFile {
    let lengths = PieceLengths::new(bytes.len() as u64, piece_size).expect("valid");
    let pieces: Vec<PieceHash> = bytes
        .chunks(lengths.piece_size() as usize)
        .map(PieceHash::of)
        .collect();
    PiecesHashFile::new(lengths, pieces).expect("consistent")
}

/// An HTTP/1.1 server with ranges and kept connections.
#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    files: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    sent: AtomicU64,
    down: AtomicBool,
    ranges: AtomicBool,
    /// Sent as it is; none when empty.
    etag: Mutex<String>,
    bytes_per_second: AtomicU64,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let origin = Self {
            address: listener.local_addr().expect("bound"),
            inner: Arc::new(Inner {
                files: Mutex::default(),
                sent: AtomicU64::new(0),
                down: AtomicBool::new(false),
                ranges: AtomicBool::new(true),
                etag: Mutex::new("\"v1\"".to_owned()),
                bytes_per_second: AtomicU64::new(u64::MAX),
            }),
        };
        let server = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let _ = server.serve(stream).await;
                });
            }
        });
        origin
    }

    /// Serves a file, and its hash file beside it.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> String {
        self.add(name, bytes.to_vec());
        self.add(&format!("{name}.phf"), hash_file(bytes, 1 << 20).to_json());
        self.url(name)
    }

    pub fn add(&self, name: &str, bytes: Vec<u8>) {
        let mut files = self.inner.files.lock().expect("lock");
        files.insert(format!("/{name}"), Arc::new(bytes));
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Content bytes sent so far (hash files left out).
    pub fn sent(&self) -> u64 {
        self.inner.sent.load(Ordering::Relaxed)
    }

    /// While down, every connection is cut.
    pub fn set_down(&self, down: bool) {
        self.inner.down.store(down, Ordering::Relaxed);
    }

    pub fn without_ranges(&self) {
        self.inner.ranges.store(false, Ordering::Relaxed);
    }

    /// The entity tag of every file from now on; none when empty.
    pub fn set_etag(&self, etag: &str) {
        etag.clone_into(&mut self.inner.etag.lock().expect("lock"));
    }

    pub fn limit(&self, bytes_per_second: u64) {
        self.inner
            .bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        loop {
            if self.inner.down.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).await? == 0 {
                    return Ok(());
                }
                head.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            head.clear();
            // A cache host is asked with the origin's name behind the path.
            let path = text.split([' ', '?']).nth(1).unwrap_or("/").to_owned();
            let file = self.inner.files.lock().expect("lock").get(&path).cloned();
            let Some(file) = file else {
                let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await?;
                continue;
            };
            self.answer(&mut stream, &text, &path, &file).await?;
        }
    }

    async fn answer(
        &self,
        stream: &mut TcpStream,
        text: &str,
        path: &str,
        file: &[u8],
    ) -> std::io::Result<()> {
        let range = text
            .lines()
            .find_map(|l| {
                l.to_ascii_lowercase()
                    .strip_prefix("range: bytes=")
                    .map(str::to_owned)
            })
            .filter(|_| self.inner.ranges.load(Ordering::Relaxed));
        let (status, body, extra) = match range.as_deref().and_then(|r| r.split_once('-')) {
            Some((from, to)) => {
                let from: usize = from.parse().unwrap_or(0);
                let to = to
                    .parse()
                    .unwrap_or(usize::MAX)
                    .min(file.len().saturating_sub(1));
                let extra = format!("content-range: bytes {from}-{to}/{}\r\n", file.len());
                ("206 Partial Content", &file[from..=to], extra)
            }
            None => ("200 OK", file, String::new()),
        };
        let etag = match self.inner.etag.lock().expect("lock").as_str() {
            "" => String::new(),
            etag => format!("etag: {etag}\r\n"),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\n{etag}content-length: {}\r\n{extra}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let counts = !path.ends_with(".phf");
        for chunk in body.chunks(64 << 10) {
            if self.inner.down.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            let rate = self.inner.bytes_per_second.load(Ordering::Relaxed);
            if rate != u64::MAX {
                tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / rate as f64)).await;
            }
            stream.write_all(chunk).await?;
            if counts {
                self.inner
                    .sent
                    .fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// An engine in a folder of its own.
pub struct Node {
    pub engine: Engine,
    pub dir: TempDir,
}

fn raw(value: &str) -> RawValue {
    value
        .parse()
        .map_or_else(|_| RawValue::Text(value.to_owned()), RawValue::Integer)
}

pub fn policies(settings: &[(&str, &str)]) -> Policies {
    let mut policies = Policies::default();
    for (key, value) in [
        ("min_file_size_to_cache", "1"),
        ("min_disk_size_allowed_to_peer", "1"),
        ("min_ram_allowed_to_peer", "1"),
    ]
    .iter()
    .chain(settings)
    {
        policies
            .set(key, &raw(value), &Provider::Command)
            .expect("valid value");
    }
    policies
}

pub fn config(dir: &TempDir, settings: &[(&str, &str)], peers: &[SocketAddr]) -> EngineConfig {
    let mut config = EngineConfig::new(dir.path().to_owned(), policies(settings));
    config.listen = vec!["127.0.0.1:0".parse().expect("address")];
    config.dns_sd = false;
    // Nor does whether it runs on battery, or over a VPN.
    config.host_root = dir.path().join("no-host");
    config.static_peers = peers.to_vec();
    // What else is on the disk of whoever runs the tests does not matter.
    config.keep_free = Percent::of(0);
    config
}

impl Node {
    pub async fn start(settings: &[(&str, &str)], peers: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let engine = soon("the start", Engine::start(config(&dir, settings, peers))).await;
        Self {
            engine: engine.expect("starts"),
            dir,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.engine.status().listening[0]
    }

    pub async fn get(&self, url: &str) -> JobId {
        self.request(GetRequest {
            urls: vec![url.to_owned()],
            ..GetRequest::default()
        })
        .await
    }

    pub async fn request(&self, request: GetRequest) -> JobId {
        let accepted = soon("accepting", self.engine.get(request)).await;
        accepted.expect("accepted")
    }

    /// Waits for a state of the job, at most a minute.
    pub async fn until(&self, id: JobId, what: impl FnMut(&JobStatus) -> bool) -> JobStatus {
        let mut watch = self.engine.watch(id).expect("job");
        let reached = tokio::time::timeout(Duration::from_secs(60), watch.wait_for(what)).await;
        // The job is asked for only when nothing was reached: what was is a lock on its status, and a second one would
        // wait for a writer that waits for the first.
        reached
            .unwrap_or_else(|_| panic!("not reached: {:#?}", self.engine.job(id)))
            .expect("job lives")
            .clone()
    }

    pub async fn finish(&self, id: JobId) -> JobStatus {
        let status = self.until(id, |s| s.state.is_final()).await;
        assert_eq!(status.state, JobState::Complete, "{status:#?}");
        status
    }

    pub async fn bytes(&self, id: JobId) -> Vec<u8> {
        let opened = soon("opening", self.engine.open_file(id)).await;
        let (mut file, len) = opened.expect("complete");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("readable");
        assert_eq!(bytes.len() as u64, len);
        bytes
    }
}
