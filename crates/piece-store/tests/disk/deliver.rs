use crate::rig::{Random, Sample, child, child_dir, open};
use dosvc_content::PiecesHashFile;
use dosvc_piece_store::{
    Accepted, Content, Deliver, DeliverError, Delivered, Durability, Method, PieceCheck,
    ServeError, place,
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

fn deliver(content: &Content, dest: &Path) -> Result<Delivered, DeliverError> {
    content.deliver(
        dest,
        Deliver {
            progress: &mut Deliver::quiet(),
        },
    )
}

/// Memory is another file system than the test folder's disk, so that neither reflink nor hard link can be.
fn other_file_system() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in("/dev/shm").ok()?;
    let here = fs::metadata(std::env::temp_dir()).ok()?.dev();
    let there = fs::metadata(dir.path()).ok()?.dev();
    if here == there {
        eprintln!("skipped: /dev/shm is not a file system of its own");
        return None;
    }
    Some(dir)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_arrives_whole_with_the_callers_owner_and_mode() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let store = open(&dir.path().join("state"));
    for (seed, len) in [(1, 0), (2, 1), (3, (3 << 20) + 5)] {
        let sample = Sample::new(seed, len, 1 << 20);
        let content = sample.fill(&store);
        let own = out.join("own");
        fs::write(&own, b"").unwrap();
        let dest = out.join("file");
        // The second time it replaces what is there, even if that is the same file already.
        for _ in 0..2 {
            let mut done = 0;
            content
                .deliver(
                    &dest,
                    Deliver {
                        progress: &mut |n| done = n,
                    },
                )
                .unwrap();
            assert_eq!(done, len as u64);
            assert_eq!(fs::read(&dest).unwrap(), sample.bytes);
            let (got, want) = (fs::metadata(&dest).unwrap(), fs::metadata(&own).unwrap());
            assert_eq!(
                (got.uid(), got.gid(), got.mode()),
                (want.uid(), want.gid(), want.mode())
            );
            assert_eq!(names(&out), ["file", "own"]);
        }
    }
}

#[test]
fn storage_is_shared_on_one_file_system_and_pieces_stay_servable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(4, 3 << 20, 1 << 20);
    let content = sample.fill(&store);
    let delivered = deliver(&content, &dir.path().join("file")).unwrap();
    assert_ne!(delivered.method, Method::Copy);
    for block in sample
        .lengths()
        .pieces()
        .flat_map(|p| sample.lengths().blocks(p))
    {
        content.file_range(block).unwrap();
    }
}

#[test]
fn a_copy_to_another_file_system_is_checked() {
    let Some(out) = other_file_system() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(5, (3 << 20) + 9, 1 << 20);
    let content = sample.fill(&store);
    let dest = out.path().join("file");
    assert_eq!(deliver(&content, &dest).unwrap().method, Method::Copy);
    assert_eq!(fs::read(&dest).unwrap(), sample.bytes);
    let file = content.open_for_delivery().unwrap();
    let len = sample.bytes.len() as u64;
    let unchecked = place(&file, len, None, &dest, Durability::Now, &mut |_| {}).unwrap();
    assert_eq!(unchecked.method, Method::Copy);
    assert_eq!(fs::read(&dest).unwrap(), sample.bytes);
    assert_eq!(names(out.path()), ["file"]);
}

#[test]
fn place_refuses_wrong_bytes_whichever_way_they_would_come() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(6, 3 << 20, 1 << 20);
    let mut wrong = sample.bytes.clone();
    wrong[2 << 20] ^= 1;
    let path = dir.path().join("content");
    fs::write(&path, &wrong).unwrap();
    let content = fs::File::open(&path).unwrap();
    let elsewhere = other_file_system();
    let folders = [Some(dir.path()), elsewhere.as_ref().map(|d| d.path())];
    let try_place = |hash_file: &PiecesHashFile, dest: &Path| {
        place(
            &content,
            wrong.len() as u64,
            Some(hash_file),
            dest,
            Durability::Now,
            &mut |_| {},
        )
    };
    for folder in folders.into_iter().flatten() {
        let dest = folder.join("file");
        fs::write(&dest, b"before").unwrap();
        match try_place(&sample.hash_file, &dest) {
            Err(DeliverError::Damaged { pieces }) => assert_eq!(pieces, [sample.nth(2)]),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(&dest).unwrap(), b"before");
        assert!(names(folder).iter().all(|n| n == "file" || n == "content"));
    }
    let right = Sample::new(6, (3 << 20) - 1, 1 << 20);
    let result = try_place(&right.hash_file, &dir.path().join("file"));
    assert!(matches!(result, Err(DeliverError::Changed)));
}

#[test]
fn impossible_destinations_are_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(7, 100 << 10, 1 << 20);
    let content = sample.add(&store);
    let dest = dir.path().join("file");
    assert!(matches!(
        deliver(&content, &dest),
        Err(DeliverError::Incomplete { missing: 1 })
    ));
    sample.fill(&store);
    let missing = dir.path().join("no/such/file");
    match deliver(&content, &missing) {
        Err(DeliverError::NoFolder { path }) => assert_eq!(path, dir.path().join("no/such")),
        other => panic!("{other:?}"),
    }
    for folder in [
        dir.path(),
        Path::new("/"),
        &dir.path().join("x/.."),
        &dir.path().join("x/"),
    ] {
        let result = deliver(&content, folder);
        assert!(
            matches!(result, Err(DeliverError::IsFolder { .. })),
            "{result:?}"
        );
    }
    fs::write(&dest, b"").unwrap();
    assert!(matches!(
        deliver(&content, &dest.join("x")),
        Err(DeliverError::NoFolder { .. })
    ));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    symlink(&pipe, dir.path().join("link-to-pipe")).unwrap();
    for special in [&pipe, &dir.path().join("link-to-pipe")] {
        assert!(matches!(
            deliver(&content, special),
            Err(DeliverError::NotAFile { .. })
        ));
        assert!(special.symlink_metadata().is_ok());
    }
}

#[test]
fn a_link_at_the_destination_is_replaced_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(8, 100 << 10, 1 << 20);
    let content = sample.fill(&store);
    let (target, dest) = (dir.path().join("target"), dir.path().join("file"));
    fs::write(&target, b"precious").unwrap();
    symlink(&target, &dest).unwrap();
    deliver(&content, &dest).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(dest.symlink_metadata().unwrap().is_file());
}

/// A hard link shares the file with its new owner, who may change it at any time afterwards.
#[test]
fn a_change_by_the_owner_is_noticed_before_anything_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(9, 1 << 20, 64 << 10);
    let content = sample.fill(&store);
    let dest = dir.path().join("file");
    if deliver(&content, &dest).unwrap().method != Method::HardLink {
        eprintln!("skipped: this file system has reflinks, so nothing is shared");
        return;
    }
    let block = |n| sample.lengths().block(n, 0, 100).unwrap();
    content.file_range(block(3)).unwrap();
    let owner = fs::OpenOptions::new().write(true).open(&dest).unwrap();
    owner.write_all_at(b"changed", 3 * (64 << 10)).unwrap();
    assert!(matches!(
        content.file_range(block(3)),
        Err(ServeError::Changed)
    ));
    assert!(matches!(
        content.file_range(block(5)),
        Err(ServeError::Unchecked)
    ));
    assert_eq!(
        content.check_piece(sample.nth(5)).unwrap(),
        PieceCheck::Good
    );
    content.file_range(block(5)).unwrap();
    assert_eq!(
        content.check_piece(sample.nth(3)).unwrap(),
        PieceCheck::Lost
    );
    assert!(!content.have().has(sample.nth(3)));
    // Fetched again, it goes into a file of our own: the owner's keeps the owner's bytes.
    let accepted = content
        .accept_piece(sample.nth(3), sample.piece(sample.nth(3)))
        .unwrap();
    assert_eq!(accepted, Accepted::Stored);
    let theirs = fs::read(&dest).unwrap();
    assert_eq!(&theirs[3 * (64 << 10)..][..7], b"changed");
    deliver(&content, &dir.path().join("again")).unwrap();
    assert_eq!(fs::read(dir.path().join("again")).unwrap(), sample.bytes);
    // The owner cuts the file: the rest is lost, and comes back whole.
    let again = fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("again"))
        .unwrap();
    again.set_len(5).unwrap();
    match deliver(&content, &dir.path().join("third")) {
        Err(DeliverError::Damaged { pieces }) => assert_eq!(pieces.len(), 16),
        other => panic!("{other:?}"),
    }
    sample.fill(&store);
    deliver(&content, &dir.path().join("third")).unwrap();
    assert_eq!(fs::read(dir.path().join("third")).unwrap(), sample.bytes);
    assert_eq!(fs::read(dir.path().join("again")).unwrap().len(), 5);
}

/// Hands over as `dosvc get` does beside the daemon: the store opens the file, another process places it.
fn hand_over(content: &Content, dest: &Path) -> Result<Delivered, DeliverError> {
    let file = content.open_for_delivery()?;
    let len = content.lengths().content_length();
    place(&file, len, None, dest, Durability::Now, &mut |_| {})
}

fn data_of(state: &Path, content: &Content) -> PathBuf {
    let folder = state.join("cache").join(content.key().to_string());
    folder.join("data")
}

/// The child gives the cache's file one name after the other until it is killed, and says so after the first.
#[test]
fn child_links() {
    /// Fewer than any file system allows.
    const LINKS_MAX: u32 = 30_000;
    let Some(dir) = child_dir() else { return };
    let data = PathBuf::from(std::env::var_os("DOSVC_STORE_OUT").unwrap());
    for n in 0..LINKS_MAX {
        fs::hard_link(&data, dir.join(n.to_string())).unwrap();
        if n == 0 {
            println!("\nlinked");
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    std::thread::park();
}

/// Two `get` of the same content at the same moment: one's hard link moved the ctime of the file that the other was
/// about to be handed, which passed for a change by somebody else, and that `get` failed.
#[test]
fn hand_overs_of_one_content_succeed_while_others_link_it_and_pieces_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let (out, links) = (dir.path().join("out"), dir.path().join("links"));
    fs::create_dir(&out).unwrap();
    fs::create_dir(&links).unwrap();
    let state = dir.path().join("state");
    let store = open(&state);
    let sample = Sample::new(14, 4 << 20, 64 << 10);
    let content = sample.fill(&store);
    let mut linker = child("deliver::child_links", &links)
        .env("DOSVC_STORE_OUT", data_of(&state, &content))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(linker.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|l| l == "linked"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (content, sample, done, out) = (&content, &sample, &done, &out);
        let server = scope.spawn(move || {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                for piece in sample.lengths().pieces() {
                    let block = sample.lengths().blocks(piece).next().unwrap();
                    match content.file_range(block) {
                        Ok(_) => served += 1,
                        // Two changes that cancel each other out take another look.
                        Err(ServeError::Changed | ServeError::Unchecked) => {
                            assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
            }
            served
        });
        let getters: Vec<_> = (0..8)
            .map(|getter| {
                scope.spawn(move || {
                    for round in 0..6 {
                        let dest = out.join(format!("{getter}-{round}"));
                        hand_over(content, &dest).unwrap();
                        assert!(fs::read(&dest).unwrap() == sample.bytes);
                    }
                })
            })
            .collect();
        let results: Vec<_> = getters.into_iter().map(|g| g.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(server.join().unwrap() > 0);
        assert!(results.iter().all(Result::is_ok), "a hand-over failed");
    });
    linker.kill().unwrap();
    linker.wait().unwrap();
}

#[test]
fn links_and_permissions_cost_no_second_look_and_a_renamed_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = open(&state);
    let sample = Sample::new(15, 1 << 20, 64 << 10);
    let content = sample.fill(&store);
    let block = sample.lengths().block(3, 0, 100).unwrap();
    let (data, link) = (data_of(&state, &content), dir.path().join("link"));
    fs::hard_link(&data, &link).unwrap();
    content.file_range(block).unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o640)).unwrap();
    content.file_range(block).unwrap();
    fs::remove_file(&link).unwrap();
    content.file_range(block).unwrap();
    // Between two looks both of this happened: nothing is left to explain the new ctime.
    fs::hard_link(&data, &link).unwrap();
    fs::remove_file(&link).unwrap();
    assert!(matches!(
        content.file_range(block),
        Err(ServeError::Changed)
    ));
    assert_eq!(
        content.check_piece(sample.nth(3)).unwrap(),
        PieceCheck::Good
    );
    content.file_range(block).unwrap();
}

/// Some editors keep the time of the file that they change in place.
#[test]
fn a_write_whose_mtime_was_set_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = open(&state);
    let sample = Sample::new(16, 1 << 20, 64 << 10);
    let content = sample.fill(&store);
    let data = data_of(&state, &content);
    let before = fs::metadata(&data).unwrap().modified().unwrap();
    let owner = fs::OpenOptions::new().write(true).open(&data).unwrap();
    owner.write_all_at(b"changed", 3 * (64 << 10)).unwrap();
    owner.set_modified(before).unwrap();
    let block = sample.lengths().block(3, 0, 100).unwrap();
    assert!(matches!(
        content.file_range(block),
        Err(ServeError::Changed)
    ));
    match hand_over(&content, &dir.path().join("file")) {
        Err(DeliverError::Damaged { pieces }) => assert_eq!(pieces, [sample.nth(3)]),
        other => panic!("{other:?}"),
    }
}

/// Whoever edits a file in place changes every other name of it.
#[test]
fn files_handed_over_to_two_places_are_never_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(17, 1 << 20, 64 << 10);
    for _ in 0..20 {
        let content = sample.fill(&store);
        let out = tempfile::tempdir_in(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for getter in 0..4 {
                let (content, dest) = (&content, out.path().join(getter.to_string()));
                scope.spawn(move || hand_over(content, &dest).unwrap());
            }
        });
        let mut inodes: Vec<_> = (0..4)
            .map(|getter: u32| fs::metadata(out.path().join(getter.to_string())).unwrap())
            .map(|stat| stat.ino())
            .collect();
        inodes.sort_unstable();
        inodes.dedup();
        assert_eq!(inodes.len(), 4);
        let key = content.key();
        drop(content);
        store.remove(&key, false).unwrap();
    }
}

#[test]
fn a_change_while_the_store_was_closed_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let sample = Sample::new(10, 1 << 20, 64 << 10);
    let dest = dir.path().join("file");
    let method = deliver(&sample.fill(&open(&state)), &dest).unwrap().method;
    fs::write(&dest, b"short").unwrap();
    let store = open(&state);
    let content = sample.add(&store);
    let mut at = [0; 10];
    let read = content.read_block(sample.lengths().block(2, 0, 10).unwrap(), &mut at);
    assert_eq!(read.is_err(), method == Method::HardLink);
    assert_eq!(
        content.have().has(sample.nth(2)),
        method != Method::HardLink
    );
}

#[test]
fn no_mode_of_the_callers_opens_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let sample = Sample::new(11, 10, 64 << 10);
    deliver(&sample.fill(&open(&state)), &dir.path().join("file")).unwrap();
    let mode = fs::metadata(state.join("cache"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0);
}

/// The child hands a file over to another file system again and again, until it is killed.
#[test]
fn child_delivers() {
    let Some(dir) = child_dir() else { return };
    let sample = Sample::new(12, 24 << 20, 1 << 20);
    let store = open(&dir.join("state"));
    let content = sample.fill(&store);
    let dest = PathBuf::from(std::env::var_os("DOSVC_STORE_OUT").unwrap()).join("file");
    loop {
        println!("\nround");
        deliver(&content, &dest).unwrap();
    }
}

#[test]
fn a_kill_in_the_middle_leaves_no_half_file() {
    let Some(out) = other_file_system() else {
        return;
    };
    let sample = Sample::new(12, 24 << 20, 1 << 20);
    let mut random = Random(13);
    for _ in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let mut running = child("deliver::child_delivers", dir.path())
            .env("DOSVC_STORE_OUT", out.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        let rounds = usize::try_from(1 + random.below(2)).unwrap();
        // The pipe stays open until the child is gone: it must not end by itself.
        let seen = lines
            .by_ref()
            .map_while(Result::ok)
            .filter(|l| l == "round")
            .take(rounds)
            .count();
        assert_eq!(seen, rounds, "the child ended by itself");
        // Anywhere within a round; which of its steps does not matter, all of them must be safe.
        std::thread::sleep(Duration::from_millis(random.below(30)));
        running.kill().unwrap();
        running.wait().unwrap();
        drop(lines);
        for name in names(out.path()) {
            assert_eq!(
                fs::read(out.path().join(&name)).unwrap(),
                sample.bytes,
                "{name}"
            );
            fs::remove_file(out.path().join(&name)).unwrap();
        }
    }
}
