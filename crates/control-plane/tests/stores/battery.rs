//! What every store of swarms does, whatever it is made of.

use dosvc_cloud_protocol::{CountryCode, JoinAnswer, JoinEvent, JoinRequest, JoinToken, Scope};
use dosvc_content::{ContentId, GroupHash, PeerId};
use dosvc_control_plane::array::{
    ArrayLimits, ArrayStats, Draw, GroupView, Seconds, Seen, SwarmView,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

/// A store of swarms.
pub(crate) trait Store {
    fn limits(&self) -> &ArrayLimits;
    fn join(&self, now: Seconds, draw: Draw, seen: Seen, request: &JoinRequest) -> JoinAnswer;
    fn expire(&self, now: Seconds);
    fn stats(&self) -> ArrayStats;
    fn swarm(&self, id: &ContentId) -> Option<SwarmView>;
    fn largest_swarms(&self, count: usize) -> Vec<SwarmView>;
    fn largest_groups(&self, count: usize) -> Vec<GroupView>;
    /// Whether nothing is kept of peers that have gone.
    fn is_bare(&self) -> bool;
}

/// Makes empty stores.
pub(crate) trait Stores {
    fn open(&self, limits: ArrayLimits) -> Box<dyn Store>;

    /// How many cases a property is tried with.
    fn cases(&self) -> u32;
}

/// The names of all tests: `$run` is told the stores and each of them.
#[macro_export]
macro_rules! battery {
    ($run:ident) => {
        $run! {
            lan_peers_meet_behind_the_same_address_alone
            ipv6_peers_of_one_network_share_a_lan
            other_contents_are_other_swarms
            group_peers_meet_their_group_with_the_lan_first
            nearest_strangers_come_first
            seeds_hear_of_those_who_need_them_alone
            who_only_takes_is_told_but_not_told_of
            every_peer_is_drawn_about_as_often
            nobody_is_named_twice_wherever_drawing_begins
            what_nobody_renews_expires
            a_peer_leaves_with_its_token_alone
            token_ties_a_peer_to_who_joined_first
            a_peer_that_changes_its_mode_is_met_by_others
            an_address_that_invents_peers_reaches_its_bounds
            strangers_hear_of_a_few_of_each_address
            swarms_are_bounded_in_number
            peers_come_back_about_every_interval
            same_inputs_and_seeds_lead_to_the_same_answers
            answers_are_right_for_everybody
        }
    };
}

const NOW: Seconds = 1_000_000;

fn content() -> ContentId {
    "a content".parse().unwrap()
}

/// A join of the peer with this number.
fn join(number: u32, scope: Scope) -> JoinRequest {
    let mut id = [0; 20];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let mut request = JoinRequest::new(content(), id.into(), scope);
    request.left = 1;
    request.reported_ip = Some(Ipv4Addr::from(0x0a00_0000 + number + 1));
    request
}

fn number_of(id: PeerId) -> u32 {
    u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap())
}

fn seen(address: &str) -> Seen {
    Seen {
        address: address.parse().unwrap(),
        country: CountryCode::UNKNOWN,
    }
}

fn draw(number: u64) -> Draw {
    Draw {
        token: number.wrapping_mul(0x9e37_79b9) ^ 0x5555,
        seed: number,
    }
}

fn numbers(answer: &JoinAnswer) -> BTreeSet<u32> {
    answer.peers.iter().map(|p| number_of(p.peer_id)).collect()
}

fn group(number: u8) -> GroupHash {
    [number; 32].into()
}

pub(crate) fn lan_peers_meet_behind_the_same_address_alone(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    for number in 0..3 {
        array.join(NOW, draw(1), seen("192.0.2.1"), &join(number, Scope::Lan));
    }
    array.join(NOW, draw(1), seen("192.0.2.2"), &join(3, Scope::Lan));
    let answer = array.join(NOW, draw(2), seen("192.0.2.1"), &join(0, Scope::Lan));
    assert_eq!(numbers(&answer), [1, 2].into());
    assert!(
        answer
            .peers
            .iter()
            .all(|p| p.scope == Scope::Lan && p.lan_ip.is_some())
    );
    assert_eq!(answer.external_ip, "192.0.2.1".parse::<IpAddr>().unwrap());
    let alone = array.join(NOW, draw(2), seen("192.0.2.2"), &join(3, Scope::Lan));
    assert!(alone.peers.is_empty());
}

pub(crate) fn ipv6_peers_of_one_network_share_a_lan(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    array.join(NOW, draw(1), seen("2001:db8:0:1::1"), &join(1, Scope::Lan));
    array.join(NOW, draw(1), seen("2001:db8:0:2::1"), &join(2, Scope::Lan));
    let answer = array.join(NOW, draw(1), seen("2001:db8:0:1::2"), &join(0, Scope::Lan));
    assert_eq!(numbers(&answer), [1].into());
}

pub(crate) fn other_contents_are_other_swarms(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    array.join(NOW, draw(1), seen("192.0.2.1"), &join(1, Scope::Lan));
    let mut other = join(2, Scope::Lan);
    other.content_id = "another".parse().unwrap();
    assert!(
        array
            .join(NOW, draw(1), seen("192.0.2.1"), &other)
            .peers
            .is_empty()
    );
    assert_eq!(array.stats().swarms, 2);
    assert_eq!(array.largest_swarms(5).len(), 2);
}

pub(crate) fn group_peers_meet_their_group_with_the_lan_first(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let mut limits = array.limits().clone();
    limits.peers_per_answer = 2;
    let array = stores.open(limits);
    let of = |number, g: Option<u8>| JoinRequest {
        group_id: g.map(group),
        ..join(number, Scope::Group)
    };
    array.join(NOW, draw(1), seen("192.0.2.1"), &of(1, Some(1)));
    for number in 10..20 {
        array.join(NOW, draw(1), seen("198.51.100.1"), &of(number, Some(1)));
    }
    array.join(NOW, draw(1), seen("192.0.2.1"), &of(2, Some(2)));
    let stranger = join(3, Scope::Lan);
    array.join(NOW, draw(1), seen("192.0.2.1"), &stranger);
    for seed in 0..20 {
        let answer = array.join(
            NOW,
            Draw { token: 0, seed },
            seen("192.0.2.1"),
            &of(0, Some(1)),
        );
        assert_eq!(number_of(answer.peers[0].peer_id), 1);
        assert_eq!(answer.peers[0].scope, Scope::Lan);
        assert_eq!(answer.peers[1].scope, Scope::Group);
        assert!(
            answer.peers[1].lan_ip.is_some(),
            "a fleet may be routed between its sites"
        );
    }
    // Without a group there is nobody to meet, nor anybody who meets it.
    let lost = array.join(NOW, draw(1), seen("192.0.2.1"), &of(4, None));
    assert!(lost.peers.is_empty() && lost.token.is_none());
    let lan = array.join(NOW, draw(1), seen("192.0.2.1"), &stranger);
    assert!(
        lan.peers.is_empty(),
        "who is in group mode meets its group alone: {lan:?}"
    );
}

pub(crate) fn nearest_strangers_come_first(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits {
        peers_per_answer: 3,
        ..ArrayLimits::default()
    });
    let at = |number: u32, address: &str, country: &str| {
        let seen = Seen {
            address: address.parse().unwrap(),
            country: country.parse().unwrap(),
        };
        array.join(
            NOW,
            draw(number.into()),
            seen,
            &join(number, Scope::Internet),
        )
    };
    at(1, "192.0.2.1", "DE");
    at(2, "192.0.77.1", "DE");
    for number in 3..10 {
        at(number, &format!("198.51.100.{number}"), "DE");
        at(number + 10, &format!("192.0.5.{number}"), "FR");
    }
    let answer = at(0, "192.0.2.1", "DE");
    let found: Vec<_> = answer.peers.iter().map(|p| number_of(p.peer_id)).collect();
    assert_eq!(found[..2], [1, 2]);
    assert!(
        (3..10).contains(&found[2]),
        "the country before the rest: {found:?}"
    );
    assert_eq!(
        answer
            .peers
            .iter()
            .map(|p| p.scope.number())
            .collect::<Vec<_>>(),
        [1, 3, 3]
    );
    let abroad = at(30, "203.0.113.1", "US");
    assert_eq!(abroad.peers.len(), 3, "anybody, when nobody is near");
}

pub(crate) fn seeds_hear_of_those_who_need_them_alone(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let seed = |number| JoinRequest {
        left: 0,
        ..join(number, Scope::Lan)
    };
    array.join(NOW, draw(1), seen("192.0.2.1"), &seed(1));
    array.join(NOW, draw(1), seen("192.0.2.1"), &join(2, Scope::Lan));
    let to_seed = array.join(NOW, draw(1), seen("192.0.2.1"), &seed(3));
    assert_eq!(numbers(&to_seed), [2].into());
    let to_other = array.join(NOW, draw(1), seen("192.0.2.1"), &join(4, Scope::Lan));
    assert_eq!(numbers(&to_other), [1, 2, 3].into());
    let view = array.swarm(&content()).unwrap();
    assert_eq!(
        (view.peers, view.seeds, view.sites, view.groups),
        (4, 2, 1, 0)
    );
}

pub(crate) fn who_only_takes_is_told_but_not_told_of(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let takes = JoinRequest {
        restricted_upload: true,
        ..join(1, Scope::Lan)
    };
    array.join(NOW, draw(1), seen("192.0.2.1"), &takes);
    assert!(
        array
            .join(NOW, draw(1), seen("192.0.2.1"), &join(2, Scope::Lan))
            .peers
            .is_empty()
    );
    assert_eq!(
        numbers(&array.join(NOW, draw(1), seen("192.0.2.1"), &takes)),
        [2].into()
    );
}

pub(crate) fn every_peer_is_drawn_about_as_often(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits {
        peers_per_answer: 20,
        ..ArrayLimits::default()
    });
    for number in 0..1000 {
        let left = u64::from(number >= 10);
        let request = JoinRequest {
            left,
            ..join(number, Scope::Lan)
        };
        array.join(NOW, draw(number.into()), seen("192.0.2.1"), &request);
    }
    let mut hits = HashMap::<u32, u32>::new();
    for seed in 0..5000 {
        let answer = array.join(
            NOW,
            Draw { token: 0, seed },
            seen("192.0.2.1"),
            &join(5000, Scope::Lan),
        );
        assert_eq!(answer.peers.len(), 20);
        for number in numbers(&answer) {
            *hits.entry(number).or_default() += 1;
        }
    }
    assert_eq!(hits.len(), 1000);
    // 5000 answers with 20 of 1000 each: 100, and six standard deviations to both sides. Seeds are no exception.
    assert!(
        hits.values().all(|h| (41..=159).contains(h)),
        "{:?}",
        hits.values().minmax()
    );
}

trait MinMax: Iterator + Sized {
    fn minmax(self) -> Option<(Self::Item, Self::Item)>
    where
        Self::Item: Ord + Copy,
    {
        self.fold(None, |found, item| match found {
            None => Some((item, item)),
            Some((low, high)) => Some((low.min(item), high.max(item))),
        })
    }
}

impl<I: Iterator> MinMax for I {}

/// Most lists of a small swarm are empty.
pub(crate) fn nobody_is_named_twice_wherever_drawing_begins(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let of = |number, scope, left| JoinRequest {
        group_id: Some(group(1)),
        left,
        ..join(number, scope)
    };
    for number in 1..4 {
        let known = of(number, Scope::Group, u64::from(number == 1));
        array.join(NOW, draw(number.into()), seen("192.0.2.1"), &known);
    }
    let asks = JoinRequest {
        peers_wanted: 3,
        ..of(9, Scope::Internet, 1)
    };
    for seed in 0..50 {
        let answer = array.join(NOW, Draw { token: 9, seed }, seen("192.0.2.1"), &asks);
        assert_eq!(answer.peers.len(), 3, "seed {seed}");
        assert_eq!(numbers(&answer), [1, 2, 3].into(), "seed {seed}");
    }
}

pub(crate) fn what_nobody_renews_expires(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    array.join(NOW, draw(1), seen("192.0.2.1"), &join(1, Scope::Lan));
    let last = NOW + array.limits().lifetime() - 1;
    assert_eq!(
        array
            .join(last, draw(1), seen("192.0.2.1"), &join(2, Scope::Lan))
            .peers
            .len(),
        1
    );
    // Not named from then on, and gone with the next sweep.
    assert!(
        array
            .join(last + 1, draw(1), seen("192.0.2.1"), &join(3, Scope::Lan))
            .peers
            .iter()
            .all(|p| number_of(p.peer_id) != 1)
    );
    array.expire(last + 1);
    assert_eq!((array.stats().entries, array.stats().expired), (2, 1));
    array.expire(last + 10_000);
    let stats = array.stats();
    assert_eq!((stats.entries, stats.swarms, stats.expired), (0, 0, 3));
}

pub(crate) fn a_peer_leaves_with_its_token_alone(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let token = array
        .join(NOW, draw(1), seen("192.0.2.1"), &join(1, Scope::Lan))
        .token;
    let leave = |token| JoinRequest {
        event: JoinEvent::Leave,
        token,
        ..join(1, Scope::Lan)
    };
    for wrong in [None, Some(JoinToken(1))] {
        array.join(NOW, draw(2), seen("192.0.2.1"), &leave(wrong));
        assert_eq!(array.stats().entries, 1);
    }
    let answer = array.join(NOW, draw(2), seen("192.0.2.1"), &leave(token));
    assert!(answer.peers.is_empty() && answer.token.is_none());
    assert_eq!(
        (
            array.stats().entries,
            array.stats().swarms,
            array.stats().left
        ),
        (0, 0, 1)
    );
}

pub(crate) fn token_ties_a_peer_to_who_joined_first(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let home = seen("192.0.2.1");
    let token = array.join(NOW, draw(1), home, &join(1, Scope::Lan)).token;
    assert!(token.is_some());
    // Another machine, here or elsewhere, claims the id: answered, not listed.
    let elsewhere = array.join(NOW, draw(2), seen("198.51.100.1"), &join(1, Scope::Lan));
    assert_eq!(elsewhere.token, None);
    let neighbour = JoinRequest {
        reported_ip: Some([10, 9, 9, 9].into()),
        token: Some(JoinToken(5)),
        ..join(1, Scope::Lan)
    };
    assert_eq!(array.join(NOW, draw(3), home, &neighbour).token, None);
    assert_eq!(array.stats().unlisted_foreign, 2);
    let asks = || array.join(NOW, draw(4), home, &join(2, Scope::Lan)).peers[0];
    assert_eq!(asks().lan_ip, join(1, Scope::Lan).reported_ip);
    // Who has the token may move.
    let moved = JoinRequest {
        reported_ip: Some([10, 5, 5, 5].into()),
        token,
        ..join(1, Scope::Lan)
    };
    assert_eq!(array.join(NOW, draw(5), home, &moved).token, token);
    assert_eq!(asks().lan_ip, moved.reported_ip);
    // Without a token (a Windows client has none) the same addresses renew, and nothing else.
    let late = NOW + array.limits().lifetime() - 1;
    let renewed = JoinRequest {
        token: None,
        left: 0,
        ..moved.clone()
    };
    assert_eq!(array.join(late, draw(6), home, &renewed).token, None);
    array.expire(late + 1);
    assert_eq!(array.swarm(&content()).unwrap().seeds, 1);
    // After the first has expired the id is free.
    let later = late + array.limits().lifetime();
    assert!(
        array
            .join(later, draw(7), seen("198.51.100.1"), &join(1, Scope::Lan))
            .token
            .is_some()
    );
}

pub(crate) fn a_peer_that_changes_its_mode_is_met_by_others(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let home = seen("192.0.2.1");
    let mut request = join(1, Scope::Lan);
    request.token = array.join(NOW, draw(1), home, &request).token;
    let stranger = || {
        array
            .join(
                NOW,
                draw(2),
                seen("198.51.100.1"),
                &join(2, Scope::Internet),
            )
            .peers
            .len()
    };
    assert_eq!(stranger(), 0);
    request.scope = Scope::Internet;
    array.join(NOW, draw(3), home, &request);
    assert_eq!(stranger(), 1);
    request.restricted_upload = true;
    array.join(NOW, draw(3), home, &request);
    assert_eq!(stranger(), 0);
    assert_eq!(array.stats().entries, 2);
}

pub(crate) fn an_address_that_invents_peers_reaches_its_bounds(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits {
        entries_per_address_max: 500,
        entries_per_network_max: 600,
        entries_max: 700,
        ..ArrayLimits::default()
    });
    let at = |number: u32, address: &str| {
        array
            .join(
                NOW,
                draw(number.into()),
                seen(address),
                &join(number, Scope::Internet),
            )
            .token
            .is_some()
    };
    let listed = (0..1000).filter(|n| at(*n, "192.0.2.1")).count();
    assert_eq!(listed, 500);
    let beside = (2000..3000).filter(|n| at(*n, "192.0.2.2")).count();
    assert_eq!(beside, 100);
    let others = (3000..4000)
        .filter(|n| at(*n, &format!("198.51.{}.1", n % 200)))
        .count();
    assert_eq!(others, 100);
    assert_eq!(array.stats().unlisted_full, 500 + 900 + 900);
    // What leaves makes room.
    array.expire(NOW + 10_000);
    assert_eq!(array.stats().entries, 0);
    let later = NOW + 10_000;
    assert!(
        array
            .join(later, draw(1), seen("192.0.2.1"), &join(1, Scope::Internet))
            .token
            .is_some()
    );
}

pub(crate) fn strangers_hear_of_a_few_of_each_address(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits {
        peers_per_answer: 255,
        ..ArrayLimits::default()
    });
    let flood = |number: u32| {
        array.join(
            NOW,
            draw(number.into()),
            seen("203.0.113.66"),
            &join(number, Scope::Internet),
        )
    };
    for number in 0..10_000 {
        flood(number);
    }
    let neighbours = flood(5).peers.len();
    assert_eq!(neighbours, 255, "its own LAN sees all");
    for number in 0..100_u32 {
        array.join(
            NOW,
            draw(number.into()),
            seen(&format!("198.51.100.{number}")),
            &join(20_000 + number, Scope::Internet),
        );
    }
    let answer = array.join(
        NOW,
        draw(1),
        seen("192.0.2.1"),
        &join(30_000, Scope::Internet),
    );
    let flooded = numbers(&answer).iter().filter(|n| **n < 10_000).count();
    assert_eq!((answer.peers.len(), flooded), (164, 64));
}

pub(crate) fn swarms_are_bounded_in_number(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits {
        swarms_max: 10,
        ..ArrayLimits::default()
    });
    for number in 0..20_u32 {
        let mut request = join(number, Scope::Lan);
        request.content_id = format!("content {number}").parse().unwrap();
        let answer = array.join(NOW, draw(1), seen("192.0.2.1"), &request);
        assert_eq!(answer.token.is_some(), number < 10);
    }
    assert_eq!((array.stats().swarms, array.stats().entries), (10, 10));
}

pub(crate) fn peers_come_back_about_every_interval(stores: &dyn Stores) {
    let array = stores.open(ArrayLimits::default());
    let mut told = BTreeSet::new();
    for number in 0..500 {
        let answer = array.join(NOW, draw(number), seen("192.0.2.1"), &join(1, Scope::Lan));
        told.insert(answer.next_join_seconds);
    }
    assert!(
        told.iter().all(|s| (270..=330).contains(s)) && told.len() > 50,
        "{told:?}"
    );
}

pub(crate) fn same_inputs_and_seeds_lead_to_the_same_answers(stores: &dyn Stores) {
    let run = || {
        let array = stores.open(ArrayLimits::default());
        (0..500_u32)
            .map(|n| {
                array.join(
                    NOW + n,
                    draw(n.into()),
                    seen(&format!("192.0.2.{}", n % 7)),
                    &join(n % 300, Scope::Internet),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// What a peer of the model has.
#[derive(Clone, Copy, Debug)]
struct Model {
    site: u8,
    group: u8,
    scope: Scope,
    seed: bool,
    takes: bool,
    expires: Seconds,
    token: Option<JoinToken>,
}

/// The line of the table in the module's text that a peer belongs to, for one who asks.
fn class(asks: &Model, other: &Model) -> Option<u8> {
    let same_group = asks.group == other.group && asks.group != 0;
    let same_site = asks.site == other.site;
    let mutual = match (asks.scope, other.scope) {
        (Scope::Group, Scope::Lan) | (Scope::Lan, Scope::Group) => false,
        (Scope::Group, _) | (_, Scope::Group) => same_group,
        (Scope::Lan, _) | (_, Scope::Lan) => same_site,
        (Scope::Internet, Scope::Internet) => true,
    };
    if !mutual || other.takes || asks.seed && other.seed {
        return None;
    }
    Some(match () {
        () if same_site => 0,
        () if same_group => 1,
        // Sites 0 and 1 share a network; 0 to 3 a country.
        () if asks.site / 2 == other.site / 2 => 2,
        () if asks.site / 4 == other.site / 4 => 3,
        () => 4,
    })
}

fn site(number: u8) -> Seen {
    let (network, country) = (number / 2, number / 4);
    Seen {
        address: Ipv4Addr::new(100 + network, 1, number, 1).into(),
        country: ["DE", "FR"][usize::from(country)].parse().unwrap(),
    }
}

/// Against a model that looks at every peer: right scope, best class first, nobody forgotten, nobody twice.
pub(crate) fn answers_are_right_for_everybody(stores: &dyn Stores) {
    let step = (
        0_u32..40,
        0_u8..8,
        0_u8..3,
        0_usize..3,
        any::<bool>(),
        0_u8..8,
        0_u8..10,
        0_u32..60,
    );
    let config = ProptestConfig {
        // The file with the name of the first failure would lie beside the sources.
        failure_persistence: None,
        ..ProptestConfig::with_cases(stores.cases())
    };
    proptest!(config, |(steps in prop::collection::vec(step, 1..150), wanted in 1_usize..12)| {
        let array = stores.open(ArrayLimits { peers_per_answer: wanted, ..ArrayLimits::default() });
        let mut model: BTreeMap<u32, Model> = BTreeMap::new();
        let mut now = NOW;
        for (step, (number, at, g, scope, seed, takes, kind, pause)) in steps.into_iter().enumerate() {
            now += pause;
            if kind == 9 {
                array.expire(now);
                continue;
            }
            model.retain(|_, m| m.expires > now);
            let known = model.get(&number).copied();
            let mut asks = Model {
                site: at, group: g, scope: Scope::ALL[scope], seed, takes: takes == 0,
                expires: now + array.limits().lifetime(), token: known.and_then(|m| m.token),
            };
            let request = JoinRequest {
                group_id: (g != 0).then(|| group(g)),
                left: u64::from(!seed),
                restricted_upload: asks.takes,
                token: asks.token,
                event: if kind == 8 { JoinEvent::Leave } else { JoinEvent::Update },
                ..join(number, asks.scope)
            };
            let answer = array.join(now, draw(step as u64), site(at), &request);
            if kind == 8 {
                model.remove(&number);
                prop_assert!(answer.peers.is_empty());
                continue;
            }
            if asks.scope == Scope::Group && g == 0 {
                prop_assert!(answer.peers.is_empty() && answer.token.is_none());
                continue;
            }
            prop_assert!(answer.token.is_some());
            asks.token = answer.token;
            model.insert(number, asks);

            let mut classes: [BTreeSet<u32>; 5] = Default::default();
            for (other, m) in model.iter().filter(|(other, _)| **other != number) {
                if let Some(class) = class(&asks, m) {
                    classes[usize::from(class)].insert(*other);
                }
            }
            let found = numbers(&answer);
            prop_assert_eq!(found.len(), answer.peers.len(), "nobody twice");
            let mut room = wanted;
            let mut rest = answer.peers.iter();
            for (at, class) in classes.iter().enumerate() {
                let part: Vec<_> = rest.by_ref().take(class.len().min(room)).collect();
                prop_assert_eq!(part.len(), class.len().min(room), "class {} of {:?}", at, asks);
                for peer in part {
                    prop_assert!(class.contains(&number_of(peer.peer_id)), "class {} of {:?}", at, asks);
                    let scope = [Scope::Lan, Scope::Group, Scope::Internet, Scope::Internet, Scope::Internet][at];
                    prop_assert_eq!(peer.scope, scope);
                }
                room -= class.len().min(room);
            }
            prop_assert!(rest.next().is_none());
        }
        // What administrators see is counted as peers come and go, and must not drift.
        array.expire(now);
        model.retain(|_, m| m.expires > now);
        let different = |of: fn(&Model) -> u8| model.values().map(of).filter(|n| *n != 0).collect::<BTreeSet<_>>().len();
        let view = array.swarm(&content());
        prop_assert_eq!(view.clone(), array.largest_swarms(3).into_iter().next());
        prop_assert_eq!(view, (!model.is_empty()).then(|| SwarmView {
            content_id: content(),
            peers: model.len(),
            seeds: model.values().filter(|m| m.seed).count(),
            groups: different(|m| m.group),
            sites: different(|m| m.site + 1),
        }));
        let groups = array.largest_groups(100);
        prop_assert_eq!(groups.iter().map(|g| g.entries).sum::<usize>(), model.values().filter(|m| m.group != 0).count());
        prop_assert_eq!(groups.iter().map(|g| g.swarms).sum::<usize>(), different(|m| m.group));
        array.expire(now + 100_000);
        prop_assert_eq!(array.stats().entries, 0);
        prop_assert_eq!(array.stats().swarms, 0);
        prop_assert!(array.is_bare());
    });
}
