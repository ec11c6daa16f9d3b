//! What a client must not do, whatever it is told.

use super::*;
use crate::teredo::Datagram;
use proptest::prelude::*;
use serde_json::Value;

const OWN: &str = "203.0.113.10:40000";
const PEER: &str = "203.0.113.20:50001";

fn endpoint(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn server() -> SocketAddrV4 {
    SocketAddrV4::new(PRIMARY, PORT)
}

/// A client that waits for its first answer, with the nonce that the vectors have.
fn waiting(secret: Option<Secret>, now: Instant) -> Client {
    let servers = [ServerAddresses {
        primary: PRIMARY,
        secondary: None,
    }];
    let networks = [Network {
        address: Ipv4Addr::new(192, 168, 10, 2),
        prefix_len: 24,
    }];
    let config = ClientConfig {
        secret,
        ..config(&servers, &networks, 3545)
    };
    let mut client = Client::new(config, [1; 32], now);
    client.phase.asked().unwrap().nonce = [1, 2, 3, 4, 5, 6, 7, 8];
    client
}

/// A client that has an address behind the mapping `OWN`.
fn client(now: Instant) -> Client {
    let mut client = waiting(None, now);
    let nonce = client.phase.asked().unwrap().nonce;
    let said = RouterAdvertisement {
        destination: SOLICITING,
        server: PRIMARY,
        mtu: 1280,
    };
    let bytes = said.encode(Some(nonce), endpoint(OWN), None);
    client
        .handle_datagram(now, LocalPort::Service, server(), &bytes)
        .unwrap();
    assert!(client.qualified().is_some());
    while client.poll_transmit().is_some() {}
    client
}

fn address(client: &Client) -> Ipv6Addr {
    client.qualified().unwrap().address.to_ipv6()
}

fn teredo(mapped: &str) -> Ipv6Addr {
    TeredoAddress::new(PRIMARY, endpoint(mapped), 0x1473).to_ipv6()
}

/// As a server passes it on.
fn forwarded(origin: &str, bytes: &[u8]) -> Vec<u8> {
    [
        &crate::teredo::packet::origin_bytes(endpoint(origin))[..],
        bytes,
    ]
    .concat()
}

fn hear(
    client: &mut Client,
    now: Instant,
    from: SocketAddrV4,
    bytes: &[u8],
) -> Result<bool, Dropped> {
    let heard = client.handle_datagram(now, LocalPort::Service, from, bytes);
    heard.map(|packet| packet.is_some())
}

fn ipv6(between: (Ipv6Addr, Ipv6Addr), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let length = u16::try_from(payload.len()).unwrap();
    crate::teredo::packet::encode_ipv6_header(&mut packet, between, 17, 64, length);
    packet.extend_from_slice(payload);
    packet
}

fn transmits(client: &mut Client) -> Vec<Transmit> {
    std::iter::from_fn(|| client.poll_transmit()).collect()
}

#[test]
fn vectors_that_a_client_must_drop_are_dropped() {
    let all: Value =
        serde_json::from_str(include_str!("../../../../tests/teredo-vectors.json")).unwrap();
    let secret = Secret::new(b"client-1", b"0123456789abcdef");
    let now = Instant::now();
    let mut count = 0;
    for vector in all["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let is_advertisement = name.starts_with("ra-");
        let dropped = vector["kind"] == "drop" && vector["expect"]["layer"] == "client";
        if !dropped && !is_advertisement {
            continue;
        }
        let hex = vector["hex"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let [from, to] = ["src", "dst"].map(|end| endpoint(vector["ipv4"][end].as_str().unwrap()));
        let with_secret = name.contains("hmac");
        let mut client = match is_advertisement {
            true => waiting(secret.clone().filter(|_| with_secret), now),
            false => client(now),
        };
        // The vectors are for fixed addresses; ours has random flags.
        let mut bytes = bytes;
        if let Some(own) = client.qualified() {
            for known in [
                "2001:0:c633:640a:2c5a:63bf:34ff:8ef5",
                "2001:0:c633:640a:1473:3cae:34ff:8eeb",
            ] {
                let known = known.parse::<Ipv6Addr>().unwrap().octets();
                let at = if name.starts_with("alternate") {
                    24
                } else {
                    bytes.len()
                };
                if bytes.get(24..40).is_some_and(|octets| octets == known) || at == 24 {
                    bytes[24..40].copy_from_slice(&own.address.to_ipv6().octets());
                }
            }
        }
        if to.ip().is_multicast() {
            assert!(
                client.handle_multicast(now, from, &bytes).is_err(),
                "{name}"
            );
        } else {
            let accepted = hear(&mut client, now, from, &bytes).is_ok();
            // One says that the key is no longer good.
            let good = vector["kind"] == "valid" && name != "ra-confirmation-1";
            assert_eq!(accepted, good, "{name}: {:?}", client.stats());
            assert_eq!(
                client.qualified().is_some(),
                good || !is_advertisement,
                "{name}"
            );
        }
        count += 1;
    }
    assert_eq!(count, 18);
}

#[test]
fn an_advertisement_must_answer_the_last_question_of_ours() {
    let now = Instant::now();
    let said = RouterAdvertisement {
        destination: SOLICITING,
        server: PRIMARY,
        mtu: 1280,
    };
    let nonce = Some([1, 2, 3, 4, 5, 6, 7, 8]);
    for (from, bytes) in [
        (server(), said.encode(Some([9; 8]), endpoint(OWN), None)),
        (server(), said.encode(None, endpoint(OWN), None)),
        (
            SocketAddrV4::new(PRIMARY, 3545),
            said.encode(nonce, endpoint(OWN), None),
        ),
        (
            SocketAddrV4::new(SECONDARY, PORT),
            said.encode(nonce, endpoint(OWN), None),
        ),
        (
            server(),
            said.encode(nonce, endpoint("192.168.1.1:40000"), None),
        ),
        (
            server(),
            said.encode(nonce, endpoint("203.0.113.10:0"), None),
        ),
        (
            server(),
            RouterAdvertisement {
                server: SECONDARY,
                ..said
            }
            .encode(nonce, endpoint(OWN), None),
        ),
    ] {
        let mut client = waiting(None, now);
        assert!(hear(&mut client, now, from, &bytes).is_err(), "{from}");
        assert_eq!(client.qualified(), None);
    }
}

#[test]
fn nothing_is_ever_sent_to_an_address_that_points_inward() {
    let now = Instant::now();
    for inward in [
        "10.0.0.1:7680",
        "127.0.0.1:7680",
        "192.168.10.1:53",
        "192.168.10.2:3545",
        "172.16.0.1:1",
        "169.254.1.1:1",
        "224.0.0.253:3544",
        "255.255.255.255:9",
        "0.0.0.0:9",
        "192.88.99.1:9",
        "100.64.0.1:9",
        "203.0.113.20:0",
        OWN,
        "198.51.100.10:3544",
    ] {
        let mut client = client(now);
        let (own, liar) = (address(&client), teredo(inward));
        let call = bubble((liar, own), 255, &[Trailer::Nonce([1; 4])]);
        for (from, bytes) in [
            (server(), forwarded(inward, &call)),
            (server(), forwarded(PEER, &call)),
            (endpoint(inward), call.clone()),
            (endpoint(PEER), call.clone()),
        ] {
            assert!(
                hear(&mut client, now, from, &bytes).is_err(),
                "{inward} from {from}"
            );
        }
        let cookie = bubble(("fe80::1".parse().unwrap(), own), 0, &[]);
        assert!(
            hear(&mut client, now, server(), &forwarded(inward, &cookie)).is_err(),
            "{inward}"
        );
        assert_eq!(
            client.connect(now, liar),
            Sent::Refused(Refusal::Destination),
            "{inward}"
        );
        assert_eq!(transmits(&mut client), [], "{inward}");
    }
}

#[test]
fn a_peers_server_must_not_be_inside_either() {
    let now = Instant::now();
    let mut client = client(now);
    for inside in ["192.168.10.1", "127.0.0.1", "192.168.10.2", "224.0.0.1"] {
        let liar = TeredoAddress::new(inside.parse().unwrap(), endpoint(PEER), 0).to_ipv6();
        assert_eq!(
            client.connect(now, liar),
            Sent::Refused(Refusal::Destination)
        );
    }
    assert_eq!(transmits(&mut client), []);
}

#[test]
fn who_is_no_peer_is_not_heard() {
    let now = Instant::now();
    let mut client = client(now);
    let (own, peer) = (address(&client), teredo(PEER));
    let say = |from, to| {
        let mut packet = Vec::new();
        crate::teredo::packet::encode_ipv6_header(&mut packet, (from, to), 17, 64, 0);
        packet
    };
    let other: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    for (from, bytes, why) in [
        (PEER, say(other, own), Dropped::NotTeredo),
        (PEER, say(link_local, own), Dropped::NotTeredo),
        (PEER, say(peer, other), Dropped::NotForUs),
        (PEER, forwarded(PEER, &say(peer, own)), Dropped::Malformed),
        ("203.0.113.20:50002", say(peer, own), Dropped::Spoofed),
        ("203.0.113.21:50001", say(peer, own), Dropped::Spoofed),
        (
            "198.51.100.10:3544",
            forwarded(PEER, &say(peer, own)),
            Dropped::Forwarded,
        ),
    ] {
        assert_eq!(
            hear(&mut client, now, endpoint(from), &bytes),
            Err(why),
            "{from}"
        );
    }
    assert_eq!(
        hear(&mut client, now, endpoint(PEER), &say(peer, own)),
        Ok(true)
    );
}

#[test]
fn a_nonce_is_believed_once_and_in_bubbles_alone() {
    let now = Instant::now();
    let mut client = client(now);
    let (own, peer) = (address(&client), teredo(PEER));
    client.connect(now, peer);
    let nonce = transmits(&mut client)
        .iter()
        .find_map(|transmit| Datagram::parse(&transmit.bytes).unwrap().trailers.nonce())
        .unwrap();
    let elsewhere = endpoint("203.0.113.20:61000");
    let wrong = bubble(
        (peer, own),
        255,
        &[Trailer::Nonce([nonce[0] ^ 1, nonce[1], nonce[2], nonce[3]])],
    );
    assert_eq!(
        hear(&mut client, now, elsewhere, &wrong),
        Err(Dropped::Spoofed)
    );
    let mut data = Vec::new();
    crate::teredo::packet::encode_ipv6_header(&mut data, (peer, own), 17, 64, 0);
    Trailer::Nonce(nonce).encode(&mut data);
    assert_eq!(
        hear(&mut client, now, elsewhere, &data),
        Err(Dropped::Spoofed)
    );
    let right = bubble((peer, own), 255, &[Trailer::Nonce(nonce)]);
    assert_eq!(hear(&mut client, now, elsewhere, &right), Ok(false));
    let replayed = endpoint("203.0.113.66:61000");
    assert_eq!(
        hear(&mut client, now, replayed, &right),
        Err(Dropped::Spoofed)
    );
}

#[test]
fn an_invented_address_is_believed_once_and_from_its_peer_alone() {
    let mut now = Instant::now();
    let mut client = client(now);
    let (peer, other) = (teredo(PEER), teredo("203.0.113.21:4000"));
    client.connect(now, peer);
    client.connect(now, other);
    now += BUBBLE_INTERVAL;
    client.handle_timeout(now);
    let sources = transmits(&mut client);
    let invented = sources.iter().find_map(|transmit| {
        let packet = Datagram::parse(&transmit.bytes).unwrap().packet;
        let from = packet.source();
        (from.is_unicast_link_local() && packet.destination() == peer).then_some(from)
    });
    let invented = invented.expect("the second try comes from an invented address");
    let elsewhere = endpoint("203.0.113.20:61000");
    for (source, destination) in [(other, invented), (peer, "fe80::1".parse().unwrap())] {
        let lie = bubble((source, destination), 255, &[]);
        assert_eq!(
            hear(&mut client, now, elsewhere, &lie),
            Err(Dropped::NotForUs)
        );
    }
    let answer = bubble((peer, invented), 255, &[]);
    assert_eq!(hear(&mut client, now, elsewhere, &answer), Ok(false));
    assert_eq!(
        client.connect(now, peer),
        Sent::Now(Path::from_service(elsewhere))
    );
    assert_eq!(
        hear(&mut client, now, endpoint("203.0.113.66:1"), &answer),
        Err(Dropped::NotForUs)
    );
}

#[test]
fn a_flood_of_bubbles_makes_us_send_little_and_keep_little() {
    let now = Instant::now();
    let mut client = client(now);
    let own = address(&client);
    let friend = teredo(PEER);
    let mut hello = Vec::new();
    crate::teredo::packet::encode_ipv6_header(&mut hello, (friend, own), 17, 64, 0);
    hear(&mut client, now, endpoint(PEER), &hello).unwrap();
    client.connect(now, friend);
    for n in 0..20_000_u32 {
        let mapped = format!("203.{}.{}.{}:4000", 1 + n / 65_536, n / 256 % 256, n % 256);
        let bytes = bubble((teredo(&mapped), own), 255, &[Trailer::Nonce([1; 4])]);
        let _limit = hear(&mut client, now, server(), &forwarded(&mapped, &bytes));
        let _full = hear(&mut client, now, endpoint(&mapped), &bytes);
    }
    let sent = transmits(&mut client);
    // Two for each answer, and to those who called at once, one more.
    assert!(
        sent.len() <= 3 * ANSWERS_PER_SECOND_MAX as usize,
        "{}",
        sent.len()
    );
    assert!(sent.iter().all(|transmit| transmit.bytes.len() <= 46));
    assert_eq!(client.peers(now).count(), PEERS_MAX);
    // Those whom we use stay.
    assert!(
        client
            .peers(now)
            .any(|peer| peer.address == friend && peer.path.is_some())
    );
}

#[test]
fn a_solicitation_on_a_known_path_is_answered_there() {
    let now = Instant::now();
    let mut client = client(now);
    let (own, peer) = (address(&client), teredo(PEER));
    let ask = bubble(
        (peer, own),
        255,
        &[Trailer::NeighborDiscovery(Discovery::Solicitation)],
    );
    assert_eq!(hear(&mut client, now, endpoint(PEER), &ask), Ok(false));
    let [answer] = &transmits(&mut client)[..] else {
        panic!("one answer")
    };
    assert_eq!(answer.path.to, endpoint(PEER));
    let said = Datagram::parse(&answer.bytes).unwrap().trailers.discovery();
    assert_eq!(said, Some(Discovery::Advertisement));
}

#[test]
fn miredos_cookie_is_answered_at_the_place_that_the_server_names() {
    let now = Instant::now();
    let mut client = client(now);
    let own = address(&client);
    let cookie: Ipv6Addr = "fe80::e86b:7dd1:ea59:30c8".parse().unwrap();
    let call = bubble((cookie, own), 0, &[]);
    assert_eq!(
        hear(&mut client, now, server(), &forwarded(PEER, &call)),
        Ok(false)
    );
    let [answer] = &transmits(&mut client)[..] else {
        panic!("one answer")
    };
    assert_eq!(answer.path.to, endpoint(PEER));
    let said = Datagram::parse(&answer.bytes).unwrap().packet;
    assert_eq!((said.source(), said.destination()), (own, cookie));
    assert!(said.is_bubble());
    assert_eq!(client.peers(now).count(), 0);
}

/// miredo behind a symmetric NAT: its address names the place that its server sees, everybody else sees another one.
#[test]
fn miredo_behind_a_symmetric_nat_is_taken_where_it_shows_itself() {
    let now = Instant::now();
    let mut client = client(now);
    let (own, peer) = (address(&client), teredo(PEER));
    let elsewhere = endpoint("203.0.113.20:61234");
    // It answers a bubble that comes back to where it sent its own from, and believes who sends that.
    let cookie: Ipv6Addr = "fe80::e86b:7dd1:ea59:30c8".parse().unwrap();
    let call = bubble((cookie, own), 0, &[]);
    assert_eq!(hear(&mut client, now, elsewhere, &call), Ok(false));
    let [answer] = &transmits(&mut client)[..] else {
        panic!("one answer")
    };
    assert_eq!(answer.path, Path::from_service(elsewhere));
    let said = Datagram::parse(&answer.bytes).unwrap().packet;
    assert_eq!((said.source(), said.destination()), (own, cookie));
    // Its data comes from a place that its address does not name: who has the address is asked through the server.
    let data = ipv6((peer, own), b"hello");
    assert_eq!(
        hear(&mut client, now, elsewhere, &data),
        Err(Dropped::Spoofed)
    );
    let [question] = &transmits(&mut client)[..] else {
        panic!("one question")
    };
    assert_eq!(question.path, Path::from_service(server()));
    let asked = Datagram::parse(&question.bytes).unwrap().packet;
    assert!(asked.is_bubble() && asked.source().is_unicast_link_local());
    assert_eq!(asked.destination(), peer);
    // Nothing more until it shows itself, which only the owner of the address can.
    assert_eq!(
        hear(&mut client, now, elsewhere, &data),
        Err(Dropped::Spoofed)
    );
    assert_eq!(transmits(&mut client), []);
    let shown = bubble((peer, asked.source()), 0, &[]);
    assert_eq!(hear(&mut client, now, elsewhere, &shown), Ok(false));
    assert_eq!(hear(&mut client, now, elsewhere, &data), Ok(true));
    assert_eq!(
        client.connect(now, peer),
        Sent::Now(Path::from_service(elsewhere))
    );
}

#[test]
fn who_lies_about_its_address_makes_us_ask_at_a_bounded_rate_and_no_larger_than_it_sent() {
    let now = Instant::now();
    let mut client = client(now);
    let own = address(&client);
    let (mut heard, mut said, mut count) = (0, 0, 0);
    for n in 0..5000_u32 {
        let victim = SocketAddrV4::new(Ipv4Addr::from(0x0801_0101 + n), 5000);
        let victim = TeredoAddress::new(PRIMARY, victim, 0).to_ipv6();
        let lie = ipv6((victim, own), b"");
        heard += lie.len();
        assert!(hear(&mut client, now, endpoint(PEER), &lie).is_err());
        for transmit in transmits(&mut client) {
            assert_eq!(transmit.path.to, server());
            said += transmit.bytes.len();
            count += 1;
        }
    }
    assert!(said <= heard, "{said} bytes for {heard}");
    assert!((1..=UNASKED_PER_SECOND_MAX).contains(&count), "{count}");
    assert!(client.peers(now).count() <= PEERS_MAX);
    // Who comes by its server is heard all the same.
    let call = bubble((teredo(PEER), own), 255, &[]);
    assert_eq!(
        hear(&mut client, now, server(), &forwarded(PEER, &call)),
        Ok(false)
    );
    assert!(!transmits(&mut client).is_empty());
}

#[test]
fn only_our_own_packets_of_the_tunnels_size_are_sent() {
    let now = Instant::now();
    let mut client = client(now);
    let (own, peer) = (address(&client), teredo(PEER));
    let packet = |from, to, length| ipv6((from, to), &vec![0; length]);
    let ours = Sent::Refused(Refusal::NotOurs);
    assert_eq!(client.send(now, &packet(peer, peer, 8)), ours);
    assert_eq!(client.send(now, &packet(own, peer, 1241)), ours);
    assert_eq!(client.send(now, &packet(own, peer, 8)[..47]), ours);
    let native = "2001:db8::1".parse().unwrap();
    assert_eq!(
        client.send(now, &packet(own, native, 8)),
        Sent::Refused(Refusal::Destination)
    );
    assert_eq!(client.send(now, &packet(own, peer, 1240)), Sent::Queued);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever comes from anywhere: no panic, nothing goes inward, and no timer spins.
    #[test]
    fn anything_may_come(
        pieces in prop::collection::vec((0_u8..6, any::<[u8; 4]>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 1..40),
    ) {
        let mut now = Instant::now();
        let mut client = client(now);
        let own = address(&client);
        for (kind, ip, port, tail) in pieces {
            let from = SocketAddrV4::new(ip.into(), port);
            let peer = TeredoAddress::new(PRIMARY, from, 0).to_ipv6();
            let call = [bubble((peer, own), 255, &[]), tail.clone()].concat();
            let through = [&crate::teredo::packet::origin_bytes(from)[..], &call].concat();
            let _ = match kind {
                0 => client.handle_datagram(now, LocalPort::Service, from, &tail),
                1 => client.handle_datagram(now, LocalPort::Service, server(), &tail),
                2 => client.handle_datagram(now, LocalPort::Service, from, &call),
                3 => client.handle_datagram(now, LocalPort::Service, server(), &through),
                4 => client.handle_datagram(now, LocalPort::Extra(port), from, &call),
                _ => { client.connect(now, peer); Ok(None) }
            };
            now += Duration::from_millis(u64::from(port) % 3000);
            if client.poll_timeout().is_some_and(|at| at <= now) {
                client.handle_timeout(now);
                prop_assert!(client.poll_timeout().is_none_or(|at| at > now));
            }
            for transmit in transmits(&mut client) {
                let to = transmit.path.to;
                let discovery = *to.ip() == DISCOVERY_GROUP && transmit.ttl == Some(1);
                prop_assert!(is_global(*to.ip()) || discovery, "{to}");
                prop_assert!(transmit.bytes.len() <= 100);
            }
        }
    }
}
