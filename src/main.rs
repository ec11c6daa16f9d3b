//! The `dosvc` command: the daemon, and what looks at it and steers it.

mod api;
mod cli;
mod client;
mod config;
mod control;
mod control_plane;
mod demo;
mod doctor;
mod enrol;
mod explain;
mod fd;
mod get;
mod local;
mod publish;
mod run;
mod settings;
mod show;
mod status;
mod steer;
mod teredo;
mod verify;

use clap::Parser as _;
use cli::{Cli, Command, Global};
use config::{Config, LoadOptions};
use dosvc_engine::api::JobError;
use std::{io, process::ExitCode, thread::available_parallelism, time::Duration};
use tokio::runtime::{Builder, Runtime};

/// Bad usage or configuration: exit code 64 (EX_USAGE).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Usage {
    const EXIT_CODE: u8 = 64;
}

/// Ended by Ctrl-C: exit code 130, as shells have it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Interrupted(pub(crate) String);

impl Interrupted {
    pub(crate) const EXIT_CODE: u8 = 130;
}

/// The command did what it should and said what is wrong: exit code 1 without another word.
#[derive(Debug, thiserror::Error)]
#[error("failed")]
pub(crate) struct SaidAlready;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                Usage::EXIT_CODE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let json = cli.command.wants_json();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads any more: `dosvc status | head -1`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<SaidAlready>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dosvc: {}", text_of(&error));
            if json {
                // Whoever reads standard output learns why it ends; a closed one is no second error.
                let _ = show::json(&ErrorObject::of(&error));
            }
            if error.is::<Usage>() {
                Usage::EXIT_CODE.into()
            } else if error.is::<Interrupted>() {
                Interrupted::EXIT_CODE.into()
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// What `--json` prints last when a command fails: `{"error":{"code":"0x80D0…","message":"…"}}`. There is no code when
/// neither the daemon nor a download was what failed.
#[derive(serde::Serialize)]
struct ErrorObject {
    error: ErrorFields,
}

#[derive(serde::Serialize)]
struct ErrorFields {
    code: Option<String>,
    message: String,
}

impl ErrorObject {
    fn of(error: &anyhow::Error) -> Self {
        let job =
            error
                .chain()
                .find_map(|cause| match cause.downcast_ref::<client::ClientError>() {
                    Some(client::ClientError::Refused(job)) => Some(job),
                    _ => cause.downcast_ref::<JobError>(),
                });
        Self {
            error: ErrorFields {
                code: job.map(|job| job.code.clone()),
                message: job.map_or_else(|| text_of(error), |job| job.message.clone()),
            },
        }
    }
}

/// An error and its causes, without those that the text before them has quoted already.
pub(crate) fn text_of(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        if text.is_empty() {
            cause
        } else if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) if args.check => run::check(&global, args.set),
        Command::Run(args) => finish(engine_runtime()?, |runtime| {
            runtime.block_on(run::run(global, args))
        }),
        Command::Get(args) => finish(engine_runtime()?, |runtime| {
            runtime.block_on(get::run(&global, args))
        }),
        Command::Teredo(args) => small_runtime()?.block_on(teredo::run(&global, args)),
        Command::Demo(args) => finish(engine_runtime()?, |runtime| {
            runtime.block_on(demo::run(&global, args))
        }),
        Command::ControlPlane(args) if args.action.is_some() => {
            small_runtime()?.block_on(control_plane::run(global, args))
        }
        Command::ControlPlane(args) => finish(server_runtime()?, |runtime| {
            runtime.block_on(control_plane::run(global, args))
        }),
        Command::Enrol(args) => small_runtime()?.block_on(enrol::run(&global, args)),
        Command::Publish(args) => small_runtime()?.block_on(publish::run(&global, args)),
        Command::Verify(args) => verify::run(args),
        Command::Status(args) => small_runtime()?.block_on(status::run(&global, args)),
        Command::Explain(args) => small_runtime()?.block_on(explain::run(&global, args)),
        Command::Doctor(args) => small_runtime()?.block_on(doctor::run(&global, args)),
        Command::Cache(args) => small_runtime()?.block_on(steer::cache(&global, args)),
        Command::Mode(args) => small_runtime()?.block_on(steer::mode(&global, args)),
        Command::Config(args) => small_runtime()?.block_on(steer::config(&global, args)),
        Command::Pause(args) => small_runtime()?.block_on(steer::job(&global, args, "pause")),
        Command::Resume(args) => small_runtime()?.block_on(steer::job(&global, args, "resume")),
        Command::Cancel(args) => small_runtime()?.block_on(steer::job(&global, args, "cancel")),
    }
}

/// Runs, and does not wait for threads that hang in a read of a dead disk.
fn finish(
    runtime: Runtime,
    run: impl FnOnce(&Runtime) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let done = run(&runtime);
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// A runtime for an engine: the calling thread for what never blocks, and others for disk and hashing that go when idle.
/// One moves 3 GiB a second from sockets and 10 to them; more would wake each other for every message (with four, a
/// download took 4 % more processor time and 8 % longer). Its tasks run in the order in which they were woken, so what all
/// connections have heard is looked at together; a runtime for several threads runs whom a task wakes right after it.
fn engine_runtime() -> io::Result<Runtime> {
    dosvc_footprint::bound_heap();
    let cores = available_parallelism().map_or(2, usize::from);
    Builder::new_current_thread()
        .max_blocking_threads((4 * cores).clamp(8, 32))
        .thread_keep_alive(Duration::from_secs(2))
        .thread_name("dosvc")
        .enable_all()
        .build()
}

/// A runtime for a server that many ask at once: every processor answers.
fn server_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .max_blocking_threads(32)
        .thread_name("dosvc")
        .enable_all()
        .build()
}

/// A runtime for one question to the daemon.
fn small_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The configuration from its files and the environment.
///
/// # Errors
/// [`Usage`] with every error in it, one a line.
pub(crate) fn load_config(global: &Global) -> anyhow::Result<Config> {
    load(LoadOptions::from_process(global.config.clone(), Vec::new()))
}

/// Reads the configuration; bad ones are bad usage.
pub(crate) fn load(options: LoadOptions) -> anyhow::Result<Config> {
    Config::load(options).map_err(|errors| Usage(format!("bad configuration\n{errors}")).into())
}

/// The daemon's client, by `--socket`, `DOSVC_SOCKET` or the configuration.
pub(crate) fn client(global: &Global) -> anyhow::Result<client::Client> {
    let socket = match &global.socket {
        Some(socket) => socket.clone(),
        None => load_config(global)?.daemon.api_socket,
    };
    Ok(client::Client::new(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = || io::Error::other("disk full");
        let plain = anyhow::Error::new(cause()).context("write x");
        assert_eq!(text_of(&plain), "write x: disk full");
        let quoted = anyhow::Error::new(cause()).context("x: disk full");
        assert_eq!(text_of(&quoted), "x: disk full");
    }
}
