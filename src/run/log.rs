//! The daemon's log: text or JSON lines on standard error, where a service manager collects them.

use crate::{
    Usage,
    config::{DaemonConfig, LogFormat},
};
use std::{io::IsTerminal as _, sync::OnceLock};
use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// The variable that sets the level over the configuration: `debug`, or `info,dosvc_wire=trace`.
const LEVEL_VARIABLE: &str = "DOSVC_LOG";

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log.
///
/// # Errors
/// When the level cannot be read.
pub(crate) fn start(daemon: &DaemonConfig, no_color: bool) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(daemon)?);
    let registry = tracing_subscriber::registry().with(filter);
    if daemon.log_format == LogFormat::Json {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .init();
    } else {
        let stderr = std::io::stderr();
        let color = stderr.is_terminal()
            && !no_color
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        registry
            .with(
                fmt::layer()
                    .with_ansi(color)
                    .with_target(false)
                    .with_writer(std::io::stderr),
            )
            .init();
    }
    LEVEL
        .set(handle)
        .map_err(|_| anyhow::anyhow!("the log was started twice"))
}

/// Starts the log of a command that has none by itself, when the environment asks for one.
pub(crate) fn start_if_asked(daemon: &DaemonConfig, no_color: bool) -> anyhow::Result<()> {
    match level_of_environment() {
        Some(_) => start(daemon, no_color),
        None => Ok(()),
    }
}

fn level_of_environment() -> Option<String> {
    std::env::var(LEVEL_VARIABLE)
        .ok()
        .filter(|level| !level.is_empty())
}

/// Takes a reloaded level over.
pub(crate) fn set_level(daemon: &DaemonConfig) {
    let changed = filter(daemon).map(|filter| LEVEL.get().map(|handle| handle.reload(filter)));
    match changed {
        Ok(Some(Err(error))) => tracing::warn!(%error, "log level not changed"),
        Err(error) => tracing::warn!(%error, "log level not changed"),
        Ok(_) => {}
    }
}

fn filter(daemon: &DaemonConfig) -> anyhow::Result<EnvFilter> {
    let from_environment = level_of_environment();
    let level = from_environment.as_deref().unwrap_or(&daemon.log_level);
    EnvFilter::builder().parse(level).map_err(|error| {
        Usage(format!(
            "the log level {level:?}: {error}; use error, warn, info, debug or trace"
        ))
        .into()
    })
}
