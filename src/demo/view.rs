//! The demo as it goes on: one bar for each peer.

use crate::show;
use dosvc_content::format_bytes;
use dosvc_engine::api::{JobState, JobStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bars on standard error; hidden where that is no terminal, or nobody wants them.
pub(super) struct View {
    bars: Vec<ProgressBar>,
}

impl View {
    pub(super) fn new(names: &[String], size: u64, hidden: bool) -> Self {
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let all = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("  {prefix:8} [{bar:28}] {percent:>3}%  {msg}")
            .expect("the template is written here")
            .progress_chars("=> ");
        let bar = |name: &String| {
            let bar = ProgressBar::new(size)
                .with_style(style.clone())
                .with_prefix(name.clone());
            all.add(bar)
        };
        Self {
            bars: names.iter().map(bar).collect(),
        }
    }

    pub(super) fn update(&self, index: usize, status: Option<&JobStatus>) {
        let Some(status) = status else { return };
        let bar = &self.bars[index];
        bar.set_position(status.bytes_done);
        bar.set_message(match (status.state, &status.waiting) {
            (JobState::Complete, _) => "complete".to_owned(),
            (_, Some(reason)) => format!("waiting: {reason}"),
            (_, None) => format!(
                "{:>9}  {:>11}  {}",
                format_bytes(status.bytes_done),
                show::rate(status.rate_bps),
                show::connections(&status.connections)
            ),
        });
    }

    pub(super) fn finish(&self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
    }
}
