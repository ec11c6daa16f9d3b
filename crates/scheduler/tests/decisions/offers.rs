//! What givers offer, and what is taken.

use super::*;

/// Which pieces were offered to whom.
pub(super) fn offers(commands: &[Command]) -> Vec<(SourceId, u32)> {
    let of = commands.iter().filter_map(|c| match c {
        Command::Offer { source, pieces, .. } => Some((*source, pieces.first()?.get())),
        _ => None,
    });
    of.collect()
}

#[test]
fn several_downloaders_wait_for_offers_and_a_lone_one_asks() {
    let mut small = Small::new(true, |_| {});
    let told = |commands: Vec<Command>| {
        let of = commands.into_iter().filter_map(|c| match c {
            Command::Offer { source, free, .. } => Some((source, free)),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    let first = small.add(1, SourceKind::LanPeer, true);
    assert_eq!(told(small.commands()), []);
    let second = small.add(2, SourceKind::LanPeer, true);
    assert_eq!(told(small.commands()), [(first, false), (second, false)]);
    small.swarm.handle_source_removed(first, small.now);
    assert_eq!(told(small.commands()), [(second, true)]);
}

/// Offers what a seed has to three downloaders, of which the last `silent` ones never say a word, until `count` pieces
/// were taken: which ones, in that order.
fn taken_of_a_seed(silent: u32, count: usize) -> Vec<u32> {
    let mut small = Small::new(true, |_| {});
    for id in 1..=3 {
        let id = small.add(id, SourceKind::LanPeer, true);
        small.swarm.handle_interested(id, true, small.now);
    }
    let mut taken = Vec::new();
    let mut todo = offers(&small.commands());
    while taken.len() < count {
        for (to, piece) in todo.into_iter().filter(|(to, _)| to.0 + silent <= 3) {
            let block = small.block(piece);
            small
                .swarm
                .handle_request(to, block, small.now)
                .expect("just offered");
            small
                .swarm
                .handle_fetching(to, &[block.piece()], &[], small.now);
            small.now += Duration::from_millis(40);
            small.swarm.handle_served(to, block, small.now);
            small.swarm.handle_have(to, block.piece(), small.now);
            taken.push(piece);
        }
        todo = offers(&small.commands());
        for _ in 0..20 {
            if todo.is_empty() && taken.len() < count {
                todo = offers(&small.wait(Duration::from_millis(100)));
            }
        }
        let more = !todo.is_empty() || taken.len() >= count;
        assert!(more, "nothing more is offered after {taken:?}");
    }
    taken.truncate(count);
    taken
}

#[test]
fn every_piece_leaves_the_seed_once_before_any_leaves_it_twice() {
    let taken = taken_of_a_seed(0, PIECES as usize);
    let different: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(different.len(), PIECES as usize, "{taken:?}");
}

/// A seed that sends a block in a millisecond to three downloaders that take 5 ms to answer, but the first time: how many
/// offers are open at most while it has pieces that nobody else has, and after that.
fn offered_ahead(first_answer: Duration) -> (usize, usize) {
    let mut small = Small::new(true, |_| {});
    for id in 1..=3 {
        let id = small.add(id, SourceKind::LanPeer, true);
        small.swarm.handle_interested(id, true, small.now);
    }
    let (mut firsts, mut seconds) = (0, 0);
    let mut out = std::collections::BTreeSet::new();
    let mut open = std::collections::VecDeque::from(offers(&small.commands()));
    let mut answer = first_answer;
    while let Some((to, piece)) = open.pop_front() {
        let all_out = out.len() == PIECES as usize;
        let most = if all_out { &mut seconds } else { &mut firsts };
        *most = open.len().max(*most);
        small.now += std::mem::replace(&mut answer, Duration::from_millis(5));
        let block = small.block(piece);
        let taken = small.swarm.handle_request(to, block, small.now);
        taken.expect("just offered");
        let piece = block.piece();
        small.swarm.handle_fetching(to, &[piece], &[], small.now);
        small.now += Duration::from_millis(1);
        small.swarm.handle_served(to, block, small.now);
        small.swarm.handle_have(to, piece, small.now);
        out.insert(piece);
        open.extend(offers(&small.commands()));
    }
    assert_eq!(out.len(), PIECES as usize);
    (firsts, seconds)
}

/// Where blocks are out long before an answer comes, many are offered ahead. A seed is always the first to have something
/// to offer: it gave three copies of a content to eight busy machines in a LAN.
#[test]
fn a_seed_leaves_second_copies_to_others_where_only_busy_peers_answer_late() {
    let (firsts, seconds) = offered_ahead(Duration::from_micros(100));
    assert!(firsts > 3, "{firsts}");
    assert!(seconds <= 3, "{seconds}");
    let (_, of_a_long_path) = offered_ahead(Duration::from_millis(5));
    assert!(of_a_long_path > 3, "{of_a_long_path}");
}

/// Who knows only five others gets less than who knows twenty, and was the last of a thousand machines to be done.
#[test]
fn who_lags_is_offered_a_second_piece_where_others_get_their_first() {
    let first_offered = |lags_by: u32| {
        let mut small = Small::new(true, |config| config.giving = Giving::NONE);
        let [late, early] = [(1, 4 - lags_by), (2, 4)].map(|(id, had)| {
            let id = small.add_holder_of(id, had);
            small.swarm.handle_interested(id, true, small.now);
            id
        });
        // One piece comes to the late one from elsewhere.
        let coming = small.block(PIECES - 1).piece();
        small.swarm.handle_fetching(late, &[coming], &[], small.now);
        let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        small.swarm.set_config(config, small.now);
        let offered = offers(&small.commands());
        (offered.first().expect("an offer").0, late, early)
    };
    let (to, _, early) = first_offered(2);
    assert_eq!(to, early, "nothing is coming to it");
    let (to, late, _) = first_offered(4);
    assert_eq!(to, late);
}

#[test]
fn pieces_offered_to_a_peer_that_does_not_answer_are_offered_to_others() {
    let taken = taken_of_a_seed(1, 2 * PIECES as usize - 1);
    let different: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(different.len(), PIECES as usize, "{taken:?}");
}

#[test]
fn an_offer_is_taken_once_and_declined_while_less_is_coming_to_others() {
    let mut small = Small::new(false, |_| {});
    let [a, b, other] = [1, 2, 3].map(|id| small.add_holder_of(id, 0));
    let [first, second] = [0, 1].map(|i| small.block(i));
    for (id, block) in [(a, first), (b, first), (b, second)] {
        small.swarm.handle_have(id, block.piece(), small.now);
    }
    for id in [a, b, other] {
        small.swarm.handle_offer(id, &[], false, small.now);
    }
    small.commands();
    let offer = |small: &mut Small, from, block: Block| {
        small
            .swarm
            .handle_offer(from, &[block.piece()], false, small.now);
        small.commands()
    };
    let asked = |from, block| Command::Request {
        source: from,
        block,
    };
    assert!(offer(&mut small, a, first).contains(&asked(a, first)));
    let again = offer(&mut small, b, first);
    assert!(!again.contains(&asked(b, first)), "{again:?}");
    let crowded = offer(&mut small, b, second);
    let no = Command::TellFetching {
        source: b,
        add: Vec::new(),
        drop: vec![second.piece()],
    };
    assert!(crowded.contains(&no), "{crowded:?}");
    let comes_to_others = |small: &mut Small, piece: u32| {
        let far = small.block(piece).piece();
        for id in [a, b, other] {
            small.swarm.handle_fetching(id, &[far], &[], small.now);
        }
    };
    // As much is coming to everybody else: they come first.
    comes_to_others(&mut small, 7);
    assert!(offer(&mut small, b, second).contains(&no));
    // More is.
    comes_to_others(&mut small, 6);
    assert!(offer(&mut small, b, second).contains(&asked(b, second)));
}

/// Chance let some of sixteen machines fall five pieces behind the others, which then waited for them in the end.
#[test]
fn who_has_less_than_its_neighbours_takes_a_second_piece() {
    let mut small = Small::new(false, |_| {});
    let [a, b] = [1, 2].map(|id| small.add_holder_of(id, 6));
    for id in [a, b] {
        small.swarm.handle_offer(id, &[], false, small.now);
    }
    for (id, piece) in [(a, 0), (b, 1)] {
        let block = small.block(piece);
        let offered = [block.piece()];
        small.swarm.handle_offer(id, &offered, false, small.now);
        let asked = Command::Request { source: id, block };
        assert!(small.commands().contains(&asked), "{piece}");
    }
}

/// One by one the neighbours get done and nothing more is coming to them; the last of a thousand machines declined its last
/// four pieces for a tenth of a second, one after the other.
#[test]
fn who_lacks_only_a_few_pieces_takes_them_whatever_comes_to_others() {
    let taken = |lacking: u32| {
        const ALL: u32 = 32;
        let mut small = Small::new(false, |_| {});
        small.lengths = PieceLengths::new(u64::from(ALL) << 20, 1 << 20).expect("as set up");
        let mut have = Bitfield::new(ALL);
        for piece in small.lengths.pieces().skip(lacking as usize) {
            have.insert(piece);
        }
        let config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        small.swarm = Swarm::new(small.lengths, have, config, small.now);
        let a = small.add(1, SourceKind::LanPeer, true);
        small
            .swarm
            .handle_bitfield(a, Bitfield::full(ALL), small.now);
        small.swarm.handle_unchoked(a, small.now);
        small.swarm.handle_offer(a, &[], false, small.now);
        small.commands();
        let take = |piece: u32| {
            let block = small.block(piece);
            let offered = [block.piece()];
            small.swarm.handle_offer(a, &offered, false, small.now);
            let asked = Command::Request { source: a, block };
            small.commands().contains(&asked)
        };
        (0..lacking).map(take).take_while(|taken| *taken).count()
    };
    assert_eq!(taken(16), 1, "others come first");
    // Three are the most that come at once to who knows few peers.
    assert_eq!(taken(8), 3);
    assert_eq!(taken(2), 2);
}

/// A giver may promise and not deliver: nobody waits for it for ever.
#[test]
fn a_downloader_to_which_nothing_is_offered_asks_by_itself() {
    let mut small = Small::new(false, |_| {});
    let silent = small.add_holder_of(1, 6);
    small.swarm.handle_offer(silent, &[], false, small.now);
    small.commands();
    let asked = |c: &Command| matches!(c, Command::Request { source, .. } if *source == silent);
    assert!(small.wait(Duration::from_secs(1)).iter().any(asked));
}

/// Three slow givers would keep a fast one from us for as long as their pieces take.
#[test]
fn a_piece_that_comes_slowly_leaves_room_for_another_one() {
    const MS: Duration = Duration::from_millis(1);
    let mut small = Small::new(false, |_| {});
    let [fast, slow] = [1, 2].map(|id| {
        let id = small.add_holder(id);
        small.swarm.handle_offer(id, &[], false, small.now);
        id
    });
    small.commands();
    let takes = |small: &mut Small, from: SourceId, piece: u32| {
        let piece = small.block(piece).piece();
        small.swarm.handle_offer(from, &[piece], false, small.now);
        let asked = |c: &Command| matches!(c, Command::Request { source, block } if *source == from && block.piece() == piece);
        small.commands().iter().any(asked)
    };
    for piece in 0..PIECES - 2 {
        assert!(takes(&mut small, fast, piece), "{piece}");
        small.now += MS * 120;
        let block = small.block(piece);
        let used = small.swarm.handle_block(fast, block, small.now);
        assert_eq!(used, BlockUse::Wanted);
        small.swarm.handle_piece_verified(block.piece(), small.now);
        small.commands();
    }
    assert!(takes(&mut small, slow, PIECES - 2));
    let block = small.block(PIECES - 2);
    small.swarm.handle_block_begun(slow, block, small.now);
    let mut waited = Duration::ZERO;
    while !takes(&mut small, fast, PIECES - 1) {
        assert!(waited < MS * 1000, "never");
        waited += MS * 100;
        small.now += MS * 100;
        small.swarm.handle_progress(slow, 1000, small.now);
    }
    // Six times as long as one took.
    assert!((MS * 600..=MS * 800).contains(&waited), "{waited:?}");
}

/// Two downloaders that answer after this: one was sent a piece lately, the other more than half a second ago, and has less.
/// Whether that one is offered something first.
fn who_has_rested_comes_first(answer: Duration) -> bool {
    const MS: Duration = Duration::from_millis(1);
    let mut small = Small::new(true, |_| {});
    let [_busy, rested] = [1, 2].map(|id| {
        let id = small.add(id, SourceKind::LanPeer, true);
        small.swarm.handle_interested(id, true, small.now);
        id
    });
    let decline = |small: &mut Small, to: SourceId, piece: u32| {
        let piece = small.block(piece).piece();
        small.swarm.handle_fetching(to, &[], &[piece], small.now);
    };
    let mut lacking = [1, 5];
    let mut todo = offers(&small.commands());
    while lacking != [0, 0] {
        assert!(!todo.is_empty(), "nothing is offered: {lacking:?}");
        small.now += answer;
        let mut taken = Vec::new();
        for (to, piece) in todo {
            let its_turn = to == rested || lacking[0] == 0;
            let lacks = &mut lacking[usize::from(to != rested)];
            if *lacks == 0 || !its_turn {
                decline(&mut small, to, piece);
                continue;
            }
            *lacks -= 1;
            let block = small.block(piece);
            let request = small.swarm.handle_request(to, block, small.now);
            request.expect("just offered");
            taken.push((to, block));
        }
        for (to, block) in taken {
            small.now += MS * 160;
            small.swarm.handle_served(to, block, small.now);
            small.swarm.handle_have(to, block.piece(), small.now);
        }
        todo = offers(&small.commands());
        if todo.is_empty() {
            todo = offers(&small.wait(MS * 100));
        }
    }
    // Until they may be offered something again.
    let giving = |small: &mut Small, giving: Giving| {
        let mut config = SwarmConfig::new(PeerId::from_random([1; 16]), 1);
        config.giving = giving;
        small.swarm.set_config(config, small.now);
        small.commands()
    };
    giving(&mut small, Giving::NONE);
    small.now += answer;
    for (to, piece) in todo {
        decline(&mut small, to, piece);
    }
    small.now += MS * 300;
    let offered = offers(&giving(&mut small, Giving::ALL));
    offered.first().expect("an offer").0 == rested
}

/// A connection that has rested begins slowly anew, which costs most of an uplink where the path is long.
#[test]
fn over_long_paths_pieces_go_where_some_went_lately() {
    let offered = [1, 4, 20, 50].map(|ms| {
        let answer = Duration::from_millis(ms);
        who_has_rested_comes_first(answer)
    });
    assert_eq!(offered, [true, true, false, false]);
}
