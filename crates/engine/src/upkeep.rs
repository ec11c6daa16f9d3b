//! What an engine does beside downloads: sync the store, keep the cache within its limits, answer for what is held.

use crate::{cache, cloud, month, shared::Shared};
use dosvc_piece_store::{CacheLimits, ContentInfo, ContentKey};
use dosvc_policy::PeerClass;
use dosvc_scheduler::Giving;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How often the cache's age and size limits are looked at.
const CACHE_INTERVAL: Duration = Duration::from_secs(600);
/// How soon they are looked at again after something was written.
const CACHE_INTERVAL_BUSY: Duration = Duration::from_secs(10);
/// How often the disk is asked how full it is, while the cache holds anything: others fill it too, and nothing tells of
/// that.
const DISK_INTERVAL: Duration = Duration::from_secs(60);

/// How soon after a swarm has ended; others may end with it. And how soon at first when something has to go that somebody
/// still held, such as a read that was under way: later and later then.
const AFTER_SWARM: Duration = Duration::from_secs(1);

/// Syncs the store when it is due; sleeps for as long as nothing is written. What writing took of memory goes then.
pub(crate) async fn sync_store(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = shared.dirty.notified() => {}
        }
        loop {
            let store = Arc::clone(&shared.store);
            let due = tokio::task::spawn_blocking(move || store.sync_due(Instant::now())).await;
            let next = match due {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => {
                    tracing::error!(%error, "state could not be written; trying again");
                    Some(Instant::now() + Duration::from_secs(5))
                }
                Err(_) => return,
            };
            let Some(next) = next else {
                shared.pool.shrink();
                break;
            };
            tokio::select! {
                () = shared.cancel.cancelled() => return,
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }
}

/// Removes what is too old or too much.
pub(crate) async fn keep_cache(shared: Arc<Shared>) {
    let mut written = 0;
    let mut was_reached = false;
    let mut settings = shared.settings_changes();
    let mut retry = AFTER_SWARM;
    loop {
        settings.mark_unchanged();
        let within = enforce_with(&shared, 0).await;
        month::save(&shared).await;
        // A new month may have begun.
        let reached = shared.giving() != Giving::ALL;
        if std::mem::replace(&mut was_reached, reached) != reached {
            shared.tell_swarms();
        }
        let now = shared.totals.downloaded().total();
        let pause = match within {
            false => retry,
            true if now == written => CACHE_INTERVAL,
            true => CACHE_INTERVAL_BUSY,
        };
        retry = match within {
            false => (retry * 2).min(DISK_INTERVAL),
            true => AFTER_SWARM,
        };
        written = now;
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = until_too_much(&shared) => {}
            Ok(()) = settings.changed() => {}
            // What a swarm held in use may go now, once its task is gone for good.
            () = shared.swarm_ended.notified() => tokio::time::sleep(AFTER_SWARM).await,
        }
    }
}

/// Waits until the cache holds more than it may, or the disk is too full for what it holds.
async fn until_too_much(shared: &Shared) {
    loop {
        tokio::time::sleep(DISK_INTERVAL).await;
        let limits = limits(shared, 0);
        if limits.is_ok_and(|(limits, available)| is_too_much(shared, &limits, available)) {
            return;
        }
    }
}

/// Whether the cache holds anything that has to go for its size, or the disk's.
fn is_too_much(shared: &Shared, limits: &CacheLimits, available: u64) -> bool {
    let held = shared.store.bytes_on_disk();
    let too_large = limits.bytes_max.is_some_and(|max| max < held);
    held > 0 && (too_large || available < limits.keep_free_bytes)
}

/// The cache's limits as settings and disk are now, `room` to be free beside what always is; and what is free.
fn limits(shared: &Shared, room: u64) -> Result<(CacheLimits, u64), std::io::Error> {
    let settings = shared.settings();
    let disk = dosvc_host::disk(shared.store.cache_dir())?;
    let keep_free = settings.config.keep_free.part_of(disk.total);
    let limits = CacheLimits {
        bytes_max: Some(cache::bytes_max(
            &settings,
            disk,
            shared.store.bytes_on_disk(),
        )),
        age_max: settings.config.policies.max_cache_age(),
        keep_free_bytes: keep_free.saturating_add(room),
        now: SystemTime::now(),
    };
    Ok((limits, disk.available))
}

/// `room`: bytes that are to be free beside what always is. Where something has to go, contents that nobody uses just
/// now may go too, though their swarms wait for somebody to come. False: somebody held what had to go.
pub(crate) async fn enforce_with(shared: &Arc<Shared>, room: u64) -> bool {
    let limits = match limits(shared, room) {
        Ok((limits, available)) => {
            if is_too_much(shared, &limits, available) {
                cache::end_unused_swarms(shared).await;
            }
            limits
        }
        Err(error) => {
            tracing::warn!(%error, "free disk space is unknown; cache limits are not enforced");
            return true;
        }
    };
    let store = Arc::clone(&shared.store);
    match tokio::task::spawn_blocking(move || store.enforce(limits)).await {
        Ok(Ok(evicted)) => {
            for content in evicted {
                tracing::info!(?content, "evicted from the cache");
                cache::withdraw(shared, content.key);
            }
        }
        Ok(Err(error)) => tracing::error!(%error, "cache limits cannot be enforced"),
        Err(_) => {}
    }
    let after = self::limits(shared, room);
    !after.is_ok_and(|(limits, available)| is_too_much(shared, &limits, available))
}

/// Answers for everything that is held and may be shared, and for nothing else.
pub(crate) async fn review_announcements(shared: &Arc<Shared>) {
    let (discovery, array) = (shared.discovery(), shared.cloud());
    if discovery.is_none() && array.is_none() {
        return;
    }
    let store = Arc::clone(&shared.store);
    let listed = tokio::task::spawn_blocking(move || {
        let infos = store.list().ok()?;
        let with_limit = |info: ContentInfo| (store.mode_limit(&info.key), info);
        Some(infos.into_iter().map(with_limit).collect::<Vec<_>>())
    });
    let settings = shared.settings();
    for (limit, info) in listed.await.ok().flatten().unwrap_or_default() {
        let ContentKey::Hashed(hash) = info.key else {
            continue;
        };
        // A download goes on being announced: who looks for the same content finds each other.
        let is_wanted = || {
            let progress = shared.progress_of(info.key);
            progress.is_some_and(|progress| progress.borrow().wanted)
        };
        let given = settings.gates.permit_upload(PeerClass::Lan) || is_wanted();
        let scope = settings.scope(limit);
        let may_be_shared =
            scope.offered && given && settings.is_large_enough(info.lengths.content_length());
        if !may_be_shared {
            shared.withdraw(&hash);
            continue;
        }
        if info.have_count == 0 {
            continue;
        }
        if let Some(discovery) = &discovery {
            discovery.announce(hash, false);
        }
        // A running swarm says more, and more often.
        if let Some(array) = array
            .as_ref()
            .filter(|_| shared.progress_of(info.key).is_none())
            && let Some(held) = cloud::held(&settings, &scope, hash, &info)
        {
            array.announce(held);
        }
    }
}
