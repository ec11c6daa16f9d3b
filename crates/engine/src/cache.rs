//! The cache as an administrator sees it: entries, pins, deletion, limits.

use crate::{
    api::{CacheEntry, JobError, SourceBytes},
    errors::{blocking, internal_error, storage_error},
    jobs::Job,
    request::without_password,
    shared::{Settings, Shared},
    swarm::Message,
};
use dosvc_content::HResult;
use dosvc_host::Disk;
use dosvc_piece_store::{ContentInfo, ContentKey, StoreError};
use dosvc_policy::{DiskSpace, PeerClass};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::oneshot;

/// The longest that a content can be pinned (monitoring, section 9).
const PIN_MAX: Duration = Duration::from_secs(364 * 86_400);
/// How long a swarm may take to let its content go.
const STOP_TIME: Duration = Duration::from_secs(2);
/// How often it is asked whether it has.
const RETRY: Duration = Duration::from_millis(10);

/// The most that the cache may take, pinned content left out.
pub(crate) fn bytes_max(settings: &Settings, disk: Disk, cache_bytes: u64) -> u64 {
    dosvc_policy::cache_bytes_max(
        settings.config.policies.cache_limit(),
        DiskSpace {
            total: disk.total,
            available: disk.available,
        },
        cache_bytes,
        settings.config.keep_free,
    )
}

pub(crate) async fn entries(shared: &Arc<Shared>) -> Vec<CacheEntry> {
    let keyed = keyed_entries(shared).await;
    keyed.into_iter().map(|(_, entry)| entry).collect()
}

/// Every entry with the key of its content.
pub(crate) async fn keyed_entries(shared: &Arc<Shared>) -> Vec<(ContentKey, CacheEntry)> {
    let store = Arc::clone(&shared.store);
    let listed = tokio::task::spawn_blocking(move || store.list()).await;
    let infos = match listed {
        Ok(Ok(infos)) => infos,
        Ok(Err(error)) => {
            tracing::error!(%error, "the cache cannot be listed");
            return Vec::new();
        }
        Err(_) => return Vec::new(),
    };
    let settings = shared.settings();
    infos
        .iter()
        .map(|info| (info.key, entry(shared, &settings, info)))
        .collect()
}

fn entry(shared: &Shared, settings: &Settings, info: &ContentInfo) -> CacheEntry {
    let size = info.lengths.content_length();
    let hash = match info.key {
        ContentKey::Hashed(hash) => Some(hash),
        ContentKey::Plain(_) => None,
    };
    let expires = info.expires.or_else(|| {
        let age = settings.config.policies.max_cache_age()?;
        Some(info.completed? + age)
    });
    CacheEntry {
        file_id: info.key.to_string(),
        hash_of_hashes: hash.map(|h| h.to_string()).unwrap_or_default(),
        file_size: size,
        file_size_in_cache: info.bytes_have,
        urls: info.urls.iter().map(|url| without_password(url)).collect(),
        is_pinned: info.is_pinned(SystemTime::now()),
        expire_on: info.pinned_until.or(expires).map(seconds),
        added: seconds(info.added),
        last_used: seconds(info.last_used),
        uploaded: shared
            .progress_of(info.key)
            .map_or_else(SourceBytes::default, |p| p.borrow().uploaded),
        shared: hash.is_some()
            && shared.scope_of(&info.key).peering
            && settings.gates.permit_upload(PeerClass::Lan)
            && settings.is_large_enough(size)
            && info.have_count > 0,
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

pub(crate) async fn pin(shared: &Arc<Shared>, file_id: &str, pinned: bool) -> Result<(), JobError> {
    let key = find(shared, file_id).await?;
    let store = Arc::clone(&shared.store);
    blocking(move || {
        let until = pinned.then(|| SystemTime::now() + PIN_MAX);
        store.set_pinned(&key, pinned, until)
    })
    .await
}

/// What jobs have to do with a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum JobUse {
    /// Nothing.
    None,
    /// It is complete, and the caller may still take the file.
    Complete,
    /// It is being downloaded.
    Wanted,
}

/// Deletes one content, or all that no job has to do with.
pub(crate) async fn delete(
    shared: &Arc<Shared>,
    file_id: Option<&str>,
    include_pinned: bool,
    jobs: &[Arc<Job>],
) -> Result<u64, JobError> {
    let Some(file_id) = file_id else {
        let mut removed = 0;
        for key in all_keys(shared).await? {
            if use_by(jobs, key) != JobUse::None {
                continue;
            }
            match delete_one(shared, key, include_pinned).await {
                Ok(()) => removed += 1,
                Err(error) => tracing::info!(%key, %error, "stays in the cache"),
            }
        }
        return Ok(removed);
    };
    let key = find(shared, file_id).await?;
    if use_by(jobs, key) == JobUse::Wanted {
        return Err(JobError::new(
            HResult::INVALID_STATE,
            format!("{key} is being downloaded; cancel the download first"),
        ));
    }
    // Who asks for this very content to go means it, even if somebody has not taken the finished file yet.
    let complete: Vec<&Arc<Job>> = jobs.iter().filter(|j| j.holds(key)).collect();
    complete.iter().for_each(|job| job.let_go());
    let deleted = delete_one(shared, key, include_pinned).await;
    if deleted.is_err() && !complete.is_empty() {
        let store = Arc::clone(&shared.store);
        if let Ok(Some(content)) = blocking(move || store.content_by_key(&key)).await {
            complete
                .iter()
                .for_each(|job| job.hold(Arc::clone(&content)));
        }
    }
    deleted.map(|()| 1)
}

/// What the jobs have to do with this content.
pub(crate) fn use_by(jobs: &[Arc<Job>], key: ContentKey) -> JobUse {
    let file_id = key.to_string();
    let is_wanted = |job: &Arc<Job>| {
        let status = job.status();
        !status.state.is_final() && status.file_id == file_id
    };
    if jobs.iter().any(is_wanted) {
        JobUse::Wanted
    } else if jobs.iter().any(|job| job.holds(key)) {
        JobUse::Complete
    } else {
        JobUse::None
    }
}

/// Ends what is going on with a content and removes it. A job that comes to want it meanwhile wins.
pub(crate) async fn delete_one(
    shared: &Arc<Shared>,
    key: ContentKey,
    include_pinned: bool,
) -> Result<(), JobError> {
    let _deleting = shared.begin_deleting(key);
    if !stop_swarm(shared, key).await {
        return Err(storage_error(&StoreError::InUse { key }));
    }
    remove(shared, key, include_pinned).await?;
    withdraw(shared, key);
    Ok(())
}

/// Removes a content, once whoever still reads it has finished.
async fn remove(
    shared: &Arc<Shared>,
    key: ContentKey,
    include_pinned: bool,
) -> Result<(), JobError> {
    let deadline = Instant::now() + STOP_TIME;
    loop {
        let store = Arc::clone(&shared.store);
        let removed = tokio::task::spawn_blocking(move || store.remove(&key, include_pinned))
            .await
            .map_err(|e| internal_error(&e))?;
        match removed {
            // Peers are kept away, so a swarm that is there now is a job's.
            Err(StoreError::InUse { .. })
                if Instant::now() < deadline && shared.progress_of(key).is_none() =>
            {
                tokio::time::sleep(RETRY).await;
            }
            result => return result.map_err(|e| storage_error(&e)),
        }
    }
}

pub(crate) fn withdraw(shared: &Shared, key: ContentKey) {
    if let ContentKey::Hashed(hash) = key {
        shared.withdraw(&hash);
    }
}

/// Ends swarms that neither jobs nor peers have anything to do with.
pub(crate) async fn end_unused_swarms(shared: &Arc<Shared>) {
    for (key, swarm) in shared.running_swarms() {
        let is_unused = {
            let progress = swarm.progress.borrow();
            !progress.wanted && progress.connections == SourceBytes::default()
        };
        if is_unused {
            stop_swarm(shared, key).await;
        }
    }
}

/// Ends a content's swarm. False when it goes on because a job wants the content.
async fn stop_swarm(shared: &Arc<Shared>, key: ContentKey) -> bool {
    let (reply, ended) = oneshot::channel();
    if !shared.send_to_running(key, Message::Stop(reply)) {
        return shared.progress_of(key).is_none();
    }
    matches!(tokio::time::timeout(STOP_TIME, ended).await, Ok(Ok(())))
}

async fn all_keys(shared: &Arc<Shared>) -> Result<Vec<ContentKey>, JobError> {
    let store = Arc::clone(&shared.store);
    let infos = blocking(move || store.list()).await?;
    Ok(infos.into_iter().map(|i| i.key).collect())
}

/// Finds a content by its file id, or by the beginning of it if that is clear enough.
async fn find(shared: &Arc<Shared>, file_id: &str) -> Result<ContentKey, JobError> {
    let not_found =
        |why: &str| JobError::new(HResult::NOT_FOUND, format!("file id {file_id:?}: {why}"));
    let keys = all_keys(shared).await?;
    let mut matching = keys
        .into_iter()
        .filter(|k| k.to_string().starts_with(file_id));
    match (matching.next(), matching.next()) {
        (Some(key), None) if file_id.len() >= 4 => Ok(key),
        (Some(_), None) => Err(not_found("give at least four characters")),
        (Some(_), Some(_)) => Err(not_found("several contents in the cache begin like that")),
        (None, _) => Err(not_found("not in the cache (see 'dosvc cache list')")),
    }
}
