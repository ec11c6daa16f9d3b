//! Room on the disk for downloads and imports under way: the part of it that is to stay free is never touched.
//!
//! What all of them still lack is added up, so that two that begin together don't both count on the same
//! space. While they run the disk is looked at again and again, for others fill it too.

use crate::{
    api::JobError,
    cache,
    errors::DISK_FULL,
    shared::{Shared, lock},
    upkeep,
};
use dosvc_content::format_bytes;
use dosvc_piece_store::{Content, ContentKey};
use dosvc_policy::{DiskSpace, writable_bytes};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What database, hash files and the file system's own records may take beside the contents.
const OVERHEAD_BYTES: u64 = 16 << 20;
/// What may be written before the disk is looked at again: a tenth of a second at 10 Gbit/s, and the buffers under way.
const AHEAD_BYTES: u64 = 192 << 20;

/// How often the disk is looked at while nothing else has a download look.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What downloads and imports under way still need.
#[derive(Debug, Default)]
pub(crate) struct Room {
    needs: Mutex<HashMap<ContentKey, Need>>,
    /// Bytes of files that are being taken in. What of them is written already still counts.
    imports: AtomicU64,
    /// Held by who looks whether there is room, and makes it.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Need {
    content: Arc<Content>,
    downloads: usize,
}

impl Room {
    fn add(&self, content: &Arc<Content>) {
        let mut needs = lock(&self.needs);
        let need = needs.entry(content.key()).or_insert_with(|| Need {
            content: Arc::clone(content),
            downloads: 0,
        });
        need.downloads += 1;
    }

    fn remove(&self, key: ContentKey) {
        let mut needs = lock(&self.needs);
        if let Some(need) = needs.get_mut(&key) {
            need.downloads -= 1;
            if need.downloads == 0 {
                needs.remove(&key);
            }
        }
    }

    /// Bytes that are still to be written, a content that several want counted once.
    fn lacks(&self) -> u64 {
        let needs = lock(&self.needs);
        let downloads: u64 = needs.values().map(|need| lacks(&need.content)).sum();
        downloads.saturating_add(self.imports.load(Ordering::Relaxed))
    }
}

fn lacks(content: &Content) -> u64 {
    let info = content.info();
    info.lengths
        .content_length()
        .saturating_sub(info.bytes_have)
}

/// A download's claim to room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    shared: &'a Arc<Shared>,
    key: ContentKey,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.shared.room.remove(self.key);
    }
}

/// Makes room for what a download lacks beside all others, by evicting what may go.
///
/// # Errors
/// When the part of the disk that is to stay free would be touched even so.
pub(crate) async fn claim<'a>(
    shared: &'a Arc<Shared>,
    content: &Arc<Content>,
) -> Result<Claim<'a>, JobError> {
    let room = &shared.room;
    let _turn = room.turn.lock().await;
    let others = room.lacks();
    room.add(content);
    let claim = Claim {
        shared,
        key: content.key(),
    };
    make(shared, others).await.map(|()| claim)
}

/// Makes room for all that downloads and imports lack, `others` of it before the one that has come.
async fn make(shared: &Arc<Shared>, others: u64) -> Result<(), JobError> {
    let all = shared.room.lacks();
    if all == others {
        // Nothing is missing, or somebody else downloads it already.
        return Ok(());
    }
    let wanted = all.saturating_add(OVERHEAD_BYTES);
    // What would not fit into an empty cache either drives nothing out.
    let evictable = shared.store.bytes_on_disk();
    let helps = |bytes: u64| bytes < wanted && bytes.saturating_add(evictable) >= wanted;
    if writable(shared).is_some_and(helps) {
        upkeep::enforce_with(shared, wanted).await;
    }
    match writable(shared) {
        Some(bytes) if bytes < wanted && keeps_free(shared) => {
            Err(refusal(shared, wanted, bytes, others > 0))
        }
        // Nothing is to stay free: the disk itself says when it is full, and what fitted is kept.
        _ => Ok(()),
    }
}

/// An import's claim to room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Intake<'a> {
    shared: &'a Arc<Shared>,
    bytes: u64,
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        let imports = &self.shared.room.imports;
        imports.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Makes room for a file of so many bytes that is to be taken into the cache, by evicting what may go. `written`: the
/// bytes that the disk has to take for it; none when the cache becomes a link to the file.
///
/// # Errors
/// When the cache may never hold so much, or the part of the disk that is to stay free would be touched.
pub(crate) async fn intake(
    shared: &Arc<Shared>,
    length: u64,
    written: u64,
) -> Result<Intake<'_>, JobError> {
    let _turn = shared.room.turn.lock().await;
    let settings = shared.settings();
    let disk = dosvc_host::disk(shared.store.cache_dir()).ok();
    let bytes_max = disk.map(|disk| {
        let cache_bytes = shared.store.bytes_on_disk();
        cache::bytes_max(&settings, disk, cache_bytes)
    });
    if let Some(bytes_max) = bytes_max.filter(|max| *max < length) {
        // It would be the first to go.
        let message = format!(
            "the file has {}, but the cache may take {} at most: max_cache_size and absolute_max_cache_size say so, \
             and the last {} of the disk stay free (cache.keep_free_percent)",
            format_bytes(length),
            format_bytes(bytes_max),
            settings.config.keep_free
        );
        return Err(JobError::new(DISK_FULL, message));
    }
    let others = shared.room.lacks();
    shared.room.imports.fetch_add(written, Ordering::Relaxed);
    let intake = Intake {
        shared,
        bytes: written,
    };
    make(shared, others).await.map(|()| intake)
}

impl Claim<'_> {
    /// Looks at the disk again, for others may have filled it, and makes room once more where that helps.
    ///
    /// # Errors
    /// When so little is left that what is to stay free would be touched before the next look.
    pub(crate) async fn check(&self) -> Result<(), JobError> {
        let shared = self.shared;
        let is_short = |bytes: &u64| *bytes < shared.room.lacks().min(AHEAD_BYTES);
        if !keeps_free(shared) || writable(shared).filter(is_short).is_none() {
            return Ok(());
        }
        let _turn = shared.room.turn.lock().await;
        upkeep::enforce_with(shared, shared.room.lacks()).await;
        match writable(shared).filter(is_short) {
            Some(bytes) => Err(refusal(shared, shared.room.lacks(), bytes, false)),
            None => Ok(()),
        }
    }
}

/// Evicts what may go for what a content needs beside its bytes.
pub(crate) async fn make_a_little(shared: &Arc<Shared>) {
    let _turn = shared.room.turn.lock().await;
    upkeep::enforce_with(shared, OVERHEAD_BYTES).await;
}

fn keeps_free(shared: &Shared) -> bool {
    shared.settings().config.keep_free.get() > 0
}

/// Bytes that may be written; `None`: the disk cannot be asked, and says so when it is written to.
fn writable(shared: &Shared) -> Option<u64> {
    let disk = dosvc_host::disk(shared.store.cache_dir()).ok()?;
    let (total, available) = (disk.total, disk.available);
    let keep_free = shared.settings().config.keep_free;
    Some(writable_bytes(DiskSpace { total, available }, keep_free))
}

fn refusal(shared: &Shared, lacks: u64, writable: u64, with_others: bool) -> JobError {
    let keep_free = shared.settings().config.keep_free;
    let whose = if with_others {
        "this one and the downloads that run lack"
    } else {
        "it lacks"
    };
    JobError::new(
        DISK_FULL,
        format!(
            "{whose} {}, but only {} may be written: the last {keep_free} of the disk stay free (cache.keep_free_percent)",
            format_bytes(lacks),
            format_bytes(writable)
        ),
    )
}
