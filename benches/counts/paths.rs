//! The hot paths, each a closed loop at any size.

use bytes::Bytes;
use dosvc_content::{Bitfield, Block, PeerId, PieceHash, PieceIndex, PieceLengths, PiecesHashFile};
use dosvc_piece_store::{AddInfo, Store, StoreConfig};
use dosvc_scheduler::{
    Command, Picker, Shortlist, SourceId, SourceInfo, SourceKind, Swarm, SwarmConfig,
};
use dosvc_wire::{Connection, Extension, Header, Limits, Message, Payload, RawBlock};
use std::{
    hint::black_box,
    time::{Duration, Instant, SystemTime},
};

/// One hot path.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// The numbers at which it is measured, of what its name says.
    pub(crate) sizes: [u32; 2],
    /// Operations that are counted.
    pub(crate) times: u32,
    /// Units of work in one operation at this size: what `n` such units may cost n log n of.
    pub(crate) units: fn(u32) -> u32,
    /// Sets up and does the operation so often.
    pub(crate) run: fn(u32, u32),
}

const fn path(name: &'static str, sizes: [u32; 2], times: u32, run: fn(u32, u32)) -> Path {
    Path {
        name,
        sizes,
        times,
        units: |_| 1,
        run,
    }
}

/// The same with as many units as the size says.
const fn bulk(name: &'static str, sizes: [u32; 2], times: u32, run: fn(u32, u32)) -> Path {
    Path {
        name,
        sizes,
        times,
        units: |n| n,
        run,
    }
}

const SOURCES: [u32; 2] = [32, 512];
/// As many as there are unchoke slots, and about as many as a swarm takes.
const MANY_SOURCES: [u32; 2] = [64, 960];
const PIECES: [u32; 2] = [4096, 65_536];
/// Pieces of the contents whose sources are counted.
const FEW_PIECES: u32 = 8192;

pub(crate) static PATHS: [Path; 14] = [
    bulk(
        "a header, there and back (messages)",
        [64, 1024],
        100,
        headers,
    ),
    bulk(
        "a hash of a metainfo (hashes)",
        [1024, 16_384],
        20,
        metainfo,
    ),
    path("a piece's frame (KiB)", [64, 1024], 2000, frames),
    path(
        "a block over two connections (in flight)",
        [2, 64],
        2000,
        connections,
    ),
    bulk(
        "a bit: wire, count, iterate (pieces)",
        PIECES,
        20,
        bitfields,
    ),
    bulk(
        "a hash file's piece, read and verified (pieces)",
        [512, 8192],
        4,
        hash_file,
    ),
    path(
        "a pick from a peer with a quarter (pieces)",
        PIECES,
        500,
        picks,
    ),
    path("a Have counted (pieces)", PIECES, 2000, haves),
    path(
        "a Have in the scheduler (sources)",
        SOURCES,
        2000,
        haves_in_swarm,
    ),
    bulk(
        "a block's way, for each source (sources)",
        SOURCES,
        200,
        blocks,
    ),
    path("a block served (sources)", MANY_SOURCES, 500, serves),
    bulk("a source comes and goes (sources)", SOURCES, 4, sources),
    bulk("a scheduler for a piece (pieces)", PIECES, 4, swarms),
    path(
        "a block found for an upload (pieces)",
        [32, 512],
        500,
        lookups,
    ),
];

fn content(pieces: u32) -> PieceLengths {
    PieceLengths::new(u64::from(pieces) << 20, 1 << 20).expect("a sane content")
}

fn whole(lengths: &PieceLengths, piece: PieceIndex) -> Block {
    lengths.blocks(piece).next().expect("pieces have blocks")
}

/// All pieces, over and over.
fn round(lengths: &PieceLengths) -> impl Iterator<Item = PieceIndex> + '_ {
    std::iter::repeat(lengths).flat_map(PieceLengths::pieces)
}

/// Peer `i` has the pieces that a cheap hash gives it: about `share` of 256 of them.
fn holding(lengths: &PieceLengths, i: u32, share: u32) -> Bitfield {
    let mut has = Bitfield::new(lengths.piece_count());
    for piece in lengths.pieces() {
        let hash = piece.get().wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b);
        if (hash.wrapping_mul(0xc2b2_ae35) >> 24) < share {
            has.insert(piece);
        }
    }
    has
}

// Wire

fn headers(messages: u32, times: u32) {
    let mut out = Vec::with_capacity(17 * messages as usize);
    for _ in 0..times {
        out.clear();
        for piece in 0..messages {
            let (offset, length) = (0, 1 << 20);
            let block = RawBlock {
                piece,
                offset,
                length,
            };
            Header::Request(block).encode(&mut out);
        }
        let mut rest = black_box(&out[..]);
        while let Ok(Some((header, used))) = Header::decode(rest) {
            black_box(header);
            rest = &rest[used..];
        }
    }
}

fn metainfo(hashes: u32, times: u32) {
    let hash: [PieceHash; 1] = [[7; 32].into()];
    let message = Extension::Metainfo {
        content_length: 1 << 35,
        piece_size: 1 << 20,
        first: 0,
        hashes: hash.repeat(hashes as usize),
    };
    let mut payload = Vec::new();
    for _ in 0..times {
        payload.clear();
        message.encode(&mut payload);
        black_box(Extension::decode(black_box(&payload)).expect("just encoded"));
    }
}

/// The frame of a block is put before it and taken off; its bytes stay where they are.
fn frames(kib: u32, times: u32) {
    let mut frame = Vec::new();
    let (piece, offset) = (0, 0);
    let data = Bytes::from(vec![0; (kib as usize) << 10]);
    Message::Piece {
        piece,
        offset,
        data,
    }
    .encode(&mut frame);
    let frame = Bytes::from(frame);
    for _ in 0..times {
        let mut bytes = frame.clone();
        black_box(Message::decode(&mut bytes).expect("just encoded"));
    }
}

/// Request, header of the answer, its bytes: one end asks, the other answers, so many blocks in flight.
fn connections(in_flight: u32, times: u32) {
    let lengths = content(4096);
    let now = Instant::now();
    let mut ours = Connection::new(Some(lengths), Limits::default(), now);
    let mut theirs = Connection::new(Some(lengths), Limits::default(), now);
    theirs.unchoke();
    let mut bytes = Vec::new();
    let mut ask = round(&lengths);
    let mut exchange = |ours: &mut Connection, theirs: &mut Connection, block: Block| {
        assert!(ours.request(block), "one request for a piece");
        ours.poll_transmit(&mut bytes);
        ours.handle_sent(now, bytes.len());
        let (header, _) = Header::decode(&bytes)
            .expect("just encoded")
            .expect("whole");
        theirs.handle_header(now, header).expect("in order");
        bytes.clear();
    };
    theirs.poll_transmit(&mut Vec::new());
    ours.handle_header(now, Header::Unchoke).expect("in order");
    for piece in ask.by_ref().take(in_flight as usize) {
        exchange(&mut ours, &mut theirs, whole(&lengths, piece));
    }
    let mut answer = round(&lengths);
    let mut frame = Vec::new();
    for _ in 0..times {
        while let Some(event) = theirs.poll_event() {
            black_box(event);
        }
        let block = whole(&lengths, answer.next().expect("goes round"));
        assert!(theirs.accept_answer(block) && theirs.begin_answer(block));
        theirs.answer_part(block, 0, block.len(), &mut frame);
        theirs.handle_sent(now, frame.len() + block.len() as usize);
        theirs.end_answer(block);
        let (header, _) = Header::decode(&frame)
            .expect("just encoded")
            .expect("whole");
        let payload = ours.handle_header(now, header).expect("was asked for");
        let part = block.len();
        assert_eq!(payload, Payload::Block { block, part });
        ours.handle_received(now, frame.len() + block.len() as usize);
        frame.clear();
        exchange(
            &mut ours,
            &mut theirs,
            whole(&lengths, ask.next().expect("goes round")),
        );
    }
}

// Content

fn bitfields(pieces: u32, times: u32) {
    let field = holding(&content(pieces), 1, 64);
    for _ in 0..times {
        let bytes = black_box(&field).to_wire();
        let back = Bitfield::from_wire(pieces, black_box(&bytes)).expect("just encoded");
        assert_eq!(back.count(), field.count());
        black_box(back.ones().map(|p| u64::from(p.get())).sum::<u64>());
    }
}

fn hash_file(pieces: u32, times: u32) {
    let lengths = content(pieces);
    let hash = |piece: PieceIndex| PieceHash::of(&piece.get().to_be_bytes());
    let hashes: Vec<PieceHash> = lengths.pieces().map(hash).collect();
    let file = PiecesHashFile::new(lengths, hashes);
    let json = file.expect("consistent").to_json();
    for _ in 0..times {
        black_box(PiecesHashFile::from_json(black_box(&json)).expect("just written"));
    }
}

// Scheduler

fn picks(pieces: u32, times: u32) {
    let lengths = content(pieces);
    let mut picker = Picker::new(lengths, &Bitfield::full(pieces), 1);
    for i in 0..16 {
        for piece in holding(&lengths, i, 64).ones() {
            picker.add_holder(piece, false);
        }
    }
    let has = holding(&lengths, 99, 64);
    let mut list = Shortlist::default();
    for _ in 0..times {
        black_box(picker.pick(black_box(&has), &mut list));
    }
}

fn haves(pieces: u32, times: u32) {
    let lengths = content(pieces);
    let mut picker = Picker::new(lengths, &Bitfield::full(pieces), 1);
    for piece in round(&lengths).take(times as usize) {
        picker.add_holder(black_box(piece), false);
        picker.remove_holder(piece);
    }
}

/// A swarm of extended peers, each with a quarter of the pieces, that let us ask.
struct Crowd {
    swarm: Swarm,
    lengths: PieceLengths,
    now: Instant,
}

impl Crowd {
    fn new(sources: u32, have: Bitfield) -> Self {
        let lengths = content(FEW_PIECES);
        let now = Instant::now();
        let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        let mut crowd = Self {
            swarm: Swarm::new(lengths, have, config, now),
            lengths,
            now,
        };
        for i in 0..sources {
            crowd.add(i);
        }
        crowd.drain(|_| ());
        crowd
    }

    fn add(&mut self, i: u32) {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&i.to_be_bytes());
        let info = SourceInfo {
            kind: SourceKind::LanPeer,
            peer_id: Some(PeerId::from_random(id)),
            extended: true,
            relays: false,
        };
        let has = holding(&self.lengths, i, 64);
        self.swarm.handle_source_added(SourceId(i), info, self.now);
        self.swarm.handle_bitfield(SourceId(i), has, self.now);
        self.swarm.handle_unchoked(SourceId(i), self.now);
    }

    fn drain(&mut self, mut look: impl FnMut(Command)) {
        while let Some(command) = self.swarm.poll_command() {
            look(command);
        }
        black_box(self.swarm.poll_timeout());
    }
}

fn haves_in_swarm(sources: u32, times: u32) {
    let mut crowd = Crowd::new(sources, Bitfield::new(FEW_PIECES));
    let lacking: Vec<Vec<PieceIndex>> = (0..sources)
        .map(|i| holding(&crowd.lengths, i, 64).zeros().collect())
        .collect();
    for n in 0..times {
        let source = n % sources;
        let piece = lacking[source as usize][(n / sources) as usize];
        crowd.swarm.handle_have(SourceId(source), piece, crowd.now);
        crowd.drain(|command| drop(black_box(command)));
    }
}

/// Asked, begun, arrived, verified, announced to every source.
fn blocks(sources: u32, times: u32) {
    let mut crowd = Crowd::new(sources, Bitfield::new(FEW_PIECES));
    let mut asked = Vec::new();
    // Those that were asked at the start are asked no more.
    for i in 0..sources {
        crowd.swarm.handle_choked(SourceId(i), crowd.now);
    }
    crowd.drain(|command| drop(black_box(command)));
    for n in 0..times {
        crowd.now += Duration::from_millis(1);
        if asked.is_empty() {
            crowd
                .swarm
                .handle_unchoked(SourceId(n % sources), crowd.now);
        }
        let note = |command: Command| match command {
            Command::Request { source, block } => asked.push((source, block)),
            other => drop(black_box(other)),
        };
        crowd.drain(note);
        let (source, block) = asked.pop().expect("an unchoked peer is asked");
        crowd.swarm.handle_block_begun(source, block, crowd.now);
        let _ = black_box(crowd.swarm.handle_block(source, block, crowd.now));
        crowd.swarm.handle_piece_verified(block.piece(), crowd.now);
    }
}

/// Every source wants something and has requests queued; one is served, and asks for the next.
fn serves(sources: u32, times: u32) {
    const QUEUED: usize = 4;
    let mut crowd = Crowd::new(sources, Bitfield::full(FEW_PIECES));
    let lacking: Vec<Vec<PieceIndex>> = (0..sources)
        .map(|i| holding(&crowd.lengths, i, 64).zeros().collect())
        .collect();
    let mut next = vec![0; sources as usize];
    let mut serving = Vec::new();
    let mut unchoked = Vec::new();
    for i in 0..sources {
        crowd.swarm.handle_interested(SourceId(i), true, crowd.now);
    }
    crowd.drain(|command| match command {
        Command::Unchoke { source } => unchoked.push(source),
        other => drop(black_box(other)),
    });
    let mut ask = |crowd: &mut Crowd, source: SourceId| {
        let n = &mut next[source.0 as usize];
        let piece = lacking[source.0 as usize][*n];
        *n += 1;
        let block = whole(&crowd.lengths, piece);
        let answer = crowd.swarm.handle_request(source, block, crowd.now);
        answer.expect("unchoked, and we have everything");
    };
    for &source in &unchoked {
        (0..QUEUED).for_each(|_| ask(&mut crowd, source));
    }
    for _ in 0..times {
        crowd.now += Duration::from_millis(1);
        crowd.drain(|command| match command {
            Command::Serve { source, block } => serving.push((source, block)),
            other => drop(black_box(other)),
        });
        let (source, block) = serving.pop().expect("somebody is served");
        crowd.swarm.handle_served(source, block, crowd.now);
        ask(&mut crowd, source);
    }
}

fn sources(count: u32, times: u32) {
    let mut crowd = Crowd::new(0, Bitfield::new(FEW_PIECES));
    for _ in 0..times {
        (0..count).for_each(|i| crowd.add(i));
        for i in 0..count {
            crowd.swarm.handle_source_removed(SourceId(i), crowd.now);
        }
        crowd.drain(|command| drop(black_box(command)));
    }
}

fn swarms(pieces: u32, times: u32) {
    let lengths = content(pieces);
    let now = Instant::now();
    for _ in 0..times {
        let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        black_box(Swarm::new(lengths, holding(&lengths, 1, 64), config, now));
    }
}

// Store

fn lookups(pieces: u32, times: u32) {
    const PIECE: u64 = 1 << 16;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(StoreConfig::new(dir.path())).expect("a folder of its own");
    let data = vec![1; 1 << 16];
    let lengths = PieceLengths::new(u64::from(pieces) * PIECE, PIECE).expect("a sane content");
    let hashes = vec![PieceHash::of(&data); pieces as usize];
    let file = PiecesHashFile::new(lengths, hashes).expect("consistent");
    let info = AddInfo {
        urls: Vec::new(),
        content_id: None,
        now: SystemTime::now(),
    };
    let content = store.add(&file, info).expect("room");
    for piece in lengths.pieces() {
        content.accept_piece(piece, &data).expect("right");
    }
    for piece in round(&lengths).take(times as usize) {
        black_box(content.file_range(whole(&lengths, piece)).expect("checked"));
    }
}
