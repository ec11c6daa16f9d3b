//! Decisions at the size that the product must stand: 10^5 pieces, 10^3 peers. `cargo bench --bench picker`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dosvc_content::{Bitfield, PeerId, PieceLengths};
use dosvc_scheduler::{
    Command, Picker, Shelf, Shortlist, SourceId, SourceInfo, SourceKind, Swarm, SwarmConfig,
};
use std::{cell::RefCell, hint::black_box, time::Duration, time::Instant};

const PIECES: u32 = 100_000;
const PEERS: u32 = 1_000;

fn content() -> PieceLengths {
    PieceLengths::new(u64::from(PIECES) << 20, 1 << 20).expect("100 GB")
}

/// Peer `i` has the pieces that a cheap hash gives it: about `share` of 256 of them.
fn holding(i: u32, share: u32) -> Bitfield {
    let mut has = Bitfield::new(PIECES);
    for piece in content().pieces() {
        let hash = piece.get().wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b);
        if (hash.wrapping_mul(0xc2b2_ae35) >> 24) < share {
            has.insert(piece);
        }
    }
    has
}

fn picker(c: &mut Criterion) {
    let lengths = content();
    let mut picker = Picker::new(lengths, &Bitfield::full(PIECES), 1);
    for i in 0..PEERS {
        for piece in holding(i, 64).ones() {
            picker.add_holder(piece, false);
        }
    }
    for (name, share) in [("quarter", 64), ("few", 1)] {
        let has = holding(PEERS + 1, share);
        let mut list = Shortlist::default();
        c.bench_function(&format!("pick from a peer that has a {name}"), |b| {
            b.iter(|| {
                let piece = picker.pick(black_box(&has), &mut list).expect("something");
                picker.set_shelf(piece, Shelf::None);
                picker.set_shelf(piece, Shelf::Missing);
            });
        });
    }
    let piece = lengths.piece(77).expect("in range");
    c.bench_function("count one Have", |b| {
        b.iter(|| {
            picker.add_holder(black_box(piece), false);
            picker.remove_holder(piece);
        });
    });
}

fn swarm(now: Instant) -> Swarm {
    let id = PeerId::from_random([1; 16]);
    let mut swarm = Swarm::new(
        content(),
        Bitfield::new(PIECES),
        SwarmConfig::new(id, 1),
        now,
    );
    for i in 0..PEERS {
        let info = SourceInfo {
            kind: SourceKind::LanPeer,
            peer_id: None,
            extended: true,
            relays: false,
        };
        swarm.handle_source_added(SourceId(i), info, now);
        swarm.handle_bitfield(SourceId(i), holding(i, 64), now);
        swarm.handle_unchoked(SourceId(i), now);
    }
    while swarm.poll_command().is_some() {}
    swarm
}

/// One block through the whole core: it arrives, is verified and announced to 1 000 peers, the next one is asked for.
fn block(c: &mut Criterion) {
    let mut now = Instant::now();
    let fresh = |now| (swarm(now), Vec::new(), 0);
    let state = RefCell::new(fresh(now));
    let mut from = 0;
    c.bench_function("a block from one of 1000 peers, with 100000 pieces", |b| {
        b.iter_batched(
            || {
                let mut state = state.borrow_mut();
                // The end of a download is another thing.
                if state.2 > PIECES / 2 {
                    *state = fresh(Instant::now());
                }
            },
            |()| {
                let (swarm, asked, done) = &mut *state.borrow_mut();
                *done += 1;
                now += Duration::from_millis(1);
                let (source, block) = asked.pop().unwrap_or_else(|| {
                    from = (from + 1) % PEERS;
                    swarm.handle_choked(SourceId(from), now);
                    swarm.handle_unchoked(SourceId(from), now);
                    let mut all = std::iter::from_fn(|| swarm.poll_command());
                    all.find_map(|c| match c {
                        Command::Request { source, block } => Some((source, block)),
                        _ => None,
                    })
                    .expect("an unchoked peer is asked")
                });
                let _ = black_box(swarm.handle_block(source, block, now));
                swarm.handle_piece_verified(block.piece(), now);
                asked.clear();
                while let Some(command) = swarm.poll_command() {
                    if let Command::Request { source, block } = command {
                        asked.push((source, block));
                    }
                }
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, picker, block);
criterion_main!(benches);
