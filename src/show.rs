//! How values are shown to people: the few forms that every command uses, so that they look alike.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use dosvc_content::{DownloadMode, format_bytes};
use dosvc_engine::api::{JobState, JobStatus, SourceBytes};
use serde::Serialize;
use std::{
    io::{self, Write as _},
    time::Duration,
};

/// Writes a line to standard output. Unlike `println!` it does not panic when nobody reads any more
/// (`dosvc status | head -1`); the error ends the command quietly.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

/// Writes text that ends its lines itself.
pub(crate) fn text(text: impl AsRef<str>) -> io::Result<()> {
    write!(io::stdout().lock(), "{}", text.as_ref())
}

/// A time in seconds since 1970 as `2026-12-01T08:00:00Z`.
pub(crate) fn time(seconds_since_1970: u64) -> String {
    let time = i64::try_from(seconds_since_1970)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| "unknown".to_owned(), |time| time.to_string())
}

/// Writes a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Writes a value as JSON for eyes and scripts alike.
pub(crate) fn pretty_json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`.
pub(crate) fn duration(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Bytes a second.
pub(crate) fn rate(bps: u64) -> String {
    format!("{}/s", format_bytes(bps))
}

/// The average of some bytes over some time; nothing when there was no time to speak of.
pub(crate) fn average_rate(bytes: u64, time_ms: u64) -> Option<u64> {
    (bytes > 0).then(|| bytes.saturating_mul(1000) / time_ms.max(1))
}

/// A share in per cent with one digit; 0 of 0 is 0. Only everything is 100.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    if part == whole {
        return 100.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
    let percent = (part as f64 * 1000.0 / whole as f64).floor() / 10.0;
    percent.min(99.9)
}

/// A mode as number and name: `1 Lan`.
pub(crate) fn mode(number: u8) -> String {
    match DownloadMode::from_number(number.into()) {
        Some(mode) => format!("{number} {mode}"),
        None => number.to_string(),
    }
}

/// Kinds of source, in the order in which they are shown: word for a narrow place, words for a table, value.
pub(crate) fn kinds(bytes: &SourceBytes) -> [(&'static str, &'static str, u64); 6] {
    [
        ("lan", "LAN peers", bytes.lan),
        ("link", "link-local peers", bytes.link_local),
        ("group", "group peers", bytes.group),
        ("internet", "Internet peers", bytes.internet),
        ("cache", "cache server", bytes.cache_server),
        ("http", "HTTP origin", bytes.http),
    ]
}

/// Open connections by kind: `lan 2 · http 1`.
pub(crate) fn connections(connections: &SourceBytes) -> String {
    let parts: Vec<String> = kinds(connections)
        .into_iter()
        .filter(|(.., count)| *count > 0)
        .map(|(word, _, count)| format!("{word} {count}"))
        .collect();
    parts.join(" · ")
}

/// The word that Get-DeliveryOptimizationStatus has for a state, where it has one.
pub(crate) fn state(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "Queued",
        JobState::Metadata => "Metadata",
        JobState::Downloading => "Downloading",
        JobState::Complete => "Complete",
        JobState::Paused => "Paused",
        JobState::Failed => "Failed",
        JobState::Cancelled => "Cancelled",
    }
}

/// Time left at the present rate, when that can be said.
pub(crate) fn time_left(status: &JobStatus) -> Option<Duration> {
    let left = status.file_size?.checked_sub(status.bytes_done)?;
    (left > 0 && status.rate_bps > 0).then(|| Duration::from_secs(left.div_ceil(status.rate_bps)))
}

/// The name of a URL's last part, without its query; nothing when there is none that could be a file's name.
pub(crate) fn name_of_url(url: &str) -> Option<&str> {
    let path = url.split(['?', '#']).next()?;
    let (_, after_scheme) = path.split_once("://")?;
    let (_, name) = after_scheme.rsplit_once('/')?;
    (!name.is_empty() && name != "." && name != ".." && !name.contains('\0')).then_some(name)
}

/// The beginning of an id that is shown where there is no room for all of it; enough to name the file.
pub(crate) fn short_id(file_id: &str) -> &str {
    file_id.get(..12).unwrap_or(file_id)
}

/// The one line of a table: under its headings.
const LINE: LineStyle = LineStyle::none().fill('─').junction('─');

/// A table with these headings; `right` names the columns with numbers.
pub(crate) fn table(headings: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(LINE).bottom_border(LINE))
        .set_header(headings);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, text) in [
            (0, "0.0 s"),
            (1550, "1.6 s"),
            (59_999, "59 s"),
            (61_000, "1 min 01 s"),
            (7_500_000, "2 h 05 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn only_everything_is_a_hundred_per_cent() {
        assert_eq!(percent(999_999_999, 1_000_000_000), 99.9);
        assert_eq!(percent(5, 5), 100.0);
        assert_eq!(percent(0, 0), 0.0);
        assert_eq!(percent(1, 3), 33.3);
    }

    #[test]
    fn only_kinds_with_a_connection_are_shown() {
        let open = SourceBytes {
            lan: 2,
            http: 1,
            ..SourceBytes::default()
        };
        assert_eq!(connections(&open), "lan 2 · http 1");
        assert_eq!(connections(&SourceBytes::default()), "");
    }

    #[test]
    fn url_gives_a_file_name_only_if_it_has_one() {
        assert_eq!(name_of_url("https://h/a/b.iso?x=/y"), Some("b.iso"));
        for url in [
            "https://h",
            "https://h/",
            "https://h/a/",
            "https://h/..",
            "nonsense",
        ] {
            assert_eq!(name_of_url(url), None, "{url}");
        }
    }
}
