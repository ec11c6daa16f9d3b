//! What the service manager is told (sd_notify). Without one, nothing happens.

use crate::{local::Local, show};
use dosvc_content::format_bytes;
use dosvc_engine::api::JobState;
use sd_notify::NotifyState;
use std::time::Duration;

/// Time between two status lines while there is news.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// The same while there is none: an idle daemon sleeps.
const STATUS_EVERY_IDLE: Duration = Duration::from_secs(600);

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

/// Keeps the watchdog quiet, and the status line nearly true, for as long as this runtime turns. Ends at once where
/// nobody listens.
pub(crate) async fn keep_alive(engine: impl Local) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
    let mut pause = STATUS_EVERY;
    let mut said = String::new();
    loop {
        let line = line(&engine);
        if line == said {
            pause = next_pause(pause);
            tell(&[NotifyState::Watchdog]);
        } else {
            pause = STATUS_EVERY;
            tell(&[NotifyState::Watchdog, NotifyState::Status(&line)]);
            said = line;
        }
        tokio::time::sleep(watchdog.map_or(pause, |every| every.min(pause))).await;
    }
}

/// Without news the pauses grow.
fn next_pause(last: Duration) -> Duration {
    (2 * last).min(STATUS_EVERY_IDLE)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_without_news_grow_to_ten_minutes() {
        let pauses: Vec<u64> = std::iter::successors(Some(STATUS_EVERY), |p| Some(next_pause(*p)))
            .map(|pause| pause.as_secs())
            .take(8)
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
    }
}
