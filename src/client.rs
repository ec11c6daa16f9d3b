//! The commands' side of the local API. One connection for each request: on a Unix socket that costs microseconds, and
//! nothing has to be kept alive.

use crate::{
    api::{
        Created, Deleted, ModeSet, SetMode, WAIT_MS_MAX,
        handover::{self, Imported, LENGTH_HEADER, PROTOCOL, READY},
    },
    fd,
    settings::Setting,
    teredo,
};
use bytes::Bytes;
use dosvc_content::DownloadMode;
use dosvc_engine::api::{
    CacheEntry, EngineStatus, Explanation, GetRequest, ImportRequest, JobError, JobId, JobStatus,
    PeerInfo,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{fs::File, io, os::fd::AsFd as _, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest time for an answer, without the time of a long poll.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest time that the daemon may need to check an imported file: 1 TiB at 100 MB/s, roughly.
const IMPORT_TIME_MAX: Duration = Duration::from_secs(3 * 3600);

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens there.
    #[error(
        "no daemon answers at {0}; start one with `dosvc run`, or name its socket with --socket"
    )]
    NoDaemon(PathBuf),
    /// The socket's permissions keep us out.
    #[error(
        "the daemon at {0} is not yours: only its owner and its api_group may use it (try sudo, or ask for api_group)"
    )]
    Denied(PathBuf),
    /// The daemon said no.
    #[error("{} ({})", .0.message, .0.code)]
    Refused(JobError),
    /// The connection failed.
    #[error("the daemon's connection failed: {0}")]
    Io(#[from] io::Error),
    /// HTTP went wrong.
    #[error("the daemon's connection failed: {0}")]
    Http(#[from] hyper::Error),
    /// What answers there is no dosvc, or another version of it.
    #[error("{0} did not answer as a dosvc daemon does: {1}")]
    Protocol(PathBuf, String),
}

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// Says nothing about whether a daemon is there.
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    pub(crate) async fn status(&self) -> Result<EngineStatus> {
        self.read("/v1/status").await
    }

    pub(crate) async fn peers(&self) -> Result<Vec<PeerInfo>> {
        self.read("/v1/peers").await
    }

    /// The daemon's tunnel, while it has one.
    pub(crate) async fn tunnel(&self) -> Result<Option<teredo::Status>> {
        self.read("/v1/teredo").await
    }

    /// Why the content, named by a download's number or the beginning of a file id, is treated as it is.
    pub(crate) async fn explain(&self, id: &str) -> Result<Explanation> {
        self.read(&format!("/v1/explain/{id}")).await
    }

    pub(crate) async fn settings(&self) -> Result<Vec<Setting>> {
        self.read("/v1/config").await
    }

    pub(crate) async fn cache(&self) -> Result<Vec<CacheEntry>> {
        self.read("/v1/cache").await
    }

    pub(crate) async fn downloads(&self) -> Result<Vec<JobStatus>> {
        self.read("/v1/downloads").await
    }

    /// Begins a download.
    pub(crate) async fn get(&self, request: &GetRequest) -> Result<JobId> {
        let created: Created = self.send(Method::POST, "/v1/downloads", request).await?;
        Ok(created.id)
    }

    /// A download's next state ([`crate::api::next_state`]); with no `wait` its present one.
    pub(crate) async fn download(
        &self,
        id: JobId,
        pace: Duration,
        wait: Duration,
    ) -> Result<JobStatus> {
        let [pace, wait] = [pace, wait].map(|time| time.as_millis().min(WAIT_MS_MAX.into()));
        self.read(&format!("/v1/downloads/{id}?wait={wait}&pace={pace}"))
            .await
    }

    /// `pause`, `resume`, `cancel` or `release`.
    pub(crate) async fn steer(&self, id: JobId, verb: &str) -> Result<()> {
        self.tell(Method::POST, &format!("/v1/downloads/{id}/{verb}"))
            .await
    }

    /// Pins a file, or takes the pin away.
    pub(crate) async fn pin(&self, file_id: &str, pinned: bool) -> Result<()> {
        let verb = if pinned { "pin" } else { "unpin" };
        self.tell(Method::POST, &format!("/v1/cache/{file_id}/{verb}"))
            .await
    }

    /// Deletes one file from the cache, or all; answers with how many.
    pub(crate) async fn delete(&self, file_id: Option<&str>, include_pinned: bool) -> Result<u64> {
        let file = file_id.map(|id| format!("/{id}")).unwrap_or_default();
        let path = format!("/v1/cache{file}?include_pinned={include_pinned}");
        let response = self.request(Method::DELETE, &path, None, false).await?;
        let deleted: Deleted = self.parse(response).await?;
        Ok(deleted.files)
    }

    /// Sets the device's download mode; answers with what needs a restart.
    pub(crate) async fn set_mode(&self, mode: DownloadMode) -> Result<Vec<String>> {
        let body = SetMode {
            mode: mode.number(),
        };
        let set: ModeSet = self.send(Method::PUT, "/v1/mode", &body).await?;
        Ok(set.needs_restart)
    }

    /// Takes a finished download's file, open and read-only, and its length.
    pub(crate) async fn take_file(&self, id: JobId) -> Result<(File, u64)> {
        let response = self
            .request(
                Method::POST,
                &format!("/v1/downloads/{id}/file"),
                None,
                true,
            )
            .await?;
        let length = response
            .headers()
            .get(LENGTH_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or_else(|| self.protocol("no length with the file"))?;
        let mut stream = handover::socket_of(hyper::upgrade::on(response).await?).await?;
        stream.io.write_all(&[READY]).await?;
        let file = fd::receive(&stream.io).await?;
        Ok((file, length))
    }

    /// Hands an open file to the daemon's cache.
    pub(crate) async fn import(&self, file: &File, import: &ImportRequest) -> Result<CacheEntry> {
        let body = serde_json::to_vec(import).map_err(io::Error::from)?;
        let response = self
            .request(Method::POST, "/v1/import", Some(body), true)
            .await?;
        let mut stream = handover::socket_of(hyper::upgrade::on(response).await?).await?;
        handover::await_ready(&mut stream).await?;
        fd::send(&stream.io, file.as_fd()).await?;
        let mut answer = Vec::new();
        let limit = ANSWER_BYTES_MAX as u64;
        let read = async { stream.io.take(limit).read_to_end(&mut answer).await };
        tokio::time::timeout(IMPORT_TIME_MAX, read)
            .await
            .map_err(io::Error::from)??;
        match serde_json::from_slice(&answer).map_err(|e| self.protocol(e))? {
            Imported::Entry(entry) => Ok(entry),
            Imported::Error(error) => Err(ClientError::Refused(error)),
        }
    }

    /// What a path answers.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.request(Method::GET, path, None, false).await?;
        self.parse(response).await
    }

    /// What a path answers when something is sent there.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(io::Error::from)?;
        let response = self.request(method, path, Some(body), false).await?;
        self.parse(response).await
    }

    async fn tell(&self, method: Method, path: &str) -> Result<()> {
        self.request(method, path, None, false).await.map(drop)
    }

    /// One request; an answer that refuses becomes an error.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        upgrade: bool,
    ) -> Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json");
        if upgrade {
            request = request
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, PROTOCOL);
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| self.protocol(format!("{path}: {e}")))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer's body, or when the answer is dropped.
        tokio::spawn(connection.with_upgrades());
        let time = ANSWER_TIME_MAX + Duration::from_millis(WAIT_MS_MAX);
        let response = tokio::time::timeout(time, sender.send_request(request))
            .await
            .map_err(io::Error::from)??;
        if response.status().is_success()
            || (upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS)
        {
            return Ok(response);
        }
        let status = response.status();
        let error = self.parse::<JobError>(response).await;
        Err(ClientError::Refused(
            error.map_err(|_| self.protocol(status))?,
        ))
    }

    async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket)
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoDaemon(self.socket.clone())
                }
                io::ErrorKind::PermissionDenied => ClientError::Denied(self.socket.clone()),
                _ => ClientError::Io(error),
            })
    }

    async fn parse<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| self.protocol(e))?
            .to_bytes();
        serde_json::from_slice(&body).map_err(|e| self.protocol(e))
    }

    fn protocol(&self, what: impl ToString) -> ClientError {
        ClientError::Protocol(self.socket.clone(), what.to_string())
    }
}
