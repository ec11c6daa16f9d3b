//! Whatever the world does, in any order: the invariants of the core hold, nothing is asked of a source that lacks it,
//! nothing is asked twice without cause, nothing is served that is not there or on its way, and what is on its way and
//! does not come is abandoned.

use dosvc_content::{Bitfield, Block, PeerId, PieceIndex, PieceLengths};
use dosvc_scheduler::{
    BlockUse, Command, FetchEnd, FetchId, Lead, SourceId, SourceInfo, SourceKind, Swarm,
    SwarmConfig,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const SOURCES: u32 = 6;

/// The world as the core's commands make it, checked at each of them.
struct World {
    lengths: PieceLengths,
    swarm: Swarm,
    now: Instant,
    has: BTreeMap<u32, BTreeSet<u32>>,
    choking: BTreeSet<u32>,
    asked: BTreeSet<(u32, Block)>,
    fetches: BTreeMap<FetchId, (u32, Vec<Block>)>,
    queued: BTreeSet<(u32, Block)>,
    serving: Vec<(u32, Block)>,
    /// Who offered us what, ever.
    offered: BTreeSet<(u32, u32)>,
    /// What we offered to whom.
    offers: Vec<(u32, PieceIndex)>,
    shown: BTreeSet<u32>,
    /// Pieces that were here and were not any more: what is served of them goes out.
    lost: BTreeSet<u32>,
}

impl World {
    fn new(pieces: u32, shift: u32, seed: u64) -> Self {
        let length = (u64::from(pieces) << shift) - 100;
        let lengths = PieceLengths::new(length, 1 << shift).expect("sane");
        let now = Instant::now();
        let config = SwarmConfig::new(PeerId::from_random([7; 16]), seed);
        Self {
            lengths,
            swarm: Swarm::new(lengths, Bitfield::new(pieces), config, now),
            now,
            has: BTreeMap::new(),
            choking: BTreeSet::new(),
            asked: BTreeSet::new(),
            fetches: BTreeMap::new(),
            queued: BTreeSet::new(),
            serving: Vec::new(),
            offered: BTreeSet::new(),
            offers: Vec::new(),
            shown: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }

    fn piece(&self, n: u32) -> PieceIndex {
        self.lengths
            .piece(n % self.lengths.piece_count())
            .expect("in range")
    }

    fn forget(&mut self, id: u32) {
        self.has.remove(&id);
        self.choking.remove(&id);
        self.shown.remove(&id);
        self.asked.retain(|(s, _)| *s != id);
        self.queued.retain(|(s, _)| *s != id);
        self.serving.retain(|(s, _)| *s != id);
        self.offered.retain(|(s, _)| *s != id);
        self.offers.retain(|(s, _)| *s != id);
        self.fetches.retain(|_, (s, _)| *s != id);
    }

    /// Carries out what the core decided, and judges it.
    fn obey(&mut self) {
        while let Some(command) = self.swarm.poll_command() {
            match command {
                Command::Request { source, block } => {
                    let piece = block.piece().get();
                    let offered = self.offered.contains(&(source.0, piece));
                    assert!(
                        self.has[&source.0].contains(&piece) || relays(source) && offered,
                        "asked for what it lacks"
                    );
                    assert!(!self.choking.contains(&source.0), "asked while choked");
                    assert!(
                        !self.swarm.have().has(block.piece()),
                        "asked for what is here"
                    );
                    assert!(
                        self.asked.insert((source.0, block)),
                        "asked twice of one source"
                    );
                    let copies = self.asked.iter().filter(|(_, b)| *b == block).count();
                    assert!(copies <= 2, "{copies} requests of one block");
                }
                Command::Cancel { source, block } => _ = self.asked.remove(&(source.0, block)),
                Command::Fetch {
                    source,
                    fetch,
                    first,
                    count,
                } => {
                    let pieces = (first.get()..first.get() + count).map(|p| self.piece(p));
                    let mut blocks: Vec<Block> =
                        pieces.flat_map(|p| self.lengths.blocks(p)).collect();
                    // Delivered from the back.
                    blocks.reverse();
                    assert!(
                        self.fetches.insert(fetch, (source.0, blocks)).is_none(),
                        "a fetch's name used twice"
                    );
                }
                Command::CancelFetch { fetch, .. } => _ = self.fetches.remove(&fetch),
                Command::ShowBitfield { source, pieces } => {
                    assert!(self.shown.insert(source.0), "two bitfields");
                    assert!(
                        !self.swarm.have().lacks_any_of(&pieces),
                        "shows what it lacks"
                    );
                }
                Command::ShowHave { piece, .. } => {
                    assert!(self.swarm.have().has(piece), "shows what it lacks")
                }
                Command::Serve { source, block } => {
                    assert!(
                        self.swarm.have().has(block.piece()),
                        "serves what is not verified"
                    );
                    assert!(
                        self.queued.remove(&(source.0, block)),
                        "serves what nobody asked for"
                    );
                    self.serving.push((source.0, block));
                }
                Command::Relay {
                    source,
                    block,
                    from,
                } => {
                    assert!(relays(source), "passed on to a plain peer");
                    assert!(!self.swarm.have().has(block.piece()), "it is here");
                    assert!(self.comes(block, from.0), "it comes from somewhere else");
                    assert!(
                        self.queued.remove(&(source.0, block)),
                        "serves what nobody asked for"
                    );
                    self.serving.push((source.0, block));
                }
                Command::Abandon { source, block } => {
                    assert!(relays(source), "abandons what a plain peer asked for");
                    let served = self.serving.iter().position(|s| *s == (source.0, block));
                    match served {
                        Some(at) => _ = self.serving.remove(at),
                        // Or a request that was just refused.
                        None => _ = self.queued.remove(&(source.0, block)),
                    }
                }
                Command::Offer { source, pieces, .. } => {
                    assert!(source.0.is_multiple_of(2), "an offer to a plain peer");
                    for piece in pieces {
                        assert!(
                            self.swarm.have().has(piece)
                                || relays(source) && !self.swarm.is_missing(piece),
                            "offers what it lacks"
                        );
                        assert!(
                            !self.has[&source.0].contains(&piece.get()),
                            "offers what the peer has"
                        );
                        self.offers.push((source.0, piece));
                    }
                }
                Command::Choke { source } => self.queued.retain(|(s, _)| *s != source.0),
                Command::Ban { source, .. } | Command::Disconnect { source, .. } => {
                    self.forget(source.0)
                }
                _ => {}
            }
        }
        self.swarm.check_invariants();
        for (to, block) in &self.serving {
            let piece = block.piece();
            assert!(
                self.lost.contains(&piece.get()) || !self.swarm.is_missing(piece),
                "{to} waits for the rest of {block:?}"
            );
        }
    }

    /// Whether the block is on its way from there, or is being checked.
    fn comes(&self, block: Block, from: u32) -> bool {
        let fetched =
            |(source, blocks): &(u32, Vec<Block>)| *source == from && blocks.contains(&block);
        self.asked.contains(&(from, block))
            || self.fetches.values().any(fetched)
            || self.swarm.is_checking(block.piece())
    }

    fn step(&mut self, op: u8, a: u32, b: u32) {
        let id = SourceId(a % SOURCES);
        let piece = self.piece(b);
        let known = self.has.contains_key(&id.0);
        let peer = id.0 > 1;
        match op {
            0 => self.add(id),
            1 if known && b.is_multiple_of(4) => {
                self.swarm.handle_source_removed(id, self.now);
                self.forget(id.0);
            }
            2 if known && peer => {
                let mut has = Bitfield::new(self.lengths.piece_count());
                for p in self
                    .lengths
                    .pieces()
                    .filter(|p| b == 0 || (p.get() ^ b).is_multiple_of(3))
                {
                    has.insert(p);
                }
                // Only the first message may be a bitfield; here it comes once, after Haves at most.
                if self.has[&id.0].is_empty() {
                    self.has
                        .insert(id.0, has.ones().map(PieceIndex::get).collect());
                    self.queued
                        .retain(|(s, k)| *s != id.0 || !has.has(k.piece()));
                    self.swarm.handle_bitfield(id, has, self.now);
                }
            }
            3 if known && peer => {
                if self.has.get_mut(&id.0).expect("known").insert(piece.get()) {
                    self.queued
                        .retain(|(s, k)| *s != id.0 || k.piece() != piece);
                }
                self.swarm.handle_have(id, piece, self.now);
            }
            4 if known && peer && b.is_multiple_of(4) => {
                self.choking.insert(id.0);
                self.asked.retain(|(s, _)| *s != id.0);
                self.swarm.handle_choked(id, self.now);
            }
            5 if known && peer => {
                self.choking.remove(&id.0);
                self.swarm.handle_unchoked(id, self.now);
            }
            6..=9 | 22..=27 => self.deliver(b),
            10 | 11 | 28 => self.deliver_http(b),
            12 if known && peer => {
                self.swarm
                    .handle_interested(id, b.is_multiple_of(2), self.now);
                self.queued
                    .retain(|(s, _)| *s != id.0 || b.is_multiple_of(2));
            }
            13 if known && peer => {
                self.request(id, piece);
            }
            32 | 33 => {
                if let Some((to, piece)) = self.offers.pop() {
                    self.request(SourceId(to), piece);
                }
            }
            14 => {
                if let Some((to, block)) = self.serving.pop() {
                    self.swarm.handle_served(SourceId(to), block, self.now);
                }
            }
            15 if known && peer => {
                self.swarm
                    .handle_fetching(id, &[piece], &[self.piece(b >> 8)], self.now)
            }
            29 if known && peer => {
                self.offered.insert((id.0, piece.get()));
                self.swarm
                    .handle_offer(id, &[piece], b.is_multiple_of(3), self.now)
            }
            30 if known && peer => {
                let hops = u8::try_from(b % 7).expect("few");
                let lead = (hops != 6).then(|| Lead {
                    rank: u64::from(b) << 48,
                    hops,
                });
                self.swarm.handle_lead(id, lead, self.now);
            }
            31 => {
                // What is asked for, or anything else.
                let (from, block) = match self
                    .nth_asked(b)
                    .filter(|(from, _)| relays(SourceId(*from)))
                {
                    Some(asked) => asked,
                    None => (id.0, self.lengths.blocks(piece).next().expect("a block")),
                };
                if relays(SourceId(from)) {
                    self.asked.remove(&(from, block));
                    self.swarm.handle_abandoned(SourceId(from), block, self.now);
                }
            }
            16 => self.end_fetch(b),
            17 if known && b.is_multiple_of(4) => {
                let until = (!b.is_multiple_of(5)).then(|| self.now + Duration::from_secs(1));
                self.swarm.handle_source_down(id, until, self.now);
            }
            18 => self.swarm.set_paused(b.is_multiple_of(8), self.now),
            19 if self.swarm.have().has(piece) => {
                self.lost.insert(piece.get());
                self.queued.retain(|(_, k)| k.piece() != piece);
                self.swarm.handle_piece_lost(piece, self.now);
            }
            20 => {
                if let Some((from, block)) = self.nth_asked(b) {
                    self.asked.remove(&(from, block));
                    self.has
                        .get_mut(&from)
                        .expect("known")
                        .remove(&block.piece().get());
                    self.asked
                        .retain(|(s, k)| *s != from || k.piece() != block.piece());
                    self.swarm
                        .handle_block_failed(SourceId(from), block, self.now);
                }
            }
            _ => {
                self.now += Duration::from_millis(u64::from(
                    a % if b.is_multiple_of(8) { 6000 } else { 200 },
                ));
                self.swarm.handle_timeout(self.now);
            }
        }
        self.obey();
    }

    fn request(&mut self, from: SourceId, piece: PieceIndex) {
        let block = self.lengths.blocks(piece).next().expect("a block");
        if self.swarm.handle_request(from, block, self.now).is_ok() {
            self.queued.insert((from.0, block));
        }
    }

    /// Some have everything, the others want it.
    fn begin(&mut self) {
        for id in (2..SOURCES).map(SourceId) {
            self.choking.remove(&id.0);
            self.swarm.handle_unchoked(id, self.now);
            if relays(id) {
                self.swarm.handle_interested(id, true, self.now);
            } else {
                let has = Bitfield::full(self.lengths.piece_count());
                let pieces = has.ones().map(PieceIndex::get).collect();
                self.has.insert(id.0, pieces);
                self.swarm.handle_bitfield(id, has, self.now);
            }
            self.obey();
        }
    }

    fn add(&mut self, id: SourceId) {
        if self.has.contains_key(&id.0) {
            return;
        }
        let kind = [SourceKind::Origin, SourceKind::CacheHost][..]
            .get(id.0 as usize)
            .copied();
        let info = SourceInfo {
            kind: kind.unwrap_or(SourceKind::LanPeer),
            peer_id: Some(PeerId::from([u8::try_from(id.0).expect("few"); 20])),
            extended: id.0.is_multiple_of(2),
            relays: relays(id),
        };
        self.has.insert(id.0, BTreeSet::new());
        self.choking.insert(id.0);
        self.swarm.handle_source_added(id, info, self.now);
    }

    fn nth_asked(&self, n: u32) -> Option<(u32, Block)> {
        let count = self.asked.len().max(1);
        self.asked.iter().nth(n as usize % count).copied()
    }

    fn deliver(&mut self, n: u32) {
        let Some((from, block)) = self.nth_asked(n) else {
            return;
        };
        self.now += Duration::from_millis(u64::from(n % 50));
        if n.is_multiple_of(3) {
            self.swarm
                .handle_block_begun(SourceId(from), block, self.now);
            self.obey();
            let here = block.len() / 2;
            self.now += Duration::from_millis(u64::from(n % 7));
            self.swarm.handle_progress(SourceId(from), here, self.now);
            self.swarm
                .handle_block_part(SourceId(from), block, here, self.now);
            self.obey();
            if n.is_multiple_of(2) {
                // The rest comes later, or never.
                return;
            }
        }
        self.asked.remove(&(from, block));
        self.take(from, block, n);
    }

    fn deliver_http(&mut self, n: u32) {
        let count = self.fetches.len().max(1);
        let Some((_, (from, blocks))) = self.fetches.iter_mut().nth(n as usize % count) else {
            return;
        };
        let from = *from;
        if let Some(&block) = blocks.last().filter(|_| n.is_multiple_of(3)) {
            let here = block.len() / 2;
            self.swarm.handle_progress(SourceId(from), here, self.now);
            self.swarm
                .handle_block_part(SourceId(from), block, here, self.now);
        } else if let Some(block) = blocks.pop() {
            self.take(from, block, n);
        }
    }

    fn take(&mut self, from: u32, block: Block, n: u32) {
        let answer = self.swarm.handle_block(SourceId(from), block, self.now);
        self.obey();
        if answer == BlockUse::Wanted && self.swarm.is_checking(block.piece()) {
            if n.is_multiple_of(11) {
                self.swarm.handle_piece_corrupt(block.piece(), self.now);
            } else {
                self.swarm.handle_piece_verified(block.piece(), self.now);
            }
        }
    }

    fn end_fetch(&mut self, n: u32) {
        let count = self.fetches.len().max(1);
        let Some(fetch) = self.fetches.keys().nth(n as usize % count).copied() else {
            return;
        };
        let (from, blocks) = self.fetches.remove(&fetch).expect("just seen");
        let retry_at = n
            .is_multiple_of(2)
            .then(|| self.now + Duration::from_secs(1));
        let end = if blocks.is_empty() {
            FetchEnd::Done
        } else {
            FetchEnd::Failed { retry_at }
        };
        self.swarm
            .handle_fetch_ended(SourceId(from), fetch, end, self.now);
    }
}

/// Whether the source passes on what arrives, and takes such.
fn relays(id: SourceId) -> bool {
    id.0 > 1 && id.0.is_multiple_of(2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_order_of_events_keeps_the_invariants(
        pieces in 1u32..40,
        large: bool,
        begun: bool,
        seed: u64,
        ops in proptest::collection::vec((0u8..38, any::<u32>(), any::<u32>()), 0..400),
    ) {
        let mut world = World::new(pieces, if large { 22 } else { 20 }, seed);
        for id in 0..SOURCES {
            world.add(SourceId(id));
            world.obey();
        }
        if begun {
            world.begin();
        }
        for (op, a, b) in ops {
            world.step(op, a, b);
        }
    }
}
