//! PostgreSQL: for administration data that several machines share.

use super::{Row, Session, Value};
use crate::{
    contents::StoreError,
    tls_client::{self, TlsClientError},
};
use bytes::BytesMut;
use std::{
    collections::HashMap,
    fmt, fs,
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};
use tokio_postgres::{
    Client, Config, Socket, Statement,
    config::SslMode,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
    types::{IsNull, ToSql, Type, to_sql_checked},
};

/// Connections at one time; who finds none free waits.
const CONNECTIONS_MAX: usize = 8;
/// Time that is waited for a free connection.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Time for a connection, and for an answer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection that has lain longer is tried before it is used: the server may have gone meanwhile.
const FRESH_TIME: Duration = Duration::from_secs(1);
/// Pauses after attempts to connect that failed: the first, doubled up to the last. Until then work fails at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What processes lock that bring the tables up to date: no more than a number that nobody else uses.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7681076820)";

/// `postgresql://USER@HOST[:PORT]/DATABASE`, several hosts after each other, parameters as `psql` knows them. With TLS the
/// server's certificate and name are always checked: `sslmode=require` and `sslmode=verify-full` are the same.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: String,
    config: Config,
}

/// Text that is no [`PostgresUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected postgresql://USER@HOST[:PORT]/DATABASE without a password")]
pub struct ParsePostgresUrlError;

impl FromStr for PostgresUrl {
    type Err = ParsePostgresUrlError;

    fn from_str(text: &str) -> Result<Self, ParsePostgresUrlError> {
        let scheme = ["postgresql://", "postgres://"];
        let config: Config = understood(text)
            .parse()
            .map_err(|_| ParsePostgresUrlError)?;
        // A password in the configuration would be shown wherever that is shown.
        let good = scheme.iter().any(|scheme| text.starts_with(scheme))
            && config.get_password().is_none()
            && config.get_user().is_some()
            && !config.get_hosts().is_empty();
        good.then(|| Self {
            text: text.to_owned(),
            config,
        })
        .ok_or(ParsePostgresUrlError)
    }
}

/// The address as the library reads it, which knows no name for what it is always asked to do.
fn understood(text: &str) -> String {
    let Some((address, parameters)) = text.split_once('?') else {
        return text.to_owned();
    };
    let parameters: Vec<&str> = parameters
        .split('&')
        .map(|parameter| match parameter {
            "sslmode=verify-full" => "sslmode=require",
            other => other,
        })
        .collect();
    format!("{address}?{}", parameters.join("&"))
}

impl PostgresUrl {
    /// Whether TLS is ruled out.
    pub(crate) fn is_plain(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Disable
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The database of administration data, when that is no file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PostgresConfig {
    /// Where it is; `None`: a file in the state folder instead.
    pub url: Option<PostgresUrl>,
    /// A file whose first line is the password; read for every connection.
    pub password_file: Option<PathBuf>,
    /// The certificates that the server's own must be signed by; then nothing is said without TLS. `None`: those that the
    /// system trusts.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct Postgres(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    config: PostgresConfig,
    migrations: &'static [&'static str],
    places: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Link>,
    /// Whether the tables are known to be up to date.
    migrated: bool,
    /// Since when nothing could be connected to, until when nobody tries again, and why.
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone)]
struct Trouble {
    pause: Duration,
    until: Instant,
    why: String,
}

/// A connection with what was prepared on it.
#[derive(Debug)]
struct Link {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    used: Instant,
}

impl Postgres {
    pub(super) fn new(config: PostgresConfig, migrations: &'static [&'static str]) -> Self {
        Self(Arc::new(Pool {
            config,
            migrations,
            places: Semaphore::new(CONNECTIONS_MAX),
            state: Mutex::default(),
        }))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        changes: bool,
        work: impl FnOnce(&mut dyn Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(Ok(_place)) = timeout(WAIT_MAX, self.0.places.acquire()).await else {
            let busy = "all connections are busy".to_owned();
            return Err(StoreError::OutOfReach(busy));
        };
        let link = self.0.link().await?;
        let pool = self.0.clone();
        let handle = Handle::current();
        let done = tokio::task::spawn_blocking(move || {
            let mut open = Open { link, handle };
            let done = open.work(changes, work);
            // What failed halfway is not used again; a limit that is reached or a row that is damaged is no failure of it.
            let broken = matches!(
                done,
                Err(StoreError::Postgres(_) | StoreError::OutOfReach(_))
            );
            if !broken && !open.link.client.is_closed() {
                open.link.used = Instant::now();
                pool.state().idle.push(open.link);
            }
            done
        });
        done.await.map_err(|_| StoreError::Stopping)?
    }
}

#[cfg(test)]
impl Postgres {
    /// As if connections that nobody uses had lain there for long.
    pub(super) fn age_connections(&self) {
        for link in &mut self.0.state().idle {
            link.used = Instant::now()
                .checked_sub(FRESH_TIME)
                .expect("a time after the boot");
        }
    }
}

impl Pool {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that works, as far as can be known.
    async fn link(&self) -> Result<Link, StoreError> {
        loop {
            let idle = self.state().idle.pop();
            let Some(link) = idle else { break };
            let lives = link.used.elapsed() < FRESH_TIME
                || matches!(
                    timeout(ANSWER_TIME_MAX, link.client.simple_query("")).await,
                    Ok(Ok(_))
                );
            if lives && !link.client.is_closed() {
                return Ok(link);
            }
        }
        if let Some(trouble) = &self.state().trouble
            && trouble.until > Instant::now()
        {
            return Err(StoreError::OutOfReach(trouble.why.clone()));
        }
        let connected = self.connect().await;
        let mut state = self.state();
        match &connected {
            Ok(_) => state.trouble = None,
            Err(error) => {
                let pause = state.trouble.as_ref().map_or(PAUSE_MIN, |t| t.pause * 2);
                let pause = pause.min(PAUSE_MAX);
                state.trouble = Some(Trouble {
                    pause,
                    until: Instant::now() + pause,
                    why: error.to_string(),
                });
            }
        }
        connected
    }

    async fn connect(&self) -> Result<Link, StoreError> {
        let Some(url) = &self.config.url else {
            return Err(StoreError::OutOfReach("no server is named".to_owned()));
        };
        let mut config = url.config.clone();
        config.connect_timeout(CONNECT_TIME_MAX);
        config.application_name("dosvc control-plane");
        if let Some(file) = &self.config.password_file {
            let text = fs::read_to_string(file)
                .map_err(|error| StoreError::OutOfReach(format!("{}: {error}", file.display())))?;
            config.password(text.lines().next().unwrap_or_default());
        }
        let late = || StoreError::OutOfReach(format!("{url}: no answer"));
        // `prefer`, the default, does without TLS where the server can do none.
        let tls = Tls(self.config.ca_file.clone());
        if tls.0.is_some() {
            config.ssl_mode(SslMode::Require);
        }
        let connecting = timeout(2 * CONNECT_TIME_MAX, config.connect(tls));
        let connected = connecting.await.map_err(|_| late())?;
        let (mut client, connection) = connected.map_err(|error| problem(url, &error))?;
        tokio::spawn(connection);
        if !self.state().migrated {
            let migrating = migrate(&mut client, self.migrations);
            let migrated = timeout(10 * ANSWER_TIME_MAX, migrating).await;
            migrated.map_err(|_| late())??;
            self.state().migrated = true;
        }
        Ok(Link {
            client,
            statements: HashMap::new(),
            used: Instant::now(),
        })
    }
}

/// Brings the tables up to date, one process after the other.
async fn migrate(client: &mut Client, migrations: &[&str]) -> Result<(), StoreError> {
    let change = client.transaction().await?;
    change.batch_execute(MIGRATION_LOCK).await?;
    change
        .batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
        .await?;
    let row = change
        .query_opt("SELECT max(version) FROM schema_version", &[])
        .await?;
    let version: Option<i64> = row.and_then(|row| row.get(0));
    let version = usize::try_from(version.unwrap_or(0)).map_err(|_| StoreError::Newer)?;
    let steps = migrations.get(version..).ok_or(StoreError::Newer)?;
    for step in steps {
        let step = step
            .replace("BLOB", "BYTEA")
            .replace("INTEGER", "BIGINT")
            .replace(" STRICT", "");
        change.batch_execute(&step).await?;
    }
    if !steps.is_empty() {
        let now = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
        let put = "INSERT INTO schema_version (version) VALUES ($1)";
        change.execute(put, &[&now]).await?;
    }
    change.commit().await?;
    Ok(())
}

/// A connection on a thread that may wait.
struct Open {
    link: Link,
    handle: Handle,
}

impl Open {
    fn work<T>(
        &mut self,
        changes: bool,
        work: impl FnOnce(&mut dyn Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !changes {
            return work(self);
        }
        self.say("BEGIN")?;
        let done = work(self);
        self.say(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        done
    }

    fn say(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let Self { link, handle } = self;
        handle.block_on(answered(link.client.batch_execute(sql)))
    }

    /// Carries a statement out that is prepared once for a connection.
    fn prepared(&mut self, sql: &'static str) -> Result<Statement, StoreError> {
        let Self { link, handle } = self;
        if let Some(statement) = link.statements.get(sql) {
            return Ok(statement.clone());
        }
        let text = sql.replace('?', "$");
        let statement = handle.block_on(answered(link.client.prepare(&text)))?;
        link.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

async fn answered<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    match timeout(ANSWER_TIME_MAX, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StoreError::OutOfReach("no answer".to_owned())),
    }
}

impl Session for Open {
    fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepared(sql)?;
        let values = parameters(values);
        let asking = self.link.client.query(&statement, &values);
        let rows = self.handle.block_on(answered(asking))?;
        rows.iter().map(read).collect()
    }

    fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        let statement = self.prepared(sql)?;
        let values = parameters(values);
        let asking = self.link.client.execute(&statement, &values);
        self.handle.block_on(answered(asking))
    }
}

fn parameters(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|v| v as &(dyn ToSql + Sync)).collect()
}

fn read(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let columns = row.columns().iter().enumerate();
    let values = columns.map(|(at, column)| {
        Ok(match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map(Value::Integer),
            Type::TEXT => row.try_get::<_, Option<String>>(at)?.map(Value::Text),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Value::Bytes),
            ref other => return Err(StoreError::Damaged(format!("a column of type {other}"))),
        }
        .unwrap_or(Value::Null))
    });
    Ok(Row(values.collect::<Result<_, _>>()?))
}

impl ToSql for Value {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql_checked(of, out),
            Self::Text(text) => text.to_sql_checked(of, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(of, out),
        }
    }

    fn accepts(of: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(of)
    }

    to_sql_checked!();
}

/// Whether an error is one that waiting may mend.
fn problem(url: &PostgresUrl, error: &tokio_postgres::Error) -> StoreError {
    let text = format!("{url}: {}", text(error));
    // Classes 28 (who may connect) and 3D (no such database), and what the configuration asks in vain.
    let wrong = error.code().is_some_and(|code| {
        let code = code.code();
        code.starts_with("28") || code.starts_with("3D")
    });
    let cause = std::error::Error::source(error);
    let lasting = cause
        .and_then(|cause| cause.downcast_ref())
        .is_some_and(TlsClientError::is_lasting);
    if wrong || lasting {
        StoreError::Postgres(text)
    } else {
        StoreError::OutOfReach(text)
    }
}

/// What the server says, or else the last cause.
fn text(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return said.message().to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = text(&error);
        if error.is_closed() || error.as_db_error().is_none() {
            Self::OutOfReach(text)
        } else {
            Self::Postgres(text)
        }
    }
}

/// TLS as all of this crate does it, with the file of the certificates that are trusted.
#[derive(Clone)]
struct Tls(Option<PathBuf>);

/// The same, to a server of this name.
struct TlsTo(String, Option<PathBuf>);

struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = TlsTo;
    type Error = TlsClientError;

    fn make_tls_connect(&mut self, host: &str) -> Result<TlsTo, TlsClientError> {
        Ok(TlsTo(host.to_owned(), self.0.clone()))
    }
}

impl TlsConnect<Socket> for TlsTo {
    type Stream = Encrypted;
    type Error = TlsClientError;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted, TlsClientError>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let Self(host, authorities) = self;
            let stream = tls_client::connect(stream, &host, authorities.as_deref()).await?;
            Ok(Encrypted(stream))
        })
    }
}

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
