use crate::rig::{Sample, info, open};
use dosvc_content::PiecesHashFile;
use dosvc_piece_store::{FileError, StoreError, hash_file_of, verify_file};
use std::{fs, os::unix::fs::FileExt as _};

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
