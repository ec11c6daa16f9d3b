//! Who downloads: the running daemon or, without one, an engine in this process.

use crate::{
    api::next_state,
    cli::Global,
    client::{Client, ClientError},
    config::Config,
    local::{self, Engine},
    run::log,
};
use anyhow::Context as _;
use dosvc_content::HResult;
use dosvc_engine::api::{GetRequest, JobError, JobId, JobState, JobStatus};
use std::{
    fs::File,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long a daemon that stops answering is waited for: long enough for its restart.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for one answer about a download.
const POLL: Duration = Duration::from_secs(5);
/// Time between two questions to a daemon that does not answer.
const OUTAGE_PACE: Duration = Duration::from_millis(500);
/// Shortest time between two answers, but for the last: what people can read.
const PACE: Duration = Duration::from_millis(100);

/// A daemon or an engine of our own.
pub(crate) enum Service {
    Daemon(Client),
    InProcess(Engine),
}

/// A JobError as text with its code.
pub(crate) fn job_error(error: JobError) -> anyhow::Error {
    error.into()
}

impl Service {
    /// The daemon when it answers; otherwise an engine here, which is said on standard error.
    pub(crate) async fn open(global: &Global, quiet: bool) -> anyhow::Result<Self> {
        let config = crate::load_config(global)?;
        let socket = global
            .socket
            .clone()
            .unwrap_or_else(|| config.daemon.api_socket.clone());
        let client = Client::new(socket);
        let reason = match client.status().await {
            Ok(_) => return Ok(Self::Daemon(client)),
            // A socket that was named is meant.
            Err(ClientError::NoDaemon(_)) if global.socket.is_none() => "no daemon runs".to_owned(),
            Err(ClientError::Denied(socket)) => {
                format!("the daemon at {} is not yours to use", socket.display())
            }
            Err(error) => return Err(error.into()),
        };
        if !quiet {
            let state_dir = config.daemon.state_dir.display();
            eprintln!("dosvc: {reason}; downloading in this process, state in {state_dir}");
        }
        log::start_if_asked(&config.daemon, global.no_color)?;
        let engine = in_process(config).await?;
        Ok(Self::InProcess(engine))
    }

    /// Begins a download, or goes on with a paused one of the same content from the same command.
    pub(crate) async fn begin(&self, request: &GetRequest) -> anyhow::Result<JobId> {
        match self {
            Self::Daemon(client) => {
                let jobs = client.downloads().await?;
                if let Some(job) = jobs.iter().find(|job| continues(job, request)) {
                    client.steer(job.id, "resume").await?;
                    return Ok(job.id);
                }
                Ok(client.get(request).await?)
            }
            Self::InProcess(engine) => engine.get(request.clone()).await.map_err(job_error),
        }
    }

    /// A download's states from now on.
    pub(crate) fn updates(&self, id: JobId) -> anyhow::Result<Updates> {
        let source = match self {
            Self::Daemon(client) => Source::Daemon(client.clone(), id),
            Self::InProcess(engine) => {
                Source::InProcess(engine.watch(id).context("the download has vanished")?)
            }
        };
        Ok(Updates {
            source,
            last: None,
            answered: Instant::now(),
        })
    }

    /// Stops a download so that the same command goes on with it.
    pub(crate) async fn pause(&self, id: JobId) -> anyhow::Result<()> {
        match self {
            Self::Daemon(client) => Ok(client.steer(id, "pause").await?),
            Self::InProcess(engine) => engine.pause(id).await.map_err(job_error),
        }
    }

    /// The complete file, read-only, and its length.
    pub(crate) async fn take_file(&self, id: JobId) -> anyhow::Result<(File, u64)> {
        match self {
            Self::Daemon(client) => Ok(client.take_file(id).await?),
            Self::InProcess(engine) => engine.open_file(id).await.map_err(job_error),
        }
    }

    /// The file is at its destination.
    pub(crate) async fn release(&self, id: JobId) -> anyhow::Result<()> {
        match self {
            Self::Daemon(client) => Ok(client.steer(id, "release").await?),
            Self::InProcess(engine) => {
                engine.release(id).await;
                Ok(())
            }
        }
    }

    /// Stops an engine of our own cleanly.
    pub(crate) async fn close(self) {
        if let Self::InProcess(engine) = self {
            engine.shutdown().await;
        }
    }
}

/// Whether a paused job is what `request` asks for.
fn continues(job: &JobStatus, request: &GetRequest) -> bool {
    job.state == JobState::Paused
        && job.caller == request.caller
        && job.source_url.is_some()
        && job.source_url.as_ref() == request.urls.first()
}

/// An engine for one download. The daemon's port may be taken, by a daemon that is not ours for example: any will do.
async fn in_process(mut config: Config) -> anyhow::Result<Engine> {
    for address in &mut config.daemon.listen {
        address.set_port(0);
    }
    local::start(&config)
        .await
        .context("no daemon can be asked, and this process cannot download by itself")
}

/// A download's states, one after the other.
pub(crate) struct Updates {
    source: Source,
    /// The last state; none yet at first.
    last: Option<JobStatus>,
    /// When the daemon last answered.
    answered: Instant,
}

enum Source {
    Daemon(Client, JobId),
    InProcess(watch::Receiver<JobStatus>),
}

/// What comes next of a download.
pub(crate) enum Update {
    /// Its state.
    Status(Box<JobStatus>),
    /// The daemon does not answer; it is asked again.
    Silence,
    /// The daemon answers, but no longer knows the download: it was restarted.
    Forgotten,
}

impl Updates {
    /// The next state: at once the first time, then when the download ends, when it changes (not too often), or after
    /// some seconds.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Update> {
        let (pace, wait) = match self.last {
            Some(_) => (PACE, POLL),
            None => (Duration::ZERO, Duration::ZERO),
        };
        let update = match &mut self.source {
            Source::InProcess(watch) => {
                let seen = self.last.take().unwrap_or_else(|| watch.borrow().clone());
                Update::Status(Box::new(next_state(watch, &seen, pace, wait).await))
            }
            Source::Daemon(client, id) => match client.download(*id, pace, wait).await {
                Ok(status) => Update::Status(Box::new(status)),
                Err(ClientError::Refused(error))
                    if error.code == HResult::JOB_NOT_FOUND.to_string() =>
                {
                    Update::Forgotten
                }
                Err(ClientError::NoDaemon(_) | ClientError::Io(_) | ClientError::Http(_))
                    if self.answered.elapsed() < OUTAGE_MAX =>
                {
                    tokio::time::sleep(OUTAGE_PACE).await;
                    return Ok(Update::Silence);
                }
                Err(error) => return Err(error.into()),
            },
        };
        self.answered = Instant::now();
        if let Update::Status(status) = &update {
            self.last = Some((**status).clone());
        }
        Ok(update)
    }
}
