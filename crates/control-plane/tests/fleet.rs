//! A fleet of 100 000 peers in 1000 swarms of very different size, in virtual time: does everybody hear of useful peers, do
//! swarms hold together, is anybody asked by everybody.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "a fleet of 100 000 is counted in any type"
)]

use dosvc_cloud_protocol::{CountryCode, JoinAnswer, JoinRequest, JoinToken, Scope};
use dosvc_control_plane::array::{Array, ArrayLimits, Draw, Seen};
use std::{collections::HashMap, net::Ipv4Addr};

const PEERS: usize = 100_000;
const SWARMS: usize = 1000;
/// Peers of a site.
const SITE_OF: usize = 25;

/// SplitMix64: the same fleet in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

struct Peer {
    swarm: usize,
    /// The site, counted within the swarm.
    site: usize,
    seed: bool,
    token: Option<JoinToken>,
}

/// Modes take turns, so that each has small and large swarms.
fn scope(swarm: usize) -> Scope {
    Scope::ALL[swarm % 3]
}

/// Swarm 0 gets a tenth of all, the last ones about thirty each. Every site has 25 peers; every swarm at least one seed.
fn fleet(random: &mut Random) -> Vec<Peer> {
    let mut sizes = vec![0; SWARMS];
    let mut peers = Vec::with_capacity(PEERS);
    for number in 0..PEERS {
        let drawn = random.below(10_000) as f64 / 10_000.0;
        let swarm = if number < SWARMS {
            number
        } else {
            (SWARMS as f64 * drawn.powi(3)) as usize
        };
        let size: &mut usize = &mut sizes[swarm];
        let seed = *size == 0 || random.below(20) == 0;
        peers.push(Peer {
            swarm,
            site: *size / SITE_OF,
            seed,
            token: None,
        });
        *size += 1;
    }
    peers
}

fn join(array: &Array, now: u32, number: usize, peer: &Peer, random: &mut Random) -> JoinAnswer {
    let mut id = [3; 20];
    id[..4].copy_from_slice(&(number as u32).to_be_bytes());
    let content = format!("content {}", peer.swarm).parse().unwrap();
    let mut request = JoinRequest::new(content, id.into(), scope(peer.swarm));
    request.left = u64::from(!peer.seed);
    request.group_id = Some([1; 32].into());
    request.token = peer.token;
    // A network of sixteen sites, a country of sixteen networks.
    let address =
        Ipv4Addr::from(0x1000_0000 + ((peer.site as u32 / 16) << 16) + peer.site as u32 % 16);
    let country = [b'A' + (peer.site / 256 % 26) as u8, b'X'];
    let seen = Seen {
        address: address.into(),
        country: std::str::from_utf8(&country)
            .unwrap()
            .parse::<CountryCode>()
            .unwrap(),
    };
    let draw = Draw {
        token: random.next(),
        seed: random.next(),
    };
    array.join(now, draw, seen, &request)
}

fn find(parents: &mut [usize], mut at: usize) -> usize {
    while parents[at] != at {
        parents[at] = parents[parents[at]];
        at = parents[at];
    }
    at
}

#[test]
fn everybody_hears_of_useful_peers_and_nobody_is_a_hot_spot() {
    let array = Array::new(ArrayLimits::default());
    let wanted = array.limits().peers_per_answer;
    let mut random = Random(2026);
    let mut peers = fleet(&mut random);
    // All come within ten minutes, in any order, and come back as they are told.
    let mut due: Vec<(u32, usize)> = (0..PEERS).map(|n| (random.below(600) as u32, n)).collect();
    let mut last: Vec<Vec<usize>> = vec![Vec::new(); PEERS];
    for round in 0..3 {
        due.sort_unstable();
        for (at, number) in &mut due {
            let answer = join(&array, *at, *number, &peers[*number], &mut random);
            assert!(answer.token.is_some(), "listed in round {round}");
            peers[*number].token = answer.token;
            *at += answer.next_join_seconds;
            let number_of = |id: &[u8]| u32::from_be_bytes(id.try_into().unwrap()) as usize;
            last[*number] = answer
                .peers
                .iter()
                .map(|p| number_of(&p.peer_id.as_bytes()[..4]))
                .collect();
        }
        array.expire(due[0].0);
    }
    assert_eq!(array.stats().entries, PEERS as u64);

    let mut sizes: HashMap<(usize, Option<usize>), usize> = HashMap::new();
    let place = |peer: &Peer| {
        (
            peer.swarm,
            (scope(peer.swarm) == Scope::Lan).then_some(peer.site),
        )
    };
    for peer in &peers {
        *sizes.entry(place(peer)).or_default() += 1;
    }
    let mut named = vec![0_usize; PEERS];
    let mut parents: Vec<usize> = (0..PEERS).collect();
    for (number, others) in last.iter().enumerate() {
        let peer = &peers[number];
        if !peer.seed {
            let there = sizes[&place(peer)] - 1;
            assert_eq!(others.len(), there.min(wanted), "peer {number} of {there}");
        }
        for other in others {
            assert_eq!(
                place(&peers[*other]),
                place(peer),
                "of its own swarm, and within its mode"
            );
            assert!(
                !(peer.seed && peers[*other].seed),
                "seeds have nothing for each other"
            );
            named[*other] += 1;
            let (a, b) = (find(&mut parents, number), find(&mut parents, *other));
            parents[a] = b;
        }
    }
    // What was told holds every swarm together, and every LAN of those that end there.
    let mut roots: HashMap<_, usize> = HashMap::new();
    for (number, peer) in peers.iter().enumerate() {
        if sizes[&place(peer)] > 1 && !(last[number].is_empty() && named[number] == 0) {
            let root = find(&mut parents, number);
            assert_eq!(
                *roots.entry(place(peer)).or_insert(root),
                root,
                "a part of swarm {} is alone",
                peer.swarm
            );
        }
    }
    // Answers of 50 name everybody about 50 times: nobody twice as often, seeds no more than others.
    let most = named.iter().max().unwrap();
    assert!(*most <= 2 * wanted, "somebody was named {most} times");
    let mean = |seeds: bool| {
        let of: Vec<usize> = (0..PEERS)
            .filter(|n| peers[*n].seed == seeds)
            .map(|n| named[n])
            .collect();
        of.iter().sum::<usize>() as f64 / of.len() as f64
    };
    println!(
        "named on average: seeds {:.1} times, others {:.1}; at most {most}",
        mean(true),
        mean(false)
    );
    assert!(
        mean(true) <= mean(false),
        "seeds are drawn like others, and not by seeds"
    );
}
