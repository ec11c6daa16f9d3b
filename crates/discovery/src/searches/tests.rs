use super::*;
use crate::{
    limits::TTL,
    link::tests::link,
    packet::{Address, Service},
};
use dosvc_content::HashOfHashes;

const SECOND: Duration = Duration::from_secs(1);

fn label(n: u8) -> Label {
    Label::of(&HashOfHashes::from([n; 32]), None)
}

fn peer(n: u8) -> PeerId {
    PeerId::from_random([n; 16])
}

fn eth() -> Link {
    link(2, false, &[("192.0.2.1", 24), ("2001:db8::1", 64)])
}

/// Everything that a peer says of itself in one answer.
fn answer(n: u8, content: u8, ips: &[&str]) -> Response {
    let (peer, ttl_s) = (peer(n), 120);
    let label = label(content);
    Response {
        holders: vec![Holder { label, peer, ttl_s }],
        services: vec![Service {
            peer,
            port: 7680,
            ttl_s,
        }],
        addresses: ips
            .iter()
            .map(|ip| Address {
                peer,
                ip: ip.parse().unwrap(),
            })
            .collect(),
    }
}

fn goodbye(n: u8, content: u8) -> Response {
    let mut response = answer(n, content, &[]);
    response.holders[0].ttl_s = 0;
    response.services.clear();
    response
}

fn found(searches: &mut Searches, id: SearchId) -> Vec<(PeerId, Vec<String>)> {
    std::iter::from_fn(|| searches.take_found(id))
        .map(|f| {
            let addrs = f.addrs.iter().map(ToString::to_string).collect();
            (f.peer_id, addrs)
        })
        .collect()
}

#[test]
fn a_holder_is_found_once_with_all_its_addresses_on_the_link() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(now, label(1));
    let other = searches.begin(now, label(2));
    let said = answer(
        1,
        1,
        &[
            "192.0.2.7",
            "2001:db8::7",
            "fe80::7",
            // Off the link, or nobody's: an answer can't send us there.
            "8.8.8.8",
            "127.0.0.1",
            "::1",
            "2001:db8:ffff::7",
            "224.0.0.1",
            "0.0.0.0",
        ],
    );
    assert!(searches.handle_response(now, &eth(), &said));
    assert!(searches.is_answered(id));
    let expected = ["192.0.2.7:7680", "[2001:db8::7]:7680", "[fe80::7%2]:7680"];
    assert_eq!(
        found(&mut searches, id),
        [(peer(1), expected.map(str::to_owned).to_vec())]
    );
    searches.handle_response(now, &eth(), &said);
    assert_eq!(found(&mut searches, id), [], "nothing new");
    assert_eq!(found(&mut searches, other), []);
    assert!(!searches.is_answered(other));
}

#[test]
fn a_holder_without_an_address_on_the_link_is_not_found() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(now, label(1));
    assert!(!searches.handle_response(now, &eth(), &answer(1, 1, &["8.8.8.8"])));
    assert_eq!(found(&mut searches, id), []);
}

#[test]
fn our_own_answers_are_not_found() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(1));
    let id = searches.begin(now, label(1));
    searches.handle_response(now, &eth(), &answer(1, 1, &["192.0.2.7"]));
    assert_eq!(found(&mut searches, id), []);
}

#[test]
fn new_addresses_are_told_and_old_ones_forgotten() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(now, label(1));
    searches.handle_response(now, &eth(), &answer(1, 1, &["192.0.2.7"]));
    found(&mut searches, id);
    searches.handle_response(now, &eth(), &answer(1, 1, &["192.0.2.8"]));
    assert_eq!(
        found(&mut searches, id),
        [(peer(1), vec!["192.0.2.8:7680".to_owned()])]
    );
    let wifi = link(3, false, &[("198.51.100.1", 24)]);
    searches.handle_response(now, &wifi, &answer(1, 1, &["198.51.100.8"]));
    let both = ["192.0.2.8:7680", "198.51.100.8:7680"].map(str::to_owned);
    assert_eq!(found(&mut searches, id), [(peer(1), both.to_vec())]);
}

#[test]
fn what_is_missing_is_asked_for_and_may_come_in_pieces() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(now, label(1));
    let whole = answer(1, 1, &["192.0.2.7"]);
    searches.poll(now).unwrap();
    let holders = Response {
        holders: whole.holders.clone(),
        ..Response::default()
    };
    searches.handle_response(now, &eth(), &holders);
    let ask = searches.poll(now + SECOND).unwrap();
    assert_eq!((ask.unresolved, ask.known), (vec![peer(1)], vec![]));
    let rest = Response {
        holders: vec![],
        ..whole
    };
    searches.handle_response(now, &eth(), &rest);
    assert_eq!(found(&mut searches, id).len(), 1);
}

#[test]
fn goodbyes_of_a_content_or_of_a_peer_are_noticed() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(now, label(1));
    let leaving = Response {
        services: vec![Service {
            peer: peer(1),
            port: 7680,
            ttl_s: 0,
        }],
        ..Response::default()
    };
    for bye in [goodbye(1, 1), leaving] {
        searches.handle_response(now, &eth(), &answer(1, 1, &["192.0.2.7"]));
        assert_eq!(found(&mut searches, id).len(), 1);
        searches.handle_response(now, &eth(), &answer(1, 1, &["192.0.2.9"]));
        searches.handle_response(now, &eth(), &bye);
        assert_eq!(found(&mut searches, id), [], "not even its new address");
    }
}

#[test]
fn peers_are_known_answers_for_half_their_life_and_forgotten_after_it() {
    let start = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(start, label(1));
    searches.handle_response(start, &eth(), &answer(1, 1, &["192.0.2.7"]));
    let mut known = Vec::new();
    while let Some(at) = searches.timeout().filter(|at| *at < start + TTL * 2) {
        let ask = searches.poll(at).unwrap();
        let ttls: Vec<_> = ask.known.iter().map(|k| k.ttl_s).collect();
        known.push(((at - start).as_secs(), ttls));
    }
    assert_eq!(
        known,
        [
            (0, vec![120]),
            (1, vec![119]),
            (4, vec![116]),
            (13, vec![107]),
            (40, vec![80]),
            (100, vec![]),
            (160, vec![]),
            (220, vec![]),
        ]
    );
    found(&mut searches, id);
    searches.handle_response(start + TTL * 2, &eth(), &answer(1, 1, &["192.0.2.7"]));
    assert_eq!(found(&mut searches, id).len(), 1, "it has come back");
}

#[test]
fn answers_to_others_serve_a_search_that_begins_at_once_after() {
    let start = Instant::now();
    let mut searches = Searches::new(peer(0));
    searches.handle_response(start, &eth(), &answer(1, 1, &["192.0.2.7"]));
    searches.handle_response(start, &eth(), &answer(2, 1, &["192.0.2.8"]));
    searches.handle_response(start, &eth(), &goodbye(2, 1));
    searches.handle_response(start, &eth(), &answer(3, 2, &["192.0.2.9"]));
    let id = searches.begin(start + SECOND, label(1));
    assert!(searches.is_answered(id));
    assert_eq!(found(&mut searches, id).len(), 1);
    let late = searches.begin(start + HEARD_AGE_MAX, label(1));
    assert_eq!(found(&mut searches, late), []);
}

#[test]
fn a_flood_of_peers_is_bounded_and_the_newest_stay() {
    let start = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(start, label(1));
    for n in 0..2000u32 {
        let mut bytes = [9; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let mut said = answer(1, 1, &["192.0.2.7"]);
        let other = PeerId::from_random(bytes);
        said.holders[0].peer = other;
        said.services[0].peer = other;
        said.addresses[0].peer = other;
        searches.handle_response(start + n * Duration::from_millis(1), &eth(), &said);
        // And as many answers that nobody has asked for.
        said.holders[0].label = label(2);
        searches.handle_response(start, &eth(), &said);
    }
    assert_eq!(found(&mut searches, id).len(), PEERS_PER_SEARCH_MAX);
    assert!(searches.heard.len() <= HEARD_MAX);
    let many: Vec<String> = (1..255).map(|n| format!("192.0.2.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    searches.handle_response(start + 3 * SECOND, &eth(), &answer(1, 1, &many));
    let last = found(&mut searches, id).pop().unwrap();
    assert_eq!(last.1.len(), ADDRS_PER_PEER_MAX);
}

#[test]
fn long_lives_are_cut() {
    let start = Instant::now();
    let mut searches = Searches::new(peer(0));
    searches.begin(start, label(1));
    let mut said = answer(1, 1, &["192.0.2.7"]);
    said.holders[0].ttl_s = u32::MAX;
    searches.handle_response(start, &eth(), &said);
    let ask = searches.poll(start).unwrap();
    assert_eq!(u64::from(ask.known[0].ttl_s), TTL_MAX.as_secs());
}

#[test]
fn an_ended_search_asks_no_more() {
    let now = Instant::now();
    let mut searches = Searches::new(peer(0));
    let id = searches.begin(now, label(1));
    assert_eq!(searches.timeout(), Some(now));
    searches.end(id);
    assert_eq!(searches.timeout(), None);
    assert!(searches.is_empty());
}
