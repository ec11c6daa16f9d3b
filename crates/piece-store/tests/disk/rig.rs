//! Contents of known bytes, and stores to put them in.

use dosvc_content::{PieceHash, PieceIndex, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{Accepted, AddInfo, Content, OpenError, Store, StoreConfig};
use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// A content's bytes and hash file.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash_file: PiecesHashFile,
}

impl Sample {
    pub(crate) fn new(seed: u64, len: usize, piece_size: u32) -> Self {
        let mut random = Random(seed);
        let mut bytes: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        bytes.truncate(len);
        let lengths = PieceLengths::new(len as u64, piece_size.into()).unwrap();
        let hashes: Vec<_> = lengths
            .pieces()
            .map(|p| PieceHash::of(piece_of(&bytes, &lengths, p)))
            .collect();
        let hash_file = PiecesHashFile::new(lengths, hashes).unwrap();
        Self { bytes, hash_file }
    }

    pub(crate) fn lengths(&self) -> PieceLengths {
        self.hash_file.lengths()
    }

    pub(crate) fn piece(&self, piece: PieceIndex) -> &[u8] {
        piece_of(&self.bytes, &self.lengths(), piece)
    }

    /// The n-th piece's index.
    pub(crate) fn nth(&self, n: u32) -> PieceIndex {
        self.lengths().piece(n).unwrap()
    }

    pub(crate) fn add(&self, store: &Arc<Store>) -> Arc<Content> {
        store.add(&self.hash_file, info()).unwrap()
    }

    /// Adds the content and stores every piece.
    pub(crate) fn fill(&self, store: &Arc<Store>) -> Arc<Content> {
        let content = self.add(store);
        for piece in self.lengths().pieces() {
            let accepted = content.accept_piece(piece, self.piece(piece)).unwrap();
            assert_ne!(accepted, Accepted::BadHash);
        }
        content
    }
}

fn piece_of<'a>(bytes: &'a [u8], lengths: &PieceLengths, piece: PieceIndex) -> &'a [u8] {
    let at = usize::try_from(lengths.offset(piece)).unwrap();
    &bytes[at..at + lengths.len(piece) as usize]
}

pub(crate) fn info() -> AddInfo {
    AddInfo {
        urls: vec!["http://origin/file".into()],
        content_id: None,
        now: SystemTime::now(),
    }
}

/// A child that another test starts holds a copy of every lock of this process until it becomes its own program, so a
/// folder that was closed just now may seem to be in use for a moment.
pub(crate) fn open(dir: &Path) -> Arc<Store> {
    let started = Instant::now();
    loop {
        match Store::open(StoreConfig::new(dir)) {
            Err(OpenError::InUse { .. }) if started.elapsed() < Duration::from_secs(10) => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

/// SplitMix64: the same numbers for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// This test program again, running one test that does a child's work when it finds `DOSVC_STORE_CHILD` set.
pub(crate) fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("DOSVC_STORE_CHILD", dir);
    command
}

/// The folder a child is to work in; `None` in the parent.
pub(crate) fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os("DOSVC_STORE_CHILD").map(Into::into)
}
