//! The way to Redis: finds the primary, stays connected to it, and says so when it is not.
//!
//! One task looks for the primary and watches it; whoever asks takes the connection of the moment, waits a bounded time
//! for one, and is told when there is none. A connection is given up when it breaks, when it does not answer in time, when
//! the server says that it is no primary any more, and when a Sentinel names another.

use super::{
    RedisConfig,
    url::{Place, RedisUrl},
};
use crate::tls_client::{self, TlsClientError};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisConnectionInfo,
    RedisResult, ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection, cmd,
};
use std::{
    fmt, fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{Notify, Semaphore, watch},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Time for a connection and its first words.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Time for an answer; what takes longer is taken for gone.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Time that a request waits for a primary to be found.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Requests that wait for an answer or for a primary.
const WAITING_MAX: usize = 10_000;
/// Commands that wait to be written.
const WRITING_MAX: usize = 512;
/// How often a primary that is not asked anything, or that might not be one any more, is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses between attempts: the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What every Redis that knows the commands of the scripts says of itself, at least.
const VERSION_MIN: u64 = 5;

/// Why a store can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// It answers, and will never do.
    #[error("{0}")]
    Wrong(String),
    /// It can't be reached, or is not ready. That may change by itself.
    #[error("{0}")]
    OutOfReach(String),
}

/// The store can't be asked now; peers are to come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the array's store can't be asked now")]
pub struct Unavailable;

/// A primary that is connected.
#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    broken: Arc<Notify>,
    /// Where it is; for logs, and against what a Sentinel says.
    url: RedisUrl,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.url.to_string()).finish()
    }
}

#[derive(Debug)]
pub(super) struct Link {
    live: watch::Receiver<Option<Live>>,
    places: Semaphore,
    /// What went wrong last, so that a thousand requests don't say the same.
    said: Mutex<String>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) async fn open(
        config: RedisConfig,
        stop: CancellationToken,
    ) -> Result<Self, RedisError> {
        let (tell, live) = watch::channel(None);
        let first = match find(&config).await {
            Ok(found) => Some(found),
            // The task goes on looking, and says what it finds.
            Err(RedisError::OutOfReach(_)) => None,
            Err(wrong) => return Err(wrong),
        };
        let task = tokio::spawn(keep(config, tell, first, stop)).abort_handle();
        Ok(Self {
            live,
            places: Semaphore::new(WAITING_MAX),
            said: Mutex::default(),
            task,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.live.borrow().is_some()
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, Unavailable> {
        self.with(async |connection| call.invoke_async(connection).await)
            .await
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, ask: &Cmd) -> Result<T, Unavailable> {
        self.with(async |connection| ask.query_async(connection).await)
            .await
    }

    /// Several commands at once; none is no question.
    pub(super) async fn pipe<T: FromRedisValue>(&self, asks: &Pipeline) -> Result<T, Unavailable> {
        self.with(async |connection| asks.query_async(connection).await)
            .await
    }

    async fn with<T>(
        &self,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Unavailable> {
        let _place = self.places.try_acquire().map_err(|_| Unavailable)?;
        let mut live = self.live().await?;
        ask(&mut live.connection).await.map_err(|error| {
            if breaks(&error) {
                live.broken.notify_one();
            }
            self.say(&error.to_string());
            Unavailable
        })
    }

    async fn live(&self) -> Result<Live, Unavailable> {
        if let Some(live) = &*self.live.borrow() {
            return Ok(live.clone());
        }
        let mut live = self.live.clone();
        let found = timeout(WAIT_MAX, live.wait_for(Option::is_some)).await;
        let found = found.map_err(|_| Unavailable)?.map_err(|_| Unavailable)?;
        found.clone().ok_or(Unavailable)
    }

    fn say(&self, error: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != error {
            tracing::error!(error, "the array's store");
            error.clone_into(&mut said);
        }
    }
}

/// Whether a connection is of no use after this.
fn breaks(error: &redis::RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || matches!(
            error.kind(),
            ErrorKind::Parse
                | ErrorKind::AuthenticationFailed
                | ErrorKind::Server(
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::BusyLoading
                        | ServerErrorKind::MasterDown
                )
        )
        || error.code() == Some("NOAUTH")
}

/// A primary with the tasks that belong to it: dropped, they end.
struct Found {
    live: Live,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Found {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Looks for a primary, watches it until it is none any more, and begins again.
async fn keep(
    config: RedisConfig,
    tell: watch::Sender<Option<Live>>,
    mut found: Option<Found>,
    stop: CancellationToken,
) {
    static SPREAD: AtomicU64 = AtomicU64::new(0);
    let mut pause = PAUSE_MIN;
    let mut said = String::new();
    while !stop.is_cancelled() {
        let next = match found.take() {
            Some(found) => Ok(found),
            None => find(&config).await,
        };
        match next {
            Ok(mut found) => {
                tracing::info!(primary = %found.live.url, "the array's store is connected");
                said.clear();
                pause = PAUSE_MIN;
                tell.send_replace(Some(found.live.clone()));
                let why = tokio::select! {
                    why = watch_over(&config, &mut found) => why,
                    () = stop.cancelled() => return,
                };
                tell.send_replace(None);
                tracing::warn!(primary = %found.live.url, why, "the array's store is lost");
            }
            Err(error) => {
                let error = error.to_string();
                if said != error {
                    tracing::error!(
                        error,
                        "the array's store is out of reach: joins are refused until it is there"
                    );
                    said = error;
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        // Not all processes at the same moment.
        let spread = SPREAD.fetch_add(0x9e37_79b9, Relaxed) ^ u64::from(std::process::id());
        let part = u32::try_from(spread % 512).unwrap_or(0);
        let wait = pause / 2 + pause * part / 1024;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Returns when a primary is of no use any more, and why.
async fn watch_over(config: &RedisConfig, found: &mut Found) -> &'static str {
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    check.reset();
    loop {
        tokio::select! {
            _ = &mut found.driver => return "the connection has ended",
            () = found.live.broken.notified() => return "it does not answer as it should",
            _ = check.tick() => {}
        }
        match role(&mut found.live.connection).await {
            Ok(role) if role == "master" => {}
            Ok(_) => return "it is no primary any more",
            Err(_) => return "it does not answer",
        }
        // Who can't ask a Sentinel stays with the primary that it has.
        if config.sentinel.is_some()
            && let Ok(named) = ask_sentinels(config).await
            && named.to_string() != found.live.url.to_string()
        {
            return "a Sentinel names another primary";
        }
    }
}

/// The primary: the first server that says that it is one, or the one that a Sentinel names.
async fn find(config: &RedisConfig) -> Result<Found, RedisError> {
    if config.sentinel.is_some() {
        let primary = ask_sentinels(config).await?;
        return Ok(connect_primary(config, &primary).await?.0);
    }
    let (mut reasons, mut primaries) = (Vec::new(), Vec::new());
    for url in &config.servers {
        match connect_primary(config, url).await {
            Ok(primary) => primaries.push(primary),
            Err(RedisError::OutOfReach(why)) => reasons.push(why),
            Err(wrong) => return Err(wrong),
        }
    }
    if primaries.len() > 1 {
        // An old primary came back, and nobody has told it yet that it is a replica now: it knows less.
        tracing::warn!(
            "several of the servers say that they are the primary; the one that has seen most is used"
        );
    }
    let most = primaries.into_iter().max_by_key(|(_, seen)| *seen);
    most.map(|(found, _)| found)
        .ok_or_else(|| RedisError::OutOfReach(reasons.join("; ")))
}

/// A server that says that it is a primary, and how much it has seen.
async fn connect_primary(config: &RedisConfig, url: &RedisUrl) -> Result<(Found, u64), RedisError> {
    let connecting = async {
        let mut found = connect(config, url, true).await?;
        let connection = &mut found.live.connection;
        let role = role(connection).await.map_err(|e| problem(url, &e))?;
        match role.as_str() {
            "master" => {}
            "slave" => {
                return Err(RedisError::OutOfReach(format!("{url}: it is a replica")));
            }
            other => return Err(RedisError::Wrong(format!("{url}: it is a {other}"))),
        }
        let said: String = cmd("INFO")
            .query_async(connection)
            .await
            .map_err(|e| problem(url, &e))?;
        check(url, &said)?;
        let seen = info(&said, "master_repl_offset").unwrap_or_default();
        Ok((found, seen))
    };
    let late = || RedisError::OutOfReach(format!("{url}: no answer"));
    timeout(CONNECT_TIME_MAX, connecting)
        .await
        .map_err(|_| late())?
}

/// What a server says of itself, where that can't be used.
fn check(url: &RedisUrl, server: &str) -> Result<(), RedisError> {
    if info(server, "cluster_enabled") == Some(1) {
        let why = "it is in cluster mode; give every array service a Redis of its own, and let discovery spread the contents (arrays)";
        return Err(RedisError::Wrong(format!("{url}: {why}")));
    }
    // Valkey names the version of Redis that it is compatible with here.
    match info(server, "redis_version") {
        Some(version) if version >= VERSION_MIN => {}
        _ => {
            let why = format!("it is no Redis {VERSION_MIN} or later, nor Valkey");
            return Err(RedisError::Wrong(format!("{url}: {why}")));
        }
    }
    let evicts = server
        .lines()
        .any(|line| line.trim_end().starts_with("maxmemory_policy:allkeys"));
    if evicts && info(server, "maxmemory").is_some_and(|max| max > 0) {
        tracing::warn!(server = %url, "this Redis evicts keys when its memory is full, which takes swarms apart: set maxmemory-policy noeviction");
    }
    Ok(())
}

/// The number that begins a field of INFO.
pub(super) fn info(text: &str, field: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    value[..digits].parse().ok()
}

async fn role(connection: &mut MultiplexedConnection) -> RedisResult<String> {
    let answer: Vec<redis::Value> = cmd("ROLE").query_async(connection).await?;
    match answer.into_iter().next() {
        Some(role) => Ok(redis::from_redis_value(role)?),
        None => Err((ErrorKind::UnexpectedReturnType, "ROLE answers nothing").into()),
    }
}

/// Where the Sentinels say that the primary is: the first one that knows.
async fn ask_sentinels(config: &RedisConfig) -> Result<RedisUrl, RedisError> {
    let name = config.sentinel.as_deref().unwrap_or_default();
    let mut reasons = Vec::new();
    for url in &config.servers {
        match timeout(CONNECT_TIME_MAX, ask_sentinel(config, url, name)).await {
            Ok(Ok(Some(primary))) => return Ok(primary),
            Ok(Ok(None)) => reasons.push(format!("{url}: it knows no primary {name:?}")),
            Ok(Err(error)) => reasons.push(error.to_string()),
            Err(_) => reasons.push(format!("{url}: no answer")),
        }
    }
    Err(RedisError::OutOfReach(reasons.join("; ")))
}

async fn ask_sentinel(
    config: &RedisConfig,
    url: &RedisUrl,
    name: &str,
) -> Result<Option<RedisUrl>, RedisError> {
    let mut ask = cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(name);
    // Most Sentinels have no password, also where Redis has one.
    for with_password in [false, true] {
        let mut found = connect(config, url, with_password).await?;
        let answer = ask.query_async(&mut found.live.connection).await;
        match answer {
            Err(error) if error.code() == Some("NOAUTH") && !with_password => {}
            Err(error) => return Err(problem(url, &error)),
            Ok(named) => {
                let named: Option<(String, u16)> = named;
                return Ok(named.map(|(host, port)| url.at(&host, port)));
            }
        }
    }
    Ok(None)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    config: &RedisConfig,
    url: &RedisUrl,
    with_password: bool,
) -> Result<Found, RedisError> {
    let stream = open(config, url).await.map_err(|error| {
        let why = format!("{url}: {error}");
        if error.is_lasting() {
            RedisError::Wrong(why)
        } else {
            RedisError::OutOfReach(why)
        }
    })?;
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if with_password {
        login = login.set_db(url.database);
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(file) = &config.password_file {
            let text = fs::read_to_string(file)
                .map_err(|error| RedisError::OutOfReach(format!("{}: {error}", file.display())))?;
            login = login.set_password(text.lines().next().unwrap_or_default());
        }
    }
    let settings = AsyncConnectionConfig::new()
        .set_response_timeout(Some(ANSWER_TIME_MAX))
        .set_pipeline_buffer_size(WRITING_MAX);
    let opening = MultiplexedConnection::new_with_config(&login, stream, settings);
    let (connection, driver) = opening.await.map_err(|error| problem(url, &error))?;
    Ok(Found {
        live: Live {
            connection,
            broken: Arc::default(),
            url: url.clone(),
        },
        driver: tokio::spawn(driver),
    })
}

async fn open(config: &RedisConfig, url: &RedisUrl) -> Result<Box<dyn Stream>, TlsClientError> {
    Ok(match &url.place {
        Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Place::Tcp { host, port, tls } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            if *tls {
                let authorities = config.ca_file.as_deref();
                Box::new(tls_client::connect(stream, host, authorities).await?)
            } else {
                Box::new(stream)
            }
        }
    })
}

/// Whether an error is one that waiting may mend.
fn problem(url: &RedisUrl, error: &redis::RedisError) -> RedisError {
    let text = format!("{url}: {error}");
    let refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::Parse
        | ErrorKind::UnexpectedReturnType
        | ErrorKind::InvalidClientConfig
        | ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm) => {
            RedisError::Wrong(text)
        }
        _ if refused => RedisError::Wrong(text),
        _ => RedisError::OutOfReach(text),
    }
}
