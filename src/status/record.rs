//! One record for each file that the daemon knows, with the field names of Get-DeliveryOptimizationStatus.

use crate::show;
use dosvc_content::format_bytes;
use dosvc_engine::api::{CacheEntry, JobState, JobStatus, SourceBytes};
use serde::Serialize;
use std::collections::BTreeMap;

/// A download, a file in the cache, or both. Fields from `JobId` on are dosvc's own.
#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FileRecord {
    file_id: String,
    file_size: u64,
    file_size_in_cache: u64,
    total_bytes_downloaded: u64,
    percent_peer_caching: f64,
    bytes_from_peers: u64,
    bytes_from_http: u64,
    status: &'static str,
    priority: &'static str,
    bytes_from_cache_server: u64,
    bytes_from_lan_peers: u64,
    bytes_from_link_local_peers: u64,
    bytes_from_group_peers: u64,
    bytes_from_internet_peers: u64,
    bytes_to_lan_peers: u64,
    bytes_to_link_local_peers: u64,
    bytes_to_group_peers: u64,
    bytes_to_internet_peers: u64,
    /// Milliseconds.
    download_duration: u64,
    http_connection_count: u64,
    cache_server_connection_count: u64,
    lan_connection_count: u64,
    link_local_connection_count: u64,
    group_connection_count: u64,
    internet_connection_count: u64,
    download_mode: Option<u8>,
    #[serde(rename = "SourceURL")]
    source_url: Option<String>,
    /// The cache host that gave something last.
    cache_host: Option<String>,
    num_peers: u32,
    predefined_caller_application: String,
    expire_on: Option<String>,
    is_pinned: bool,
    job_id: Option<u64>,
    bytes_done: u64,
    rate_bps: u64,
    state: &'static str,
    waiting: Option<String>,
    error: Option<String>,
    notes: Vec<String>,
}

/// Downloads in the order of their numbers, then the rest of the cache.
pub(super) fn records(jobs: Vec<JobStatus>, cache: Vec<CacheEntry>) -> Vec<FileRecord> {
    let mut cache: BTreeMap<String, CacheEntry> = cache
        .into_iter()
        .map(|entry| (entry.file_id.clone(), entry))
        .collect();
    let mut jobs = jobs;
    jobs.sort_by_key(|job| job.id);
    let mut records: Vec<FileRecord> = Vec::new();
    let mut used = Vec::new();
    for job in jobs {
        let entry = cache.get(&job.file_id);
        used.extend(entry.map(|entry| entry.file_id.clone()));
        records.push(FileRecord::of(Some(&job), entry));
    }
    for file_id in used {
        cache.remove(&file_id);
    }
    records.extend(
        cache
            .values()
            .map(|entry| FileRecord::of(None, Some(entry))),
    );
    records
}

impl FileRecord {
    fn of(job: Option<&JobStatus>, entry: Option<&CacheEntry>) -> Self {
        let from = job.map(|job| job.downloaded).unwrap_or_default();
        let to = entry.map(|entry| entry.uploaded).unwrap_or_default();
        let open = job.map(|job| job.connections).unwrap_or_default();
        let in_cache = entry.map_or(0, |entry| entry.file_size_in_cache);
        Self {
            file_id: job
                .map(|job| job.file_id.clone())
                .or_else(|| entry.map(|entry| entry.file_id.clone()))
                .unwrap_or_default(),
            file_size: job
                .and_then(|job| job.file_size)
                .or_else(|| entry.map(|entry| entry.file_size))
                .unwrap_or_default(),
            file_size_in_cache: in_cache,
            total_bytes_downloaded: from.total(),
            percent_peer_caching: show::percent(from.peers(), from.total()),
            bytes_from_peers: from.peers(),
            bytes_from_http: from.http,
            status: status_word(job, entry),
            priority: if job.is_some_and(|job| job.foreground) {
                "Foreground"
            } else {
                "Background"
            },
            bytes_from_cache_server: from.cache_server,
            bytes_from_lan_peers: from.lan,
            bytes_from_link_local_peers: from.link_local,
            bytes_from_group_peers: from.group,
            bytes_from_internet_peers: from.internet,
            bytes_to_lan_peers: to.lan,
            bytes_to_link_local_peers: to.link_local,
            bytes_to_group_peers: to.group,
            bytes_to_internet_peers: to.internet,
            download_duration: job.map_or(0, |job| job.duration_ms),
            http_connection_count: open.http,
            cache_server_connection_count: open.cache_server,
            lan_connection_count: open.lan,
            link_local_connection_count: open.link_local,
            group_connection_count: open.group,
            internet_connection_count: open.internet,
            download_mode: job.map(|job| job.download_mode),
            source_url: job
                .and_then(|job| job.source_url.clone())
                .or_else(|| entry.and_then(|entry| entry.urls.first().cloned())),
            cache_host: job.and_then(|job| job.cache_host.clone()),
            num_peers: job.map_or(0, |job| job.num_peers),
            predefined_caller_application: job.map(|job| job.caller.clone()).unwrap_or_default(),
            expire_on: entry.and_then(|entry| entry.expire_on).and_then(timestamp),
            is_pinned: entry.is_some_and(|entry| entry.is_pinned),
            job_id: job.map(|job| job.id.0),
            bytes_done: job.map_or(in_cache, |job| job.bytes_done),
            rate_bps: job.map_or(0, |job| job.rate_bps),
            state: job.map_or("Caching", |job| show::state(job.state)),
            waiting: job.and_then(|job| job.waiting.clone()),
            error: job
                .and_then(|job| job.error.as_ref())
                .map(|error| format!("{} ({})", error.message, error.code)),
            notes: job.map(|job| job.notes.clone()).unwrap_or_default(),
        }
    }

    fn connections(&self) -> String {
        show::connections(&SourceBytes {
            http: self.http_connection_count,
            cache_server: self.cache_server_connection_count,
            lan: self.lan_connection_count,
            link_local: self.link_local_connection_count,
            group: self.group_connection_count,
            internet: self.internet_connection_count,
        })
    }
}

/// Downloading, Complete, Caching or Paused as Windows has them; an end that Windows has no word for keeps ours.
fn status_word(job: Option<&JobStatus>, entry: Option<&CacheEntry>) -> &'static str {
    let shared = entry.is_some_and(|entry| entry.shared);
    match job.map(|job| job.state) {
        None => "Caching",
        Some(JobState::Complete) if shared => "Caching",
        Some(JobState::Queued | JobState::Metadata | JobState::Downloading) => "Downloading",
        Some(state) => show::state(state),
    }
}

/// RFC 3339 in UTC.
fn timestamp(seconds_since_1970: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds_since_1970)
        .ok()
        .map(|time| time.to_string())
}

/// The files as a table; what is wrong or waited for, below.
pub(super) fn table_text(records: &[FileRecord]) -> String {
    let headings = [
        "id",
        "file",
        "state",
        "done",
        "size",
        "from peers",
        "to peers",
        "rate",
        "sources",
    ];
    let mut table = show::table(&headings, &[0, 3, 4, 5, 6, 7]);
    let mut remarks = Vec::new();
    for record in records {
        let id = record.job_id.map(|id| id.to_string()).unwrap_or_default();
        let name = record
            .source_url
            .as_deref()
            .and_then(show::name_of_url)
            .unwrap_or_else(|| show::short_id(&record.file_id));
        let sent = record.bytes_to_lan_peers
            + record.bytes_to_link_local_peers
            + record.bytes_to_group_peers
            + record.bytes_to_internet_peers;
        table.add_row([
            id.clone(),
            name.to_owned(),
            format!(
                "{}{}",
                record.state,
                if record.is_pinned { ", pinned" } else { "" }
            ),
            format!("{:.1}%", show::percent(record.bytes_done, record.file_size)),
            if record.file_size > 0 {
                format_bytes(record.file_size)
            } else {
                String::new()
            },
            if record.total_bytes_downloaded > 0 {
                format!("{:.1}%", record.percent_peer_caching)
            } else {
                String::new()
            },
            format_bytes(sent),
            if record.rate_bps > 0 {
                show::rate(record.rate_bps)
            } else {
                String::new()
            },
            record.connections(),
        ]);
        let reasons = record
            .error
            .iter()
            .chain(&record.waiting)
            .chain(&record.notes);
        remarks.extend(reasons.map(|reason| format!("  {id}: {reason}")));
    }
    let mut lines = vec![table.trim_fmt()];
    lines.extend(remarks);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::get::progress::tests::status;

    fn entry(file_id: &str) -> CacheEntry {
        CacheEntry {
            file_id: file_id.into(),
            hash_of_hashes: String::new(),
            file_size: 100,
            file_size_in_cache: 100,
            urls: vec!["http://h/cached.iso".into()],
            is_pinned: true,
            expire_on: Some(0),
            added: 0,
            last_used: 0,
            uploaded: SourceBytes {
                lan: 7,
                ..SourceBytes::default()
            },
            shared: true,
        }
    }

    #[test]
    fn a_download_and_its_place_in_the_cache_are_one_record() {
        let records = records(vec![status()], vec![entry(&status().file_id), entry("ff")]);
        assert_eq!(records.len(), 2);
        assert_eq!(
            (records[0].job_id, records[0].bytes_to_lan_peers),
            (Some(7), 7)
        );
        assert_eq!((records[1].job_id, records[1].status), (None, "Caching"));
    }

    #[test]
    fn json_has_the_names_of_the_cmdlet() {
        let record = &records(vec![status()], vec![entry(&status().file_id)])[0];
        let json = serde_json::to_value(record).unwrap();
        // monitoring.md, section 2.
        for name in "FileId FileSize FileSizeInCache TotalBytesDownloaded PercentPeerCaching BytesFromPeers BytesFromHttp \
            Status Priority BytesFromCacheServer BytesFromLanPeers BytesFromLinkLocalPeers BytesFromGroupPeers \
            BytesFromInternetPeers BytesToLanPeers BytesToLinkLocalPeers BytesToGroupPeers BytesToInternetPeers \
            DownloadDuration HttpConnectionCount CacheServerConnectionCount LanConnectionCount LinkLocalConnectionCount \
            GroupConnectionCount InternetConnectionCount DownloadMode SourceURL CacheHost NumPeers PredefinedCallerApplication \
            ExpireOn IsPinned"
            .split_whitespace()
        {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["PercentPeerCaching"], 75.0);
        assert_eq!(json["ExpireOn"], "1970-01-01T00:00:00Z");
    }
}
