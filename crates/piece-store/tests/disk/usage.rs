use crate::rig::{Sample, info, open};
use dosvc_content::{BLOCK_LENGTH_MAX, PieceLengths};
use dosvc_piece_store::{
    Accepted, AddInfo, CacheLimits, Content, ContentKey, EvictReason, PieceCheck, PlainKey,
    ServeError, Store, StoreConfig, StoreError,
};
use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

fn served(content: &Content, sample: &Sample) -> usize {
    let mut pieces = 0;
    for piece in sample.lengths().pieces() {
        for block in sample.lengths().blocks(piece) {
            let Ok(range) = content.file_range(block) else {
                continue;
            };
            let mut bytes = vec![0; range.length as usize];
            range.file.read_exact_at(&mut bytes, range.offset).unwrap();
            let at = usize::try_from(sample.lengths().block_offset(block)).unwrap();
            assert_eq!(bytes, sample.bytes[at..at + bytes.len()]);
            let mut again = vec![0; bytes.len()];
            content.read_block(block, &mut again).unwrap();
            assert_eq!(bytes, again);
            pieces += 1;
        }
    }
    pieces
}

#[test]
fn pieces_are_stored_served_and_survive_a_restart_for_all_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [
        (0, 1 << 20),
        (1, 1 << 20),
        ((64 << 10) - 1, 64 << 10),
        (64 << 10, 64 << 10),
        ((300 << 10) + 7, 64 << 10),
        ((2 << 20) + 5, 1 << 20),
        ((17 << 20) + 3, 16 << 20),
    ];
    let samples: Vec<_> = (1..)
        .zip(sizes)
        .map(|(seed, (len, piece_size))| Sample::new(seed, len, piece_size))
        .collect();
    let store = open(dir.path());
    for sample in &samples {
        let content = sample.fill(&store);
        assert!(content.is_complete());
        let blocks: u32 = sample
            .lengths()
            .pieces()
            .map(|p| sample.lengths().block_count(p))
            .sum();
        assert_eq!(served(&content, sample), blocks as usize);
    }
    let total: usize = samples.iter().map(|s| s.bytes.len()).sum();
    assert_eq!(store.bytes_on_disk(), total as u64);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.bytes_on_disk(), total as u64);
    assert_eq!(store.list().unwrap().len(), samples.len());
    for sample in &samples {
        let content = store
            .content(&sample.hash_file.hash_of_hashes())
            .unwrap()
            .unwrap();
        assert!(content.is_complete());
        assert_eq!(content.hash_file(), Some(&sample.hash_file));
        assert_eq!(
            served(&content, sample),
            0,
            "nothing is served before it was hashed"
        );
        for piece in sample.lengths().pieces() {
            assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
        }
        assert!(sample.bytes.is_empty() || served(&content, sample) > 0);
    }
}

#[test]
fn wrong_bytes_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 200 << 10, 64 << 10);
    let content = sample.add(&open(dir.path()));
    let piece = sample.nth(1);
    let mut bytes = sample.piece(piece).to_vec();
    bytes[9] ^= 1;
    assert_eq!(
        content.accept_piece(piece, &bytes).unwrap(),
        Accepted::BadHash
    );
    assert_eq!(
        content.accept_piece(piece, &bytes[1..]).unwrap(),
        Accepted::BadHash
    );
    assert!(content.have().is_empty());
    assert_eq!(
        content.accept_piece(piece, sample.piece(piece)).unwrap(),
        Accepted::Stored
    );
    assert_eq!(
        content.accept_piece(piece, &bytes).unwrap(),
        Accepted::Duplicate
    );
    let block = sample.lengths().block(0, 0, 10).unwrap();
    assert!(matches!(
        content.file_range(block),
        Err(ServeError::Missing)
    ));
    assert!(matches!(
        content.read_block(block, &mut [0; 10]),
        Err(StoreError::Missing { .. })
    ));
}

#[test]
fn a_piece_in_blocks_counts_only_when_the_whole_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(2, 5 << 20, 4 << 20);
    let content = sample.add(&open(dir.path()));
    let piece = sample.nth(0);
    let blocks: Vec<_> = sample.lengths().blocks(piece).collect();
    assert_eq!(blocks.len(), 4);
    let bytes_of = |i: usize| {
        &sample.piece(piece)[i * BLOCK_LENGTH_MAX as usize..][..BLOCK_LENGTH_MAX as usize]
    };
    for (i, &block) in blocks.iter().enumerate().skip(1) {
        content.accept_block(block, bytes_of(i)).unwrap();
    }
    assert_eq!(content.finish_piece(piece).unwrap(), Accepted::BadHash);
    assert!(content.have().is_empty());
    assert!(content.accept_block(blocks[0], &[0; 5]).is_err());
    content.accept_block(blocks[0], bytes_of(0)).unwrap();
    assert_eq!(content.finish_piece(piece).unwrap(), Accepted::Stored);
    assert_eq!(content.finish_piece(piece).unwrap(), Accepted::Duplicate);
    // A late block of somebody who lies does not touch what is had.
    content
        .accept_block(blocks[2], &vec![7; BLOCK_LENGTH_MAX as usize])
        .unwrap();
    assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
}

#[test]
fn many_threads_store_check_and_serve_one_content() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(3, 8 << 20, 64 << 10);
    let store = open(dir.path());
    let content = sample.add(&store);
    std::thread::scope(|scope| {
        for offset in 0..4 {
            let (content, sample, store) = (&content, &sample, &store);
            scope.spawn(move || {
                for piece in sample.lengths().pieces().filter(|p| p.get() % 4 >= offset) {
                    content.accept_piece(piece, sample.piece(piece)).unwrap();
                    let block = sample.lengths().blocks(piece).next().unwrap();
                    content
                        .file_range(block)
                        .expect("stored by us or by another thread just now");
                    store
                        .sync_due(Instant::now() + Duration::from_secs(5))
                        .unwrap();
                }
            });
        }
        scope.spawn(|| content.recover(&mut |_| {}).unwrap());
    });
    assert!(content.is_complete());
    assert_eq!(served(&content, &sample), 128);
    assert_eq!(store.bytes_on_disk(), 8 << 20);
}

/// A seed whose content was closed after the import hashed every piece again when peers came: as much work as all of
/// the upload.
#[test]
fn a_content_that_is_opened_again_unchanged_is_served_without_hashing_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(31, 3 << 20, 1 << 20);
    let content = sample.fill(&store);
    store.sync_all().unwrap();
    drop(content);
    let content = sample.add(&store);
    assert_eq!(content.unchecked(), []);
    content
        .file_range(sample.lengths().block(1, 0, 100).unwrap())
        .unwrap();
    let key = content.key();
    drop(content);
    // Somebody writes to it while it is closed.
    let data = find_data(dir.path());
    fs::OpenOptions::new()
        .write(true)
        .open(data)
        .unwrap()
        .write_all_at(b"changed", 0)
        .unwrap();
    let content = store.content_by_key(&key).unwrap().unwrap();
    assert_eq!(content.unchecked().len(), 3);
}

fn find_data(state: &Path) -> PathBuf {
    let mut folders = fs::read_dir(state.join("cache")).unwrap();
    let folder = folders.next().unwrap().unwrap().path();
    let mut files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    files
        .find(|f| fs::metadata(f).unwrap().len() == 3 << 20)
        .unwrap()
}

#[test]
fn an_idle_store_asks_for_no_wake_up() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(4, 300 << 10, 64 << 10);
    let store = open(dir.path());
    let content = sample.add(&store);
    let start = Instant::now();
    assert_eq!(store.sync_due(start).unwrap(), None);
    content
        .accept_piece(sample.nth(0), sample.piece(sample.nth(0)))
        .unwrap();
    let due = store.sync_due(start).unwrap().unwrap();
    assert!(due > start);
    assert_eq!(store.sync_due(due).unwrap(), None);
    assert_eq!(store.sync_due(due).unwrap(), None);
}

#[test]
fn enough_bytes_make_a_sync_due_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(4, 300 << 10, 64 << 10);
    let config = StoreConfig {
        sync_bytes: 100 << 10,
        ..StoreConfig::new(dir.path())
    };
    let store = Store::open(config).unwrap();
    let content = sample.add(&store);
    let start = Instant::now();
    content
        .accept_piece(sample.nth(0), sample.piece(sample.nth(0)))
        .unwrap();
    assert!(store.sync_due(start).unwrap().is_some());
    content
        .accept_piece(sample.nth(1), sample.piece(sample.nth(1)))
        .unwrap();
    assert_eq!(store.sync_due(start).unwrap(), None);
}

#[test]
fn adding_again_merges_sources_and_finds_what_is_had() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(5, 100 << 10, 64 << 10);
    let store = open(dir.path());
    let first = sample.fill(&store);
    let more = AddInfo {
        urls: vec![
            "http://origin/file".into(),
            "http://b/".into(),
            "x".repeat(9000),
        ],
        content_id: Some("the id".into()),
        now: SystemTime::now(),
    };
    let second = store.add(&sample.hash_file, more).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let urls = ["http://origin/file", "http://b/"];
    assert_eq!(second.urls(), urls);
    drop((first, second, store));
    let listed = open(dir.path()).list().unwrap();
    assert_eq!(listed[0].urls, urls);
    assert_eq!(listed[0].content_id.as_deref(), Some("the id"));
    assert!(listed[0].is_complete() && listed[0].completed.is_some() && !listed[0].in_use);
}

#[test]
fn content_in_use_stays_and_removed_content_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(6, 100 << 10, 64 << 10);
    let store = open(dir.path());
    let content = sample.fill(&store);
    let key = content.key();
    assert!(matches!(
        store.remove(&key, true),
        Err(StoreError::InUse { .. })
    ));
    drop(content);
    store.set_pinned(&key, true, None).unwrap();
    assert!(matches!(
        store.remove(&key, false),
        Err(StoreError::Pinned { .. })
    ));
    store.remove(&key, true).unwrap();
    assert!(matches!(
        store.remove(&key, true),
        Err(StoreError::Unknown { .. })
    ));
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(store.bytes_on_disk(), 0);
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    // Removed while its pieces were not synced: a sync does not bring the claim back.
    store.sync_all().unwrap();
    let again = sample.add(&store);
    assert!(again.have().is_empty());
    assert_eq!(again.recover(&mut |_| {}).unwrap().found, 0);
}

#[test]
fn pins_and_expiries_are_kept_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(7, 10, 64 << 10);
    let store = open(dir.path());
    let content = sample.fill(&store);
    let key = content.key();
    let day = Duration::from_secs(24 * 3600);
    let soon = SystemTime::now() + day;
    let far = SystemTime::now() + 400 * day;
    assert!(matches!(
        store.set_pinned(&key, true, Some(far)),
        Err(StoreError::TooFarAhead)
    ));
    assert!(matches!(
        store.set_expiry(&key, Some(far)),
        Err(StoreError::TooFarAhead)
    ));
    store.set_pinned(&key, true, Some(soon)).unwrap();
    store.set_expiry(&key, Some(soon)).unwrap();
    assert!(content.info().is_pinned(SystemTime::now()));
    drop((content, store));
    let store = open(dir.path());
    let listed = &store.list().unwrap()[0];
    assert!(listed.is_pinned(SystemTime::now()) && !listed.is_pinned(far));
    assert!(listed.expires.is_some());
    store.set_pinned(&key, false, None).unwrap();
    assert_eq!(store.list().unwrap()[0].pinned_until, None);
    let unknown = ContentKey::Hashed([9; 32].into());
    assert!(matches!(
        store.set_expiry(&unknown, None),
        Err(StoreError::Unknown { .. })
    ));
}

#[test]
fn enforce_removes_what_expired_and_spares_what_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<_> = (0..4)
        .map(|i| Sample::new(i, 100 << 10, 64 << 10))
        .collect();
    let used = samples[0].fill(&store);
    let keys: Vec<_> = samples[1..]
        .iter()
        .map(|s| {
            let key = s.fill(&store).key();
            std::thread::sleep(Duration::from_millis(3));
            key
        })
        .collect();
    store.set_expiry(&keys[2], Some(SystemTime::now())).unwrap();
    let limits = CacheLimits {
        bytes_max: Some(220 << 10),
        age_max: Some(Duration::from_secs(3600)),
        keep_free_bytes: 0,
        now: SystemTime::now(),
    };
    let gone = store.enforce(limits).unwrap();
    let reasons: Vec<_> = gone.iter().map(|e| (e.key, e.reason)).collect();
    let want = [
        (keys[2], EvictReason::Expired),
        (keys[0], EvictReason::Quota),
    ];
    assert_eq!(reasons, want);
    assert_eq!(store.bytes_on_disk(), 200 << 10);
    assert!(used.is_complete());
    let nothing_free = CacheLimits {
        keep_free_bytes: u64::MAX,
        bytes_max: None,
        ..limits
    };
    let gone = store.enforce(nothing_free).unwrap();
    assert_eq!(gone.iter().map(|e| e.key).collect::<Vec<_>>(), [keys[1]]);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn scrubbing_goes_round_once_per_period_and_finds_rot() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(8, 300 << 10, 64 << 10);
    let store = open(dir.path());
    let content = sample.fill(&store);
    store.sync_all().unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let now = SystemTime::now();
    assert_eq!(content.scrub_next(now, week), None);
    let later = now + week + Duration::from_secs(1);
    let round: Vec<_> = std::iter::from_fn(|| content.scrub_next(later, week)).collect();
    assert_eq!(round, sample.lengths().pieces().collect::<Vec<_>>());
    assert_eq!(content.scrub_next(later, week), None);
    assert!(content.scrub_next(later + week, week).is_some());
}

#[test]
fn plain_content_is_never_served_and_starts_over_when_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    let key = PlainKey::of_url("http://h/f");
    let lengths = PieceLengths::new(100 << 10, 64 << 10).unwrap();
    let add = |store: &Arc<Store>, tag: &[u8]| store.add_plain(key, lengths, tag.to_vec(), info());
    let store = open(dir.path());
    let content = add(&store, b"v1").unwrap();
    let piece = lengths.piece(0).unwrap();
    assert_eq!(
        content.accept_piece(piece, &[5; 3]).unwrap(),
        Accepted::BadHash
    );
    assert_eq!(
        content.accept_piece(piece, &[5; 64 << 10]).unwrap(),
        Accepted::Stored
    );
    let block = lengths.block(0, 0, 10).unwrap();
    assert!(matches!(
        content.file_range(block),
        Err(ServeError::Missing)
    ));
    assert!(matches!(add(&store, b"v2"), Err(StoreError::InUse { .. })));
    assert!(matches!(
        store.set_pinned(&content.key(), true, None),
        Err(StoreError::NotShared { .. })
    ));
    drop((content, store));
    let store = open(dir.path());
    assert_eq!(add(&store, b"v1").unwrap().have().count(), 1);
    assert_eq!(add(&store, b"v2").unwrap().have().count(), 0);
    drop(store);
    assert_eq!(add(&open(dir.path()), b"v2").unwrap().have().count(), 0);
}

#[test]
fn the_folder_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state");
    let sample = Sample::new(9, 10, 64 << 10);
    let key = sample.fill(&open(&dir)).key();
    for path in [
        dir.clone(),
        dir.join("cache"),
        dir.join("cache").join(key.to_string()),
    ] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn a_thousand_contents_open_fast() {
    let dir = tempfile::tempdir().unwrap();
    let lengths = PieceLengths::new(4 << 30, 1 << 20).unwrap();
    let store = open(dir.path());
    let mut keys = Vec::new();
    for i in 0..1000u32 {
        let mut hashes = vec![[0; 32].into(); lengths.piece_count() as usize];
        let mut first = [1; 32];
        first[..4].copy_from_slice(&i.to_le_bytes());
        hashes[0] = first.into();
        let hash_file = dosvc_content::PiecesHashFile::new(lengths, hashes).unwrap();
        keys.push(store.add(&hash_file, info()).unwrap().key());
    }
    drop(store);
    let start = Instant::now();
    let store = open(dir.path());
    let opened = start.elapsed();
    assert_eq!(store.list().unwrap().len(), 1000);
    let content = store.content_by_key(&keys[500]).unwrap().unwrap();
    assert_eq!(content.lengths(), lengths);
    println!("1000 contents of 4 GiB: opened in {opened:?}");
    // Ten times what it takes; catches work that grows with the contents' bytes.
    assert!(opened < Duration::from_secs(2), "{opened:?}");
}
