//! A fleet of 100 000 peers in 1000 swarms of very different size, in virtual time: does everybody hear of useful peers, do
//! swarms hold together, is anybody asked by everybody.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "a fleet of 100 000 is counted in any type"
)]

use dosvc_cloud_protocol::{CountryCode, JoinAnswer, JoinEvent, JoinRequest, JoinToken, Scope};
use dosvc_control_plane::array::{Array, ArrayLimits, Draw, Seen};
use fastrand::Rng;
use std::{collections::HashMap, net::Ipv4Addr};

const PEERS: usize = 100_000;
const SWARMS: usize = 1000;
/// Peers of a site.
const SITE_OF: usize = 25;

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
fn fleet(random: &mut Rng) -> Vec<Peer> {
    let mut sizes = vec![0; SWARMS];
    let mut peers = Vec::with_capacity(PEERS);
    for number in 0..PEERS {
        let drawn = f64::from(random.u32(..10_000)) / 10_000.0;
        let swarm = if number < SWARMS {
            number
        } else {
            (SWARMS as f64 * drawn.powi(3)) as usize
        };
        let size: &mut usize = &mut sizes[swarm];
        let seed = *size == 0 || random.u8(..20) == 0;
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

/// What a peer sends, and where from.
fn asks(number: usize, peer: &Peer) -> (Seen, JoinRequest) {
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
    (seen, request)
}

fn join(array: &Array, now: u32, number: usize, peer: &Peer, random: &mut Rng) -> JoinAnswer {
    let (seen, request) = asks(number, peer);
    let draw = Draw {
        token: random.u64(..),
        seed: random.u64(..),
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
    let mut random = Rng::with_seed(2026);
    let mut peers = fleet(&mut random);
    // All come within ten minutes, in any order, and come back as they are told.
    let mut due: Vec<(u32, usize)> = (0..PEERS).map(|n| (random.u32(..600), n)).collect();
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

/// Parts of a content in the wave below.
const PARTS: u32 = 60;
/// Seconds of one step, in which a peer gets a part, and gives four.
const STEP: u32 = 10;
const GIVES: u8 = 4;

/// A peer of the wave.
struct Downloader {
    peer: Peer,
    comes: u32,
    /// When it joins next; never, once it has gone.
    due: Option<u32>,
    /// When it has gone, and whether it said so.
    gone: Option<(u32, bool)>,
    parts: u64,
    knows: Vec<u32>,
    joined: u32,
}

const EVERYTHING: u64 = (1 << PARTS) - 1;

/// What the wave counts.
#[derive(Default)]
struct Wave {
    from_peers: u64,
    from_origin: u64,
    /// Steps of somebody who has been here for a while and lacks what others in its place have.
    steps: u64,
    /// Those of them in which it knew nobody who had it.
    helpless: u64,
    /// The most that ask one peer in one step.
    crowd: u32,
}

/// A content appears: each swarm has one seed, everybody else has nothing and comes within ten minutes. Some leave when they
/// have everything, and some just vanish. The origin gives a part to whoever knows nobody that can.
#[test]
fn a_wave_of_downloads_is_carried_by_the_peers_themselves() {
    let array = Array::new(ArrayLimits::default());
    let mut random = Rng::with_seed(7);
    let mut seeded = [false; SWARMS];
    let mut all: Vec<Downloader> = fleet(&mut random)
        .into_iter()
        .map(|mut peer| {
            peer.seed = !std::mem::replace(&mut seeded[peer.swarm], true);
            let comes = if peer.seed { 0 } else { random.u32(..600) };
            Downloader {
                comes,
                due: Some(comes),
                gone: None,
                parts: if peer.seed { EVERYTHING } else { 0 },
                knows: Vec::new(),
                joined: 0,
                peer,
            }
        })
        .collect();
    // Whom everybody may meet: its swarm, or its site.
    let mut numbers = HashMap::new();
    let mut places = Vec::with_capacity(PEERS);
    for downloader in &all {
        let next = numbers.len();
        let peer = &downloader.peer;
        let site = (scope(peer.swarm) == Scope::Lan).then_some(peer.site);
        places.push(*numbers.entry((peer.swarm, site)).or_insert(next));
    }
    let mut wave = Wave::default();
    let mut now = 0;
    while all
        .iter()
        .any(|d| d.parts != EVERYTHING && d.gone.is_none())
    {
        assert!(now < 4000, "everybody is done in an hour");
        for number in 0..all.len() {
            if all[number].due.is_some_and(|due| due <= now) {
                call(&array, now, number, &mut all, &mut random);
            }
        }
        step(now, &places, &mut all, &mut random, &mut wave);
        now += STEP;
        if now % 30 == 0 {
            array.expire(now);
        }
    }
    let offload = wave.from_peers as f64 / (wave.from_peers + wave.from_origin) as f64;
    println!(
        "{now} s; {:.1} % from peers; at most {} asked one peer at once; helpless in {} of {} steps",
        100.0 * offload,
        wave.crowd,
        wave.helpless,
        wave.steps
    );
    assert!(offload > 0.9, "{offload}");
    // Who happens to know only those that have just gone, or that lack the same last parts, hears of others soon.
    assert!(wave.helpless * 1000 <= wave.steps, "{}", wave.helpless);
    let wanted = array.limits().peers_per_answer as u32;
    assert!(
        wave.crowd <= wanted,
        "also where ten thousand want what one seed has"
    );
}

/// A join, an update or a leave, and what is heard.
fn call(array: &Array, now: u32, number: usize, all: &mut [Downloader], random: &mut Rng) {
    let me = &mut all[number];
    let done = me.parts == EVERYTHING;
    let was_seed = std::mem::replace(&mut me.peer.seed, done);
    if done && !was_seed && random.u8(..10) < 3 {
        // Two of three say so.
        let says = random.u8(..3) > 0;
        me.gone = Some((now, says));
        me.due = None;
        if says {
            leave(array, now, number, &me.peer);
        }
        return;
    }
    let answer = join(array, now, number, &me.peer, random);
    me.peer.token = answer.token;
    me.due = Some(now + answer.next_join_seconds);
    me.joined += 1;
    let number_of = |id: &[u8]| u32::from_be_bytes(id.try_into().unwrap());
    me.knows = answer
        .peers
        .iter()
        .map(|p| number_of(&p.peer_id.as_bytes()[..4]))
        .collect();
    let lifetime = array.limits().lifetime();
    for other in &all[number].knows {
        if let Some((at, said)) = all[*other as usize].gone {
            assert!(!said, "whoever has left is named to nobody");
            assert!(
                now < at + lifetime,
                "nor, after a while, whoever has vanished"
            );
        }
    }
}

fn leave(array: &Array, now: u32, number: usize, peer: &Peer) {
    let (seen, mut request) = asks(number, peer);
    request.event = JoinEvent::Leave;
    array.join(now, Draw { token: 0, seed: 0 }, seen, &request);
}

/// Everybody who lacks something asks somebody who has it.
fn step(now: u32, places: &[usize], all: &mut [Downloader], random: &mut Rng, wave: &mut Wave) {
    let mut there = vec![0_u64; places.len()];
    for (place, downloader) in places.iter().zip(&*all) {
        if downloader.gone.is_none() && downloader.joined > 0 {
            there[*place] |= downloader.parts;
        }
    }
    let mut asked = vec![0_u32; all.len()];
    let mut given = vec![0_u8; all.len()];
    let begin = random.usize(..all.len());
    for at in 0..all.len() {
        let number = (begin + at) % all.len();
        let me = &all[number];
        if me.comes > now || me.parts == EVERYTHING {
            continue;
        }
        let useful: Vec<u32> = me
            .knows
            .iter()
            .copied()
            .filter(|o| all[*o as usize].gone.is_none() && all[*o as usize].parts & !me.parts != 0)
            .collect();
        if me.joined > 1 && there[places[number]] & !me.parts != 0 {
            wave.steps += 1;
            wave.helpless += u64::from(useful.is_empty());
        }
        let mut missing = !me.parts & EVERYTHING;
        let mut from_peer = false;
        if !useful.is_empty() {
            let other = useful[random.usize(..useful.len())] as usize;
            asked[other] += 1;
            wave.crowd = wave.crowd.max(asked[other]);
            if given[other] < GIVES {
                given[other] += 1;
                missing &= all[other].parts;
                from_peer = true;
            }
        }
        // Busy peers are asked again; the origin helps where nobody can.
        if from_peer || useful.is_empty() {
            let mut nth = random.usize(..missing.count_ones() as usize);
            while nth > 0 {
                missing &= missing - 1;
                nth -= 1;
            }
            all[number].parts |= missing & missing.wrapping_neg();
            *if from_peer {
                &mut wave.from_peers
            } else {
                &mut wave.from_origin
            } += 1;
        }
    }
}
