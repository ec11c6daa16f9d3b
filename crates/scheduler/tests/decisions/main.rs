//! Single decisions, each in the smallest swarm that shows it.

use dosvc_content::{Bitfield, Block, PeerId, PieceLengths};
use dosvc_scheduler::{
    BlockUse, Command, FetchEnd, FetchId, Giving, Lead, Refusal, SourceId, SourceInfo, SourceKind,
    SourceState, Swarm, SwarmConfig, Waiting,
};
use std::time::{Duration, Instant};

mod http;
mod offers;
mod relays;

const PIECES: u32 = 8;

struct Small {
    swarm: Swarm,
    lengths: PieceLengths,
    now: Instant,
}

impl Small {
    fn new(full: bool, change: impl FnOnce(&mut SwarmConfig)) -> Self {
        let lengths = PieceLengths::new(u64::from(PIECES) << 20, 1 << 20).expect("as set up");
        let mut config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        change(&mut config);
        let have = if full {
            Bitfield::full(PIECES)
        } else {
            Bitfield::new(PIECES)
        };
        let now = Instant::now();
        let swarm = Swarm::new(lengths, have, config, now);
        Self {
            swarm,
            lengths,
            now,
        }
    }

    fn add(&mut self, id: u32, kind: SourceKind, extended: bool) -> SourceId {
        let peer_id = kind
            .is_peer()
            .then(|| PeerId::from_random([u8::try_from(id).expect("as set up"); 16]));
        let info = SourceInfo {
            kind,
            peer_id,
            extended,
            relays: false,
        };
        self.swarm.handle_source_added(SourceId(id), info, self.now);
        SourceId(id)
    }

    /// A peer that has everything and lets us ask.
    fn add_holder(&mut self, id: u32) -> SourceId {
        let id = self.add(id, SourceKind::LanPeer, true);
        self.swarm
            .handle_bitfield(id, Bitfield::full(PIECES), self.now);
        self.swarm.handle_unchoked(id, self.now);
        id
    }

    /// A peer that has the first pieces and lets us ask.
    fn add_holder_of(&mut self, id: u32, pieces: u32) -> SourceId {
        let id = self.add(id, SourceKind::LanPeer, true);
        let mut has = Bitfield::new(PIECES);
        for piece in self.lengths.pieces().take(pieces as usize) {
            has.insert(piece);
        }
        self.swarm.handle_bitfield(id, has, self.now);
        self.swarm.handle_unchoked(id, self.now);
        id
    }

    fn block(&self, piece: u32) -> Block {
        let piece = self.lengths.piece(piece).expect("as set up");
        self.lengths.blocks(piece).next().expect("as set up")
    }

    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.swarm.poll_command()).collect()
    }

    fn wait(&mut self, time: Duration) -> Vec<Command> {
        let end = self.now + time;
        let mut all = Vec::new();
        while self.now < end {
            self.now += Duration::from_millis(100);
            self.swarm.handle_timeout(self.now);
            all.extend(self.commands());
        }
        all
    }
}

#[test]
fn what_may_be_here_already_is_asked_of_nobody_until_it_is_known_to_be_wrong() {
    let mut small = Small::new(false, |_| {});
    let found: Vec<_> = (0..PIECES - 2).map(|n| small.block(n).piece()).collect();
    small.swarm.handle_pieces_found(&found);
    let peer = small.add_holder(1);
    let asked = |commands: &[Command]| -> Vec<u32> {
        let of = |c: &Command| match c {
            Command::Request { block, .. } => Some(block.piece().get()),
            _ => None,
        };
        let mut asked: Vec<u32> = commands.iter().filter_map(of).collect();
        asked.sort_unstable();
        asked
    };
    let first = small.commands();
    assert_eq!(asked(&first), [PIECES - 2, PIECES - 1], "at once");
    for n in [PIECES - 2, PIECES - 1] {
        let block = small.block(n);
        let taken = small.swarm.handle_block(peer, block, small.now);
        assert_eq!(taken, BlockUse::Wanted);
        small.swarm.handle_piece_verified(block.piece(), small.now);
    }
    assert_eq!(asked(&small.commands()), [0; 0]);
    small.swarm.handle_piece_corrupt(found[0], small.now);
    for &piece in &found[1..] {
        small.swarm.handle_piece_verified(piece, small.now);
    }
    let then = small.commands();
    assert_eq!(asked(&then), [0]);
    let shown = |c: &&Command| matches!(c, Command::ShowHave { .. });
    assert_eq!(then.iter().filter(shown).count(), found.len() - 1);
    assert_eq!(small.swarm.stats().corrupt_pieces, 0, "nobody sent it");
    small.swarm.check_invariants();
}

/// A machine's last piece went from hand to hand as its neighbours fell idle, each within the time that an answer takes:
/// five copies of it came at once, and took five times as long.
#[test]
fn what_is_about_to_come_of_a_source_stays_there() {
    let mut small = Small::new(false, |_| {});
    let found: Vec<_> = (1..PIECES).map(|n| small.block(n).piece()).collect();
    small.swarm.handle_pieces_found(&found);
    let cancelled = |commands: &[Command]| {
        let cancel = |c: &&Command| matches!(c, Command::Cancel { .. });
        commands.iter().filter(cancel).count()
    };
    for id in 1..=8 {
        small.add_holder(id);
        small.now += Duration::from_millis(1);
    }
    let first = small.commands();
    let block = small.block(0);
    let asked = |c: &Command| matches!(c, Command::Request { block: b, .. } if *b == block);
    assert_eq!(first.iter().filter(|c| asked(c)).count(), 1, "{first:?}");
    assert_eq!(cancelled(&first), 0);
    // Nothing comes: among eight holders the one that this machine prefers is another.
    let then = small.wait(Duration::from_millis(100));
    assert_eq!(cancelled(&then), 1, "{then:?}");
    small.swarm.check_invariants();
}

#[test]
fn unchoke_slots_go_round() {
    let mut small = Small::new(true, |c| c.limits.unchoked = 1);
    let [a, b] = [1, 2].map(|id| small.add(id, SourceKind::LanPeer, false));
    small.swarm.handle_interested(a, true, small.now);
    small.swarm.handle_interested(b, true, small.now);
    let first = small.commands();
    assert!(first.contains(&Command::Unchoke { source: a }));
    assert!(!first.contains(&Command::Unchoke { source: b }));
    let block = small.block(0);
    small
        .swarm
        .handle_request(a, block, small.now)
        .expect("as set up");
    small.swarm.handle_served(a, block, small.now);
    let later = small.wait(Duration::from_secs(11));
    assert!(later.contains(&Command::Choke { source: a }), "{later:?}");
    assert!(later.contains(&Command::Unchoke { source: b }), "{later:?}");
}

/// What a Choke made void, before or after it began to be sent, is served when it is asked for again; nothing is left
/// of it that would keep a slot.
#[test]
fn block_that_a_choke_made_void_is_served_when_it_is_asked_for_again() {
    for begun in [false, true] {
        let mut small = Small::new(true, |c| c.limits.unchoked = 1);
        let [a, b] = [1, 2].map(|id| small.add(id, SourceKind::LanPeer, false));
        for id in [a, b] {
            small.swarm.handle_interested(id, true, small.now);
        }
        let block = small.block(0);
        let serve = Command::Serve { source: a, block };
        let asked = small.swarm.handle_request(a, block, small.now);
        asked.expect("it is unchoked");
        assert!(small.commands().contains(&serve));
        let later = small.wait(Duration::from_secs(11));
        assert!(later.contains(&Command::Choke { source: a }), "{later:?}");
        if !begun {
            small.swarm.handle_cancelled(a, block, small.now);
        }
        let later = small.wait(Duration::from_secs(11));
        assert!(later.contains(&Command::Unchoke { source: a }), "{later:?}");
        let again = small.swarm.handle_request(a, block, small.now);
        again.expect("the peer has forgotten the first time");
        if begun {
            // What the peer threw away.
            small.swarm.handle_served(a, block, small.now);
        }
        assert!(small.commands().contains(&serve), "begun: {begun}");
        small.swarm.handle_served(a, block, small.now);
        let stats = small.swarm.stats();
        let times = if begun { 2 } else { 1 };
        assert_eq!(stats.uploaded, times * u64::from(block.len()));
    }
}

#[test]
fn who_may_be_given_nothing_is_choked_and_who_may_again_is_not() {
    let mut small = Small::new(true, |c| {
        c.giving = Giving {
            internet: false,
            ..Giving::ALL
        }
    });
    let lan = small.add(1, SourceKind::LinkLocalPeer, true);
    let group = small.add(2, SourceKind::GroupPeer, true);
    let internet = small.add(3, SourceKind::InternetPeer, true);
    for id in [lan, group, internet] {
        small
            .swarm
            .handle_bitfield(id, Bitfield::new(PIECES), small.now);
        small.swarm.handle_interested(id, true, small.now);
    }
    let commands = small.commands();
    assert!(commands.contains(&Command::Unchoke { source: lan }));
    assert!(commands.contains(&Command::Unchoke { source: group }));
    assert!(!commands.contains(&Command::Unchoke { source: internet }));
    let only_internet = Giving {
        internet: true,
        ..Giving::NONE
    };
    assert!(small.swarm.is_wanted_by(only_internet) && !small.swarm.is_wanted_by(Giving::NONE));
    let block = small.block(0);
    assert!(
        small
            .swarm
            .handle_request(internet, block, small.now)
            .is_err()
    );
    small
        .swarm
        .handle_request(lan, block, small.now)
        .expect("unchoked");
    small.commands();

    let mut config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
    config.giving = only_internet;
    small.swarm.set_config(config, small.now);
    let commands = small.commands();
    assert!(commands.contains(&Command::Choke { source: lan }));
    assert!(commands.contains(&Command::Choke { source: group }));
    assert!(commands.contains(&Command::Unchoke { source: internet }));
    // Nor do slots that go round bring them back.
    for _ in 0..5 {
        let commands = small.wait(Duration::from_secs(11));
        assert!(
            !commands.contains(&Command::Unchoke { source: lan }),
            "{commands:?}"
        );
    }
}

#[test]
fn a_peer_without_extensions_is_shown_everything_at_once() {
    let mut small = Small::new(true, |_| {});
    small.add(1, SourceKind::LanPeer, true);
    small.add(2, SourceKind::LanPeer, true);
    small.commands();
    let plain = small.add(3, SourceKind::LanPeer, false);
    let pieces = Bitfield::full(PIECES);
    let source = plain;
    assert!(
        small
            .commands()
            .contains(&Command::ShowBitfield { source, pieces })
    );
}

#[test]
fn after_bad_bytes_of_several_sources_a_piece_comes_from_one() {
    let lengths = PieceLengths::new(4 << 20, 4 << 20).expect("as set up");
    let now = Instant::now();
    let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
    let swarm = Swarm::new(lengths, Bitfield::new(1), config, now);
    let mut small = Small {
        swarm,
        lengths,
        now,
    };
    for id in 1..=2 {
        let id = small.add(id, SourceKind::LanPeer, true);
        small.swarm.handle_bitfield(id, Bitfield::full(1), now);
        small.swarm.handle_unchoked(id, now);
    }
    let mut from = |bad: bool| {
        let mut givers = std::collections::BTreeSet::new();
        while !small
            .swarm
            .is_checking(lengths.piece(0).expect("as set up"))
        {
            let asked: Vec<_> = small
                .commands()
                .into_iter()
                .filter_map(|c| match c {
                    Command::Request { source, block } => Some((source, block)),
                    _ => None,
                })
                .collect();
            assert!(!asked.is_empty());
            for (source, block) in asked {
                if small.swarm.handle_block(source, block, now) == BlockUse::Wanted {
                    givers.insert(source);
                }
            }
        }
        let piece = lengths.piece(0).expect("as set up");
        if bad {
            small.swarm.handle_piece_corrupt(piece, now);
        } else {
            small.swarm.handle_piece_verified(piece, now);
        }
        givers.len()
    };
    assert_eq!(from(true), 2);
    assert_eq!(from(false), 1);
    assert!(small.swarm.is_complete());
    assert!(small.swarm.explain(now).iter().all(|r| r.strikes == 0));
}

#[test]
fn waiting_says_what_is_missing() {
    let mut small = Small::new(false, |c| c.http_delay = Duration::from_secs(60));
    assert_eq!(small.swarm.waiting(small.now), Some(Waiting::NoSource));
    let peer = small.add(1, SourceKind::LanPeer, true);
    let nobody = small.swarm.waiting(small.now).expect("as set up");
    assert_eq!(nobody, Waiting::NobodyHasIt);
    assert!(nobody.to_string().contains("no connected peer has"));
    small
        .swarm
        .handle_bitfield(peer, Bitfield::full(PIECES), small.now);
    let choked = small.swarm.waiting(small.now).expect("as set up");
    assert_eq!(choked, Waiting::AllChoked);
    assert!(choked.to_string().contains("busy with others"));
    small.add(2, SourceKind::Origin, false);
    let delayed = small.swarm.waiting(small.now).expect("as set up");
    assert!(
        delayed.to_string().contains("policy for another 60 s"),
        "{delayed}"
    );
    small.swarm.handle_unchoked(peer, small.now);
    assert_eq!(small.swarm.waiting(small.now), None);
    small.swarm.set_paused(true, small.now);
    assert_eq!(small.swarm.waiting(small.now), Some(Waiting::Paused));
}

#[test]
fn explain_gives_the_reason_for_each_source() {
    let mut small = Small::new(false, |c| c.http_delay = Duration::from_secs(60));
    let giver = small.add_holder(1);
    let choker = small.add(2, SourceKind::LanPeer, true);
    let origin = small.add(3, SourceKind::Origin, false);
    let report = small.swarm.explain(small.now);
    let of = |id| report.iter().find(|r| r.source == id).expect("as set up");
    assert_eq!(of(giver).state, SourceState::Active);
    assert_eq!(of(choker).state, SourceState::Choking);
    assert_eq!(of(origin).why, "the delay policy holds HTTP back");
    small.swarm.handle_source_down(giver, None, small.now);
    let report = small.swarm.explain(small.now);
    assert_eq!(report[0].state, SourceState::Down);
}

/// A peer that sends a byte a second is never silent, and took over blocks of the honest peer that then could not go
/// back to where they came from: the download stood still for good.
#[test]
fn peers_that_trickle_or_serve_nothing_keep_no_block_from_an_honest_one() {
    for other in 2..30 {
        let mut small = Small::new(false, |_| {});
        let honest = small.add_holder(1);
        let trickling = small.add_holder(other);
        let dumb = small.add_holder(other + 100);
        let mut coming: Vec<Block> = Vec::new();
        let start = small.now;
        let mut steps = 0u32;
        while !small.swarm.is_complete() {
            for command in small.wait(Duration::from_millis(100)) {
                match command {
                    Command::Request { source, block } if source == honest => coming.push(block),
                    Command::Request { source, block } if source == trickling => {
                        small.swarm.handle_block_begun(source, block, small.now);
                    }
                    Command::Cancel { source, block } if source == honest => {
                        coming.retain(|b| *b != block);
                    }
                    _ => {}
                }
            }
            steps += 1;
            if steps.is_multiple_of(10) {
                small.swarm.handle_progress(trickling, 1, small.now);
            }
            if let Some(block) = coming.pop() {
                small.swarm.handle_block_begun(honest, block, small.now);
                if small.swarm.handle_block(honest, block, small.now) == BlockUse::Wanted {
                    small.swarm.handle_piece_verified(block.piece(), small.now);
                }
            }
            let passed = small.now - start;
            assert!(
                passed < Duration::from_secs(30),
                "{:?} of {PIECES} with {trickling:?} and {dumb:?}",
                small.swarm.have()
            );
        }
    }
}

/// A block that was withdrawn after we had decided to serve it kept its slot for good: asked for again it was taken for
/// a repetition, and after a few of those nobody was served any more.
#[test]
fn a_withdrawn_block_gives_its_slot_back_and_may_be_asked_for_again() {
    let mut small = Small::new(true, |_| {});
    let peer = small.add(1, SourceKind::LanPeer, false);
    small.swarm.handle_interested(peer, true, small.now);
    small.commands();
    for round in 0..20 {
        let block = small.block(round % PIECES);
        small
            .swarm
            .handle_request(peer, block, small.now)
            .expect("not a repetition");
        assert!(
            small.commands().contains(&Command::Serve {
                source: peer,
                block
            }),
            "round {round}"
        );
        small.swarm.handle_cancelled(peer, block, small.now);
    }
}

/// Seen in namespaces, one machine of sixteen: the last tenth of its last block waited 1.3 s for TCP to send again what
/// was lost twice, while by its rate so far it seemed as good as here, and fifteen idle machines had it.
#[test]
fn a_block_that_stops_coming_near_its_end_is_asked_of_another() {
    let mut small = Small::new(false, |_| {});
    let holders = [small.add_holder(1), small.add_holder(2)];
    let mut asked = Vec::new();
    let mut received = 0;
    let (stalling, stalled) = loop {
        for command in small.commands() {
            match command {
                Command::Request { source, block } => asked.push((source, block)),
                Command::Cancel { source, block } => asked.retain(|a| *a != (source, block)),
                _ => {}
            }
        }
        let (source, block) = asked.remove(0);
        small.swarm.handle_block_begun(source, block, small.now);
        small.now += Duration::from_millis(40);
        if received == PIECES - 1 {
            let most = block.len() / 10 * 9;
            small.swarm.handle_progress(source, most, small.now);
            break (source, block);
        }
        small.swarm.handle_progress(source, block.len(), small.now);
        let taken = small.swarm.handle_block(source, block, small.now);
        assert_eq!(taken, BlockUse::Wanted);
        small.swarm.handle_piece_verified(block.piece(), small.now);
        received += 1;
    };
    assert!(asked.is_empty(), "nothing else is left");
    let _ = small.commands();
    let again = |commands: Vec<Command>| {
        commands.into_iter().any(
            |c| matches!(c, Command::Request { source, block } if holders.contains(&source) && source != stalling && block == stalled),
        )
    };
    assert!(!again(small.wait(Duration::from_millis(100))), "too soon");
    assert!(again(small.wait(Duration::from_millis(200))));
}

/// Before anybody else was connected, the first downloader got all that it had asked for at once, and nobody could pass
/// on anything for as long as that took.
#[test]
fn what_a_lone_downloader_asked_for_goes_out_in_series() {
    let mut small = Small::new(true, |_| {});
    let peer = small.add(1, SourceKind::LanPeer, true);
    small
        .swarm
        .handle_bitfield(peer, Bitfield::new(PIECES), small.now);
    small.swarm.handle_interested(peer, true, small.now);
    let asked: Vec<Block> = (0..4).map(|piece| small.block(piece)).collect();
    let pieces: Vec<_> = asked.iter().map(|block| block.piece()).collect();
    for block in &asked {
        small
            .swarm
            .handle_request(peer, *block, small.now)
            .expect("unchoked");
    }
    small.swarm.handle_fetching(peer, &pieces, &[], small.now);
    let served = |commands: Vec<Command>| -> Vec<Block> {
        let of = |c: Command| match c {
            Command::Serve { block, .. } => Some(block),
            _ => None,
        };
        commands.into_iter().filter_map(of).collect()
    };
    for _ in &asked {
        let now = served(small.commands());
        assert_eq!(now.len(), 1);
        small.now += Duration::from_millis(40);
        small.swarm.handle_served(peer, now[0], small.now);
        small.swarm.handle_have(peer, now[0].piece(), small.now);
    }
}

/// Only as a whole can a piece be passed on.
#[test]
fn a_piece_of_several_blocks_goes_out_as_a_whole() {
    let now = Instant::now();
    let lengths = PieceLengths::new(8 << 20, 4 << 20).expect("as set up");
    let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
    let mut swarm = Swarm::new(lengths, Bitfield::full(2), config, now);
    for id in [1, 2] {
        let info = SourceInfo {
            kind: SourceKind::LanPeer,
            peer_id: Some(PeerId::from_random([id; 16])),
            extended: true,
            relays: false,
        };
        let id = SourceId(id.into());
        swarm.handle_source_added(id, info, now);
        swarm.handle_bitfield(id, Bitfield::new(2), now);
        swarm.handle_interested(id, true, now);
    }
    let pieces: Vec<_> = lengths.pieces().collect();
    for (id, piece) in [(1, pieces[0]), (2, pieces[1])] {
        for block in lengths.blocks(piece) {
            let asked = swarm.handle_request(SourceId(id), block, now);
            assert_eq!(asked, Ok(()), "{block:?}");
        }
        swarm.handle_fetching(SourceId(id), &[piece], &[], now);
    }
    let mut now = now;
    let mut served = Vec::new();
    for _ in 0..8 {
        while let Some(command) = swarm.poll_command() {
            if let Command::Serve { source, block } = command {
                served.push((source, block));
            }
        }
        swarm.check_invariants();
        now += Duration::from_millis(10);
        let Some(&(source, block)) = served.last() else {
            break;
        };
        swarm.handle_served(source, block, now);
    }
    let order: Vec<_> = served.iter().map(|(source, _)| source.0).collect();
    assert_eq!(order, [1, 1, 1, 1, 2, 2, 2, 2]);
}
