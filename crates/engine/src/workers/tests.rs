use super::*;
use dosvc_content::{PieceHash, PieceIndex, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{AddInfo, Content, Store, StoreConfig};
use dosvc_wire::net::BlockPool;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;

#[tokio::test]
async fn no_more_run_at_once_than_may_and_all_are_done() {
    let pool = BlockPool::new(PIECE_BYTES, 1);
    let workers = Arc::new(Workers::new(NonZeroUsize::new(3), pool));
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

const PIECE_BYTES: usize = 1 << 16;
const BATCH: Batch = Batch {
    full: 8,
    worth_full: 6,
    worth: 4,
};

/// A content and buffers to fill with what comes of it.
struct Bench {
    content: Arc<Content>,
    pool: BlockPool,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(pieces: u32) -> Self {
        let piece_bytes = PIECE_BYTES as u64;
        let lengths =
            PieceLengths::new(u64::from(pieces) * piece_bytes, piece_bytes).expect("valid");
        let hashes: Vec<_> = (0..pieces).map(|n| PieceHash::of(&right(n))).collect();
        let hash_file = PiecesHashFile::new(lengths, hashes).expect("consistent");
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(StoreConfig::new(dir.path())).expect("opened");
        let info = AddInfo {
            urls: Vec::new(),
            content_id: None,
            now: SystemTime::now(),
        };
        Self {
            content: store.add(&hash_file, info).expect("added"),
            // One is left when all pieces are here.
            pool: BlockPool::new(PIECE_BYTES, pieces as usize + 1),
            _dir: dir,
        }
    }

    fn workers(&self, max: usize) -> Arc<Workers> {
        let pool = self.pool.clone();
        Arc::new(Workers::with_batches(NonZeroUsize::new(max), BATCH, pool))
    }

    /// All pieces, as they should be.
    async fn all_arrived(&self, done: &mpsc::Sender<(u32, Accepted)>) -> Vec<ArrivedPiece> {
        let mut pieces = Vec::new();
        for piece in self.content.lengths().pieces() {
            pieces.push(self.arrived(piece, &right(piece.get()), done).await);
        }
        pieces
    }

    /// A piece that has come in with these bytes; `done` hears its number and what became of it.
    async fn arrived(
        &self,
        piece: PieceIndex,
        bytes: &[u8],
        done: &mpsc::Sender<(u32, Accepted)>,
    ) -> ArrivedPiece {
        let mut data = self.pool.acquire(PIECE_BYTES).await;
        data.copy_from_slice(bytes);
        let done = done.clone();
        ArrivedPiece {
            arrival: Arrival {
                content: Arc::clone(&self.content),
                piece,
                bytes: data,
            },
            done: Box::new(move |accepted| {
                let accepted = accepted.expect("the disk works");
                done.blocking_send((piece.get(), accepted))
                    .expect("somebody counts");
            }),
        }
    }
}

fn right(n: u32) -> Vec<u8> {
    vec![n.to_le_bytes()[0]; PIECE_BYTES]
}

/// One of two threads is done while three pieces wait: it leaves them to the other, which takes them when it is done.
#[tokio::test]
async fn few_pieces_are_left_to_who_is_done_next() {
    let bench = Bench::new(3);
    let workers = bench.workers(2);
    let (done, mut results) = mpsc::channel(3);
    let start_one = || {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        workers.run(move || wait.recv().expect("told to end"));
        end
    };
    let (first, second) = (start_one(), start_one());
    for piece in bench.content.lengths().pieces() {
        let bytes = right(piece.get());
        workers.accept(bench.arrived(piece, &bytes, &done).await);
    }
    first.send(()).expect("it waits");
    while lock(&workers.state).running == 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lock(&workers.state).waiting.len(), 3);
    second.send(()).expect("it waits");
    for _ in 0..3 {
        let (_, accepted) = results.recv().await.expect("taken");
        assert_eq!(accepted, Accepted::Stored);
    }
    assert!(bench.content.is_complete());
}

/// A machine that has no processor to spare and on which pieces come fast.
fn make_busy(workers: &Workers) {
    let mut state = lock(&workers.state);
    let begin = Instant::now();
    for number in 0..100 {
        state
            .company
            .came(begin + Duration::from_millis(6) * number);
        state.company.worked(Duration::from_secs(1), Duration::ZERO);
    }
}

/// On a busy machine few pieces wait for more; nobody works meanwhile, and they are taken when no more come.
#[tokio::test]
async fn pieces_without_company_are_taken_after_a_while() {
    let bench = Bench::new(3);
    let workers = bench.workers(2);
    let (done, mut results) = mpsc::channel(3);
    let pieces = bench.all_arrived(&done).await;
    make_busy(&workers);
    for piece in pieces {
        workers.accept(piece);
    }
    {
        let state = lock(&workers.state);
        assert_eq!((state.running, state.waiting.len()), (0, 3));
    }
    for _ in 0..3 {
        let (_, accepted) = results.recv().await.expect("taken");
        assert_eq!(accepted, Accepted::Stored);
    }
}

/// Pieces of which a whole batch is here in no time.
fn make_fast(workers: &Workers) {
    let mut state = lock(&workers.state);
    let begin = Instant::now();
    for number in 0..100 {
        state.company.came(begin + Duration::from_millis(number));
    }
}

/// However fast pieces come, the last ones are not left alone.
#[tokio::test]
async fn pieces_that_come_fast_are_taken_when_no_more_come() {
    let bench = Bench::new(7);
    let workers = bench.workers(2);
    let (done, mut results) = mpsc::channel(7);
    let pieces = bench.all_arrived(&done).await;
    make_fast(&workers);
    for piece in pieces {
        workers.accept(piece);
    }
    {
        let state = lock(&workers.state);
        assert_eq!((state.running, state.waiting.len()), (0, 7));
    }
    drop(done);
    while results.recv().await.is_some() {}
    assert!(bench.content.is_complete());
}

/// Nothing more can come when there is no buffer for it.
#[tokio::test]
async fn pieces_that_come_fast_wait_for_nobody_when_they_have_all_buffers() {
    let bench = Bench::new(7);
    let workers = bench.workers(1);
    let (done, mut results) = mpsc::channel(7);
    let pieces = bench.all_arrived(&done).await;
    let _last = bench.pool.acquire(PIECE_BYTES).await;
    make_fast(&workers);
    for piece in pieces {
        workers.accept(piece);
    }
    {
        let state = lock(&workers.state);
        assert!(state.running == 1 || state.waiting.is_empty());
    }
    drop(done);
    while results.recv().await.is_some() {}
    assert!(bench.content.is_complete());
}

#[test]
fn a_few_more_than_half_a_batch_are_left_for_the_next() {
    let best = [1, 4, 5, 6, 8, 20].map(|waiting| BATCH.best_of(waiting));
    assert_eq!(best, [4, 4, 4, 8, 8, 8]);
}

/// On a busy machine, too, a whole batch waits for nothing, and neither do pieces behind which other work waits.
#[tokio::test]
async fn pieces_that_need_no_company_are_taken_at_once() {
    for other_work in [false, true] {
        let bench = Bench::new(if other_work { 3 } else { 8 });
        let workers = bench.workers(1);
        let (done, mut results) = mpsc::channel(8);
        let pieces = bench.all_arrived(&done).await;
        make_busy(&workers);
        for piece in pieces {
            workers.accept(piece);
        }
        if other_work {
            workers.run(|| {});
        }
        {
            let state = lock(&workers.state);
            assert!(state.running == 1 || state.waiting.is_empty());
        }
        drop(done);
        while results.recv().await.is_some() {}
        assert!(bench.content.is_complete());
    }
}

/// Pieces that wait behind other work are taken together: each gets its own verdict, and the work between them its turn.
#[tokio::test]
async fn pieces_that_wait_are_judged_one_by_one() {
    const PIECES: u32 = 21;
    let bench = Bench::new(PIECES);
    let workers = bench.workers(1);
    let (done, mut results) = mpsc::channel(100);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    workers.run(move || wait.recv().expect("told to go on"));
    for piece in bench.content.lengths().pieces() {
        let n = piece.get();
        let mut bytes = right(n);
        if n % 5 == 3 {
            bytes[77] ^= 1;
        }
        workers.accept(bench.arrived(piece, &bytes, &done).await);
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
    let lengths = bench.content.lengths();
    let bad = lengths.pieces().filter(|p| p.get() % 5 == 3);
    assert_eq!(
        bench.content.have().count(),
        PIECES - u32::try_from(bad.count()).expect("few")
    );
    // Every buffer comes back, or this would wait for ever.
    let mut buffers = Vec::new();
    for _ in 0..=PIECES {
        buffers.push(bench.pool.acquire(1).await);
    }
}
