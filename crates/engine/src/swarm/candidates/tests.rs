use super::*;
use proptest::prelude::*;

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], n))
}

fn tcp(n: u16) -> Route {
    Route::tcp(address(n))
}

fn way(transport: Transport, address: &str) -> Route {
    let address = address.parse().expect("an address");
    Route { transport, address }
}

fn unreachable() -> DialError {
    DialError::Refused("nobody there".into())
}

fn peer(n: u8) -> PeerId {
    PeerId::from_random([n; 16])
}

fn named(route: Route, who: Option<u8>, finder: Finder) -> Named {
    Named {
        route,
        peer: who.map(peer),
        finder,
        near: false,
        connected: None,
    }
}

fn found(candidates: &mut Candidates, n: u16, who: u8, now: Instant) {
    candidates.add(named(tcp(n), Some(who), Finder::LinkLocal), now);
}

fn take_all(candidates: &mut Candidates, now: Instant) -> Vec<Route> {
    std::iter::from_fn(|| candidates.take_due(now).map(|due| due.route)).collect()
}

fn ports(routes: &[Route]) -> Vec<u16> {
    routes.iter().map(|route| route.address.port()).collect()
}

const V6_QUIC: (Transport, &str) = (Transport::Quic, "[2a00::1]:7680");
const V4_QUIC: (Transport, &str) = (Transport::Quic, "8.8.8.8:7680");
const V6_TCP: (Transport, &str) = (Transport::Tcp, "[2a00::1]:7680");
const V4_TCP: (Transport, &str) = (Transport::Tcp, "8.8.8.8:7680");
const TUNNEL: (Transport, &str) = (Transport::Teredo, "[2001:0:c633:640a::1]:7680");

const TUNNEL_TCP: (Transport, &str) = (Transport::TeredoTcp, "[2001:0:c633:640a::1]:7680");

fn far() -> [Route; 6] {
    [V4_TCP, TUNNEL_TCP, TUNNEL, V4_QUIC, V6_TCP, V6_QUIC].map(|(transport, at)| way(transport, at))
}

fn of(known: (Transport, &str)) -> Route {
    way(known.0, known.1)
}

/// Everybody is at all of these.
fn racing(now: Instant) -> Candidates {
    let mut candidates = Candidates::default();
    for route in far() {
        candidates.add(named(route, Some(1), Finder::Array), now);
    }
    candidates
}

#[test]
fn the_best_way_begins_and_the_others_follow_a_head_start_later_each() {
    let start = Instant::now();
    let mut candidates = racing(start);
    let mut begun = Vec::new();
    for ms in (0..2000).step_by(10) {
        let now = start + Duration::from_millis(ms);
        begun.extend(take_all(&mut candidates, now).into_iter().map(|r| (r, ms)));
    }
    let expected = [
        (of(V6_QUIC), 0),
        (of(V4_QUIC), 250),
        (of(V6_TCP), 500),
        (of(TUNNEL), 500),
        (of(TUNNEL_TCP), 500),
        (of(V4_TCP), 750),
    ];
    assert_eq!(begun, expected);
}

#[test]
fn the_lan_comes_before_all_else() {
    let now = Instant::now();
    let mut candidates = racing(now);
    let lan = way(Transport::Tcp, "192.168.1.7:7680");
    candidates.add(
        Named {
            near: true,
            ..named(lan, Some(1), Finder::Array)
        },
        now,
    );
    assert_eq!(take_all(&mut candidates, now), [lan]);
}

#[test]
fn who_fails_makes_way_at_once() {
    let now = Instant::now();
    let mut candidates = racing(now);
    let mut tried = Vec::new();
    while let Some(due) = candidates.take_due(now) {
        tried.push(due.route);
        candidates.failed(due.route, unreachable(), now);
    }
    let expected = [V6_QUIC, V4_QUIC, V6_TCP, V4_TCP, TUNNEL, TUNNEL_TCP].map(of);
    assert_eq!(tried, expected, "without any time passing");
    assert_eq!(candidates.next_due(), Some(now + RETRY_FIRST));
}

#[test]
fn the_first_that_opens_is_kept_and_the_others_are_given_up() {
    let start = Instant::now();
    let mut candidates = racing(start);
    let mut now = start;
    for _ in 0..3 {
        now += HEAD_START;
        take_all(&mut candidates, now);
    }
    // The tunnel is open: what is straight may go on, nothing else may begin.
    let (speak, given_up) = candidates.opened(of(V4_QUIC), now);
    assert!(speak);
    let mut expected = vec![of(V6_QUIC), of(V6_TCP), of(TUNNEL), of(TUNNEL_TCP)];
    let mut given_up = given_up;
    expected.sort_unstable();
    given_up.sort_unstable();
    assert_eq!(given_up, expected);
    assert_eq!(candidates.opened(of(V6_QUIC), now), (false, vec![]));
    assert!(candidates.connected(peer(1), of(V4_QUIC)).is_empty());
    assert_eq!(candidates.next_due(), None, "and nothing wakes for them");
}

#[test]
fn what_is_straight_takes_the_place_of_a_tunnel() {
    let now = Instant::now() + HEAD_START;
    let mut candidates = racing(now);
    let mut at = now;
    for _ in 0..4 {
        take_all(&mut candidates, at);
        at += HEAD_START;
    }
    let (speak, given_up) = candidates.opened(of(TUNNEL), at);
    assert!(speak);
    assert!(!given_up.contains(&of(V4_QUIC)) && !given_up.contains(&of(V6_QUIC)));
    assert!(given_up.contains(&of(V4_TCP)), "it proves nothing");
    assert!(candidates.connected(peer(1), of(TUNNEL)).is_empty());
    let better = candidates.opened(of(V4_QUIC), at);
    assert_eq!(better, (true, vec![of(V6_QUIC)]), "better late than never");
    assert!(candidates.connected(peer(1), of(V4_QUIC)).is_empty());
    assert_eq!(take_all(&mut candidates, at + RETRY_MAX), []);
}

#[test]
fn quic_takes_the_place_of_tcp_in_the_tunnel_and_never_the_other_way_round() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    for known in [TUNNEL, TUNNEL_TCP] {
        candidates.add(named(of(known), Some(1), Finder::Array), now);
    }
    assert_eq!(take_all(&mut candidates, now), [of(TUNNEL)]);
    let at = now + HEAD_START;
    assert_eq!(take_all(&mut candidates, at), [of(TUNNEL_TCP)]);
    assert_eq!(candidates.opened(of(TUNNEL_TCP), at), (true, vec![]));
    assert!(candidates.connected(peer(1), of(TUNNEL_TCP)).is_empty());
    assert_eq!(candidates.opened(of(TUNNEL), at), (true, vec![]));
    assert!(candidates.connected(peer(1), of(TUNNEL)).is_empty());
    candidates.closed(peer(1), true, at);
    let again = at + RETRY_FIRST;
    assert_eq!(take_all(&mut candidates, again), [of(TUNNEL)]);
    assert_eq!(
        take_all(&mut candidates, again + HEAD_START),
        [of(TUNNEL_TCP)]
    );
    assert_eq!(
        candidates.opened(of(TUNNEL), again),
        (true, vec![of(TUNNEL_TCP)])
    );
}

#[test]
fn a_peer_that_turns_us_away_is_tried_on_its_other_ways_too() {
    let now = Instant::now();
    let mut candidates = racing(now);
    let first = take_all(&mut candidates, now);
    assert_eq!(first, [of(V6_QUIC)]);
    assert!(candidates.opened(first[0], now).0);
    assert_eq!(take_all(&mut candidates, now + RETRY_MAX / 6), []);
    candidates.failed(first[0], unreachable(), now);
    assert_eq!(take_all(&mut candidates, now), [of(V4_QUIC)]);
}

/// Both answer, and turn us away at once.
#[test]
fn two_ways_that_fail_at_once_do_not_take_turns() {
    let now = Instant::now();
    let mut candidates = racing(now);
    let mut tried = Vec::new();
    for _ in 0..20 {
        for route in take_all(&mut candidates, now) {
            candidates.opened(route, now);
            candidates.failed(route, unreachable(), now);
            tried.push(route);
        }
    }
    let all = tried.len();
    tried.sort();
    tried.dedup();
    assert_eq!(
        tried.len(),
        all,
        "one of them was tried again at once: {tried:?}"
    );
    assert!(candidates.next_due() >= Some(now + RETRY_FIRST));
}

#[test]
fn when_a_path_dies_all_ways_race_again() {
    let now = Instant::now();
    let mut candidates = racing(now);
    take_all(&mut candidates, now);
    assert!(candidates.opened(of(V6_QUIC), now).0);
    candidates.connected(peer(1), of(V6_QUIC));
    let died = now + Duration::from_secs(100);
    candidates.closed(peer(1), true, died);
    let again = died + RETRY_FIRST;
    assert_eq!(candidates.next_due(), Some(again));
    assert_eq!(take_all(&mut candidates, again), [of(V6_QUIC)]);
    candidates.failed(of(V6_QUIC), unreachable(), again);
    assert_eq!(take_all(&mut candidates, again), [of(V4_QUIC)]);
}

#[test]
fn a_way_that_is_named_late_waits_its_head_start() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    candidates.add(named(of(V4_QUIC), Some(1), Finder::Array), now);
    assert_eq!(take_all(&mut candidates, now), [of(V4_QUIC)]);
    candidates.add(named(of(TUNNEL), Some(1), Finder::Array), now);
    assert_eq!(take_all(&mut candidates, now), []);
    assert_eq!(take_all(&mut candidates, now + HEAD_START), [of(TUNNEL)]);
}

#[test]
fn of_one_peer_one_way_is_tried_first_and_none_once_it_is_connected() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    for port in [1, 2, 3] {
        found(&mut candidates, port, 1, now);
    }
    found(&mut candidates, 9, 2, now);
    let first = take_all(&mut candidates, now);
    assert_eq!(first.len(), 2, "one of each peer: {first:?}");
    assert_eq!(candidates.peer_count(), 2);
    candidates.connected(peer(1), first[0]);
    let later = now + Duration::from_secs(3600);
    assert!(take_all(&mut candidates, later).is_empty());
    candidates.closed(peer(1), true, later);
    assert_eq!(candidates.next_due(), Some(later + RETRY_FIRST));
    assert_eq!(take_all(&mut candidates, later + RETRY_FIRST).len(), 1);
}

#[test]
fn peer_that_closes_without_giving_anything_is_tried_ever_more_seldom() {
    let mut now = Instant::now();
    let mut candidates = Candidates::default();
    candidates.add(named(tcp(1), None, Finder::Configured), now);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(take_all(&mut candidates, now), [tcp(1)]);
        assert!(candidates.opened(tcp(1), now).0);
        candidates.is_at(peer(1), tcp(1));
        candidates.connected(peer(1), tcp(1));
        candidates.closed(peer(1), false, now);
        let due = candidates.next_due().expect("tried again");
        waits.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn dead_addresses_are_forgotten_and_fresh_ones_go_first() {
    let mut now = Instant::now();
    let mut candidates = Candidates::default();
    for port in 1..=1000 {
        candidates.add(named(tcp(port), None, Finder::LinkLocal), now);
    }
    for route in take_all(&mut candidates, now) {
        candidates.failed(route, unreachable(), now);
    }
    found(&mut candidates, 2000, 1, now);
    assert_eq!(candidates.routes().count(), 1000, "a dead one made room");
    assert!(take_all(&mut candidates, now).contains(&tcp(2000)));
    for _ in 0..FAILURES_MAX {
        now += RETRY_MAX;
        for route in take_all(&mut candidates, now) {
            candidates.failed(route, unreachable(), now);
        }
    }
    let left = candidates.routes().count();
    assert!(left <= 1, "{left}");
}

#[test]
fn peer_that_has_dialled_us_is_not_dialled_while_it_is_connected() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    for port in [1, 2, 3] {
        candidates.add(named(tcp(port), None, Finder::Configured), now);
    }
    found(&mut candidates, 4, 4, now);
    assert_eq!(take_all(&mut candidates, now).len(), 4);
    candidates.failed(tcp(1), unreachable(), now);
    // One whose dial has failed, one whose dial still runs, one that says it is where another is.
    candidates.listens_at(peer(1), address(1), tcp(50_000 + 1));
    candidates.listens_at(peer(2), address(2), tcp(50_000 + 2));
    candidates.listens_at(peer(3), address(4), tcp(50_000 + 3));
    for port in [2, 3, 4] {
        candidates.failed(tcp(port), unreachable(), now);
    }
    let mut again = ports(&take_all(&mut candidates, now + RETRY_MAX));
    again.sort_unstable();
    assert_eq!(again, [3, 4]);
    candidates.closed(peer(1), true, now);
    candidates.closed(peer(2), true, now);
    assert_eq!(take_all(&mut candidates, now + RETRY_MAX).len(), 2);
}

#[test]
fn configured_addresses_are_never_forgotten() {
    let mut now = Instant::now();
    let mut candidates = Candidates::default();
    candidates.add(named(tcp(1), None, Finder::Configured), now);
    for _ in 0..20 {
        now += RETRY_MAX;
        assert_eq!(take_all(&mut candidates, now), [tcp(1)]);
        candidates.failed(tcp(1), unreachable(), now);
    }
}

/// What may happen to one peer's ways.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Time(u16),
    Opens(usize),
    Fails(usize),
    Introduced(usize),
    Ends,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (0..2000_u16).prop_map(Happens::Time),
        3 => (0..6_usize).prop_map(Happens::Opens),
        3 => (0..6_usize).prop_map(Happens::Fails),
        2 => (0..6_usize).prop_map(Happens::Introduced),
        1 => Just(Happens::Ends),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: the peer is spoken to on one way at a time, or on several of which one is better
    /// than the other; nothing begins while it is connected; and after all has failed there is always a next time.
    #[test]
    fn one_way_is_kept_and_none_is_lost(happenings in prop::collection::vec(happens(), 1..80)) {
        let mut now = Instant::now();
        let mut candidates = Candidates::default();
        for route in far() {
            candidates.add(named(route, Some(1), Finder::Configured), now);
        }
        let mut opening: HashSet<Route> = HashSet::new();
        let mut introducing: HashSet<Route> = HashSet::new();
        let mut connected: Option<Route> = None;
        for happens in happenings {
            match happens {
                Happens::Time(ms) => now += Duration::from_millis(ms.into()),
                Happens::Opens(n) if opening.remove(&far()[n]) => {
                    let (speak, given_up) = candidates.opened(far()[n], now);
                    opening.retain(|route| !given_up.contains(route));
                    if speak {
                        introducing.insert(far()[n]);
                    }
                }
                Happens::Fails(n) if opening.remove(&far()[n]) || introducing.remove(&far()[n]) => {
                    candidates.failed(far()[n], unreachable(), now);
                }
                Happens::Introduced(n) if introducing.remove(&far()[n]) => {
                    let given_up = candidates.connected(peer(1), far()[n]);
                    opening.retain(|route| !given_up.contains(route));
                    introducing.clear();
                    connected = Some(far()[n]);
                }
                Happens::Ends if connected.take().is_some() => {
                    introducing.clear();
                    candidates.closed(peer(1), true, now);
                }
                _ => {}
            }
            let begun = take_all(&mut candidates, now);
            prop_assert!(connected.is_none() || begun.is_empty(), "{begun:?} beside {connected:?}");
            for route in begun {
                prop_assert!(opening.insert(route), "{route} twice");
            }
            let spoken: Vec<_> = introducing.iter().chain(&connected).collect();
            let needless = spoken.iter().any(|a| {
                spoken.iter().any(|b| a != b && !a.is_better_than(b) && !b.is_better_than(a))
            });
            prop_assert!(!needless, "{spoken:?}");
            let idle = opening.is_empty() && introducing.is_empty() && connected.is_none();
            prop_assert!(!idle || candidates.next_due().is_some(), "nobody is tried any more");
        }
    }
}
