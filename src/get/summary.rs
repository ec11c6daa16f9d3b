//! What a finished download cost, and where its bytes came from.

use crate::show;
use dosvc_content::format_bytes;
use dosvc_engine::api::JobStatus;
use dosvc_piece_store::Method;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// The last line of `--json`: the download's final state, and where the file is.
#[derive(Serialize)]
pub(crate) struct Summary {
    #[serde(flatten)]
    pub(crate) status: JobStatus,
    /// Where the file is.
    pub(crate) path: PathBuf,
    /// How it got there.
    pub(crate) placed: &'static str,
}

impl Summary {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Self {
            status,
            path,
            placed,
        } = self;
        let fetched = status.downloaded.total();
        let mut lines = if fetched > 0 {
            source_lines(status)
        } else {
            vec!["nothing had to be downloaded".into()]
        };
        if status.bytes_from_cache > 0 {
            lines.push(format!(
                "{} were in the cache already",
                format_bytes(status.bytes_from_cache)
            ));
        }
        if status.wasted_bytes > 0 {
            lines.push(format!(
                "{} came in vain (bad, twice or cut off)",
                format_bytes(status.wasted_bytes)
            ));
        }
        let checked = if status.verified_by_hash_file {
            "every piece verified"
        } else {
            "whole, but without a hash file to verify it against"
        };
        lines.push(format!("{}: {checked}; {placed}", path.display()));
        lines.join("\n")
    }
}

/// Bytes by source, and how fast they came.
fn source_lines(status: &JobStatus) -> Vec<String> {
    let fetched = status.downloaded.total();
    let mut table = show::table(&["source", "bytes", "share"], &[1, 2]);
    for (_, name, bytes) in show::kinds(&status.downloaded) {
        table.add_row([
            name.to_owned(),
            format_bytes(bytes),
            format!("{:.1}%", show::percent(bytes, fetched)),
        ]);
    }
    let time = show::duration(Duration::from_millis(status.duration_ms));
    let average = show::average_rate(fetched, status.duration_ms)
        .map(|rate| format!(", {} on average", show::rate(rate)))
        .unwrap_or_default();
    vec![
        table.trim_fmt(),
        format!("{} in {time}{average}", format_bytes(fetched)),
    ]
}

/// How a file came to its destination, as a phrase.
pub(crate) fn placed(method: Method) -> &'static str {
    match method {
        Method::Reflink => "shares its blocks with the cache (reflink)",
        Method::HardLink => "shares its bytes with the cache (hard link)",
        Method::Copy => "a copy of what is in the cache",
    }
}
