//! A download as it goes on: a bar on a terminal, a line now and then elsewhere, JSON lines for scripts.

use crate::show;
use dosvc_content::format_bytes;
use dosvc_engine::api::{JobState, JobStatus};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two JSON lines.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// Where progress goes. People's progress is written to standard error.
pub(crate) enum Progress {
    Quiet,
    Bar {
        bar: ProgressBar,
        notes: usize,
    },
    Lines {
        last: Option<(Instant, String)>,
        notes: usize,
    },
    Json {
        last: Option<Instant>,
    },
}

impl Progress {
    pub(crate) fn new(name: &str, json: bool, quiet: bool) -> Self {
        if json {
            Self::Json { last: None }
        } else if quiet {
            Self::Quiet
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            bar.set_style(style(false));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            Self::Bar { bar, notes: 0 }
        } else {
            Self::Lines {
                last: None,
                notes: 0,
            }
        }
    }

    /// Shows a state.
    pub(crate) fn update(&mut self, status: &JobStatus) -> io::Result<()> {
        match self {
            Self::Quiet => {}
            Self::Json { last } => {
                // A complete download's last line is the summary, which comes when the file is in place.
                let due = match status.state {
                    JobState::Complete => false,
                    state => state.is_final() || last.is_none_or(|at| at.elapsed() >= JSON_EVERY),
                };
                if due {
                    *last = Some(Instant::now());
                    show::json(status)?;
                }
            }
            Self::Bar { bar, notes } => {
                for note in status.notes.iter().skip(*notes) {
                    bar.println(format!("note: {note}"));
                }
                *notes = status.notes.len();
                bar.set_style(style(status.file_size.is_some()));
                bar.set_length(status.file_size.unwrap_or(0));
                bar.set_position(status.bytes_done);
                bar.set_message(message(status));
            }
            Self::Lines { last, notes } => {
                for note in status.notes.iter().skip(*notes) {
                    eprintln!("note: {note}");
                }
                *notes = status.notes.len();
                let reason = activity(status);
                let due = last
                    .as_ref()
                    .is_none_or(|(at, said)| at.elapsed() >= LINE_EVERY || *said != reason);
                if due && !status.state.is_final() {
                    eprintln!("{}", plain_line(status));
                    *last = Some((Instant::now(), reason));
                }
            }
        }
        Ok(())
    }

    /// Says what keeps the command waiting outside of the download itself.
    pub(crate) fn waiting(&mut self, reason: &str) {
        match self {
            Self::Quiet | Self::Json { .. } => {}
            Self::Bar { bar, .. } => bar.set_message(reason.to_owned()),
            Self::Lines { last, .. } => {
                if last.as_ref().is_none_or(|(_, said)| said != reason) {
                    eprintln!("{reason}");
                    *last = Some((Instant::now(), reason.to_owned()));
                }
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

fn style(size_is_known: bool) -> ProgressStyle {
    let template = if size_is_known {
        "{prefix}  [{bar:28}] {percent:>3}%  {msg}"
    } else {
        "{prefix}  {spinner} {msg}"
    };
    ProgressStyle::with_template(template)
        .expect("the template is written here")
        .progress_chars("=> ")
}

/// What stands behind the bar: bytes, rate, time left and sources, or why nothing moves.
fn message(status: &JobStatus) -> String {
    let bytes = match status.file_size {
        Some(size) => format!(
            "{} of {}",
            format_bytes(status.bytes_done),
            format_bytes(size)
        ),
        None => format_bytes(status.bytes_done),
    };
    format!("{bytes}  {}", activity_with_rate(status))
}

fn activity_with_rate(status: &JobStatus) -> String {
    let activity = activity(status);
    if status.state != JobState::Downloading || status.waiting.is_some() {
        return activity;
    }
    let mut parts = vec![show::rate(status.rate_bps)];
    parts.extend(show::time_left(status).map(|time| format!("{} left", show::duration(time))));
    parts.extend((!activity.is_empty()).then_some(activity));
    parts.join("  ")
}

/// What goes on: open connections while bytes come, the reason while none do.
fn activity(status: &JobStatus) -> String {
    match (status.state, &status.waiting) {
        (JobState::Queued, None) => "waiting for other downloads".into(),
        (JobState::Metadata, None) => "looking for the hash file".into(),
        (JobState::Paused, _) => format!("paused; `dosvc resume {}` goes on", status.id),
        (_, Some(reason)) => format!("waiting: {reason}"),
        (_, None) => show::connections(&status.connections),
    }
}

fn plain_line(status: &JobStatus) -> String {
    let share = status
        .file_size
        .map(|size| format!("{:>5.1}%  ", show::percent(status.bytes_done, size)))
        .unwrap_or_default();
    format!("{share}{}", message(status))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dosvc_engine::api::{JobId, SourceBytes};

    pub(crate) fn status() -> JobStatus {
        JobStatus {
            id: JobId(7),
            state: JobState::Downloading,
            file_id: "ab".repeat(32),
            source_url: Some("http://h/x.iso".into()),
            file_size: Some(1 << 30),
            bytes_done: 512 << 20,
            bytes_from_cache: 0,
            downloaded: SourceBytes {
                lan: 384 << 20,
                http: 128 << 20,
                ..SourceBytes::default()
            },
            wasted_bytes: 0,
            rate_bps: 64 << 20,
            connections: SourceBytes {
                lan: 2,
                http: 1,
                ..SourceBytes::default()
            },
            num_peers: 2,
            cache_host: None,
            foreground: false,
            download_mode: 1,
            verified_by_hash_file: true,
            waiting: None,
            notes: Vec::new(),
            error: None,
            duration_ms: 8000,
            caller: "test".into(),
        }
    }

    #[test]
    fn line_has_share_bytes_rate_time_left_and_sources() {
        assert_eq!(
            plain_line(&status()),
            " 50.0%  512 MiB of 1.00 GiB  64.0 MiB/s  8.0 s left  lan 2 · http 1"
        );
    }

    #[test]
    fn waiting_says_why_instead_of_a_rate() {
        let waiting = JobStatus {
            waiting: Some("no source".into()),
            ..status()
        };
        assert_eq!(
            plain_line(&waiting),
            " 50.0%  512 MiB of 1.00 GiB  waiting: no source"
        );
        let unknown = JobStatus {
            state: JobState::Metadata,
            file_size: None,
            bytes_done: 0,
            ..status()
        };
        assert_eq!(plain_line(&unknown), "0 B  looking for the hash file");
    }
}
