//! Power cuts: what was not synced may be on the disk or not, page by page.

use super::*;
use crate::{PieceCheck, StoreConfig};
use dosvc_content::{PieceHash, PieceIndex};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeMap, os::unix::fs::FileExt as _};

thread_local! {
    /// Data files as they were when they were last synced by this thread.
    static SYNCED: RefCell<BTreeMap<PathBuf, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Called by the store after each fdatasync of a data file.
pub(crate) fn note_data_sync(path: &Path) {
    if let Ok(bytes) = fs::read(path) {
        SYNCED.with_borrow_mut(|synced| synced.insert(path.to_path_buf(), bytes));
    }
}

const PIECE: usize = 64 << 10;
const PIECES: u32 = 10;
const PAGE: usize = 4 << 10;

fn bytes_of(piece: u32) -> Vec<u8> {
    (0..PIECE)
        .map(|i| (i as u64).wrapping_mul(u64::from(piece) + 3).to_le_bytes()[1] ^ 0x5a)
        .collect()
}

fn hash_file() -> PiecesHashFile {
    let lengths = PieceLengths::new(u64::from(PIECES) << 16, 1 << 16).unwrap();
    let hashes: Vec<_> = (0..PIECES).map(|p| PieceHash::of(&bytes_of(p))).collect();
    PiecesHashFile::new(lengths, hashes).unwrap()
}

fn add_info() -> AddInfo {
    AddInfo {
        urls: Vec::new(),
        content_id: None,
        now: SystemTime::now(),
    }
}

fn plain_key() -> PlainKey {
    PlainKey::of_url("http://h/plain")
}

fn open(dir: &Path) -> Arc<Store> {
    Store::open(StoreConfig::new(dir)).unwrap()
}

fn add_both(store: &Arc<Store>) -> [Arc<Content>; 2] {
    let hash_file = hash_file();
    let plain = store.add_plain(
        plain_key(),
        hash_file.lengths(),
        b"etag".to_vec(),
        add_info(),
    );
    [store.add(&hash_file, add_info()).unwrap(), plain.unwrap()]
}

#[derive(Clone, Debug)]
enum Step {
    /// Stores a piece of one of the two contents.
    Piece(usize, u32),
    /// Writes a block of rubbish into a piece, if it is missing.
    Rubbish(usize, u32),
    /// Stores a piece block by block.
    Blocks(usize, u32),
    Sync,
    /// Cuts the power; `commit`: whether the last commit reached the disk; the seed chooses the pages that did.
    Cut {
        commit: bool,
        seed: u64,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..2, 0..PIECES).prop_map(|(c, p)| Step::Piece(c, p)),
        1 => (0usize..2, 0..PIECES).prop_map(|(c, p)| Step::Rubbish(c, p)),
        1 => (0usize..2, 0..PIECES).prop_map(|(c, p)| Step::Blocks(c, p)),
        2 => Just(Step::Sync),
        2 => (any::<bool>(), any::<u64>()).prop_map(|(commit, seed)| Step::Cut { commit, seed }),
    ]
}

/// Writes to `to` what the disk holds after a power cut.
fn cut(from: &Path, to: &Path, database: &[u8], mut seed: u64) {
    fs::create_dir_all(to.join("cache")).unwrap();
    fs::write(to.join("state.redb"), database).unwrap();
    for entry in fs::read_dir(from.join("cache")).unwrap() {
        let (from, to) = (
            entry.as_ref().unwrap().path(),
            to.join("cache").join(entry.unwrap().file_name()),
        );
        fs::create_dir(&to).unwrap();
        if let Ok(hashes) = fs::read(from.join("hashes")) {
            fs::write(to.join("hashes"), hashes).unwrap();
        }
        let mut bytes = fs::read(from.join("data")).unwrap();
        let synced = SYNCED.with_borrow(|synced| synced.get(&from.join("data")).cloned());
        let synced = synced.unwrap_or_else(|| vec![0; bytes.len()]);
        for (new, old) in bytes.chunks_mut(PAGE).zip(synced.chunks(PAGE)) {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if seed >> 63 == 0 {
                new.copy_from_slice(old);
            }
        }
        fs::write(to.join("data"), bytes).unwrap();
    }
}

fn assert_right(content: &Content) {
    let lengths = content.lengths();
    for piece in content.have().ones() {
        let mut bytes = vec![0; PIECE];
        content
            .read_block(lengths.blocks(piece).next().unwrap(), &mut bytes)
            .unwrap();
        assert!(
            bytes == bytes_of(piece.get()),
            "piece {piece} is claimed and wrong"
        );
        assert_eq!(content.check_piece(piece).unwrap(), PieceCheck::Good);
    }
}

fn has_all(content: &Content, pieces: &[u32]) -> bool {
    pieces
        .iter()
        .all(|&p| content.have().has(content.lengths().piece(p).unwrap()))
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = open(&state);
    let contents = add_both(&store);
    let lengths = contents[0].lengths();
    let index = |p| -> PieceIndex { lengths.piece(p).unwrap() };
    // Pieces that a sync has reported as durable, at the last sync and at the one before.
    let mut durable: [[Vec<u32>; 2]; 2] = Default::default();
    let mut database = [fs::read(state.join("state.redb")).unwrap(), Vec::new()];
    database[1] = database[0].clone();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Piece(c, p) => {
                contents[c].accept_piece(index(p), &bytes_of(p)).unwrap();
            }
            Step::Rubbish(c, p) => {
                let block = lengths.block(p, 100, 7).unwrap();
                contents[c].accept_block(block, b"rubbish").unwrap();
            }
            Step::Blocks(c, p) => {
                let block = lengths.blocks(index(p)).next().unwrap();
                contents[c].accept_block(block, &bytes_of(p)).unwrap();
                contents[c].finish_piece(index(p)).unwrap();
            }
            Step::Sync => {
                store.sync_all().unwrap();
                let now = contents
                    .each_ref()
                    .map(|c| c.have().ones().map(PieceIndex::get).collect());
                durable = [now, std::mem::take(&mut durable[0])];
                database.swap(0, 1);
                database[0] = fs::read(state.join("state.redb")).unwrap();
            }
            Step::Cut { commit, seed } => {
                let after = dir.path().join(format!("after-{number}"));
                let which = usize::from(!commit);
                cut(&state, &after, &database[which], seed);
                let store = open(&after);
                let survivors = add_both(&store);
                for (content, durable) in survivors.iter().zip(&durable[which]) {
                    assert_right(content);
                    assert!(has_all(content, durable), "what was durable is there");
                    content.recover(&mut |_| {}).unwrap();
                    assert_right(content);
                }
                for content in &survivors {
                    for p in 0..PIECES {
                        content.accept_piece(index(p), &bytes_of(p)).unwrap();
                    }
                    assert!(content.is_complete());
                    assert_right(content);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_power_cut_makes_no_claim_false_and_loses_nothing_durable(steps in proptest::collection::vec(any_step(), 1..25)) {
        run(steps);
    }
}

/// Without hashes nothing tells old bytes from new ones after a crash. So when a change by somebody else has cost
/// plain content its pieces, the database must know before the first new piece is written.
#[test]
fn plain_content_that_was_changed_is_not_claimed_while_it_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = open(&state);
    let [_, plain] = add_both(&store);
    let index = |p| plain.lengths().piece(p).unwrap();
    for p in 0..5 {
        plain.accept_piece(index(p), &bytes_of(p)).unwrap();
    }
    store.sync_all().unwrap();
    let data = layout::data_path(&state.join("cache").join(plain.key().to_string()));
    let file = fs::OpenOptions::new().write(true).open(data).unwrap();
    file.write_all_at(b"somebody else", 70_000).unwrap();
    plain.accept_piece(index(7), &bytes_of(7)).unwrap();
    assert_eq!(plain.have().count(), 1);
    let after = dir.path().join("after");
    cut(
        &state,
        &after,
        &fs::read(state.join("state.redb")).unwrap(),
        1,
    );
    let [_, survivor] = add_both(&open(&after));
    assert!(survivor.have().is_empty());
}

#[test]
fn another_validator_withdraws_the_claim_before_new_bytes_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [_, plain] = add_both(&store);
    let (lengths, piece) = (plain.lengths(), plain.lengths().piece(2).unwrap());
    plain.accept_piece(piece, &bytes_of(2)).unwrap();
    drop(plain);
    let again = store
        .add_plain(plain_key(), lengths, b"other".to_vec(), add_info())
        .unwrap();
    assert!(again.have().is_empty());
    let (_, claimed) = store.ledger.load(&again.key()).unwrap().unwrap();
    assert!(claimed.is_empty());
}

#[test]
fn a_claim_is_committed_only_by_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [content, _] = add_both(&store);
    content
        .accept_piece(content.lengths().piece(0).unwrap(), &bytes_of(0))
        .unwrap();
    let claimed = || {
        store
            .ledger
            .load(&content.key())
            .unwrap()
            .unwrap()
            .1
            .count()
    };
    assert_eq!(claimed(), 0);
    store.sync_all().unwrap();
    assert_eq!(claimed(), 1);
}

/// After a failed fdatasync the kernel may call the next one a success though the pages are gone.
#[test]
fn a_failed_sync_costs_the_pieces_since_the_last_commit_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [content, _] = add_both(&store);
    let index = |p| content.lengths().piece(p).unwrap();
    content.accept_piece(index(0), &bytes_of(0)).unwrap();
    store.sync_all().unwrap();
    content.accept_piece(index(1), &bytes_of(1)).unwrap();
    content.inner().withdraw_unsynced();
    assert!(has_all(&content, &[0]) && !has_all(&content, &[1]));
    assert_eq!(store.bytes_on_disk(), PIECE as u64);
    content.accept_piece(index(1), &bytes_of(1)).unwrap();
    assert_right(&content);
}

/// A state folder whose cache lies elsewhere.
fn open_with_cache(dir: &Path, cache: &Path) -> Result<Arc<Store>, OpenError> {
    Store::open(StoreConfig {
        cache_dir: Some(cache.to_path_buf()),
        ..StoreConfig::new(dir)
    })
}

#[test]
fn cache_in_a_folder_of_its_own_takes_all_contents_and_survives_a_restart() {
    let (state, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for _ in 0..2 {
        let store = open_with_cache(state.path(), cache.path()).unwrap();
        let [content, _] = add_both(&store);
        let dir = cache.path().join(content.key().to_string());
        assert!(layout::data_path(&dir).exists());
        assert!(!layout::default_cache(state.path()).exists());
        assert_eq!(store.list().unwrap().len(), 2);
        assert_eq!(store.cache_dir(), cache.path());
    }
}

#[test]
fn cache_that_moves_leaves_what_it_had_and_knows_what_was_moved_for_it() {
    let (state, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(state.path());
    let [content, _] = add_both(&store);
    let (key, old) = (content.key(), layout::default_cache(state.path()));
    drop(content);
    store.set_pinned(&key, true, None).unwrap();
    drop(store);
    // One of the two is moved by whoever moves the cache; the other stays where it was.
    fs::rename(
        old.join(key.to_string()),
        cache.path().join(key.to_string()),
    )
    .unwrap();
    let store = open_with_cache(state.path(), cache.path()).unwrap();
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].key == key && listed[0].is_pinned(SystemTime::now()));
    assert_eq!(fs::read_dir(&old).unwrap().count(), 1, "left alone");
    drop(store);
    // Back again: what lay here is found, what went is forgotten.
    let store = open(state.path());
    assert!(store.list().unwrap().iter().all(|info| info.key != key));
}

#[test]
fn cache_folder_that_is_not_there_or_somebody_elses_is_refused() {
    let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let missing = cache.path().join("mount/cache");
    let refused = open_with_cache(state.path(), &missing);
    assert!(matches!(refused, Err(OpenError::NoCacheFolder { dir }) if dir == missing));
    assert!(!missing.exists());
    let _store = open_with_cache(state.path(), cache.path()).unwrap();
    let refused = open_with_cache(other.path(), cache.path());
    assert!(matches!(refused, Err(OpenError::InUse { dir, .. }) if dir == cache.path()));
}
