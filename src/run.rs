//! `dosvc run`: the daemon. Start: configuration, log, engine, local API, ready. Stop: the same backwards, with a
//! deadline.

pub(crate) mod log;
mod notify;

use crate::{
    api::{self, socket::ApiSocket},
    cli::{Global, RunArgs},
    config::{Change, Changes, Config, LoadOptions, Watch},
    control::Control,
    load,
    local::{self, Engine},
    show, text_of,
};
use anyhow::Context as _;
use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Longest time for the engine to make its state durable and to say goodbye to peers.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Longest time for local API requests under way; a long poll may be one.
const API_DRAIN_MAX: Duration = Duration::from_secs(2);

/// `run --check`: prints that the configuration is right, or every error in it (which ends in exit code 64).
pub(crate) fn check(global: &Global, set: Vec<(String, String)>) -> anyhow::Result<()> {
    let config = load(LoadOptions::from_process(global.config.clone(), set))?;
    for warning in &config.warnings {
        eprintln!("dosvc: {warning}");
    }
    show::line(format!("the configuration is right ({})", sources(&config)))?;
    Ok(())
}

/// What whoever wrote the configuration should know.
fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

fn sources(config: &Config) -> String {
    if config.files.is_empty() {
        return "no file: all defaults".into();
    }
    let files: Vec<String> = config
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    files.join(", ")
}

/// Runs the daemon until it is told to stop.
pub(crate) async fn run(global: Global, args: RunArgs) -> anyhow::Result<()> {
    let RunArgs {
        check: _,
        set,
        until_stdin_ends,
    } = args;
    let started = Instant::now();
    let options = LoadOptions::from_process(global.config.clone(), set);
    // Before they are read: what changes from now on is noticed.
    let watch = Watch::new(options.main_file());
    let config = load(options.clone())?;
    let mut files = Files { options, watch };
    log::start(&config.daemon, global.no_color)?;
    warn(&config);
    files.follow(&config.managed.file);
    // Before anything is started: a signal that comes early must not be lost.
    let signals = Signals::new()?;
    let engine = local::start(&config).await.context("start the engine")?;
    let socket_path = global
        .socket
        .clone()
        .unwrap_or_else(|| config.daemon.api_socket.clone());
    let socket = match ApiSocket::bind(&socket_path, config.daemon.api_group.as_deref()) {
        Ok(socket) => socket,
        Err(error) => {
            engine.shutdown().await;
            return Err(error);
        }
    };
    let status = engine.status();
    tracing::info!(
        version = status.version,
        mode = show::mode(status.download_mode),
        listening = addresses(&status.listening),
        api = %socket.path().display(),
        state_dir = %status.state_dir.display(),
        configuration = sources(&config),
        started_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "dosvc is ready"
    );
    let control = Arc::new(Control::new(engine.clone(), config));
    let stop = CancellationToken::new();
    let api = tokio::spawn(socket.serve(api::router(control.clone()), stop.clone()));
    notify::ready(&engine);
    let watchdog = tokio::spawn(notify::keep_alive(engine.clone()));

    let reason = serve(&mut files, &control, signals, until_stdin_ends).await;
    tracing::info!(reason, "draining");
    notify::stopping();
    stop.cancel();
    let abort = api.abort_handle();
    if tokio::time::timeout(API_DRAIN_MAX, api).await.is_err() {
        abort.abort();
    }
    let drained = tokio::time::timeout(DRAIN_MAX, engine.shutdown()).await;
    watchdog.abort();
    drained.with_context(|| {
        format!(
            "the engine did not stop within {}; nothing verified is lost",
            show::duration(DRAIN_MAX)
        )
    })?;
    tracing::info!("stopped");
    Ok(())
}

fn addresses(listening: &[SocketAddr]) -> String {
    if listening.is_empty() {
        return "no peer port".into();
    }
    let addresses: Vec<String> = listening.iter().map(SocketAddr::to_string).collect();
    addresses.join(", ")
}

/// The signals that a server lives by.
pub(crate) struct Signals {
    pub(crate) hangup: Signal,
    pub(crate) terminate: Signal,
    pub(crate) interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watch for signals");
        Ok(Self {
            hangup: watch(SignalKind::hangup())?,
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
        })
    }

    /// Waits for one that ends a program, and names it.
    pub(crate) async fn ended(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Reloads when told to; answers with why the daemon shall stop.
async fn serve(
    files: &mut Files,
    control: &Control<Engine>,
    mut signals: Signals,
    until_stdin_ends: bool,
) -> &'static str {
    let mut parent_gone = std::pin::pin!(async {
        if until_stdin_ends {
            let _ = stdin_ends().await;
        } else {
            std::future::pending().await
        }
    });
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => files.reload(control).await,
            () = files.watch.changed() => {
                tracing::info!("configuration files have changed");
                files.reload(control).await;
            }
            _ = signals.terminate.recv() => return "SIGTERM",
            _ = signals.interrupt.recv() => return "SIGINT",
            () = &mut parent_gone => return "standard input ended",
        }
    }
}

/// A pipe from the parent ends when the parent does, however it does.
pub(crate) async fn stdin_ends() -> io::Result<()> {
    let mut stdin = tokio::net::unix::pipe::Receiver::from_owned_fd(rustix::io::dup(io::stdin())?)?;
    let mut sink = [0; 64];
    while stdin.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Where the configuration comes from, and what notices that it has changed there.
struct Files {
    options: LoadOptions,
    watch: Watch,
}

impl Files {
    fn follow(&mut self, managed: &Path) {
        if let Err(error) = self.watch.follow(managed) {
            tracing::warn!(%error, "changes of the configuration files are not noticed; SIGHUP makes the daemon read them");
        }
    }

    /// Loads the configuration anew; a faulty one changes nothing.
    async fn reload(&mut self, control: &Control<Engine>) {
        notify::reloading();
        self.watch.mark();
        match load(self.options.clone()) {
            Ok(config) => {
                log::set_level(&config.daemon);
                warn(&config);
                self.follow(&config.managed.file);
                let changes = control.reload(config).await;
                if changes.is_empty() {
                    tracing::info!("configuration reloaded: nothing has changed");
                }
                let Changes { live, restart } = changes;
                for Change { key, from, to } in live {
                    tracing::info!(key, from, to, "changed");
                }
                for Change { key, from, to } in restart {
                    tracing::warn!(key, from, to, "changed, takes effect after a restart");
                }
            }
            Err(error) => {
                for line in text_of(&error).lines() {
                    tracing::error!("{line}");
                }
                tracing::error!("configuration not reloaded: the old one stays in force");
            }
        }
        notify::ready(control.engine());
    }
}
