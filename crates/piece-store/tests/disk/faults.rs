use crate::rig::{Random, Sample, child, child_dir, open};
use dosvc_piece_store::{
    Accepted, Deliver, DeliverError, OpenError, PieceCheck, ServeError, Store, StoreConfig,
    StoreError,
};
use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn one_folder_is_used_by_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = Store::open(StoreConfig::new(dir.path())).unwrap_err();
    match &second {
        OpenError::InUse { pid, .. } => assert_eq!(*pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    assert!(
        second
            .to_string()
            .contains(&format!("process {}", std::process::id()))
    );
    drop(first);
    open(dir.path());
}

#[test]
fn a_flipped_bit_on_disk_is_found_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(1, 1 << 20, 64 << 10);
    let store = open(dir.path());
    let content = sample.fill(&store);
    store.sync_all().unwrap();
    let data = dir
        .path()
        .join("cache")
        .join(content.key().to_string())
        .join("data");
    let file = fs::OpenOptions::new().write(true).open(&data).unwrap();
    let at = 7 * (64 << 10) + 99;
    file.write_all_at(&[sample.bytes[at] ^ 4], at as u64)
        .unwrap();
    let block = sample.lengths().block(7, 0, 100).unwrap();
    assert!(matches!(
        content.file_range(block),
        Err(ServeError::Changed)
    ));
    assert_eq!(
        content.check_piece(sample.nth(7)).unwrap(),
        PieceCheck::Lost
    );
    let missing: Vec<_> = content.have().zeros().collect();
    assert_eq!(missing, [sample.nth(7)]);
    // The withdrawal is durable after the next sync.
    drop((content, store));
    let store = open(dir.path());
    let content = sample.add(&store);
    assert!(!content.have().has(sample.nth(7)));
    assert_eq!(
        content
            .accept_piece(sample.nth(7), sample.piece(sample.nth(7)))
            .unwrap(),
        Accepted::Stored
    );
    let out = dir.path().join("out");
    content
        .deliver(
            &out,
            Deliver {
                progress: &mut Deliver::quiet(),
            },
        )
        .unwrap();
    assert_eq!(fs::read(out).unwrap(), sample.bytes);
}

#[test]
fn damaged_pieces_are_found_before_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(2, 1 << 20, 64 << 10);
    let key = sample.fill(&open(dir.path())).key();
    let data = dir.path().join("cache").join(key.to_string()).join("data");
    fs::OpenOptions::new()
        .write(true)
        .open(&data)
        .unwrap()
        .write_all_at(b"rot", 5)
        .unwrap();
    let store = open(dir.path());
    let content = sample.add(&store);
    assert!(content.is_complete(), "nothing was looked at yet");
    let out = dir.path().join("out");
    match content.deliver(
        &out,
        Deliver {
            progress: &mut Deliver::quiet(),
        },
    ) {
        Err(DeliverError::Damaged { pieces }) => assert_eq!(pieces, [sample.nth(0)]),
        other => panic!("{other:?}"),
    }
    assert!(!out.exists());
}

#[test]
fn a_vanished_folder_is_a_clear_error_and_nothing_is_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let sample = Sample::new(3, 1 << 20, 64 << 10);
    let store = open(&state);
    let content = sample.add(&store);
    content
        .accept_piece(sample.nth(0), sample.piece(sample.nth(0)))
        .unwrap();
    fs::remove_dir_all(&state).unwrap();
    let error = content
        .accept_piece(sample.nth(1), sample.piece(sample.nth(1)))
        .unwrap_err();
    assert!(matches!(error, StoreError::Vanished { .. }), "{error:?}");
    assert!(error.to_string().contains("vanished"));
    assert!(matches!(store.sync_all(), Err(StoreError::Vanished { .. })));
    let other = Sample::new(4, 10, 64 << 10);
    assert!(matches!(
        store.add(&other.hash_file, crate::rig::info()),
        Err(StoreError::Vanished { .. })
    ));
    drop((content, store));
    assert_eq!(open(&state).list().unwrap(), []);
}

#[test]
fn a_content_whose_folder_vanished_can_be_added_again() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(5, 1 << 20, 64 << 10);
    let store = open(dir.path());
    let content = sample.fill(&store);
    fs::remove_dir_all(dir.path().join("cache").join(content.key().to_string())).unwrap();
    let block = sample.lengths().block(0, 0, 1).unwrap();
    assert!(matches!(
        content.file_range(block),
        Err(ServeError::Store(StoreError::Vanished { .. }))
    ));
    assert!(matches!(store.sync_all(), Err(StoreError::Vanished { .. })));
    drop(content);
    let content = sample.add(&store);
    assert!(content.have().is_empty());
    assert_eq!(store.bytes_on_disk(), 0);
    assert!(sample.fill(&store).is_complete());
    store.sync_all().unwrap();
    assert_eq!(store.bytes_on_disk(), 1 << 20);
}

#[test]
fn a_lost_data_file_loses_its_pieces_only() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, kept) = (
        Sample::new(6, 1 << 20, 64 << 10),
        Sample::new(7, 1 << 20, 64 << 10),
    );
    let store = open(dir.path());
    let key = lost.fill(&store).key();
    kept.fill(&store);
    drop(store);
    fs::remove_file(dir.path().join("cache").join(key.to_string()).join("data")).unwrap();
    let store = open(dir.path());
    assert!(lost.add(&store).have().is_empty());
    assert!(kept.add(&store).is_complete());
    assert!(lost.fill(&store).is_complete());
}

#[test]
fn a_damaged_hash_file_is_an_error_until_it_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(8, 1 << 20, 64 << 10);
    let key = sample.fill(&open(dir.path())).key();
    let hashes = dir
        .path()
        .join("cache")
        .join(key.to_string())
        .join("hashes");
    let store = open(dir.path());
    for damage in [Some("rubbish"), None] {
        match damage {
            Some(text) => fs::write(&hashes, text).unwrap(),
            None => fs::remove_file(&hashes).unwrap(),
        }
        assert!(store.content_by_key(&key).is_err());
        assert!(sample.add(&store).is_complete());
    }
}

#[test]
fn a_damaged_database_is_rebuilt_from_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(9, 1 << 20, 64 << 10);
    sample.fill(&open(dir.path()));
    let database = dir.path().join("state.redb");
    let right = fs::read(&database).unwrap();
    let mut random = Random(10);
    let mut rebuilt = 0;
    for round in 0..30 {
        let mut bytes = right.clone();
        match round {
            0 => bytes = b"this is no database".repeat(1000),
            1 => bytes.truncate(5000),
            2 => bytes.clear(),
            3 => bytes[0] ^= 1,
            _ => {
                let used = bytes.len().min(64 << 10) as u64;
                let at = usize::try_from(random.below(used)).unwrap();
                bytes[at..][..16].fill_with(|| random.next().to_le_bytes()[0]);
            }
        }
        fs::write(&database, &bytes).unwrap();
        let store = open(dir.path());
        rebuilt += usize::from(store.rebuilt_from().is_some());
        let content = store
            .content(&sample.hash_file.hash_of_hashes())
            .unwrap()
            .unwrap();
        let before = content.have().count();
        let recovered = content.recover(&mut |_| {}).unwrap();
        assert_eq!(before + recovered.found, 16, "round {round}");
        for piece in sample.lengths().pieces() {
            assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
        }
        assert_eq!(store.bytes_on_disk(), 1 << 20, "round {round}");
    }
    assert!(
        rebuilt >= 3,
        "only {rebuilt} of 30 damages were seen by the database"
    );
}

#[test]
fn leftovers_of_a_crash_are_cleared_and_foreign_files_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(11, 1 << 20, 64 << 10);
    let key = sample.fill(&open(dir.path())).key();
    let cache = dir.path().join("cache");
    for name in [
        &"0".repeat(64),
        &format!("url-{}", "1".repeat(64)),
        ".removed-0-x",
    ] {
        fs::create_dir(cache.join(name)).unwrap();
        fs::write(cache.join(name).join("data"), b"half").unwrap();
    }
    fs::write(cache.join("README"), b"not ours").unwrap();
    fs::write(cache.join(key.to_string()).join("data.new"), b"half").unwrap();
    let store = open(dir.path());
    assert!(sample.add(&store).is_complete());
    assert!(!cache.join(key.to_string()).join("data.new").exists());
    let mut names: Vec<_> = fs::read_dir(&cache)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// Runs a child test inside a mount namespace of its own with a small file system at `dir`; skips without the rights.
fn on_a_small_disk(test: &str, dir: &Path) {
    let inner = child(test, dir);
    let mut command = Command::new("unshare");
    command
        .args([
            "-m",
            "sh",
            "-c",
            "mount -t tmpfs -o size=6m tmpfs \"$DOSVC_STORE_CHILD\" || exit 77; exec \"$@\"",
            "sh",
        ])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("DOSVC_STORE_CHILD", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(output) = command.output() else {
        eprintln!("skipped: no unshare command");
        return;
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if output.status.code() == Some(77) || err.contains("unshare failed") {
        eprintln!("skipped: mounting a small file system takes root: {err}");
        return;
    }
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
}

#[test]
fn child_full_disk() {
    let Some(dir) = child_dir() else { return };
    let sample = Sample::new(12, 16 << 20, 1 << 20);
    let store = open(&dir.join("state"));
    let content = sample.add(&store);
    let mut stored = Vec::new();
    let error = sample
        .lengths()
        .pieces()
        .find_map(
            |piece| match content.accept_piece(piece, sample.piece(piece)) {
                Ok(accepted) => {
                    assert_eq!(accepted, Accepted::Stored);
                    stored.push(piece);
                    None
                }
                Err(e) => Some(e),
            },
        )
        .expect("16 MiB do not fit on 6 MiB");
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert!(error.to_string().contains("no space left"));
    assert!(stored.len() >= 2);
    // What was had before is had, and serves.
    assert_eq!(content.have().ones().collect::<Vec<_>>(), stored);
    for &piece in &stored {
        assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
    }
    // With the disk still full the database may refuse; with some space again everything goes on.
    let _ = store.sync_all();
    let other = Sample::new(13, 64 << 10, 64 << 10);
    let _ = store.add(&other.hash_file, crate::rig::info());
    rustix::mount::mount_remount(&dir, rustix::mount::MountFlags::empty(), c"size=40m").unwrap();
    store.sync_all().unwrap();
    assert!(other.fill(&store).is_complete());
    assert!(sample.fill(&store).is_complete());
    rustix::mount::mount_remount(&dir, rustix::mount::MountFlags::empty(), c"size=20m").unwrap();
    // A copy does not fit beside it; a hard link does.
    let elsewhere = dir.join("out");
    content
        .deliver(
            &elsewhere,
            Deliver {
                progress: &mut Deliver::quiet(),
            },
        )
        .unwrap();
    drop((content, store));
    let store = open(&dir.join("state"));
    assert_eq!(sample.add(&store).have().count(), 16);
}

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    on_a_small_disk("faults::child_full_disk", dir.path());
}

#[test]
fn child_full_destination() {
    let Some(dir) = child_dir() else { return };
    let state = tempfile::tempdir().unwrap();
    let sample = Sample::new(14, 16 << 20, 1 << 20);
    let content = sample.fill(&open(state.path()));
    let dest = dir.join("file");
    fs::write(&dest, b"before").unwrap();
    let error = content
        .deliver(
            &dest,
            Deliver {
                progress: &mut Deliver::quiet(),
            },
        )
        .unwrap_err();
    assert!(
        matches!(&error, DeliverError::DiskFull { path } if *path == dest),
        "{error:?}"
    );
    assert_eq!(fs::read(&dest).unwrap(), b"before");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    rustix::mount::mount_remount(&dir, rustix::mount::MountFlags::RDONLY, c"").unwrap();
    let error = content
        .deliver(
            &dest,
            Deliver {
                progress: &mut Deliver::quiet(),
            },
        )
        .unwrap_err();
    assert!(matches!(&error, DeliverError::ReadOnly { .. }), "{error:?}");
}

#[test]
fn a_full_or_read_only_destination_is_a_clear_error_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    on_a_small_disk("faults::child_full_destination", dir.path());
}

#[test]
fn child_read_only_disk() {
    let Some(dir) = child_dir() else { return };
    let sample = Sample::new(15, 2 << 20, 64 << 10);
    let store = open(&dir.join("state"));
    let content = sample.add(&store);
    content
        .accept_piece(sample.nth(0), sample.piece(sample.nth(0)))
        .unwrap();
    drop((content, store));
    rustix::mount::mount_remount(&dir, rustix::mount::MountFlags::RDONLY, c"").unwrap();
    let error = Store::open(StoreConfig::new(dir.join("state"))).unwrap_err();
    assert!(
        matches!(&error, OpenError::Store(StoreError::ReadOnly { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("read-only"));
    let error = Store::open(StoreConfig::new(dir.join("other"))).unwrap_err();
    assert!(
        matches!(&error, OpenError::Store(StoreError::ReadOnly { .. })),
        "{error:?}"
    );
    rustix::mount::mount_remount(&dir, rustix::mount::MountFlags::empty(), c"").unwrap();
    assert_eq!(sample.add(&open(&dir.join("state"))).have().count(), 1);
}

#[test]
fn a_read_only_disk_is_a_clear_error_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    on_a_small_disk("faults::child_read_only_disk", dir.path());
}

#[test]
fn a_file_in_the_way_of_the_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    fs::write(&path, b"").unwrap();
    assert!(Store::open(StoreConfig::new(&path)).is_err());
    assert!(Store::open(StoreConfig::new(path.join("below"))).is_err());
}
