use crate::rig::{Sample, child_dir, info, open};
use dosvc_content::PiecesHashFile;
use dosvc_piece_store::{
    Deliver, FileError, LocalFile, Method, PieceCheck, Sharing, StoreError, hash_file_of,
    verify_file,
};
use std::{
    fs,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
            process::CommandExt as _,
        },
    },
    path::Path,
};

#[test]
fn a_file_is_hashed_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    for (len, piece_size) in [
        (0, 1 << 20),
        (1, 1 << 16),
        ((3 << 20) + 17, 1 << 20),
        (5 << 20, 1 << 24),
    ] {
        let sample = Sample::new(1, len, piece_size);
        fs::write(&path, &sample.bytes).unwrap();
        let mut done = 0;
        let made = hash_file_of(&path, piece_size, 4, &mut |n| done = n).unwrap();
        assert_eq!(made, sample.hash_file);
        assert_eq!(done, len as u64);
        assert_eq!(verify_file(&path, &made, 4, &mut |_| {}).unwrap(), []);
    }
}

#[test]
fn bad_pieces_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let sample = Sample::new(2, 1 << 20, 1 << 16);
    fs::write(&path, &sample.bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for n in [3u64, 15] {
        file.write_all_at(
            &[sample.bytes[usize::try_from(n << 16).unwrap()] ^ 1],
            n << 16,
        )
        .unwrap();
    }
    let bad = verify_file(&path, &sample.hash_file, 3, &mut |_| {}).unwrap();
    assert_eq!(bad, [sample.nth(3), sample.nth(15)]);
    file.set_len(100).unwrap();
    let cut = verify_file(&path, &sample.hash_file, 3, &mut |_| {});
    assert!(matches!(cut, Err(FileError::WrongLength { got: 100, .. })));
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let sample = Sample::new(3, 1 << 20, 1 << 16);
    fs::write(&path, &sample.bytes).unwrap();
    let mut write_once = |_| fs::write(&path, &sample.bytes).unwrap();
    let result = hash_file_of(&path, 1 << 16, 1, &mut write_once);
    assert!(matches!(result, Err(FileError::Changed { .. })));
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let result = hash_file_of(dir.path(), 1 << 20, 1, &mut |_| {});
    assert!(matches!(result, Err(FileError::NotAFile { .. })));
    let result = hash_file_of(&dir.path().join("none"), 1 << 20, 1, &mut |_| {});
    assert!(matches!(result, Err(FileError::Io { .. })));
    fs::write(dir.path().join("file"), b"x").unwrap();
    let result = hash_file_of(&dir.path().join("file"), 1000, 1, &mut |_| {});
    assert!(matches!(result, Err(FileError::HashFile(_))));
}

#[test]
fn a_local_file_becomes_complete_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let store = open(&dir.path().join("state"));
    for (seed, len) in [(4, 0), (5, (3 << 20) + 1)] {
        let sample = Sample::new(seed, len, 1 << 20);
        fs::write(&path, &sample.bytes).unwrap();
        let content = store
            .import(&path, &sample.hash_file, info(), &mut |_| {})
            .unwrap();
        assert!(content.is_complete());
        for block in sample
            .lengths()
            .pieces()
            .flat_map(|p| sample.lengths().blocks(p))
        {
            content.file_range(block).unwrap();
        }
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn imported_content_does_not_write_into_the_callers_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(6, 1 << 20, 1 << 16);
    fs::write(&path, &sample.bytes).unwrap();
    let content = store
        .import(&path, &sample.hash_file, info(), &mut |_| {})
        .unwrap();
    fs::write(&path, b"mine").unwrap();
    for piece in sample.lengths().pieces() {
        content.check_piece(piece).unwrap();
        content.accept_piece(piece, sample.piece(piece)).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert!(content.is_complete());
}

/// The owner goes on working with an imported file: nothing of that reaches the cache, or what the cache hands over.
#[test]
fn what_is_done_to_an_imported_file_does_not_reach_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("file"), dir.path().join("out"));
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(8, 1 << 20, 1 << 16);
    fs::write(&path, &sample.bytes).unwrap();
    let content = store
        .import(&path, &sample.hash_file, info(), &mut |_| {})
        .unwrap();
    let owner = fs::OpenOptions::new().write(true).open(&path).unwrap();
    owner.write_all_at(b"edited", 100).unwrap();
    for piece in sample.lengths().pieces() {
        assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
    }
    let quiet = Deliver {
        progress: &mut Deliver::quiet(),
    };
    content.deliver(&out, quiet).unwrap();
    assert_eq!(fs::read(&out).unwrap(), sample.bytes);
    assert_eq!(&fs::read(&path).unwrap()[100..106], b"edited");
}

#[test]
fn a_hard_link_is_made_on_request_only_and_a_later_output_is_no_third_name() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("file"), dir.path().join("out"));
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(9, 1 << 20, 1 << 16);
    fs::write(&path, &sample.bytes).unwrap();
    let file = fs::File::open(&path).unwrap();
    let import = |sharing| {
        let local = LocalFile {
            file: &file,
            name: &path,
            sharing,
        };
        let content = store
            .import_file(local, &sample.hash_file, info(), &mut |_| {})
            .unwrap();
        assert!(content.is_complete());
        content
    };
    let content = import(Sharing::Independent);
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    let key = content.key();
    drop(content);
    store.remove(&key, false).unwrap();
    let content = import(Sharing::HardLink);
    // On a file system with reflinks there is nothing left to ask for.
    let linked = file.metadata().unwrap().nlink() == 2;
    let quiet = Deliver {
        progress: &mut Deliver::quiet(),
    };
    let delivered = content.deliver(&out, quiet).unwrap();
    assert_ne!(delivered.method, Method::HardLink);
    let inode = |path| fs::metadata(path).unwrap().ino();
    assert_ne!(inode(&out), inode(&path));
    if linked {
        let owner = fs::OpenOptions::new().write(true).open(&path).unwrap();
        owner.write_all_at(b"edited", 100).unwrap();
        assert_eq!(
            content.check_piece(sample.nth(0)).unwrap(),
            PieceCheck::Lost
        );
    }
    assert_eq!(fs::read(&out).unwrap(), sample.bytes);
}

/// The daemon's user need not be able to open what it is given open.
#[test]
fn a_file_that_only_its_owner_may_open_is_imported_by_another_user() {
    /// `nobody` on every Linux.
    const NOBODY: u32 = 65_534;
    let sample = Sample::new(10, 1 << 20, 1 << 16);
    if let Some(dir) = child_dir() {
        let file = fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
        let by_name = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert!(by_name.is_err(), "the file can be opened anyway");
        let local = LocalFile {
            file: &file,
            name: Path::new("the file"),
            sharing: Sharing::HardLink,
        };
        let content = open(&dir.join("state"))
            .import_file(local, &sample.hash_file, info(), &mut |_| {})
            .unwrap();
        assert!(content.is_complete());
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, home) = (dir.path().join("file"), dir.path().join("home"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&path, &sample.bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    // The other user can't run this program where it lies.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = std::process::Command::new(&program)
        .args(["--exact", "--nocapture"])
        .arg("files::a_file_that_only_its_owner_may_open_is_imported_by_another_user")
        .env("DOSVC_STORE_CHILD", &home)
        .current_dir(&home)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(fs::File::open(&path).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_wrong_file_is_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let store = open(&dir.path().join("state"));
    let sample = Sample::new(7, 1 << 20, 1 << 16);
    let import = |bytes: &[u8], hash_file: &PiecesHashFile| {
        fs::write(&path, bytes).unwrap();
        store.import(&path, hash_file, info(), &mut |_| {})
    };
    let mut wrong = sample.bytes.clone();
    wrong[1 << 16] ^= 1;
    let result = import(&wrong, &sample.hash_file);
    assert!(matches!(
        result,
        Err(StoreError::NotTheContent { bad: 1, .. })
    ));
    assert!(import(&wrong[1..], &sample.hash_file).is_err());
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(fs::read(&path).unwrap(), &wrong[1..]);
    // What is had in part gets the rest.
    let content = sample.add(&store);
    content
        .accept_piece(sample.nth(0), sample.piece(sample.nth(0)))
        .unwrap();
    assert!(
        import(&sample.bytes, &sample.hash_file)
            .unwrap()
            .is_complete()
    );
}
