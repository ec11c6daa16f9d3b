use super::*;
use dosvc_content::{PieceHash, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{AddInfo, Store, StoreConfig};
use dosvc_wire::net::BlockPool;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;

#[tokio::test]
async fn no_more_run_at_once_than_may_and_all_are_done() {
    let workers = Arc::new(Workers::new(NonZeroUsize::new(3)));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (done, mut all_done) = mpsc::channel(1000);
    for n in 0..200 {
        let (running, most, done) = (running.clone(), most.clone(), done.clone());
        workers.run(move || {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            thread::sleep(Duration::from_micros(200));
            running.fetch_sub(1, Ordering::SeqCst);
            done.blocking_send(n).expect("somebody counts");
            assert!(n != 50, "work may panic");
        });
    }
    drop(done);
    let mut count = 0;
    while all_done.recv().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 200);
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

/// Pieces that wait behind other work are taken together: each gets its own verdict, and the work between them its turn.
#[tokio::test]
async fn pieces_that_wait_are_judged_one_by_one() {
    const PIECES: u32 = 21;
    const PIECE_BYTES: u64 = 1 << 16;
    let right = |n: u32| vec![n.to_le_bytes()[0]; 1 << 16];
    let lengths = PieceLengths::new(u64::from(PIECES) * PIECE_BYTES, PIECE_BYTES).expect("valid");
    let hashes: Vec<_> = (0..PIECES).map(|n| PieceHash::of(&right(n))).collect();
    let hash_file = PiecesHashFile::new(lengths, hashes).expect("consistent");
    let dir = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(StoreConfig::new(dir.path())).expect("opened");
    let info = AddInfo {
        urls: Vec::new(),
        content_id: None,
        now: SystemTime::now(),
    };
    let content = store.add(&hash_file, info).expect("added");
    let pool = BlockPool::new(1 << 16, PIECES as usize);
    let workers = Arc::new(Workers::with_batches(
        NonZeroUsize::new(1),
        Batch { full: 8, worth: 6 },
    ));
    let (done, mut results) = mpsc::channel(100);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    workers.run(move || wait.recv().expect("told to go on"));
    for piece in lengths.pieces() {
        let n = piece.get();
        let mut data = pool.acquire(1 << 16).await;
        data.copy_from_slice(&right(n));
        if n % 5 == 3 {
            data[77] ^= 1;
        }
        let results = done.clone();
        workers.accept(ArrivedPiece {
            arrival: Arrival {
                content: Arc::clone(&content),
                piece,
                bytes: data,
            },
            done: Box::new(move |accepted| {
                results
                    .blocking_send((n, accepted.expect("the disk works")))
                    .expect("somebody counts");
            }),
        });
        if n == 10 {
            workers.run(|| panic!("work may panic"));
        }
    }
    drop(done);
    go.send(()).expect("somebody waits");
    let mut seen = 0;
    while let Some((n, accepted)) = results.recv().await {
        seen += 1;
        let want = if n % 5 == 3 {
            Accepted::BadHash
        } else {
            Accepted::Stored
        };
        assert_eq!(accepted, want, "piece {n}");
    }
    assert_eq!(seen, PIECES);
    let bad = lengths.pieces().filter(|p| p.get() % 5 == 3);
    assert_eq!(
        content.have().count(),
        PIECES - u32::try_from(bad.count()).expect("few")
    );
    // Every buffer comes back, or this would wait for ever.
    let mut buffers = Vec::new();
    for _ in 0..PIECES {
        buffers.push(pool.acquire(1).await);
    }
}
