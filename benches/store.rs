//! What the store costs: taking pieces in, finding them again after a crash, checking and serving them.
//!
//! `cargo bench --bench store`; throughput is content bytes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros; a bench may panic"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dosvc_content::{PieceHash, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{Accepted, AddInfo, Arrival, Content, Store, StoreConfig, accept_pieces};
use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

const PIECES: u32 = 256;
const PIECE_BYTES: u64 = 1 << 20;

struct Rig {
    dir: tempfile::TempDir,
    piece: Vec<u8>,
    hash_file: PiecesHashFile,
}

impl Rig {
    fn new() -> Self {
        let piece: Vec<u8> = (0..PIECE_BYTES)
            .map(|i| (i * 7 % 251).to_le_bytes()[0])
            .collect();
        let lengths = PieceLengths::new(u64::from(PIECES) * PIECE_BYTES, PIECE_BYTES).unwrap();
        let hashes = vec![PieceHash::of(&piece); PIECES as usize];
        Self {
            dir: tempfile::tempdir().unwrap(),
            piece,
            hash_file: PiecesHashFile::new(lengths, hashes).unwrap(),
        }
    }

    fn add(&self) -> (Arc<Store>, Arc<Content>) {
        let store = Store::open(StoreConfig::new(self.dir.path())).unwrap();
        let info = AddInfo {
            urls: Vec::new(),
            content_id: None,
            now: SystemTime::now(),
        };
        let content = store.add(&self.hash_file, info).unwrap();
        (store, content)
    }

    /// The content, empty again.
    fn add_fresh(&self) -> (Arc<Store>, Arc<Content>) {
        let (store, content) = self.add();
        let key = content.key();
        drop(content);
        store.remove(&key, true).unwrap();
        drop(store);
        self.add()
    }

    fn fill(&self, store: &Store, content: &Content) {
        for piece in content.lengths().pieces() {
            content.accept_piece(piece, &self.piece).unwrap();
            store.sync_due(Instant::now()).unwrap();
        }
    }

    /// As [`Self::fill`], with as many pieces at a time as are hashed at once.
    fn fill_in_batches(&self, store: &Store, content: &Arc<Content>) {
        let pieces: Vec<_> = content.lengths().pieces().collect();
        for batch in pieces.chunks(PieceHash::at_once()) {
            let arrival = |&piece| Arrival {
                content: Arc::clone(content),
                piece,
                bytes: &self.piece,
            };
            accept_pieces(batch.iter().map(arrival).collect(), |_, accepted| {
                assert_eq!(accepted.unwrap(), Accepted::Stored);
            });
            store.sync_due(Instant::now()).unwrap();
        }
    }
}

fn store(c: &mut Criterion) {
    let rig = Rig::new();
    let mut group = c.benchmark_group("store");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(u64::from(PIECES) * PIECE_BYTES));
    group.bench_function("accept_piece 1 MiB x 256, syncs as they fall due", |b| {
        b.iter_batched(
            || rig.add_fresh(),
            |(store, content)| rig.fill(&store, &content),
            BatchSize::PerIteration,
        );
    });
    group.bench_function(
        "accept_pieces 1 MiB x 256, as many at a time as are hashed at once",
        |b| {
            b.iter_batched(
                || rig.add_fresh(),
                |(store, content)| rig.fill_in_batches(&store, &content),
                BatchSize::PerIteration,
            );
        },
    );
    group.bench_function("recover 256 MiB that no commit claims", |b| {
        b.iter_batched(
            || {
                let (store, content) = rig.add_fresh();
                rig.fill(&store, &content);
                drop((store, content));
                // What a lost database leaves.
                std::fs::remove_file(rig.dir.path().join("state.redb")).unwrap();
                rig.add()
            },
            |(store, content)| {
                assert_eq!(content.recover(&mut |_| {}).unwrap().found, PIECES);
                (store, content)
            },
            BatchSize::PerIteration,
        );
    });
    let (store, content) = rig.add_fresh();
    rig.fill(&store, &content);
    group.bench_function("check_piece 1 MiB x 256, one thread", |b| {
        b.iter(|| {
            for piece in content.lengths().pieces() {
                content.check_piece(piece).unwrap();
            }
        });
    });
    group.throughput(Throughput::Elements(PIECES.into()));
    group.bench_function("file_range x 256", |b| {
        b.iter(|| {
            for piece in content.lengths().pieces() {
                for block in content.lengths().blocks(piece) {
                    content.file_range(block).unwrap();
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
