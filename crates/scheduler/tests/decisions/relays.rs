//! What is passed on while it arrives.

use super::offers::offers;
use super::*;

const MS: Duration = Duration::from_millis(1);
/// Of a block, as much as tells how fast it comes.
const PART: u32 = 64 << 10;

impl Small {
    /// A peer that has nothing yet, takes pieces while they arrive, and lets us ask.
    fn add_relaying(&mut self, id: u32) -> SourceId {
        self.add_relaying_with(id, Bitfield::new(PIECES))
    }

    /// The same with some pieces.
    fn add_relaying_with(&mut self, id: u32, has: Bitfield) -> SourceId {
        let info = SourceInfo {
            kind: SourceKind::LanPeer,
            peer_id: Some(PeerId::from_random([u8::try_from(id).expect("small"); 16])),
            extended: true,
            relays: true,
        };
        let id = SourceId(id);
        self.swarm.handle_source_added(id, info, self.now);
        self.swarm.handle_bitfield(id, has, self.now);
        self.swarm.handle_interested(id, true, self.now);
        self.swarm.handle_unchoked(id, self.now);
        id
    }

    /// A peer asks for what it was offered, and gets it while it arrives from there.
    fn assert_relays(&mut self, source: SourceId, block: Block, from: SourceId) {
        let asked = self.swarm.handle_request(source, block, self.now);
        asked.expect("just offered");
        let relay = Command::Relay {
            source,
            block,
            from,
        };
        assert!(self.commands().contains(&relay));
    }

    /// `part` more of the block comes within `time`; `here` with it.
    fn part(&mut self, from: SourceId, block: Block, part: u32, here: u32, time: Duration) {
        self.now += time;
        self.swarm.handle_progress(from, part, self.now);
        self.swarm.handle_block_part(from, block, here, self.now);
    }
}

fn requests(commands: &[Command]) -> Vec<(SourceId, Block)> {
    let of = commands.iter().filter_map(|c| match c {
        Command::Request { source, block } => Some((*source, *block)),
        _ => None,
    });
    of.collect()
}

fn declined(commands: &[Command], by: SourceId, block: Block) -> bool {
    commands.iter().any(|c| {
        matches!(c, Command::TellFetching { source, drop, .. }
            if *source == by && drop.contains(&block.piece()))
    })
}

/// A downloader to which the first part of a block has come from a holder, and whom of two that take what arrives it
/// was offered to, and the other one.
fn passing_on() -> (Small, SourceId, Block, [SourceId; 2]) {
    let mut small = Small::new(false, |_| {});
    let peers = [2, 3].map(|id| small.add_relaying(id));
    let giver = small.add_holder(1);
    let (_, block) = requests(&small.commands())[0];
    small.swarm.handle_block_begun(giver, block, small.now);
    small.part(giver, block, PART, PART, MS * 3);
    let offered = offers(&small.commands());
    let (to, piece) = offered[0];
    assert_eq!(piece, block.piece().get());
    let other = peers[usize::from(to == peers[0])];
    (small, giver, block, [to, other])
}

#[test]
fn a_piece_is_offered_and_sent_while_it_arrives() {
    let (mut small, giver, block, [peer, other]) = passing_on();
    small.assert_relays(peer, block, giver);
    small.swarm.check_invariants();
    let taken = small.swarm.handle_block(giver, block, small.now);
    assert_eq!(taken, BlockUse::Wanted);
    small.swarm.handle_piece_verified(block.piece(), small.now);
    small.swarm.handle_served(peer, block, small.now);
    assert_eq!(
        small.swarm.stats().uploaded,
        u64::from(block.len()),
        "once it is verified it goes out to its end"
    );
    // From now on it is a piece like any other.
    let asked = small.swarm.handle_request(other, block, small.now);
    asked.expect("it is here");
    let serve = Command::Serve {
        source: other,
        block,
    };
    assert!(small.commands().contains(&serve));
}

/// Whoever does not understand that a block may be abandoned gets none that could be, and nobody gets what it was not
/// offered.
#[test]
fn what_arrives_is_given_only_to_those_who_take_it_so_and_were_offered_it() {
    let mut small = Small::new(false, |_| {});
    let plain = [2, 3].map(|id| small.add(id, SourceKind::LanPeer, true));
    for id in plain {
        small.swarm.handle_interested(id, true, small.now);
    }
    let giver = small.add_holder(1);
    let (_, block) = requests(&small.commands())[0];
    small.swarm.handle_block_begun(giver, block, small.now);
    small.part(giver, block, PART, PART, MS * 3);
    assert_eq!(offers(&small.commands()), []);
    for id in plain {
        let asked = small.swarm.handle_request(id, block, small.now);
        assert_eq!(asked, Err(Refusal::NotHeld));
    }
    assert_eq!(small.commands(), []);

    let (mut small, _, block, _) = passing_on();
    let other = small.add_relaying(4);
    let commands = small.commands();
    assert_eq!(offers(&commands), [], "two are asked at once");
    let asked = small.swarm.handle_request(other, block, small.now);
    assert_eq!(asked, Err(Refusal::NotHeld));
    let abandon = Command::Abandon {
        source: other,
        block,
    };
    assert_eq!(small.commands(), [abandon]);
}

/// The peer has all but the end of it, and would wait for that for ever.
#[test]
fn what_will_not_come_after_all_is_abandoned() {
    type Change = fn(&mut Small, SourceId, Block);
    let changes: [(&str, Change); 5] = [
        ("wrong", |small, giver, block| {
            let taken = small.swarm.handle_block(giver, block, small.now);
            assert_eq!(taken, BlockUse::Wanted);
            small.swarm.handle_piece_corrupt(block.piece(), small.now);
        }),
        ("gone", |small, giver, _| {
            small.swarm.handle_source_removed(giver, small.now)
        }),
        ("choked", |small, giver, _| {
            small.swarm.handle_choked(giver, small.now)
        }),
        ("refused", |small, giver, block| {
            small.swarm.handle_block_failed(giver, block, small.now)
        }),
        ("paused", |small, _, _| {
            small.swarm.set_paused(true, small.now)
        }),
    ];
    for (what, change) in changes {
        let (mut small, giver, block, [peer, _]) = passing_on();
        let asked = small.swarm.handle_request(peer, block, small.now);
        asked.expect("just offered");
        small.commands();
        change(&mut small, giver, block);
        let commands = small.commands();
        let source = peer;
        let abandon = Command::Abandon { source, block };
        let times = commands.iter().filter(|c| **c == abandon).count();
        assert_eq!(times, 1, "{what}: {commands:?}");
        assert_eq!(small.swarm.activity().serving, 0, "{what}");
        small.swarm.check_invariants();
        // Who asks now hears the same.
        let asked = small.swarm.handle_request(peer, block, small.now);
        assert_eq!(asked, Err(Refusal::NotHeld), "{what}");
        assert!(small.commands().contains(&abandon), "{what}");
    }
}

/// Two senders' bytes in one block would leave nobody to blame.
#[test]
fn a_block_that_is_asked_of_another_too_is_abandoned() {
    let lengths = PieceLengths::new(u64::from(PIECES) << 20, 1 << 20).expect("as set up");
    let now = Instant::now();
    let mut have = Bitfield::full(PIECES);
    for piece in [0, 1] {
        have.remove(lengths.piece(piece).expect("as set up"));
    }
    let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
    let swarm = Swarm::new(lengths, have.clone(), config, now);
    let mut small = Small {
        swarm,
        lengths,
        now,
    };
    let peers = [3, 4].map(|id| small.add_relaying_with(id, have.clone()));
    for id in [1, 2] {
        small.add_holder(id);
    }
    let [block, quick] = [0, 1].map(|piece| small.block(piece));
    let asked = requests(&small.commands());
    let last = |of: Block| asked.iter().rfind(|(_, b)| *b == of).expect("asked for").0;
    let (giver, second) = (last(block), last(quick));
    assert_ne!(giver, second, "each gives one");
    small.swarm.handle_block_begun(giver, block, small.now);
    small.swarm.handle_block_begun(second, quick, small.now);
    small.now += MS * 40;
    let taken = small.swarm.handle_block(second, quick, small.now);
    assert_eq!(taken, BlockUse::Wanted);
    for id in peers {
        small.swarm.handle_have(id, quick.piece(), small.now);
    }
    small.swarm.handle_piece_verified(quick.piece(), small.now);
    small.commands();
    let half = block.len() / 2;
    small.part(giver, block, half, half, MS * 3);
    let offered = offers(&small.commands());
    let (peer, _) = *offered.last().expect("passed on");
    let taken = small.swarm.handle_request(peer, block, small.now);
    taken.expect("just offered");
    small.commands();
    // It stands still.
    let commands = small.wait(MS * 500);
    let again = requests(&commands);
    assert!(
        again.iter().any(|(from, b)| *from != giver && *b == block),
        "{commands:?}"
    );
    let source = peer;
    assert!(commands.contains(&Command::Abandon { source, block }));
    small.swarm.check_invariants();
}

#[test]
fn a_relaying_peers_offer_is_taken_before_it_has_the_piece() {
    let mut small = Small::new(false, |_| {});
    let relaying = small.add_relaying(1);
    let interested = Command::Interested {
        source: relaying,
        interested: true,
    };
    assert!(small.commands().contains(&interested));
    let plain = small.add_holder_of(2, 0);
    let [first, second] = [0, 1].map(|i| small.block(i));
    let lacking = [first.piece()];
    small.swarm.handle_offer(plain, &lacking, false, small.now);
    let commands = small.commands();
    assert!(declined(&commands, plain, first), "{commands:?}");
    small
        .swarm
        .handle_offer(relaying, &lacking, false, small.now);
    assert_eq!(requests(&small.commands()), [(relaying, first)]);
    small.swarm.check_invariants();
    // It is asked for what it offered and nothing else, however long nothing is offered.
    let commands = small.wait(Duration::from_secs(1));
    assert_eq!(requests(&commands), [], "{second:?} is not there");
}

#[test]
fn what_was_abandoned_is_missing_and_abandoned_in_turn() {
    let mut small = Small::new(false, |_| {});
    let [giver, peer, other] = [1, 2, 3].map(|id| small.add_relaying(id));
    let block = small.block(0);
    small
        .swarm
        .handle_offer(giver, &[block.piece()], false, small.now);
    small.swarm.handle_block_begun(giver, block, small.now);
    small.commands();
    small
        .swarm
        .handle_fetching(giver, &[block.piece()], &[], small.now);
    small.part(giver, block, PART, PART, MS * 3);
    let offered = offers(&small.commands());
    let (to, _) = offered[0];
    assert!([peer, other].contains(&to), "never back: {offered:?}");
    small
        .swarm
        .handle_request(to, block, small.now)
        .expect("just offered");
    small.commands();
    small.swarm.handle_abandoned(giver, block, small.now);
    let commands = small.commands();
    assert!(commands.contains(&Command::Abandon { source: to, block }));
    for id in [giver, peer, other] {
        assert!(declined(&commands, id, block), "{id}: {commands:?}");
    }
    assert!(small.swarm.is_missing(block.piece()));
    assert_eq!(small.swarm.stats().abandoned, 1);
    small.swarm.check_invariants();
}

/// It could keep us busy with parts of blocks that it never finishes.
#[test]
fn who_abandons_what_it_passes_on_is_not_believed_for_ever() {
    let mut small = Small::new(false, |_| {});
    let peer = small.add_relaying(1);
    let block = small.block(0);
    let mut taken = 0;
    for _ in 0..10 {
        small.commands();
        small
            .swarm
            .handle_offer(peer, &[block.piece()], false, small.now);
        let commands = small.commands();
        if requests(&commands).is_empty() {
            assert!(declined(&commands, peer, block));
            break;
        }
        taken += 1;
        small.swarm.handle_abandoned(peer, block, small.now);
    }
    assert_eq!(taken, 3);
    // What it has is taken all the same.
    small.swarm.handle_have(peer, block.piece(), small.now);
    small
        .swarm
        .handle_offer(peer, &[block.piece()], false, small.now);
    assert_eq!(requests(&small.commands()), [(peer, block)]);
}

/// It would be asked again at once, for ever, and nothing would ever come.
#[test]
fn who_abandons_what_it_has_is_left_alone_for_a_while() {
    let mut small = Small::new(false, |_| {});
    let peer = small.add_relaying_with(1, Bitfield::full(PIECES));
    let mut asked = 0;
    loop {
        let requests = requests(&small.commands());
        let Some((_, block)) = requests.first() else {
            break;
        };
        asked += 1;
        assert!(asked <= 3, "asked again");
        small.swarm.handle_abandoned(peer, *block, small.now);
    }
    assert_eq!(small.swarm.stats().demotions, 1);
    small.swarm.check_invariants();
    // It gets another chance.
    small.now += Duration::from_secs(6);
    small.swarm.handle_timeout(small.now);
    assert!(!requests(&small.commands()).is_empty());
}

#[test]
fn abandoning_what_is_not_asked_for_means_nothing() {
    let mut small = Small::new(false, |_| {});
    let peer = small.add_relaying(1);
    small.commands();
    for source in [peer, SourceId(99)] {
        let block = small.block(0);
        small.swarm.handle_abandoned(source, block, small.now);
        assert_eq!(small.commands(), []);
    }
    assert_eq!(small.swarm.stats().abandoned, 0);
}

/// A downloader whose uplink has sent this many pieces in 20 ms each: how much of one that takes 400 ms to come is here
/// when it is passed on.
fn passed_on_after(sent: u32) -> u32 {
    let mut small = Small::new(false, |_| {});
    for id in [2, 3] {
        small.add_relaying(id);
    }
    let giver = small.add_holder(1);
    let mut asked = requests(&small.commands());
    for _ in 0..sent {
        let (_, block) = asked.remove(0);
        small.now += MS * 400;
        let used = small.swarm.handle_block(giver, block, small.now);
        assert_eq!(used, BlockUse::Wanted);
        small.swarm.handle_piece_verified(block.piece(), small.now);
        let mut commands = small.commands();
        for (to, piece) in offers(&commands) {
            let block = small.block(piece);
            let taken = small.swarm.handle_request(to, block, small.now);
            taken.expect("just offered");
            small.now += MS * 20;
            small.swarm.handle_served(to, block, small.now);
            for id in [2, 3].map(SourceId) {
                small.swarm.handle_have(id, block.piece(), small.now);
            }
        }
        commands.extend(small.wait(MS * 100));
        asked.extend(requests(&commands));
    }
    let (_, block) = asked[0];
    small.swarm.handle_block_begun(giver, block, small.now);
    let mut here = 0;
    while offers(&small.commands()).is_empty() {
        assert!(here < block.len(), "never");
        here += PART;
        small.part(giver, block, PART, here, MS * 25);
    }
    here
}

/// Its receivers would take nothing else meanwhile. But where nobody has sent anything, nobody is slower than another, and
/// on slow links everybody would wait for the first piece to be whole at each step.
#[test]
fn what_comes_slower_than_it_could_go_out_is_passed_on_only_near_its_end() {
    let whole = 1 << 20;
    assert!(passed_on_after(4) > whole / 2);
    assert_eq!(passed_on_after(0), PART);
}

/// Blocks of several senders are never mixed in what is passed on.
#[test]
fn pieces_of_several_blocks_are_passed_on_when_they_are_verified() {
    let now = Instant::now();
    let lengths = PieceLengths::new(8 << 20, 4 << 20).expect("as set up");
    let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
    let swarm = Swarm::new(lengths, Bitfield::new(2), config, now);
    let mut small = Small {
        swarm,
        lengths,
        now,
    };
    for id in [2, 3] {
        small.add_relaying(id);
    }
    let giver = small.add(1, SourceKind::LanPeer, true);
    small.swarm.handle_bitfield(giver, Bitfield::full(2), now);
    small.swarm.handle_unchoked(giver, now);
    let (_, block) = requests(&small.commands())[0];
    small.swarm.handle_block_begun(giver, block, small.now);
    small.part(giver, block, PART, PART, MS * 3);
    assert_eq!(offers(&small.commands()), []);
}

#[test]
fn what_arrives_over_http_is_passed_on() {
    let mut small = Small::new(false, |c| c.discovery_grace = Duration::ZERO);
    let peers = [2, 3].map(|id| small.add_relaying(id));
    let origin = small.add(1, SourceKind::Origin, false);
    let fetched = |commands: Vec<Command>| {
        commands.into_iter().find_map(|c| match c {
            Command::Fetch { source, first, .. } if source == origin => Some(first.get()),
            _ => None,
        })
    };
    let mut first = fetched(small.commands());
    for _ in 0..50 {
        first = first.or_else(|| fetched(small.wait(MS * 100)));
    }
    let block = small.block(first.expect("somebody fetches in the end"));
    small.part(origin, block, PART, PART, MS * 3);
    let offered = offers(&small.commands());
    let (to, _) = offered[0];
    assert!(peers.contains(&to));
    small.assert_relays(to, block, origin);
}
