//! An engine for tests, without network: `fake:BYTES` is content of that many bytes; `fake:BYTES/slow` takes a second,
//! `/stuck` waits for sources forever, `/fail` ends with an error.

use super::Local;
use crate::config::Config;
use dosvc_content::{HResult, PiecesHashFile};
use dosvc_engine::{
    TunnelReport,
    api::{
        BandwidthStatus, CacheEntry, EngineStatus, Explanation, GetRequest, ImportRequest,
        JobError, JobId, JobState, JobStatus, ModeExplanation, MonthStatus, PeerInfo, SourceBytes,
        SourceExplanation, SourceStanding, Transport,
    },
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct Engine(Arc<Mutex<State>>);

struct State {
    jobs: BTreeMap<JobId, watch::Sender<JobStatus>>,
    cache: Vec<CacheEntry>,
    mode: u8,
}

/// The byte at each place of every fake content.
pub(crate) fn content(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

fn error(code: HResult, message: &str) -> JobError {
    JobError {
        code: code.to_string(),
        message: message.into(),
    }
}

impl Engine {
    pub(crate) async fn start(config: &Config) -> Self {
        Self(Arc::new(Mutex::new(State {
            jobs: BTreeMap::new(),
            cache: Vec::new(),
            mode: config.policies.download_mode().number(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }

    fn change(&self, id: JobId, change: impl FnOnce(&mut JobStatus)) -> Result<(), JobError> {
        let state = self.state();
        let job = state
            .jobs
            .get(&id)
            .ok_or_else(|| error(HResult::JOB_NOT_FOUND, "there is no such download"))?;
        job.send_modify(change);
        Ok(())
    }

    async fn play(self, id: JobId, way: String) {
        let steps = if way == "slow" { 20 } else { 1 };
        for step in 1..=steps {
            if way == "slow" {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let _ = self.change(id, |job| {
                if job.state != JobState::Downloading {
                    return;
                }
                let size = job.file_size.unwrap_or(0);
                match way.as_str() {
                    "fail" => {
                        job.state = JobState::Failed;
                        job.error = Some(error(
                            HResult::from_http_status(404),
                            "the server says: not found",
                        ));
                    }
                    "stuck" => {
                        job.waiting = Some("no source can be reached; trying again in 4 s".into())
                    }
                    _ => {
                        job.bytes_done = size * step / steps;
                        job.downloaded.lan = job.bytes_done / 4 * 3;
                        job.downloaded.http = job.bytes_done - job.downloaded.lan;
                        job.connections = SourceBytes {
                            http: 1,
                            lan: 2,
                            ..SourceBytes::default()
                        };
                        job.rate_bps = size / 2;
                        job.duration_ms += 100;
                        if step == steps {
                            job.state = JobState::Complete;
                        }
                    }
                }
            });
        }
    }
}

impl Local for Engine {
    async fn get(&self, request: GetRequest) -> Result<JobId, JobError> {
        let url = request
            .urls
            .first()
            .ok_or_else(|| error(HResult::NO_URI, "no address was given"))?;
        let (bytes, way) = url
            .strip_prefix("fake:")
            .unwrap_or("1000000/slow")
            .split_once('/')
            .unwrap_or_else(|| (&url[5..], ""));
        let bytes: u64 = bytes.parse().expect("fake:BYTES");
        let id = JobId(self.state().jobs.len() as u64 + 1);
        let status = JobStatus {
            id,
            state: JobState::Downloading,
            file_id: format!("{bytes:064x}"),
            source_url: Some(url.clone()),
            file_size: Some(bytes),
            bytes_done: 0,
            bytes_from_cache: 0,
            downloaded: SourceBytes::default(),
            wasted_bytes: 0,
            rate_bps: 0,
            connections: SourceBytes::default(),
            num_peers: 2,
            cache_host: None,
            foreground: request.foreground,
            download_mode: self.state().mode,
            verified_by_hash_file: true,
            waiting: None,
            notes: Vec::new(),
            error: None,
            duration_ms: 0,
            caller: request.caller,
        };
        self.state().jobs.insert(id, watch::Sender::new(status));
        tokio::spawn(self.clone().play(id, way.to_owned()));
        Ok(id)
    }

    fn job(&self, id: JobId) -> Option<JobStatus> {
        self.state().jobs.get(&id).map(|job| job.borrow().clone())
    }

    fn jobs(&self) -> Vec<JobStatus> {
        self.state()
            .jobs
            .values()
            .map(|job| job.borrow().clone())
            .collect()
    }

    fn watch(&self, id: JobId) -> Option<watch::Receiver<JobStatus>> {
        self.state().jobs.get(&id).map(watch::Sender::subscribe)
    }

    async fn pause(&self, id: JobId) -> Result<(), JobError> {
        self.change(id, |job| job.state = JobState::Paused)
    }

    async fn resume(&self, id: JobId) -> Result<(), JobError> {
        self.change(id, |job| job.state = JobState::Downloading)
    }

    async fn cancel(&self, id: JobId) -> Result<(), JobError> {
        self.change(id, |job| job.state = JobState::Cancelled)
    }

    async fn open_file(&self, id: JobId) -> Result<(File, u64), JobError> {
        let job = self
            .job(id)
            .ok_or_else(|| error(HResult::JOB_NOT_FOUND, "there is no such download"))?;
        if job.state != JobState::Complete {
            return Err(error(
                HResult::INVALID_STATE,
                "the download is not complete yet",
            ));
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&content(usize::try_from(job.bytes_done).expect("small")))
            .expect("room for it");
        file.rewind().expect("a regular file");
        Ok((file, job.bytes_done))
    }

    async fn release(&self, id: JobId) {
        self.state().jobs.remove(&id);
    }

    async fn cache(&self) -> Vec<CacheEntry> {
        self.state().cache.clone()
    }

    async fn pin(&self, file_id: &str, pinned: bool) -> Result<(), JobError> {
        let mut state = self.state();
        let entry = state
            .cache
            .iter_mut()
            .find(|entry| entry.file_id == file_id);
        entry
            .ok_or_else(|| error(HResult::NOT_FOUND, "there is no such file"))?
            .is_pinned = pinned;
        Ok(())
    }

    async fn delete(&self, file_id: Option<&str>, include_pinned: bool) -> Result<u64, JobError> {
        let mut state = self.state();
        let wanted = |entry: &CacheEntry| file_id.is_none_or(|id| id == entry.file_id);
        if file_id.is_some() && !state.cache.iter().any(wanted) {
            return Err(error(HResult::NOT_FOUND, "there is no such file"));
        }
        if file_id.is_some()
            && !include_pinned
            && state.cache.iter().any(|e| wanted(e) && e.is_pinned)
        {
            return Err(error(HResult::DELETE_PINNED, "the file is pinned"));
        }
        let before = state.cache.len();
        state
            .cache
            .retain(|entry| !wanted(entry) || (entry.is_pinned && !include_pinned));
        Ok((before - state.cache.len()) as u64)
    }

    async fn import(&self, mut file: File, request: ImportRequest) -> Result<CacheEntry, JobError> {
        let ImportRequest {
            hash_file_json,
            urls,
            link: _,
        } = request;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| error(HResult::FILE_NOT_AVAILABLE, &e.to_string()))?;
        let file = PiecesHashFile::from_json(hash_file_json.as_bytes())
            .map_err(|e| error(HResult::METAINFO_INVALID, &e.to_string()))?;
        let lengths = file.lengths();
        let right = lengths.content_length() == bytes.len() as u64
            && lengths
                .pieces()
                .zip(bytes.chunks(lengths.piece_size() as usize))
                .all(|(p, b)| file.verify(p, b));
        if !right {
            return Err(error(
                HResult::PIECE_HASH_MISMATCH,
                "the file is not what its hash file says",
            ));
        }
        let entry = CacheEntry {
            file_id: file
                .hash_of_hashes()
                .as_bytes()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect(),
            hash_of_hashes: file.hash_of_hashes().to_string(),
            file_size: bytes.len() as u64,
            file_size_in_cache: bytes.len() as u64,
            urls,
            is_pinned: false,
            expire_on: None,
            added: 1_700_000_000,
            last_used: 1_700_000_000,
            uploaded: SourceBytes::default(),
            shared: true,
        };
        self.state().cache.push(entry.clone());
        Ok(entry)
    }

    async fn reconfigure(&self, config: &Config) -> Vec<String> {
        self.state().mode = config.policies.download_mode().number();
        vec!["daemon.listen".into()]
    }

    fn status(&self) -> EngineStatus {
        let state = self.state();
        EngineStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: 90_061,
            peer_id: "0".repeat(40),
            download_mode: state.mode,
            listening: vec!["127.0.0.1:7680".parse().expect("an address")],
            teredo: None,
            state_dir: "/var/lib/dosvc".into(),
            cache_dir: "/var/lib/dosvc/cache".into(),
            cache_bytes: state.cache.iter().map(|e| e.file_size_in_cache).sum(),
            cache_bytes_max: 10 << 30,
            disk_total_bytes: 100 << 30,
            disk_available_bytes: 50 << 30,
            gates: Vec::new(),
            downloaded: SourceBytes {
                lan: 3 << 30,
                http: 1 << 30,
                ..SourceBytes::default()
            },
            uploaded: SourceBytes {
                lan: 5 << 30,
                ..SourceBytes::default()
            },
            bandwidth: BandwidthStatus::default(),
            month: MonthStatus::default(),
            cloud: None,
            membership: None,
            port_mapping: None,
        }
    }

    async fn explain(&self, id: &str) -> Result<Explanation, JobError> {
        let download = id.parse().ok().and_then(|id| self.job(JobId(id)));
        let download =
            download.ok_or_else(|| error(HResult::NOT_FOUND, "nothing is called that"))?;
        Ok(Explanation {
            file_id: download.file_id.clone(),
            cache: None,
            mode: ModeExplanation {
                configured: self.state().mode,
                provider: "Default Provider".into(),
                effective: 0,
                reasons: vec!["the caller asked for mode CdnOnly".into()],
            },
            no_peers: vec!["the caller asked for mode CdnOnly".into()],
            gates: Vec::new(),
            restriction: None,
            array: None,
            limit: None,
            delays: Vec::new(),
            waiting: download.waiting.clone(),
            sources_are_past: false,
            advice: Vec::new(),
            sources: vec![SourceExplanation {
                kind: "Http".into(),
                address: download.source_url.clone().unwrap_or_default(),
                transport: None,
                state: SourceStanding::Active,
                rate_bps: Some(1000),
                delivered_bytes: download.downloaded.http,
                uploaded_bytes: 0,
                in_flight: 1,
                useful_pieces: None,
                why: "it delivers".into(),
            }],
            download: Some(download),
        })
    }

    fn tunnel(&self) -> Option<TunnelReport> {
        None
    }

    async fn peers(&self) -> Vec<PeerInfo> {
        let peer = |last: u8, received| PeerInfo {
            file_id: format!("{:064x}", 1000),
            ip: ([192, 0, 2, last], 7680).into(),
            transport: Transport::Tcp,
            peer_type: "Lan".into(),
            connection_established: true,
            bytes_sent: 1 << 20,
            bytes_received: received,
            upload_rate_bytes: 0,
            download_rate_bytes: 12 << 20,
            pieces: (3, 4),
        };
        vec![peer(1, 5 << 20), peer(2, 90 << 20)]
    }
}
