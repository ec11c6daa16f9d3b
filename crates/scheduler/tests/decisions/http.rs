//! Who asks an HTTP server, and for what.

use super::*;

#[test]
fn a_server_without_ranges_streams_everything_once() {
    let mut small = Small::new(false, |c| c.discovery_grace = Duration::ZERO);
    let origin = small.add(1, SourceKind::Origin, false);
    small.commands();
    small.swarm.handle_no_ranges(origin, small.now);
    let fetches: Vec<_> = small
        .commands()
        .into_iter()
        .filter_map(|c| match c {
            Command::Fetch { first, count, .. } => Some((first.get(), count)),
            _ => None,
        })
        .collect();
    assert_eq!(fetches, [(0, PIECES)]);
    for piece in 0..PIECES {
        let block = small.block(piece);
        let used = small.swarm.handle_block(origin, block, small.now);
        assert_eq!(used, BlockUse::Wanted);
        small.swarm.handle_piece_verified(block.piece(), small.now);
    }
    assert!(small.swarm.is_complete());
    let more = small.wait(Duration::from_secs(5));
    assert!(!more.iter().any(|c| matches!(c, Command::Fetch { .. })));
}

#[test]
fn a_cache_host_comes_before_the_origin_until_it_is_down() {
    let mut small = Small::new(false, |c| c.discovery_grace = Duration::ZERO);
    small.swarm.set_paused(true, small.now);
    let origin = small.add(1, SourceKind::Origin, false);
    let cache = small.add(2, SourceKind::CacheHost, false);
    small.swarm.set_paused(false, small.now);
    let asked = |commands: &[Command]| {
        let of = commands.iter().filter_map(|c| match c {
            Command::Fetch { source, .. } => Some(*source),
            _ => None,
        });
        of.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(asked(&small.commands()), [cache].into());
    small.swarm.handle_source_down(cache, None, small.now);
    assert_eq!(asked(&small.commands()), [origin].into());
}

/// One of several downloaders, each a swarm of its own, that know each other and an origin: how many have begun to fetch
/// after this much time in which nothing came.
fn fetching_after(time: Duration) -> usize {
    const MACHINES: u8 = 6;
    let fetches = |us: u8| {
        let mut small = Small::new(false, |config| {
            config.self_id = PeerId::from_random([us; 16]);
        });
        for peer in (1..=MACHINES).filter(|peer| *peer != us) {
            let id = small.add(peer.into(), SourceKind::LanPeer, true);
            small
                .swarm
                .handle_bitfield(id, Bitfield::new(PIECES), small.now);
        }
        small.swarm.handle_discovery_ended(small.now);
        small.add(0, SourceKind::Origin, false);
        let mut commands = small.commands();
        commands.extend(small.wait(time));
        commands.iter().any(|c| matches!(c, Command::Fetch { .. }))
    };
    (1..=MACHINES).filter(|us| fetches(*us)).count()
}

#[test]
fn one_of_several_downloaders_asks_the_origin_and_more_do_when_nothing_comes() {
    assert_eq!(fetching_after(Duration::from_millis(400)), 1);
    assert_eq!(fetching_after(Duration::from_secs(6)), 6);
}

/// A downloader with an origin and one neighbour, which ranks behind it and has told of `lead` in time.
fn beside_one_who_tells(lead: Option<Lead>) -> (Small, SourceId) {
    let with = |other: u8, lead: Option<Lead>| {
        let mut small = Small::new(false, |_| {});
        let peer = small.add(other.into(), SourceKind::LanPeer, true);
        let nothing = Bitfield::new(PIECES);
        small.swarm.handle_bitfield(peer, nothing, small.now);
        small.swarm.handle_lead(peer, lead, small.now);
        small.swarm.handle_discovery_ended(small.now);
        small.add(0, SourceKind::Origin, false);
        (small, peer)
    };
    let fetches = |c: &Command| matches!(c, Command::Fetch { .. });
    let behind = (2..100).find(|other| with(*other, None).0.commands().iter().any(fetches));
    with(behind.expect("half of them are"), lead)
}

/// How many pieces come within this much time when the origin delivers at once.
fn pieces_within(small: &mut Small, time: Duration) -> u32 {
    let end = small.now + time;
    while small.now < end {
        let mut commands = small.commands();
        commands.extend(small.wait(Duration::from_millis(100)));
        for command in commands {
            let Command::Fetch {
                source,
                fetch,
                first,
                ..
            } = command
            else {
                continue;
            };
            let block = small.block(first.get());
            let answer = small.swarm.handle_block(source, block, small.now);
            assert_eq!(answer, BlockUse::Wanted);
            small.swarm.handle_piece_verified(first, small.now);
            let now = small.now;
            small
                .swarm
                .handle_fetch_ended(source, fetch, FetchEnd::Done, now);
        }
    }
    small.swarm.check_invariants();
    small.swarm.have().count()
}

#[test]
fn who_hears_of_a_better_one_leaves_the_origin_to_it() {
    let first = Lead {
        rank: u64::MAX,
        hops: 0,
    };
    let soon = Duration::from_millis(400);
    for (lead, waits) in [
        (None, false),
        (Some(first), true),
        (Some(Lead { hops: 3, ..first }), true),
        // Too far away, and of a rank that nobody has to yield to.
        (Some(Lead { hops: 4, ..first }), false),
        (Some(Lead { hops: 254, ..first }), false),
        (Some(Lead { rank: 0, ..first }), false),
    ] {
        let (mut small, _) = beside_one_who_tells(lead);
        let pieces = pieces_within(&mut small, soon);
        assert_eq!(pieces == 0, waits, "{lead:?}: {pieces} pieces");
    }
}

#[test]
fn who_claims_to_be_the_first_and_fetches_nothing_costs_a_turn_and_no_more() {
    let lead = Lead {
        rank: u64::MAX,
        hops: 0,
    };
    let (mut small, peer) = beside_one_who_tells(Some(lead));
    assert_eq!(pieces_within(&mut small, Duration::from_millis(300)), 0);
    // However often it says so.
    for hops in (0..4).cycle().take(8) {
        let again = Some(Lead { hops, ..lead });
        small.swarm.handle_lead(peer, again, small.now);
        pieces_within(&mut small, Duration::from_millis(200));
    }
    assert_eq!(small.swarm.have().count(), PIECES);
}

#[test]
fn nobody_can_make_us_talk_about_who_is_first() {
    let (mut small, peer) = beside_one_who_tells(None);
    let other = small.add(200, SourceKind::LanPeer, true);
    let told = |commands: Vec<Command>| -> Vec<Option<Lead>> {
        let to = |c: Command| match c {
            Command::TellLead { source, lead } if source == other => Some(lead),
            _ => None,
        };
        commands.into_iter().filter_map(to).collect()
    };
    let ours = told(small.commands());
    let [Some(ours)] = ours[..] else {
        panic!("a new neighbour hears of one: {ours:?}");
    };
    assert_eq!(ours.hops, 0, "the only one with an origin");
    // What comes back of ourselves is no news.
    let echo = Lead { hops: 1, ..ours };
    small.swarm.handle_lead(peer, Some(echo), small.now);
    assert_eq!(told(small.commands()), []);
    let mut seen = Vec::new();
    for rank in (0..1000).map(|n| u64::MAX - n % 2) {
        let lead = Lead { rank, hops: 1 };
        small.swarm.handle_lead(peer, Some(lead), small.now);
        seen.extend(told(small.commands()));
    }
    assert!(seen.len() <= 16, "{}", seen.len());
    assert!(seen.iter().flatten().all(|lead| lead.hops == 2), "{seen:?}");
    // Whoever is gone is told of no longer.
    small.swarm.handle_source_removed(peer, small.now);
    let last = told(small.wait(Duration::from_secs(1))).pop();
    assert_eq!(last, Some(Some(ours)));
}

/// When a machine that knows an origin first asks it, by its own timer, while peers may still be found, and how many pieces
/// in the first 400 ms. After 1 ms it finds `peer`.
fn begins(us: u8, peer: Option<u8>) -> (Option<Duration>, usize) {
    let mut small = Small::new(false, |config| {
        config.self_id = PeerId::from_random([us; 16]);
    });
    let start = small.now;
    small.add(0, SourceKind::Origin, false);
    let (mut first, mut count) = (None, 0);
    let mut count_fetches = |small: &mut Small| {
        for command in small.commands() {
            if matches!(command, Command::Fetch { .. }) {
                first.get_or_insert(small.now - start);
                count += 1;
            }
        }
    };
    count_fetches(&mut small);
    small.now += Duration::from_millis(1);
    if let Some(peer) = peer {
        let peer = small.add(peer.into(), SourceKind::LanPeer, true);
        let nothing = Bitfield::new(PIECES);
        small.swarm.handle_bitfield(peer, nothing, small.now);
    }
    let end = start + Duration::from_millis(400);
    while let Some(at) = small.swarm.poll_timeout().filter(|at| *at < end) {
        small.now = small.now.max(at);
        small.swarm.handle_timeout(small.now);
        count_fetches(&mut small);
    }
    (first, count)
}

#[test]
fn while_peers_may_be_found_who_ranks_lower_begins_later() {
    const MACHINES: std::ops::RangeInclusive<u8> = 1..=12;
    let mut times: Vec<_> = MACHINES.map(|us| (begins(us, None), us)).collect();
    for ((first, count), us) in &times {
        let first = first.unwrap_or_else(|| panic!("{us} never begins"));
        let within = Duration::from_millis(20)..=Duration::from_millis(100);
        assert!(within.contains(&first), "{us}: {first:?}");
        assert_eq!(*count, 1, "{us}: a lone one fetches one piece");
    }
    times.sort_unstable();
    // Of two that find each other in that time only the one whose turn comes first asks.
    for pair in times.windows(2) {
        let ((before, _), first) = pair[0];
        let second = pair[1].1;
        assert_eq!(begins(first, Some(second)).0, before, "{first}");
        assert_eq!(begins(second, Some(first)).1, 0, "{second} beside {first}");
    }
}

#[test]
fn who_has_found_all_peers_begins_at_once() {
    let mut small = Small::new(false, |_| {});
    small.add(0, SourceKind::Origin, false);
    let fetches = |c: &Command| matches!(c, Command::Fetch { .. });
    assert!(!small.commands().iter().any(fetches));
    small.swarm.handle_discovery_ended(small.now);
    assert!(small.commands().iter().any(fetches));
}

/// How many pieces one who leads has asked for when the first of them is here after this time.
fn asked_by_who_leads(first: Duration) -> usize {
    let (mut small, _) = beside_one_who_tells(None);
    let mut fetches = fetches_of(&small.commands());
    assert_eq!(fetches.len(), 1, "nothing is known yet");
    let (source, fetch, piece) = fetches.remove(0);
    small.now += first;
    let block = small.block(piece);
    let used = small.swarm.handle_block(source, block, small.now);
    assert_eq!(used, BlockUse::Wanted);
    small.swarm.handle_piece_verified(block.piece(), small.now);
    small
        .swarm
        .handle_fetch_ended(source, fetch, FetchEnd::Done, small.now);
    fetches_of(&small.commands()).len()
}

fn fetches_of(commands: &[Command]) -> Vec<(SourceId, FetchId, u32)> {
    let of = commands.iter().filter_map(|c| match c {
        Command::Fetch {
            source,
            fetch,
            first,
            ..
        } => Some((*source, *fetch, first.get())),
        _ => None,
    });
    of.collect()
}

/// A server that is far away would be left idle most of the time; but one who is slow should not have more to itself.
#[test]
fn who_leads_asks_the_server_for_several_pieces_at_once() {
    let ms = Duration::from_millis;
    assert_eq!(asked_by_who_leads(ms(300)), 4);
    assert_eq!(asked_by_who_leads(ms(800)), 1);
}

#[test]
fn a_server_that_is_always_slow_to_begin_is_waited_for_in_the_end() {
    const FIRST_BYTE: Duration = Duration::from_secs(12);
    let mut small = Small::new(false, |c| c.discovery_grace = Duration::ZERO);
    let begun = small.now;
    let origin = small.add(1, SourceKind::Origin, false);
    let mut commands = small.commands();
    let mut asked = std::collections::BTreeMap::new();
    let patience = Duration::from_secs(60);
    while !small.swarm.is_complete() {
        let now = small.now;
        assert!(now.duration_since(begun) < patience, "never waited for");
        for command in std::mem::take(&mut commands) {
            match command {
                Command::Fetch {
                    fetch,
                    first,
                    count,
                    ..
                } => {
                    asked.insert(fetch, (now, first.get()..first.get() + count));
                }
                Command::CancelFetch { fetch, .. } => {
                    asked.remove(&fetch);
                }
                _ => {}
            }
        }
        let is_here = |at: &Instant| now.duration_since(*at) >= FIRST_BYTE;
        let here = asked.iter().find(|(_, (at, _))| is_here(at));
        if let Some(fetch) = here.map(|(fetch, _)| *fetch) {
            let (_, pieces) = asked.remove(&fetch).expect("just found");
            for piece in pieces {
                let block = small.block(piece);
                let used = small.swarm.handle_block(origin, block, now);
                assert_eq!(used, BlockUse::Wanted);
                small.swarm.handle_piece_verified(block.piece(), now);
            }
            small
                .swarm
                .handle_fetch_ended(origin, fetch, FetchEnd::Done, now);
        }
        commands = small.commands();
        commands.extend(small.wait(Duration::from_millis(100)));
    }
}
