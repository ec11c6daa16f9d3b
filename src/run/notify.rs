//! What the service manager is told (sd_notify). Without one, nothing happens.

use crate::{local::Local, show};
use dosvc_content::format_bytes;
use dosvc_engine::api::JobState;
use sd_notify::NotifyState;
use std::time::Duration;

/// Time between two status lines, where no watchdog wants them oftener.
const STATUS_EVERY: Duration = Duration::from_secs(10);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Started, or done with reloading.
pub(crate) fn ready(engine: &impl Local) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(engine))]);
}

/// Reads its configuration again.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Drains.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Keeps the watchdog quiet, and the status line true, for as long as this runtime turns.
pub(crate) async fn keep_alive(engine: impl Local) {
    let every =
        sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |time| (time / 2).min(STATUS_EVERY));
    let mut ticks = tokio::time::interval(every);
    let mut said = String::new();
    loop {
        ticks.tick().await;
        let line = line(&engine);
        if line == said {
            tell(&[NotifyState::Watchdog]);
        } else {
            tell(&[NotifyState::Watchdog, NotifyState::Status(&line)]);
            said = line;
        }
    }
}

/// `mode 1 Lan, 2 downloads, 12.0 GiB from peers, 3.00 GiB to peers`
fn line(engine: &impl Local) -> String {
    let status = engine.status();
    let busy = engine
        .jobs()
        .iter()
        .filter(|job| job.state == JobState::Downloading)
        .count();
    format!(
        "mode {}, {busy} download{}, {} from peers, {} to peers",
        show::mode(status.download_mode),
        if busy == 1 { "" } else { "s" },
        format_bytes(status.downloaded.peers()),
        format_bytes(status.uploaded.peers()),
    )
}
