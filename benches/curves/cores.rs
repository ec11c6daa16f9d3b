//! Costs of the cores and of the store, without a daemon.

use crate::{Point, Result, status_kib};
use dosvc_content::{Bitfield, Block, PeerId, PieceHash, PieceIndex, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{AddInfo, Store, StoreConfig};
use dosvc_scheduler::{Command, SourceId, SourceInfo, SourceKind, Swarm, SwarmConfig};
use std::{
    collections::VecDeque,
    hint::black_box,
    process,
    time::{Duration, Instant, SystemTime},
};

const PIECE: u32 = 64 << 10;
/// Sources of a swarm whose pieces or requests are counted.
const SOURCES: u32 = 40;
/// Blocks over which a cost is measured.
const BLOCKS: u32 = 20_000;

/// A swarm with sources that have some of the pieces, in virtual time.
struct Fleet {
    swarm: Swarm,
    now: Instant,
    /// What was asked of whom, and when, oldest first.
    asked: VecDeque<(Instant, SourceId, Block)>,
}

impl Fleet {
    fn new(lengths: PieceLengths, depth: usize, share: u32) -> Self {
        let now = Instant::now();
        let mut config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        config.limits.requests_in_flight = depth;
        let have = Bitfield::new(lengths.piece_count());
        let mut fleet = Self {
            swarm: Swarm::new(lengths, have, config, now),
            now,
            asked: VecDeque::new(),
        };
        for i in 0..SOURCES {
            let info = SourceInfo {
                kind: SourceKind::LanPeer,
                peer_id: None,
                extended: true,
                relays: false,
            };
            let mut has = Bitfield::new(lengths.piece_count());
            for piece in lengths.pieces().filter(|p| (p.get() + i) % 4 < share) {
                has.insert(piece);
            }
            fleet.swarm.handle_source_added(SourceId(i), info, now);
            fleet.swarm.handle_bitfield(SourceId(i), has, now);
            fleet.swarm.handle_unchoked(SourceId(i), now);
        }
        fleet.drain();
        fleet
    }

    fn drain(&mut self) {
        while let Some(command) = self.swarm.poll_command() {
            if let Command::Request { source, block } = command {
                self.asked.push_back((self.now, source, block));
            }
        }
        black_box(self.swarm.poll_timeout());
    }

    /// The oldest request's block arrives so long after it was asked for, is verified and announced.
    fn block(&mut self, round_trip: Duration) -> Option<PieceIndex> {
        let (at, source, block) = self.asked.pop_front()?;
        self.now = self.now.max(at + round_trip);
        self.swarm.handle_block_begun(source, block, self.now);
        let _ = black_box(self.swarm.handle_block(source, block, self.now));
        self.swarm.handle_piece_verified(block.piece(), self.now);
        self.drain();
        Some(block.piece())
    }
}

/// `n` requests in flight to 40 sources that answer after a second.
pub(crate) fn in_flight(n: u32) -> Result<Point> {
    let lengths = PieceLengths::new(u64::from(BLOCKS + 40 * n) * u64::from(PIECE), PIECE.into())?;
    let mut fleet = Fleet::new(lengths, (n / SOURCES).max(1) as usize, 4);
    let round_trip = Duration::from_secs(1);
    // Pipelines grow by a tenth each round until the limit holds them.
    for _ in 0..30 * n {
        fleet.block(round_trip).ok_or("the pipeline ran dry")?;
    }
    let begun = Instant::now();
    let mut reached = 0;
    for _ in 0..BLOCKS {
        fleet.block(round_trip).ok_or("the pipeline ran dry")?;
        reached += fleet.asked.len();
    }
    let block = begun.elapsed() / BLOCKS;
    Ok(Point::from([
        (
            "requests in flight, mean".to_owned(),
            reached as f64 / f64::from(BLOCKS),
        ),
        ("a block's way, µs".to_owned(), micros(block)),
    ]))
}

/// One content of `n` pieces: its hash file, its scheduler, its place in the store.
pub(crate) fn pieces(n: u32) -> Result<Point> {
    let mut point = Point::new();
    let mut note = |name: &str, value: f64| _ = point.insert(name.to_owned(), value);
    let lengths = PieceLengths::new(u64::from(n) * u64::from(PIECE), PIECE.into())?;
    let data = vec![7; PIECE as usize];
    let hashes = vec![PieceHash::of(&data); n as usize];
    let json = PiecesHashFile::new(lengths, hashes)?.to_json();
    let (file, took) = timed(|| PiecesHashFile::from_json(&json));
    let file = file?;
    note("hash file read, ms", millis(took));
    drop(json);
    let begun = status_kib(process::id(), "VmRSS")?;
    let (mut fleet, took) = timed(|| Fleet::new(lengths, 64, 1));
    note("40 sources join, ms", millis(took));
    let memory = status_kib(process::id(), "VmRSS")? - begun;
    note("scheduler, bytes a piece", memory * 1024.0 / f64::from(n));
    let blocks = n.min(BLOCKS) / 2;
    let (done, took) = timed(|| {
        (0..blocks)
            .map_while(|_| fleet.block(Duration::from_millis(1)))
            .count()
    });
    note("a block's way, µs", micros(took) / done as f64);
    drop(fleet);
    store(&file, &data, &mut note)?;
    Ok(point)
}

fn store(file: &PiecesHashFile, data: &[u8], note: &mut impl FnMut(&str, f64)) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let open = || Store::open(StoreConfig::new(dir.path()));
    let store = open()?;
    let info = AddInfo {
        urls: Vec::new(),
        content_id: None,
        now: SystemTime::now(),
    };
    let (content, took) = timed(|| store.add(file, info));
    let content = content?;
    note("added to the store, ms", millis(took));
    // Every 50th piece, so that there is something to claim and many runs of data, and the disk stays small.
    for piece in file.lengths().pieces().filter(|p| p.get() % 50 == 0) {
        if piece.get() < 200_000 {
            content.accept_piece(piece, data)?;
        }
    }
    let (synced, took) = timed(|| store.sync_all());
    synced?;
    note("synced and claimed, ms", millis(took));
    let key = content.key();
    drop((content, store));
    let (store, took) = timed(open);
    let store = store?;
    note("store opened, ms", millis(took));
    let (content, took) = timed(|| store.content_by_key(&key));
    let content = content?.ok_or("it was just added")?;
    note("content opened, ms", millis(took));
    let (unclaimed, took) = timed(|| content.unclaimed());
    black_box(unclaimed?);
    note("unclaimed data looked for, ms", millis(took));
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
